"""What a saved LoRA is worth: pictures, scores, and the documents beside the weights.

A module of its own beside training.py because a restart may begin here: what it needs comes from
files, never from the training that went before.
"""

from dataclasses import replace
from functools import partial

import torch
from PIL import Image

from lora_api.progress import Stage
from lora_api.status import ArtifactStatus, ValidationStatus
from lora_trainer.course import COURSE, Course, Point
from lora_trainer.curve import draw_curve, load_ahead
from lora_trainer.disk import sha256_of_file, write_atomically, write_json
from lora_trainer.embedder import Embedder, EmbedderFiles
from lora_trainer.errors import is_out_of_space
from lora_trainer.events import write_events
from lora_trainer.lora import RELOADED, Adapted, activate
from lora_trainer.memory import loads_on, shrink_after_adapter, shrink_before_adapter
from lora_trainer.progress import share_of
from lora_trainer.publish import CURVE, MODEL, REPORT, SHEET, outcome_of
from lora_trainer.quality import Quality, similarities_to
from lora_trainer.recipes import RECIPES, Recipe
from lora_trainer.release import release
from lora_trainer.report import make_report
from lora_trainer.sample import Drawn, draw_samples, heard, planned_samples
from lora_trainer.saving import trained_on
from lora_trainer.score import held_out_score, mean_score
from lora_trainer.session import Session
from lora_trainer.sheet import SheetText, make_sheet, training_picture
from lora_trainer.training import brush_of, load_denoiser

# Of the stage that draws and scores, what drawing usually takes.
_DRAWING_PERCENT = 70.0


def sample_and_score(session: Session, embedder: EmbedderFiles | None) -> None:
    """Draw base beside base + LoRA, measure both, judge, and write sheet, curve and report.

    Args:
        session: The run; its LoRA is saved.
        embedder: Compares pictures, where the job names one.
    """
    context = session.context
    context.board.enter(Stage.SAMPLE)
    load_ahead()
    release(session.device)  # what training held, before a VAE is loaded to draw
    quality = _measured(session, embedder)
    folder = context.workspace.result
    points = _course(session)
    with quality.or_without("contact sheet"):
        _write_sheet(session, quality)
    with quality.or_without("loss curve"):
        draw_curve(folder / CURVE, points, title=context.plan.job.name)
    if context.plan.job.output.tensorboard:
        with quality.or_without("TensorBoard events"):
            scores = _scalars(quality.validation)
            write_events(folder / "tensorboard", points, scores=scores)
    with quality.or_without("pictures drawn on the way"):
        context.workspace.take_previews(session.inputs)
    _finish(session, quality)
    context.keep_safe()


def _course(session: Session) -> list[Point]:
    """Every step that was trained; those of a second expert follow those of the first."""
    points: list[Point] = []
    for _ in session.each_expert():
        done = points[-1].step if points else 0
        path = session.context.workspace.course(session.inputs) / COURSE
        points += [replace(point, step=done + point.step) for point in Course(path).points()]
    return points


def _measured(session: Session, embedder: EmbedderFiles | None) -> Quality:
    """Everything that needs the models; whatever has no room is left out."""
    validation = session.context.plan.job.validation
    planned = planned_samples(
        session.context.workspace.result / "samples", session.prompts, validation
    )
    quality = Quality(embedder_digest=embedder.digest if embedder else None)
    with quality.or_without("samples and held-out loss"):
        denoisers = _saved_denoisers(session)
        with heard(denoisers, partial(_look_up, session, "drawing and measuring")):
            with quality.or_without("samples"):
                _draw(session, denoisers, planned)
            with quality.or_without("held-out loss"):
                quality.validation = _score(session, denoisers)
    quality.keep_drawn(planned)
    if embedder is not None:
        with quality.or_without("similarity to the training pictures"):
            quality.similarities = similarities_to(
                [partial(_shown, session, index) for index in range(len(session.dataset.training))],
                quality.drawn,
                Embedder(embedder, session.device),
                check=partial(_look_up, session, "comparing samples"),
            )
    quality.judge(planned, validation.gate, held_out_wanted=bool(session.dataset.held_out))
    return quality


def _finish(session: Session, quality: Quality) -> None:
    """Write report and marker; on a full disk, in the room of what is not needed any more."""
    try:
        _write_report(session, quality)
    except OSError as error:
        if not is_out_of_space(error):
            raise
        session.context.workspace.make_room()
        _write_report(session, quality)


def _write_report(session: Session, quality: Quality) -> None:
    context, folder = session.context, session.context.workspace.result
    artifact = _artifact(session)
    report = make_report(
        session.facts(),
        artifact,
        quality,
        job_digest=context.workspace.key,
        steps=session.total_steps * len(session.recipe.experts()),
        loss=context.board.loss,
        folder=folder,
    )
    write_json(folder / REPORT, report)
    context.workspace.mark(Stage.SAMPLE, outcome_of(report))


def _look_up(session: Session, where: str) -> None:
    """Stop where that was asked for; else say that the run lives."""
    session.context.stop.check(where)
    session.context.board.alive()


def _saved_denoisers(session: Session) -> list[torch.nn.Module]:
    """Every denoiser with the adapter that was read back from its file.

    Several share the device: each waits on the host until it is asked.
    """
    if session.denoiser is not None:
        return [session.denoiser.eval()]
    experts = session.recipe.experts()
    device = session.device if len(experts) == 1 else torch.device("cpu")
    if session.context.plan.job.network.text_encoder:
        session.text_encoder = session.recipe.load_text_encoder(device=session.device)
    # An earlier attempt trained and saved, or there are several.
    return [_reloaded(session, recipe, device) for recipe in experts]


def _reloaded(session: Session, recipe: Recipe, device: torch.device) -> torch.nn.Module:
    """A denoiser as small as it was trained, because a larger one may not fit, with its LoRA."""
    rung = trained_on(session, recipe)
    denoiser = load_denoiser(session, recipe, loads_on(rung, device))
    shrink_before_adapter(denoiser, rung, device)
    path = session.context.workspace.result / recipe.part.file
    texts = session.text_models()
    recipe.attach_file(denoiser, path, name=RELOADED, text_encoders=texts)
    activate(Adapted([denoiser, *texts.values()]), RELOADED)
    shrink_after_adapter(denoiser.requires_grad_(False), rung, device)
    return denoiser.eval()


def _draw(session: Session, denoisers: list[torch.nn.Module], drawn: list[Drawn]) -> None:
    draw_samples(
        brush_of(session, denoisers, session.text_encoder),
        Adapted([*denoisers, *session.text_models().values()]),
        drawn,
        advance=share_of(session.context.board.advance, 0.0, _DRAWING_PERCENT),
        stop=session.context.stop,
    )


def _score(session: Session, denoisers: list[torch.nn.Module]) -> ValidationStatus:
    """The held-out loss; of several experts, the mean over them."""
    found: list[ValidationStatus] = []
    percent = (100.0 - _DRAWING_PERCENT) / len(denoisers)
    for recipe, denoiser in zip(session.recipe.experts(), denoisers, strict=True):
        first = _DRAWING_PERCENT + percent * len(found)
        score = held_out_score(
            recipe,
            denoiser.to(session.device),
            session.dataset.held_out,
            session.cache,
            device=session.device,
            stop=session.context.stop,
            advance=share_of(session.context.board.advance, first, first + percent),
            text_encoder=session.text_encoder,
        )
        found.append(score)
        if len(denoisers) > 1:
            denoiser.to("cpu")
    return mean_score(found)


def _artifact(session: Session) -> ArtifactStatus:
    path = session.context.workspace.result / MODEL
    output = session.context.plan.job.output.uri.rstrip("/")
    return ArtifactStatus(
        uri=f"{output}/{MODEL}",
        digest=f"sha256:{sha256_of_file(path)}",
        size_bytes=path.stat().st_size,
        format=RECIPES[session.context.plan.job.recipe].file_format.value,
        contact_sheet_uri=f"{output}/{SHEET}",
        report_uri=f"{output}/{REPORT}",
    )


def _scalars(found: ValidationStatus) -> dict[str, float]:
    """The figures of the finished LoRA, as TensorBoard shows them."""
    scalars = {
        "validation/base_loss": found.base_loss,
        "validation/lora_loss": found.lora_loss,
        "validation/improvement_percent": found.improvement_percent,
        "validation/alike": found.alike,
    }
    return {tag: float(value) for tag, value in scalars.items() if value is not None}


def _shown(session: Session, index: int) -> Image.Image:
    return training_picture(session.dataset.training[index])


def _write_sheet(session: Session, quality: Quality) -> None:
    job, score = session.context.plan.job, quality.validation
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
    if score.alike is not None:
        parts.append(f"{score.alike} of {score.compared} prompts alike")
    sheet = make_sheet(
        SheetText(title=job.name, subtitle=", ".join(parts)),
        session.dataset.training,
        quality.drawn,
    )
    path = session.context.workspace.result / SHEET
    write_atomically(path, lambda temporary: sheet.save(temporary, format="PNG"))
