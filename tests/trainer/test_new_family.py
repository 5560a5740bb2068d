"""Adding a family is what docs/recipes.md says it is: a file and its facts, nothing else."""

from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from tests.trainer import new_family
from tests.trainer.jobs import a_job

from lora_trainer.recipes import RECIPES


def test_a_family_is_a_file_and_its_facts(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else in the trainer knows its name, and all stages do their work with it."""
    monkeypatch.setitem(RECIPES, "auraflow", new_family.FACTS)
    base = new_family.make_auraflow(tmp_path / "base")
    job = a_job(tmp_path, base=base, dataset=pictures).having("recipe", "auraflow").with_steps(2)
    code, result = job.having("validation.sampleEverySteps", 1).run()
    assert code == 0, result.message
    path = job.output / "model.safetensors"
    tensors = load_file(path)
    assert any(bool(one.any()) for name, one in tensors.items() if "lora_B" in name)
    assert "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight" in tensors
    with safe_open(path, "pt") as file:
        assert file.metadata()["modelspec.architecture"] == "auraflow/lora"
    assert len(list((job.output / "samples").rglob("*.png"))) == 7  # three pairs, one on the way
