"""What is drawn, and what becomes of a LoRA that is saved where there is no room to draw."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tests.trainer.jobs import AJob

from lora_api.exit_codes import ExitCode
from lora_api.progress import Stage
from lora_trainer import results
from lora_trainer.errors import InterruptedRunError
from lora_trainer.progress import ProgressBoard
from lora_trainer.recipes import Recipe, unet
from lora_trainer.recipes.pipelines import PipelineSampler
from lora_trainer.sample import SEEDS_PER_PROMPT
from lora_trainer.score import held_out_score

Room = Callable[[int], bool]


def _out_of_memory(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def _with_room_for(room: Room, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device that draws so many pictures at once; returns how many were asked for, each time."""
    honest: Any = PipelineSampler.draw
    asked: list[int] = []

    def draw(self: object, *, seeds: Sequence[int], **rest: object) -> object:
        asked.append(len(seeds))
        if not room(len(seeds)):
            _out_of_memory()
        return honest(self, seeds=seeds, **rest)

    monkeypatch.setattr(PipelineSampler, "draw", draw)
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
    "to draw": ((PipelineSampler, "draw"), ["samples"]),
    "for the VAE that draws": ((unet, "load_vae"), ["samples"]),
    "to score": ((results, "held_out_score"), ["held-out loss"]),
}


@pytest.mark.parametrize("name", NO_ROOM)
def test_a_saved_lora_is_stored_though_there_is_no_room(
    name: str, job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    (where, call), missing = NO_ROOM[name]
    small = job.with_steps(2)
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


def _breaking(*_: object, **__: object) -> None:
    raise RuntimeError("shape '[1, 8, 8]' is invalid")


BROKEN: dict[str, tuple[tuple[object, str], str]] = {
    "drawing": ((PipelineSampler, "draw"), "samples"),
    "scoring": ((results, "held_out_score"), "held-out loss"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_saved_lora_is_stored_whatever_fails_while_it_is_looked_at(
    name: str, job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    (where, call), missing = BROKEN[name]
    monkeypatch.setattr(where, call, _breaking)
    code, result = job.with_steps(2).run()
    assert code == ExitCode.OK, result.message
    assert (job.output / "model.safetensors").exists()
    [left_out] = _report(job)["leftOut"]
    assert left_out.startswith(f"{missing}: left out, it failed with RuntimeError: shape")
    assert left_out in result.message


@pytest.mark.parametrize("rung", ["none", "fp8", "nf4"])
def test_a_restart_draws_with_a_base_as_small_as_it_was_trained_on(
    rung: str, job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = job.with_steps(2).having("optimization.memory", rung)
    with monkeypatch.context() as patched:
        patched.setattr(results, "sample_and_score", _stopped)
        assert small.run()[0] == ExitCode.INTERRUPTED
    scored: list[str] = []
    honest = held_out_score

    def score(recipe: Recipe, denoiser: torch.nn.Module, *rest: Any, **more: Any) -> Any:  # noqa: ANN401
        kinds = {type(layer).__name__ for layer in denoiser.modules()}
        scored.extend(kinds & {"_Fp8Linear", "Linear4bit"} or {"Linear"})
        return honest(recipe, denoiser, *rest, **more)

    monkeypatch.setattr(results, "held_out_score", score)
    code, result = small.run()
    assert code == ExitCode.OK, result.message
    assert scored == [{"none": "Linear", "fp8": "_Fp8Linear", "nf4": "Linear4bit"}[rung]]
    assert (_report(small)["memory"], _report(small)["leftOut"]) == (rung, [])
    undisturbed = small.in_workspace("undisturbed")
    assert undisturbed.run()[0] == ExitCode.OK
    assert _report(undisturbed)["scores"] == _report(small)["scores"]


def _stopped(*_: object) -> None:
    raise InterruptedRunError("SIGTERM arrived")


def test_drawing_and_scoring_are_heard_of_while_they_last(
    job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[Stage, float]] = []
    honest = ProgressBoard.alive

    def alive(board: ProgressBoard) -> None:
        now = board.snapshot()
        heard.append((now.stage, now.stage_percent))
        honest(board)

    monkeypatch.setattr(ProgressBoard, "alive", alive)
    assert job.with_steps(2).run()[0] == ExitCode.OK
    percents = [percent for stage, percent in heard if stage is Stage.SAMPLE]
    # LoRA and base each draw in two steps, and score the held-out picture in five batches.
    assert len(percents) >= 2 * 2 + 2 * 5
    assert percents == sorted(percents)
    assert percents[0] == 0.0 < percents[-1] < 100.0
