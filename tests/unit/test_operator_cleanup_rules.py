"""What goes when a run has ended, and when: Jobs, workspaces, copies in the bucket, the run."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.builders import NOW, a_job, a_pod, a_training
from tests.results import a_good_result
from tests.sights import seen
from tests.unit.deeds import COMPLETED, FAILED, Deed, ended, status_of
from tests.unit.rows_cancelled import STOPPED
from tests.unit.rows_given_up import BROKEN, NO_ENTRY, given_up_with
from tests.unit.rows_held_back import TRAINING

from lora_api.status import Phase
from lora_operator.state.decision import Action

LOST_RESULT = seen().with_job(a_job().complete()).with_pods(a_pod().ended(0, ""))
FAILED_EPHEMERAL = FAILED.without_claim()
LEFT_BEHIND = ended(FAILED_EPHEMERAL, kind="Ephemeral")

DEEDS: Mapping[str, Deed] = {
    "a Job is kept for as long as the spec says": Deed(sight=ended(COMPLETED), later=599, does=()),
    "then Job and workspace go": Deed(
        sight=ended(COMPLETED), later=600, does=(Action.DELETE_JOB, Action.DELETE_WORKSPACE)
    ),
    "a retained workspace stays": Deed(
        sight=ended(COMPLETED, workspace="Retain"), later=600, does=(Action.DELETE_JOB,)
    ),
    "a workspace that is kept on failure goes on success": Deed(
        sight=ended(COMPLETED, workspace="RetainOnFailure"),
        later=600,
        does=(Action.DELETE_JOB, Action.DELETE_WORKSPACE),
    ),
    "and stays on failure": Deed(
        sight=ended(FAILED, workspace="RetainOnFailure"), later=600, does=(Action.DELETE_JOB,)
    ),
    "the workspace of a failed run that trained nothing goes": Deed(
        sight=ended(FAILED), later=600, does=(Action.DELETE_JOB, Action.DELETE_WORKSPACE)
    ),
    "a workspace that may hold the only copy stays, whatever the spec says": Deed(
        sight=ended(LOST_RESULT, workspace="Delete", ttlSeconds=0),
        later=600,
        does=(Action.DELETE_JOB,),
    ),
    "so does one in which an earlier attempt trained, whatever the last one met": Deed(
        sight=given_up_with(65, NO_ENTRY).settled(), later=600, does=(Action.DELETE_JOB,)
    ),
    "a lost volume holds no copy of anything": Deed(
        sight=ended(LOST_RESULT.with_claim("Lost")),
        later=600,
        does=(Action.DELETE_JOB, Action.DELETE_WORKSPACE),
    ),
    "a run without its workspace goes when its time is over": Deed(
        sight=ended(LOST_RESULT, ttlSeconds=600).without_claim(),
        later=600,
        does=(Action.DELETE_JOB, Action.DELETE_RUN),
    ),
    "what is left of a run whose spec can't be read goes as its retention says": Deed(
        sight=ended(FAILED).of(BROKEN),
        later=600,
        does=(Action.DELETE_JOB, Action.DELETE_WORKSPACE),
    ),
    "where that can't be read either, nothing is deleted that can't be had back": Deed(
        sight=ended(FAILED).of(BROKEN.with_spec("retention.workspace", "Someday")),
        later=600,
        does=(Action.DELETE_JOB,),
    ),
    "what is to remove a bucket's copy is let go, too": Deed(
        sight=LEFT_BEHIND.without_job().with_tidy_job(a_job().suspended()),
        later=700,
        does=(Action.RESUME_ERRAND,),
    ),
    "and once": Deed(
        sight=LEFT_BEHIND.without_job().with_tidy_job(a_job().suspended().let_go_at(1)),
        later=700,
        does=(),
    ),
    "after a week it goes": Deed(
        sight=LEFT_BEHIND.without_job().with_tidy_job(a_job().suspended().let_go_at(1)),
        later=7 * 24 * 3600,
        does=(Action.DELETE_TIDY_JOB,),
    ),
    "a cancelled run's workspace stays where what is in it could not be stored": Deed(
        sight=ended(STOPPED.with_partial_job(a_job().failed())),
        later=600,
        does=(Action.DELETE_PARTIAL_JOB,),
    ),
    "it goes where that is stored": Deed(
        sight=ended(
            STOPPED.with_partial_job(a_job().complete(), a_pod().ended(0, a_good_result()))
        ),
        later=600,
        does=(Action.DELETE_PARTIAL_JOB, Action.DELETE_WORKSPACE),
    ),
    "what an ephemeral run left in the bucket is removed with its Job": Deed(
        sight=LEFT_BEHIND, later=600, does=(Action.DELETE_JOB, Action.CREATE_TIDY_JOB)
    ),
    "not before": Deed(sight=LEFT_BEHIND, later=599, does=()),
    "nor while a trainer that is being ended may still write it": Deed(
        sight=LEFT_BEHIND.with_pods(a_pod().running())
        .with_job(a_job().being_deleted())
        .without_claim(),
        later=600,
        does=(),
    ),
    "nor where it is to be kept": Deed(
        sight=ended(FAILED_EPHEMERAL, kind="Ephemeral", workspace="RetainOnFailure").without_job(),
        later=600,
        does=(),
    ),
    "nor where the run has completed, which removed it itself": Deed(
        sight=ended(COMPLETED.without_claim(), kind="Ephemeral").without_job(),
        later=600,
        does=(),
    ),
    "a Job that could not remove it makes room for another an hour later": Deed(
        sight=LEFT_BEHIND.without_job().with_tidy_job(a_job().failed()),
        later=3600,
        does=(Action.DELETE_TIDY_JOB,),
    ),
    "until a week is over": Deed(sight=LEFT_BEHIND.without_job(), later=7 * 24 * 3600, does=()),
    "what is removed is written down before its Job goes": Deed(
        sight=LEFT_BEHIND.without_job().with_tidy_job(a_job().complete()), later=700, does=()
    ),
    "then it goes": Deed(
        sight=LEFT_BEHIND.without_job()
        .with_tidy_job(a_job().complete())
        .after(
            LEFT_BEHIND.without_job().with_tidy_job(a_job().complete()),
            now=NOW + timedelta(seconds=700),
        ),
        later=700,
        does=(Action.DELETE_TIDY_JOB,),
    ),
    "a run is not deleted before its copy is removed": Deed(
        sight=ended(FAILED_EPHEMERAL, kind="Ephemeral", ttlSeconds=60).without_job(),
        later=60,
        does=(Action.CREATE_TIDY_JOB,),
    ),
    "otherwise it goes": Deed(
        sight=ended(seen(a_training().cancelled()).with_claim()),
        later=600,
        does=(Action.DELETE_WORKSPACE,),
    ),
    "a run goes when its time is over": Deed(
        sight=ended(COMPLETED, ttlSeconds=60, jobSeconds=9999), later=600, does=(Action.DELETE_RUN,)
    ),
}


@pytest.mark.parametrize("sentence", DEEDS)
def test_what_is_seen_becomes_what_is_done(sentence: str) -> None:
    deed = DEEDS[sentence]
    assert deed.sight.decide(now=NOW + timedelta(seconds=deed.later)).actions == deed.does


def test_a_run_is_looked_at_again_when_the_next_clean_up_is_due() -> None:
    assert ended(COMPLETED, ttlSeconds=300).decide().revisit_at == NOW + timedelta(seconds=300)
    assert ended(COMPLETED).decide().revisit_at == NOW + timedelta(seconds=600)


def test_a_change_after_the_end_is_acknowledged_and_changes_nothing_else() -> None:
    first = ended(COMPLETED)
    changed = first.of(replace(first.training, meta={"generation": 2}))
    decision = changed.decide()
    status = status_of(decision)
    assert status.observed_generation == 2
    assert status.model_copy(update={"observed_generation": 1}) == first.observed.run.status
    assert decision.events == ()
    assert changed.with_status(status).decide().status is None


def test_an_ended_run_leaves_no_attempt_open() -> None:
    for sight in (
        TRAINING.unmoved_for(660).of(a_training().with_retries(0)),
        seen().with_pods(a_pod().aged(3600).placed()).of(a_training()),
    ):
        status = status_of(sight.decide())
        assert status.phase is Phase.FAILED
        assert [attempt.ended_at for attempt in status.recent_attempts] == [NOW]
        assert status.failure is not None
        assert status.recent_attempts[0].reason == status.failure.reason
