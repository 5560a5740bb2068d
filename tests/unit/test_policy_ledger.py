"""The ledger: what counts, what gives its place back, and that nothing ever counts twice."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.policies import NOVEMBER, a_ledger, a_speed, seen

from lora_api.policy_ledger import (
    MAX_LEDGER_BYTES,
    MAX_OPEN_RUNS,
    MAX_USERS,
    RunState,
    TrainingLedgerSpec,
)
from lora_api.status import LoRATrainingStatus, Phase, ProgressStatus
from lora_operator.policy.ledger import (
    OTHERS,
    Entry,
    Ledger,
    Sighting,
    Total,
    admit,
    next_month,
    observe,
    settle,
    vanish,
)
from lora_operator.policy.ledger_document import read_ledger, write_ledger
from lora_operator.policy.months import Month
from lora_operator.policy.sightings import state_of
from lora_operator.policy.speed import MEASURED_STEPS, Measured

WAITS, RUNS, COUNTED, RETURNED = (
    RunState.WAITING,
    RunState.RUNNING,
    RunState.COUNTED,
    RunState.RETURNED,
)


def after(*states: RunState) -> Ledger:
    """The ledger after anna's run was admitted and seen in each of these states in turn."""
    ledger = admit(a_ledger(), "u1", seen(WAITS), None)
    for state in states:
        ledger = observe(ledger, "u1", seen(state))
    return ledger


PLACES = [
    ("a run that waits has its place", after(), 1),
    ("a run at work has its place", after(RUNS), 1),
    ("a completed run keeps its place", after(RUNS, COUNTED), 1),
    ("a failed run gives its place back", after(RUNS, RETURNED), 0),
    ("an end is final, whatever is seen later", after(RUNS, RETURNED, RUNS), 0),
    ("a suspended run keeps its place", after(RUNS, WAITS), 1),
    ("a summed up run keeps its place", settle(after(RUNS, COUNTED), "u1"), 1),
    ("a run that is not over is not summed up", settle(after(RUNS), "u1"), 1),
    ("to delete a run at work gives nothing back", vanish(after(RUNS), "u1"), 1),
    ("to delete a run that waits gives nothing back", vanish(after(), "u1"), 1),
    ("to delete a failed run changes nothing", vanish(after(RUNS, RETURNED), "u1"), 0),
    ("a run that nobody knows vanishes without a trace", vanish(a_ledger(), "u1"), 0),
    ("a run that was there before the policy counts", observe(a_ledger(), "u1", seen(COUNTED)), 1),
    (
        "a run that is accounted for is not counted again",
        observe(a_ledger(), "u1", seen(COUNTED), accounted=True),
        0,
    ),
]


@pytest.mark.parametrize(("sentence", "ledger", "places"), PLACES, ids=[row[0] for row in PLACES])
def test_places(sentence: str, ledger: Ledger, places: int) -> None:
    assert ledger.places.get("anna", 0) == places, sentence


STATES = [
    ("no phase yet", None, 0, WAITS),
    ("queued", Phase.QUEUED, 0, WAITS),
    ("pending", Phase.PENDING, 0, WAITS),
    ("suspended", Phase.SUSPENDED, 300, WAITS),
    ("starting", Phase.STARTING, 0, RUNS),
    ("training", Phase.TRAINING, 300, RUNS),
    ("validating", Phase.VALIDATING, 1000, RUNS),
    ("uploading", Phase.UPLOADING, 1000, RUNS),
    ("completed", Phase.COMPLETED, 1000, COUNTED),
    ("failed after many steps", Phase.FAILED, 900, RETURNED),
    ("cancelled before any step", Phase.CANCELLED, 0, RETURNED),
    ("cancelled after a step", Phase.CANCELLED, 1, COUNTED),
]


@pytest.mark.parametrize(
    ("sentence", "phase", "step", "state"), STATES, ids=[row[0] for row in STATES]
)
def test_what_a_phase_means_for_the_count(
    sentence: str, phase: Phase | None, step: int, state: RunState
) -> None:
    status = LoRATrainingStatus(phase=phase, progress=ProgressStatus(step=step))
    assert state_of(status) is state, sentence


def test_admitted_twice_a_run_has_one_place_and_its_first_estimate() -> None:
    once = admit(a_ledger(), "u1", seen(WAITS), Decimal(2))
    assert admit(once, "u1", seen(WAITS), Decimal(5)) == once


def test_seconds_are_paid_at_the_price_of_the_node_they_were_spent_on() -> None:
    ledger = observe(after(), "u1", seen(RUNS, gpu_seconds=1000, price="3.6"))
    ledger = observe(ledger, "u1", seen(RUNS, gpu_seconds=1500, price="7.2"))
    assert ledger.spent == Decimal(2)


def test_a_clock_that_goes_back_unpays_nothing_and_pays_nothing_twice() -> None:
    ledger = observe(after(), "u1", seen(RUNS, gpu_seconds=1000))
    assert observe(ledger, "u1", seen(RUNS, gpu_seconds=400)) == ledger
    assert observe(ledger, "u1", seen(RUNS, gpu_seconds=1100)).spent == Decimal("1.1")


def test_a_failed_run_is_paid_for_though_it_does_not_count() -> None:
    ledger = settle(observe(after(RUNS), "u1", seen(RETURNED, gpu_seconds=500)), "u1")
    assert (ledger.spent, ledger.places) == (Decimal("0.5"), {"anna": 0})


def test_a_promise_shrinks_as_money_is_spent_and_ends_with_the_run() -> None:
    ledger = admit(a_ledger(), "u1", seen(WAITS), Decimal(2))
    assert ledger.promised == Decimal(2)
    ledger = observe(ledger, "u1", seen(RUNS, gpu_seconds=500))
    assert ledger.promised == Decimal("1.5")
    ledger = observe(ledger, "u1", seen(RUNS, gpu_seconds=2500))
    assert ledger.promised == 0
    ledger = observe(admit(a_ledger(), "u1", seen(WAITS), Decimal(2)), "u1", seen(COUNTED))
    assert ledger.promised == 0


def test_speed_is_learned_from_runs_that_ended_well_and_kept_into_the_next_month() -> None:
    well = seen(COUNTED, gpu_seconds=900, steps=1000, train_seconds=600, product="T4")
    ledger = observe(after(), "u1", well)
    ledger = observe(ledger, "u2", seen(RETURNED, gpu_seconds=9000, steps=900, train_seconds=99))
    ledger = settle(settle(ledger, "u1"), "u2")
    december = next_month(ledger, Month(2026, 12))
    assert december.speeds == a_speed(runs=1, work=1000, seconds=600, other=300, product="T4")
    assert december.spent == 0
    assert not december.places


def test_a_run_of_a_few_steps_teaches_no_speed() -> None:
    for steps, runs in ((MEASURED_STEPS - 1, 0), (MEASURED_STEPS, 1)):
        sight = seen(COUNTED, gpu_seconds=1200, steps=steps, train_seconds=1000)
        assert len(settle(observe(after(), "u1", sight), "u1").speeds) == runs


def test_a_run_whose_training_nobody_timed_teaches_no_speed() -> None:
    for train_seconds in (None, 0):
        sight = seen(COUNTED, gpu_seconds=1200, steps=1000, train_seconds=train_seconds)
        assert not settle(observe(after(), "u1", sight), "u1").speeds


def test_what_was_timed_survives_a_crash_before_it_is_summed_up() -> None:
    sight = seen(COUNTED, gpu_seconds=1200, steps=1000, train_seconds=1000, product="H100")
    back = read_ledger(write_ledger(observe(after(), "u1", sight)))
    assert settle(back, "u1").speeds == a_speed(
        runs=1, work=1000, seconds=1000, other=200, product="H100"
    )


def test_speeds_of_before_work_was_counted_are_left_out() -> None:
    text = '{"month": "2026-11", "speeds": [{"recipe": "sd15", "steps": 9, "gpuSeconds": 9}]}'
    assert not read_ledger(TrainingLedgerSpec.model_validate_json(text)).speeds


def test_a_ledger_takes_only_so_many_runs_that_are_not_over() -> None:
    entry = after().runs["u1"]
    assert not after().is_full
    assert Ledger(month=NOVEMBER, runs={str(n): entry for n in range(MAX_OPEN_RUNS)}).is_full


ETCD_TAKES = 1.5 * 2**20
GROWN = Entry(
    user="u" * 253,
    recipe="sdxl",
    gpus=16,
    state=RETURNED,
    gpu_seconds=16 * 14 * 86_400,
    steps=1_000_000,
    cost=Decimal("999999.999999"),
    estimate=Decimal("999999.999999"),
    queued_at=datetime(2026, 11, 22, 1, 2, 3, 456789, tzinfo=UTC),
)


def bytes_of(ledger: Ledger) -> int:
    document = write_ledger(ledger)
    return len(document.model_dump_json(by_alias=True, exclude_none=True))


def test_a_ledger_that_takes_one_more_run_can_be_written_whatever_its_runs_become() -> None:
    sums = {f"{number:0253}": Total(trainings=9) for number in range(500)}
    ledger = Ledger(month=NOVEMBER, users=sums)
    uid = "4f7d8a10-aaaa-4aaa-8aaa-{:012}"
    runs: dict[str, Entry] = {}
    while not replace(ledger, runs=runs).is_full:
        for _ in range(20):
            runs[uid.format(len(runs))] = GROWN
    assert 2000 < len(runs) < MAX_OPEN_RUNS
    timed = Measured(product="p" * 63, work=10**13, train_seconds=10**8)
    completed = dict.fromkeys(list(runs)[:1000], replace(GROWN, measured=timed))
    assert bytes_of(replace(ledger, runs={**runs, **completed})) < ETCD_TAKES
    assert bytes_of(replace(ledger, runs=runs)) > MAX_LEDGER_BYTES * 0.95, "no room is wasted"


def test_names_of_usual_length_leave_a_ledger_all_its_runs() -> None:
    entry = replace(GROWN, user="anna.example@studio")
    sums = {f"{number:020}": Total(trainings=9) for number in range(MAX_USERS)}
    runs = {str(number): entry for number in range(MAX_OPEN_RUNS - 1)}
    assert not Ledger(month=NOVEMBER, runs=runs, users=sums).is_full


def of_users(count: int, state: RunState) -> Ledger:
    """A ledger in which each of so many users has a run."""
    ledger = a_ledger()
    for number in range(count):
        ledger = observe(ledger, f"u{number}", seen(state, user=f"user{number}", gpu_seconds=1000))
    return ledger


def test_more_users_than_a_ledger_has_sums_lose_neither_money_nor_places() -> None:
    ledger = of_users(MAX_USERS + 100, COUNTED)
    for uid in ledger.runs:
        ledger = settle(ledger, uid)
    back = read_ledger(write_ledger(ledger))
    assert len(back.users) == MAX_USERS
    assert back.users[OTHERS].trainings == 101
    assert (back.spent, sum(back.places.values())) == (ledger.spent, MAX_USERS + 100)
    assert {user: count for user, count in ledger.places.items() if count} == back.places


def test_who_has_no_sum_finds_no_room_where_all_are_taken_and_nobody_else() -> None:
    ledger = of_users(MAX_USERS, RUNS)
    half = settle(observe(ledger, "u0", seen(COUNTED, user="user0")), "u0")
    for full in (ledger, half):
        assert full.has_room_for("user0")
        assert full.has_room_for("user7")
        assert not full.has_room_for("anna")
    assert of_users(MAX_USERS - 1, RUNS).has_room_for("anna")


def test_a_full_ledger_takes_no_run_that_was_there_before_the_policy() -> None:
    entry = after().runs["u1"]
    full = Ledger(month=NOVEMBER, runs={str(n): entry for n in range(MAX_OPEN_RUNS)})
    for state in (RUNS, COUNTED):
        assert observe(full, "older", seen(state, gpu_seconds=1000)) is full


def test_a_month_at_the_highest_price_can_be_written() -> None:
    ledger = observe(
        admit(a_ledger(), "u1", seen(WAITS), Decimal(10**19)),
        "u1",
        seen(RUNS, gpu_seconds=16 * 14 * 86_400 * 10_000, price="999999999999.999999"),
    )
    assert read_ledger(write_ledger(ledger)).spent == ledger.spent


# Anything that may be seen of any of a few runs, in any order.
SIGHTS = st.builds(
    seen,
    st.sampled_from(list(RunState)),
    user=st.sampled_from(["anna", "ben"]),
    gpu_seconds=st.integers(0, 10_000),
    steps=st.integers(0, 1000),
    train_seconds=st.one_of(st.none(), st.integers(0, 10_000)),
    price=st.sampled_from(["0", "1.25", "3.6"]),
)
UIDS = st.sampled_from(["u1", "u2", "u3"])
STEPS = st.one_of(
    st.builds(lambda u, s: lambda at: admit(at, u, s, Decimal(1)), UIDS, SIGHTS),
    st.builds(lambda u, s: lambda at: observe(at, u, s), UIDS, SIGHTS),
    st.builds(lambda u: lambda at: settle(at, u), UIDS),
    st.builds(lambda u: lambda at: vanish(at, u), UIDS),
)


@given(st.lists(STEPS, max_size=30))
def test_a_ledger_read_back_is_the_ledger_that_was_written(
    steps: list[Callable[[Ledger], Ledger]],
) -> None:
    ledger = a_ledger()
    for step in steps:
        ledger = step(ledger)
    text = write_ledger(ledger).model_dump_json(by_alias=True)
    back = read_ledger(TrainingLedgerSpec.model_validate_json(text))
    kept = {user: count for user, count in ledger.places.items() if count}
    assert {user: count for user, count in back.places.items() if count} == kept
    assert (back.spent, back.promised) == (ledger.spent, ledger.promised)
    assert (back.runs, back.users, back.speeds) == (ledger.runs, ledger.users, ledger.speeds)
    assert all(count >= 0 for count in ledger.places.values())


@given(st.lists(STEPS, max_size=30), SIGHTS)
def test_the_same_look_twice_is_the_same_ledger(
    steps: list[Callable[[Ledger], Ledger]], sight: Sighting
) -> None:
    ledger = a_ledger()
    for step in steps:
        ledger = step(ledger)
    once = observe(ledger, "u1", sight)
    assert observe(once, "u1", sight) == once
    assert once.spent >= ledger.spent


@dataclass
class World:
    """Ledger and runs as the API server holds them; each write may be the last before a crash."""

    ledger: TrainingLedgerSpec = field(default_factory=lambda: write_ledger(a_ledger()))
    version: int = 0
    accounted: set[str] = field(default_factory=set)
    writes_left: int = 0

    def write(self, ledger: Ledger, version: int) -> bool:
        """Compare and swap; False where somebody else was faster, or the process is dead."""
        if self.writes_left == 0 or version != self.version:
            return False
        self.writes_left -= 1
        self.ledger, self.version = write_ledger(ledger), self.version + 1
        return True

    def mark(self, uid: str) -> bool:
        if self.writes_left == 0:
            return False
        self.writes_left -= 1
        self.accounted.add(uid)
        return True


def account(world: World, uid: str, sight: Sighting) -> None:
    """What the operator does with one look at a run, from what is stored and nothing else."""
    before = read_ledger(world.ledger)
    ledger = observe(before, uid, sight, accounted=uid in world.accounted)
    if ledger != before and not world.write(ledger, world.version):
        return
    entry = ledger.runs.get(uid)
    if entry is None or entry.state not in {COUNTED, RETURNED}:
        return
    if uid not in world.accounted and not world.mark(uid):
        return
    world.write(settle(ledger, uid), world.version)


@given(
    st.lists(
        st.tuples(
            UIDS,
            st.sampled_from([RUNS, COUNTED]),
            st.integers(0, 3),
        ),
        max_size=25,
    )
)
def test_killed_between_any_two_writes_every_run_counts_once(
    looks: list[tuple[str, RunState, int]],
) -> None:
    world = World()
    ended: set[str] = set()
    begun: set[str] = set()
    for uid, state, writes in looks:
        begun.add(uid)
        final = COUNTED if uid in ended else state
        ended |= {uid} if final is COUNTED else set()
        world.writes_left = writes
        account(world, uid, seen(final, gpu_seconds=1000))
    for uid in begun:
        # The next leader looks at every run until there is nothing left to write.
        world.writes_left = 10
        sight = seen(COUNTED if uid in ended else RUNS, gpu_seconds=1000)
        account(world, uid, sight)
        stored = copy.deepcopy(world.ledger)
        account(world, uid, sight)
        assert world.ledger == stored
    ledger = read_ledger(world.ledger)
    assert ledger.places.get("anna", 0) == len(begun)
    assert ledger.spent == len(begun)


def test_who_read_an_older_ledger_does_not_overwrite_a_newer_one() -> None:
    world = World(writes_left=5)
    stale = world.version
    assert world.write(after(RUNS), world.version)
    assert not world.write(a_ledger(), stale)
    assert read_ledger(world.ledger).places == {"anna": 1}
