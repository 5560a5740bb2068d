"""Which files of a base model's folder are needed, and whether they can be what they claim.

A module of its own because it works on names and small JSON files alone: a wrong model is refused
before a gigabyte is fetched or a library imported.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_api.reasons import Reason
from lora_api.recipes import PICKLED_SUFFIXES
from lora_trainer.errors import TrainerError
from lora_trainer.recipes import RECIPES, RecipeDefaults

_STEMS = ("diffusion_pytorch_model", "model")
_TOKENIZER_FILES = (".json", ".txt", ".model")
# Many times a CLIP vocabulary, which has about 1 MB.
_MAX_CONFIG_BYTES = 32 << 20
_CURE = (
    "convert it to safetensors (diffusers: pipe.save_pretrained(folder, safe_serialization=True))"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseModel:
    """A base model's folder on this machine, its configs read."""

    folder: Path
    """Folder in diffusers layout."""

    configs: dict[str, dict[str, Any]]
    """Component name to its JSON config; `model_index` is the index."""

    variants: dict[str, str | None]
    """Component name to the weights' variant (fp16), None for the plain ones."""

    digests: dict[str, str]
    """Component name to the hex sha256 of its files."""

    digest: str
    """``sha256:...`` of all needed files."""

    single_file: Path | None = None
    """A checkpoint in the family's original layout that holds weights instead of the folder."""

    in_single_file: frozenset[str] = frozenset()
    """Components whose weights it holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The files of a base model that a recipe needs."""

    configs: list[str]
    """Small files, read first."""

    weights: list[str]
    """The safetensors."""

    variants: dict[str, str | None]
    """Component name to the weights' variant."""


def select_files(
    names: Iterable[str], recipe: RecipeDefaults, *, where: str, single_file: bool = False
) -> Selection:
    """Choose what is needed; say all that is missing at once.

    Args:
        names: All files in the folder, relative.
        recipe: Says which components are needed.
        where: Field and URI, for messages.
        single_file: Whether a single-file checkpoint brings the weights that the recipe says.

    Raises:
        TrainerError: BaseModelNotFound without a model_index.json; BaseModelInvalid where a
            component is missing or only has pickled weights.
    """
    present = set(names)
    if "model_index.json" not in present:
        raise TrainerError(Reason.BASE_MODEL_NOT_FOUND, _no_index(present, where))
    faults: list[str] = []
    configs: list[str] = ["model_index.json"]
    weights: list[str] = []
    variants: dict[str, str | None] = {}
    for component in components_of(recipe, present):
        inside = sorted(name for name in present if name.startswith(f"{component}/"))
        if not inside:
            faults.append(f"{component}/ is missing")
        elif component in recipe.weightless:
            configs += [name for name in inside if name.endswith(_TOKENIZER_FILES)]
        elif single_file and component in recipe.single_file:
            config = f"{component}/config.json"
            configs.append(config)
            faults += [] if config in inside else [f"{config} is missing"]
        else:
            fault = _select_weights(component, inside, configs, weights, variants)
            if fault:
                faults.append(fault)
    if faults:
        raise TrainerError(Reason.BASE_MODEL_INVALID, f"{where}: {'; '.join(faults)}")
    return Selection(configs=configs, weights=weights, variants=variants)


def components_of(recipe: RecipeDefaults, names: Iterable[str]) -> tuple[str, ...]:
    """The folders that are needed of this very model.

    Args:
        recipe: Says which are, and which are where they are there.
        names: All files in the model's folder, relative.
    """
    there = {name.split("/", 1)[0] for name in names if "/" in name}
    return (*recipe.components, *sorted(recipe.optional & there))


def check_pipeline(index: Mapping[str, Any], recipe: RecipeDefaults, *, where: str) -> None:
    """See from model_index.json alone that a model is of another family.

    Args:
        index: The index.
        recipe: Names the family's pipeline.
        where: Field and URI, for the message.

    Raises:
        TrainerError: BaseModelInvalid; names what it is, and the recipe for it if there is one.
    """
    found = index.get("_class_name", recipe.pipeline)
    if found == recipe.pipeline:
        return
    others = [name for name, other in RECIPES.items() if other.pipeline == found]
    cure = (
        f"set recipe: {others[0]}, or name another base model"
        if others
        else f"name a base model that is a {recipe.pipeline}"
    )
    raise TrainerError(
        Reason.BASE_MODEL_INVALID,
        f"{where}: the model is a {str(found)[:80]}, the recipe trains a {recipe.pipeline}; {cure}",
    )


def _no_index(present: set[str], where: str) -> str:
    if not present:
        return f"{where}: nothing lies there; correct baseModel.uri"
    single = [
        name for name in sorted(present) if name.endswith((".safetensors", *PICKLED_SUFFIXES))
    ]
    hint = f" ({single[0]} is a single-file checkpoint)" if single and "/" not in single[0] else ""
    return (
        f"{where}: there is no model_index.json{hint}; name the folder of a model in diffusers "
        "layout (model_index.json, unet/, vae/, ...), or a .safetensors file itself"
    )


def _select_weights(
    component: str,
    inside: Sequence[str],
    configs: list[str],
    weights: list[str],
    variants: dict[str, str | None],
) -> str | None:
    """Add a component's config and weights; returns what is wrong with them."""
    config = f"{component}/config.json"
    if config not in inside:
        return f"{config} is missing"
    configs.append(config)
    for variant in (None, "fp16"):
        chosen = _variant_files(component, inside, variant)
        if chosen:
            configs += [name for name in chosen if name.endswith(".json")]
            weights += [name for name in chosen if name.endswith(".safetensors")]
            variants[component] = variant
            return None
    pickled = [name for name in inside if name.endswith(PICKLED_SUFFIXES)]
    if pickled:
        return (
            f"{pickled[0]} is a pickled file, which can run code when it is loaded, and there is "
            f"no .safetensors beside it; {_CURE}"
        )
    return f"{component}/ has no .safetensors weights"


def _variant_files(component: str, inside: Sequence[str], variant: str | None) -> list[str]:
    """A single file, or an index and its shards; empty where the variant is not there."""
    mark = f".{variant}" if variant else ""
    for stem in _STEMS:
        whole = f"{component}/{stem}{mark}.safetensors"
        if whole in inside:
            return [whole]
        index = f"{component}/{stem}.safetensors.index{mark}.json"
        if index in inside:
            shard = re.compile(
                rf"{re.escape(f'{component}/{stem}{mark}')}-\d+-of-\d+{re.escape(mark)}"
                rf"\.safetensors|{re.escape(f'{component}/{stem}')}-\d+-of-\d+"
                rf"{re.escape(mark)}\.safetensors"
            )
            return [index, *(name for name in inside if shard.fullmatch(name))]
    return []


def weight_files(base: BaseModel, component: str) -> list[Path]:
    """The safetensors of a component that lies in a folder: one, or the shards of its index.

    Args:
        base: The base model.
        component: Its folder's name.
    """
    folder = base.folder / component
    inside = sorted(f"{component}/{one.name}" for one in folder.iterdir())
    chosen = _variant_files(component, inside, base.variants[component])
    indices = [base.folder / name for name in chosen if name.endswith(".json")]
    shards = {name for index in indices for name in _shards_of(index)}
    files = [base.folder / name for name in chosen if name.endswith(".safetensors")]
    return [file for file in files if file.name in shards] if indices else files


def _shards_of(index: Path) -> set[str]:
    """The files that an index names; shards of another one may lie beside them."""
    named = json.loads(index.read_bytes()).get("weight_map", {})
    return {str(name) for name in named.values()}


def check_config_sizes(sizes: Mapping[str, int], *, where: str) -> None:
    """Refuse configs and tokenizer files that are too large to be any.

    Args:
        sizes: Name to bytes.
        where: Field and URI, for the message.

    Raises:
        TrainerError: BaseModelInvalid; names them.
    """
    large = [name for name, size in sizes.items() if size > _MAX_CONFIG_BYTES]
    if large:
        raise TrainerError(
            Reason.BASE_MODEL_INVALID,
            f"{where}: {', '.join(large[:12])}: larger than {_MAX_CONFIG_BYTES >> 20} MiB, which "
            "no config or tokenizer file is; copy the model anew",
        )


def read_configs(
    folder: Path, components: Iterable[str], *, where: str
) -> dict[str, dict[str, Any]]:
    """Read the index and every component's config.

    Args:
        folder: The base model's folder.
        components: Those that are needed.
        where: Field and URI, for messages.

    Raises:
        TrainerError: BaseModelInvalid; a config is not JSON.
    """
    paths = {"model_index": folder / "model_index.json"}
    names = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}
    for component in components:
        name = names.get(component.removesuffix("_2"), "config.json")
        paths[component] = folder / component / name
    configs: dict[str, dict[str, Any]] = {}
    for component, path in paths.items():
        try:
            value = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise TrainerError(
                Reason.BASE_MODEL_INVALID,
                f"{where}: {path.relative_to(folder)} is not readable JSON; copy the model anew",
            ) from error
        configs[component] = value if isinstance(value, dict) else {}
    return configs


def check_weight_header(path: Path, *, name: str, where: str) -> None:
    """See from the first bytes that a file is a whole safetensors file.

    Args:
        path: The file.
        name: Its name in the base model, for the message.
        where: Field and URI, for the message.

    Raises:
        TrainerError: BaseModelInvalid.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size, 100 << 20):
            raise _damaged(name, where, "is not a safetensors file")
        try:
            header = json.loads(file.read(length))
            tensors = [entry for key, entry in header.items() if key != "__metadata__"]
            ends = [entry["data_offsets"][1] for entry in tensors]
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            IndexError,
            RecursionError,
        ) as error:
            raise _damaged(name, where, "is not a safetensors file") from error
    if 8 + length + max(ends, default=0) != size:
        raise _damaged(name, where, f"is cut off or has bytes too many ({size} bytes)")


def _damaged(name: str, where: str, what: str) -> TrainerError:
    return TrainerError(Reason.BASE_MODEL_INVALID, f"{where}: {name} {what}; copy the model anew")
