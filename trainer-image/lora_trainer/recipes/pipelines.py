"""diffusers' pipelines: what draws with a LoRA, and what its users load it into.

A module of its own because every family is drawn with and loaded alike; which pipeline it is, and
under which names it takes a text, is the family's.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging
from PIL import Image

from lora_trainer.recipes import Conditioning

Words = Callable[[Conditioning, Conditioning], Mapping[str, torch.Tensor]]
"""Conditioning of prompt and empty text to the pipeline's arguments, without a batch axis."""
Decode = Callable[[torch.Tensor, int], list[Image.Image]]
"""What the pipeline made, and the pictures' side in pixels, to pictures."""


def bare_pipeline(pipeline: Any, **parts: Any) -> Any:
    """A pipeline without the parts that are not needed.

    Args:
        pipeline: Its class.
        parts: What it has; every other part that it asks for is None.
    """
    asked = inspect.signature(pipeline).parameters.values()
    absent = {one.name: None for one in asked if one.default is inspect.Parameter.empty}
    made = pipeline(**(absent | parts))
    made.set_progress_bar_config(disable=True)
    return made


def attach_with(pipeline: Any, path: Path, *, name: str) -> None:
    """`load_lora_weights`, the way the file's users will; whether all came back is compared later.

    Args:
        pipeline: With the denoiser (and text encoders) that the file is for.
        path: The file.
        name: Name of the new adapter.
    """
    level = logging.get_verbosity()
    # It warns of parts that the file has no weights for, which mean nothing here.
    logging.set_verbosity_error()
    with warnings.catch_warnings():
        # A second adapter beside the trained one is what we want here.
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        try:
            pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=name)
        finally:
            logging.set_verbosity(level)


@contextmanager
def taking_turns(denoisers: Sequence[torch.nn.Module], device: torch.device) -> Iterator[None]:
    """Have the one of several denoisers that is asked on the device, and the others on the host.

    Args:
        denoisers: All that a pipeline asks.
        device: Where each computes.
    """

    def make_room(asked: torch.nn.Module, _: object) -> None:
        for denoiser in denoisers:
            if denoiser is not asked:
                denoiser.to("cpu")
        asked.to(device)

    hooks = [one.register_forward_pre_hook(make_room) for one in denoisers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class PipelineSampler:
    """Draws pictures of one size with a pipeline.

    Args:
        pipeline: With denoiser and scheduler.
        denoiser: Says in which precision texts are given.
        device: Where it draws.
        words: Names a text's embeddings for the pipeline.
        decode: Makes pictures of its latents.
        settings: Further arguments of each call.
    """

    def __init__(
        self,
        pipeline: Any,
        denoiser: Any,
        *,
        device: torch.device,
        words: Words,
        decode: Decode,
        **settings: Any,
    ) -> None:
        self._pipeline = pipeline
        self._denoiser = denoiser
        self._device = device
        self._words = words
        self._decode = decode
        self._settings = settings

    @torch.inference_mode()
    def draw(
        self,
        *,
        prompt: Conditioning,
        empty: Conditioning,
        seeds: Sequence[int],
        resolution: int,
        steps: int,
        guidance_scale: float,
    ) -> list[Image.Image]:
        """One picture per seed, each the same whatever it is drawn together with."""
        words = self._words(prompt, empty)
        latents = self._pipeline(
            **{name: self._repeated(one, len(seeds)) for name, one in words.items()},
            **self._settings,
            height=resolution,
            width=resolution,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="latent",
            return_dict=False,
        )[0]
        return self._decode(latents, resolution)

    def _repeated(self, embedding: torch.Tensor, count: int) -> torch.Tensor:
        many = embedding.expand(count, *embedding.shape)
        return many.to(self._device, self._denoiser.dtype)
