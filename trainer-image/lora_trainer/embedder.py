"""The image embedder that a job may name: DINOv2 or CLIP, checked before it is trusted.

A module of its own because it is a second model from outside, of other families than the base
models: it is fetched, looked at and refused by its own rules.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_api.reasons import Reason
from lora_trainer.basemodel import check_config_sizes, check_weight_header
from lora_trainer.disk import sha256_of_json
from lora_trainer.download import fetch_files
from lora_trainer.errors import TrainerError
from lora_trainer.progress import Advance
from lora_trainer.storage import Storage

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

_CONFIG, _PREPROCESSOR, _WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
# Class in transformers, and where in its answer a picture's vector is.
_FAMILIES: Mapping[str, tuple[str, str]] = {
    "dinov2": ("Dinov2Model", "pooler_output"),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", "pooler_output"),
    "clip": ("CLIPVisionModelWithProjection", "image_embeds"),
    "clip_vision_model": ("CLIPVisionModelWithProjection", "image_embeds"),
}
_BATCH = 8
_LARGEST_SIDE = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedderFiles:
    """An embedder's files on this machine, its configs checked."""

    folder: Path
    """Where they lie."""

    family: str
    """`model_type` of its config."""

    digest: str
    """``sha256:...`` over its files."""

    frame: "Frame"
    """How a picture is prepared for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """How a picture becomes an embedder's input."""

    shortest_edge: int
    """Pictures are scaled until this is their shorter side, in pixels."""

    side: int
    """Then the middle square of this side is kept, in pixels."""

    mean: tuple[float, float, float]
    """Subtracted from each channel in 0..1."""

    deviation: tuple[float, float, float]
    """Each channel is divided by this."""


def fetch_embedder(storage: Storage, folder: Path, *, advance: Advance) -> EmbedderFiles:
    """Bring the embedder here, or use it where it is.

    Args:
        storage: Where it lies.
        folder: Where to put it, if it must be fetched.
        advance: Told bytes done and bytes in all.

    Raises:
        TrainerError: EmbedderInvalid, or a StorageError.
    """
    where = f"validation.embedderUri {storage.uri}"
    files = {file.name: file for file in storage.list_files()}
    missing = [name for name in (_CONFIG, _PREPROCESSOR, _WEIGHTS) if name not in files]
    if missing:
        raise _invalid(
            f"{where}: there is no {' and no '.join(missing)}; name the folder of a DINOv2 or CLIP "
            "model in transformers layout with safetensors weights (save_pretrained writes it)"
        )
    small = [files[_CONFIG], files[_PREPROCESSOR]]
    at = storage.folder or folder
    try:
        check_config_sizes({file.name: file.size_bytes for file in small}, where=where)
        digests = fetch_files(
            storage, small, folder, in_place=storage.folder, advance=lambda *_: None
        )
        config, preprocessor = (_read(at / file.name, where) for file in small)
        family = _family(config, where)
        frame = _frame(preprocessor, config, where)
        digests |= fetch_files(
            storage, [files[_WEIGHTS]], folder, in_place=storage.folder, advance=advance
        )
        check_weight_header(at / _WEIGHTS, name=_WEIGHTS, where=where)
    except TrainerError as error:
        if error.reason is not Reason.BASE_MODEL_INVALID:
            raise
        raise _invalid(error.message) from error
    return EmbedderFiles(
        folder=at, family=family, digest=f"sha256:{sha256_of_json(digests)}", frame=frame
    )


class Embedder:
    """Turns pictures into unit vectors.

    Args:
        files: The checked model.
        device: Where to compute.

    Raises:
        TrainerError: EmbedderInvalid; weights are missing.
    """

    def __init__(self, files: EmbedderFiles, device: "torch.device") -> None:
        import torch
        import transformers

        name, self._answer = _FAMILIES[files.family]
        self._frame = files.frame
        self._device = device
        self._model, found = getattr(transformers, name).from_pretrained(
            files.folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        missing = sorted(found["missing_keys"]) + sorted(found["mismatched_keys"])
        if missing:
            raise _invalid(
                f"validation.embedderUri: {_WEIGHTS} has no fitting weights for {missing[0]} and "
                f"{len(missing) - 1} more; copy the model anew"
            )
        self._model.to(device).eval().requires_grad_(False)

    def __call__(self, pictures: "Sequence[Image]") -> "torch.Tensor":
        """Unit vectors.

        Args:
            pictures: In RGB.

        Returns:
            [pictures, width] float32 on the CPU.
        """
        import torch

        vectors = []
        with torch.inference_mode():
            for first in range(0, len(pictures), _BATCH):
                batch = [_prepared(one, self._frame) for one in pictures[first : first + _BATCH]]
                answer = self._model(pixel_values=torch.stack(batch).to(self._device))
                vectors.append(getattr(answer, self._answer).float().cpu())
        return torch.nn.functional.normalize(torch.cat(vectors), dim=1)


def _prepared(picture: "Image", frame: Frame) -> "torch.Tensor":
    """[3, side, side]."""
    import numpy as np
    import torch
    from PIL.Image import Resampling

    scale = frame.shortest_edge / min(picture.size)
    size = tuple(max(frame.side, round(edge * scale)) for edge in picture.size)
    scaled = picture.convert("RGB").resize((size[0], size[1]), Resampling.BICUBIC)
    left, top = (size[0] - frame.side) // 2, (size[1] - frame.side) // 2
    square = scaled.crop((left, top, left + frame.side, top + frame.side))
    values = torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1).float() / 255.0
    mean = torch.tensor(frame.mean)[:, None, None]
    return (values - mean) / torch.tensor(frame.deviation)[:, None, None]


def _family(config: Mapping[str, Any], where: str) -> str:
    family = config.get("model_type")
    if not isinstance(family, str) or family not in _FAMILIES:
        known = ", ".join(sorted(_FAMILIES))
        raise _invalid(
            f"{where}: config.json says model_type {str(family)[:60]!r}; known are: {known}"
        )
    return family


def _frame(preprocessor: Mapping[str, Any], config: Mapping[str, Any], where: str) -> Frame:
    """What the model's own preprocessing does to a picture."""
    vision = config.get("vision_config", config)
    native = _side(vision.get("image_size") if isinstance(vision, Mapping) else None)
    edge = _side(preprocessor.get("size"))
    side = _side(preprocessor.get("crop_size")) if preprocessor.get("do_center_crop", True) else 0
    side = side or edge or native
    mean, deviation = (_triple(preprocessor.get(name)) for name in ("image_mean", "image_std"))
    if mean is None or deviation is None or not 0 < side <= _LARGEST_SIDE or min(deviation) <= 0:
        raise _invalid(
            f"{where}: {_PREPROCESSOR} gives no usable crop_size, image_mean and image_std; copy "
            "the one that belongs to the model"
        )
    if config["model_type"].startswith("clip") and side != native:
        raise _invalid(
            f"{where}: {_PREPROCESSOR} makes pictures of {side} pixels, the model takes {native}; "
            "copy the one that belongs to the model"
        )
    return Frame(shortest_edge=max(edge, side), side=side, mean=mean, deviation=deviation)


def _side(value: object) -> int:
    """A side in pixels from the ways in which transformers spells one; 0 where it is none."""
    if isinstance(value, Mapping):
        value = next((value[name] for name in ("shortest_edge", "height") if name in value), 0)
    return value if isinstance(value, int) and 0 < value <= 4 * _LARGEST_SIDE else 0


def _triple(value: object) -> tuple[float, float, float] | None:
    if not isinstance(value, list) or len(value) != 3:
        return None
    if not all(isinstance(one, int | float) for one in value):
        return None
    return float(value[0]), float(value[1]), float(value[2])


def _read(path: Path, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _invalid(f"{where}: {path.name} is not readable JSON; copy it anew") from error
    return value if isinstance(value, Mapping) else {}


def _invalid(message: str) -> TrainerError:
    return TrainerError(Reason.EMBEDDER_INVALID, message)
