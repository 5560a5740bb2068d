"""The further processes of a run: one for each further GPU of the machine.

A module of its own because it is all that the trainer knows of processes. The first process does
every stage and is the only one that saves, serves and publishes; helpers exist while it trains.
They are started as new interpreters, never forked: a fork after torch has made threads hangs.
A helper ends when its parent does, however that ended; a helper that dies ends the run.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist

from lora_api.reasons import Reason
from lora_trainer import log
from lora_trainer.errors import InterruptedRunError, TrainerError, is_out_of_memory
from lora_trainer.group import Arithmetic, Group, accelerated

# Drawing and saving keep the first process away from the others; NCCL's own limit is 10 minutes.
_PATIENCE = timedelta(hours=2)
# How long the first process may take to notice by itself that a helper is gone.
_NOTICE_SECONDS = 20.0
# How long a helper may take to end: after the last step, and where the run ends before it.
_DONE_SECONDS = 60.0
_BROKEN_SECONDS = 10.0

Work = Callable[[Group], None]


def processes_for(wanted: int | None) -> int:
    """How many processes train.

    Args:
        wanted: What the job says; None takes one per GPU.

    Raises:
        TrainerError: InvalidJob; there are fewer GPUs.
    """
    gpus = torch.cuda.device_count()
    if wanted is not None and gpus and wanted > gpus:
        raise TrainerError(
            Reason.INVALID_JOB,
            f"processes: {wanted} processes need as many GPUs, and this machine has {gpus}; lower "
            "processes, or leave it out to use all",
        )
    return wanted or max(1, gpus)


@contextmanager
def training_together(
    work: Work,
    arithmetic: Arithmetic,
    *,
    size: int,
    folder: Path,
    fatal: Callable[[TrainerError], None],
) -> Iterator[Group]:
    """Start helpers that do the same work, and be the first of the group meanwhile.

    Args:
        work: What a helper does; sent to it, so its parts must be picklable.
        arithmetic: How gradients are computed.
        size: Processes in all; 1 starts none.
        folder: Where they meet through a file; no other run may use it.
        fatal: Ends this process where it is stuck because a helper is gone.

    Raises:
        TrainerError: InternalError or OutOfGpuMemory; a helper died.
    """
    if size == 1:
        with accelerated(arithmetic) as group:
            yield group
        return
    meeting = _Meeting(size=size, place=_meeting_place(folder), arithmetic=arithmetic)
    helpers = [_Helper(work, rank, meeting) for rank in range(1, size)]
    watch = _Watch(helpers, fatal)
    patience = _BROKEN_SECONDS
    try:
        with _joined(0, meeting) as group:
            yield group
        patience = _DONE_SECONDS
    except TrainerError:
        raise
    except Exception as error:
        time.sleep(0.5)  # the one whose end broke the connection may still be ending
        death = watch.death()
        if death is None:
            raise
        raise death from error
    finally:
        watch.over()
        for helper in helpers:
            helper.end(patience)
        meeting.place.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Meeting:
    """What processes must know to train together."""

    size: int
    """How many there are."""

    place: Path
    """The file through which they find each other."""

    arithmetic: Arithmetic
    """How gradients are computed."""


def _meeting_place(folder: Path) -> Path:
    """A file that does not exist yet.

    A run that was killed leaves its own behind, and in a container the next one has the same
    process id: whoever opened that file again would wait for processes that are gone.
    """
    for old in folder.glob("rendezvous-*"):
        old.unlink(missing_ok=True)
    return folder / f"rendezvous-{uuid4().hex}"


class _Helper:
    """One further process, seen from the first."""

    def __init__(self, work: Work, rank: int, meeting: _Meeting) -> None:
        self.rank = rank
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process: Any = context.Process(
            target=_help, args=(work, rank, meeting, theirs), daemon=True
        )
        self.process.start()
        theirs.close()

    def death(self) -> TrainerError | None:
        """Why it ended where it should not have; None while all is well."""
        code = self.process.exitcode
        if code is None or code == 0:
            return None
        if self._said() == "out of memory":
            return TrainerError(
                Reason.OUT_OF_GPU_MEMORY, f"process {self.rank} ran out of memory (out of memory)"
            )
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return TrainerError(
            Reason.INTERNAL_ERROR,
            f"training process {self.rank} ended with {how} and took the run with it; the log says "
            "more above, if it could. The next attempt goes on from the last checkpoint",
        )

    def end(self, patience_seconds: float) -> None:
        """Wait for it a while, then end it."""
        self.process.join(patience_seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self._pipe.close()

    def _said(self) -> str | None:
        try:
            return str(self._pipe.recv()) if self._pipe.poll() else None
        except (EOFError, OSError):
            return None


class _Watch:
    """A thread that ends this process where it waits for a helper that is gone."""

    def __init__(self, helpers: list[_Helper], fatal: Callable[[TrainerError], None]) -> None:
        self._helpers = helpers
        self._fatal = fatal
        self._over = threading.Event()
        threading.Thread(target=self._look, name="helpers", daemon=True).start()

    def death(self) -> TrainerError | None:
        """Why a helper ended, if one did."""
        return next(filter(None, (helper.death() for helper in self._helpers)), None)

    def over(self) -> None:
        """Look no more."""
        self._over.set()

    def _look(self) -> None:
        while not self._over.wait(1.0):
            if any(helper.process.exitcode not in {None, 0, 143} for helper in self._helpers):
                if self._over.wait(_NOTICE_SECONDS):
                    return
                death = self.death()
                if death is not None:
                    self._fatal(death)
                return


@contextmanager
def _joined(rank: int, meeting: _Meeting) -> Iterator[Group]:
    """This process, once all are there.

    accelerate takes the group that it finds. Left to itself it would meet on a TCP port, which
    another run on the machine may have taken between choosing and using it.
    """
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        init_method=f"file://{meeting.place}",
        rank=rank,
        world_size=meeting.size,
        timeout=_PATIENCE,
    )
    try:
        with accelerated(meeting.arithmetic, rank=rank, size=meeting.size) as group:
            yield group
    finally:
        dist.destroy_process_group()


def _help(work: Work, rank: int, meeting: _Meeting, pipe: Connection) -> None:
    """A helper's whole life."""
    log.configure()
    threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
    code = 0
    try:
        with _joined(rank, meeting) as group:
            work(group)
    except InterruptedRunError as error:
        code = int(error.exit_code)
    except TrainerError as error:
        log.error(error.reason.value, message=error.message, process=rank)
        code = int(error.exit_code)
    except Exception as error:
        if is_out_of_memory(error):
            pipe.send("out of memory")
        log.exception(f"a fault in training process {rank}", error)
        code = 1
    os._exit(code)  # as __main__ does: nothing is left to wait for


def _end_with_parent(pipe: Connection) -> None:
    """Nothing is ever sent this way: the pipe closes when the first process is gone."""
    try:
        pipe.recv()
    except (EOFError, OSError):
        os._exit(1)
