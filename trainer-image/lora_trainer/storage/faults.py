"""What an S3 server or the network between says, in the job's terms.

A module of its own because this table is what decides between "fix your credentials" and "try
again": every branch has a row in the tests.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import urllib3.exceptions as network
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from lora_api.exit_codes import ExitCode
from lora_api.reasons import Reason
from lora_trainer.errors import StorageError

MISSING_KEY = frozenset({"NoSuchKey", "ResourceNotFound"})
_WRONG_CREDENTIALS = {
    "InvalidAccessKeyId": "the access key does not exist there",
    "SignatureDoesNotMatch": "the secret key does not fit the access key",
    "InvalidTokenId": "the session token is not valid",
    "InvalidToken": "the session token is not valid",
    "ExpiredToken": "the session token has expired",
    "TokenRefreshRequired": "the session token has expired",
    "AuthorizationHeaderMalformed": "the region does not fit the bucket",
}
_DENIED = frozenset({"AccessDenied", "AllAccessDisabled", "AccountProblem", "MethodNotAllowed"})

# What is wrong with TLS until a person corrects it; the rest of it fails as connections do.
_TRUST = (ssl.SSLCertVerificationError, FileNotFoundError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What was asked of which storage, for the message."""

    field: str
    """The job's field that names the storage."""

    uri: str
    """Its URI."""

    bucket: str
    """Its bucket."""

    verb: str
    """What could not be done, as a participle: ``listed``, ``read (a.png)``."""

    writing: bool = False
    """Whether something was to be changed."""


@contextmanager
def translating(request: Request, *, quiet: frozenset[str] = frozenset()) -> Iterator[None]:
    """Turn what minio and urllib3 raise into StorageError.

    Args:
        request: What is being asked, for the message.
        quiet: S3 codes that are an answer, not a fault; they become KeyError.
    """
    try:
        yield
    except S3Error as error:
        code = error.code or "unknown"
        if code in quiet:
            raise KeyError(code) from error
        raise from_code(code, request) from error
    except (ServerError, InvalidResponseError) as error:
        raise _not_s3(error, request) from error
    except network.HTTPError as error:
        raise _unreachable(error, request) from error
    except (MinioException, ValueError) as error:
        raise StorageError(
            Reason.STORAGE_UNREACHABLE,
            f"{request.field}: {request.uri} could not be {request.verb} ({_short(error)})",
        ) from error


def from_code(code: str, request: Request) -> StorageError:
    """The failure that an S3 error code stands for.

    Args:
        code: Such as ``NoSuchBucket``.
        request: What was asked.
    """
    field, uri, bucket = request.field, request.uri, request.bucket
    if code == "NoSuchBucket":
        return StorageError(
            Reason.BUCKET_NOT_FOUND,
            f"{field}: the bucket {bucket!r} does not exist; create it or correct {field}",
        )
    if code in MISSING_KEY:
        return StorageError(
            Reason.OBJECT_NOT_FOUND,
            f"{field}: {uri} could not be {request.verb}, the object is gone; correct {field}",
        )
    if code in _WRONG_CREDENTIALS:
        return StorageError(
            Reason.ACCESS_DENIED,
            f"{field}: the storage refused the credentials for {uri} ({code}: "
            f"{_WRONG_CREDENTIALS[code]}); correct the AWS_* variables in the credentials Secret",
        )
    if code == "RequestTimeTooSkewed":  # a clock is set by itself, here or on the next node
        return StorageError(
            Reason.STORAGE_UNREACHABLE,
            f"{field}: {uri} could not be {request.verb}, this machine's clock differs from the "
            f"server's ({code}); set it, or let NTP do so",
            passing=True,
        )
    if code in _DENIED:
        reason = Reason.OUTPUT_NOT_WRITABLE if request.writing else Reason.ACCESS_DENIED
        right = "write to" if request.writing else "read"
        return StorageError(
            reason,
            f"{field}: {uri} could not be {request.verb} ({code}); allow these credentials to "
            f"{right} it, or name another place",
        )
    return StorageError(
        Reason.STORAGE_UNREACHABLE,
        f"{field}: {uri} could not be {request.verb}, the storage answered {code}",
        passing=True,
    )


def _not_s3(error: MinioException, request: Request) -> StorageError:
    status = getattr(error, "status_code", None) or getattr(error, "_code", None)
    if status in {401, 403}:
        return from_code("AccessDenied", request)
    return StorageError(
        Reason.STORAGE_UNREACHABLE,
        f"{request.field}: {request.uri} could not be {request.verb}; what answers at "
        f"AWS_ENDPOINT_URL does not speak S3 at the moment (HTTP {status}); check the address",
        passing=True,
    )


def _unreachable(error: network.HTTPError, request: Request) -> StorageError:
    if isinstance(error, network.NameResolutionError):
        what = "its host name can't be resolved"
    elif isinstance(error, network.SSLError) and isinstance(next(iter(error.args), None), _TRUST):
        return StorageError(
            Reason.STORAGE_UNREACHABLE,
            f"{request.field}: the storage's TLS certificate was not accepted "
            f"({_short(error)}); set AWS_CA_BUNDLE or correct AWS_ENDPOINT_URL",
            exit_code=ExitCode.BAD_INPUT,
        )
    elif isinstance(error, network.NewConnectionError):  # a kind of TimeoutError to urllib3
        what = f"no connection could be made ({str(error).rsplit(': ', 1)[-1]})"
    elif isinstance(error, network.TimeoutError):
        what = "it did not answer in time"
    else:
        what = _short(error)
    return StorageError(
        Reason.STORAGE_UNREACHABLE,
        f"{request.field}: the storage endpoint of {request.uri} is not reachable, {what}; "
        "check AWS_ENDPOINT_URL and that the storage runs",
        passing=True,
    )


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:200]}..."
