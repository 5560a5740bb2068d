"""Drawing on the way leaves no trace in what is trained."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lora_trainer.previews import Previews


class _Brush:
    """Notes how the models stand when it draws, and uses up random numbers."""

    def __init__(self, models: list[torch.nn.Module]) -> None:
        self._models = models
        self.modes = list[bool]()

    def draw(self, prompt: str, seeds: list[int]) -> list[Image.Image]:
        self.modes += [model.training for model in self._models]
        self._models[0](torch.rand(3))
        return [Image.new("RGB", (8, 8)) for _ in seeds]


@pytest.mark.parametrize("trains", [True, False])
def test_every_model_draws_without_dropout_and_goes_on_as_before(
    trains: bool, tmp_path: Path
) -> None:
    models: list[torch.nn.Module] = [torch.nn.Dropout(), torch.nn.Dropout().train(trains)]
    brush: Any = _Brush(models)
    signs = list[str]()
    previews = Previews(
        tmp_path,
        prompts=["a cat"],
        every_steps=2,
        total_steps=9,
        seed=1,
        models=models,
        device=torch.device("cpu"),
        alive=lambda: signs.append("of life"),
        brush=lambda: brush,
        finished=nullcontext,
    )
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    previews.applied(2)
    assert signs == ["of life"]
    assert brush.modes == [False, False]
    assert [model.training for model in models] == [True, trains]
    assert torch.equal(torch.rand(1), expected)
