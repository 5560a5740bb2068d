"""Why nothing can be decided in a namespace before a person has mended something.

A module of its own because such a fault is told where people look, on the policy and on the runs
that wait for it, while every other error is the operator's to repeat.
"""

from lora_api.reasons import Reason
from lora_operator.errors import InternalError


class PolicyFaultError(InternalError):
    """A policy or ledger that nothing may be counted by as it is.

    Attributes:
        cause: For conditions.
    """

    def __init__(self, cause: Reason, message: str) -> None:
        """Say what is wrong, and what to do."""
        super().__init__(message)
        self.cause = cause
