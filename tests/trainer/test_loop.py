"""Every way of training goes on where it was, and does what its setting says."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.trainer.jobs import AJob
from tests.trainer.tiny import picture_of

from lora_api.exit_codes import ExitCode
from lora_trainer.batches import MicroBatch
from lora_trainer.loop import Trainer

# Settings under which a run that was interrupted must end with the bytes of one that was not.
WAYS: dict[str, dict[str, Any]] = {
    "adamw with accumulation": {
        "optimization.gradientAccumulationSteps": 3,
        "optimization.lrScheduler": "linear",
        "optimization.warmupSteps": 2,
    },
    "a moving average": {"optimization.emaDecay": 0.9},
    "adamw8bit": {"optimization.optimizer": "adamw8bit"},
    "prodigy": {"optimization.optimizer": "prodigy", "optimization.learningRate": 1.0},
    "adafactor": {"optimization.optimizer": "adafactor"},
    "bf16": {"optimization.precision": "bf16"},
    "fp16 with loss scaling": {"optimization.precision": "fp16"},
    "shuffled captions and mirror images": {
        "dataset.shuffleCaptions": True,
        "dataset.flip": True,
        "dataset.repeats": 2,
    },
}


def _interrupted_at(step: int, job: AJob, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Trainer._stop_where_asked

    def asked(self: Trainer, at: int) -> None:
        if at == step:
            self.stop.request()
        honest(self, at)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_stop_where_asked", asked)
        assert job.run()[0] == ExitCode.INTERRUPTED


def _checkpoint(job: AJob, step: int) -> dict[str, Any]:
    (path,) = job.workspace.glob(f"checkpoints/*/step-{step:08d}.pt")
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


@pytest.mark.parametrize("name", WAYS)
def test_an_interrupted_run_ends_with_the_same_bytes(
    name: str, job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = job.with_steps(4)
    for path, value in WAYS[name].items():
        whole = whole.having(path, value)
    code, result = whole.run()
    assert code == ExitCode.OK, result.message
    halves = whole.in_workspace("halves")
    _interrupted_at(2, halves, monkeypatch)
    code, result = halves.run()
    assert code == ExitCode.OK, result.message
    assert halves.model == whole.model


def test_a_stop_does_not_wait_for_the_batches_that_a_step_still_has(
    job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, begun = Trainer.losses, list[int]()

    def asked_in_the_second_step(self: Trainer, batch: MicroBatch) -> torch.Tensor:
        begun.append(len(begun))
        if len(begun) == 6:
            self.stop.request()
        return honest(self, batch)

    whole = job.with_steps(2).having("optimization.gradientAccumulationSteps", 4)
    assert whole.run()[0] == ExitCode.OK
    halves = whole.in_workspace("halves")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "losses", asked_in_the_second_step)
        code, result = halves.run()
    assert (code, result.step) == (ExitCode.INTERRUPTED, 1)
    assert len(begun) == 6, "two batches of the second step were never begun"
    assert halves.run()[0] == ExitCode.OK
    assert halves.model == whole.model, "nothing of the unfinished step is left"


def test_a_step_learns_from_all_the_batches_it_accumulates(
    job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    honest = Trainer.losses

    def watched(self: Trainer, batch: MicroBatch) -> torch.Tensor:
        found = honest(self, batch)
        seen.append(found.detach())
        return found

    monkeypatch.setattr(Trainer, "losses", watched)
    four = job.with_steps(1).having("optimization.batchSize", 1)
    four = four.having("optimization.gradientAccumulationSteps", 4)
    assert four.run()[0] == ExitCode.OK
    assert len(seen) == 4
    assert float(_checkpoint(four, 1)["loss"]) == pytest.approx(float(torch.cat(seen).mean()))


def test_the_file_holds_the_moving_average_and_the_checkpoint_both(job: AJob) -> None:
    averaged = job.with_steps(3).having("optimization.emaDecay", 0.5)
    assert averaged.run()[0] == ExitCode.OK
    plain = job.with_steps(3).in_workspace("plain")
    assert plain.run()[0] == ExitCode.OK
    kept, alone = _checkpoint(averaged, 3), _checkpoint(plain, 3)
    assert all(torch.equal(kept["lora"][name], alone["lora"][name]) for name in kept["lora"])
    assert any(not torch.equal(kept["average"][n], kept["lora"][n]) for n in kept["lora"])
    assert averaged.model != plain.model


def test_checkpoints_may_come_by_epochs(job: AJob) -> None:
    """Four pictures are trained on, two a step: an epoch takes two steps."""
    epochs = job.with_steps(6).having("checkpoints", {"everyEpochs": 2, "keep": 9})
    assert epochs.run()[0] == ExitCode.OK
    steps = sorted(path.stem for path in epochs.workspace.glob("checkpoints/*/step-*.pt"))
    assert steps == ["step-00000004", "step-00000006"]


def test_repeats_make_an_epoch_longer(job: AJob) -> None:
    body = {"epochs": 1, "batchSize": 2, "resolution": 64, "learningRate": 1e-3}
    twice = job.having("optimization", body).having("dataset.repeats", 3)
    code, result = twice.run()
    assert code == ExitCode.OK, result.message
    assert result.total_steps == 6


def test_pictures_of_several_shapes_are_trained_shape_by_shape(
    job: AJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for index in range(6):
        side = picture_of(index, side=256)
        side.resize((512, 256) if index % 2 else (256, 256)).save(folder / f"p{index}.png")
    shapes: list[set[tuple[int, ...]]] = []
    honest = Trainer.losses

    def watched(self: Trainer, batch: MicroBatch) -> torch.Tensor:
        shapes.append({tuple(batch.inputs.moments.shape)})
        return honest(self, batch)

    monkeypatch.setattr(Trainer, "losses", watched)
    mixed = job.with_steps(4).having("dataset.uri", f"file://{folder}")
    mixed = mixed.having("optimization.resolution", 256).having("validation.heldOutImages", 0)
    code, result = mixed.run()
    assert code == ExitCode.OK, result.message
    assert len(set().union(*shapes)) == 2
