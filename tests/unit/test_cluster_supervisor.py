"""The supervisor on real child processes: what dies comes back, what is stopped stays down."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from lora_cluster import configs, supervisor
from lora_cluster.commands import Component
from lora_cluster.pki import issue_all
from lora_cluster.supervisor import Supervisor


def a_sleeper(name: str, *, needs: tuple[str, ...] = (), manual: bool = False) -> Component:
    return Component(name=name, argv=("sleep", "300"), needs=needs, manual=manual)


@pytest.fixture
async def supervise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., Supervisor]]:
    monkeypatch.setattr(supervisor, "FIRST_RESTART_SECONDS", 0.05)
    issue_all(tmp_path / "pki", configs.CONTROL_PLANE_IDENTITIES)
    made: list[Supervisor] = []
    loop = asyncio.get_running_loop()

    def start(*components: Component) -> Supervisor:
        one = Supervisor(list(components), log=tmp_path, pki=tmp_path / "pki")
        loop.add_signal_handler(signal.SIGCHLD, one.reap)
        made.append(one)
        one.start_all()
        return one

    yield start
    for one in made:
        for report in (await one.handle({"op": "status"}))["components"]:
            await one.handle({"op": "stop", "component": report["name"]})
    loop.remove_signal_handler(signal.SIGCHLD)


async def reaches(check: Callable[[dict[str, Any]], bool], one: Supervisor) -> dict[str, Any]:
    """The first component's report once it is as wanted; the test's time-out is generous."""
    async with asyncio.timeout(20):
        while True:
            report: dict[str, Any] = (await one.handle({"op": "status"}))["components"][0]
            if check(report):
                return report
            await asyncio.sleep(0.02)


def has_ended(pid: int) -> bool:
    """Whether a child is a zombie: ended, but not collected by anybody."""
    return " Z " in Path(f"/proc/{pid}/stat").read_text()


async def test_what_is_killed_comes_back_as_another_process(
    supervise: Callable[..., Supervisor],
) -> None:
    one = supervise(a_sleeper("etcd"))
    first = await reaches(lambda report: report["running"], one)
    await one.handle({"op": "kill", "component": "etcd", "signal": signal.SIGKILL})
    second = await reaches(lambda r: r["running"] and r["pid"] != first["pid"], one)
    assert second["restarts"] == 1
    assert second["last_exit"] == -signal.SIGKILL


async def test_what_is_stopped_stays_down_until_it_is_started(
    supervise: Callable[..., Supervisor],
) -> None:
    one = supervise(a_sleeper("etcd"))
    await reaches(lambda report: report["running"], one)
    await one.handle({"op": "stop", "component": "etcd"})
    await asyncio.sleep(0.3)  # several times the restart delay
    assert not (await reaches(lambda report: True, one))["running"]
    await one.handle({"op": "start", "component": "etcd"})
    assert (await reaches(lambda report: report["running"], one))["restarts"] == 1


async def test_what_can_not_be_started_says_so_in_its_log_and_is_tried_again(
    supervise: Callable[..., Supervisor], tmp_path: Path
) -> None:
    program = tmp_path / "program"
    one = supervise(Component(name="etcd", argv=(str(program),)))
    await reaches(lambda report: report["last_exit"] == supervisor.COULD_NOT_START, one)
    assert f"could not be started: [Errno 2] No such file or directory: '{program}'" in (
        (tmp_path / "etcd.log").read_text()
    )
    program.write_text("#!/bin/sh\nexec sleep 300\n")
    program.chmod(0o755)
    await reaches(lambda report: report["running"], one)


async def test_a_manual_component_waits_for_the_command(
    supervise: Callable[..., Supervisor],
) -> None:
    one = supervise(a_sleeper("kubelet", manual=True))
    await asyncio.sleep(0.2)
    assert not (await reaches(lambda report: True, one))["wanted"]
    await one.handle({"op": "start", "component": "kubelet"})
    await reaches(lambda report: report["running"], one)


async def test_a_component_starts_only_after_what_it_needs_runs(
    supervise: Callable[..., Supervisor],
) -> None:
    one = supervise(a_sleeper("kubelet", needs=("etcd",)), a_sleeper("etcd", manual=True))
    await asyncio.sleep(0.2)
    assert not (await reaches(lambda report: True, one))["running"]
    await one.handle({"op": "start", "component": "etcd"})
    await reaches(lambda report: report["running"], one)


async def test_a_program_that_keeps_failing_is_tried_again_and_counted(
    supervise: Callable[..., Supervisor],
) -> None:
    failing = Component(name="etcd", argv=(sys.executable, "-c", "raise SystemExit(3)"))
    one = supervise(failing)
    report = await reaches(lambda report: report["restarts"] >= 2, one)
    assert report["last_exit"] == 3


async def test_what_ended_just_before_it_is_stopped_is_stopped(
    supervise: Callable[..., Supervisor],
) -> None:
    one = supervise(Component(name="etcd", argv=("true",)))
    asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)  # nobody has noticed yet
    report = await reaches(lambda report: report["running"], one)
    while not has_ended(report["pid"]):  # noqa: ASYNC110 - the kernel tells nobody
        await asyncio.sleep(0.01)
    stopping = asyncio.create_task(one.handle({"op": "stop", "component": "etcd"}))
    await asyncio.sleep(0.05)
    one.reap()
    async with asyncio.timeout(20):
        assert not (await stopping)["running"]


async def test_an_unknown_component_is_refused_with_the_known_names(
    supervise: Callable[..., Supervisor],
) -> None:
    answer = await supervise(a_sleeper("etcd")).handle({"op": "kill", "component": "etc"})
    assert "etcd" in answer["error"]
