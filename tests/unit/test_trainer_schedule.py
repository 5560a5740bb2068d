"""What happens at step n is a function of n."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_api.settings import LrScheduler
from lora_trainer.schedule import BatchOrder, learning_rate_at, seed_for, steps_of

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
    order = BatchOrder([range(count)], batch_size=size, seed=3)
    seen = [i for number in range(-(-count * epochs // size)) for i in order.at(number)]
    for epoch in range(epochs):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(
    counts=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    size=st.integers(1, 5),
    cycle=st.integers(0, 3),
)
def test_batches_have_one_shape_are_full_and_see_every_sample_equally_often(
    counts: list[int], size: int, cycle: int
) -> None:
    groups, first = [], 0
    for count in counts:
        groups.append(range(first, first + count))
        first += count
    order = BatchOrder(groups, batch_size=size, seed=3)
    batches = [order.at(number) for number in range(cycle * first, (cycle + 1) * first)]
    assert all(len(batch) == size for batch in batches)
    assert all(any(set(batch) <= set(group) for group in groups) for batch in batches)
    seen = Counter(index for batch in batches for index in batch)
    assert seen == dict.fromkeys(range(first), size)


def test_the_first_batch_of_each_shape_has_that_shape() -> None:
    groups = [range(4), range(4, 5), range(5, 8)]
    order = BatchOrder(groups, batch_size=2, seed=1)
    firsts = order.first_of_each_group()
    assert [set(order.at(number)) <= set(g) for number, g in zip(firsts, groups, strict=True)] == [
        True,
        True,
        True,
    ]


def test_rare_shapes_come_early_and_late_not_all_at_once() -> None:
    groups = [range(30), range(30, 36)]
    order = BatchOrder(groups, batch_size=1, seed=0)
    rare = [number for number in range(36) if order.at(number)[0] >= 30]
    assert len(rare) == 6
    assert rare[0] < 12
    assert rare[-1] >= 24


def test_epochs_are_shuffled_differently() -> None:
    order = BatchOrder([range(10)], batch_size=10, seed=0)
    assert len({tuple(order.at(epoch)) for epoch in range(5)}) == 5


EPOCHS: dict[str, tuple[int, int, int, int]] = {
    "one step sees all": (1, 4, 4, 1),
    "a rest makes a step": (1, 5, 4, 2),
    "epochs follow without a gap": (2, 5, 4, 3),
    "more samples in a step than there are": (1, 3, 64, 1),
}


@pytest.mark.parametrize("name", EPOCHS)
def test_steps_of_epochs(name: str) -> None:
    epochs, images, per_step, expected = EPOCHS[name]
    assert steps_of(epochs, images=images, per_step=per_step) == expected


def test_seeds_differ_by_run_purpose_and_index_and_never_change() -> None:
    seeds = {seed_for(r, p, i) for r in range(3) for p in ("step", "lora") for i in range(3)}
    assert len(seeds) == 18
    assert all(0 <= seed < 2**63 for seed in seeds)
    # A checkpoint of an older version goes on with these.
    assert seed_for(0, "step", 0) == seed_for(0, "step", 0) == SEED_OF_THE_FIRST_STEP


SEED_OF_THE_FIRST_STEP = 1_373_431_530_665_165_896
