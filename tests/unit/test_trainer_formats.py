"""Kohya keys, safetensors metadata, and which files of a base model are taken."""

import json

import pytest

from lora_api.reasons import Reason
from lora_trainer.basemodel import select_files
from lora_trainer.errors import TrainerError
from lora_trainer.file_header import with_metadata
from lora_trainer.recipes import RECIPES
from lora_trainer.recipes.keys import layer_pairs, unet_layer

# Layer of the UNet in diffusers' words, and the name that sd-scripts and ComfyUI read.
KEYS = {
    "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q": (
        "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q"
    ),
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0": (
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0"
    ),
    "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj": (
        "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_0_proj"
    ),
    "up_blocks.1.attentions.0.proj_in": "lora_unet_up_blocks_1_attentions_0_proj_in",
    "down_blocks.2.resnets.1.conv1": "lora_unet_down_blocks_2_resnets_1_conv1",
}


@pytest.mark.parametrize("layer", KEYS)
def test_a_layer_has_its_kohya_name(layer: str) -> None:
    assert unet_layer(layer) == KEYS[layer]


@pytest.mark.parametrize("names", [["x.lora_A.weight"], ["x.lora_B.weight"], ["x.weight"]])
def test_half_a_pair_is_no_layer(names: list[str]) -> None:
    with pytest.raises(ValueError, match="x"):
        layer_pairs(names)


def _file(header: dict[str, object], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_metadata_is_written_in_one_order_and_leaves_the_tensors_alone() -> None:
    header = {"w": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}}
    one = with_metadata(_file(dict(header), b"abc"), {"b": "2", "a": "1"})
    two = with_metadata(_file(dict(header), b"abc"), {"a": "1", "b": "2"})
    assert one == two
    assert one.endswith(b"abc")
    assert (len(one) - 3) % 8 == 0
    written = json.loads(one[8 : 8 + int.from_bytes(one[:8], "little")])
    assert written["__metadata__"] == {"a": "1", "b": "2"}


SD15 = RECIPES["sd15"]
FOLDER = {
    "model_index.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "scheduler/scheduler_config.json",
}


def test_only_what_is_needed_is_taken() -> None:
    mirror = FOLDER | {
        "README.md",
        "v1-5-pruned.ckpt",
        "v1-5-pruned.safetensors",
        "safety_checker/model.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
    }
    chosen = select_files(mirror, SD15, where="baseModel.uri x")
    assert set(chosen.configs + chosen.weights) == FOLDER
    assert set(chosen.variants.values()) == {None}


def test_the_half_precision_variant_is_taken_where_it_is_the_only_one() -> None:
    names = FOLDER - {"unet/diffusion_pytorch_model.safetensors"}
    names |= {"unet/diffusion_pytorch_model.fp16.safetensors"}
    chosen = select_files(names, SD15, where="baseModel.uri x")
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in chosen.weights
    assert chosen.variants["unet"] == "fp16"


def test_shards_are_taken_with_their_index() -> None:
    shards = {f"unet/diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    index = "unet/diffusion_pytorch_model.safetensors.index.json"
    names = (FOLDER - {"unet/diffusion_pytorch_model.safetensors"}) | shards | {index}
    chosen = select_files(names, SD15, where="baseModel.uri x")
    assert shards <= set(chosen.weights)
    assert index in chosen.configs


MISSING: dict[str, tuple[set[str], Reason, list[str]]] = {
    "nothing": (set(), Reason.BASE_MODEL_NOT_FOUND, ["nothing lies there"]),
    "a single-file checkpoint": (
        {"sd15.safetensors"},
        Reason.BASE_MODEL_NOT_FOUND,
        ["model_index.json", "sd15.safetensors is a single-file checkpoint"],
    ),
    "pickled weights, and a component missing": (
        (
            FOLDER
            - {"unet/diffusion_pytorch_model.safetensors"}
            - {name for name in FOLDER if name.startswith("vae/")}
        )
        | {"unet/diffusion_pytorch_model.bin"},
        Reason.BASE_MODEL_INVALID,
        ["unet/diffusion_pytorch_model.bin is a pickled file", "vae/ is missing"],
    ),
    "no config": (
        FOLDER - {"unet/config.json"},
        Reason.BASE_MODEL_INVALID,
        ["unet/config.json is missing"],
    ),
}


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_is_said_at_once(name: str) -> None:
    names, reason, words = MISSING[name]
    with pytest.raises(TrainerError) as caught:
        select_files(names, SD15, where="baseModel.uri s3://b/x")
    assert caught.value.reason is reason
    assert all(word in caught.value.message for word in [*words, "baseModel.uri"])
