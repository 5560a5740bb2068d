"""What doesn't fit steps down the ladder, remembers it, and goes on; what never fits says so."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load
from tests.trainer.jobs import AJob, a_job
from tests.trainer.tiny_wan import make_wan

from lora_api.exit_codes import ExitCode
from lora_api.reasons import Reason
from lora_trainer import assembly, compiling, results
from lora_trainer.batches import MicroBatch
from lora_trainer.loop import Trainer
from lora_trainer.lora import Adapted
from lora_trainer.progress import Advance
from lora_trainer.sample import Brush, Drawn, draw_samples
from lora_trainer.stopping import StopFlag


def _rung(denoiser: torch.nn.Module) -> str:
    """How a base is held, told by looking at it."""
    kinds = {type(module).__name__ for module in denoiser.modules()}
    if "Linear4bit" in kinds:
        return "nf4"
    if "_Fp8Linear" in kinds:
        return "fp8"
    model: Any = denoiser
    return "checkpointing" if model.is_gradient_checkpointing else "none"


def _with_room_for(
    fitting: set[str], monkeypatch: pytest.MonkeyPatch, *, from_step: int = 0
) -> list[tuple[str, int]]:
    """A device on which only some rungs fit; returns the rung of each batch that did."""
    honest = Trainer.losses
    done: list[tuple[str, int]] = []

    def losses(self: Trainer, batch: MicroBatch) -> torch.Tensor:
        rung = _rung(self.denoiser)
        if rung not in fitting and len(done) >= from_step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        done.append((rung, len(done)))
        return honest(self, batch)

    monkeypatch.setattr(Trainer, "losses", losses)
    return done


@pytest.mark.parametrize("rung", ["checkpointing", "fp8", "nf4"])
def test_a_run_finds_the_first_rung_that_fits_and_remembers_it(
    rung: str, job: AJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    below = {"checkpointing": ["none"], "fp8": ["none", "checkpointing"]}
    done = _with_room_for({rung}, monkeypatch)
    small = job.with_steps(2)
    code, result = small.run()
    assert code == ExitCode.OK, result.message
    assert {name for name, _ in done} == {rung}
    record = json.loads((small.workspace / "memory.json").read_text())
    assert record["strategy"] == rung
    said = capsys.readouterr().err
    assert all(f"out of memory strategy={name}" in said for name in below.get(rung, []))
    (small.workspace / "stages" / "save.json").unlink()
    (small.workspace / "stages" / "sample.json").unlink()
    (small.workspace / "stages" / "publish.json").unlink()
    assert small.run()[0] == ExitCode.OK
    assert "out of memory" not in capsys.readouterr().err, "a restart does not try again"


def test_running_out_later_goes_on_from_the_last_checkpoint(
    job: AJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed = job.with_steps(6)
    assert undisturbed.run()[0] == ExitCode.OK
    later = undisturbed.in_workspace("later")
    done = _with_room_for({"checkpointing"}, monkeypatch, from_step=5)
    code, result = later.run()
    assert code == ExitCode.OK, result.message
    assert "resumed step=4" in capsys.readouterr().err
    assert [name for name, _ in done] == ["none"] * 5 + ["checkpointing"] * 2
    # Checkpointing computes the same gradients: nothing was lost, and nothing is different.
    assert later.model == undisturbed.model


def test_what_fits_nowhere_is_refused_with_the_cure(
    job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_room_for(set(), monkeypatch)
    code, result = job.run()
    assert (code, result.reason) == (ExitCode.BAD_INPUT, Reason.OUT_OF_GPU_MEMORY)
    assert "optimization.batchSize" in result.message


def test_a_strategy_that_was_asked_for_is_kept_and_the_refusal_says_what_would_fit(
    job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_room_for({"fp8"}, monkeypatch)
    code, result = job.having("optimization.memory", "none").run()
    assert (code, result.reason) == (ExitCode.BAD_INPUT, Reason.OUT_OF_GPU_MEMORY)
    assert "with fp8 or auto it does" in result.message


@pytest.mark.parametrize("rung", ["fp8", "nf4"])
def test_a_smaller_base_is_nearly_the_same_base(rung: str, job: AJob) -> None:
    exact = job.with_steps(2)
    code, first = exact.run()
    assert code == ExitCode.OK, first.message
    code, second = exact.in_workspace(rung).having("optimization.memory", rung).run()
    assert code == ExitCode.OK, second.message
    assert second.loss != first.loss
    assert second.loss == pytest.approx(first.loss, rel=0.1)


@pytest.mark.parametrize("rung", ["fp8", "nf4"])
def test_both_of_two_experts_are_small_while_they_train_and_while_they_draw(
    rung: str, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, drawn, losses = set[str](), list[str](), Trainer.losses

    def watched(self: Trainer, batch: MicroBatch) -> torch.Tensor:
        trained.add(f"{self.recipe.part.name} in {_rung(self.denoiser)}")
        return losses(self, batch)

    def looked_at(
        brush: Brush, adapted: Adapted, pairs: list[Drawn], *, advance: Advance, stop: StopFlag
    ) -> None:
        drawn.extend(_rung(one) for one in adapted)
        draw_samples(brush, adapted, pairs, advance=advance, stop=stop)

    monkeypatch.setattr(Trainer, "losses", watched)
    monkeypatch.setattr(results, "draw_samples", looked_at)
    base = make_wan(tmp_path / "base", heads=16, experts=True)  # wide enough to be worth it
    job = a_job(tmp_path, base=base, dataset=pictures).having("recipe", "wan").with_steps(2)
    code, result = job.having("optimization.memory", rung).run()
    assert code == ExitCode.OK, result.message
    assert trained == {f"low-noise in {rung}", f"high-noise in {rung}"}
    assert drawn == [rung, rung]
    report = json.loads((job.output / "report.json").read_text())
    assert (report["leftOut"], len(report["samples"])) == ([], 3)
    for name in ("model.safetensors", "model-high-noise.safetensors"):
        learned = load((job.output / name).read_bytes())
        assert any(bool(one.any()) for key, one in learned.items() if "lora_B" in key)


def test_neither_the_trial_before_training_nor_compiling_changes_what_is_learned(
    job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = job.with_steps(2)
    assert plain.run()[0] == ExitCode.OK
    honest, trials, compiled = Trainer.try_shapes, list[float](), list[torch.nn.Module]()

    def counted(self: Trainer) -> float:
        trials.append(honest(self))
        return trials[-1]

    def compile_blocks(self: UNet2DConditionModel) -> None:
        compiled.append(self)

    monkeypatch.setattr(Trainer, "try_shapes", counted)
    monkeypatch.setattr(assembly, "may_run_out", lambda _: True)
    # Stands in for what needs a compiler and minutes.
    monkeypatch.setattr(compiling, "has_compiler", lambda: True)
    monkeypatch.setattr(UNet2DConditionModel, "compile_repeated_blocks", compile_blocks)
    tried = plain.in_workspace("tried").having("optimization.compile", "always")
    code, result = tried.run()
    assert code == ExitCode.OK, result.message
    assert (len(trials), len(compiled)) == (2, 1), "before compiling, and after"
    learned = [load(one.model) for one in (plain, tried)]
    assert learned[0].keys() == learned[1].keys()
    assert all(torch.equal(learned[0][name], learned[1][name]) for name in learned[0])
