"""What the storm calls late."""

import pytest
from tests.chaos.lateness import JobSight, Lateness

# Each look: the run's Jobs by name and whether they have ended, then whether the run has.
Look = tuple[dict[str, bool], bool]
COURSES: dict[str, tuple[list[Look], float | None]] = {
    "a run that tells of its Job's end at once": ([({"1": False}, False), ({"1": True}, True)], 0),
    "a run that tells 20 s later": (
        [({"1": True}, False), ({"1": True}, False), ({"1": True}, True)],
        20,
    ),
    "a run whose first Job was followed by another": (
        [({"1": True}, False), ({"1": True, "2": False}, False), ({"1": True, "2": True}, True)],
        0,
    ),
    "a run whose upload Job stored it later, and is gone": (
        [({"1": True}, False), ({"1": True, "upload": True}, False), ({"1": True}, True)],
        10,
    ),
    "a run that says it has ended while a Job of it goes on": (
        [({"1": True, "2": False}, True)],
        None,
    ),
    "a run that never tells": ([({"1": True}, False)] * 3, None),
}


@pytest.mark.parametrize("sentence", COURSES)
def test_it_is_told_how_late_is(sentence: str) -> None:
    looks, expected = COURSES[sentence]
    lateness = Lateness()
    for number, (jobs, has_ended) in enumerate(looks):
        sights = [JobSight("anna", name, finished) for name, finished in jobs.items()]
        lateness.look(10.0 * number, sights, {"anna"} if has_ended else set())
    assert lateness.seconds.get("anna") == expected


def test_time_in_which_nobody_could_be_told_does_not_count() -> None:
    lateness = Lateness()
    job = JobSight("anna", "1", finished=True)
    lateness.look(0, [job], set())
    lateness.excuse(25)
    lateness.look(30, [job], {"anna"})
    assert lateness.seconds == {"anna": 5}
