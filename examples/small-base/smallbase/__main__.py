"""The command line: one subcommand per step, and `all` for the whole run."""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from smallbase.pictures import Pictures, PicturesError, fetch

_HERE = Path(__file__).resolve().parent.parent
_SHARES = {"vae": 0.28, "unet": 0.6, "decoder": 0.12}
"""How `all` divides its minutes."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="smallbase", description=sys.modules["smallbase"].__doc__)
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lora-operator"
    parser.add_argument(
        "--cache", type=Path, default=default / "smallbase", help="pictures and checkpoints"
    )
    parser.add_argument(
        "--model", type=Path, default=_HERE / "model", help="the exported diffusers folder"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("pictures", help="fetch and check the emoji set")
    for name, what in (
        ("vae", "the autoencoder"),
        ("unet", "denoiser and text encoder"),
        ("decoder", "the autoencoder's decoder further"),
    ):
        step = commands.add_parser(name, help=f"train {what}; continues where it was stopped")
        step.add_argument("--minutes", type=float, required=True)
    export = commands.add_parser("export", help="write the last checkpoint as a diffusers model")
    export.add_argument("--random", action="store_true", help="untrained weights, same shape")
    sheet = commands.add_parser("sheet", help="draw the contact sheet of the exported model")
    sheet.add_argument("--output", type=Path, default=_HERE / "contact-sheet.png")
    concept = commands.add_parser("concept", help="draw the quickstart's training pictures")
    concept.add_argument("--output", type=Path, default=_HERE.parent / "quickstart" / "dataset")
    everything = commands.add_parser("all", help="train, export and draw the sheet")
    everything.add_argument("--minutes", type=float, default=90.0)
    return parser


def _train(step: str, pictures: Pictures, folder: Path, minutes: float) -> None:
    from smallbase import decoder, parallel, tokenizer, unet, vae  # noqa: PLC0415  # slow to import

    if step == "unet" and not (folder / "tokenizer").exists():
        tokenizer.build(folder / "tokenizer", names=pictures.names)
    train = {"vae": vae.train, "unet": unet.train, "decoder": decoder.train}[step]
    parallel.run(partial(train, pictures, minutes=minutes, folder=folder))


def _export(pictures: Pictures, folder: Path, model: Path, *, untrained: bool = False) -> None:
    from smallbase import export, tokenizer, unet  # noqa: PLC0415

    if untrained:
        words = tokenizer.build(folder / "untrained-tokenizer", names=pictures.names)
        export.write_untrained(model, words)
    else:
        unet.export_checkpoint(folder, model)


def _sheet(model: Path, output: Path) -> None:
    from smallbase import sheet  # noqa: PLC0415

    sheet.write(model, output)


def _run(arguments: argparse.Namespace, pictures: Pictures) -> None:
    folder: Path = arguments.cache / "run"
    match arguments.command:
        case "vae" | "unet" | "decoder" as step:
            _train(step, pictures, folder, arguments.minutes)
        case "export":
            _export(pictures, folder, arguments.model, untrained=arguments.random)
        case "sheet":
            _sheet(arguments.model, arguments.output)
        case "concept":
            from smallbase import concept  # noqa: PLC0415

            concept.write(pictures, arguments.output)
        case "all":
            for step, share in _SHARES.items():
                _train(step, pictures, folder, share * arguments.minutes)
            _export(pictures, folder, arguments.model)
            _sheet(arguments.model, _HERE / "contact-sheet.png")


def main() -> int:
    """Run one subcommand; returns the exit status."""
    # Threads that spin while they wait take the other worker's core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = _parser().parse_args()
    try:
        _run(arguments, fetch(arguments.cache))
    except (PicturesError, FileNotFoundError) as error:
        print(f"smallbase: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
