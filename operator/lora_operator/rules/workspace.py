"""The workspace claim: made once, then waited for; it has to exist before the Job."""

from lora_api.reasons import Reason
from lora_api.status import ConditionType, FailureStatus
from lora_api.training import WorkspaceType
from lora_operator.labels import workspace_name
from lora_operator.rules.base import Verdict
from lora_operator.rules.placement import bear_placing
from lora_operator.rules.refusals import explain_refusal, wait_for_permission
from lora_operator.state.decision import Action
from lora_operator.state.draft import Draft
from lora_operator.state.text import quote
from lora_operator.state.views import Observed


def workspace_is_told(seen: Observed, draft: Draft) -> Verdict:
    """State what the workspace is good for, whatever else is true of the run."""
    if seen.run.spec is not None and seen.run.spec.workspace.type is WorkspaceType.EPHEMERAL:
        draft.set(ConditionType.WORKSPACE_READY, "True", Reason.WORKSPACE_IN_POD)
    elif seen.claim is not None and seen.claim.phase == "Bound":
        draft.set(ConditionType.WORKSPACE_READY, "True", Reason.WORKSPACE_BOUND)
    elif seen.claim is not None:
        reason, message = Reason.WORKSPACE_PENDING, _pending_message(seen)
        draft.set(ConditionType.WORKSPACE_READY, "False", reason, message)
    return Verdict.CONTINUE


def workspace_exists(seen: Observed, draft: Draft) -> Verdict:
    """Without a claim nothing is started; one that was deleted under the run is made again."""
    spec = seen.run.spec
    if spec is None or spec.workspace.type is WorkspaceType.EPHEMERAL:
        return Verdict.CONTINUE
    if seen.claim_refused is not None:
        reason, message = explain_refusal(seen.claim_refused)
        draft.set(ConditionType.WORKSPACE_READY, "False", reason, message)
        return wait_for_permission(seen, seen.claim_refused, draft)
    vanished = seen.job is None and seen.run.status.job_name == seen.run.job_name
    if seen.claim is None and not vanished and not any(p.container.running for p in seen.pods):
        # What an earlier attempt left is lost with its claim; the next one begins anew instead of
        # waiting for a claim that nobody would make.
        draft.do(Action.CREATE_WORKSPACE)
    if seen.claim is not None and seen.claim.phase == "Lost":
        return _lost(seen, draft)
    return Verdict.CONTINUE


def workspace_is_bound(seen: Observed, draft: Draft) -> Verdict:
    """A pod that no node can take because of its volume is explained by the claim's warning."""
    pod = seen.latest_pod
    waits = pod is None or (pod.node is None and not pod.has_ended)
    if seen.claim is None or seen.claim.phase == "Bound" or not waits:
        return Verdict.CONTINUE
    draft.revisit_in(30)
    if seen.claim_warning is None:
        # Classes with volumeBindingMode WaitForFirstConsumer bind only once the pod is placed:
        # until something warns, the scheduler's own words say more.
        return Verdict.CONTINUE
    draft.wait(Reason.WORKSPACE_PENDING, _pending_message(seen))
    if pod is not None:
        bear_placing(seen, draft, pod)
    return Verdict.SETTLED


def _lost(seen: Observed, draft: Draft) -> Verdict:
    name = workspace_name(seen.run.key.name)
    message = (
        f"The volume of claim {name} is gone (phase Lost), and with it what was trained. Create "
        "the run again."
    )
    draft.set(ConditionType.WORKSPACE_READY, "False", Reason.WORKSPACE_LOST, message)
    draft.fail(FailureStatus(reason=Reason.WORKSPACE_LOST, message=message, retryable=True))
    return Verdict.SETTLED


def _pending_message(seen: Observed) -> str:
    name = workspace_name(seen.run.key.name)
    if seen.claim_warning is None:
        return f"The claim {name} waits for a volume."
    return (
        f"The claim {name} gets no volume: {quote(seen.claim_warning)}. Check {_class(seen)} and "
        "spec.workspace.size; the run starts by itself when the claim is bound."
    )


def _class(seen: Observed) -> str:
    name = seen.run.spec.workspace.storage_class_name if seen.run.spec else None
    if name is None:
        return "the cluster's default StorageClass (or set spec.workspace.storageClassName)"
    return f"the StorageClass {name} (spec.workspace.storageClassName)"
