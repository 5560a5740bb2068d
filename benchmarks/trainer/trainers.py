"""How each trainer is fetched, installed and started: ours, and the peers beside it.

A module of its own because this is where the comparison could be unfair: the same steps, batch,
rank, precision and pictures are written here in three spellings, side by side.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.trainer.scenarios import ROOT, SMALL_BASE, Pictures, Scenario

# The commits that were measured; a git host is asked for them only where no checkout is given.
DIFFUSERS = ("https://github.com/huggingface/diffusers", "58eb52c0803ea9af3abec60841c2a093bdf1f951")
SD_SCRIPTS = ("https://github.com/kohya-ss/sd-scripts", "48d368fa557731ad0488c07304dfeba8c07910eb")
UV = ROOT / ".venv" / "bin" / "uv"
TORCH = ("torch==2.15.0", "torchvision")


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One process to be measured."""

    arguments: list[str]
    """The command line."""

    folder: Path
    """Where it runs."""


class Trainer(Protocol):
    """One trainer in the comparison."""

    name: str
    """Its name in the table."""

    def prepare(self) -> None:
        """Fetch and install what it needs; nothing where that is done."""

    def fits(self, scenario: Scenario) -> bool:
        """Whether it can train the scenario's base model."""

    def command(self, scenario: Scenario, pictures: Pictures, folder: Path) -> Command:
        """The scenario in its own terms; outputs go to the folder."""


# The peers draw and score nothing; what ours adds to a run is measured by
# benchmarks/trainer_startup.
_NO_VALIDATION = {"prompts": ["zorp"], "samplingSteps": 1, "heldOutImages": 0}


class Ours:
    """`lora-trainer run`."""

    name = "lora-trainer"

    def prepare(self) -> None:
        """Nothing: the environment that runs the benchmark has it."""

    def fits(self, scenario: Scenario) -> bool:
        """Every scenario."""
        return True

    def command(self, scenario: Scenario, pictures: Pictures, folder: Path) -> Command:
        """The scenario as a job document."""
        document = {
            "name": "bench",
            "recipe": scenario.recipe,
            "baseModel": {"uri": f"file://{scenario.base()}"},
            "dataset": {
                "uri": f"file://{pictures.with_texts}",
                "triggerWord": "zorp",
                "minFileBytes": 0,
                "minSidePixels": 64,
                "aspectBuckets": False,
                "captionDropout": 0.0,
            },
            "network": {"rank": scenario.rank, "alpha": scenario.rank},
            "optimization": {
                "steps": scenario.steps,
                "batchSize": scenario.batch_size,
                "resolution": scenario.resolution,
                "learningRate": 1e-4,
                "lrScheduler": "constant",
                "precision": scenario.precision,
                "memory": "checkpointing" if scenario.checkpointing else "none",
            },
            "checkpoints": {"everySteps": scenario.steps},
            "validation": {} if scenario.alone else _NO_VALIDATION,
            "output": {"uri": f"file://{folder}/output"},
        }
        job = folder / "job.json"
        job.write_text(json.dumps(document))
        arguments = [sys.executable, "-m", "lora_trainer", "run", str(job)]
        return Command(
            arguments=[*arguments, "--workspace", str(folder / "workspace")], folder=folder
        )


class DiffusersScript:
    """The example scripts of diffusers, one for each family that they have.

    Args:
        peers: Where checkouts and environments are kept between runs.
        checkout: A clone that is there already.
    """

    name = "diffusers script"

    def __init__(self, peers: Path, checkout: Path | None) -> None:
        self._checkout = checkout or peers / "diffusers"
        self._python = peers / "venv-diffusers" / "bin" / "python"

    def prepare(self) -> None:
        """Fetch the scripts, and install their libraries in our versions of torch and diffusers."""
        _fetch(*DIFFUSERS, self._checkout)
        ours = ROOT / "requirements" / "trainer.txt"
        install(
            self._python,
            ["diffusers", "transformers", "peft", "accelerate", "datasets", *TORCH],
            constraints=ours,
        )

    def fits(self, scenario: Scenario) -> bool:
        """Every family but WAN, for which diffusers has no training script."""
        return scenario.recipe in _SCRIPTS and not scenario.alone

    def command(self, scenario: Scenario, pictures: Pictures, folder: Path) -> Command:
        """The scenario in the script's options."""
        script = self._checkout / "examples" / _SCRIPTS[scenario.recipe]
        options: dict[str, object] = {
            "pretrained_model_name_or_path": scenario.base(),
            "cache_dir": folder / "cache",
            "resolution": scenario.resolution,
            "train_batch_size": scenario.batch_size,
            "max_train_steps": scenario.steps,
            "rank": scenario.rank,
            "learning_rate": 1e-4,
            "lr_scheduler": "constant",
            "lr_warmup_steps": 0,
            "mixed_precision": "no" if scenario.precision == "fp32" else scenario.precision,
            "checkpointing_steps": scenario.steps,
            "seed": 0,
            "output_dir": folder / "output",
        }
        flags = ["--center_crop"]
        if scenario.recipe == "flux":
            options |= {"instance_data_dir": pictures.alone, "instance_prompt": "zorp"}
            options |= {"lora_alpha": scenario.rank, "guidance_scale": 1}
            options |= {"lora_layers": "to_k,to_q,to_v,to_out.0"}
            flags += ["--cache_latents"]
        else:
            options |= {"train_data_dir": pictures.with_metadata, "caption_column": "text"}
        if scenario.checkpointing:
            flags += ["--gradient_checkpointing"]
        arguments = [str(self._python), str(script), *flags, *_spelled(options)]
        return Command(arguments=arguments, folder=folder)


_SCRIPTS = {
    "sd15": "text_to_image/train_text_to_image_lora.py",
    "sdxl": "text_to_image/train_text_to_image_lora_sdxl.py",
    "flux": "dreambooth/train_dreambooth_lora_flux.py",
}


class SdScripts:
    """`train_network.py` and `sdxl_train_network.py` of sd-scripts, with latents cached.

    Args:
        peers: Where checkouts and environments are kept between runs.
        checkout: A clone that is there already.
    """

    name = "sd-scripts"

    def __init__(self, peers: Path, checkout: Path | None) -> None:
        self._checkout = checkout or peers / "sd-scripts"
        self._python = peers / "venv-sd-scripts" / "bin" / "python"
        self._tokenizers = peers / "tokenizers"

    def prepare(self) -> None:
        """Fetch it, and install what it pins, on our version of torch."""
        _fetch(*SD_SCRIPTS, self._checkout)
        wanted = self._checkout / "requirements.txt"
        pins = [line for line in wanted.read_text().splitlines() if _is_pin(line)]
        install(self._python, [*pins, *TORCH])
        # It asks the hub for CLIP's tokenizers by name, unless it has copies under these names.
        for name in ("openai_clip-vit-large-patch14", "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k"):
            _write_slow_tokenizer(self._tokenizers / name)

    def fits(self, scenario: Scenario) -> bool:
        """It builds the published models' own shapes, and takes FLUX and WAN in other layouts."""
        known = scenario.recipe in _PROGRAMS and scenario.published_size
        return known and not scenario.alone

    def command(self, scenario: Scenario, pictures: Pictures, folder: Path) -> Command:
        """The scenario in its options; a dataset is a folder named repeats_class."""
        images = folder / "images"
        images.mkdir()
        (images / "1_zorp").symlink_to(pictures.with_texts)
        options = {
            "pretrained_model_name_or_path": scenario.base(),
            "train_data_dir": images,
            "caption_extension": ".txt",
            "resolution": scenario.resolution,
            "train_batch_size": scenario.batch_size,
            "max_train_steps": scenario.steps,
            "network_module": "networks.lora",
            "network_dim": scenario.rank,
            "network_alpha": scenario.rank,
            "learning_rate": 1e-4,
            "lr_scheduler": "constant",
            "optimizer_type": "AdamW",
            "mixed_precision": "no" if scenario.precision == "fp32" else scenario.precision,
            "max_data_loader_n_workers": 0,
            "tokenizer_cache_dir": self._tokenizers,
            "seed": 0,
            "save_model_as": "safetensors",
            "output_dir": folder / "output",
            "output_name": "bench",
        }
        flags = ["--network_train_unet_only", "--cache_latents", "--sdpa"]
        if scenario.checkpointing:
            flags += ["--gradient_checkpointing"]
        if scenario.recipe == "sdxl":
            flags += ["--cache_text_encoder_outputs"]
        program = _PROGRAMS[scenario.recipe]
        arguments = [str(self._python), program, *flags, *_spelled(options)]
        return Command(arguments=arguments, folder=self._checkout)


_PROGRAMS = {"sd15": "train_network.py", "sdxl": "sdxl_train_network.py"}


def _spelled(options: dict[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]


def _is_pin(line: str) -> bool:
    return bool(line.strip()) and not line.startswith(("#", "-e"))


def _write_slow_tokenizer(folder: Path) -> None:
    """The small base's tokenizer in the two files that transformers 4 reads."""
    model = json.loads((SMALL_BASE / "tokenizer" / "tokenizer.json").read_text())["model"]
    settings = json.loads((SMALL_BASE / "tokenizer" / "tokenizer_config.json").read_text())
    merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("\n".join(merges) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 77}))


def _fetch(address: str, commit: str, checkout: Path) -> None:
    if checkout.exists():
        return
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", address, checkout], check=True)
    subprocess.run(["git", "-C", checkout, "checkout", "--quiet", commit], check=True)


def install(python: Path, packages: Sequence[str], *, constraints: Path | None = None) -> None:
    """Make an environment, unless it is there.

    Args:
        python: Its interpreter.
        packages: What it gets.
        constraints: A list of versions that must not be left.
    """
    if python.exists():
        return
    subprocess.run(
        [UV, "venv", "--quiet", "--python", sys.executable, str(python.parents[1])], check=True
    )
    options = ["--constraint", str(constraints)] if constraints else []
    command = [str(UV), "pip", "install", "--quiet", "--python", str(python)]
    subprocess.run([*command, "--no-verify-hashes", *options, *packages], check=True)
