"""The trainer's exit codes: all that a Job controller can see of why a container ended.

Kept apart because podFailurePolicy is built from them: a code added here decides whether a GPU is
held for another attempt.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `lora-trainer`; the names of sysexits.h where one fits."""

    OK = 0
    """Trained, checked and stored."""

    CRASHED = 1
    """A fault nobody foresaw; worth another attempt."""

    USAGE = 2
    """The command line was wrong; never try again."""

    BAD_INPUT = 65
    """Job document, dataset, base model or output can't work as given; never try again."""

    DIVERGED = 70
    """The loss stopped being finite; the same settings would do it again."""

    TRANSIENT = 75
    """Storage or network failed for now; try again, finished stages are kept."""

    NOT_STORED = 76
    """Trained, but the result couldn't be stored; try again, only the upload is repeated."""

    INTERRUPTED = 143
    """SIGTERM: a checkpoint was saved; try again, training goes on from it."""

    @property
    def is_retryable(self) -> bool:
        """Whether a new attempt of the same job can succeed."""
        return self not in FINAL_CODES


FINAL_CODES = frozenset({ExitCode.OK, ExitCode.USAGE, ExitCode.BAD_INPUT, ExitCode.DIVERGED})
