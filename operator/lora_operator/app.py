"""The operator process: its parts, the order in which they start, and how it ends.

A module of its own because the order is a rule: nothing acts before the cache is filled and the
Lease is held, and the Lease is given back before the watches end.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Coroutine
from dataclasses import replace
from datetime import datetime
from enum import IntEnum
from functools import partial
from typing import Any

import aiohttp

from lora_operator.actions import Actor
from lora_operator.admission_webhook import ANSWER_WITHIN_SECONDS, AdmissionWebhook
from lora_operator.api_watch import ApiWatch
from lora_operator.cache import Cache
from lora_operator.errors import ApiError, LeadershipLostError, NotLeaderError, OperatorError
from lora_operator.feed import Feed
from lora_operator.gatekeeper import Gatekeeper
from lora_operator.gpu_nodes import GpuNodes
from lora_operator.kube.client import KubeClient, no_guard
from lora_operator.kube.credentials import Connection, connect
from lora_operator.kube.resources import JOBS, OWN_KINDS, TRAININGS, watched_paths
from lora_operator.leader import Elector, LeaseTimes
from lora_operator.logs import log
from lora_operator.metrics import Metrics
from lora_operator.orphans import OrphanSweeper
from lora_operator.policy_metrics import PolicyCollector
from lora_operator.puller import ProgressPuller
from lora_operator.reconcile import Reconciler
from lora_operator.relabel import LabelKeeper
from lora_operator.run_metrics import RunCollector
from lora_operator.server_time import ServerTime
from lora_operator.settings import Settings
from lora_operator.state.keys import Key, key_of
from lora_operator.status import StatusWriter
from lora_operator.sweep import Sweeper
from lora_operator.web import WebServer, measure_lag
from lora_operator.workers import Workers
from lora_operator.workqueue import Schedule, WorkQueue

CRD_POLL_SECONDS = 2.0
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class End(IntEnum):
    """Why a process ended; its exit status, unless it begins anew."""

    STOPPED = 0
    """It was told to: SIGTERM or SIGINT."""
    BROKEN = 1
    """A part of it ended; the kubelet waits the longer for the next start the more often."""
    LEASE_LOST = 3
    """Another replica may lead: what this one remembers is stale, but nothing is broken."""


async def run(settings: Settings) -> End:
    """Run until told to stop, or until the process can't go on as it is."""
    try:
        agent = f"lora-operator/{settings.identity}"
        connection = replace(connect(), user_agent=agent)
    except OperatorError as error:
        log("can't start", level=logging.ERROR, reason=error.reason, message=error.message)
        return End.BROKEN
    stop = asyncio.Event()
    catch_signals(stop)
    app = App(settings, connection)
    try:
        return await app.run(stop)
    finally:
        await app.close()


def catch_signals(stop: asyncio.Event) -> None:
    """Let SIGTERM and SIGINT set `stop`."""
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.set)
    # Held back while the process began anew.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


class App:
    """All parts of one process."""

    def __init__(self, settings: Settings, connection: Connection) -> None:
        """Wire the parts; nothing runs yet."""
        self._settings = settings
        self._metrics = metrics = Metrics()
        self._cache = cache = Cache()
        self._queue: WorkQueue[Key] = WorkQueue(schedule=Schedule(), clock=time.monotonic)
        metrics.queue_depth.set_function(lambda: len(self._queue))

        self._session = connection.session(ApiWatch(metrics=metrics))
        self._pod_session = aiohttp.ClientSession(
            # The puller has its own bounds, and who waits here for a connection seems to be silent.
            connector=aiohttp.TCPConnector(limit=0),
            headers={"User-Agent": "lora-operator"},
        )
        server_time = ServerTime()
        times = LeaseTimes()
        self._elector = Elector(
            client=KubeClient(
                session=self._session,
                server=connection.server,
                timeout_seconds=times.answer_within,
                on_date=server_time.hear,
            ),
            times=times,
            namespace=settings.lease_namespace or connection.namespace,
            name=settings.lease_name,
            identity=settings.identity,
        )
        for collector in (RunCollector, PolicyCollector):
            metrics.registry.register(collector(cache, leads=lambda: self._is_leading))
        self._client = client = KubeClient(
            session=self._session,
            server=connection.server,
            guard=self._elector.guard if settings.leader_elect else no_guard,
            on_date=server_time.hear,
        )
        self._sweeper = Sweeper(
            client=client,
            cache=cache,
            metrics=metrics,
            namespaces=settings.namespaces,
            on_change=self._queue.add,
        )
        self._gatekeeper = Gatekeeper(
            client=client,
            cache=cache,
            on_change=self._queue.add,
            on_start=partial(self._queue.add, urgent=True),
            now=server_time.now,
            gpu=settings.gpu,
        )
        self._label_keeper = LabelKeeper(client=client, cache=cache)
        api_watch = ApiWatch(metrics=metrics, on_list=self._sweeper.ask)
        self._feed = Feed(
            cache=cache,
            connection=connection,
            middleware=api_watch,
            namespaces=settings.namespaces,
            on_change=self._hear,
            on_policy=self._gatekeeper.policy_changed,
            on_job_gone=self._label_keeper.miss,
            webhook=self._webhook(connection.server),
        )
        self._puller = ProgressPuller(
            cache=cache,
            pods=self._pod_session,
            api=self._session,
            server=connection.server,
            in_cluster=connection.in_cluster,
            route=settings.progress_via,
            metrics=metrics,
            on_change=self._queue.add,
            now=server_time.now,
        )
        reconciler = Reconciler(
            client=client,
            cache=cache,
            actor=Actor(
                client=client, cache=cache, default_image=settings.trainer_image, gpu=settings.gpu
            ),
            writer=StatusWriter(client=client, identity=settings.identity),
            metrics=metrics,
            progress_of=self._puller.progress_of,
            moved_at=self._puller.moved_at,
            gatekeeper=self._gatekeeper,
            gpu_nodes=GpuNodes(client, gpu=settings.gpu),
            now=server_time.now,
            leads_since=lambda: self._leads_since,
            is_pressed=lambda: self._queue.is_pressed,
        )
        self._now = server_time.now
        self._workers = Workers(
            queue=self._queue,
            reconcile=reconciler.reconcile,
            count=settings.workers,
            metrics=metrics,
        )
        self._orphans = OrphanSweeper(
            client=client, metrics=metrics, namespaces=settings.namespaces
        )
        self._is_synced = False
        self._is_leading = False
        self._leads_since: datetime | None = None
        self._web = WebServer(
            host=settings.host,
            port=settings.port,
            registry=metrics.registry,
            is_ready=lambda: self._is_synced,
            watched=watched_paths(settings.namespaces),
            watch_opened_at=api_watch.watch_opened_at,
        )
        self._tasks: list[asyncio.Task[Any]] = []
        self._any_ended = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> End:
        """Start everything in order and stay until `stop` is set or a part ends."""
        await self._web.start()
        log("started", identity=self._settings.identity, port=self._settings.port)
        self._start(stop.wait(), "stop")
        main = self._start(self._lead(), "main")
        watching: asyncio.Task[None] | None = None
        try:
            if await self._until_crd(stop):
                watching = await self._feed.start()
                # kopf has just taken the signals for itself; the order of the end is ours.
                catch_signals(stop)
                self._supervise(watching)
            await self._any_ended.wait()
            end = End.STOPPED if stop.is_set() else self._explain_end()
        finally:
            await self._end(watching, main)
        # Told to while it was ending: nobody wants a standby any more.
        return End.STOPPED if end is End.LEASE_LOST and stop.is_set() else end

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()
        await self._pod_session.close()

    def _webhook(self, server: str) -> AdmissionWebhook | None:
        certificate = self._settings.webhook_certificate
        if certificate is None:
            return None
        client = KubeClient(
            session=self._session, server=server, timeout_seconds=ANSWER_WITHIN_SECONDS
        )
        return AdmissionWebhook(
            client=client,
            cache=self._cache,
            host=self._settings.host,
            port=self._settings.webhook_port,
            certificate=certificate,
        )

    def _hear(self, key: Key) -> None:
        """Take news of a run; one for which nothing was done yet goes first: its GPU idles."""
        run = self._cache.get(TRAININGS, key)
        is_new = run is not None and not run.get("status")
        self._queue.add(key, urgent=is_new and not self._cache.children(key, JOBS))

    async def _lead(self) -> None:
        """From the filled cache to leading; ends only by an error."""
        await self._feed.started.wait()
        await self._sweeper.wait_for_sync()
        self._is_synced = True
        log("cache filled", runs=self._cache.count(TRAININGS))
        self._start(self._sweeper.run(), "sweeper")
        self._start(measure_lag(self._metrics.event_loop_lag_seconds.set), "lag")
        if self._settings.leader_elect:
            await self._elector.acquire()
        self._is_leading = True
        self._leads_since = self._now()
        self._metrics.leader.set(1)
        log("leading", identity=self._settings.identity)
        # Whatever was true when the last leader stopped is looked at once.
        for body in self._cache.all(TRAININGS):
            self._queue.add(key_of(body))
        for worker in self._workers.start():
            self._supervise(worker)
        self._start(self._puller.run(), "puller")
        self._start(self._orphans.run(), "orphans")
        self._start(self._gatekeeper.run(), "gatekeeper")
        self._start(self._label_keeper.run(), "labels")
        if self._settings.leader_elect:
            await self._elector.hold()
        await asyncio.Event().wait()

    async def _until_crd(self, stop: asyncio.Event) -> bool:
        """Wait until our kinds are served; False where told to stop before."""
        told = False
        while not stop.is_set():
            try:
                missing = [kind for kind in OWN_KINDS if not await self._client.serves(kind)]
                if not missing:
                    return True
                problem = " and ".join(f"the CRD {kind.plural}.{kind.group}" for kind in missing)
                problem += " is not installed: kubectl apply -f crds/"
            except ApiError as error:
                problem = error.message
            if not told:
                log("waiting for the API server", level=logging.WARNING, message=problem)
                told = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CRD_POLL_SECONDS):
                    await stop.wait()
        return False

    def _start(self, work: Coroutine[Any, Any, object], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self._supervise(task)
        return task

    def _supervise(self, task: asyncio.Task[Any]) -> None:
        """Let the process end with this part, whenever it was started: half an operator lies."""
        self._tasks.append(task)
        task.add_done_callback(lambda _: self._any_ended.set())

    def _explain_end(self) -> End:
        ended = {_explain(task) for task in self._tasks if task.done() and not task.cancelled()}
        return End.LEASE_LOST if ended == {End.LEASE_LOST} else End.BROKEN

    async def _end(self, watching: asyncio.Task[None] | None, main: asyncio.Task[Any]) -> None:
        await self._workers.stop()
        # It renews the Lease; a renewal beside the release would refuse that, or take it back.
        main.cancel()
        await asyncio.wait([main])
        if self._settings.leader_elect:
            await self._elector.release()
        for task in self._tasks:
            if task is not watching:
                task.cancel()
        await asyncio.gather(
            *(task for task in self._tasks if task is not watching), return_exceptions=True
        )
        await self._web.stop()
        if watching is not None:
            self._feed.stop()
            with contextlib.suppress(Exception):
                await watching
        log("stopped", identity=self._settings.identity)


def _explain(part: asyncio.Task[Any]) -> End:
    """Tell why a part ended, and what that means for the process."""
    error = part.exception()
    if error is None:
        reason, message = "EndedEarly", "This part ended, though nobody told it to."
    else:
        reason = error.reason if isinstance(error, OperatorError) else type(error).__name__
        message = str(error)
    is_lost = isinstance(error, LeadershipLostError | NotLeaderError)
    log(
        "beginning anew" if is_lost else "ending",
        level=logging.WARNING if is_lost else logging.ERROR,
        part=part.get_name(),
        reason=reason,
        message=message,
    )
    return End.LEASE_LOST if is_lost else End.BROKEN
