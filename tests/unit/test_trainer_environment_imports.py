"""A run imports no library that it can't need."""

import subprocess
import sys

import pytest

LOOKS = """
import importlib.util, sys
from lora_api.settings import OptimizationSettings
from lora_trainer import environment
environment._NVIDIA_DRIVER = environment.Path({driver!r})
environment._GPUS = (environment._NVIDIA_DRIVER,)
environment.leave_out_unneeded(OptimizationSettings.model_validate({settings!r}))
print(importlib.util.find_spec({library!r}) is not None)
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
    assert _finds("bitsandbytes", settings, driver) is found


COMPILERS: dict[str, tuple[dict[str, str], str, bool]] = {
    "without a GPU nothing is compiled for one": ({}, "/nowhere", False),
    "on a GPU it may be": ({}, "/", True),
    "who asks for compiled blocks gets all that may serve": (
        {"compile": "always"},
        "/nowhere",
        True,
    ),
}


@pytest.mark.parametrize("name", COMPILERS)
def test_a_compiler_for_gpus_is_found_only_where_it_may_be_needed(name: str) -> None:
    settings, driver, found = COMPILERS[name]
    assert _finds("triton", settings, driver) is found


def test_torch_and_the_families_are_imported_without_what_is_left_out() -> None:
    program = LOOKS.format(settings={}, driver="/nowhere", library="triton")
    program += "import torch, lora_trainer.recipes.sd15; print(torch.cuda.is_available())"
    assert _said(program) == ["False", "False"]


def _finds(library: str, settings: dict[str, str], driver: str) -> bool:
    [answer] = _said(LOOKS.format(settings=settings, driver=driver, library=library))
    return answer == "True"


def _said(program: str) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300
    )
    return run.stdout.split()
