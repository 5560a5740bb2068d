"""What the operator does about Jobs, pods, workspaces and runs, and in which order."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from tests.builders import NOW, a_job, a_pod, a_training
from tests.results import a_bad_result, a_good_result
from tests.sights import ASight, seen
from tests.unit.rows_given_up import (
    BROKEN,
    NEVER_STORED,
    NO_ENTRY,
    NO_NODE_AGAIN,
    given_up_with,
)
from tests.unit.rows_lifecycle import (
    IN_QUEUE,
    MORE_MEMORY,
    NOT_STORED_AT_LAST,
    OOM,
    QUEUED,
    STOPPED,
    SUSPENDED,
    TRAINING,
    TRYING_AGAIN,
)

from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_api.status import LoRATrainingStatus, Phase
from lora_operator.state.decision import Action, Decision


@dataclass(frozen=True, kw_only=True)
class Deed:
    """What a sight must make the operator do."""

    sight: ASight
    does: tuple[Action, ...]
    later: float = 0
    """Seconds after the sight's own status was written."""


COMPLETED = seen().with_job(a_job().complete()).with_pods(a_pod().ended(0, a_good_result()))
FAILED = seen().with_job(a_job().failed()).with_pods(a_pod().ended(65, a_bad_result()))
LOST_RESULT = seen().with_job(a_job().complete()).with_pods(a_pod().ended(0, ""))
TAKEN_ALONG = seen().with_job(a_job().complete())
HOUR = timedelta(hours=1)


def ended(sight: ASight, *, kind: str = "", **retention: object) -> ASight:
    """A run whose end is written down already."""
    training = a_training().with_spec("retention", retention) if retention else sight.training
    training = training.with_spec("workspace.type", kind) if kind else training
    return sight.of(training).settled()


FAILED_EPHEMERAL = FAILED.without_claim()
LEFT_BEHIND = ended(FAILED_EPHEMERAL, kind="Ephemeral")

HELD_UPLOAD = TRYING_AGAIN.with_upload_job(a_job().suspended().let_go_at(1))

DEEDS: Mapping[str, Deed] = {
    "spec.suspend suspends the Job": Deed(sight=TRAINING.of(SUSPENDED), does=(Action.SUSPEND_JOB,)),
    "once that is done nothing more is": Deed(
        sight=seen(SUSPENDED).with_job(a_job().suspended()).of(SUSPENDED), does=()
    ),
    "nothing is made for a run that is suspended from the start": Deed(
        sight=seen(SUSPENDED), does=()
    ),
    "a run whose spec.suspend was unset goes on": Deed(
        sight=seen().with_job(a_job().suspended()), does=(Action.RESUME_JOB,)
    ),
    "nor is one that is suspended again let go again": Deed(
        sight=seen().with_job(a_job().suspended().let_go_at(1)), does=()
    ),
    "spec.suspend takes over a Job that is held elsewhere": Deed(
        sight=seen(SUSPENDED).with_job(a_job().suspended().let_go_at(1)), does=()
    ),
    "a Job that somebody scaled to nothing is put right": Deed(
        sight=seen().with_job(a_job().of_parallelism(0)), does=(Action.RESUME_JOB,)
    ),
    "what Kueue suspended is Kueue's to resume": Deed(
        sight=seen(QUEUED).with_job(IN_QUEUE), does=()
    ),
    "spec.suspend takes a Job away from Kueue instead of fighting over its field": Deed(
        sight=TRAINING.with_job(a_job().queued_in("gpus")).of(QUEUED.suspended()),
        does=(Action.DELETE_JOB,),
    ),
    "spec.cancel removes the Job": Deed(
        sight=TRAINING.of(a_training().cancelled()), does=(Action.DELETE_JOB,)
    ),
    "a Job on its way out is not deleted twice": Deed(
        sight=seen().with_job(a_job().being_deleted()).of(a_training().cancelled()), does=()
    ),
    "spec.cancel ends repeated uploads, too": Deed(
        sight=NOT_STORED_AT_LAST.with_upload_job(a_job())
        .after(NOT_STORED_AT_LAST)
        .of(a_training().cancelled()),
        does=(Action.DELETE_UPLOAD_JOB,),
    ),
    "more memory means another Job": Deed(
        sight=seen(MORE_MEMORY)
        .with_job(a_job().failed("PodFailurePolicy"))
        .with_pods(OOM)
        .after(seen(MORE_MEMORY).with_job(a_job().failed("PodFailurePolicy")).with_pods(OOM)),
        does=(Action.CREATE_JOB,),
    ),
    "no second Job is made while the first still runs": Deed(
        sight=seen(MORE_MEMORY)
        .with_job(a_job().failed("PodFailurePolicy"))
        .with_pods(OOM)
        .after(seen(MORE_MEMORY).with_job(a_job().failed("PodFailurePolicy")).with_pods(OOM))
        .with_other_job(a_job().being_deleted()),
        does=(),
    ),
    "a stalled pod is not ended before that is written down": Deed(
        sight=TRAINING.unmoved_for(660), does=()
    ),
    "then it is": Deed(
        sight=TRAINING.unmoved_for(660).after(TRAINING.unmoved_for(660)), does=(Action.EVICT_POD,)
    ),
    "a trainer that does little by little is left alone": Deed(
        sight=TRAINING.unmoved_for(659), does=()
    ),
    "a trainer that never could be asked is left alone": Deed(
        sight=seen().with_pods(a_pod().aged(99_999).running()), does=()
    ),
    "a failed upload is tried again an hour later": Deed(
        sight=NOT_STORED_AT_LAST.settled(),
        later=3600,
        does=(Action.CREATE_UPLOAD_JOB,),
    ),
    "not sooner": Deed(sight=NOT_STORED_AT_LAST.settled(), later=3599, does=()),
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
    "a result that its pod took along is read from the workspace without a GPU": Deed(
        sight=TAKEN_ALONG.after(TAKEN_ALONG), does=(Action.CREATE_UPLOAD_JOB,)
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
    "a trained run without a node makes room for its upload": Deed(
        sight=NO_NODE_AGAIN.settled(), does=(Action.DELETE_JOB,)
    ),
    "that begins once the pod is gone": Deed(
        sight=NO_NODE_AGAIN.settled().without_job(), does=(Action.CREATE_UPLOAD_JOB,)
    ),
    "and not before": Deed(
        sight=NO_NODE_AGAIN.settled().with_job(a_job().being_deleted()), does=()
    ),
    "a LoRA without a claim is stored an hour later, too": Deed(
        sight=NEVER_STORED.settled(), later=3600, does=(Action.CREATE_UPLOAD_JOB,)
    ),
    "spec.cancel removes an earlier Job, too": Deed(
        sight=seen(a_training().cancelled()).with_claim().with_other_job(a_job(), number=1),
        does=(Action.DELETE_OTHER_JOBS,),
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
    "a cancelled run's partial LoRA is stored by a Job of its own": Deed(
        sight=STOPPED, does=(Action.CREATE_PARTIAL_JOB,)
    ),
    "that is not done twice": Deed(sight=STOPPED.with_partial_job(a_job()), does=()),
    "where somebody suspends it, it is let go": Deed(
        sight=STOPPED.with_partial_job(a_job().suspended()), does=(Action.RESUME_ERRAND,)
    ),
    "but once": Deed(sight=STOPPED.with_partial_job(a_job().suspended().let_go_at(1)), does=()),
    "and never out of Kueue's queue": Deed(sight=STOPPED.with_partial_job(IN_QUEUE), does=()),
    "a suspended upload is let go": Deed(
        sight=TRYING_AGAIN.with_upload_job(a_job().suspended()), does=(Action.RESUME_ERRAND,)
    ),
    "one that is suspended again makes room for the next, once that is written down": Deed(
        sight=HELD_UPLOAD.after(HELD_UPLOAD, now=NOW + HOUR),
        later=3600,
        does=(Action.DELETE_UPLOAD_JOB,),
    ),
    "one in a queue keeps its place": Deed(
        sight=TRYING_AGAIN.with_upload_job(IN_QUEUE), later=99_999, does=()
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
    "a Job that outlived its run is ended at once": Deed(
        sight=seen(a_training().with_retries(0))
        .with_pods(a_pod().running())
        .with_progress(Stage.TRAIN, 40)
        .unmoved_for(660)
        .settled(),
        does=(Action.DELETE_JOB,),
    ),
}


@pytest.mark.parametrize("sentence", DEEDS)
def test_what_is_seen_becomes_what_is_done(sentence: str) -> None:
    deed = DEEDS[sentence]
    assert deed.sight.decide(now=NOW + timedelta(seconds=deed.later)).actions == deed.does


def status_of(decision: Decision) -> LoRATrainingStatus:
    assert decision.status is not None
    return decision.status


def test_a_run_is_looked_at_again_when_the_next_clean_up_is_due() -> None:
    assert ended(COMPLETED, ttlSeconds=300).decide().revisit_at == NOW + timedelta(seconds=300)
    assert ended(COMPLETED).decide().revisit_at == NOW + timedelta(seconds=600)


def test_each_stall_is_counted_once() -> None:
    first = TRAINING.unmoved_for(660)
    status = status_of(first.decide())
    assert status.stalls == 1
    assert status.recent_attempts[0].reason == Reason.STALLED
    # Evicted, on its way out, gone: the count stays.
    leaving = TRAINING.with_pods(a_pod().running().being_deleted()).after(first)
    assert status_of(leaving.decide()).stalls == 1
    gone = TRAINING.with_pods(a_pod().ended(143).disrupted("EvictionByEvictionAPI", "e"))
    status = status_of(gone.after(leaving.with_status(status)).decide())
    assert (status.stalls, status.recent_attempts[0].reason) == (1, Reason.STALLED)


def test_a_failed_upload_is_written_down_before_its_job_goes() -> None:
    begun = NOT_STORED_AT_LAST.settled()
    said = a_bad_result(Reason.ACCESS_DENIED, "The keys are wrong.")
    failed = begun.with_upload_job(
        a_job().failed(at=NOW + HOUR), a_pod().named("anna-upload-x").ended(65, said)
    )
    decision = failed.decide(now=NOW + HOUR)
    status = status_of(decision)
    assert decision.actions == ()
    assert status.upload is not None
    assert (status.upload.tries, status.upload.next_try_at) == (1, NOW + 2 * HOUR)
    assert "The keys are wrong." in (status.message or "")
    assert failed.with_status(status).decide(now=NOW + HOUR).actions == (Action.DELETE_UPLOAD_JOB,)


def test_an_upload_that_is_held_back_for_too_long_is_a_failed_try() -> None:
    late = NOW + HOUR
    decision = HELD_UPLOAD.decide(now=late)
    status = status_of(decision)
    assert decision.actions == ()
    assert status.upload is not None
    assert (status.upload.tries, status.upload.next_try_at) == (1, late + HOUR)
    assert "suspended again" in (status.message or "")


def test_after_a_suspension_that_took_the_job_away_the_next_one_has_another_name() -> None:
    training = QUEUED.suspended()
    held = seen(training).with_claim().after(TRAINING).of(training)
    status = status_of(held.decide())
    assert (status.phase, status.job_number) == (Phase.SUSPENDED, 2)
    resumed = held.with_status(status).of(QUEUED)
    assert resumed.observed.run.job_name == "anna-train-2"
    assert resumed.decide().actions == (Action.CREATE_JOB,)


def test_a_change_of_mind_while_the_job_goes_makes_another_job_once_it_is_gone() -> None:
    queued = TRAINING.with_job(a_job().queued_in("gpus"))
    suspending = queued.of(QUEUED.suspended()).after(TRAINING).of(QUEUED.suspended())
    going = (
        suspending.with_job(a_job().queued_in("gpus").being_deleted()).after(suspending).of(QUEUED)
    )
    status = status_of(going.decide())
    assert status.job_number == 2
    waiting = going.with_status(status).of(QUEUED)
    assert waiting.decide().actions == ()
    assert waiting._with(other_jobs=()).decide().actions == (Action.CREATE_JOB,)


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


def test_a_claim_that_was_made_again_holds_nothing_of_what_was_trained() -> None:
    sampled = seen().with_pods(a_pod().running()).with_progress(Stage.SAMPLE, 100)
    failed = seen().with_job(a_job().failed()).with_pods(a_pod().ended(1, "boom")).after(sampled)
    claim = failed.observed.claim
    assert claim is not None
    again = replace(failed, observed=replace(failed.observed, claim=replace(claim, uid="another")))
    assert status_of(failed.decide()).phase is Phase.UPLOADING
    assert status_of(again.decide()).phase is Phase.FAILED
