"""The stages after training: save, read back, draw, score, and the documents beside the weights.

A module of its own beside training.py because a restart may begin here: what it needs comes from
files, never from the training that went before.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors.torch import save

from lora_api.progress import Stage
from lora_api.status import ArtifactStatus, ValidationStatus
from lora_trainer import log
from lora_trainer.disk import sha256_of_file, write_atomically, write_bytes, write_json
from lora_trainer.errors import is_out_of_memory
from lora_trainer.kohya import with_metadata
from lora_trainer.lora import RELOADED, activate, read_weights
from lora_trainer.publish import CONFIG, MODEL, REPORT, SHEET
from lora_trainer.report import file_metadata, make_report, settings_of
from lora_trainer.sample import Drawn, draw_samples, planned_samples
from lora_trainer.score import held_out_score
from lora_trainer.sheet import SheetText, make_sheet
from lora_trainer.training import Session, brush_of, load_denoiser
from lora_trainer.verify import reload_and_compare


def save_and_verify(session: Session) -> None:
    """Write the LoRA, read it back, compare, and only then call it saved."""
    context = session.context
    context.board.enter(Stage.SAVE)
    denoiser = _require(session)
    weights = read_weights(denoiser)
    tensors = session.recipe.to_file(weights, alpha=context.plan.alpha)
    metadata = file_metadata(session.facts())
    context.workspace.clear_result()  # an earlier job's samples must not pass for this one's
    path = context.workspace.root / "unverified" / MODEL
    write_bytes(path, with_metadata(save(tensors), metadata))
    reload_and_compare(
        session.recipe,
        denoiser,
        path,
        sample=session.dataset.training[0],
        cache=session.cache,
        device=session.device,
    )
    write_json(context.workspace.result / CONFIG, settings_of(session.facts()))
    path.replace(context.workspace.result / MODEL)
    log.info("saved and reloaded", keys=len(tensors), layers=len(session.layers))
    context.workspace.mark(
        Stage.SAVE,
        {
            "loss": context.board.loss,
            "inputs": session.inputs,
            "digest": _artifact(session).digest,
        },
    )


def sample_and_score(session: Session) -> None:
    """Draw base beside base + LoRA, measure both, and write sheet and report."""
    context = session.context
    context.board.enter(Stage.SAMPLE)
    folder = context.workspace.result
    drawn = planned_samples(folder / "samples", session.prompts, context.plan.job.validation)
    missing: list[str] = []
    score = ValidationStatus(held_out_images=0)
    with _or_without("samples and held-out loss", missing):
        denoiser = _saved_denoiser(session)
        with _or_without("samples", missing):
            _draw(session, denoiser, drawn)
        with _or_without("held-out loss", missing):
            score = _score(session, denoiser)
    drawn = [pair for pair in drawn if pair.base.exists() and pair.lora.exists()]
    artifact = _artifact(session)
    _write_sheet(session, drawn, score)
    report = make_report(
        session.facts(),
        artifact,
        score,
        drawn,
        missing=missing,
        loss=context.board.loss,
        folder=folder,
    )
    write_json(folder / REPORT, report)
    marker = {
        "artifact": artifact.model_dump(mode="json", by_alias=True),
        "validation": score.model_dump(mode="json", by_alias=True),
        "missing": missing,
        "loss": context.board.loss,
        "steps": session.total_steps,
    }
    context.workspace.mark(Stage.SAMPLE, marker)


@contextmanager
def _or_without(what: str, missing: list[str]) -> Iterator[None]:
    """Go on without `what` where the device has no room for it.

    The LoRA is saved by then. Samples and scores help to judge it; they are not worth losing it.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        log.warning("too little memory", left_out=what, why=error)
        missing.append(
            f"{what}: left out, the device has too little memory; lower optimization.resolution, "
            "or use a GPU with more memory"
        )


def _saved_denoiser(session: Session) -> torch.nn.Module:
    """The denoiser with the adapter that was read back from the file."""
    if session.denoiser is None:  # an earlier attempt trained and saved
        path = session.context.workspace.result / MODEL
        session.recipe.attach_file(load_denoiser(session), path, name=RELOADED)
        activate(_require(session), RELOADED)
    return _require(session).eval()


def _draw(session: Session, denoiser: torch.nn.Module, drawn: list[Drawn]) -> None:
    draw_samples(
        brush_of(session, denoiser),
        denoiser,
        drawn,
        board=session.context.board,
        stop=session.context.stop,
    )


def _score(session: Session, denoiser: torch.nn.Module) -> ValidationStatus:
    return held_out_score(
        session.recipe,
        denoiser,
        session.dataset.held_out,
        session.cache,
        device=session.device,
        stop=session.context.stop,
    )


def _artifact(session: Session) -> ArtifactStatus:
    path = session.context.workspace.result / MODEL
    output = session.context.plan.job.output.uri.rstrip("/")
    return ArtifactStatus(
        uri=f"{output}/{MODEL}",
        digest=f"sha256:{sha256_of_file(path)}",
        size_bytes=path.stat().st_size,
        format="kohya",
        contact_sheet_uri=f"{output}/{SHEET}",
        report_uri=f"{output}/{REPORT}",
    )


def _write_sheet(session: Session, drawn: list[Drawn], score: ValidationStatus) -> None:
    job = session.context.plan.job
    parts = [
        job.recipe,
        f"rank {session.context.plan.rank}",
        f"{session.total_steps} steps",
        f"batch {job.optimization.batch_size}",
    ]
    if score.base_loss is not None and score.lora_loss is not None:
        parts.append(
            f"held-out loss {score.base_loss:.4f} (base) to {score.lora_loss:.4f} (base + LoRA)"
        )
    sheet = make_sheet(
        SheetText(title=job.name, subtitle=", ".join(parts)),
        [sample.picture.path for sample in session.dataset.training],
        drawn,
    )
    path = session.context.workspace.result / SHEET
    write_atomically(path, lambda temporary: sheet.save(temporary, format="PNG"))


def _require(session: Session) -> torch.nn.Module:
    if session.denoiser is None:
        raise RuntimeError("the denoiser is loaded by the training stage")
    return session.denoiser
