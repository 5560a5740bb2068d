"""The copy of a workspace: safe to be cut short, bounded, and never another run's."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lora_api.job import JobDocument
from lora_api.reasons import Reason
from lora_trainer.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from lora_trainer.errors import StorageError, TrainerError
from lora_trainer.mirror import Mirror, kept_safe
from lora_trainer.storage.local import LocalStorage
from lora_trainer.workspace import Workspace


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done to the copy, in order."""
    done: list[str] = []
    upload, delete = LocalStorage.upload, LocalStorage.delete

    def uploading(self: LocalStorage, source: Path, name: str, *, content_type: str) -> None:
        upload(self, source, name, content_type=content_type)
        done.append(f"+ {name}")

    def deleting(self: LocalStorage, name: str) -> None:
        delete(self, name)
        done.append(f"- {name}")

    monkeypatch.setattr(LocalStorage, "upload", uploading)
    monkeypatch.setattr(LocalStorage, "delete", deleting)
    return done


def _write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def _mirror(tmp_path: Path) -> Mirror:
    (tmp_path / "root").mkdir(exist_ok=True)
    mirror = Mirror(f"file://{tmp_path}/output", run_id="mine", root=tmp_path / "root")
    mirror.restore()
    return mirror


def test_what_a_marker_speaks_of_is_there_before_the_marker(
    tmp_path: Path, sent: list[str]
) -> None:
    mirror = _mirror(tmp_path)
    names = ("stages/save.json", "result/model.safetensors", "course/a/course.csv")
    _write(tmp_path / "root", *names)
    mirror.flush()
    assert sent == [f"+ {name}" for name in reversed(names)]


def test_a_marker_goes_before_what_it_speaks_of(tmp_path: Path, sent: list[str]) -> None:
    mirror = _mirror(tmp_path)
    _write(tmp_path / "root", "stages/save.json", "result/model.safetensors")
    mirror.flush()
    sent.clear()
    for name in ("stages/save.json", "result/model.safetensors"):
        (tmp_path / "root" / name).unlink()
    mirror.flush()
    assert sent == ["- stages/save.json", "- result/model.safetensors"]


def test_of_checkpoints_the_newest_is_kept_and_replaces_the_one_before(
    tmp_path: Path, sent: list[str]
) -> None:
    mirror = _mirror(tmp_path)
    _write(tmp_path / "root", "checkpoints/a/step-1.pt")
    mirror.flush()
    _write(tmp_path / "root", "checkpoints/a/step-2.pt")
    mirror.flush()
    first, second = "checkpoints/a/step-1.pt", "checkpoints/a/step-2.pt"
    assert sent == [f"+ {first}", f"+ {second}", f"- {first}"]


def test_what_has_not_changed_is_not_sent_again(tmp_path: Path, sent: list[str]) -> None:
    mirror = _mirror(tmp_path)
    _write(tmp_path / "root", "result/model.safetensors")
    mirror.flush()
    mirror.flush()
    assert sent == ["+ result/model.safetensors"]


def test_caches_and_half_written_files_are_not_sent(tmp_path: Path, sent: list[str]) -> None:
    mirror = _mirror(tmp_path)
    _write(tmp_path / "root", "cache/latents/a", "base/unet/b", "result/.model.safetensors.1.part")
    mirror.flush()
    assert sent == []


def test_another_workspace_gets_what_was_copied_and_sends_none_of_it_again(
    tmp_path: Path, sent: list[str]
) -> None:
    first = _mirror(tmp_path)
    _write(tmp_path / "root", "checkpoints/a/step-1.pt", "stages/save.json")
    first.flush()
    first.close()
    sent.clear()
    (tmp_path / "root").rename(tmp_path / "lost")
    second = _mirror(tmp_path)
    assert (tmp_path / "root/checkpoints/a/step-1.pt").read_text() == "checkpoints/a/step-1.pt"
    assert (tmp_path / "root/stages/save.json").exists()
    second.flush()
    assert sent == []


@pytest.mark.parametrize("damaged", [False, True])
def test_a_checkpoint_is_brought_back_with_its_checksum(damaged: bool, tmp_path: Path) -> None:
    first = _mirror(tmp_path)
    numbers = torch.arange(8.0)
    state = TrainingState(step=2, lora={"w": numbers}, optimizer={}, loss=None, refused_in_a_row=0)
    save_checkpoint(tmp_path / "root/checkpoints/a", state, keep=1)
    first.flush()
    first.close()
    (tmp_path / "root").rename(tmp_path / "lost")
    if damaged:
        copy = tmp_path / "output/.workspace/mine/checkpoints/a/step-00000002.pt"
        whole, written = copy.read_bytes(), numbers.numpy().tobytes()
        assert written in whole
        copy.write_bytes(whole.replace(written, bytes(len(written))))
    _mirror(tmp_path).close()
    found = load_checkpoint(tmp_path / "root/checkpoints/a")
    assert (found is None) == damaged


def test_a_storage_that_fails_for_now_stops_nobody_and_gets_it_later(
    tmp_path: Path, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = _mirror(tmp_path)
    _write(tmp_path / "root", "result/model.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "upload", _fail)
        mirror.flush()
    assert sent == []
    mirror.flush()
    assert sent == ["+ result/model.safetensors"]


def _fail(*_: object, **__: object) -> None:
    raise StorageError(Reason.STORAGE_UNREACHABLE, "gone", passing=True)


def test_a_name_that_leaves_the_workspace_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = LocalStorage.list_files

    def lying(self: LocalStorage) -> object:
        return [type(file)("stages/../../evil", 1, "x") for file in honest(self)]

    _write(tmp_path / "output/.workspace/mine", "stages/save.json")
    monkeypatch.setattr(LocalStorage, "list_files", lying)
    with pytest.raises(TrainerError, match="evil"):
        _mirror(tmp_path)


def test_what_is_none_of_a_workspaces_folders_is_left_where_it_is(tmp_path: Path) -> None:
    _write(tmp_path / "output/.workspace/mine", "run.json", "cache/latents/a")
    _mirror(tmp_path)
    assert list((tmp_path / "root").iterdir()) == []


def _job(tmp_path: Path, *, ephemeral: bool) -> JobDocument:
    return JobDocument.model_validate(
        {
            "name": "anna",
            "runId": "mine",
            "recipe": "sd15",
            "baseModel": {"uri": "s3://bases/sd15"},
            "dataset": {"uri": "s3://datasets/anna"},
            "output": {"uri": f"file://{tmp_path}/output"},
            "workspace": {"ephemeral": ephemeral},
        }
    )


def _train(keep_safe: Callable[[], None], root: Path) -> None:
    _write(root, "checkpoints/a/step-1.pt")
    keep_safe()


@pytest.mark.parametrize("ephemeral", [True, False])
def test_a_run_that_is_done_leaves_no_copy(ephemeral: bool, tmp_path: Path) -> None:
    root = tmp_path / "root"
    job = _job(tmp_path, ephemeral=ephemeral)
    with kept_safe(job, Workspace(root, "key"), fresh=False) as keep_safe:
        _train(keep_safe, root)
    assert not (tmp_path / "output" / ".workspace").exists()


def test_a_run_that_fails_leaves_its_copy_up_to_date(tmp_path: Path) -> None:
    root = tmp_path / "root"
    job = _job(tmp_path, ephemeral=True)
    with (
        pytest.raises(TrainerError, match="diverged"),
        kept_safe(job, Workspace(root, "key"), fresh=False),
    ):
        _write(root, "checkpoints/a/step-1.pt")
        raise TrainerError(Reason.TRAINING_DIVERGED, "diverged")
    assert (tmp_path / "output/.workspace/mine/checkpoints/a/step-1.pt").exists()


def test_a_fresh_run_forgets_the_copy(tmp_path: Path) -> None:
    _write(tmp_path / "output/.workspace/mine", "checkpoints/a/step-1.pt")
    root = tmp_path / "root"
    with kept_safe(_job(tmp_path, ephemeral=True), Workspace(root, "key"), fresh=True):
        assert not (root / "checkpoints").exists()


def test_the_copy_of_another_run_is_not_looked_at(tmp_path: Path) -> None:
    _write(tmp_path / "output/.workspace/other", "checkpoints/a/step-9.pt")
    root = tmp_path / "root"
    with kept_safe(_job(tmp_path, ephemeral=True), Workspace(root, "key"), fresh=False):
        assert not (root / "checkpoints").exists()
    assert (tmp_path / "output/.workspace/other/checkpoints/a/step-9.pt").exists()
    assert [path.name for path in (tmp_path / "output/.workspace").iterdir()] == ["other"]
