"""Figures come back from a device soon, however slow its steps are, and nobody waits for them."""

import torch

from lora_trainer.readout import SECONDS_BETWEEN_READS, STEPS_BETWEEN_READS, Readout

_DEVICE = torch.device("meta")  # only its type is looked at


class AClock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def _steps_heard_of(seconds_per_step: float, *, steps: int, early: bool = True) -> list[list[int]]:
    """Which steps come back when each of them has been submitted."""
    clock = AClock()
    readout = Readout[int](_DEVICE, early=early, clock=clock)
    heard = []
    for step in range(steps):
        clock.seconds += seconds_per_step
        heard.append([note for note, _ in readout.push(step, torch.tensor([float(step)]))])
    return heard


def test_fast_steps_come_back_together() -> None:
    heard = _steps_heard_of(0.001, steps=STEPS_BETWEEN_READS + 1)
    assert not any(heard[:STEPS_BETWEEN_READS])
    assert heard[-1] == list(range(STEPS_BETWEEN_READS))


def test_a_slow_step_is_heard_of_when_the_next_one_is_submitted() -> None:
    assert _steps_heard_of(SECONDS_BETWEEN_READS + 1, steps=4) == [[], [0], [1], [2]]


def test_processes_that_decide_together_hear_of_the_same_steps_at_the_same_time() -> None:
    fast = _steps_heard_of(0.001, steps=2 * STEPS_BETWEEN_READS, early=False)
    slow = _steps_heard_of(60.0, steps=2 * STEPS_BETWEEN_READS, early=False)
    assert fast == slow
    assert fast[-1] == list(range(STEPS_BETWEEN_READS))


def test_in_the_end_all_have_come_back_in_order() -> None:
    readout = Readout[int](_DEVICE)
    for step in range(3):
        readout.push(step, torch.tensor([float(step)]))
    assert readout.drain() == [(step, [float(step)]) for step in range(3)]
