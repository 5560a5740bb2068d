"""The stages that need torch: load, cache, train, save, sample.

A module of its own because importing it imports torch: run.py gets here only when there is
something to train or draw.
"""

from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save

from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_api.settings import Precision
from lora_api.training import ArtifactStatus, ValidationStatus
from lora_trainer import log
from lora_trainer.basemodel import BaseModel
from lora_trainer.cache import Cache, fill_cache
from lora_trainer.context import Context
from lora_trainer.dataset import Dataset
from lora_trainer.disk import sha256_of_file, write_atomically, write_bytes, write_json
from lora_trainer.environment import threads
from lora_trainer.errors import TrainerError
from lora_trainer.kohya import with_metadata
from lora_trainer.loop import EMPTY_CAPTION, Trainer
from lora_trainer.lora import RELOADED, activate, attach, find_layers, read_weights
from lora_trainer.publish import CONFIG, MODEL, REPORT, SHEET
from lora_trainer.recipes import Recipe, load_recipe
from lora_trainer.report import Facts, file_metadata, make_report, settings_of
from lora_trainer.sample import Drawn, draw_samples, planned_samples
from lora_trainer.score import held_out_score
from lora_trainer.sheet import SheetText, make_sheet
from lora_trainer.verify import reload_and_compare

_DTYPES = {
    Precision.FP32: torch.float32,
    Precision.BF16: torch.bfloat16,
    Precision.FP16: torch.float16,
}


@dataclass(kw_only=True, slots=True)
class Session:
    """The parts of one run that torch holds."""

    context: Context
    """Plan, workspace, progress, stop flag."""

    dataset: Dataset
    """Checked pictures and captions."""

    base: BaseModel
    """The base model's files."""

    recipe: Recipe
    """The family."""

    cache: Cache
    """Latents and embeddings."""

    device: torch.device
    """Where it runs."""

    precision: Precision
    """Arithmetic of the base model, never `auto`."""

    layers: list[str]
    """Layers that get an adapter."""

    prompts: list[str]
    """What is drawn after training."""

    total_steps: int
    """Optimiser steps."""

    inputs: str
    """Digest of all that shapes the weights: settings, pictures, captions, base model."""

    denoiser: torch.nn.Module | None = None
    """The model, once loaded."""

    def facts(self) -> Facts:
        """What the report says of this run."""
        return Facts(
            plan=self.context.plan,
            dataset=self.dataset,
            base=self.base,
            layers=self.layers,
            total_steps=self.total_steps,
            precision=self.precision.value,
            device=_device_name(self.device),
        )


def open_session(context: Context, dataset: Dataset, base: BaseModel) -> Session:
    """Decide where and how to compute, and check what can be checked without weights.

    Args:
        context: The run.
        dataset: Its checked dataset.
        base: Its base model.

    Raises:
        TrainerError: TargetModulesNotFound, or InvalidJob for a precision that can't be had.
    """
    torch.set_num_threads(threads())
    plan, job = context.plan, context.plan.job
    recipe = load_recipe(job.recipe, base)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layers = find_layers(recipe.skeleton(), job.network.target_modules)
    session = Session(
        context=context,
        dataset=dataset,
        base=base,
        recipe=recipe,
        cache=Cache(context.workspace.cache, base, resolution=plan.resolution),
        device=device,
        precision=_precision(job.optimization.precision, device),
        layers=layers,
        prompts=plan.prompts([sample.caption for sample in dataset.training]),
        total_steps=plan.total_steps(len(dataset.training)),
        inputs=plan.inputs_digest(dataset.digest, base.digest),
    )
    log.info(
        "loaded",
        device=_device_name(device),
        precision=session.precision.value,
        layers=len(layers),
        steps=session.total_steps,
        pictures=len(dataset.training),
        held_out=len(dataset.held_out),
    )
    return session


def cache_inputs(session: Session) -> None:
    """Encode pictures, captions and prompts that are not in the cache yet."""
    board = session.context.board
    board.enter(Stage.CACHE)
    texts = [(EMPTY_CAPTION, "the empty caption")]
    texts += [(sample.caption, sample.picture.name) for sample in session.dataset.samples]
    texts += [(prompt, "validation.prompts") for prompt in session.prompts]
    fill_cache(
        session.cache,
        session.recipe,
        samples=session.dataset.samples,
        texts=texts,
        resolution=session.context.plan.resolution,
        device=session.device,
        stop=session.context.stop,
        advance=board.advance,
    )
    session.context.workspace.mark(Stage.CACHE, {})


def train(session: Session) -> None:
    """Train from the newest checkpoint to the last step."""
    context, job = session.context, session.context.plan.job
    context.board.enter(Stage.TRAIN)
    denoiser = _load_denoiser(session)
    parameters = attach(
        denoiser,
        session.layers,
        job.network,
        alpha=context.plan.alpha,
        seed=job.optimization.seed,
    )
    context.stop.check("loading the base model")
    trainer = Trainer(
        recipe=session.recipe,
        denoiser=denoiser,
        parameters=parameters,
        samples=session.dataset.training,
        cache=session.cache,
        settings=job.optimization,
        total_steps=session.total_steps,
        caption_dropout=job.dataset.caption_dropout,
        checkpoints=context.workspace.checkpoints(session.inputs),
        every_steps=job.checkpoints.every_steps,
        keep=job.checkpoints.keep,
        device=session.device,
        board=context.board,
        stop=context.stop,
        on_first_step=lambda: log.info("first step", seconds=context.seconds_since_start()),
    )
    trainer.run()
    log.info(
        "trained",
        steps=session.total_steps,
        loss=context.board.loss,
        seconds=context.seconds_since_start(),
    )
    context.workspace.mark(Stage.TRAIN, {"loss": context.board.loss})


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
    context.workspace.mark(Stage.SAVE, {"loss": context.board.loss, "inputs": session.inputs})


def sample_and_score(session: Session) -> tuple[ArtifactStatus, ValidationStatus]:
    """Draw base beside base + LoRA, measure both, and write sheet and report."""
    context = session.context
    context.board.enter(Stage.SAMPLE)
    folder = context.workspace.result
    if session.denoiser is None:  # an earlier attempt trained and saved
        session.recipe.attach_file(_load_denoiser(session), folder / MODEL, name=RELOADED)
        activate(_require(session), RELOADED)
    denoiser = _require(session).eval()
    drawn = planned_samples(folder / "samples", session.prompts, context.plan.job.validation)
    draw_samples(
        session.recipe.sampler(denoiser, device=session.device),
        denoiser,
        drawn,
        session.cache,
        settings=context.plan.job.validation,
        resolution=context.plan.resolution,
        board=context.board,
        stop=context.stop,
    )
    score = held_out_score(
        session.recipe,
        denoiser,
        session.dataset.held_out,
        session.cache,
        device=session.device,
        stop=context.stop,
    )
    artifact = _artifact(session)
    _write_sheet(session, drawn, score)
    report = make_report(
        session.facts(), artifact, score, drawn, loss=context.board.loss, folder=folder
    )
    write_json(folder / REPORT, report)
    marker = {
        "artifact": artifact.model_dump(mode="json", by_alias=True),
        "validation": score.model_dump(mode="json", by_alias=True),
        "loss": context.board.loss,
        "steps": session.total_steps,
    }
    context.workspace.mark(Stage.SAMPLE, marker)
    return artifact, score


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
        f"rank {job.network.rank}",
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


def _load_denoiser(session: Session) -> torch.nn.Module:
    session.denoiser = session.recipe.load_denoiser(
        device=session.device, dtype=_DTYPES[session.precision]
    )
    return session.denoiser


def _require(session: Session) -> torch.nn.Module:
    if session.denoiser is None:
        raise RuntimeError("the denoiser is loaded by the training stage")
    return session.denoiser


def _precision(wanted: Precision, device: torch.device) -> Precision:
    if wanted is Precision.AUTO:
        half = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return Precision.BF16 if half else Precision.FP32
    if wanted is Precision.FP16:
        raise TrainerError(
            Reason.INVALID_JOB,
            "optimization.precision: fp16 loses small gradients without loss scaling, which this "
            "version does not do; use auto, bf16 or fp32",
        )
    return wanted


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        properties: Any = torch.cuda.get_device_properties(device)
        return str(properties.name)
    return f"{device.type} ({torch.get_num_threads()} threads)"
