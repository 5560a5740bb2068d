"""The command line: arguments and environment in, exit code and termination message out.

A module of its own because here every failure ends: as an exit code, one sentence, and a result
document; never as a traceback alone.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_api.exit_codes import ExitCode
from lora_api.job import (
    JOB_ENVIRONMENT_VARIABLE,
    PUBLISH_PARTIAL,
    REMOVE_COPY,
    RUN,
    TERMINATION_LOG_ENVIRONMENT_VARIABLE,
    WORKSPACE_ENVIRONMENT_VARIABLE,
    JobDocument,
)
from lora_api.reasons import Reason
from lora_api.result import Outcome, Result
from lora_trainer import __version__, log

if TYPE_CHECKING:
    from lora_trainer.errors import TrainerError
    from lora_trainer.progress import ProgressBoard

_CONTAINER_WORKSPACE = Path("/workspace")
_CONTAINER_TERMINATION_LOG = Path("/dev/termination-log")
_AFTERWARDS = {
    PUBLISH_PARTIAL: "store the LoRA of the last checkpoint under partial/ of the output",
    REMOVE_COPY: "delete the copy that an ephemeral workspace keeps beside the output",
}
_EPILOG = f"""\
environment:
  {JOB_ENVIRONMENT_VARIABLE:<22} the job document itself, where no file is named
  {WORKSPACE_ENVIRONMENT_VARIABLE:<22} workspace folder, where --workspace is not given
  {TERMINATION_LOG_ENVIRONMENT_VARIABLE:<22} file that receives the result as JSON of at most 4 KiB
  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL
                         access to s3:// URIs

exit codes:
  0    trained, checked and stored             70   diverged, the same settings would again
  1    a fault nobody foresaw, worth a retry   75   storage failed for now, try again
  2    the command line was wrong              76   trained, not stored: try again to upload
  65   bad input, never try again              77   stalled: stacks are logged, try again
                                               143  SIGTERM: checkpoint saved, try again

A run that is started again with the same job and workspace goes on where it was.
SIGUSR1 writes where every thread is to standard error, and the run goes on.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; None takes them from the process.

    Returns:
        Exit code.
    """
    options = _parser().parse_args(arguments)
    log.configure()
    if options.command == "convert":
        return _convert(options.source, options.target)
    try:
        job = _load_job(options.job)
    except Exception as error:
        return _fail(error, workspace="")
    if options.check:
        print(f"{job.name}: the job document is valid (recipe {job.recipe})")
        return int(ExitCode.OK)
    return _run(options, job, _workspace(options.workspace, job))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lora-trainer",
        description="Train a LoRA of a diffusion model from one job document: fetch, check, "
        "train, verify, draw, publish.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lora-trainer {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    run = commands.add_parser(
        RUN,
        help="do a job, or what is left of it",
        description="Do a job, or what is left of it. URIs are s3://bucket/prefix or "
        "file:///absolute/folder.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_job(run)
    run.add_argument(
        "--fresh",
        action="store_true",
        help="forget finished stages and checkpoints in the workspace; caches are kept",
    )
    run.add_argument(
        "--check", action="store_true", help="check the job document, touch nothing else"
    )
    convert = commands.add_parser(
        "convert",
        help="write a LoRA of FLUX for sd-scripts",
        description="Write a LoRA of FLUX under the names that sd-scripts reads. ComfyUI and "
        "diffusers read the published file as it is, and sd-scripts those of sd15 and sdxl.",
    )
    convert.add_argument("source", type=Path, metavar="model.safetensors", help="as published")
    convert.add_argument("target", type=Path, metavar="converted.safetensors", help="the new file")
    for command, does in _AFTERWARDS.items():
        _add_job(commands.add_parser(command, help=does, description=f"{does.capitalize()}."))
    parser.set_defaults(fresh=False, check=False)
    return parser


def _add_job(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "job", nargs="?", type=Path, metavar="job.json", help="the job document as a file"
    )
    command.add_argument(
        "--workspace",
        type=Path,
        metavar="DIR",
        help="folder for caches, checkpoints and the result (default: $LORA_WORKSPACE, "
        "/workspace where it exists, else ./lora-workspace/<name>)",
    )


def _convert(source: Path, target: Path) -> int:
    from lora_trainer.convert import convert_file

    try:
        layers = convert_file(source, target)
    except Exception as error:
        print(f"{source}: {_one_line(error)}", file=sys.stderr)
        return int(ExitCode.BAD_INPUT)
    print(f"{target}: {layers} layers under sd-scripts' names")
    return int(ExitCode.OK)


def _load_job(path: Path | None) -> JobDocument:
    from lora_trainer.plan import parse_job, read_document

    return parse_job(read_document(path, os.environ.get(JOB_ENVIRONMENT_VARIABLE)))


def _workspace(option: Path | None, job: JobDocument) -> Path:
    if option is not None:
        return option.absolute()
    named = os.environ.get(WORKSPACE_ENVIRONMENT_VARIABLE)
    if named:
        return Path(named).absolute()
    if _CONTAINER_WORKSPACE.is_dir():
        return _CONTAINER_WORKSPACE
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in job.name)
    return Path.cwd() / "lora-workspace" / name


def _run(options: argparse.Namespace, job: JobDocument, workspace: Path) -> int:
    from lora_trainer.display import display
    from lora_trainer.environment import leave_out_unneeded
    from lora_trainer.progress import ProgressBoard
    from lora_trainer.run import run_job
    from lora_trainer.salvage import publish_partial, remove_workspace_copy
    from lora_trainer.server import start_server
    from lora_trainer.stopping import StopFlag
    from lora_trainer.watchdog import Watchdog, dump_stacks_on_signal

    leave_out_unneeded(job.optimization)
    started = _process_started()
    stop, board = StopFlag(), ProgressBoard()
    restore = stop.install()

    def fatal(error: "TrainerError") -> None:
        """End at once, from any thread: the main one hangs."""
        code = _fail(error, workspace=str(workspace), board=board)
        sys.stderr.flush()
        os._exit(code)

    dump_stacks_on_signal()
    watchdog = Watchdog(board, timeout_seconds=job.limits.stall_timeout_seconds, on_stall=fatal)
    watchdog.start()
    server = start_server(board, job.server)
    try:
        with display(board):
            log.info("run", name=job.name, workspace=workspace)
            try:
                if options.command == PUBLISH_PARTIAL:
                    result = publish_partial(job, workspace, board=board, stop=stop)
                elif options.command == REMOVE_COPY:
                    result = remove_workspace_copy(job)
                else:
                    result = run_job(
                        job,
                        workspace,
                        board=board,
                        stop=stop,
                        started=started,
                        fresh=options.fresh,
                        fatal=fatal,
                    )
            except BaseException as error:
                return _fail(error, workspace=str(workspace), board=board)
            _tell(result)
            log.info("done", message=result.message, seconds=round(time.time() - started, 1))
            return int(ExitCode.OK)
    finally:
        watchdog.stop()
        if server is not None:
            server.stop()
        restore()


def _fail(error: BaseException, *, workspace: str, board: "ProgressBoard | None" = None) -> int:
    """Say why the run ended; returns the exit code."""
    from lora_trainer.errors import TrainerError, as_trainer_error

    failure = as_trainer_error(error, workspace=workspace)
    if failure is None:
        log.exception("a fault in the trainer", error)
        failure = TrainerError(
            Reason.INTERNAL_ERROR,
            f"the trainer has a fault ({type(error).__name__}: {_one_line(error)}); its log has "
            "the traceback. Try again, and report it if it happens again",
        )
    interrupted = failure.reason is Reason.INTERRUPTED
    result = Result(
        outcome=Outcome.INTERRUPTED if interrupted else Outcome.FAILED,
        reason=failure.reason,
        # File names may hold bytes that are no UTF-8, and then no JSON either.
        message=failure.message.encode(errors="replace").decode()[:2048],
        retryable=failure.retryable,
    )
    _tell(_with_figures(result, board))
    say = log.warning if interrupted else log.error
    say(failure.reason.value, message=failure.message, exit_code=int(failure.exit_code))
    return int(failure.exit_code)


def _with_figures(result: Result, board: "ProgressBoard | None") -> Result:
    """The result with how far the run came; without, where even that can't be said."""
    if board is None:
        return result
    try:
        state = board.snapshot()
        figures = {
            "step": state.step,
            "total_steps": state.total_steps,
            "loss": state.loss,
            "stage_seconds": board.stage_seconds,
        }
        return Result.model_validate({**dict(result), **figures})
    except Exception as error:  # why the run ended matters more than how far it came
        log.exception("the progress can't be said", error)
        return result


def _tell(result: Result) -> None:
    """Write the termination message, where somebody waits for one."""
    named = os.environ.get(TERMINATION_LOG_ENVIRONMENT_VARIABLE)
    path = Path(named) if named else _CONTAINER_TERMINATION_LOG
    if not named and not path.exists():
        return
    try:
        path.write_bytes(result.to_termination_message())
    except OSError as error:
        log.warning("the termination message can't be written", file=path, why=error.strerror)


def _process_started() -> float:
    """time.time() at which this process started, from the kernel, so that imports count."""
    try:
        ticks = float(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return time.time() - (uptime - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, IndexError, ValueError):
        return time.time()


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:300] if text else "no message"
