"""What is drawn, and what becomes of a LoRA that is saved where there is no room to draw."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tests.trainer.jobs import AJob

from lora_api.exit_codes import ExitCode
from lora_trainer import results
from lora_trainer.recipes import sd15
from lora_trainer.sample import SEEDS_PER_PROMPT

Room = Callable[[int], bool]
# The sampler's own class: the tests stand between it and the model.
_SAMPLER = sd15._PipelineSampler


def _out_of_memory(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def _with_room_for(room: Room, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device that draws so many pictures at once; returns how many were asked for, each time."""
    honest: Any = _SAMPLER.draw
    asked: list[int] = []

    def draw(self: object, *, seeds: Sequence[int], **rest: object) -> object:
        asked.append(len(seeds))
        if not room(len(seeds)):
            _out_of_memory()
        return honest(self, seeds=seeds, **rest)

    monkeypatch.setattr(_SAMPLER, "draw", draw)
    return asked


def _report(job: AJob) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((job.output / "report.json").read_text())
    return report


def test_a_prompt_that_is_given_twice_is_drawn_twice_not_in_one_batch(
    job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _with_room_for(lambda _: True, monkeypatch)
    code, result = job.with_steps(2).having("validation.prompts", ["zorp", "zorp"]).run()
    assert code == ExitCode.OK, result.message
    assert asked == [SEEDS_PER_PROMPT] * 4  # two prompts, LoRA and base
    assert len(_report(job)["samples"]) == 2 * SEEDS_PER_PROMPT


def test_where_a_batch_does_not_fit_pictures_are_drawn_one_at_a_time(
    job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _with_room_for(lambda count: count == 1, monkeypatch)
    code, result = job.with_steps(2).run()
    assert code == ExitCode.OK, result.message
    assert asked == [SEEDS_PER_PROMPT, 1, 1, 1] * 2
    assert len(_report(job)["samples"]) == SEEDS_PER_PROMPT
    assert _report(job)["warnings"] == []


# What has no room, and what the result must say is missing.
NO_ROOM: dict[str, tuple[tuple[object, str], list[str]]] = {
    "to draw": ((_SAMPLER, "draw"), ["samples"]),
    "for the VAE that draws": ((sd15, "_load_vae"), ["samples"]),
    "to score": ((results, "held_out_score"), ["held-out loss"]),
}


@pytest.mark.parametrize("name", NO_ROOM)
def test_a_saved_lora_is_stored_though_there_is_no_room(
    name: str, job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    (where, call), missing = NO_ROOM[name]
    small = job.with_steps(2)
    if call == "_load_vae":  # the same one encodes pictures before the training; have them cached
        assert small.run()[0] == ExitCode.OK
        small = small.having("validation.seed", 5)
    monkeypatch.setattr(where, call, _out_of_memory)
    code, result = small.run()
    assert code == ExitCode.OK, result.message
    assert (small.output / "model.safetensors").exists()
    assert (small.output / "contact-sheet.png").exists()
    report = _report(small)
    assert [warning.split(":")[0] for warning in report["warnings"]] == missing
    assert all(word in result.message for word in [*missing, "memory"])
    assert ("samples" in missing) == (report["samples"] == [])
    assert result.validation is not None
    assert (result.validation.lora_loss is None) == ("held-out loss" in missing)
