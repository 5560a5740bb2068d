"""From node to running container: pulling the image, finding the Secret, creating the container."""

import re

from lora_api.reasons import Reason
from lora_api.status import ConditionType
from lora_operator.rules.base import Verdict
from lora_operator.rules.patience import bear
from lora_operator.state.draft import Draft
from lora_operator.state.pace import FIRST_LOOK_SECONDS, LOOK_AGAIN_SECONDS
from lora_operator.state.text import quote
from lora_operator.state.views import Observed, Pod

_PULL_REASONS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
    }
)
_CONFIG_REASONS = frozenset(
    {
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
        "PreCreateHookError",
    }
)
_SECRET_MISSING = re.compile(r'secret "([^"]{1,253})" not found')
_KEY_MISSING = re.compile(r"couldn't find key (\S{1,253}) in Secret (\S{1,500})")
_BACK_OFF = re.compile(r'^Back-off pulling image "[^"]*"(?:: \w+: )?')


def container_starts(seen: Observed, draft: Draft) -> Verdict:
    """A placed pod whose container does not run yet: name what it waits for."""
    pod = seen.latest_pod
    if pod is None or pod.container.running or pod.has_ended:
        return Verdict.CONTINUE
    waiting = pod.container.waiting_reason
    if waiting in _PULL_REASONS:
        draft.wait(Reason.IMAGE_PULL_FAILED, _pull_message(seen, draft, pod))
    elif waiting in _CONFIG_REASONS:
        reason, message = _config_fault(seen, pod)
        draft.wait(reason, message)
    elif seen.pod_warning is not None:
        draft.wait(
            Reason.CONTAINER_CONFIG_ERROR,
            f"Pod {pod.name} does not start on node {pod.node}: {quote(seen.pod_warning)}. The "
            "node tries again by itself.",
        )
        draft.revisit_in(LOOK_AGAIN_SECONDS)
    else:
        draft.wait(
            Reason.POD_STARTING,
            f"Pod {pod.name} is on node {pod.node}; its image is pulled or its container starts.",
        )
        waited = (draft.now - pod.created_at).total_seconds()
        draft.revisit_in(FIRST_LOOK_SECONDS if waited < FIRST_LOOK_SECONDS else LOOK_AGAIN_SECONDS)
    if seen.run.spec is not None:
        bear(
            seen,
            draft,
            since=pod.scheduled_at or pod.created_at,
            seconds=seen.run.spec.limits.start_timeout_seconds,
            field="startTimeoutSeconds",
        )
    return Verdict.SETTLED


def _pull_message(seen: Observed, draft: Draft, pod: Pod) -> str:
    said = _BACK_OFF.sub("", pod.container.waiting_message)
    known = draft.condition(ConditionType.RUNNING)
    if not said and known.reason == Reason.IMAGE_PULL_FAILED:
        # Between two tries older kubelets only say that they back off: the cause is still true.
        return known.message
    spec = seen.run.spec
    image = spec.image if spec is not None else None
    name = f"The image {image} (spec.image)" if image else "The operator's trainer image"
    return (
        f"{name} can't be pulled: {quote(said or pod.container.waiting_reason)}. Put the image "
        "where the node can pull it, and the run goes on by itself; or create the run again with "
        "another spec.image."
    )


def _config_fault(seen: Observed, pod: Pod) -> tuple[Reason, str]:
    said = pod.container.waiting_message
    namespace = seen.run.key.namespace
    missing = _SECRET_MISSING.search(said)
    if missing is not None:
        return Reason.SECRET_NOT_FOUND, (
            f"The Secret {missing[1]} (spec.credentialsSecretName) does not exist in namespace "
            f"{namespace}. Create it with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; the run "
            "goes on by itself."
        )
    key = _KEY_MISSING.search(said)
    if key is not None:
        return Reason.SECRET_NOT_FOUND, (
            f"The Secret {key[2].rpartition('/')[2]} (spec.credentialsSecretName) in namespace "
            f"{namespace} has no key {key[1]}. Add it; the run goes on by itself."
        )
    return Reason.CONTAINER_CONFIG_ERROR, (
        f"The node can't create the container: {quote(said or pod.container.waiting_reason)}."
    )
