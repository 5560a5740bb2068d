"""What the API server itself checks of a run against the namespace's TrainingPolicy, in CEL.

A module of its own because these rules are one table with two readers, the chart that ships them
and the test that goes through them one by one; and because they hold while the operator is down.
"""

from collections.abc import Iterator
from typing import Any

from lora_api import GROUP
from lora_api.policy import USER_PLACEHOLDER
from lora_api.recipes import RECIPES
from lora_api.settings import DEFAULT_STEPS
from lora_api.training import PLURAL
from lora_crd.admission_names import QUEUE_LABEL, QUEUE_PRIORITY_LABEL, name_rules
from lora_crd.admission_rule import AdmissionRule

IMPERSONATE_VERB = "impersonate-user"


def _text(sentence: str) -> str:
    return "'" + sentence.replace("'", "\\'") + "'"


def _known(default_of: str) -> str:
    """CEL map from recipe to its default of a setting."""
    return (
        "{"
        + ", ".join(f"'{name}': {getattr(facts, default_of)}" for name, facts in RECIPES.items())
        + "}"
    )


def _defaulted(setting: str, default_of: str) -> str:
    """A setting or, where it is absent, what the recipe makes of it; the least for a foreign one.

    A recipe that this table does not know is the administrator's own, and so are its defaults.
    """
    known = _known(default_of)
    return (
        f"(has(object.spec.{setting}) ? object.spec.{setting} : "
        f"(object.spec.recipe in {known} ? {known}[object.spec.recipe] : 0))"
    )


def _label(labels: str, key: str) -> str:
    return f"'{key}' in variables.{labels} ? variables.{labels}['{key}'] : ''"


# Epochs mean at most so many steps: the trainer refuses more pictures than maxImages.
_STEPS = (
    "(has(object.spec.optimization.steps) ? object.spec.optimization.steps : "
    "has(object.spec.optimization.epochs) ? object.spec.optimization.epochs * "
    "((object.spec.dataset.maxImages * object.spec.dataset.repeats + variables.samples - 1) / "
    f"variables.samples) : {DEFAULT_STEPS})"
)
VARIABLES = {
    "updating": "request.operation == 'UPDATE'",
    "user": "has(object.spec.user) ? object.spec.user : ''",
    "mayImpersonate": (
        f"authorizer.group('{GROUP}').resource('{PLURAL}').namespace(request.namespace)"
        f".check('{IMPERSONATE_VERB}').allowed()"
    ),
    "labels": "has(object.metadata.labels) ? object.metadata.labels : {}",
    "oldLabels": (
        "oldObject != null && has(oldObject.metadata.labels) ? oldObject.metadata.labels : {}"
    ),
    "samples": (
        "object.spec.optimization.batchSize * object.spec.optimization.gradientAccumulationSteps"
    ),
    "steps": _STEPS,
    "rank": _defaulted("network.rank", "rank"),
    "resolution": _defaulted("optimization.resolution", "resolution"),
    "bases": (
        "[object.spec.baseModel.uri] + "
        "(has(object.spec.baseModel.componentsUri) ? [object.spec.baseModel.componentsUri] : []) + "
        "(has(object.spec.validation.embedderUri) ? [object.spec.validation.embedderUri] : [])"
    ),
    "datasets": (
        "(has(object.spec.dataset.uri) ? [object.spec.dataset.uri] : []) + "
        "(has(object.spec.dataset.uris) ? object.spec.dataset.uris : [])"
    ),
    "outputs": "has(object.spec.output.uri) ? [object.spec.output.uri] : []",
    "priority": "has(object.spec.priorityClassName) ? object.spec.priorityClassName : ''",
    "oldPriority": (
        "oldObject != null && has(oldObject.spec.priorityClassName) ? "
        "oldObject.spec.priorityClassName : ''"
    ),
    "queue": _label("labels", QUEUE_LABEL),
    "oldQueue": _label("oldLabels", QUEUE_LABEL),
    "queuePriority": _label("labels", QUEUE_PRIORITY_LABEL),
    "oldQueuePriority": _label("oldLabels", QUEUE_PRIORITY_LABEL),
}


def _cap(field: str, limit: str, value: str, unit: str = "") -> AdmissionRule:
    """A number of the run must not exceed a number of the policy."""
    cap = f"params.spec.{limit}"
    return AdmissionRule(
        name=f"{field} <= {limit}",
        limit=limit,
        expression=f"variables.updating || !has({cap}) || {value} <= {cap}",
        message=(
            f"'spec.{field}: ' + string({value}) + '{unit} is more than the ' + string({cap}) + "
            f"'{unit} that TrainingPolicy ' + params.metadata.name + ' allows (spec.{limit})'"
        ),
        fallback=f"spec.{field} is more than the TrainingPolicy allows (spec.{limit})",
    )


def _prefix(field: str, limit: str, uris: str) -> AdmissionRule:
    """Every URI must lie under one of the policy's prefixes.

    A '/' is added to the URI, as prefixes end in one: s3://models/anna lies in s3://models/anna/. A
    user's name with a '/' would reach into another's folder, so it fits no {user}.
    """
    prefixes = f"params.spec.{limit}"
    fits = (
        f"{prefixes}.exists(p, (uri + '/').startsWith(p.replace('{USER_PLACEHOLDER}', "
        f"variables.user)) && !(p.contains('{USER_PLACEHOLDER}') && "
        "(variables.user == '' || variables.user.contains('/'))))"
    )
    return AdmissionRule(
        name=f"{field} in {limit}",
        limit=limit,
        expression=f"variables.updating || !has({prefixes}) || {uris}.all(uri, {fits})",
        message=(
            f"'spec.{field}: ' + {uris}.filter(uri, !{fits})[0] + ' lies under none of the "
            f"prefixes that TrainingPolicy ' + params.metadata.name + ' allows (spec.{limit}): ' + "
            f"{prefixes}.map(p, p.replace('{USER_PLACEHOLDER}', variables.user)).join(', ')"
        ),
        fallback=f"spec.{field} lies under no prefix that the TrainingPolicy allows (spec.{limit})",
    )


def _user_rules() -> Iterator[AdmissionRule]:
    missing = (
        "spec.user must be given: TrainingPolicy default counts runs by user. Set it to your own "
        "user name."
    )
    yield AdmissionRule(
        name="spec.user is given",
        limit="",
        expression="variables.updating || has(object.spec.user)",
        message=_text(missing),
        fallback=missing,
    )
    yield AdmissionRule(
        name="spec.user is the requester",
        limit="",
        expression=(
            "variables.updating || !has(object.spec.user) || "
            "object.spec.user == request.userInfo.username || variables.mayImpersonate"
        ),
        message=(
            "'spec.user: ' + variables.user + ' is not who makes this request (' + "
            f"request.userInfo.username + '); for others only those may create runs who have the "
            f"verb {IMPERSONATE_VERB} on {PLURAL}.{GROUP}'"
        ),
        fallback="spec.user must be who makes the request",
    )


def _size_rule() -> AdmissionRule:
    cap, value = "string(params.spec.caps.workspaceSize)", "string(object.spec.workspace.size)"
    return AdmissionRule(
        name="workspace.size <= caps.workspaceSize",
        limit="caps.workspaceSize",
        expression=(
            "variables.updating || !has(params.spec.caps.workspaceSize) || "
            f"quantity({value}).compareTo(quantity({cap})) <= 0"
        ),
        message=(
            f"'spec.workspace.size: ' + {value} + ' is more than the ' + {cap} + ' that "
            "TrainingPolicy ' + params.metadata.name + ' allows (spec.caps.workspaceSize)'"
        ),
        fallback="spec.workspace.size is more than the TrainingPolicy allows "
        "(spec.caps.workspaceSize)",
    )


def _output_rule() -> AdmissionRule:
    """A run says where its result goes, or the policy does: in a folder of its user's, if any."""
    prefix = "params.spec.defaults.outputPrefix"
    is_of_user = f"{prefix}.contains('{USER_PLACEHOLDER}')"
    fits = "variables.user != '' && !variables.user.contains('/') && !variables.user.contains(':')"
    return AdmissionRule(
        name="output.uri or defaults.outputPrefix",
        limit="defaults.outputPrefix",
        expression=(
            "variables.updating || has(object.spec.output.uri) || "
            f"(has({prefix}) && (!{is_of_user} || ({fits})))"
        ),
        message=(
            "'spec.output.uri must be given: TrainingPolicy ' + params.metadata.name + ' ' + "
            f"(has({prefix}) ? 'gives ' + {prefix} + ', and ' + variables.user + ' fits no "
            f"{USER_PLACEHOLDER}' : 'gives none') + ' (spec.defaults.outputPrefix)'"
        ),
        fallback="spec.output.uri must be given: the TrainingPolicy gives none that fits "
        "(spec.defaults.outputPrefix)",
    )


RULES: tuple[AdmissionRule, ...] = (
    *_user_rules(),
    _cap("resources.gpus", "caps.gpus", "object.spec.resources.gpus"),
    _cap("resources.gpus", "maxConcurrentGPUs", "object.spec.resources.gpus"),
    _cap("resources.gpus", "maxConcurrentGPUsPerUser", "object.spec.resources.gpus"),
    _cap("optimization.steps", "caps.steps", "variables.steps"),
    _cap("network.rank", "caps.rank", "variables.rank"),
    _cap("optimization.resolution", "caps.resolution", "variables.resolution"),
    _cap("dataset.maxImages", "caps.images", "object.spec.dataset.maxImages"),
    _cap(
        "limits.activeDeadlineSeconds",
        "caps.activeDeadlineSeconds",
        "object.spec.limits.activeDeadlineSeconds",
        " s",
    ),
    _cap("limits.retries", "caps.retries", "object.spec.limits.retries"),
    _size_rule(),
    _prefix("baseModel.uri", "allowedBaseModelPrefixes", "variables.bases"),
    _prefix("dataset.uri", "allowedDatasetPrefixes", "variables.datasets"),
    _prefix("output.uri", "allowedOutputPrefixes", "variables.outputs"),
    _output_rule(),
    *name_rules(),
)


def admission_rules() -> dict[str, Any]:
    """The part of the ValidatingAdmissionPolicy's spec that the chart's template includes."""
    return {
        "variables": [
            {"name": name, "expression": expression} for name, expression in VARIABLES.items()
        ],
        "validations": [rule.to_validation() for rule in RULES],
    }
