"""Where the result of a run goes that does not say so itself: a folder of its own.

A module of its own because this place is the policy's and not the tenant's, and yet nobody else's
folder may be reached by the names that a tenant chose.
"""

from pydantic import TypeAdapter, ValidationError

from lora_api.base import StorageUri
from lora_api.policy import ACTING_POLICY, USER_PLACEHOLDER, TrainingPolicySpec

_PLACE: TypeAdapter[str] = TypeAdapter(StorageUri)
_GIVE = f"or set spec.defaults.outputPrefix of TrainingPolicy {ACTING_POLICY}"
NO_OUTPUT = f"spec.output.uri is not given. Create the run again with it, {_GIVE} before."


def default_output(
    policy: TrainingPolicySpec | None, *, namespace: str, name: str, user: str | None
) -> str | None:
    """`<outputPrefix><namespace>/<name>/`; namespace and name can't hold a `/` or begin with a `.`.

    Args:
        policy: Of the run's namespace, if it has one.
        namespace: Of the run.
        name: Of the run.
        user: spec.user. Where `{user}` stands for it, it must be one part of a path.

    Returns:
        None where the policy gives none, or none that a URI can hold.
    """
    prefix = policy.defaults.output_prefix if policy is not None else None
    if prefix is None:
        return None
    if USER_PLACEHOLDER in prefix:
        if not user or "/" in user:
            return None
        prefix = prefix.replace(USER_PLACEHOLDER, user)
    try:
        return _PLACE.validate_python(f"{prefix}{namespace}/{name}/")
    except ValidationError:
        return None


def why_no_output(policy: TrainingPolicySpec | None, user: str | None) -> str:
    """The sentence for the user where `default_output` gives nothing."""
    prefix = policy.defaults.output_prefix if policy is not None else None
    if prefix is None:
        return NO_OUTPUT
    return (
        f"spec.output.uri is not given, and from spec.defaults.outputPrefix ({prefix}) of "
        f"TrainingPolicy {ACTING_POLICY} no place can be made for user {user or '(none)'}. Create "
        "the run again with spec.output.uri."
    )
