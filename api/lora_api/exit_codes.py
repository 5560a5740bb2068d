"""The trainer's exit codes: all that a Job controller can see of why a container ended.

Kept apart because podFailurePolicy is built from them: a code added here decides whether a GPU is
held for another attempt.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `lora-trainer`; the names of sysexits.h where one fits.

    What each means stands in `MEANINGS`.
    """

    OK = 0
    CRASHED = 1
    USAGE = 2
    BAD_INPUT = 65
    DIVERGED = 70
    TRANSIENT = 75
    NOT_STORED = 76
    STALLED = 77
    INTERRUPTED = 143

    @property
    def is_retryable(self) -> bool:
        """Whether a new attempt of the same job can succeed."""
        return self not in FINAL_CODES


FINAL_CODES = frozenset({ExitCode.OK, ExitCode.USAGE, ExitCode.BAD_INPUT, ExitCode.DIVERGED})

MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "Trained, checked and stored.",
    ExitCode.CRASHED: "A fault nobody foresaw.",
    ExitCode.USAGE: "The command line was wrong.",
    ExitCode.BAD_INPUT: "Job document, dataset, base model or output can't work as given.",
    ExitCode.DIVERGED: "The loss stopped being finite.",
    ExitCode.TRANSIENT: "Storage or network failed for now; finished stages are kept.",
    ExitCode.NOT_STORED: "Trained, but not stored; only the upload is repeated.",
    ExitCode.STALLED: (
        "No progress for spec.limits.stallTimeoutSeconds; the log has the stacks of all threads. "
        "Training goes on from the last checkpoint."
    ),
    ExitCode.INTERRUPTED: "SIGTERM: a checkpoint was saved; training goes on from it.",
}
