"""What a platform keeps in object storage: base models, datasets, finished LoRAs.

A module of its own because it is the only part of the demonstration that speaks S3.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from minio import Minio
from minio.deleteobjects import DeleteObject

from lora_demo.environment import DemoError, Environment

BUCKETS = ("bases", "datasets", "models")


def connect(environment: Environment) -> Minio:
    """A client for the cluster's object storage, as seen from this machine."""
    address = urlsplit(environment.s3_endpoint)
    return Minio(
        endpoint=address.netloc,
        access_key=environment.access_key,
        secret_key=environment.secret_key,
        secure=address.scheme == "https",
        region="us-east-1",
    )


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of an s3:// URI."""
    address = urlsplit(uri)
    return address.netloc, address.path.lstrip("/")


def make_buckets(storage: Minio) -> None:
    """Makes the demonstration's buckets where they are missing."""
    for bucket in BUCKETS:
        if not storage.bucket_exists(bucket_name=bucket):
            storage.make_bucket(bucket_name=bucket)


def upload_folder(storage: Minio, folder: Path, uri: str) -> int:
    """Uploads a folder's files that the storage lacks or holds otherwise.

    Args:
        storage: Client.
        folder: Local folder.
        uri: Prefix that receives the files, as s3://bucket/prefix/.

    Returns:
        Number of files under the prefix that are now as in the folder.
    """
    bucket, prefix = split_uri(uri)
    held = {
        item.object_name: item.etag
        for item in storage.list_objects(bucket_name=bucket, prefix=prefix, recursive=True)
    }
    count = 0
    for path in _files(folder):
        key = prefix + path.relative_to(folder).as_posix()
        # For objects sent in one part an S3 ETag is the MD5 of the content.
        digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        if held.get(key, "").strip('"') != digest:
            storage.fput_object(
                bucket_name=bucket, object_name=key, file_path=str(path), part_size=64 * 2**20
            )
        count += 1
    return count


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def remove_prefix(storage: Minio, uri: str) -> int:
    """Deletes everything under a prefix and says how many objects that were."""
    bucket, prefix = split_uri(uri)
    names = [
        DeleteObject(item.object_name)
        for item in storage.list_objects(bucket_name=bucket, prefix=prefix, recursive=True)
    ]
    for error in storage.remove_objects(bucket_name=bucket, delete_object_list=names):
        raise DemoError(f"could not delete {error.name} in {uri}: {error.message}")
    return len(names)


def download(storage: Minio, uri: str, target: Path) -> str:
    """Downloads one object.

    Returns:
        Its digest as ``sha256:<hex>``, computed from what arrived.
    """
    bucket, key = split_uri(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    storage.fget_object(bucket_name=bucket, object_name=key, file_path=str(target))
    return "sha256:" + hashlib.sha256(target.read_bytes()).hexdigest()
