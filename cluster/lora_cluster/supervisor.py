"""Process 1 of a cluster's own process namespace: starts components and restarts those that die.

It answers commands on a socket. When it goes, the kernel ends all it started, containers included.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_cluster.commands import Component
from lora_cluster.probes import admin_context, answers

FIRST_RESTART_SECONDS = 1.0
LAST_RESTART_SECONDS = 10.0
HEALTHY_AFTER_SECONDS = 20.0
COULD_NOT_START = 127  # as a shell says it
PROBE_EVERY_SECONDS = 0.05


@dataclass
class Running:
    """What the supervisor knows of one component."""

    component: Component
    process: subprocess.Popen[bytes] | None = None
    wanted: bool = True
    started_at: float = 0.0
    starts: int = 0
    last_exit: int | None = None
    backoff_seconds: float = FIRST_RESTART_SECONDS
    pending: asyncio.Task[None] | None = None

    def report(self) -> dict[str, Any]:
        """For `status`: the pid is that of the cluster's process namespace."""
        return {
            "name": self.component.name,
            "wanted": self.wanted,
            "running": self.process is not None,
            "pid": self.process.pid if self.process else None,
            "restarts": max(0, self.starts - 1),
            "last_exit": self.last_exit,
        }


class Supervisor:
    """Keeps components running; every method belongs to the event loop."""

    def __init__(self, components: list[Component], *, log: Path, pki: Path) -> None:
        self._all = {component.name: Running(component) for component in components}
        self._log = log
        self._tls = admin_context(pki)

    def start_all(self) -> None:
        """Start everything that waits for no command; those with needs wait for them."""
        for running in self._all.values():
            running.wanted = not running.component.manual
            if running.wanted:
                self._schedule(running, delay_seconds=0.0)

    def reap(self) -> None:
        """Collect every child that ended: components, and orphans such as containerd's shims."""
        by_pid = {r.process.pid: r for r in self._all.values() if r.process}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in by_pid:
                self._ended(by_pid[pid], os.waitstatus_to_exitcode(status))

    def _ended(self, running: Running, exit_code: int) -> None:
        if running.process:
            running.process.returncode = exit_code  # already collected: Popen must not wait again
        running.process, running.last_exit = None, exit_code
        if not running.wanted:
            return
        if time.monotonic() - running.started_at > HEALTHY_AFTER_SECONDS:
            running.backoff_seconds = FIRST_RESTART_SECONDS
        self._schedule(running, delay_seconds=running.backoff_seconds)
        running.backoff_seconds = min(2 * running.backoff_seconds, LAST_RESTART_SECONDS)

    def _schedule(self, running: Running, *, delay_seconds: float) -> None:
        if running.pending:
            running.pending.cancel()
        running.pending = asyncio.create_task(self._start(running, delay_seconds))

    async def _start(self, running: Running, delay_seconds: float) -> None:
        await asyncio.sleep(delay_seconds)
        for need in running.component.needs:
            while not await self.is_ready(need):  # noqa: ASYNC110 - the answer is in another process
                await asyncio.sleep(PROBE_EVERY_SECONDS)
        component = running.component
        with (self._log / f"{component.name}.log").open("ab") as output:
            output.write(f"--- start {running.starts + 1} of {component.name}\n".encode())
            output.flush()
            running.started_at, running.starts = time.monotonic(), running.starts + 1
            running.pending = None
            try:
                running.process = subprocess.Popen(  # noqa: ASYNC220 - returns at once; reap() collects
                    component.argv,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **component.env},
                    pass_fds=component.pass_fds,
                    start_new_session=True,
                )
            except OSError as error:  # such as a program that was removed: told, and tried again
                output.write(f"--- could not be started: {error}\n".encode())
                self._ended(running, COULD_NOT_START)

    async def is_ready(self, name: str) -> bool:
        """Whether a component runs and answers its probe."""
        running = self._all[name]
        if running.process is None:
            return False
        return await asyncio.to_thread(answers, running.component.probe, context=self._tls)

    async def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """One command: status, ready, start, stop, kill, restart."""
        operation = request.get("op")
        if operation == "status":
            return {"components": [running.report() for running in self._all.values()]}
        running = self._all.get(str(request.get("component")))
        if running is None:
            return {"error": f"no such component; there are: {', '.join(self._all)}"}
        if operation == "ready":
            return {"ready": await self.is_ready(running.component.name)}
        if operation in ("stop", "kill", "restart"):
            running.wanted = operation != "stop"
            await self._signal(running, int(request.get("signal", signal.SIGTERM)), operation)
        if operation in ("start", "restart"):
            running.wanted = True
            running.backoff_seconds = FIRST_RESTART_SECONDS
            if running.process is None:
                self._schedule(running, delay_seconds=0.0)
        return running.report()

    async def _signal(self, running: Running, number: int, operation: str) -> None:
        if running.pending and operation != "kill":
            running.pending.cancel()
            running.pending = None
        process = running.process
        if process is None:
            return
        # Not by Popen's own methods: they collect a child that has just ended, and then reap()
        # would never hear of it. Until it does, the pid is this child's and nobody else's.
        os.kill(process.pid, number)
        deadline = time.monotonic() + 10.0
        while operation != "kill" and running.process is process:
            if time.monotonic() > deadline:
                os.kill(process.pid, signal.SIGKILL)
            await asyncio.sleep(0.02)


async def _converse(
    supervisor: Supervisor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    with contextlib.suppress(OSError):
        line = await reader.readline()
        try:
            answer = await supervisor.handle(json.loads(line))
        except (ValueError, TypeError) as error:
            answer = {"error": f"bad request: {error}"}
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
        writer.close()


async def run(components: list[Component], *, socket_path: Path, log: Path, pki: Path) -> None:
    """Supervise until SIGTERM."""
    supervisor = Supervisor(components, log=log, pki=pki)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGCHLD, supervisor.reap)
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    supervisor.start_all()
    server = await asyncio.start_unix_server(
        lambda reader, writer: _converse(supervisor, reader, writer), path=str(socket_path)
    )
    async with server:
        await stopped.wait()


def main() -> None:
    """Read the plan that `up` wrote (argument 1), prepare the namespaces, supervise."""
    from lora_cluster.namespaces import prepare_inside  # noqa: PLC0415 - only the supervisor's half

    plan = json.loads(Path(sys.argv[1]).read_text())
    prepare_inside(Path(plan["state"]))
    components = [
        Component(
            **{
                **entry,
                "argv": tuple(entry["argv"]),
                "needs": tuple(entry["needs"]),
                "pass_fds": tuple(entry["pass_fds"]),
            }
        )
        for entry in plan["components"]
    ]
    state = Path(plan["state"])
    (state / "control.sock").unlink(missing_ok=True)
    asyncio.run(
        run(
            components,
            socket_path=state / "control.sock",
            log=state / "log",
            pki=state / "pki",
        )
    )


if __name__ == "__main__":
    main()
