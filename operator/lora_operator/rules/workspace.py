"""The workspace claim: made once, then waited for; it has to exist before the Job."""

from lora_api.reasons import Reason
from lora_api.status import ConditionType, Phase
from lora_operator.labels import workspace_name
from lora_operator.rules.base import Verdict
from lora_operator.rules.refusals import explain_refusal, wait_for_permission
from lora_operator.state.decision import Action, Draft
from lora_operator.state.text import quote
from lora_operator.state.views import Observed


def workspace_exists(seen: Observed, draft: Draft) -> Verdict:
    """Without a claim nothing is started; where a Job exists, the claim is none of our doing."""
    if seen.claim_refused is not None:
        reason, message = explain_refusal(seen.claim_refused)
        draft.set(ConditionType.WORKSPACE_READY, "False", reason, message)
        return wait_for_permission(seen.claim_refused, draft)
    if seen.claim is None:
        if seen.job is None and seen.run.status.job_name is None:
            draft.do(Action.CREATE_WORKSPACE)
        return Verdict.CONTINUE
    if seen.claim.phase == "Bound":
        draft.set(ConditionType.WORKSPACE_READY, "True", Reason.WORKSPACE_BOUND)
    else:
        draft.set(
            ConditionType.WORKSPACE_READY,
            "False",
            Reason.WORKSPACE_PENDING,
            _pending_message(seen),
        )
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
    draft.wait(Phase.PENDING, Reason.WORKSPACE_PENDING, _pending_message(seen))
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
