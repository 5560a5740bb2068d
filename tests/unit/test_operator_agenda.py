"""Which trainers are asked when: few often, many when they have something to tell."""

from __future__ import annotations

import pytest
from tests.sights import a_progress

from lora_api.progress import Progress, Stage
from lora_operator.agenda import PULLS_PER_SECOND, Agenda, pace, seconds_to_news

MANY = 5000


def training(step: int, *, of: int = 1000, speed: float | None = 0.5) -> Progress:
    told = a_progress(Stage.TRAIN, step)
    return told.model_copy(update={"total_steps": of, "steps_per_second": speed})


def test_the_pace_adapts_to_the_number_of_runs() -> None:
    assert pace(1) == pace(PULLS_PER_SECOND) == 1
    assert pace(1000) == 5
    assert pace(1_000_000) == 30


NEWS: dict[str, tuple[Progress, int, float]] = {
    "one of few is asked every second": (training(1), 10, 1.0),
    "one of many, when its next percent is due": (training(405), MANY, 10.5),
    "just before a percent, soon": (training(409), MANY, 2.34),
    "at high speed, not more than every second": (training(405, speed=1e5), MANY, 1.0),
    "at low speed, every half a minute": (training(405, speed=1e-3), MANY, 30.0),
    "who does not know its speed, in turn": (training(405, speed=None), MANY, 25.0),
    "who does not know its steps, in turn": (training(0, of=0), MANY, 25.0),
    "who has done the last step, in turn": (training(1000), 300, 1.5),
    "who does not train, in turn": (a_progress(Stage.LOAD, 0), MANY, 25.0),
}


@pytest.mark.parametrize("sentence", NEWS)
def test_of_thousands(sentence: str) -> None:
    told, running, seconds = NEWS[sentence]
    assert seconds_to_news(told, running=running) == pytest.approx(seconds)


def test_the_longest_overdue_are_asked_first_and_everybody_in_the_end() -> None:
    agenda = Agenda()
    everybody = [f"pod-{number:04}" for number in range(2 * PULLS_PER_SECOND)]
    first = agenda.take(everybody, 0.0)
    second = agenda.take(everybody, 1.0)
    assert len(first) == len(second) == PULLS_PER_SECOND
    assert first | second == set(everybody)


def test_who_was_asked_and_said_nothing_is_asked_again_in_its_turn() -> None:
    agenda = Agenda()
    assert agenda.take(["a"], 0.0) == {"a"}
    assert agenda.take(["a"], 0.5) == set()
    assert agenda.take(["a"], 1.0) == {"a"}


def test_an_answer_says_when_to_ask_again() -> None:
    agenda = Agenda()
    everybody = [f"pod-{number:04}" for number in range(2 * PULLS_PER_SECOND)]
    (one, *_) = agenda.take(everybody, 0.0)
    agenda.heard(one, training(405), 0.0)
    asked = [n for n in range(1, 12) if one in agenda.take([one, *everybody[-300:]], n)]
    assert asked == [11]


def test_who_lets_the_time_pass_is_asked_less_and_less_until_it_answers() -> None:
    agenda = Agenda()
    asked = []
    for now in range(130):
        if agenda.take(["a"], now):
            asked.append(now)
            agenda.hung("a", now)
            assert agenda.is_silent("a")
    assert asked == [0, 2, 6, 14, 30, 60, 90, 120]
    agenda.heard("a", training(405), 130.0)
    assert not agenda.is_silent("a")
    assert agenda.take(["a"], 131.0) == {"a"}


def test_who_is_gone_is_forgotten() -> None:
    agenda = Agenda()
    agenda.take(["a"], 0.0)
    agenda.take([], 0.1)
    agenda.heard("a", training(405), 0.1)
    assert agenda.take(["a"], 0.2) == {"a"}
