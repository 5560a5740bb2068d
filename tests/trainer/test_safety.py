"""Wrong numbers and wrong files never become a LoRA."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from tests.trainer.jobs import AJob

from lora_api.exit_codes import ExitCode
from lora_api.reasons import Reason
from lora_trainer.entries import read_entry, write_entry
from lora_trainer.recipes import Batch
from lora_trainer.recipes.sd15 import StableDiffusion15

NAN = float("nan")


def _with_losses_times(
    factor: float, monkeypatch: pytest.MonkeyPatch, steps: set[int], *, scoring: bool = False
) -> None:
    """Multiply the loss of some training steps, gradients included, or all that is not training."""
    honest = StableDiffusion15.losses
    calls = 0

    def losses(
        self: StableDiffusion15, denoiser: torch.nn.Module, batch: Batch, **rest: object
    ) -> torch.Tensor:
        nonlocal calls
        found = honest(self, denoiser, batch, **rest)  # type: ignore[arg-type]
        if not denoiser.training:
            return found * factor if scoring else found
        calls += 1
        return found * factor if calls - 1 in steps else found

    monkeypatch.setattr(StableDiffusion15, "losses", losses)


def _weights(job: AJob, step: int) -> dict[str, torch.Tensor]:
    (path,) = job.workspace.glob(f"checkpoints/*/step-{step:08d}.pt")
    weights: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["lora"]
    return weights


def test_a_step_with_nan_changes_no_weight_and_the_run_goes_on(
    job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_losses_times(NAN, monkeypatch, {2, 3})
    every = job.with_steps(6).having("checkpoints", {"everySteps": 1, "keep": 10})
    code, result = every.run()
    assert code == ExitCode.OK, result.message
    before, after = _weights(every, 2), _weights(every, 4)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(not torch.equal(after[name], _weights(every, 5)[name]) for name in after)
    assert all(bool(weight.isfinite().all()) for weight in _weights(every, 6).values())


@pytest.mark.parametrize("factor", [NAN, 1e12])
def test_three_bad_steps_in_a_row_end_the_run_and_name_the_pictures(
    factor: float, job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_losses_times(factor, monkeypatch, {3, 4, 5})
    long = job.with_steps(10).having("checkpoints.everySteps", 3)
    code, result = long.run()
    assert (code, result.reason) == (ExitCode.DIVERGED, Reason.TRAINING_DIVERGED)
    assert not result.retryable
    assert "step 6" in result.message
    assert ".png" in result.message
    assert "optimization.learningRate" in result.message
    assert all(bool(weight.isfinite().all()) for weight in _weights(long, 3).values())
    assert not (long.output / "model.safetensors").exists()


@pytest.mark.parametrize("factor", [NAN, 1e12])
def test_a_lora_that_predicts_nonsense_of_held_out_pictures_is_not_published(
    factor: float, job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_losses_times(factor, monkeypatch, set(), scoring=True)
    monkeypatch.setattr("lora_trainer.saving.reload_and_compare", lambda *_, **__: None)
    code, result = job.with_steps(2).run()
    assert (code, result.reason) == (ExitCode.DIVERGED, Reason.TRAINING_DIVERGED)
    assert "held-out" in result.message
    assert not (job.output / "model.safetensors").exists()


def test_a_failure_is_told_even_where_the_progress_can_not_be(
    job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("nobody foresaw this either")

    monkeypatch.setattr("lora_trainer.progress.ProgressBoard.snapshot", broken)
    code, result = job.having("dataset.uri", f"file://{job.folder}/empty").run()
    assert (code, result.reason) == (ExitCode.BAD_INPUT, Reason.OBJECT_NOT_FOUND)


def test_a_failure_is_told_even_where_a_file_name_is_no_text(job: AJob, pictures: Path) -> None:
    own = Path(shutil.copytree(pictures, job.folder / "own"))
    Path(os.fsdecode(bytes(own) + b"/bad-\xff.png")).write_text("no picture")
    code, result = job.having("dataset.uri", f"file://{own}").run()
    assert (code, result.reason) == (ExitCode.BAD_INPUT, Reason.INVALID_IMAGES)
    assert "bad-?.png" in result.message


def _spoil(path: Path) -> None:
    """Fill a cache entry with numbers that are none; the entry itself stays whole."""
    tensors = read_entry(path)
    assert tensors is not None
    write_entry(path, {name: torch.full_like(one, NAN) for name, one in tensors.items()})


def test_nan_in_one_pictures_latents_changes_no_weight_and_names_that_picture(
    job: AJob, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = job.with_steps(2).having("dataset.captionDropout", 0.0)
    assert prepared.run()[0] == ExitCode.OK
    clean = {path.name for path in prepared.workspace.glob("cache/latents/*")}
    _spoil(min(prepared.workspace.glob("cache/latents/*")))
    shutil.rmtree(prepared.workspace / "checkpoints")
    every = prepared.with_steps(8).having("checkpoints", {"everySteps": 1, "keep": 10})
    every = every.having("optimization.batchSize", 1).having("validation.heldOutImages", 0)
    capsys.readouterr()
    every.run()
    said = [line for line in capsys.readouterr().err.splitlines() if "update left out" in line]
    assert len(clean) == 5
    assert said
    pictures = {line.split("pictures=")[1].split()[0] for line in said}
    assert len(pictures) == 1, "each refusal names the one spoilt picture, not its neighbours"
    refused = {int(line.split("step=")[1].split()[0]) for line in said}
    for step in range(2, 9):
        before, after = _weights(every, step - 1), _weights(every, step)
        unchanged = all(torch.equal(before[name], after[name]) for name in before)
        assert unchanged == (step in refused), f"step {step}"


def test_a_dataset_of_nothing_but_nan_ends_the_run_and_names_its_pictures(job: AJob) -> None:
    small = job.with_steps(2)
    assert small.run()[0] == ExitCode.OK
    for path in small.workspace.glob("cache/latents/*"):
        _spoil(path)
    code, result = small.with_steps(9).run()
    assert (code, result.reason) == (ExitCode.DIVERGED, Reason.TRAINING_DIVERGED)
    assert "picture-0" in result.message


def test_a_file_that_reloads_differently_is_not_published(
    job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = StableDiffusion15.to_file

    def forgetful(self: StableDiffusion15, weights: object, **rest: object) -> object:
        tensors = honest(self, weights, **rest)  # type: ignore[arg-type]
        return {name: tensor for name, tensor in tensors.items() if not name.endswith(".alpha")}

    monkeypatch.setattr(StableDiffusion15, "to_file", forgetful)
    code, result = job.with_steps(2).run()
    assert (code, result.reason) == (ExitCode.CRASHED, Reason.ARTIFACT_MISMATCH)
    assert "of the denoiser came back different" in result.message
    assert not (job.output / "model.safetensors").exists()


def test_a_fault_of_the_program_is_one_sentence_in_the_result(
    job: AJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("nobody foresaw this")

    monkeypatch.setattr(StableDiffusion15, "skeleton", broken)
    code, result = job.run()
    assert (code, result.reason) == (ExitCode.CRASHED, Reason.INTERNAL_ERROR)
    assert "ZeroDivisionError: nobody foresaw this" in result.message
    assert "Traceback" not in result.message
    assert "Traceback" in capsys.readouterr().err


def test_dropout_is_repeated_exactly_after_a_restart(job: AJob, tmp_path: Path) -> None:
    whole = job.with_steps(8).having("network.dropout", 0.5)
    assert whole.run()[0] == ExitCode.OK
    halves = whole.in_workspace("halves")
    run = halves.having("checkpoints.everySteps", 1).start()
    run.wait_until(lambda: run.checkpoint_exists(at_least=3))
    run.process.kill()
    run.exit_code()
    assert halves.run()[0] == ExitCode.OK
    assert halves.model == whole.model
