"""Which rung of the memory ladder a run stands on, and what happens when it doesn't fit.

A module of its own because the rule is the same wherever memory runs out: let go of everything,
step down one rung, write that down so that a restart doesn't try again, go on from the last
checkpoint.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from lora_api.reasons import Reason
from lora_api.settings import MemoryStrategy
from lora_trainer import log
from lora_trainer.disk import read_json, write_json
from lora_trainer.errors import TrainerError, is_out_of_memory
from lora_trainer.memory import possible_rungs

Attempt = Callable[[MemoryStrategy], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ladder:
    """The rungs of one run."""

    wanted: MemoryStrategy
    """What the job says; `auto` starts at the top."""

    record: Path
    """File that remembers a step down."""

    key: str
    """Device and inputs that the record is about; of others it says nothing."""

    def climb_down(self, attempt: Attempt, *, trial: Attempt) -> MemoryStrategy:
        """Attempt the training rung by rung until one fits.

        Args:
            attempt: Loads the base for a rung and trains from the newest checkpoint; raises an
                out-of-memory error where that doesn't fit.
            trial: Tries a rung without training, for the advice in a refusal.

        Returns:
            The rung on which the training ended.

        Raises:
            TrainerError: OutOfGpuMemory; says what would fit.
        """
        rungs = self._rungs()
        for place, rung in enumerate(rungs):
            log.info("memory", strategy=rung.value)
            error = _memory_error_of(attempt, rung)
            if error is None:
                return rung
            leaner = rungs[place + 1 :]
            log.warning("out of memory", strategy=rung.value, why=_first_line(error))
            if self.wanted is not MemoryStrategy.AUTO or not leaner:
                break
            self._remember(leaner[0])
        raise TrainerError(Reason.OUT_OF_GPU_MEMORY, self._advice(trial))

    def step_down(self, rung: MemoryStrategy) -> None:
        """Write down that a rung did not fit, for the next attempt."""
        rungs = possible_rungs()
        leaner = rungs[rungs.index(rung) + 1 :]
        if self.wanted is MemoryStrategy.AUTO and leaner:
            self._remember(leaner[0])

    def _remember(self, rung: MemoryStrategy) -> None:
        write_json(self.record, {"key": self.key, "strategy": rung.value})

    def _rungs(self) -> list[MemoryStrategy]:
        """Those still to be tried, the present one first."""
        if self.wanted is not MemoryStrategy.AUTO:
            return [self.wanted]
        rungs = possible_rungs()
        known = read_json(self.record) or {}
        recorded = [rung for rung in rungs if rung.value == known.get("strategy")]
        if known.get("key") != self.key or not recorded:
            return rungs
        return rungs[rungs.index(recorded[0]) :]

    def _advice(self, trial: Attempt) -> str:
        said = (
            "the training does not fit the device's memory"
            if self.wanted is MemoryStrategy.AUTO
            else f"the training does not fit the device's memory with optimization.memory "
            f"{self.wanted.value}"
        )
        rungs = possible_rungs()
        leaner = [] if self.wanted is MemoryStrategy.AUTO else rungs[rungs.index(self.wanted) + 1 :]
        for rung in leaner:
            if _memory_error_of(trial, rung) is None:
                return f"{said}; with {rung.value} or auto it does"
        return (
            f"{said}, however it is saved; lower optimization.batchSize, optimization.resolution "
            "or network.rank, or use a GPU with more memory"
        )


def _memory_error_of(attempt: Attempt, rung: MemoryStrategy) -> str | None:
    """What an attempt said where it ran out of memory; nothing of it is held afterwards."""
    said = None
    try:
        attempt(rung)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        said = str(error) or type(error).__name__
    if said is not None:
        # Only now, with the traceback gone, nobody refers to what filled the memory.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return said


def _first_line(text: str) -> str:
    return text.splitlines()[0][:300] if text else ""
