"""What happens at step n is a function of n."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_api.settings import LrScheduler
from lora_trainer.schedule import batch_at, learning_rate_at, seed_for

RATES: dict[str, tuple[LrScheduler, int, int, float]] = {
    "the first warm-up step is not zero": (LrScheduler.COSINE, 4, 0, 0.25),
    "the last warm-up step has the peak": (LrScheduler.COSINE, 4, 3, 1.0),
    "cosine starts at the peak": (LrScheduler.COSINE, 0, 0, 1.0),
    "cosine is half way down in the middle": (LrScheduler.COSINE, 0, 50, 0.5),
    "linear is half way down in the middle": (LrScheduler.LINEAR, 0, 50, 0.5),
    "linear ends near zero": (LrScheduler.LINEAR, 0, 99, 0.01),
    "constant stays": (LrScheduler.CONSTANT, 10, 99, 1.0),
    "warm-up as long as the run": (LrScheduler.COSINE, 100, 99, 1.0),
}


@pytest.mark.parametrize("name", RATES)
def test_learning_rate(name: str) -> None:
    course, warmup, step, expected = RATES[name]
    rate = learning_rate_at(step, peak=1.0, warmup_steps=warmup, total_steps=100, course=course)
    assert rate == pytest.approx(expected)


@given(
    course=st.sampled_from(list(LrScheduler)),
    total=st.integers(1, 500),
    warmup=st.integers(0, 500),
    step=st.integers(0, 499),
)
def test_the_learning_rate_never_leaves_its_bounds(
    course: LrScheduler, total: int, warmup: int, step: int
) -> None:
    rate = learning_rate_at(
        min(step, total - 1),
        peak=1e-3,
        warmup_steps=min(warmup, total),
        total_steps=total,
        course=course,
    )
    assert 0.0 <= rate <= 1e-3
    assert math.isfinite(rate)


@given(count=st.integers(1, 12), size=st.integers(1, 9), epochs=st.integers(1, 3))
def test_every_epoch_sees_every_sample_once(count: int, size: int, epochs: int) -> None:
    steps = -(-count * epochs // size)
    seen = [i for s in range(steps) for i in batch_at(s, batch_size=size, count=count, seed=3)]
    for epoch in range(epochs):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_epochs_are_shuffled_differently() -> None:
    orders = {tuple(batch_at(e, batch_size=10, count=10, seed=0)) for e in range(5)}
    assert len(orders) == 5


def test_seeds_differ_by_run_purpose_and_index_and_never_change() -> None:
    seeds = {seed_for(r, p, i) for r in range(3) for p in ("step", "lora") for i in range(3)}
    assert len(seeds) == 18
    assert all(0 <= seed < 2**63 for seed in seeds)
    # A checkpoint of an older version goes on with these.
    assert seed_for(0, "step", 0) == seed_for(0, "step", 0) == SEED_OF_THE_FIRST_STEP


SEED_OF_THE_FIRST_STEP = 1_373_431_530_665_165_896
