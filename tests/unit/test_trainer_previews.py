"""Drawing on the way leaves no trace in what is trained."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lora_trainer.previews import Previews
from lora_trainer.sample import planned_previews
from lora_trainer.stopping import StopFlag


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
        stop=StopFlag(),
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


class _SlowBrush:
    """Draws in many passes; a stop is asked for in one of them."""

    def __init__(self, model: torch.nn.Module, stop: StopFlag, *, asked_at: int) -> None:
        self._model = model
        self._stop = stop
        self._asked_at = asked_at
        self.passes = 0

    def draw(self, prompt: str, seeds: list[int]) -> list[Image.Image]:
        for _ in range(5):
            self.passes += 1
            if self.passes == self._asked_at:
                self._stop.request()
            self._model(torch.zeros(1))
        return [Image.new("RGB", (8, 8)) for _ in seeds]


def test_a_stop_ends_the_drawing_at_the_next_pass_and_leaves_the_rest(tmp_path: Path) -> None:
    model, stop = torch.nn.Dropout(), StopFlag()
    brush: Any = _SlowBrush(model, stop, asked_at=7)
    previews = Previews(
        tmp_path,
        prompts=["a cat", "a dog", "a cow"],
        every_steps=2,
        total_steps=9,
        seed=1,
        models=[model],
        device=torch.device("cpu"),
        alive=lambda: None,
        stop=stop,
        brush=lambda: brush,
        finished=nullcontext,
    )
    previews.applied(2)  # returns: what was trained is the loop's to save
    assert brush.passes == 7
    assert model.training
    planned = planned_previews(tmp_path, ["a cat", "a dog", "a cow"], seed=1, step=2)
    assert [preview.path.exists() for preview in planned] == [True, False, False]
