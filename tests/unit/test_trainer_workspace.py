"""What a workspace may be: a folder of its own, or one that this run has made its own."""

import json
from pathlib import Path

import pytest

from lora_api.job import JobDocument
from lora_api.reasons import Reason
from lora_trainer.errors import TrainerError
from lora_trainer.plan import parse_job
from lora_trainer.workspace import open_workspace, refuse_overlap


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _job(**changes: object) -> JobDocument:
    return JobDocument.model_validate(
        {
            "name": "t",
            "recipe": "sd15",
            "baseModel": {"uri": "file:///base"},
            "dataset": {"uri": "file:///pictures", "triggerWord": "zorp"},
            "output": {"uri": "file:///out"},
            **changes,
        }
    )


STRANGERS: dict[str, str] = {
    "a project with a dataset of its own": "dataset/notes.txt",
    "somebody's results": "result/thesis.txt",
    "a hidden file": ".bashrc",
    "one file": "notes.txt",
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_folder_with_content_is_no_workspace_and_stays_as_it_is(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / STRANGERS[name]
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    before = _files(tmp_path)
    with (
        pytest.raises(TrainerError, match="not empty") as caught,
        open_workspace(tmp_path, run_id="a", key="k"),
    ):
        pass
    assert caught.value.reason is Reason.WORKSPACE_NOT_WRITABLE
    assert STRANGERS[name].split("/")[0] in caught.value.message
    assert _files(tmp_path) == before


def test_a_fresh_volume_is_a_workspace(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    with open_workspace(tmp_path, run_id="a", key="k") as workspace:
        assert workspace.root == tmp_path


def test_a_start_that_was_killed_before_its_claim_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".run.json.7-140735.part").write_text("{")
    with open_workspace(tmp_path, run_id="a", key="k"):
        pass
    assert json.loads((tmp_path / "run.json").read_text()) == {"runId": "a"}
    assert not list(tmp_path.glob(".run.json*"))


def test_a_workspace_of_this_run_is_opened_again_with_all_that_it_holds(tmp_path: Path) -> None:
    with open_workspace(tmp_path, run_id="a", key="k") as workspace:
        workspace.dataset.mkdir()
        (workspace.dataset / "a.png").write_bytes(b"picture")
    before = _files(tmp_path)
    with open_workspace(tmp_path, run_id="a", key="k"):
        pass
    assert _files(tmp_path) == before


OVERLAPS: dict[str, tuple[str, dict[str, object]]] = {
    "the base model's folder": ("baseModel.uri", {"baseModel": {"uri": "file://{}"}}),
    "a folder around the dataset": ("dataset.uri", {"dataset": {"uri": "file://{}/dataset"}}),
    "a folder around one picture": (
        "dataset.uris[1]",
        {"dataset": {"uris": ["file:///a.png", "file://{}/b.png"]}},
    ),
    "the output's folder": ("output.uri", {"output": {"uri": "file://{}/"}}),
    "a folder around the output, said in a roundabout way": (
        "output.uri",
        {"output": {"uri": "file://{}/../workspace/result"}},
    ),
    "a folder around the embedder": (
        "validation.embedderUri",
        {"validation": {"embedderUri": "file://{}/dino"}},
    ),
}


@pytest.mark.parametrize("name", OVERLAPS)
def test_a_workspace_that_holds_what_the_job_names_is_refused(name: str, tmp_path: Path) -> None:
    field, changes = OVERLAPS[name]
    root = tmp_path / "workspace"
    job = _job(
        **json.loads(json.dumps(changes).replace("{}/", f"{root}/").replace("{}", f"{root}"))
    )
    with pytest.raises(TrainerError) as caught:
        refuse_overlap(root, job)
    assert caught.value.reason is Reason.WORKSPACE_NOT_WRITABLE
    assert caught.value.message.startswith(f"{field}: ")


def test_a_workspace_beside_all_that_the_job_names_is_fine(tmp_path: Path) -> None:
    names = ("base", "pictures", "workspace-2")
    base, pictures, output = ({"uri": f"file://{tmp_path}/{name}"} for name in names)
    refuse_overlap(tmp_path / "workspace", _job(baseModel=base, dataset=pictures, output=output))
    refuse_overlap(tmp_path / "workspace", _job(output={"uri": "s3://bucket/workspace"}))


@pytest.mark.parametrize("name", [".", "..", "..."])
def test_a_name_of_dots_is_refused_because_a_folder_is_named_after_it(name: str) -> None:
    text = _job().model_dump_json(by_alias=True, exclude_none=True).replace('"t"', f'"{name}"')
    with pytest.raises(TrainerError, match=r"name: .*more than dots") as caught:
        parse_job(text)
    assert caught.value.reason is Reason.INVALID_JOB
