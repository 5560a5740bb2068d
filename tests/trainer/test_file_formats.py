"""Key names of each family's file, and what diffusers' own loader makes of it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    WanPipeline,
    WanTransformer3DModel,
)
from pytest import TempPathFactory
from safetensors.torch import save_file
from tests.trainer.families import CPU, MAKERS, adapt, opened
from tests.trainer.original_layouts import ldm_unet_name, wan_name
from tests.trainer.published import SDXL_UNET
from tests.trainer.tiny_sdxl import SECOND_LAYERS

from lora_api.reasons import Reason
from lora_trainer.errors import TrainerError
from lora_trainer.lora import TRAINED, find_layers, read_layers, read_weights
from lora_trainer.recipes import RECIPES, load_recipe
from lora_trainer.recipes.keys import sdxl_unet_layer, wan_layer

# The published sizes; SD 1.5's from their unet/config.json.
SD15 = {"cross_attention_dim": 768}
WAN_SIZES = {"1.3B": (12, 30), "14B": (40, 40)}
FLUX_ATTENTION = {
    "transformer_blocks": (19, ("to_q", "to_k", "to_v", "to_out.0")),
    "single_transformer_blocks": (38, ("to_q", "to_k", "to_v")),
}

PIPELINES: dict[str, tuple[Any, str]] = {
    "sd15": (StableDiffusionPipeline, "unet"),
    "sdxl": (StableDiffusionXLPipeline, "unet"),
    "flux": (FluxPipeline, "transformer"),
    "wan": (WanPipeline, "transformer"),
}
# Not needed to load a LoRA of the denoiser.
TEXT_PARTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
TEXT_KEYS = {
    "sd15": {"text_encoder": "lora_te"},
    "sdxl": {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"},
}
TEXT_BLOCKS = {"lora_te": 1, "lora_te1": 2, "lora_te2": SECOND_LAYERS}
CLIP_LAYERS = [f"self_attn_{one}_proj" for one in ("q", "k", "v", "out")] + ["mlp_fc1", "mlp_fc2"]


def _on_meta(make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    with torch.device("meta"):
        return make()


def _layers_of_file(recipe: str, model: torch.nn.Module, base: Path) -> set[str]:
    """Names of the layers in a file that adapts a model's default layers."""
    layers = find_layers(model, RECIPES[recipe].target_modules)
    blank = torch.empty(1, device="meta")
    weights = {f"{name}.lora_{side}.weight": blank for name in layers for side in "AB"}
    opened_base = opened(recipe, base)
    opened_base.configs.get("unet", {})["layers_per_block"] = 2  # the miniature has one
    tensors = load_recipe(recipe, opened_base).to_file(weights, alpha=8.0)
    down, up = (
        (".lora_down.weight", ".lora_up.weight")
        if RECIPES[recipe].file_format == "kohya"
        else (".lora_A.weight", ".lora_B.weight")
    )
    names = {name.removesuffix(".alpha") for name in tensors if name.endswith(".alpha")}
    assert set(tensors) == {name + end for name in names for end in (down, up, ".alpha")}
    alphas = [tensors[f"{name}.alpha"] for name in names]
    assert all(one.dtype == torch.float32 and one.shape == () and one == 8.0 for one in alphas)
    return names


@pytest.fixture(scope="module")
def bases(tmp_path_factory: TempPathFactory) -> Iterator[dict[str, Path]]:
    folder = tmp_path_factory.mktemp("bases")
    yield {recipe: MAKERS[recipe](folder / recipe) for recipe in RECIPES}


def test_sd15_has_sd_scripts_names_which_are_diffusers_own(bases: dict[str, Path]) -> None:
    unet = _on_meta(lambda: UNet2DConditionModel(**SD15))
    places = [f"down_blocks_{block}_attentions_{index}" for block in range(3) for index in range(2)]
    places += ["mid_block_attentions_0"]
    places += [f"up_blocks_{block}_attentions_{index}" for block in (1, 2, 3) for index in range(3)]
    assert _layers_of_file("sd15", unet, bases["sd15"]) == {
        f"lora_unet_{place}_transformer_blocks_0_{attention}_{layer}"
        for place in places
        for attention in ("attn1", "attn2")
        for layer in ("to_q", "to_k", "to_v", "to_out_0")
    }


def test_sdxl_has_the_names_of_the_original_unet(bases: dict[str, Path]) -> None:
    unet = _on_meta(lambda: UNet2DConditionModel(**SDXL_UNET))
    depth = {f"input_blocks_{number}_1": 2 for number in (4, 5)}
    depth |= {f"input_blocks_{number}_1": 10 for number in (7, 8)}
    depth |= {"middle_block_1": 10}
    depth |= {f"output_blocks_{number}_1": 10 for number in (0, 1, 2)}
    depth |= {f"output_blocks_{number}_1": 2 for number in (3, 4, 5)}
    assert _layers_of_file("sdxl", unet, bases["sdxl"]) == {
        f"lora_unet_{place}_transformer_blocks_{block}_{attention}_{layer}"
        for place, blocks in depth.items()
        for block in range(blocks)
        for attention in ("attn1", "attn2")
        for layer in ("to_q", "to_k", "to_v", "to_out_0")
    }


def test_flux_has_the_names_of_diffusers_which_comfyui_maps(bases: dict[str, Path]) -> None:
    transformer = _on_meta(lambda: FluxTransformer2DModel(guidance_embeds=True))
    assert _layers_of_file("flux", transformer, bases["flux"]) == {
        f"transformer.{place}.{block}.attn.{layer}"
        for place, (blocks, layers) in FLUX_ATTENTION.items()
        for block in range(blocks)
        for layer in layers
    }


@pytest.mark.parametrize("size", WAN_SIZES)
def test_wan_has_the_names_of_its_own_code(size: str, bases: dict[str, Path]) -> None:
    heads, blocks = WAN_SIZES[size]
    transformer = _on_meta(
        lambda: WanTransformer3DModel(num_attention_heads=heads, num_layers=blocks)
    )
    assert _layers_of_file("wan", transformer, bases["wan"]) == {
        f"diffusion_model.blocks.{block}.{attention}.{layer}"
        for block in range(blocks)
        for attention in ("self_attn", "cross_attn")
        for layer in "qkvo"
    }


# ComfyUI's comfy/lora.py knows a layer of Stable Diffusion by `lora_unet_` and the weight's name in
# the original layout with lines for dots, one of WAN by `diffusion_model.` and its name there.
def test_every_layer_of_sdxl_has_a_name_that_comfyui_knows() -> None:
    unet = _on_meta(lambda: UNet2DConditionModel(**SDXL_UNET))
    known = {
        f"lora_unet_{ldm_unet_name(name, 2).removesuffix('.weight').replace('.', '_')}"
        for name in unet.state_dict()
        if name.endswith(".weight")
    }
    named = {sdxl_unet_layer(2)(layer) for layer in _adaptable(unet)}
    assert None not in named
    assert named <= known


def test_every_layer_of_wans_blocks_has_a_name_that_comfyui_knows() -> None:
    transformer = _on_meta(lambda: WanTransformer3DModel(num_attention_heads=12, num_layers=2))
    known = {
        f"diffusion_model.{wan_name(name).removesuffix('.weight')}"
        for name in transformer.state_dict()
    }
    layers = [layer for layer in _adaptable(transformer) if layer.startswith("blocks.")]
    named = {wan_layer(layer) for layer in layers}
    assert None not in named
    assert named <= known


def test_a_layer_that_the_format_has_no_name_for_is_refused_by_name(bases: dict[str, Path]) -> None:
    recipe = load_recipe("wan", opened("wan", bases["wan"]))
    blank = torch.empty(1, device="meta")
    weights = {f"condition_embedder.time_proj.lora_{side}.weight": blank for side in "AB"}
    with pytest.raises(TrainerError, match=r"no name for condition_embedder\.time_proj") as caught:
        recipe.to_file(weights, alpha=1.0)
    assert caught.value.reason is Reason.TARGET_MODULES_NOT_FOUND


@pytest.mark.parametrize("recipe", PIPELINES)
def test_a_file_of_all_layers_loads_whole_and_draws_the_very_picture(
    recipe: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    pipeline_class, part = PIPELINES[recipe]
    family = load_recipe(recipe, opened(recipe, bases[recipe]))
    ours = family.load_denoiser(device=CPU, dtype=torch.float32)
    layers = [layer for layer in _adaptable(ours) if recipe != "wan" or layer.startswith("blocks.")]
    adapt(ours, layers)
    save_file(family.to_file(read_weights(ours), alpha=2.0), tmp_path / "model.safetensors")

    pipeline = pipeline_class.from_pretrained(bases[recipe], **dict.fromkeys(TEXT_PARTS))
    pipeline.load_lora_weights(tmp_path, weight_name="model.safetensors", adapter_name="theirs")
    theirs = getattr(pipeline, part)
    assert read_layers(theirs, "theirs").keys() == read_layers(ours, TRAINED).keys()
    texts = family.load_text_encoder(device=CPU).encode(["a zorp", ""])
    with_lora, with_file, without = (
        family.sampler([denoiser], device=CPU)
        .draw(
            prompt=texts[0],
            empty=texts[1],
            seeds=[7],
            resolution=64,
            steps=2,
            guidance_scale=3.0,
        )[0]
        .tobytes()
        for denoiser in (ours, theirs, family.load_denoiser(device=CPU, dtype=torch.float32))
    )
    assert with_lora == with_file
    assert with_lora != without


@pytest.mark.parametrize(("recipe", "prefixes"), TEXT_KEYS.items())
def test_adapted_text_encoders_have_kohya_names_and_come_back_as_they_were(
    recipe: str, prefixes: dict[str, str], bases: dict[str, Path], tmp_path: Path
) -> None:
    family = load_recipe(recipe, opened(recipe, bases[recipe]))
    denoiser = family.load_denoiser(device=CPU, dtype=torch.float32)
    adapt(denoiser, find_layers(denoiser, ["to_q"]))
    ours = family.load_text_encoder(device=CPU)
    for model in ours.modules().values():
        adapt(model, find_layers(model, RECIPES[recipe].text_encoder_modules))
    weights = {name: read_weights(model) for name, model in ours.modules().items()}
    tensors = family.to_file(read_weights(denoiser), alpha=2.0, text_weights=weights)
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    assert {name.split(".")[0] for name in tensors if not name.startswith("lora_unet")} == {
        f"{prefix}_text_model_encoder_layers_{block}_{layer}"
        for prefix in prefixes.values()
        for block in range(TEXT_BLOCKS[prefix])
        for layer in CLIP_LAYERS
    }

    theirs = family.load_text_encoder(device=CPU)
    fresh = family.load_denoiser(device=CPU, dtype=torch.float32)
    family.attach_file(fresh, path, name="theirs", text_encoders=theirs.modules())
    for name, model in ours.modules().items():
        trained, read = read_layers(model, TRAINED), read_layers(theirs.modules()[name], "theirs")
        assert trained.keys() == read.keys()
        assert all(torch.equal(trained[one].effect(), read[one].effect()) for one in trained)
    said, heard = (encoder.encode(["a zorp"])[0] for encoder in (ours, theirs))
    assert all(torch.equal(said[name], heard[name]) for name in said)


def _adaptable(model: torch.nn.Module) -> list[str]:
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]
