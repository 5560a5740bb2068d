"""The operator's errors: each has a stable reason and a sentence that says what to do.

A module of its own so that every layer can raise them without importing another layer.
"""


class OperatorError(Exception):
    """Base of all errors that the operator raises itself."""

    reason = "OperatorError"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class CredentialsError(OperatorError):
    """No way to reach an API server was found."""

    reason = "CredentialsMissing"


class NotLeaderError(OperatorError):
    """This replica may not write, because it does not (or no longer) hold the Lease."""

    reason = "NotLeader"


class LeadershipLostError(OperatorError):
    """The Lease was lost; this replica has to begin anew, another one goes on."""

    reason = "LeadershipLost"


class InternalError(OperatorError):
    """Two parts of the operator disagree; a fault of ours."""

    reason = "InternalError"


class ApiError(OperatorError):
    """The API server refused a request, or could not be asked.

    Attributes:
        status: HTTP status code; 0 where there was no answer.
    """

    reason = "ApiError"

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class NotFoundError(ApiError):
    """The object does not exist (404)."""

    reason = "NotFound"


class AlreadyExistsError(ApiError):
    """An object of this name exists (409 on create)."""

    reason = "AlreadyExists"


class ConflictError(ApiError):
    """The object changed since it was read (409 on write)."""

    reason = "Conflict"


class RefusedError(ApiError):
    """Authorisation, admission, quota or validation said no (400, 401, 403, 413, 422)."""

    reason = "Refused"


class TooLargeError(ApiError):
    """The answer is longer than whoever asked wants to read."""

    reason = "TooLarge"


class UnavailableError(ApiError):
    """Too many requests, a fault of the server, or no answer at all; trying again helps."""

    reason = "Unavailable"

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        retry_after_seconds: float | None = None,
        causes: frozenset[str] = frozenset(),
    ) -> None:
        """Say what happened, and what the API server said of it.

        Args:
            message: For a person.
            status: HTTP status code; 0 where there was no answer.
            retry_after_seconds: How long the API server wants to be left alone.
            causes: Its machine-readable causes, `DisruptionBudget` for instance.
        """
        super().__init__(message, status=status)
        self.causes = causes
        self.retry_after_seconds = retry_after_seconds
