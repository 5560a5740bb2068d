"""A base model that lacks weights is refused: a library fills them with random numbers instead."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.trainer.families import CPU, MAKERS, opened
from tests.trainer.original_layouts import sd15_checkpoint

from lora_api.reasons import Reason
from lora_api.settings import BaseModelSettings
from lora_trainer.errors import TrainerError
from lora_trainer.fetch_base import fetch_base_model, open_base
from lora_trainer.recipes import RECIPES, Recipe, check_base, load_recipe
from lora_trainer.stopping import StopFlag

# The family, the text encoder's folder, and a word in the names of the weights that are gone.
TEXTS: dict[str, tuple[str, str, str]] = {
    "sd15's CLIP": ("sd15", "text_encoder", "q_proj"),
    "sdxl's second CLIP": ("sdxl", "text_encoder_2", "text_projection"),
    "flux's T5": ("flux", "text_encoder_2", "layer.0.SelfAttention.k"),
    "wan's UMT5": ("wan", "text_encoder", "layer.0.SelfAttention.k"),
}


def _without(path: Path, word: str, *, shape: tuple[int, ...] | None = None) -> str:
    """Take weights out of a file, or give them another shape; returns the name of one."""
    tensors = load_file(path)
    names = [name for name in tensors if word in name]
    for name in names:
        if shape is None:
            del tensors[name]
        else:
            tensors[name] = torch.zeros(shape)
    save_file(tensors, path, metadata={"format": "pt"})
    return names[0]


@pytest.mark.parametrize("shape", [None, (3, 5)], ids=["missing", "of another shape"])
@pytest.mark.parametrize("name", TEXTS)
def test_a_text_encoder_without_some_of_its_weights_is_refused(
    name: str, shape: tuple[int, ...] | None, tmp_path: Path
) -> None:
    family, component, word = TEXTS[name]
    base = MAKERS[family](tmp_path / family)
    [path] = (base / component).glob("*.safetensors")
    gone = _without(path, word, shape=shape)
    recipe = load_recipe(family, opened(family, base))
    with pytest.raises(TrainerError) as caught:
        recipe.load_text_encoder(device=CPU)
    assert caught.value.reason is Reason.BASE_MODEL_INVALID
    assert component in caught.value.message
    assert gone.removeprefix("text_model.") in caught.value.message


def _from_single_file(path: Path, components: Path) -> Recipe:
    settings = BaseModelSettings(uri=f"file://{path}", components_uri=f"file://{components}")
    base = fetch_base_model(
        open_base(settings, stop=StopFlag()),
        path.with_name("nothing-is-copied-here"),
        RECIPES["sd15"],
        check=lambda model: check_base("sd15", model),
        advance=lambda _done, _total: None,
    )
    return load_recipe("sd15", base)


# A word in the names of the weights that are gone, the part that lacks them, and who loads it.
PARTS: dict[str, tuple[str, str, Callable[[Recipe], object]]] = {
    "the UNet": (
        "model.diffusion_model.out.2.",
        "unet",
        lambda recipe: recipe.load_denoiser(device=CPU, dtype=torch.float32),
    ),
    "the VAE": (
        "first_stage_model.encoder.conv_in",
        "vae",
        lambda recipe: recipe.load_picture_encoder(device=CPU),
    ),
    "the text encoder": (
        "q_proj",
        "text_encoder",
        lambda recipe: recipe.load_text_encoder(device=CPU),
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_single_file_without_some_of_its_weights_is_refused(name: str, tmp_path: Path) -> None:
    word, component, load = PARTS[name]
    base = MAKERS["sd15"](tmp_path / "sd15")
    single = sd15_checkpoint(base, tmp_path / "model.safetensors", layers_per_block=1)
    _without(single, word)
    recipe = _from_single_file(single, base)
    with pytest.raises(TrainerError) as caught:
        load(recipe)
    assert caught.value.reason is Reason.BASE_MODEL_INVALID
    assert f"the weights of {component} lack" in caught.value.message
