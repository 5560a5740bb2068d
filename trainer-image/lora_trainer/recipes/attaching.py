"""A saved file into a diffusers pipeline, with nothing of it left over.

A module of its own because diffusers only warns of keys that it does not know, and a LoRA that
loads by half is worse than an error.
"""

import warnings
from pathlib import Path
from typing import Any


def attach_with(pipeline: Any, path: Path, *, name: str) -> None:
    """`load_lora_weights`, the way the file's users will.

    Args:
        pipeline: With the denoiser (and text encoders) that the file is for.
        path: The file.
        name: Name of the new adapter.
    """
    with warnings.catch_warnings():
        # A second adapter beside the trained one is what we want here.
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=name)
