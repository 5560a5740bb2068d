"""Our files in the hands of ComfyUI, sd-scripts and musubi-tuner: which keys their own code reads.

python -m benchmarks.loaders.check --peers folder
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.loaders.files import CONVERTED, DENOISERS, EVERY, LoraFile, write_files
from benchmarks.trainer.trainers import TORCH, install
from rich.console import Console
from rich.table import Table
from tests.trainer.families import recipe_of

ROOT = Path(__file__).parents[2]
READERS = Path(__file__).parent / "readers"
# Random numbers of 0.1, four of them added: what rounding may leave.
_TOLERANCE = 1e-5
_SHOWN_LINES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """A tool that reads LoRA files."""

    name: str
    """Its name, and its checkout's folder."""

    reader: str
    """The program in `readers/` that calls its code."""

    recipes: tuple[str, ...]
    """Recipes whose models it has."""

    original_only: frozenset[str] = frozenset()
    """Recipes whose LoRA it reads in the model's original layout alone, from a converted file."""

    packages: tuple[str, ...]
    """What its loading code imports, beside torch."""

    python: str
    """Name of its environment."""


PEERS = (
    Peer(
        name="ComfyUI",
        reader="comfyui.py",
        recipes=("sd15", "sdxl", "flux", "wan"),
        packages=(
            *("torchaudio", "torchsde", "einops", "scipy", "tqdm", "psutil", "transformers"),
            *("tokenizers", "sentencepiece", "safetensors", "pyyaml", "pillow", "av", "numpy"),
        ),
        python="venv-comfyui",
    ),
    Peer(
        name="sd-scripts",
        reader="sd_scripts.py",
        recipes=("sd15", "sdxl", "flux"),
        original_only=frozenset({"flux"}),
        packages=(),  # the environment in which it trains, made from its own requirements
        python="venv-sd-scripts",
    ),
    Peer(
        name="musubi-tuner",
        reader="musubi_tuner.py",
        recipes=("wan",),
        packages=(
            *("accelerate==1.6.0", "diffusers==0.32.1", "einops==0.7.0", "safetensors==0.4.5"),
            *("huggingface-hub==0.34.3", "transformers==4.57.6", "easydict", "ftfy", "voluptuous"),
            *("toml", "tqdm", "av", "sentencepiece", "pillow", "numpy", "opencv-python-headless"),
        ),
        python="venv-musubi-tuner",
    ),
)


def read(
    peer: Peer, files: Sequence[LoraFile], *, checkout: Path, python: Path
) -> Iterator[dict[str, Any]]:
    """What a peer's code makes of each of a family's files.

    Args:
        peer: Who reads.
        files: What is read.
        checkout: The peer's source.
        python: Interpreter of its environment.
    """
    command = [python, READERS / peer.reader, files[0].family, files[0].scale]
    done = subprocess.run(
        [str(part) for part in (*command, *(file.path for file in files))],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    last = "; ".join(done.stderr.strip().splitlines()[-_SHOWN_LINES:])
    for place, file in enumerate(files):
        told = {"peer": peer.name, "family": file.family, "layers of the file": file.layers}
        row: dict[str, Any] = {**told, "keys": file.keys}
        if place >= len(answers):
            yield row | {"verdict": "failed", "why": last}
            continue
        found = answers[place]
        verdict = "every key" if _is_whole(found) else "not whole"
        yield row | {"read": file.keys - len(found["left_over"]), **found, "verdict": verdict}


def _is_whole(found: dict[str, Any]) -> bool:
    nothing_lost = not found["left_over"] and not found.get("missing")
    return bool(nothing_lost and found["layers"] and found["largest_error"] < _TOLERANCE)


def rows(folder: Path, peers: Path, families: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every file before every peer that has its model.

    Args:
        folder: For our files.
        peers: Checkouts, in folders named as the peers are.
        families: Which.
    """
    environments = ROOT / "build" / "bench" / "peers"
    for family in families:
        files = write_files(folder, family)
        for peer in PEERS:
            if recipe_of(family) not in peer.recipes:
                continue
            checkout = peers / peer.name
            python = environments / peer.python / "bin" / "python"
            if checkout.exists() and peer.packages:
                install(python, [*TORCH, *peer.packages])
            if not checkout.exists() or not python.exists():
                missing = "checkout" if not checkout.exists() else "environment"
                told = {"peer": peer.name, "family": family, "layers of the file": "all"}
                yield told | {"verdict": "not run", "why": f"no {missing}"}
                continue
            print(f"{peer.name}: {family}", file=sys.stderr)
            wanted = [one for one in files if _is_for(peer, one)]
            yield from read(peer, wanted, checkout=checkout, python=python)


def _is_for(peer: Peer, file: LoraFile) -> bool:
    return file.layers == CONVERTED or recipe_of(file.family) not in peer.original_only


def show(found: Sequence[dict[str, Any]]) -> None:
    """One table of all."""
    columns = ("peer", "family", "layers of the file", "keys", "read", "largest error", "verdict")
    table = Table(*columns, title="LoRA files of the published sizes, read by the peers' own code")
    for row in found:
        error = row.get("largest_error")
        table.add_row(
            row["peer"],
            row["family"],
            row["layers of the file"],
            str(row.get("keys", "-")),
            str(row.get("read", "-")),
            "-" if error is None else f"{error:.1e}",
            row["verdict"] + (f": {row['why']}" if "why" in row else ""),
        )
    Console().print(table)


def main() -> int:
    """Check, print, keep; 1 where a file that a job writes by default is not read whole."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--peers",
        type=Path,
        required=True,
        help="folder with checkouts named ComfyUI, sd-scripts and musubi-tuner",
    )
    parser.add_argument("--families", nargs="+", default=list(DENOISERS), choices=list(DENOISERS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = list(rows(Path(scratch), given.peers.absolute(), given.families))
    show(found)
    target = ROOT / "build" / "bench" / "loaders.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(found, indent=2) + "\n")
    broken = {"failed", "not whole"}
    usual = [row for row in found if row["layers of the file"] != EVERY]
    return 1 if any(row["verdict"] in broken for row in usual) else 0


if __name__ == "__main__":
    raise SystemExit(main())
