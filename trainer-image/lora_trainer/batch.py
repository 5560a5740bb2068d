"""From samples and cache entries to the tensors of one loss.

A module of its own because training, scoring and the reload check must ask the model the same
way, or their figures could not be compared.
"""

from collections.abc import Sequence

import torch

from lora_trainer.cache import Cache
from lora_trainer.dataset import Sample
from lora_trainer.recipes import Batch, Conditioning, TextSource


def collate(
    samples: Sequence[Sample],
    captions: Sequence[str],
    cache: Cache,
    *,
    levels: torch.Tensor,
    device: torch.device,
    texts: TextSource | None = None,
) -> Batch:
    """The batch of some samples.

    Args:
        samples: Pictures or clips whose crops have the same shape.
        captions: What each is trained with, which may be empty.
        cache: Holds latents and embeddings.
        levels: [batch] in 0..1.
        device: Where the denoiser is.
        texts: Gives the embeddings instead of the cache, where a text encoder is being trained.
    """
    return Batch(
        moments=torch.stack([cache.moments(sample) for sample in samples]).to(device),
        text=conditioning(texts or cache, captions, device=device),
        geometry=torch.tensor([sample.crop.geometry for sample in samples]),
        levels=levels,
    )


def conditioning(
    source: TextSource, captions: Sequence[str], *, device: torch.device
) -> Conditioning:
    """The conditioning of some captions, stacked along a batch axis.

    Args:
        source: The cache, or a text encoder in training.
        captions: One for each sample.
        device: Where the denoiser is.
    """
    texts = [source.text(caption) for caption in captions]
    return {name: torch.stack([one[name] for one in texts]).to(device) for name in texts[0]}
