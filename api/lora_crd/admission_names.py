"""Admission rules about names: what a run calls by name must be in a list of the policy's.

A module of its own because a name can be checked by its list alone, where numbers and places need
arithmetic of their own; and because some of these names may change while a run is under way.
"""

from collections.abc import Iterator

from lora_crd.admission_rule import AdmissionRule

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
QUEUE_PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"


def name_rules() -> Iterator[AdmissionRule]:
    """Each as an entry of the table."""
    yield AdmissionRule(
        name="recipe in allowedRecipes",
        limit="allowedRecipes",
        expression=(
            "variables.updating || !has(params.spec.allowedRecipes) || "
            "object.spec.recipe in params.spec.allowedRecipes"
        ),
        message=(
            "'spec.recipe: ' + object.spec.recipe + ' is none of those that TrainingPolicy ' + "
            "params.metadata.name + ' allows (spec.allowedRecipes): ' + "
            "params.spec.allowedRecipes.join(', ')"
        ),
        fallback="spec.recipe is none that the TrainingPolicy allows (spec.allowedRecipes)",
    )
    # Behind ':' and '@' no '/' may follow: team: must not open team:5000/other.
    yield AdmissionRule(
        name="image in allowedImages",
        limit="allowedImages",
        expression=(
            "variables.updating || !has(object.spec.image) || !has(params.spec.allowedImages) || "
            "params.spec.allowedImages.exists(e, object.spec.image == e || "
            "(object.spec.image.startsWith(e) && (e.endsWith('/') || "
            "((e.endsWith(':') || e.endsWith('@')) && "
            "!object.spec.image.substring(size(e)).contains('/')))))"
        ),
        message=(
            "'spec.image: ' + object.spec.image + ' is none of those that TrainingPolicy ' + "
            "params.metadata.name + ' allows (spec.allowedImages): ' + "
            "(params.spec.allowedImages + ['the default of the operator']).join(', ')"
        ),
        fallback="spec.image is none that the TrainingPolicy allows (spec.allowedImages)",
    )
    yield AdmissionRule(
        name="credentialsSecretName in allowedCredentialsSecrets",
        limit="allowedCredentialsSecrets",
        expression=(
            "variables.updating || !has(object.spec.credentialsSecretName) || "
            "!has(params.spec.allowedCredentialsSecrets) || "
            "object.spec.credentialsSecretName in params.spec.allowedCredentialsSecrets"
        ),
        message=(
            "'spec.credentialsSecretName: ' + object.spec.credentialsSecretName + ' is none of "
            "those that TrainingPolicy ' + params.metadata.name + ' allows "
            "(spec.allowedCredentialsSecrets): ' + "
            "(params.spec.allowedCredentialsSecrets + ['the default of the policy']).join(', ')"
        ),
        fallback="spec.credentialsSecretName is none that the TrainingPolicy allows "
        "(spec.allowedCredentialsSecrets)",
    )
    yield from _changeable_rules()
    lacks = "!(k in variables.labels) && (!variables.updating || k in variables.oldLabels)"
    yield AdmissionRule(
        name="metadata.labels has requiredLabels",
        limit="requiredLabels",
        expression=(
            f"!has(params.spec.requiredLabels) || !params.spec.requiredLabels.exists(k, {lacks})"
        ),
        message=(
            "'metadata.labels: ' + params.spec.requiredLabels.filter(k, "
            f"{lacks}).join(', ') + ' must be set: TrainingPolicy ' + params.metadata.name + "
            "' requires it (spec.requiredLabels)'"
        ),
        fallback="metadata.labels lacks one that the TrainingPolicy requires (spec.requiredLabels)",
    )


def _changeable_rules() -> Iterator[AdmissionRule]:
    """What may change under way: the names that a policy lists, in a field or in a label.

    The labels are Kueue's, and reach the Job: they choose a quota, and with it nodes.
    """
    classes = "params.spec.priorityClasses.map(c, c.name)"
    for field, limit, allowed, now, before in (
        ("spec.priorityClassName", "priorityClasses", classes, "priority", "oldPriority"),
        (
            f"metadata.labels[{QUEUE_PRIORITY_LABEL}]",
            "priorityClasses",
            classes,
            "queuePriority",
            "oldQueuePriority",
        ),
        (
            f"metadata.labels[{QUEUE_LABEL}]",
            "allowedQueues",
            "params.spec.allowedQueues",
            "queue",
            "oldQueue",
        ),
    ):
        yield AdmissionRule(
            name=f"{field} in {limit}",
            limit=limit,
            expression=(
                f"!has(params.spec.{limit}) || variables.{now} == '' || "
                f"(variables.updating && variables.{now} == variables.{before}) || "
                f"variables.{now} in {allowed}"
            ),
            message=(
                f"'{field}: ' + variables.{now} + ' is none of those that TrainingPolicy ' + "
                f"params.metadata.name + ' allows (spec.{limit}): ' + {allowed}.join(', ')"
            ),
            fallback=f"{field} is none that the TrainingPolicy allows (spec.{limit})",
        )
