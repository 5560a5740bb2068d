"""A run imports no library that it can't need."""

import subprocess
import sys

import pytest

LOOKS = """
import importlib.util, sys
from lora_api.settings import OptimizationSettings
from lora_trainer import environment
environment._NVIDIA_DRIVER = environment.Path({driver!r})
environment.leave_out_unneeded(OptimizationSettings.model_validate({settings!r}))
print(importlib.util.find_spec("bitsandbytes") is not None)
"""

RUNS: dict[str, tuple[dict[str, str], str, bool]] = {
    "a plain run on the CPU does without": ({}, "/nowhere", False),
    "the ladder may end with it on a GPU": ({}, "/", True),
    "a named rung above it does without": ({"memory": "none"}, "/", False),
    "its optimiser needs it": ({"optimizer": "adamw8bit"}, "/nowhere", True),
    "its rung needs it": ({"memory": "nf4"}, "/nowhere", True),
}


@pytest.mark.parametrize("name", RUNS)
def test_bitsandbytes_is_found_only_where_it_may_be_needed(name: str) -> None:
    settings, driver, found = RUNS[name]
    program = LOOKS.format(settings=settings, driver=driver)
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert run.stdout.strip() == str(found)
