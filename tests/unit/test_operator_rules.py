"""The policy, as a table: what is seen, and what the run's status then says."""

import pytest
from tests.builders import NOW, a_job, a_pod, a_training
from tests.results import a_bad_result, a_good_result
from tests.sights import seen
from tests.unit.rows_between_attempts import BETWEEN_ATTEMPTS
from tests.unit.rows_cancelled import CANCELLED
from tests.unit.rows_given_up import GIVEN_UP
from tests.unit.rows_held_back import HELD_BACK
from tests.unit.rows_limits import LIMITS
from tests.unit.rows_stored_later import STORED_LATER
from tests.unit.rows_under_way import SCHEDULER, UNDER_WAY, Row

from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_api.status import ConditionType, LoRATrainingStatus, Phase
from lora_operator.state.decision import Action, Decision
from lora_operator.state.views import Refusal

UNREACHABLE = a_pod().ended(
    75, a_bad_result(Reason.STORAGE_UNREACHABLE, "No answer.", retryable=True)
)
SECOND = a_pod().named("anna-train-x2").aged(1)

ROWS: dict[str, Row] = {
    **UNDER_WAY,
    **BETWEEN_ATTEMPTS,
    **HELD_BACK,
    **CANCELLED,
    **STORED_LATER,
    **LIMITS,
    **GIVEN_UP,
    "a completed Job with a result is Completed": Row(
        sight=seen().with_job(a_job().complete()).with_pods(a_pod().ended(0, a_good_result())),
        phase=Phase.COMPLETED,
        condition=ConditionType.SUCCEEDED,
        truth="True",
        reason=Reason.COMPLETED,
        says=("s3://models/anna/model.safetensors",),
    ),
    "held-out losses make it Validated": Row(
        sight=seen().with_job(a_job().complete()).with_pods(a_pod().ended(0, a_good_result())),
        phase=Phase.COMPLETED,
        condition=ConditionType.VALIDATED,
        truth="True",
        reason=Reason.MEASURED,
        says=("50.0 % better",),
    ),
    "a LoRA that did not pass the gate is Completed and not Validated": Row(
        sight=seen()
        .with_job(a_job().complete())
        .with_pods(a_pod().ended(0, a_good_result(failed=("1 of 3 prompts render",)))),
        phase=Phase.COMPLETED,
        condition=ConditionType.VALIDATED,
        reason=Reason.GATE_NOT_PASSED,
        says=("1 of 3 prompts render",),
    ),
    "without held-out pictures nothing was validated": Row(
        sight=seen()
        .with_job(a_job().complete())
        .with_pods(a_pod().ended(0, a_good_result(measured=False))),
        phase=Phase.COMPLETED,
        condition=ConditionType.VALIDATED,
        reason=Reason.NOT_MEASURED,
    ),
    "a completed Job whose pod took the result along asks the workspace": Row(
        sight=seen().with_job(a_job().complete()),
        phase=Phase.UPLOADING,
        condition=ConditionType.ARTIFACT_STORED,
        truth="Unknown",
        reason=Reason.RESULT_MISSING,
        says=("deleted before its result was read", "without a GPU"),
    ),
    "a completed Job whose pod took an ephemeral workspace along asks the output": Row(
        sight=seen(a_training().with_spec("workspace.type", "Ephemeral"))
        .without_claim()
        .with_job(a_job().complete()),
        phase=Phase.UPLOADING,
        condition=ConditionType.ARTIFACT_STORED,
        truth="Unknown",
        reason=Reason.RESULT_MISSING,
        says=("the report in the output", "without a GPU"),
    ),
    "a completed Job whose pod and workspace are gone has no result": Row(
        sight=seen().with_job(a_job().complete()).without_claim(),
        phase=Phase.FAILED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.RESULT_MISSING,
        says=("pod is gone", "s3://models/anna/"),
    ),
    "a completed Job whose pod left no result ends the run": Row(
        sight=seen().with_job(a_job().complete()).with_pods(a_pod().ended(0, "")),
        phase=Phase.FAILED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.RESULT_MISSING,
        says=("left no result",),
    ),
    "a lost result does not claim that nothing was stored": Row(
        sight=seen().with_job(a_job().complete()).without_claim(),
        phase=Phase.FAILED,
        condition=ConditionType.ARTIFACT_STORED,
        truth="Unknown",
        reason=Reason.RESULT_MISSING,
    ),
    "a result that was recorded before the pod went away is enough": Row(
        sight=seen()
        .with_job(a_job().complete())
        .after(seen().with_pods(a_pod().ended(0, a_good_result()))),
        phase=Phase.COMPLETED,
        condition=ConditionType.SUCCEEDED,
        truth="True",
        reason=Reason.COMPLETED,
    ),
    "bad input ends the run with the trainer's own words": Row(
        sight=seen()
        .with_job(a_job().failed("PodFailurePolicy"))
        .with_pods(a_pod().ended(65, a_bad_result())),
        phase=Phase.FAILED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.TOO_FEW_IMAGES,
        says=("holds 2 pictures", "spec.dataset.minImages"),
    ),
    "the last crash ends the run with exit code and last words": Row(
        sight=seen()
        .with_job(a_job().failed().with_failed_pods(4))
        .with_pods(a_pod().ended(1, "line 1\nValueError: boom")),
        phase=Phase.FAILED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.TRAINER_CRASHED,
        says=("exit code 1", "ValueError: boom", "attempt 4 of 4", "spec.limits.retries"),
    ),
    "too little memory names the limit and the field": Row(
        sight=seen(a_training().with_memory("3Gi"))
        .with_job(a_job().failed().with_failed_pods(1))
        .with_pods(a_pod().ended(137, "", "OOMKilled")),
        phase=Phase.FAILED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.OUT_OF_MEMORY,
        says=("3Gi", "spec.resources.memory"),
    ),
    "a container that can't start says why": Row(
        sight=seen()
        .with_job(a_job().failed())
        .with_pods(a_pod().ended(128, 'exec "/bin/lora": exec format error', "StartError")),
        phase=Phase.FAILED,
        reason=Reason.TRAINER_CRASHED,
        says=("could not start", "exec format error", "spec.image"),
    ),
    "an evicted pod quotes the kubelet": Row(
        sight=seen()
        .with_job(a_job().failed())
        .with_pods(
            a_pod()
            .ended(137)
            .evicted("Low on disk.")
            .disrupted("TerminationByKubelet", "ephemeral-storage")
        ),
        phase=Phase.FAILED,
        reason=Reason.INTERRUPTED,
        says=("ephemeral-storage",),
    ),
    "a deadline that passed while waiting keeps the reason of the wait": Row(
        sight=seen()
        .with_job(a_job().failed("DeadlineExceeded"))
        .after(seen().with_pods(a_pod().unschedulable(SCHEDULER))),
        phase=Phase.FAILED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.DEADLINE_EXCEEDED,
        says=("7200 s", "spec.limits.activeDeadlineSeconds", "Insufficient nvidia.com/gpu"),
    ),
    "a deadline that passed while training tells the step": Row(
        sight=seen()
        .with_job(a_job().failed("DeadlineExceeded"))
        .after(seen().with_pods(a_pod().running()).with_progress(Stage.TRAIN, 40)),
        phase=Phase.FAILED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.DEADLINE_EXCEEDED,
        says=("step 40 of 100",),
    ),
    "a deadline that passed between attempts tells what kept failing": Row(
        sight=seen()
        .with_job(a_job().failed("DeadlineExceeded").with_failed_pods(5))
        .with_pods(UNREACHABLE)
        .after(seen().with_pods(UNREACHABLE)),
        phase=Phase.FAILED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.DEADLINE_EXCEEDED,
        says=("7200 s", "attempt 1 had failed", "StorageUnreachable: No answer."),
    ),
    "a deadline that passed in a later attempt does not blame the earlier one": Row(
        sight=seen()
        .with_job(a_job().failed("DeadlineExceeded").with_failed_pods(2))
        .after(
            seen()
            .with_pods(UNREACHABLE, SECOND.running())
            .with_progress(Stage.TRAIN, 40)
            .after(seen().with_pods(UNREACHABLE))
        ),
        phase=Phase.FAILED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.DEADLINE_EXCEEDED,
        says=("passed at step 40 of 100. Create",),
    ),
    "an attempt that the deadline interrupted is not what kept failing": Row(
        sight=seen()
        .with_job(a_job().failed("DeadlineExceeded"))
        .after(
            seen()
            .with_pods(a_pod().ended(143, a_bad_result(Reason.INTERRUPTED, "S.", retryable=True)))
            .after(seen().with_pods(a_pod().running()).with_progress(Stage.TRAIN, 40))
        ),
        phase=Phase.FAILED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.DEADLINE_EXCEEDED,
        says=("passed at step 40 of 100. Create",),
    ),
    "a failed Job whose pods are gone says what is lost": Row(
        sight=seen().with_job(a_job().failed("BackoffLimitExceeded", "Job has reached its limit")),
        phase=Phase.FAILED,
        reason=Reason.TRAINER_CRASHED,
        says=("pods are gone", "BackoffLimitExceeded"),
    ),
    "a failure seen before the pod went away is remembered": Row(
        sight=seen()
        .with_job(a_job().failed())
        .after(seen().with_pods(a_pod().ended(1, a_bad_result(Reason.WORKSPACE_FULL, "Full.")))),
        phase=Phase.FAILED,
        reason=Reason.WORKSPACE_FULL,
        says=("Full.",),
    ),
    "a Job that was deleted ends the run": Row(
        sight=seen().with_claim().after(seen().with_job()),
        phase=Phase.FAILED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.JOB_VANISHED,
        says=("anna-train", "deleted"),
    ),
}


def status_of(decision: Decision) -> LoRATrainingStatus:
    assert decision.status is not None
    return decision.status


@pytest.mark.parametrize("sentence", ROWS)
def test_what_is_seen_becomes_what_is_said(sentence: str) -> None:
    row = ROWS[sentence]
    status = status_of(row.sight.decide())
    assert status.phase is row.phase
    condition = {c.type: c for c in status.conditions}[row.condition]
    assert (condition.status, condition.reason) == (row.truth, row.reason)
    text = f"{condition.message} {status.message}"
    missing = [part for part in row.says if part not in text]
    assert not missing, f"{missing} not in: {text}"


@pytest.mark.parametrize("sentence", [s for s, row in ROWS.items() if not row.leads_on])
def test_a_second_look_at_the_same_changes_nothing(sentence: str) -> None:
    sight = ROWS[sentence].sight
    again = sight.after(sight).decide(now=NOW)
    assert again.status is None
    assert again.events == ()


@pytest.mark.parametrize("sentence", ROWS)
def test_every_status_has_all_conditions_and_a_sentence(sentence: str) -> None:
    status = status_of(ROWS[sentence].sight.decide())
    assert [c.type for c in status.conditions] == list(ConditionType)
    assert all(c.observed_generation == 1 for c in status.conditions)
    assert status.message
    assert status.message.endswith(".")


@pytest.mark.parametrize("sentence", ROWS)
def test_an_ended_run_says_when_and_why(sentence: str) -> None:
    status = status_of(ROWS[sentence].sight.decide())
    if status.phase is None or not status.phase.is_terminal:
        assert status.completed_at is None
        return
    assert status.completed_at == NOW
    assert (status.failure is not None) == (status.phase is Phase.FAILED)
    assert (status.artifact is not None) == (status.phase is Phase.COMPLETED)


def test_the_last_loss_is_as_short_as_those_before() -> None:
    sight = seen().with_job(a_job().complete()).with_pods(a_pod().ended(0, a_good_result()))
    status = sight.decide().status
    assert status is not None
    assert status.progress is not None
    assert status.progress.loss == 0.04334


def test_a_new_run_asks_for_claim_then_job() -> None:
    assert seen().decide().actions == (Action.CREATE_WORKSPACE, Action.CREATE_JOB)


def test_a_run_with_a_claim_asks_for_the_job_alone() -> None:
    assert seen().with_claim().decide().actions == (Action.CREATE_JOB,)


def test_nothing_is_created_for_a_run_that_is_being_deleted() -> None:
    decision = seen(a_training().being_deleted()).decide()
    assert decision.actions == ()
    assert decision.status is None


def test_nothing_is_created_for_an_unknown_recipe() -> None:
    assert seen(a_training().with_recipe("sd99")).decide().actions == ()


def test_a_refused_claim_keeps_the_job_from_being_created() -> None:
    decision = seen().claim_refused(Refusal.CREATION_REFUSED, "no").decide()
    assert decision.actions == ()
    assert decision.revisit_at is not None


def test_a_vanished_claim_is_made_again_for_the_next_attempt_but_not_under_a_running_pod() -> None:
    assert seen().with_job().without_claim().decide().actions == (Action.CREATE_WORKSPACE,)
    assert seen().with_pods(a_pod().running()).without_claim().decide().actions == ()


def test_a_job_that_vanished_is_not_made_again() -> None:
    assert seen().with_claim().after(seen().with_job()).decide().actions == ()


def test_a_status_that_a_newer_version_wrote_is_left_alone() -> None:
    training = a_training()
    training.status.update({"phase": "Hibernating"})
    assert seen(training).decide() == Decision(status=None)


def test_a_run_under_way_is_not_judged_again_by_its_spec() -> None:
    training = a_training().with_recipe("sd99")
    assert status_of(seen(training).with_job().decide()).phase is Phase.PENDING
