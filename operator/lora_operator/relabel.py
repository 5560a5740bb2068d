"""Putting our labels back on a Job from which somebody took them.

A module of its own because the watch selects by labels: a Job without them looks deleted, and of
its end nobody would be told. Claims and pods need no such care: claims are read by their names
before anything is done about them, and to change either is a right that we do without.
"""

import asyncio

from lora_operator.builders.ownership import is_owned_by
from lora_operator.cache import Cache, run_of
from lora_operator.errors import NotFoundError, OperatorError
from lora_operator.kube.client import KubeClient
from lora_operator.kube.resources import JOBS, TRAININGS
from lora_operator.labels import labels_of
from lora_operator.logs import log
from lora_operator.state.keys import Key, Object, key_of


class LabelKeeper:
    """Looks after Jobs that are said to be gone while their runs are not."""

    def __init__(self, *, client: KubeClient, cache: Cache) -> None:
        """Use a guarded client: only a leader may write."""
        self._client = client
        self._cache = cache
        self._missed: asyncio.Queue[tuple[Key, Object]] = asyncio.Queue()
        self._restored: set[str] = set()

    def miss(self, job: Object) -> None:
        """Hear of a Job that went out of sight, as it last looked."""
        run = run_of(JOBS, job)
        training = self._cache.get(TRAININGS, run) if run is not None else None
        if run is None or training is None or "deletionTimestamp" in job["metadata"]:
            return
        # When a run is deleted its Job follows; there is no reason to ask for thousands of them.
        is_ours = is_owned_by(job, training["metadata"]["uid"])
        if is_ours and "deletionTimestamp" not in training["metadata"]:
            self._missed.put_nowait((run, job))

    async def run(self) -> None:
        """Put labels back forever."""
        while True:
            run, job = await self._missed.get()
            try:
                await self._restore(run, job)
            except NotFoundError:
                continue
            except OperatorError as error:
                log("labels not put back", run=run, reason=error.reason, message=error.message)

    async def _restore(self, run: Key, job: Object) -> None:
        key, uid = key_of(job), job["metadata"]["uid"]
        live = await self._client.get(JOBS, key.namespace, key.name)
        training = self._cache.get(TRAININGS, run)
        # Once: who takes them off again means it, and the sweep finds the Job's end all the same.
        if training is None or live["metadata"]["uid"] != uid or uid in self._restored:
            return
        wanted = labels_of(run.name, training["metadata"]["uid"])
        if wanted.items() <= live["metadata"].get("labels", {}).items():
            return
        self._restored.add(uid)
        patch = {"metadata": {"uid": uid, "labels": wanted}}
        await self._client.patch(JOBS, key.namespace, key.name, patch)
        log("labels put back", run=run, job=key.name)
