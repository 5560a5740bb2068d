"""A copy of what a run can't make again for nothing, in the output's storage.

A module of its own because a workspace that dies with its pod needs what a durable one has by
itself: checkpoints, course, result and markers lie under ``.workspace/<run>/`` beside the output
until the run is done, and the next attempt begins from there. Caches, dataset and base model are
not copied: they are fetched or computed again, with the same outcome.
"""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lora_api.job import JobDocument
from lora_api.reasons import Reason
from lora_trainer import log
from lora_trainer.errors import StorageError, TrainerError
from lora_trainer.names import refuse_unsafe_names
from lora_trainer.stopping import StopFlag
from lora_trainer.storage import Storage, open_storage
from lora_trainer.workspace import Workspace

_FOLDER = ".workspace"
# In this order files are safe: what a marker speaks of lies there before the marker does.
_FOLDERS = ("course", "checkpoints", "partial", "result")
_MARKERS = "stages"
# Of the time that a pod has between SIGTERM and SIGKILL, 30 s by default.
_LAST_SECONDS = 20.0


@contextmanager
def kept_safe(
    job: JobDocument, workspace: Workspace, *, fresh: bool
) -> Iterator[Callable[[], None]]:
    """A workspace that outlives its folder, where the job says that the folder is lost.

    Args:
        job: Says so, and names the output.
        workspace: The folder; what was copied of it is brought back first.
        fresh: Forget the copy.

    Yields:
        What to call after each change that is worth a copy. When the block ends well, the run is
        done and the copy is deleted; else it is brought up to date.
    """
    if not job.workspace.ephemeral:
        yield lambda: None
        return
    mirror = Mirror(job.output.uri, run_id=job.run_id, root=workspace.root)
    if fresh:
        mirror.remove()
    mirror.restore()
    try:
        yield mirror.request
    except BaseException:
        mirror.flush()
        mirror.close()
        raise
    mirror.close()
    mirror.remove()


class Mirror:
    """Keeps the copy up to date from a thread of its own; of several changes it sends the last.

    Args:
        uri: The output's URI.
        run_id: The run; another run's copy is never touched.
        root: The workspace.
    """

    def __init__(self, uri: str, *, run_id: str, root: Path) -> None:
        self._root = root
        # Its own flag: a stop asked of the run must not stop the copy of what it leaves.
        self._stop = StopFlag()
        self._storage: Storage = open_storage(
            _place(uri, run_id), field="output.uri", stop=self._stop
        )
        self._sent: dict[str, tuple[int, int]] = {}
        self._wake = threading.Condition()
        self._wanted = 0
        self._done = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)

    def restore(self) -> None:
        """Bring the copy into the workspace, and begin to keep it up to date.

        Raises:
            TrainerError: StorageError; what lies there can't be read.
        """
        files = self._storage.list_files()
        refuse_unsafe_names(files, self._storage, Reason.WORKSPACE_NOT_WRITABLE)
        for file in files:
            path = self._root / file.name
            if file.name.split("/")[0] not in {*_FOLDERS, _MARKERS} or path.exists():
                continue
            with self._unless_gone(file.name):
                self._storage.download(file, path, lambda _: None)
                self._sent[file.name] = _stamp(path)
        if files:
            log.info("workspace restored", files=len(self._sent), place=self._storage.uri)
        self._thread.start()

    def request(self) -> None:
        """Ask for the copy to be brought up to date; returns at once."""
        with self._wake:
            self._wanted += 1
            self._wake.notify_all()

    def flush(self, seconds: float = _LAST_SECONDS) -> None:
        """Bring the copy up to date and wait until that is done, or has failed.

        Args:
            seconds: How long to wait at most.
        """
        self.request()
        with self._wake:
            wanted = self._wanted
            if not self._wake.wait_for(lambda: self._done >= wanted, timeout=seconds):
                log.warning("no time to copy all of the workspace", place=self._storage.uri)

    def close(self) -> None:
        """Stop copying."""
        self._stop.request()
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=_LAST_SECONDS)

    def remove(self) -> None:
        """Delete the copy: the run is done, or begins anew. Copying has ended by then."""
        try:
            _remove(self._storage.uri)
        except TrainerError as error:
            place = self._storage.uri
            log.warning("the copy of the workspace stays", place=place, why=error.message)

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or self._wanted > self._done)
                if self._closed:
                    return
                wanted = self._wanted
            try:
                self._send()
            except (TrainerError, OSError) as error:
                log.warning("the workspace is not copied for now", why=error)
            with self._wake:
                self._done = wanted
                self._wake.notify_all()

    def _send(self) -> None:
        """Make the copy what the workspace is, in an order that is safe to be cut short."""
        here = {path.relative_to(self._root).as_posix(): path for path in self._files()}
        gone = [name for name in self._sent if name not in here]
        for name in [name for name in gone if name.startswith(_MARKERS)]:
            self._delete(name)
        for name, path in here.items():
            with suppress(FileNotFoundError):  # replaced meanwhile; that change asks again
                stamp = _stamp(path)
                if self._sent.get(name) != stamp:
                    self._storage.upload(path, name, content_type="application/octet-stream")
                    self._sent[name] = stamp
        for name in [name for name in gone if name in self._sent]:
            self._delete(name)

    def _delete(self, name: str) -> None:
        self._storage.delete(name)
        del self._sent[name]

    def _files(self) -> Iterator[Path]:
        """What is worth a copy, markers last; of checkpoints the newest."""
        for folder in (*_FOLDERS, _MARKERS):
            found = sorted(path for path in (self._root / folder).rglob("*") if path.is_file())
            found = [path for path in found if not path.name.startswith(".")]
            if folder == "checkpoints":
                found = sorted(found, key=_stamp_time)[-1:]
            yield from found

    @contextmanager
    def _unless_gone(self, name: str) -> Iterator[None]:
        try:
            yield
        except StorageError as error:
            if error.reason is not Reason.OBJECT_NOT_FOUND:
                raise
            log.warning("gone from the copy of the workspace", file=name)


def remove_copy(uri: str, *, run_id: str) -> int:
    """Delete a run's copy, whoever made it and however the run ended.

    Args:
        uri: The output's URI.
        run_id: The run.

    Returns:
        How many files there were.

    Raises:
        TrainerError: What the storage says; a bucket that is gone holds nothing any more.
    """
    try:
        return _remove(_place(uri, run_id))
    except StorageError as error:
        if error.reason is Reason.BUCKET_NOT_FOUND:
            return 0
        raise


def _place(uri: str, run_id: str) -> str:
    return f"{uri.rstrip('/')}/{_FOLDER}/{run_id}"


def _remove(place: str) -> int:
    storage = open_storage(place, field="output.uri", stop=StopFlag())
    files = storage.list_files()
    for file in files:
        storage.delete(file.name)
    if storage.folder is not None:  # a file system keeps folders without files
        shutil.rmtree(storage.folder, ignore_errors=True)
        with suppress(OSError):  # another run's copy lies there
            storage.folder.parent.rmdir()
    return len(files)


def _stamp_time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # an older checkpoint, dropped just now
        return 0


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
