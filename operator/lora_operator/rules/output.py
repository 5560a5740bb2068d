"""A run whose spec names no output gets its place written down before anything is made for it.

A module of its own because the place must outlive the setting that it came from: a policy may
change, or go, while the trainer's checkpoints lie there.
"""

from lora_api.reasons import Reason
from lora_api.status import ConditionType, FailureStatus
from lora_operator.policy.output import default_output, why_no_output
from lora_operator.rules.base import Verdict
from lora_operator.state.draft import Draft
from lora_operator.state.views import Observed


def output_is_settled(seen: Observed, draft: Draft) -> Verdict:
    """The run's own place, or the one that its status has; else the policy's, from now on."""
    run, spec, word = seen.run, seen.run.spec, seen.policy
    if spec is None or spec.output.uri is not None:
        return Verdict.CONTINUE
    policy = word.policy if word is not None else None
    if word is not None and policy is None:
        # There is a policy and what it says is not known yet; nothing starts before it is.
        return Verdict.CONTINUE
    key = run.key
    place = default_output(policy, namespace=key.namespace, name=key.name, user=spec.user)
    if place is None:
        message = why_no_output(policy, spec.user)
        draft.set(ConditionType.ADMITTED, "False", Reason.INVALID_SPEC, message)
        draft.fail(FailureStatus(reason=Reason.INVALID_SPEC, message=message, retryable=False))
        return Verdict.SETTLED
    draft.output_uri = place
    draft.wait(Reason.NOT_STARTED, f"The result will go to {place}, as the policy has it.")
    draft.revisit_in(0)
    return Verdict.SETTLED
