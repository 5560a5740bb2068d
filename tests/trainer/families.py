"""The families in miniature, opened the way a run opens them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from tests.trainer.tiny import make_base_model
from tests.trainer.tiny_flux import make_flux
from tests.trainer.tiny_sdxl import make_sdxl
from tests.trainer.tiny_wan import make_wan

from lora_trainer.basemodel import BaseModel
from lora_trainer.fetch_base import BaseSource, fetch_base_model
from lora_trainer.lora import TRAINED, attach
from lora_trainer.recipes import RECIPES, check_base
from lora_trainer.storage.local import LocalStorage

CPU = torch.device("cpu")
MAKERS: dict[str, Callable[[Path], Path]] = {
    "sd15": make_base_model,
    "sdxl": make_sdxl,
    "flux": make_flux,
    "wan": make_wan,
    "wan with two experts": partial(make_wan, experts=True),
    "wan with 48 channels": partial(make_wan, channels=48),
}


def recipe_of(family: str) -> str:
    """The recipe that trains a family of `MAKERS`."""
    return family.split(" ", 1)[0]


def opened(recipe: str, folder: Path) -> BaseModel:
    """A base model's folder, fetched and checked."""
    return fetch_base_model(
        BaseSource(folder=LocalStorage(f"file://{folder}", field="baseModel.uri")),
        folder.with_name("nothing-is-copied-here"),
        RECIPES[recipe],
        check=lambda model: check_base(recipe, model),
        advance=lambda _done, _total: None,
    )


def adapt(model: torch.nn.Module, layers: list[str], *, rank: int = 4, alpha: float = 2.0) -> None:
    """Give a model an adapter that is not trained, but changes what it makes."""
    attach(model, layers, rank=rank, alpha=alpha, dropout=0.0, seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if f".{TRAINED}." in name:
            parameter.data.normal_(std=0.3, generator=generator)
