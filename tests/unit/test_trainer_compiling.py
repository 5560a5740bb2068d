"""Compiling is worth it only for runs that win its cost back."""

import pytest

from lora_trainer.compiling import pays

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
