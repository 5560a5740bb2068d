"""S3 and what speaks it (MinIO, Ceph, versitygw, ...) as a storage.

A module of its own because it owns what S3 makes possible and others do not: hashes that the server
checked too, and writes under a condition.
"""

import hashlib
import io
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from minio.helpers import MAX_MULTIPART_COUNT
from minio.sse import Sse

from lora_api.reasons import Reason
from lora_trainer.disk import CHUNK_BYTES, write_atomically
from lora_trainer.errors import StorageError
from lora_trainer.stopping import StopFlag
from lora_trainer.storage import OnBytes, StoredFile
from lora_trainer.storage.connection import connect
from lora_trainer.storage.faults import MISSING_KEY, Request, translating
from lora_trainer.storage.retries import retrying

_MAX_LISTED = 100_000
# A part is held in memory on its way; S3 takes 5 MiB to 5 GiB.
_PART_BYTES = 256 << 20
_MD5_ETAG = re.compile(r"^[0-9a-f]{32}$")
_NOT_CREATED = frozenset({"PreconditionFailed", "NotImplemented"})
_SHA256_HEADER = "x-amz-meta-sha256"


class S3Storage:
    """A prefix in a bucket, given as ``s3://bucket/prefix``.

    Credentials, region and endpoint come from the AWS_* environment variables.

    Args:
        uri: The URI.
        field: The job's field that names it.
        stop: Ends waits between retries.

    Raises:
        StorageError: CredentialsMissing, or StorageUnreachable for an endpoint that is no URL.
    """

    def __init__(self, uri: str, *, field: str, stop: StopFlag) -> None:
        self.uri = uri.rstrip("/")
        self.field = field
        self.folder: Path | None = None
        parts = urlsplit(self.uri)
        self._bucket = parts.netloc
        self._prefix = f"{parts.path.strip('/')}/" if parts.path.strip("/") else ""
        self._stop = stop
        self._client = connect(field, self.uri)

    def list_files(self) -> list[StoredFile]:
        """All objects below the prefix; folder markers are left out."""

        def attempt() -> list[StoredFile]:
            files: list[StoredFile] = []
            with self._faults("listed"):
                for item in self._client.list_objects(
                    self._bucket, prefix=self._prefix, recursive=True
                ):
                    file = self._stored(item)
                    if file.name and not file.name.endswith("/"):
                        files.append(file)
                    if len(files) > _MAX_LISTED:
                        raise StorageError(
                            Reason.INVALID_JOB,
                            f"{self.field}: more than {_MAX_LISTED} objects lie under {self.uri}; "
                            "name a prefix of its own",
                        )
            return sorted(files, key=lambda file: file.name)

        return retrying(attempt, stop=self._stop)

    def find(self, name: str) -> StoredFile | None:
        """One object; by listing, because a HEAD request's answer can't say why it refuses."""

        def attempt() -> StoredFile | None:
            with self._faults(f"read ({name})"):
                found = self._client.list_objects(
                    self._bucket, prefix=self._key(name), recursive=True
                )
                # Keys come in order, and no key with this prefix is before the prefix itself.
                first = next(iter(found), None)
            file = None if first is None else self._stored(first)
            return file if file is not None and file.name == name else None

        return retrying(attempt, stop=self._stop)

    def download(self, file: StoredFile, target: Path, on_bytes: OnBytes) -> str:
        """Fetch an object; its size, and its MD5 where the ETag is one, must match."""
        digest = ""

        def write(temporary: Path) -> None:
            nonlocal digest
            digest = self._stream(file, temporary, on_bytes)

        retrying(lambda: write_atomically(target, write), stop=self._stop)
        return digest

    def read(self, name: str, *, limit_bytes: int) -> bytes | None:
        """A small object's content."""

        def attempt() -> bytes | None:
            try:
                with self._faults(f"read ({name})", quiet=MISSING_KEY):
                    response = self._client.get_object(
                        self._bucket, self._key(name), length=limit_bytes
                    )
                    try:
                        return bytes(response.read(limit_bytes))
                    finally:
                        response.close()
                        response.release_conn()
            except KeyError:
                return None

        return retrying(attempt, stop=self._stop)

    def exists(self, name: str) -> bool:
        """Whether there is an object of that name.

        Reads a byte of it: a HEAD request's answer has no body, so it can't say why it refuses.
        """
        return self.read(name, limit_bytes=1) is not None

    def upload(self, source: Path, name: str, *, content_type: str) -> None:
        """Store a file with its sha256 as metadata, then compare what the server has."""
        with source.open("rb") as file:
            self._put(name, file, content_type=content_type)

    def write(self, name: str, data: bytes) -> None:
        """Store a few bytes."""
        self._put(name, io.BytesIO(data), content_type="application/octet-stream")

    def create(self, name: str, data: bytes) -> bool:
        """Store a few bytes by a conditional write.

        A server that knows no conditions ignores this one or answers NotImplemented; there the
        answer is right but for two writers within the same moment.
        """

        def attempt() -> bool:
            try:
                with self._faults(f"written ({name})", writing=True, quiet=_NOT_CREATED):
                    self._client.put_object(
                        self._bucket, self._key(name), io.BytesIO(data), len(data), sse=_IfAbsent()
                    )
            except KeyError as refused:
                if "NotImplemented" not in refused.args:
                    return False
                if self.exists(name):
                    return False
                self.write(name, data)
            return True

        return retrying(attempt, stop=self._stop)

    def delete(self, name: str) -> None:
        """Remove an object."""

        def attempt() -> None:
            with self._faults(f"written (delete {name})", writing=True):
                self._client.remove_object(self._bucket, self._key(name))

        retrying(attempt, stop=self._stop)

    def describe(self, name: str) -> str:
        """The URI of an object below this prefix."""
        return f"{self.uri}/{name}"

    def _stored(self, item: Any) -> StoredFile:
        name = (item.object_name or "").removeprefix(self._prefix)
        return StoredFile(name, item.size or 0, (item.etag or "").strip('"'))

    def _put(self, name: str, data: BinaryIO, *, content_type: str) -> None:
        size_bytes = data.seek(0, io.SEEK_END)
        part_bytes = _part_bytes(size_bytes)
        sha256, expected_etag = _digests(data, part_bytes)

        def attempt() -> None:
            data.seek(0)
            with self._faults(f"written ({name})", writing=True):
                self._client.put_object(
                    self._bucket,
                    self._key(name),
                    data,
                    size_bytes,
                    content_type=content_type,
                    metadata={"sha256": sha256},
                    part_size=part_bytes,
                    num_parallel_uploads=1,  # each part on its way is held in memory
                )
                stored = self._client.stat_object(self._bucket, self._key(name))
            etag = (stored.etag or "").strip('"')
            # Encryption, or a server's own way, makes an ETag that says nothing of the content.
            intact = etag == expected_etag or self._sha256_of(name) == sha256
            if stored.size != size_bytes or not intact:
                raise self._mismatch(name)

        retrying(attempt, stop=self._stop)

    def _sha256_of(self, name: str) -> str:
        """The digest of an object as it comes back."""
        digest = hashlib.sha256()
        with self._faults(f"read back ({name})"):
            response = self._client.get_object(self._bucket, self._key(name))
            try:
                for chunk in response.stream(CHUNK_BYTES):
                    digest.update(chunk)
                    self._stop.check(f"reading {self.describe(name)} back")
            finally:
                response.close()
                response.release_conn()
        return digest.hexdigest()

    def _stream(self, file: StoredFile, target: Path, on_bytes: OnBytes) -> str:
        self._stop.check(f"fetching {self.describe(file.name)}")
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        received = 0
        with self._faults(f"read ({file.name})"):
            response = self._client.get_object(self._bucket, self._key(file.name))
            headers = {name.lower(): value for name, value in response.headers.items()}
            try:
                with target.open("wb") as out:
                    for chunk in response.stream(CHUNK_BYTES):
                        out.write(chunk)
                        sha256.update(chunk)
                        md5.update(chunk)
                        received += len(chunk)
                        on_bytes(len(chunk))
                        self._stop.check(f"fetching {self.describe(file.name)}")
            except BaseException:
                on_bytes(-received)
                raise
            finally:
                response.close()
                response.release_conn()
        expected_sha256 = headers.get(_SHA256_HEADER, sha256.hexdigest())
        if (
            received != file.size_bytes
            or expected_sha256 != sha256.hexdigest()
            or _differs(file.tag, md5.hexdigest(), headers)
        ):
            on_bytes(-received)
            raise self._mismatch(file.name)
        return sha256.hexdigest()

    def _key(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def _faults(
        self, verb: str, *, writing: bool = False, quiet: frozenset[str] = frozenset()
    ) -> AbstractContextManager[None]:
        request = Request(
            field=self.field, uri=self.uri, bucket=self._bucket, verb=verb, writing=writing
        )
        return translating(request, quiet=quiet)

    def _mismatch(self, name: str) -> StorageError:
        return StorageError(
            Reason.CHECKSUM_MISMATCH,
            f"{self.field}: {self.describe(name)} did not arrive as the storage holds it (size or "
            "digest differ); something between here and the storage changes data",
            passing=True,
        )


class _IfAbsent(Sse):  # type: ignore[misc]  # minio has no types
    """Makes a write conditional.

    The client takes headers of the caller's choice only as an encryption's; it has no parameter for
    If-None-Match, which S3 has since 2024.
    """

    def headers(self) -> dict[str, str]:
        """What is sent with the object."""
        return {"If-None-Match": "*"}

    def tls_required(self) -> bool:
        """No secret is sent."""
        return False


def _part_bytes(size_bytes: int) -> int:
    """Size of the parts in which so many bytes are stored; S3 takes 10,000 at most."""
    fewest: int = -(-size_bytes // MAX_MULTIPART_COUNT)
    return max(_PART_BYTES, fewest)


def _digests(data: BinaryIO, part_bytes: int) -> tuple[str, str]:
    """Hex sha256 of what is to be stored, and the ETag that it gets where ETags are MD5s.

    The ETag of one part is its MD5; of several it is the MD5 of their MD5s, and how many there are.
    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
    """
    sha256 = hashlib.sha256()
    parts: list[bytes] = []
    data.seek(0)
    while True:
        md5 = hashlib.md5(usedforsecurity=False)
        left = part_bytes
        while left and (chunk := data.read(min(left, CHUNK_BYTES))):
            sha256.update(chunk)
            md5.update(chunk)
            left -= len(chunk)
        if left == part_bytes and parts:
            break
        parts.append(md5.digest())
        if left:
            break
    if len(parts) == 1:
        return sha256.hexdigest(), parts[0].hex()
    whole = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
    return sha256.hexdigest(), f"{whole}-{len(parts)}"


def _differs(etag: str, md5: str, headers: dict[str, str]) -> bool:
    """Whether an ETag that is an MD5 contradicts ours; multipart and encrypted ones are none."""
    lowered = {name.lower(): value for name, value in headers.items()}
    encrypted = any(name.startswith("x-amz-server-side-encryption") for name in lowered)
    return bool(_MD5_ETAG.match(etag)) and not encrypted and etag != md5
