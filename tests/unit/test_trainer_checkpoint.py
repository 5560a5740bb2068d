"""Checkpoints: what was written is what is read, or it is not read at all."""

from pathlib import Path

import pytest
import torch

from lora_trainer.checkpoint import TrainingState, load_checkpoint, newest_step, save_checkpoint
from lora_trainer.disk import CHUNK_BYTES


def _state(step: int, *, numbers: int = 8) -> TrainingState:
    return TrainingState(
        step=step,
        lora={"w": torch.arange(float(numbers)) + step},
        optimizer={"state": {0: {"m": torch.ones(4)}}, "param_groups": []},
        loss=0.5,
        refused_in_a_row=1,
    )


def _save(folder: Path, *steps: int, keep: int = 2) -> Path:
    """The newest checkpoint's file."""
    for step in steps:
        save_checkpoint(folder, _state(step), keep=keep)
    return max(folder.glob("step-*.pt"))


def _without_digest(folder: Path, step: int) -> Path:
    """A checkpoint as earlier versions wrote it."""
    state = _state(step)
    content = {name: getattr(state, name) for name in TrainingState.__dataclass_fields__}
    path = folder / f"step-{step:08d}.pt"
    torch.save(content, path)
    return path


def _loaded_step(folder: Path) -> int | None:
    state = load_checkpoint(folder)
    return None if state is None else state.step


@pytest.mark.parametrize("numbers", [0, 8, CHUNK_BYTES])
def test_what_was_saved_is_loaded(numbers: int, tmp_path: Path) -> None:
    saved = _state(3, numbers=numbers)
    save_checkpoint(tmp_path, saved, keep=1)
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert (loaded.step, loaded.loss, loaded.refused_in_a_row) == (3, 0.5, 1)
    assert torch.equal(loaded.lora["w"], saved.lora["w"])


def test_a_changed_byte_anywhere_makes_the_older_checkpoint_the_newest(tmp_path: Path) -> None:
    newest = _save(tmp_path, 1, 2)
    whole = newest.read_bytes()
    assert _loaded_step(tmp_path) == 2
    places = {*range(0, len(whole), 13), *range(len(whole) - 100, len(whole))}
    for place in places:
        newest.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        assert _loaded_step(tmp_path) == 1, f"byte {place} of {len(whole)}"


@pytest.mark.parametrize("lost", [1, 20, 71, 80, 92, 93, 94, 200])
def test_a_checkpoint_that_is_cut_off_is_not_read(lost: int, tmp_path: Path) -> None:
    newest = _save(tmp_path, 1, 2)
    newest.write_bytes(newest.read_bytes()[:-lost])
    assert _loaded_step(tmp_path) == 1


DAMAGE = {
    "empty": b"",
    "no archive": b"\x80\x04garbage.",
    "an archive of nothing": b"PK\5\6" + bytes(18),
    "more after the end": None,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_no_checkpoint_costs_its_steps_only(name: str, tmp_path: Path) -> None:
    newest = _save(tmp_path, 1, 2)
    spoilt = DAMAGE[name]
    newest.write_bytes(newest.read_bytes() + b"x" if spoilt is None else spoilt)
    assert _loaded_step(tmp_path) == 1


def test_the_log_names_the_damaged_checkpoint_and_what_is_wrong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newest = _save(tmp_path, 1, 2)
    whole = newest.read_bytes()
    at = whole.index(_state(2).lora["w"].numpy().tobytes())
    newest.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
    assert _loaded_step(tmp_path) == 1
    said = caplog.text
    assert "trying an older one" in said
    assert str(newest) in said
    assert "sha256" in said


def test_a_checkpoint_of_an_earlier_version_still_loads(tmp_path: Path) -> None:
    _without_digest(tmp_path, 7)
    assert _loaded_step(tmp_path) == 7


def test_an_earlier_version_can_read_a_checkpoint(tmp_path: Path) -> None:
    content = torch.load(_save(tmp_path, 4), weights_only=True)
    assert TrainingState(**content).step == 4


def test_after_a_damaged_checkpoint_new_ones_are_kept(tmp_path: Path) -> None:
    newest = _save(tmp_path, 9, keep=1)
    newest.write_bytes(b"")
    assert _loaded_step(tmp_path) is None
    _save(tmp_path, 2, keep=1)
    assert (_loaded_step(tmp_path), newest_step(tmp_path)) == (2, 2)


def test_as_many_are_kept_as_asked_for(tmp_path: Path) -> None:
    _save(tmp_path, 1, 2, 3, 4, keep=2)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]
