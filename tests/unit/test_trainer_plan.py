"""The job document, before any file is touched."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora_api.reasons import Reason
from lora_api.settings import Precision
from lora_trainer.errors import TrainerError
from lora_trainer.plan import Plan, make_plan, parse_job, read_document, with_identity


def document(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
    return {
        "name": "anna",
        "recipe": "sd15",
        "baseModel": {"uri": "file:///models/base"},
        "dataset": {"uri": "file:///data"},
        "output": {"uri": "file:///out"},
        **changes,
    }


def plan_of(**changes: Any) -> Plan:  # noqa: ANN401
    return make_plan(parse_job(json.dumps(document(**changes))))


FAULTS: dict[str, tuple[str, list[str]]] = {
    "text that is no JSON": ("{", ["not JSON"]),
    "lists in lists in lists": ("[" * 100_000, ["not JSON"]),
    "a list": ("[]", ["the document must be an object"]),
    "an empty object": ("{}", ["name", "recipe", "baseModel", "dataset", "output"]),
    "an unknown recipe beside an unknown field": (
        json.dumps(document(recipe="sd99", colour="red")),
        ["recipe", "'sd99'", "sd15", "colour"],
    ),
    "three wrong numbers": (
        json.dumps(
            document(network={"rank": 0}, optimization={"batchSize": 0, "learningRate": 20})
        ),
        ["network.rank", "optimization.batchSize", "optimization.learningRate"],
    ),
    "steps and epochs": (
        json.dumps(document(optimization={"steps": 1, "epochs": 1})),
        ["steps or epochs"],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_document_names_every_fault(name: str) -> None:
    text, words = FAULTS[name]
    with pytest.raises(TrainerError) as caught:
        parse_job(text)
    assert caught.value.reason is Reason.INVALID_JOB
    assert all(word in caught.value.message for word in words), caught.value.message


def test_a_job_without_file_and_variable_says_how_to_give_one() -> None:
    with pytest.raises(TrainerError, match="LORA_JOB"):
        read_document(None, None)


def test_a_job_file_that_is_not_there_is_named() -> None:
    with pytest.raises(TrainerError, match=r"nowhere\.json"):
        read_document(Path("/nowhere.json"), None)


def test_a_named_file_wins_over_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text("from the file")
    assert read_document(path, "from the environment") == "from the file"


def test_the_recipe_and_the_rank_fill_in_what_the_job_leaves_out() -> None:
    plan = plan_of(network={"rank": 8})
    assert (plan.resolution, plan.min_side_pixels, plan.alpha) == (512, 512, 8.0)


STEPS: dict[str, tuple[dict[str, int], int]] = {
    "nothing given": ({}, 1000),
    "steps": ({"steps": 30}, 30),
    "epochs that divide": ({"epochs": 4, "batchSize": 2}, 10),
    "epochs that leave a rest": ({"epochs": 3, "batchSize": 4}, 4),
    "a batch larger than everything": ({"epochs": 1, "batchSize": 64}, 1),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_follow_from_the_settings_and_five_pictures(name: str) -> None:
    settings, steps = STEPS[name]
    assert plan_of(optimization=settings).total_steps(5) == steps


def test_more_steps_than_can_be_told_are_refused_with_their_number() -> None:
    plan = plan_of(optimization={"epochs": 100_000})
    with pytest.raises(TrainerError, match=r"optimization\.epochs: .* 500000000 steps") as caught:
        plan.total_steps(5000)
    assert caught.value.reason is Reason.INVALID_JOB
    assert plan.total_steps(1000) == 100_000_000


def test_prompts_come_from_the_job_then_the_trigger_word_then_the_captions() -> None:
    captions = ["a cat", "a dog", "a cat", "a cow", "a pig"]
    trigger = {"uri": "file:///data", "triggerWord": "zorp"}
    assert plan_of(validation={"prompts": ["x"]}).prompts(captions) == ["x"]
    assert len(plan_of(dataset=trigger).prompts(captions)) == 3
    assert all("zorp" in prompt for prompt in plan_of(dataset=trigger).prompts(captions))
    assert plan_of().prompts(captions) == ["a cat", "a dog", "a cow"]


def test_places_and_prompts_do_not_shape_the_weights_but_settings_and_data_do() -> None:
    def digest(
        data: str = "d",
        processes: int = 1,
        precision: Precision = Precision.BF16,
        **changes: Any,  # noqa: ANN401
    ) -> str:
        plan = plan_of(**changes)
        return plan.inputs_digest(data, "b", processes=processes, precision=precision)

    same: list[dict[str, Any]] = [
        {"output": {"uri": "file:///elsewhere"}},
        {"validation": {"prompts": ["x"]}},
    ]
    assert {digest(**changes) for changes in same} == {digest()}
    other: list[dict[str, Any]] = [{"network": {"rank": 3}}, {"optimization": {"seed": 1}}]
    machines = [digest(processes=2), digest(precision=Precision.FP32)]
    assert len({digest(), digest("e"), *machines, *(digest(**one) for one in other)}) == 6


def test_where_progress_is_served_does_not_make_another_job() -> None:
    assert plan_of(server={"port": 8080}).key == plan_of().key
    assert plan_of(name="other").key != plan_of().key


def _identity(recorded: str | None = None, **changes: Any) -> str:  # noqa: ANN401
    return with_identity(parse_job(json.dumps(document(**changes))), recorded).run_id


def test_a_job_without_run_id_has_the_identity_of_what_it_trains() -> None:
    assert _identity().startswith("local-")
    assert _identity(output={"uri": "file:///elsewhere"}) == _identity()
    assert _identity(dataset={"uri": "file:///other"}) != _identity()
    assert _identity(name="bob") != _identity()


def test_a_job_without_run_id_keeps_the_local_identity_of_its_workspace_and_takes_no_other() -> (
    None
):
    assert _identity("local-1", name="bob") == "local-1"
    assert _identity("some-uid") == _identity()
    assert _identity("local-1", runId="some-uid") == "some-uid"
