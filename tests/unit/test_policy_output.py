"""Where the result of a run goes whose spec does not say so."""

import pytest
from tests.builders import ATraining, a_training
from tests.policies import a_policy
from tests.sights import ASight, seen

from lora_api.reasons import Reason
from lora_api.status import ConditionType, LoRATrainingStatus
from lora_operator.policy.output import default_output, why_no_output
from lora_operator.state.views import Permission, PolicyWord

PLACES = {
    "the user's folder": ("s3://models/{user}/", "anna", "s3://models/anna/studio/zorp/"),
    "a folder within the user's": (
        "s3://loras/x/{user}/y/",
        "ben",
        "s3://loras/x/ben/y/studio/zorp/",
    ),
    "one prefix for all users": ("s3://models/", "anna", "s3://models/studio/zorp/"),
    "one prefix for all, and no user": ("s3://models/", None, "s3://models/studio/zorp/"),
    "a mail address as user": (
        "s3://models/{user}/",
        "a+b@x.org",
        "s3://models/a+b@x.org/studio/zorp/",
    ),
    "a user with a slash": ("s3://models/{user}/", "anna/ben", None),
    "a user with a colon": ("s3://models/{user}/", "oidc:anna", None),
    "a user with a colon, and one prefix for all": (
        "s3://models/",
        "oidc:anna",
        "s3://models/studio/zorp/",
    ),
    "no user for a user's folder": ("s3://models/{user}/", None, None),
    "a place longer than a URI": ("s3://models/" + "{user}/" * 5, "a" * 253, None),
    "no prefix": (None, "anna", None),
}


@pytest.mark.parametrize(("prefix", "user", "place"), PLACES.values(), ids=PLACES)
def test_the_place_is_the_prefix_the_namespace_and_the_run(
    prefix: str | None, user: str | None, place: str | None
) -> None:
    policy = a_policy(defaults={"outputPrefix": prefix} if prefix else {})
    assert default_output(policy, namespace="studio", name="zorp", user=user) == place


def test_who_gets_no_place_is_told_what_to_do() -> None:
    unfit = why_no_output(a_policy(defaults={"outputPrefix": "s3://models/{user}/"}), "oidc:anna")
    assert "(s3://models/{user}/)" in unfit
    assert "user oidc:anna" in unfit
    for policy in (None, a_policy()):
        assert "set spec.defaults.outputPrefix of TrainingPolicy default" in why_no_output(
            policy, "anna"
        )


def without_output() -> ATraining:
    return a_training().with_spec("user", "anna").with_spec("output", {"tensorboard": True})


def sight(training: ATraining, **defaults: str) -> ASight:
    word = PolicyWord(permission=Permission.GRANTED, policy=a_policy(defaults=defaults))
    return seen().of(training).told_by_policy(word)


def test_the_place_is_written_down_before_anything_is_made() -> None:
    decision = sight(without_output(), outputPrefix="s3://models/{user}/").decide()
    assert decision.status is not None
    assert decision.status.output_uri == "s3://models/anna/studio/anna/"
    assert not decision.actions
    later = sight(without_output()).with_status(decision.status).decide()
    assert later.actions, "the run goes on, also where the policy says nothing any more"
    assert later.status is not None
    assert later.status.output_uri == "s3://models/anna/studio/anna/"


def test_the_trainer_is_told_the_place_that_was_settled() -> None:
    status = LoRATrainingStatus(output_uri="s3://models/anna/studio/anna/")
    run = without_output().with_status(status).run()
    assert run.spec is not None
    assert (run.spec.output.uri, run.spec.output.tensorboard) == (status.output_uri, True)


def test_a_runs_own_place_stays_whatever_its_status_says() -> None:
    status = LoRATrainingStatus(output_uri="s3://elsewhere/x/")
    run = a_training().with_status(status).run()
    assert run.spec is not None
    assert run.spec.output.uri == "s3://models/anna/"


def test_a_run_for_which_nobody_names_a_place_is_refused() -> None:
    for training in (sight(without_output()), seen().of(without_output())):
        decision = training.decide()
        assert decision.status is not None
        assert decision.status.failure is not None
        assert decision.status.failure.reason == Reason.INVALID_SPEC
        assert "spec.output.uri is not given" in decision.status.failure.message
        admitted = {c.type: c.status for c in decision.status.conditions}[ConditionType.ADMITTED]
        assert admitted == "False"
        assert not decision.actions


def test_nobody_is_refused_before_the_policy_is_known() -> None:
    word = PolicyWord(permission=Permission.AWAITED, reason=Reason.QUEUED, message="soon")
    decision = seen().of(without_output()).told_by_policy(word).decide()
    assert decision.status is not None
    assert decision.status.failure is None
    assert not decision.actions
