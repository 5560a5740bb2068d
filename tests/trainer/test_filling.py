"""Weights read one by one are those that diffusers would have loaded, and leave no mapping."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    FluxTransformer2DModel,
    UNet2DConditionModel,
    WanTransformer3DModel,
)
from pytest import TempPathFactory
from safetensors.torch import load_file, save_file
from tests.trainer.families import CPU, MAKERS, opened, recipe_of

from lora_api.reasons import Reason
from lora_trainer.errors import TrainerError
from lora_trainer.recipes.filling import filled
from lora_trainer.recipes.loading import load_component

PARTS: dict[tuple[str, str], Any] = {
    ("sd15", "unet"): UNet2DConditionModel,
    ("sd15", "vae"): AutoencoderKL,
    ("sdxl", "unet"): UNet2DConditionModel,
    ("flux", "transformer"): FluxTransformer2DModel,
    ("flux", "vae"): AutoencoderKL,
    ("wan", "transformer"): WanTransformer3DModel,
    ("wan", "vae"): AutoencoderKLWan,
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def sd15(tmp_path: Path) -> Path:
    """A base model of its own, to be spoilt."""
    return MAKERS["sd15"](tmp_path / "sd15")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("bases")

    def made(family: str) -> Path:
        path = folder / family
        return path if path.exists() else MAKERS[family](path)

    return made


def _tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _assert_same(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    ours, theirs = _tensors(found), _tensors(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("part", PARTS, ids="-".join)
def test_a_component_is_what_diffusers_would_have_loaded(
    part: tuple[str, str], dtype: torch.dtype, bases: Callable[[str], Path]
) -> None:
    family, component = part
    folder = bases(family)
    base = opened(recipe_of(family), folder)
    found = load_component(PARTS[part], base, component, device=CPU, dtype=dtype)
    assert str(folder) not in Path("/proc/self/maps").read_text(), "a file is still mapped"
    expected = PARTS[part].from_pretrained(folder / component, torch_dtype=dtype)
    _assert_same(found, expected)
    assert not any(one.requires_grad for one in found.parameters())
    assert not found.training


def test_only_the_shards_of_the_index_are_read(sd15: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(sd15 / "unet")
    (sd15 / "unet" / WEIGHTS).unlink()
    unet.save_pretrained(sd15 / "unet", max_shard_size="100KB")
    shards = sorted((sd15 / "unet").glob("*.safetensors"))
    assert len(shards) > 1
    stale = {name: torch.zeros_like(one) for name, one in load_file(shards[0]).items()}
    save_file(stale, sd15 / "unet" / "diffusion_pytorch_model-00001-of-00099.safetensors")
    base = opened("sd15", sd15)
    _assert_same(filled(UNet2DConditionModel, base, "unet", device=CPU, dtype=torch.float32), unet)


def test_a_vae_with_the_names_of_its_time_is_read(sd15: Path) -> None:
    path = sd15 / "vae" / WEIGHTS
    weights = load_file(path)
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in weights.items():
        for new, old in older.items():
            name = name.replace(f".{new}.", f".{old}.")  # noqa: PLW2901
        renamed[name] = tensor
    assert renamed.keys() != weights.keys()
    save_file(renamed, path)
    config = sd15 / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_diffusers_version": "0.6.0"}))
    base = opened("sd15", sd15)
    vae = filled(AutoencoderKL, base, "vae", device=CPU, dtype=torch.float32)
    assert vae.state_dict().keys() == weights.keys()
    assert all(torch.equal(one, weights[name]) for name, one in vae.state_dict().items())


def test_weights_that_do_not_fit_their_config_are_named(sd15: Path) -> None:
    path = sd15 / "unet" / WEIGHTS
    weights = load_file(path)
    del weights["conv_in.bias"]
    weights["conv_out.bias"] = torch.zeros(5)
    weights["what.older.versions.wanted"] = torch.zeros(1)
    save_file(weights, path)
    base = opened("sd15", sd15)
    with pytest.raises(TrainerError) as refused:
        filled(UNet2DConditionModel, base, "unet", device=CPU, dtype=torch.float32)
    assert refused.value.reason is Reason.BASE_MODEL_INVALID
    assert "conv_out.bias is 5, not 4" in refused.value.message
    assert "conv_in.bias is missing" in refused.value.message
    assert "older" not in refused.value.message


def test_half_a_vae_encodes_like_the_whole(sd15: Path) -> None:
    base = opened("sd15", sd15)
    whole = load_component(AutoencoderKL, base, "vae", device=CPU, dtype=torch.float32)
    half = load_component(
        AutoencoderKL, base, "vae", device=CPU, dtype=torch.float32, without="decoder"
    )
    assert not any(name.startswith("decoder.") for name, _ in half.named_parameters())
    picture = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    with torch.inference_mode():
        ours, expected = (vae.encode(picture).latent_dist.parameters for vae in (half, whole))
    assert torch.equal(ours, expected)
