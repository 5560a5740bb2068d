"""The stage after the last step: the file, weighed and read back before it is called saved.

A module of its own between training.py and results.py because its marker is what a restart looks
at: with it nothing is trained again, without it nothing was kept.
"""

from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save

from lora_api.progress import Stage
from lora_api.settings import MemoryStrategy
from lora_trainer import log
from lora_trainer.disk import sha256_of_file, write_bytes, write_json
from lora_trainer.expected import Expected, check_size, expected_of
from lora_trainer.file_header import with_metadata
from lora_trainer.lora import read_weights
from lora_trainer.modelspec import file_metadata
from lora_trainer.publish import CONFIG, MODEL
from lora_trainer.recipes import RECIPES, Recipe
from lora_trainer.report import settings_of
from lora_trainer.session import Session
from lora_trainer.verify import reload_and_compare


def restore(session: Session, saved: Mapping[str, Any]) -> None:
    """Take over what an earlier attempt knew of the denoiser that it trained and saved.

    Args:
        session: Stands for that denoiser.
        saved: Its part of the marker.
    """
    board = session.context.board
    board.restore_loss(saved["loss"])
    board.expect(session.total_steps, done=session.total_steps)
    session.memory = trained_on(session, session.recipe)


def save_and_verify(session: Session) -> None:
    """Write the LoRA, weigh it, read it back, compare, and only then call it saved."""
    context = session.context
    context.board.enter(Stage.SAVE)
    denoiser = _require(session)
    tensors = session.recipe.to_file(
        read_weights(denoiser),
        alpha=context.plan.alpha,
        text_weights={name: read_weights(model) for name, model in session.text_models().items()},
    )
    name = session.recipe.part.file
    if name == MODEL:
        context.workspace.clear_result()  # an earlier job's samples must not pass for this one's
    path = context.workspace.root / "unverified" / name
    data = save(tensors)
    weights = data[8 + int.from_bytes(data[:8], "little") :]
    metadata = file_metadata(session.facts(), session.recipe.part, weights=weights)
    write_bytes(path, with_metadata(data, metadata))
    keys = check_size(path, _expected(session))
    context.stop.check("reading the saved file back")
    reload_and_compare(
        session.recipe,
        denoiser,
        path,
        sample=session.dataset.training[0],
        cache=session.cache,
        device=session.device,
        text_encoder=session.text_encoder,
    )
    write_json(context.workspace.result / CONFIG, settings_of(session.facts()))
    path.replace(context.workspace.result / name)
    log.info("saved and reloaded", keys=keys, layers=len(session.layers))
    saved = {
        "loss": context.board.loss,
        "inputs": session.inputs,
        "memory": (session.memory or MemoryStrategy.NONE).value,
        "digest": f"sha256:{sha256_of_file(context.workspace.result / name)}",
    }
    others = context.workspace.done(Stage.SAVE) or {}
    context.workspace.mark(Stage.SAVE, {**others, name: saved})
    context.keep_safe()


def trained_on(session: Session, recipe: Recipe) -> MemoryStrategy:
    """The rung of the memory ladder on which a denoiser's LoRA was trained."""
    saved = (session.context.workspace.done(Stage.SAVE) or {}).get(recipe.part.file, {})
    return MemoryStrategy(saved.get("memory", MemoryStrategy.NONE))


def _expected(session: Session) -> Expected:
    """What the rank predicts of the file."""
    modules = dict(session.recipe.skeleton().named_modules())
    layers = [modules[name] for name in session.layers]
    targets = RECIPES[session.context.plan.job.recipe].text_encoder_modules
    for model in session.text_models().values():
        names = {name.replace(".base_layer", ""): one for name, one in model.named_modules()}
        layers += [
            getattr(one, "base_layer", one)
            for name, one in names.items()
            if name.endswith(tuple(f".{target}" for target in targets))
        ]
    return expected_of(layers, rank=session.context.plan.rank)


def _require(session: Session) -> torch.nn.Module:
    if session.denoiser is None:
        raise RuntimeError("the denoiser is loaded by the training stage")
    return session.denoiser
