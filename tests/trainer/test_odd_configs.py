"""Base models whose configs say something odd, or of other mathematics: refused by file and field.

Each was trained wrongly without a word, or ended in a traceback.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.trainer.families import MAKERS, opened

from lora_api.reasons import Reason
from lora_trainer.errors import TrainerError

GONE = object()
EDM = {
    "_class_name": "EDMDPMSolverMultistepScheduler",
    "beta_start": GONE,
    "beta_end": GONE,
    "sigma_data": 0.5,
}
# The family, the component, what its config says, and the field that must be named.
CONFIGS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "EDM's noise levels": ("sdxl", "scheduler", EDM, "_class_name is EDM"),
    "a flow's noise levels": (
        "sd15",
        "scheduler",
        {"_class_name": "FlowMatchEulerDiscreteScheduler"},
        "_class_name is FlowMatch",
    ),
    "no noise levels": ("sd15", "scheduler", {"beta_start": GONE}, "beta_start is missing"),
    "latents with a mean": ("sdxl", "vae", {"latents_mean": [0.5] * 4}, "latents_mean is set"),
    "latents with a deviation": ("sd15", "vae", {"latents_std": [2.0] * 4}, "latents_std is set"),
    "latents with a shift": ("sd15", "vae", {"shift_factor": 0.1}, "shift_factor is set"),
    "a guidance scale as input": (
        "sdxl",
        "unet",
        {"time_cond_proj_dim": 256},
        "time_cond_proj_dim is set",
    ),
    "no mean of a video's latents": ("wan", "vae", {"latents_mean": GONE}, "latents_mean is None"),
    "a short list of deviations": ("wan", "vae", {"latents_std": [1.0]}, "latents_std is [1.0]"),
    "words among the means": ("wan", "vae", {"latents_mean": ["x"] * 16}, "latents_mean is ['x'"),
    "no scaling of latents": ("sd15", "vae", {"scaling_factor": None}, "scaling_factor is None"),
    "scaling by zero": ("flux", "vae", {"scaling_factor": 0}, "scaling_factor is 0"),
    "words for heads": (
        "flux",
        "transformer",
        {"num_attention_heads": "x"},
        "num_attention_heads is 'x'",
    ),
    "no heads": (
        "wan",
        "transformer",
        {"num_attention_heads": None},
        "num_attention_heads is None",
    ),
    "words for steps": (
        "sd15",
        "scheduler",
        {"num_train_timesteps": "many"},
        "num_train_timesteps is 'many'",
    ),
    "blocks of unequal number": (
        "sd15",
        "unet",
        {"block_out_channels": [32]},
        "block_out_channels",
    ),
    "a word for a beta schedule": ("sdxl", "scheduler", {"beta_schedule": "odd"}, "odd"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_an_odd_config_is_refused_by_file_and_field(name: str, tmp_path: Path) -> None:
    family, component, says, words = CONFIGS[name]
    base = MAKERS[family](tmp_path / family)
    file = "scheduler_config.json" if component == "scheduler" else "config.json"
    path = base / component / file
    config = json.loads(path.read_text()) | says
    path.write_text(json.dumps({name: one for name, one in config.items() if one is not GONE}))
    with pytest.raises(TrainerError) as caught:
        opened(family, base)
    assert caught.value.reason is Reason.BASE_MODEL_INVALID
    assert f"{component}/{file}" in caught.value.message
    assert words in caught.value.message, caught.value.message


@pytest.mark.parametrize("family", MAKERS)
def test_each_family_as_it_is_published_is_accepted(family: str, tmp_path: Path) -> None:
    assert opened(family.split(" ", 1)[0], MAKERS[family](tmp_path / "base")).configs
