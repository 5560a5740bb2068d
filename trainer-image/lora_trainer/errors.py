"""Every failure that the trainer expects, and how unexpected ones are told apart.

A module of its own because a reason decides an exit code, and an exit code decides whether a GPU
is held for another attempt: the table must be in one place.
"""

import errno

from lora_api.exit_codes import ExitCode
from lora_api.reasons import Reason

_EXIT_CODES = {
    Reason.STORAGE_UNREACHABLE: ExitCode.TRANSIENT,
    Reason.CHECKSUM_MISMATCH: ExitCode.TRANSIENT,
    Reason.TRAINING_DIVERGED: ExitCode.DIVERGED,
    Reason.UPLOAD_FAILED: ExitCode.NOT_STORED,
    Reason.INTERRUPTED: ExitCode.INTERRUPTED,
    Reason.STALLED: ExitCode.STALLED,
    Reason.ARTIFACT_MISMATCH: ExitCode.CRASHED,
    Reason.INTERNAL_ERROR: ExitCode.CRASHED,
}

# What CUDA's libraries say, with other words or far behind others, when they find no room.
_NO_ROOM = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "Failed to CUDA calloc",
    "Failed to CUDA host alloc",
    "Cuda failure 2 'out of memory'",
    "Cuda failure 'out of memory'",
)


class TrainerError(Exception):
    """A failure with a stable reason and a sentence: what, where, and what to do.

    Args:
        reason: Stable word for programs.
        message: Sentence for people; names files and fields as the job document spells them.
        exit_code: Overrides the exit code that belongs to the reason (bad input by default).
    """

    def __init__(self, reason: Reason, message: str, *, exit_code: ExitCode | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.exit_code = exit_code or _EXIT_CODES.get(reason, ExitCode.BAD_INPUT)

    @property
    def retryable(self) -> bool:
        """Whether another attempt of the same job can succeed."""
        return self.exit_code.is_retryable


class StorageError(TrainerError):
    """A storage said no, or nothing at all.

    Args:
        reason: Stable word for programs.
        message: Sentence for people.
        passing: Whether the same request is worth repeating in a second.
        exit_code: Overrides the exit code that belongs to the reason.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        passing: bool = False,
        exit_code: ExitCode | None = None,
    ) -> None:
        super().__init__(reason, message, exit_code=exit_code)
        self.passing = passing


class InterruptedRunError(TrainerError):
    """SIGTERM or SIGINT asked the run to stop."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.INTERRUPTED, message)


def as_trainer_error(error: BaseException, *, workspace: str) -> TrainerError | None:
    """Recognise failures that libraries report in their own words.

    Args:
        error: What was raised.
        workspace: Path of the workspace, for messages.

    Returns:
        The failure in our terms; None where it is a fault of the program.
    """
    if isinstance(error, TrainerError):
        return error
    if is_out_of_space(error):
        name = getattr(error, "filename", None)
        return TrainerError(
            Reason.WORKSPACE_FULL,
            f"the workspace {workspace} has no room left"
            f"{f' for {name}' if name else ''}; give it more space "
            "(workspace.size of a LoRATraining)",
        )
    if isinstance(error, OSError) and error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
        return TrainerError(
            Reason.WORKSPACE_NOT_WRITABLE,
            f"{error.filename or workspace} can't be written ({error.strerror}); the workspace "
            f"{workspace} must belong to the user that runs the trainer",
        )
    if is_out_of_memory(error):
        return TrainerError(
            Reason.OUT_OF_GPU_MEMORY,
            "the training does not fit the device's memory; lower optimization.batchSize, "
            "optimization.resolution or network.rank, or use a GPU with more memory",
        )
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device's memory was too small; by name, so that asking imports no torch."""
    if type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error)
    return "out of memory" in said.lower()[:200] or any(words in said for words in _NO_ROOM)


def is_out_of_space(error: BaseException) -> bool:
    """Whether the disk, or this user's share of it, was too small."""
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
