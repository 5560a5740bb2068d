"""One namespace at its gate: admission, start, end and money move together."""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.policies import NOON, NOVEMBER, a_ledger, a_policy, a_request, a_speed, seen

from lora_api.policy_ledger import MAX_OPEN_RUNS, MAX_USERS, RunState
from lora_operator.policy.gate import adopt, ask, forget, note, pause, recall
from lora_operator.policy.ledger import Ledger, Total, admit
from lora_operator.policy.ledger_document import read_ledger, write_ledger
from lora_operator.policy.limits import Refusal
from lora_operator.policy.months import Month
from lora_operator.policy.queue import level_of
from lora_operator.policy.space import Applicant, Deferred, Namespace
from lora_operator.policy.turns import held_for_money, release

SPEEDS = a_speed(runs=9, work=9000, seconds=4500)


def a_space(*, ledger: Ledger | None = None, **policy: Any) -> Namespace:  # noqa: ANN401
    kept = ledger or a_ledger()
    return Namespace(policy=a_policy(**policy), ledgers={kept.month: kept})


def an_applicant(
    uid: str,
    user: str = "anna",
    *,
    gpus: int = 1,
    created_at: datetime = NOON,
    priority: int = 0,
) -> Applicant:
    return Applicant(
        uid=uid,
        name=uid,
        request=a_request(user, gpus=gpus),
        created_at=created_at,
        priority=priority,
    )


def admitted(space: Namespace, *runs: Applicant) -> Namespace:
    for run in runs:
        space, verdict = ask(space, run)
        assert verdict is None
    return space


def test_who_was_making_room_when_the_operator_died_goes_on_to_make_it() -> None:
    known = release(admitted(a_space(maxConcurrentGPUs=1), an_applicant("u1")), NOON).namespace
    crashed = replace(known, working={}, waiting={}, preempted=frozenset())
    plain = recall(crashed, an_applicant("u1"))
    assert (list(plain.working), plain.preempted) == (["u1"], frozenset())
    again = recall(crashed, an_applicant("u1"), makes_room=True)
    assert again.preempted == {"u1"}
    after = release(admitted(again, an_applicant("u2")), NOON)
    assert after.started == (), "what becomes free is for whom it was freed"


def test_who_only_waited_when_the_operator_died_makes_no_room() -> None:
    known = admitted(a_space(maxConcurrentGPUs=1), an_applicant("u1"))
    space = recall(replace(known, waiting={}), an_applicant("u1"), makes_room=True)
    assert (list(space.waiting), space.preempted) == (["u1"], frozenset())


def test_who_is_admitted_waits_and_has_a_place() -> None:
    space = admitted(a_space(), an_applicant("u1"))
    assert list(space.waiting) == ["u1"]
    assert space.ledgers[NOVEMBER].places == {"anna": 1}


def test_who_asks_twice_is_admitted_once() -> None:
    once = admitted(a_space(monthlyTrainingsPerUser=1), an_applicant("u1"))
    assert admitted(once, an_applicant("u1")) == once


def test_who_was_admitted_before_a_crash_is_not_judged_again() -> None:
    ledger = admit(a_ledger(), "u1", seen(RunState.WAITING), Decimal(3))
    space = admitted(a_space(ledger=ledger, monthlyTrainingsPerUser=1), an_applicant("u1"))
    assert list(space.waiting) == ["u1"]
    assert space.ledgers[NOVEMBER] == ledger


def test_who_was_let_go_before_a_crash_is_at_work_after_it() -> None:
    space = release(admitted(a_space(maxConcurrentGPUs=1), an_applicant("u1")), NOON).namespace
    restarted = Namespace(policy=space.policy, ledgers=space.ledgers)
    back = admitted(restarted, an_applicant("u2", "ben"), an_applicant("u1"))
    assert list(back.working) == ["u1"]
    assert release(back, NOON).started == ()


def test_who_has_ended_does_not_wait_again() -> None:
    space = release(admitted(a_space(), an_applicant("u1")), NOON).namespace
    space = note(space, "u1", seen(RunState.COUNTED), created_at=NOON)
    assert admitted(space, an_applicant("u1")) == space


def test_who_is_refused_leaves_no_trace() -> None:
    space = admitted(a_space(monthlyTrainingsPerUser=1), an_applicant("u1"))
    after, verdict = ask(space, an_applicant("u2"))
    assert isinstance(verdict, Refusal)
    assert after == space
    assert note(space, "u2", seen(RunState.RETURNED), created_at=NOON) == space


def test_a_full_ledger_defers_and_does_not_refuse() -> None:
    entry = admit(a_ledger(), "u", seen(), None).runs["u"]
    full = Ledger(month=NOVEMBER, runs={f"x{n}": entry for n in range(MAX_OPEN_RUNS)})
    space, verdict = ask(a_space(ledger=full), an_applicant("u1"))
    assert isinstance(verdict, Deferred)
    assert "u1" not in space.waiting


def test_as_many_users_as_a_ledger_counts_for_shut_out_new_ones_alone() -> None:
    entry = Total(trainings=1)
    full = Ledger(month=NOVEMBER, users={f"user{n}": entry for n in range(MAX_USERS)})
    space, verdict = ask(a_space(ledger=full), an_applicant("u1", "anna"))
    assert isinstance(verdict, Deferred)
    assert verdict.message.startswith("The ledger of 2026-11 counts for 2000 users, as many as it")
    space, verdict = ask(space, an_applicant("u2", "user7"))
    assert verdict is None
    assert set(space.waiting) == {"u2"}


def test_a_full_ledger_stops_nobody_who_was_at_work_before_the_policy_and_does_not_break() -> None:
    entry = admit(a_ledger(), "u", seen(), None).runs["u"]
    full = Ledger(month=NOVEMBER, runs={f"x{n}": entry for n in range(MAX_OPEN_RUNS)})
    space = a_space(ledger=full)
    assert adopt(space, an_applicant("u1")) == space


def test_a_run_belongs_to_the_month_of_its_creation_whenever_it_is_seen() -> None:
    late = an_applicant("u1", created_at=NOVEMBER.reset - timedelta(seconds=1))
    early = an_applicant("u2", created_at=NOVEMBER.reset)
    space = admitted(a_space(monthlyTrainingsPerUser=1), late, early)
    assert {str(month): ledger.places for month, ledger in space.ledgers.items()} == {
        "2026-11": {"anna": 1},
        "2026-12": {"anna": 1},
    }


def test_a_new_month_knows_the_speeds_of_the_last() -> None:
    speeds = a_speed(runs=1, work=1000, seconds=500)
    space = a_space(ledger=Ledger(month=NOVEMBER, speeds=speeds))
    december = space.ledger_of(NOVEMBER.reset)
    assert (december.month, december.speeds) == (Month(2026, 12), speeds)


def test_who_is_released_is_at_work_and_the_next_one_waits() -> None:
    space = admitted(a_space(maxConcurrentGPUs=1), an_applicant("u1"), an_applicant("u2", "ben"))
    released = release(space, NOON)
    assert [run.uid for run in released.started] == ["u1"]
    assert list(released.namespace.waiting) == ["u2"]
    assert released.namespace.ledgers[NOVEMBER].runs["u1"].state is RunState.RUNNING
    assert release(released.namespace, NOON).started == ()


def test_an_end_makes_room() -> None:
    space = admitted(a_space(maxConcurrentGPUs=1), an_applicant("u1"), an_applicant("u2", "ben"))
    space = release(space, NOON).namespace
    space = note(space, "u1", seen(RunState.COUNTED), created_at=NOON)
    assert [run.uid for run in release(space, NOON).started] == ["u2"]


def test_a_run_that_is_deleted_makes_room_and_keeps_its_place() -> None:
    space = admitted(a_space(maxConcurrentGPUs=1), an_applicant("u1"))
    space = forget(release(space, NOON).namespace, "u1", created_at=NOON)
    assert not space.working
    assert space.ledgers[NOVEMBER].places == {"anna": 1}
    assert not space.ledgers[NOVEMBER].runs


def test_a_raised_limit_lets_the_next_one_go() -> None:
    space = admitted(a_space(maxConcurrentGPUs=1), an_applicant("u1"), an_applicant("u2", "ben"))
    space = release(space, NOON).namespace
    raised = replace(space, policy=a_policy(maxConcurrentGPUs=2))
    assert [run.uid for run in release(raised, NOON).started] == ["u2"]


def test_once_the_money_is_gone_waiting_runs_are_refused_and_get_their_place_back() -> None:
    space = admitted(
        a_space(maxConcurrentGPUs=1, monthlyBudget={"amount": "1"}),
        an_applicant("u1"),
        an_applicant("u2", "ben"),
        an_applicant("cpu", "cleo", gpus=0),
    )
    space = release(space, NOON).namespace
    space = note(space, "u1", seen(gpu_seconds=1000), created_at=NOON)
    released = release(space, NOON)
    assert [(run.uid, verdict.reason) for run, verdict in released.refused] == [
        ("u2", "BudgetExhausted")
    ]
    assert released.namespace.ledgers[NOVEMBER].places["ben"] == 0
    assert set(released.namespace.working) == {"u1", "cpu"}


def test_who_makes_room_holds_up_all_starts_and_then_waits_behind_whom_it_was_made_for() -> None:
    space = a_space(maxConcurrentGPUs=2, queue={"preemption": "LowerPriority"})
    low = an_applicant("low", gpus=2)
    space = release(admitted(space, low), NOON).namespace
    space = admitted(space, an_applicant("high", "ben", gpus=2, priority=9))
    space = release(space, NOON).namespace
    assert set(space.working) == space.preempted == {"low"}
    space = admitted(space, an_applicant("small", "cleo"))
    assert release(space, NOON).started == ()
    space = admitted(pause(space, "low", created_at=NOON), low)
    released = release(space, NOON)
    assert [run.uid for run in released.started] == ["high"]
    assert set(released.namespace.waiting) == {"low", "small"}
    assert not released.namespace.preempted


def test_room_goes_to_whom_it_was_made_for_though_levels_have_changed_meanwhile() -> None:
    space = a_space(maxConcurrentGPUs=2, queue={"preemption": "LowerPriority"})
    # A second before it is a point of priority older.
    low = an_applicant("low", gpus=2, created_at=NOON - timedelta(seconds=570))
    space = release(admitted(space, low), NOON).namespace
    space = admitted(space, an_applicant("high", "ben", gpus=2, priority=1))
    space = release(space, NOON).namespace
    assert space.preempted == {"low"}
    later = NOON + timedelta(seconds=35)
    space = admitted(pause(space, "low", created_at=low.created_at), low)
    released = release(space, later)
    assert [run.uid for run in released.started] == ["high"]
    assert released.namespace.beneficiary is None


def test_who_waits_no_more_keeps_no_room_that_was_made_for_him() -> None:
    space = a_space(maxConcurrentGPUs=2, queue={"preemption": "LowerPriority"})
    low = an_applicant("low", gpus=2)
    space = release(admitted(space, low), NOON).namespace
    space = admitted(space, an_applicant("high", "ben", gpus=2, priority=1))
    space = release(space, NOON).namespace
    space = forget(space, "high", created_at=NOON)
    space = admitted(pause(space, "low", created_at=NOON), low)
    assert [run.uid for run in release(space, NOON).started] == ["low"]


def test_nobody_makes_room_unless_the_policy_says_so() -> None:
    space = release(admitted(a_space(maxConcurrentGPUs=1), an_applicant("low")), NOON).namespace
    space = admitted(space, an_applicant("high", "ben", priority=9))
    assert release(space, NOON).namespace.preempted == frozenset()


@given(st.data())
def test_at_any_interleaving_no_more_than_the_limit_are_at_work(data: st.DataObject) -> None:
    space = a_space(maxConcurrentGPUs=3, monthlyTrainingsPerUser=5)
    uids = [f"u{number}" for number in range(12)]
    deleted: set[str] = set()
    for _ in range(data.draw(st.integers(0, 40))):
        uid = data.draw(st.sampled_from(uids))
        match data.draw(st.sampled_from(["ask", "release", "end", "fail", "delete"])):
            case "ask" if uid not in deleted:
                space, _ = ask(space, an_applicant(uid, data.draw(st.sampled_from("ab"))))
            case "release":
                space = release(space, NOON).namespace
            case "end" if uid in space.working:
                space = note(space, uid, seen(RunState.COUNTED), created_at=NOON)
            case "fail" if uid in space.working:
                space = note(space, uid, seen(RunState.RETURNED), created_at=NOON)
            case "delete":
                deleted.add(uid)
                space = forget(space, uid, created_at=NOON)
            case _:
                pass
        assert len(space.working) <= 3
        assert all(count <= 5 for count in space.ledgers[NOVEMBER].places.values())
        open_runs = {
            key
            for key, entry in space.ledgers[NOVEMBER].runs.items()
            if entry.state in {RunState.WAITING, RunState.RUNNING}
        }
        assert open_runs == {*space.waiting, *space.working}


def test_who_is_given_another_priority_stands_elsewhere_in_the_queue() -> None:
    space = admitted(
        a_space(maxConcurrentGPUs=1), an_applicant("u1"), an_applicant("u2"), an_applicant("u3")
    )
    space = admitted(space, an_applicant("u3", priority=9))
    assert [run.uid for run in release(space, NOON).started] == ["u3"]


def test_who_is_given_another_priority_at_work_makes_room_by_it() -> None:
    space = a_space(maxConcurrentGPUs=1, queue={"preemption": "LowerPriority"})
    space = release(admitted(space, an_applicant("u1", priority=9)), NOON).namespace
    space = admitted(space, an_applicant("u2", "ben", priority=5))
    assert not release(space, NOON).namespace.preempted
    space = admitted(space, an_applicant("u1", priority=1))
    assert release(space, NOON).namespace.preempted == {"u1"}
    assert space.working["u1"].started_at == NOON


def test_who_waited_before_its_recipe_was_measured_is_estimated_once_it_is() -> None:
    space = admitted(a_space(), an_applicant("u1"))
    assert space.waiting["u1"].seconds is None
    measured = replace(space.ledgers[NOVEMBER], speeds=SPEEDS)
    space = admitted(replace(space, ledgers={NOVEMBER: measured}), an_applicant("u1"))
    assert space.waiting["u1"].seconds is not None


def test_time_in_which_its_user_held_a_run_back_is_no_waiting() -> None:
    week = NOON + timedelta(days=7)
    run, resumed = an_applicant("u1"), replace(an_applicant("u1"), resumed_at=week)
    space = admitted(a_space(), resumed)
    assert level_of(space.waiting["u1"], space.policy, week) == 0
    space = admitted(space, run, replace(run, resumed_at=week + timedelta(days=1)))
    assert space.waiting["u1"].waits_since == week, "it has waited since"
    ledger = read_ledger(write_ledger(space.ledgers[NOVEMBER]))
    later = admitted(a_space(ledger=ledger), run)
    assert later.waiting == space.waiting, "another leader knows"


def test_who_was_suspended_at_work_begins_to_wait_when_it_goes_on() -> None:
    run, week = an_applicant("u1"), NOON + timedelta(days=7)
    space = release(admitted(a_space(), run), NOON).namespace
    space = admitted(pause(space, "u1", created_at=NOON), replace(run, resumed_at=week))
    assert space.waiting["u1"].waits_since == week
    assert release(space, week).namespace.working["u1"].waits_since == week


def test_who_made_room_has_waited_since_its_creation() -> None:
    run = an_applicant("u1")
    space = release(admitted(a_space(), run), NOON).namespace
    space = admitted(pause(space, "u1", created_at=NOON), run)
    assert space.waiting["u1"].waits_since == NOON


def test_a_new_leader_knows_since_when_a_run_is_at_work() -> None:
    ledger = replace(a_ledger(), speeds=SPEEDS)
    created_at, started_at = NOON - timedelta(hours=9), NOON - timedelta(minutes=1)
    run = an_applicant("u1", created_at=created_at)
    space = release(admitted(a_space(ledger=ledger), run), started_at).namespace
    crashed = Namespace(policy=space.policy, ledgers=space.ledgers)
    assert recall(crashed, replace(run, started_at=started_at)).working == space.working
    adopted = adopt(a_space(ledger=ledger), replace(run, started_at=started_at))
    assert adopted.working == space.working


def test_who_has_begun_is_not_refused_when_the_money_is_gone_but_waits_for_more() -> None:
    limits: dict[str, Any] = {"maxConcurrentGPUs": 1, "monthlyBudget": {"amount": "1"}}
    low = an_applicant("low")
    space = release(admitted(a_space(**limits), low, an_applicant("new", "ben")), NOON).namespace
    space = note(space, "low", seen(gpu_seconds=1000), created_at=NOON)
    space = admitted(pause(space, "low", created_at=NOON), low)
    released = release(space, NOON)
    assert [run.uid for run, _ in released.refused] == ["new"]
    space = released.namespace
    assert (list(space.waiting), list(space.working)) == (["low"], [])
    why = held_for_money(space, "low")
    assert why is not None
    assert "is spent" in why.message
    raised = replace(space, policy=a_policy(**limits | {"monthlyBudget": {"amount": "9"}}))
    assert held_for_money(raised, "low") is None
    assert [run.uid for run in release(raised, NOON).started] == ["low"]


def test_who_waits_for_money_keeps_nobody_else_waiting() -> None:
    october = NOVEMBER.start - timedelta(days=1)
    low = an_applicant("low", created_at=october)
    space = a_space(maxConcurrentGPUs=1, monthlyBudget={"amount": "1"})
    space = release(admitted(space, low), october).namespace
    space = note(space, "low", seen(gpu_seconds=1000), created_at=october)
    space = admitted(pause(space, "low", created_at=october), low, an_applicant("new", "ben"))
    assert [run.uid for run in release(space, NOON).started] == ["new"]
