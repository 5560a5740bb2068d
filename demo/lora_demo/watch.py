"""Shows one run's status, live, until it ends.

A module of its own because this is all that a platform has to do to follow a training: watch one
resource. Nothing here asks the trainer, the Job or the pod.
"""

import time
from collections.abc import Iterator
from typing import Any

from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from urllib3.exceptions import HTTPError

from lora_api import GROUP, VERSION
from lora_api.status import LoRATrainingStatus, Phase
from lora_api.training import PLURAL
from lora_demo.environment import DemoError, Environment

# A line every so many percent where no terminal shows the bar.
PERCENT_PER_LINE = 10
GONE = 410


def follow(
    environment: Environment,
    console: Console,
    *,
    namespace: str,
    name: str,
    timeout_seconds: int = 1500,
) -> LoRATrainingStatus:
    """Watches the run and draws its progress.

    Args:
        environment: Where the cluster is.
        console: Where to draw.
        namespace: Namespace of the run.
        name: Name of the run.
        timeout_seconds: When to stop waiting.

    Returns:
        The status of the ended run.

    Raises:
        DemoError: The run was deleted, or did not end in time.
    """
    api = client.CustomObjectsApi(
        config.new_client_from_config(environment.variables["KUBECONFIG"])
    )
    deadline = time.monotonic() + timeout_seconds
    display = _Display(console)
    with display.bar:
        while (left := deadline - time.monotonic()) > 0:
            # The API server ends every watch after a while; the next one starts with what is.
            for event in _changes(api, namespace, name, seconds=max(1, int(min(left, 240)))):
                if event["type"] == "DELETED":
                    raise DemoError(f"{namespace}/{name} was deleted while it was watched")
                status = _status_of(event["object"])
                display.show(status)
                if status.phase is not None and status.phase.is_terminal:
                    return status
    raise DemoError(
        f"{namespace}/{name} did not end in {timeout_seconds} s: {display.last_message}"
    )


def _changes(
    api: client.CustomObjectsApi, namespace: str, name: str, *, seconds: int
) -> Iterator[dict[str, Any]]:
    """What happens to the run; ends early where the connection or the API server falters."""
    try:
        yield from watch.Watch().stream(
            api.list_namespaced_custom_object,
            GROUP,
            VERSION,
            namespace,
            PLURAL,
            field_selector=f"metadata.name={name}",
            timeout_seconds=seconds,
        )
    except (ApiException, HTTPError) as error:
        # A busy API server's watch cache lags behind its own answers (504), or has forgotten
        # where we were (410); either way, a new watch a moment later starts from what is.
        status = getattr(error, "status", None)
        if status is not None and status < GONE:
            raise DemoError(f"can't watch {namespace}/{name}: {error}") from error
        time.sleep(1)


def _status_of(training: dict[str, Any]) -> LoRATrainingStatus:
    return LoRATrainingStatus.model_validate(training.get("status") or {})


class _Display:
    """A bar on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: tuple[object, ...] = ()
        self.last_message = "the operator has not said anything yet"
        self.bar = Progress(
            TextColumn("{task.fields[phase]:<10}"),
            BarColumn(bar_width=40),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[detail]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self.bar.add_task("run", total=100, phase="Pending", detail="")

    def show(self, status: LoRATrainingStatus) -> None:
        phase = status.phase or Phase.PENDING
        self.last_message = status.message or self.last_message
        percent = status.progress.percent if status.progress else 0
        self.bar.update(
            self._task, completed=percent, phase=phase.value, detail=_detail(status, phase)
        )
        tens = None if self._console.is_terminal else percent // PERCENT_PER_LINE
        said = (phase, status.message if phase is not Phase.TRAINING else None, tens)
        if said != self._said:
            self._said = said
            self._console.print(_line(status, phase, percent), highlight=False, markup=False)


def _detail(status: LoRATrainingStatus, phase: Phase) -> str:
    progress = status.progress
    if progress is None or phase in {Phase.PENDING, Phase.STARTING}:
        return (status.message or "")[:80]
    parts = [f"step {progress.step}/{progress.total_steps}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.steps_per_second:
        parts.append(f"{progress.steps_per_second:.2f} steps/s")
    if progress.eta and phase is Phase.TRAINING:
        parts.append(f"ETA {progress.eta}")
    return "  ".join(parts)


def _line(status: LoRATrainingStatus, phase: Phase, percent: int) -> str:
    if phase is Phase.TRAINING:
        return f"  {phase.value:<10} {percent:>3} %  {_detail(status, phase)}"
    return f"  {phase.value:<10} {status.message or ''}"
