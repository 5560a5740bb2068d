"""Kill a run again and again, and see that the LoRA comes out as if nothing had happened.

`make chaos-trainer KILLS=20 SEED=1`. Every family is trained, one of them also by two processes and
in a workspace that is lost. One run of each case is left alone first: it gives the bytes to compare
with, and a timeline of everything that it did (stages entered, steps done, files written, objects
sent, read and deleted). The seed then chooses moments of that timeline, spread over its stages, and
a delay of up to 40 ms after each. Runs are killed there with SIGKILL, which nothing can catch, and
started again until they are done; an ephemeral one loses its workspace with each kill. All against
a real S3 server.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.trainer.families import MAKERS
from tests.trainer.jobs import AJob, a_job
from tests.trainer.s3server import S3Server, s3_server
from tests.trainer.tiny import make_pictures

from lora_api.progress import Stage
from lora_trainer import disk
from lora_trainer.progress import ProgressBoard
from lora_trainer.storage.s3 import S3Storage

_MAX_DELAY_SECONDS = 0.04
_STEPS = 12
# What one attempt may be short of hitting; more means that the moments are chosen badly.
_MAX_ATTEMPTS_PER_KILL = 4


class ChaosError(Exception):
    """The run did not survive as it must."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that a run does, once or more often."""

    stage: str
    """The stage in which it first happened."""

    name: str
    """What."""


@dataclass(frozen=True, slots=True)
class Kill:
    """Where an attempt ends."""

    moment: Moment
    """The first time that this happens,"""

    delay_seconds: float
    """and this long after it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One kind of run."""

    family: str = "sd15"
    """Whose miniature is trained."""

    ephemeral: bool = False
    """Whether the workspace is lost with each kill."""

    processes: int = 1
    """How many train together; only the first one is killed, the others are to end with it."""

    @property
    def bucket_prefix(self) -> str:
        """Where its base model lies."""
        return f"chaos-{self.family}"

    def __str__(self) -> str:
        processes = f" by {self.processes} processes" if self.processes > 1 else ""
        return f"{self.family}{processes}{', ephemeral' if self.ephemeral else ''}"


SHORT = (Case(), Case(ephemeral=True))
ALL = (
    *SHORT,
    Case(family="sdxl"),
    Case(family="flux", ephemeral=True),
    Case(family="wan"),
    Case(processes=2),
)


@dataclass(kw_only=True)
class Outcome:
    """What came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    """Kills by stage."""

    cases: Counter[str] = field(default_factory=Counter)
    """Kills by case."""

    lost: int = 0
    """Those after which the workspace was gone."""

    attempts: int = 0
    """Processes started, without those that were left alone."""

    runs: int = 0
    """LoRAs made under fire; each equals the undisturbed one."""

    seconds: float = 0.0
    """How long all of it took."""

    def __str__(self) -> str:
        stages = ", ".join(f"{stage} {count}" for stage, count in self.kills.items())
        cases = "; ".join(f"{case}: {count}" for case, count in self.cases.items())
        return (
            f"{self.kills.total()} kills ({stages}) in {self.attempts} attempts of {self.runs} "
            f"runs ({cases}), {self.lost} of them with the workspace lost: every LoRA equals the "
            f"undisturbed one byte for byte, nothing else is left in the bucket; "
            f"{self.seconds:.0f} s"
        )


def unleash(
    folder: Path,
    server: S3Server,
    *,
    dataset: Path,
    kills: int,
    seed: int,
    cases: Sequence[Case] = ALL,
) -> Outcome:
    """Do it all.

    Args:
        folder: For base models, workspaces and logs.
        server: Holds the pictures, and gets base models and results.
        dataset: The pictures.
        kills: How many.
        seed: Chooses the moments.
        cases: What is killed, in turn.

    Raises:
        ChaosError: A LoRA differs, something is left behind, or a run failed by itself.
    """
    started = time.monotonic()
    chance = random.Random(seed)  # noqa: S311
    os.environ.update(server.environment())
    for case in {case.family: case for case in cases}.values():
        made = MAKERS[case.family](folder / "bases" / case.family)
        server.upload(made, "bases", case.bucket_prefix)
    jobs = [_job(folder, case, dataset) for case in cases]
    calm = [_left_alone(job, server, f"calm-{index}") for index, job in enumerate(jobs)]
    _see_that_workspaces_are_alike(cases, calm)
    outcome = Outcome()
    kills_per_run = max(1, kills // len(cases))
    while outcome.kills.total() < kills:
        which = outcome.runs % len(cases)
        before = outcome.kills.total()
        plan = _plan(calm[which].timeline, min(kills_per_run, kills - before), chance)
        run = _Run(jobs[which], server, f"fire-{outcome.runs}")
        run.survive(plan, outcome)
        run.compare(calm[which])
        outcome.cases[str(cases[which])] += outcome.kills.total() - before
        outcome.runs += 1
        if outcome.attempts > _MAX_ATTEMPTS_PER_KILL * kills:
            raise ChaosError(f"only {outcome.kills.total()} kills in {outcome.attempts} attempts")
    outcome.seconds = time.monotonic() - started
    return outcome


def _see_that_workspaces_are_alike(cases: Sequence[Case], calm: Sequence[_Calm]) -> None:
    models: dict[tuple[str, int], bytes] = {}
    for case, one in zip(cases, calm, strict=True):
        if models.setdefault((case.family, case.processes), one.model) != one.model:
            raise ChaosError(f"{case}: the kind of workspace changes the bytes of the LoRA")


@dataclass(frozen=True, slots=True)
class _Calm:
    """A run that was left alone."""

    model: bytes
    names: set[str]
    timeline: list[Moment]


@dataclass
class _Run:
    """One job on its way to its own prefix."""

    job: AJob
    server: S3Server
    prefix: str

    def attempt(self, kill: Kill | None) -> tuple[int, list[Moment]]:
        """Start the run in a process of its own, to be killed or to end by itself."""
        placed = self.job.having("output.uri", f"s3://models/{self.prefix}")
        placed = _in(placed, self.prefix)
        placed.folder.mkdir(parents=True, exist_ok=True)
        noted = placed.folder / f"moments-{self.prefix}"
        noted.unlink(missing_ok=True)
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            _child(placed, kill, noted)
        _, status = os.waitpid(pid, 0)
        if kill is not None:
            placed.lose()
        lines = noted.read_text().splitlines() if noted.exists() else []
        return os.waitstatus_to_exitcode(status), [Moment(*line.split("\t")) for line in lines]

    def survive(self, plan: Sequence[Kill], outcome: Outcome) -> None:
        """Be killed as planned, as far as the moments come, and end well."""
        for kill in plan:
            code, _ = self.attempt(kill)
            outcome.attempts += 1
            if code == 0:
                return  # what the moment belongs to had been done by an earlier attempt
            if code != -signal.SIGKILL:
                raise ChaosError(f"{self.prefix} ended by itself with {code}, see its log")
            outcome.kills[kill.moment.stage] += 1
            outcome.lost += self.job.is_ephemeral
        code, _ = self.attempt(None)
        outcome.attempts += 1
        if code != 0:
            raise ChaosError(f"{self.prefix} ended by itself with {code}, see its log")

    def compare(self, calm: _Calm) -> None:
        """See that all is as if nothing had happened."""
        if self.model != calm.model:
            raise ChaosError(f"{self.prefix}: the LoRA differs from the undisturbed one")
        names = self.server.names("models", self.prefix)
        if names != calm.names:
            raise ChaosError(f"{self.prefix}: left or missing: {sorted(names ^ calm.names)}")

    @property
    def model(self) -> bytes:
        return self.server.content("models", f"{self.prefix}/model.safetensors")


def _left_alone(job: AJob, server: S3Server, prefix: str) -> _Calm:
    run = _Run(job, server, prefix)
    code, timeline = run.attempt(None)
    if code != 0:
        raise ChaosError(f"{prefix} failed although it was left alone ({code}), see its log")
    return _Calm(run.model, server.names("models", prefix), timeline)


def _plan(timeline: Sequence[Moment], count: int, chance: random.Random) -> list[Kill]:
    """Moments of different stages, in the order in which they come."""
    stages = list(dict.fromkeys(moment.stage for moment in timeline))
    chosen: list[Moment] = []
    while len(chosen) < count:
        for stage in chance.sample(stages, min(len(stages), count - len(chosen))):
            chosen.append(chance.choice([one for one in timeline if one.stage == stage]))
    places = {moment: place for place, moment in enumerate(timeline)}
    return [
        Kill(moment, chance.choice([0.0, chance.uniform(0.0, _MAX_DELAY_SECONDS)]))
        for moment in sorted(chosen, key=places.__getitem__)
    ]


def _child(job: AJob, kill: Kill | None, noted: Path) -> None:
    """The run itself, watched; never returns."""
    log = os.open(job.folder / f"log-{noted.name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    watch = _Watch(job.workspace, kill, noted)
    watch.install()
    os._exit(job.run()[0])


class _Watch:
    """Notes what a run does, and kills it at its moment."""

    def __init__(self, workspace: Path, kill: Kill | None, noted: Path) -> None:
        self._workspace = workspace
        self._kill = kill
        self._noted = os.open(noted, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._seen: set[str] = set()
        self._stage = "Plan"
        self._lock = threading.Lock()

    def install(self) -> None:
        """Stand beside every stage, step, file and object."""
        enter, stepped = ProgressBoard.enter, ProgressBoard.stepped
        durable: Callable[..., AbstractContextManager[Path]] = disk._durable

        def entering(board: ProgressBoard, stage: Stage) -> None:
            self._stage = stage.value
            self.saw(f"enter {stage.value}")
            enter(board, stage)

        def stepping(board: ProgressBoard, step: int, **figures: float) -> None:
            stepped(board, step, **figures)
            self.saw(f"step {step}")

        @contextmanager
        def writing(path: Path, write: Callable[[Path], None]) -> Iterator[Path]:
            name = os.path.relpath(path, self._workspace)
            self.saw(f"write {name}")
            with durable(path, write) as temporary:
                self.saw(f"name {name}")
                yield temporary
            self.saw(f"wrote {name}")

        setattr(ProgressBoard, "enter", entering)  # noqa: B010
        setattr(ProgressBoard, "stepped", stepping)  # noqa: B010
        setattr(disk, "_durable", writing)  # noqa: B010
        for verb in ("read", "upload", "write", "create", "delete", "download"):
            self._beside(verb)

    def _beside(self, verb: str) -> None:
        honest = getattr(S3Storage, verb)
        named = 1 if verb == "upload" else 0

        def watched(storage: S3Storage, *values: object, **more: object) -> object:
            name = getattr(values[named], "name", values[named])
            place = storage.uri.partition("/.workspace/")[1].strip("/")
            self.saw(f"{verb} {place} {name}")
            answer = honest(storage, *values, **more)
            self.saw(f"{verb} {place} {name}, done")
            return answer

        setattr(S3Storage, verb, watched)

    def saw(self, name: str) -> None:
        """Something happens now."""
        with self._lock:
            if name in self._seen:
                return
            self._seen.add(name)
            os.write(self._noted, f"{self._stage}\t{name}\n".encode())
        if self._kill is not None and self._kill.moment.name == name:
            if self._kill.delay_seconds:
                timer = threading.Timer(self._kill.delay_seconds, _die)
                timer.daemon = True
                timer.start()
            else:
                _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _job(folder: Path, case: Case, dataset: Path) -> AJob:
    job = (
        a_job(folder, base=folder / "bases" / case.family, dataset=dataset)
        .with_steps(_STEPS)
        .having("recipe", case.family)
        .having("baseModel.uri", f"s3://bases/{case.bucket_prefix}")
        .having("dataset.uri", "s3://datasets/zorp/")
        .having("validation.sampleEverySteps", 5)
        .having("output.tensorboard", False)
        .having("processes", case.processes)
    )
    return job.ephemeral() if case.ephemeral else job


def _in(job: AJob, name: str) -> AJob:
    """The same job in a workspace of that name."""
    return AJob(job.folder, job.body, workspace_name=name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(prog="chaos-trainer", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--seed", type=int, default=1, help="chooses the moments (default: 1)")
    parser.add_argument("--folder", type=Path, help="keep workspaces and logs here")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch)).absolute()
        (folder / "s3").mkdir(parents=True)
        dataset = make_pictures(folder / "pictures")
        with s3_server(folder / "s3") as server:
            server.upload(dataset, "datasets", "zorp")
            try:
                outcome = unleash(
                    folder / "runs",
                    server,
                    dataset=dataset,
                    kills=options.kills,
                    seed=options.seed,
                )
            except ChaosError as error:
                print(f"chaos-trainer: seed {options.seed}: {error} ({folder})", file=sys.stderr)
                return 1
    print(f"chaos-trainer: seed {options.seed}: {outcome}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
