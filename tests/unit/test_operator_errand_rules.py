"""What is trained and not stored, or wanted in part: which Jobs without a GPU are made and when."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.builders import NOW, a_job, a_pod, a_training
from tests.results import a_bad_result
from tests.sights import seen
from tests.unit.deeds import HOUR, Deed, status_of
from tests.unit.rows_cancelled import STOPPED
from tests.unit.rows_given_up import NEVER_STORED, NO_NODE_AGAIN
from tests.unit.rows_held_back import IN_QUEUE
from tests.unit.rows_stored_later import NOT_STORED_AT_LAST, TAKEN_ALONG, TRYING_AGAIN

from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_api.status import Phase
from lora_operator.state.decision import Action

HELD_UPLOAD = TRYING_AGAIN.with_upload_job(a_job().suspended().let_go_at(1))

DEEDS: Mapping[str, Deed] = {
    "a failed upload is tried again an hour later": Deed(
        sight=NOT_STORED_AT_LAST.settled(),
        later=3600,
        does=(Action.CREATE_UPLOAD_JOB,),
    ),
    "not sooner": Deed(sight=NOT_STORED_AT_LAST.settled(), later=3599, does=()),
    "a result that its pod took along is read from the workspace without a GPU": Deed(
        sight=TAKEN_ALONG.after(TAKEN_ALONG), does=(Action.CREATE_UPLOAD_JOB,)
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
    "spec.cancel ends repeated uploads, too": Deed(
        sight=NOT_STORED_AT_LAST.with_upload_job(a_job())
        .after(NOT_STORED_AT_LAST)
        .of(a_training().cancelled()),
        does=(Action.DELETE_UPLOAD_JOB,),
    ),
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
    "a cancelled run's partial LoRA is stored by a Job of its own": Deed(
        sight=STOPPED, does=(Action.CREATE_PARTIAL_JOB,)
    ),
    "that is not done twice": Deed(sight=STOPPED.with_partial_job(a_job()), does=()),
    "where somebody suspends it, it is let go": Deed(
        sight=STOPPED.with_partial_job(a_job().suspended()), does=(Action.RESUME_ERRAND,)
    ),
    "but once": Deed(sight=STOPPED.with_partial_job(a_job().suspended().let_go_at(1)), does=()),
    "and never out of Kueue's queue": Deed(sight=STOPPED.with_partial_job(IN_QUEUE), does=()),
}


@pytest.mark.parametrize("sentence", DEEDS)
def test_what_is_seen_becomes_what_is_done(sentence: str) -> None:
    deed = DEEDS[sentence]
    assert deed.sight.decide(now=NOW + timedelta(seconds=deed.later)).actions == deed.does


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


def test_a_claim_that_was_made_again_holds_nothing_of_what_was_trained() -> None:
    sampled = seen().with_pods(a_pod().running()).with_progress(Stage.SAMPLE, 100)
    failed = seen().with_job(a_job().failed()).with_pods(a_pod().ended(1, "boom")).after(sampled)
    claim = failed.observed.claim
    assert claim is not None
    again = replace(failed, observed=replace(failed.observed, claim=replace(claim, uid="another")))
    assert status_of(failed.decide()).phase is Phase.UPLOADING
    assert status_of(again.decide()).phase is Phase.FAILED
