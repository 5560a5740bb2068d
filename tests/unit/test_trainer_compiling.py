"""Compiling is worth it only for runs that win its cost back."""

from collections.abc import Callable

import pytest
import torch

from lora_api.reasons import Reason
from lora_api.settings import Switch
from lora_trainer import compiling
from lora_trainer.compiling import agreed_to_compile, compile_now, pays
from lora_trainer.errors import TrainerError
from lora_trainer.group import accelerated

RUNS: dict[str, tuple[int, float, int, bool]] = {
    "a short run never does": (200, 0.5, 1, False),
    "a thousand steps of a second do": (1000, 1.0, 1, True),
    "many shapes cost more than they save": (1000, 1.0, 8, False),
    "a long run pays for them": (10_000, 1.0, 8, True),
    "steps that take no time save none": (10_000, 0.01, 1, False),
}


@pytest.mark.parametrize("name", RUNS)
def test_whether_compiling_pays(name: str) -> None:
    steps, seconds, shapes, expected = RUNS[name]
    assert pays(steps=steps, step_seconds=seconds, shapes=shapes) is expected


DECISIONS: dict[str, tuple[Switch, float | None, bool, bool]] = {
    "never is never": (Switch.NEVER, 10.0, True, False),
    "always is always": (Switch.ALWAYS, None, True, True),
    "auto compiles where it pays": (Switch.AUTO, 10.0, True, True),
    "auto does not where it does not pay": (Switch.AUTO, 0.001, True, False),
    "auto does not without a compiler": (Switch.AUTO, 10.0, False, False),
    "auto does not where no step was measured": (Switch.AUTO, None, True, False),
}


@pytest.mark.parametrize("name", DECISIONS)
def test_who_compiles(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    switch, seconds, has_compiler, expected = DECISIONS[name]
    monkeypatch.setattr(compiling, "has_compiler", lambda: has_compiler)
    with accelerated() as alone:
        found = agreed_to_compile(switch, alone, steps=1000, step_seconds=seconds, shapes=1)
    assert found is expected


class _Blocks(torch.nn.Module):
    """A model whose one block is compiled by a stand-in, which needs no compiler."""

    _repeated_blocks = ("Linear",)

    def __init__(self, compiled: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.block = torch.nn.Linear(2, 2)
        self._compiled = compiled

    def compile_repeated_blocks(self) -> None:
        self.block._compiled_call_impl = self._compiled

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.block(values)
        return found


def _works(values: torch.Tensor) -> torch.Tensor:
    return values + 1


def _breaks(values: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("backend said no")


def _fills_up(values: torch.Tensor) -> torch.Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_compiled_blocks_stay_where_every_shape_runs() -> None:
    model, one = _Blocks(_works), torch.ones(1, 2)
    compile_now(model, lambda: model(one), switch=Switch.AUTO)
    assert torch.equal(model(one), one + 1)


def test_what_does_not_compile_runs_as_it_is_unless_the_job_insists() -> None:
    model, one = _Blocks(_breaks), torch.ones(1, 2)
    compile_now(model, lambda: model(one), switch=Switch.AUTO)
    assert model(one).shape == (1, 2)
    with pytest.raises(TrainerError, match="use auto or never") as refusal:
        compile_now(model, lambda: model(one), switch=Switch.ALWAYS)
    assert refusal.value.reason is Reason.INVALID_JOB
    assert "backend said no" in refusal.value.message


def test_a_model_without_repeated_blocks_is_refused_only_where_the_job_insists() -> None:
    model = torch.nn.Linear(2, 2)
    compile_now(model, lambda: None, switch=Switch.AUTO)
    with pytest.raises(TrainerError, match="no repeated blocks"):
        compile_now(model, lambda: None, switch=Switch.ALWAYS)


def test_running_out_of_memory_while_compiling_steps_down_the_ladder() -> None:
    model = _Blocks(_fills_up)
    with pytest.raises(torch.OutOfMemoryError):
        compile_now(model, lambda: model(torch.ones(1, 2)), switch=Switch.AUTO)
