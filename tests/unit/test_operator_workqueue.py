"""The work queue's promises, with a clock that only moves when told to."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lora_operator.workqueue import FAIR_SHARE, Backoff, Schedule, WorkQueue


def a_schedule() -> Schedule[str]:
    return Schedule(backoff=Backoff(first_seconds=1, longest_seconds=8, jitter=0.2), chance=_middle)


def _middle() -> float:
    return 0.5  # no jitter


def drain(schedule: Schedule[str], now: float = 0.0) -> list[str]:
    keys = []
    while (key := schedule.next(now)) is not None:
        keys.append(key)
        schedule.done(key)
    return keys


def test_a_key_asked_for_twice_is_worked_on_once() -> None:
    schedule = a_schedule()
    schedule.add("a")
    schedule.add("a")
    assert drain(schedule) == ["a"]


def test_keys_are_worked_on_in_the_order_they_were_asked_for() -> None:
    schedule = a_schedule()
    for key in "cab":
        schedule.add(key)
    assert drain(schedule) == ["c", "a", "b"]


def test_urgent_keys_go_first_but_leave_a_fair_share_of_looks_to_the_others() -> None:
    schedule = a_schedule()
    urgent = [f"urgent-{number}" for number in range(FAIR_SHARE + 1)]
    for key in "abc":
        schedule.add(key)
    for key in urgent:
        schedule.add(key, urgent=True)
    assert schedule.urgent == FAIR_SHARE + 1
    before = FAIR_SHARE - 1
    assert drain(schedule) == [*urgent[:before], "a", *urgent[before:], "b", "c"]
    assert schedule.urgent == 0


def test_a_key_that_waits_goes_over_to_the_urgent_ones_when_it_becomes_urgent() -> None:
    schedule = a_schedule()
    for key in "abc":
        schedule.add(key)
    for _ in range(2):
        schedule.add("c", urgent=True)
    assert (len(schedule), schedule.urgent) == (3, 1)
    schedule.add("c")
    assert drain(schedule) == ["c", "a", "b"]


def test_urgent_news_during_the_work_leads_to_an_urgent_look_after_it() -> None:
    schedule = a_schedule()
    schedule.add("a")
    schedule.next(0)
    schedule.add("b")
    schedule.add("a", urgent=True)
    schedule.add("a")
    schedule.done("a")
    assert drain(schedule) == ["a", "b"]


def test_a_key_in_work_is_not_given_out_again() -> None:
    schedule = a_schedule()
    schedule.add("a")
    assert schedule.next(0) == "a"
    schedule.add("a")
    assert schedule.next(0) is None


def test_news_during_the_work_leads_to_another_look_after_it() -> None:
    schedule = a_schedule()
    schedule.add("a")
    schedule.next(0)
    schedule.add("a")
    schedule.done("a")
    assert schedule.next(0) == "a"


def test_a_sleeping_key_wakes_at_its_time() -> None:
    schedule = a_schedule()
    schedule.add_at("a", 10)
    assert schedule.next(9.9) is None
    assert schedule.next(10) == "a"


def test_the_earliest_wish_counts() -> None:
    schedule = a_schedule()
    schedule.add_at("a", 10)
    schedule.add_at("a", 5)
    schedule.add_at("a", 20)
    assert schedule.next_due() == 5
    assert drain(schedule, 5) == ["a"]
    assert drain(schedule, 100) == []


def test_a_look_makes_an_earlier_wish_to_be_woken_void() -> None:
    schedule = a_schedule()
    schedule.add_at("a", 10)
    schedule.add("a")
    assert drain(schedule, 0) == ["a"]
    assert schedule.next_due() is None


def test_failures_double_the_wait_up_to_a_limit() -> None:
    schedule = a_schedule()
    schedule.add("a")
    waits, now = [], 0.0
    for _ in range(6):
        assert schedule.next(now) == "a"
        waits.append(schedule.failed("a", now))
        now += waits[-1]
    assert waits == [1, 2, 4, 8, 8, 8]


def test_success_forgets_earlier_failures() -> None:
    schedule = a_schedule()
    schedule.add("a")
    schedule.next(0)
    schedule.failed("a", 0)
    assert schedule.next(1) == "a"
    schedule.done("a")
    schedule.add("a")
    schedule.next(2)
    assert schedule.failed("a", 2) == 1


def test_news_does_not_shorten_a_back_off() -> None:
    schedule = a_schedule()
    schedule.add("a")
    schedule.next(0)
    schedule.failed("a", 0)
    schedule.add("a")
    assert schedule.next(0.5) is None
    assert schedule.next(1) == "a"


def test_a_server_that_asks_for_patience_gets_it() -> None:
    schedule = a_schedule()
    schedule.add("a")
    schedule.next(0)
    assert schedule.failed("a", 0, at_least_seconds=30) == 30


def test_keys_that_failed_together_come_back_apart() -> None:
    chances = iter([0.0, 0.99])
    schedule: Schedule[str] = Schedule(
        backoff=Backoff(first_seconds=10, jitter=0.2), chance=lambda: next(chances)
    )
    for key in "ab":
        schedule.add(key)
        schedule.next(0)
    assert schedule.failed("a", 0) == 8
    assert 11.9 < schedule.failed("b", 0) < 12


@given(st.integers(min_value=1, max_value=10_000), st.floats(min_value=0, max_value=0.999))
def test_no_number_of_failures_breaks_the_back_off(failures: int, chance: float) -> None:
    backoff = Backoff()
    wait = backoff.delay(failures, chance)
    assert 0 < wait <= backoff.longest_seconds * (1 + backoff.jitter)


async def test_get_waits_for_news() -> None:
    queue: WorkQueue[str] = WorkQueue(schedule=Schedule(), clock=asyncio.get_running_loop().time)
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.add("a")
    assert await waiting == "a"


async def test_get_wakes_for_a_sleeping_key() -> None:
    queue: WorkQueue[str] = WorkQueue(schedule=Schedule(), clock=asyncio.get_running_loop().time)
    queue.add_after("a", 0.01)
    assert await queue.get() == "a"


async def test_a_closed_queue_sends_its_workers_home() -> None:
    queue: WorkQueue[str] = WorkQueue(schedule=Schedule(), clock=asyncio.get_running_loop().time)
    waiting = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.close()
    assert await asyncio.gather(*waiting) == [None, None, None]


class AnyUse(RuleBasedStateMachine):
    """Whatever is done with a schedule, no key is lost and none is in work twice."""

    keys = st.sampled_from("abc")

    def __init__(self) -> None:
        super().__init__()
        self.schedule = a_schedule()
        self.now = 0.0
        self.busy: set[str] = set()
        self.wanted: set[str] = set()

    @rule(key=keys)
    def ask(self, key: str) -> None:
        self.schedule.add(key)
        self.wanted.add(key)

    @rule(key=keys, delay=st.floats(min_value=0, max_value=5))
    def ask_later(self, key: str, delay: float) -> None:
        self.schedule.add_at(key, self.now + delay)

    @rule()
    def take(self) -> None:
        key = self.schedule.next(self.now)
        if key is not None:
            assert key not in self.busy
            self.busy.add(key)
            self.wanted.discard(key)

    @rule(succeeds=st.booleans(), data=st.data())
    def finish(self, succeeds: bool, data: st.DataObject) -> None:
        if not self.busy:
            return
        key = data.draw(st.sampled_from(sorted(self.busy)))
        self.busy.discard(key)
        if succeeds:
            self.schedule.done(key)
        else:
            self.schedule.failed(key, self.now)
            self.wanted.add(key)

    @rule(seconds=st.floats(min_value=0.1, max_value=20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def nothing_wanted_is_forgotten(self) -> None:
        if self.wanted - self.busy:
            assert len(self.schedule) or self.schedule.next_due() is not None


TestAnyUse = AnyUse.TestCase
