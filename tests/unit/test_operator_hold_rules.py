"""Who holds a run back or ends it, and what the operator does about its Job and its pod."""

from collections.abc import Mapping
from datetime import timedelta

import pytest
from tests.builders import NOW, a_job, a_pod, a_training
from tests.sights import seen
from tests.unit.deeds import Deed, status_of
from tests.unit.rows_held_back import IN_QUEUE, QUEUED, SUSPENDED, TRAINING
from tests.unit.rows_limits import MORE_MEMORY, OOM

from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_api.status import Phase
from lora_operator.state.decision import Action

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
    "spec.cancel removes an earlier Job, too": Deed(
        sight=seen(a_training().cancelled()).with_claim().with_other_job(a_job(), number=1),
        does=(Action.DELETE_OTHER_JOBS,),
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


def test_a_trainer_that_was_not_asked_yet_is_looked_at_again_in_time() -> None:
    """A hung one tells a new leader nothing that would have him look."""
    running = seen().with_pods(a_pod().running()).settled()
    assert running.decide().revisit_at == NOW + timedelta(seconds=660)
