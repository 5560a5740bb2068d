"""A saved file into a diffusers pipeline, without the warnings that mean nothing here.

A module of its own because every family loads alike: beside the adapter that was trained, and into
a pipeline that lacks what the file has no weights for. Whether all came back is compared later.
"""

import warnings
from pathlib import Path
from typing import Any

from diffusers.utils import logging


def attach_with(pipeline: Any, path: Path, *, name: str) -> None:
    """`load_lora_weights`, the way the file's users will.

    Args:
        pipeline: With the denoiser (and text encoders) that the file is for.
        path: The file.
        name: Name of the new adapter.
    """
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    with warnings.catch_warnings():
        # A second adapter beside the trained one is what we want here.
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        try:
            pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=name)
        finally:
            logging.set_verbosity(level)
