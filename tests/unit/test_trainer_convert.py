"""A LoRA of FLUX under sd-scripts' names does to the joined matrices what it did to their parts."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lora_trainer.cli import main
from lora_trainer.convert import to_sd_scripts

WIDTH, RANK, ALPHA = 6, 2, 3.0
# Layer of diffusers, matrix of sd-scripts, the rows that it has there, all rows of the matrix.
PLACES: dict[str, tuple[str, slice, int]] = {
    "transformer_blocks.7.attn.to_q": ("double_blocks_7_img_attn_qkv", slice(0, 6), 18),
    "transformer_blocks.7.attn.to_v": ("double_blocks_7_img_attn_qkv", slice(12, 18), 18),
    "transformer_blocks.7.attn.add_k_proj": ("double_blocks_7_txt_attn_qkv", slice(6, 12), 18),
    "transformer_blocks.7.attn.to_out.0": ("double_blocks_7_img_attn_proj", slice(0, 6), 6),
    "transformer_blocks.7.attn.to_add_out": ("double_blocks_7_txt_attn_proj", slice(0, 6), 6),
    "transformer_blocks.7.ff.net.0.proj": ("double_blocks_7_img_mlp_0", slice(0, 24), 24),
    "single_transformer_blocks.3.attn.to_k": ("single_blocks_3_linear1", slice(6, 12), 42),
    "single_transformer_blocks.3.proj_mlp": ("single_blocks_3_linear1", slice(18, 42), 42),
    "single_transformer_blocks.3.proj_out": ("single_blocks_3_linear2", slice(0, 6), 6),
}


def _published(layers: list[str], *, alpha: float = ALPHA) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for layer in layers:
        _, rows, _ = PLACES[layer]
        height = rows.stop - rows.start
        tensors[f"transformer.{layer}.lora_A.weight"] = torch.randn(
            RANK, WIDTH, generator=generator
        )
        tensors[f"transformer.{layer}.lora_B.weight"] = torch.randn(
            height, RANK, generator=generator
        )
        tensors[f"transformer.{layer}.alpha"] = torch.tensor(alpha)
    return tensors


def _effect(tensors: dict[str, torch.Tensor], matrix: str) -> torch.Tensor:
    down = tensors[f"lora_unet_{matrix}.lora_down.weight"]
    up = tensors[f"lora_unet_{matrix}.lora_up.weight"]
    return float(tensors[f"lora_unet_{matrix}.alpha"]) / len(down) * (up @ down)


def test_every_part_acts_on_its_own_rows_as_strongly_as_before() -> None:
    published = _published(list(PLACES))
    converted = to_sd_scripts(published)
    seen: dict[str, torch.Tensor] = {}
    for layer, (matrix, rows, height) in PLACES.items():
        up, down = (published[f"transformer.{layer}.lora_{side}.weight"] for side in "BA")
        expected = seen.setdefault(matrix, torch.zeros(height, WIDTH))
        expected[rows] = ALPHA / RANK * (up @ down)
    assert {name.split(".")[0] for name in converted} == {f"lora_unet_{name}" for name in seen}
    for matrix, expected in seen.items():
        torch.testing.assert_close(_effect(converted, matrix), expected)


def test_parts_that_were_not_trained_stay_untouched() -> None:
    converted = to_sd_scripts(_published(["single_transformer_blocks.3.attn.to_k"]))
    effect = _effect(converted, "single_blocks_3_linear1")
    assert effect.shape == (42, WIDTH)
    assert bool(effect[6:12].any())
    assert not effect[:6].any()
    assert not effect[12:].any()


def test_the_command_keeps_the_metadata(tmp_path: Path) -> None:
    source, target = tmp_path / "model.safetensors", tmp_path / "converted.safetensors"
    save_file(_published(list(PLACES)), source, metadata={"ss_network_dim": "2"})
    assert main(["convert", str(source), str(target)]) == 0
    with safe_open(target, "pt") as file:
        assert file.metadata() == {"ss_network_dim": "2"}
        assert "lora_unet_single_blocks_3_linear1.alpha" in set(file.keys())


REFUSED = {
    "another family's layer": "lora_unet_down_blocks_0_attentions_0_proj_in",
    "a layer outside the blocks": "transformer.norm_out.linear",
    "a layer that is not FLUX's": "transformer.transformer_blocks.0.attn.to_w",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_converted_is_refused_by_name(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = REFUSED[case]
    source, target = tmp_path / "model.safetensors", tmp_path / "converted.safetensors"
    blank = {f"{layer}.lora_A.weight": torch.ones(2, 6), f"{layer}.lora_B.weight": torch.ones(6, 2)}
    save_file(blank, source)
    assert main(["convert", str(source), str(target)]) == 65
    assert layer in capsys.readouterr().err
    assert not target.exists()


def test_parts_of_different_strength_are_refused() -> None:
    parts = _published(["transformer_blocks.7.attn.to_q", "transformer_blocks.7.attn.to_v"])
    parts["transformer.transformer_blocks.7.attn.to_v.alpha"] = torch.tensor(1.0)
    with pytest.raises(ValueError, match="img_attn_qkv: its parts have different alphas"):
        to_sd_scripts(parts)
