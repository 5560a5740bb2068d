"""The command line: parses, calls a provider, prints.

Answers go to stdout, progress and errors to stderr, so that `eval` and pipes work.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys

from lora_cluster.errors import ClusterError
from lora_cluster.layout import layout_for
from lora_cluster.provider import Provider, choose

EPILOG = """\
examples:
  lora-cluster up                          start it, or see that it runs
  eval "$(lora-cluster env)"               kubectl, helm and S3 clients of this shell use it
  lora-cluster build-image trainer --load  build the image, make it usable by pods
  lora-cluster kill etcd                   it dies; the supervisor restarts it after a second
  lora-cluster stop s3                     it stays down until `start s3`
  lora-cluster down                        remove it with all it made

components of the host provider:
  etcd containerd s3 forwarder apiserver controller-manager scheduler kubelet proxy fakegpu
"""


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    top = argparse.ArgumentParser(
        prog="lora-cluster",
        description="A real one-node Kubernetes with S3 and fake GPUs, for development and tests.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument(
        "--name",
        default=os.environ.get("LORA_CLUSTER_NAME") or "lora",
        help="which cluster; several can exist side by side (default: %(default)s)",
    )
    top.add_argument(
        "--provider",
        choices=["auto", "host", "kind"],
        default="auto",
        help="host: processes in namespaces of this machine; kind: in Docker; "
        "auto: kind where Docker answers, else host (default)",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("up", help="build what is missing, start, wait until it is ready")
    commands.add_parser("down", help="remove the cluster and all it made; caches stay")
    commands.add_parser("status", help="components and readiness; exit status 1 if not ready")
    commands.add_parser("env", help="print export lines for a shell")
    load = commands.add_parser("load-image", help="make an image usable by pods")
    load.add_argument("image", help="a reference that was built here, or an OCI or Docker archive")
    build = commands.add_parser("build-image", help="build one of our images; prints its reference")
    build.add_argument("kind", choices=["trainer", "operator"])
    build.add_argument("--load", action="store_true", help="load it into the cluster, too")
    kubectl = commands.add_parser("kubectl", help="run the cluster's kubectl as administrator")
    kubectl.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- ARGS")
    for name, text in {
        "restart": "stop a component and start it again",
        "stop": "stop a component until `start`",
        "start": "start a stopped component",
        "kill": "send a signal (KILL); the supervisor restarts what dies",
    }.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("component")
        if name == "kill":
            command.add_argument("--signal", default="KILL", help="name or number (default: KILL)")
    logs = commands.add_parser("logs", help="print a component's log")
    logs.add_argument("component")
    logs.add_argument("--follow", "-f", action="store_true")
    logs.add_argument("--tail", type=int, default=200, metavar="LINES")
    user = commands.add_parser("s3-user", help="make an S3 account that is not root")
    user.add_argument("access_key")
    user.add_argument("secret_key")
    user.add_argument(
        "--role",
        choices=["user", "userplus", "admin"],
        default="user",
        help="user: only buckets it was given; userplus: may create buckets",
    )
    user.add_argument(
        "--owns",
        action="append",
        default=[],
        metavar="BUCKET",
        help="make it the owner of an existing bucket (repeatable)",
    )
    return top


def run(options: argparse.Namespace) -> int:
    """Carry out one parsed command and return the exit status."""
    layout = layout_for(options.name)
    provider = choose(options.provider, layout)
    command = options.command
    if command == "up":
        provider.up()
    elif command == "down":
        provider.down()
    elif command == "status":
        print("\n".join(provider.status()))
    elif command == "env":
        for key, value in provider.environment().items():
            print(f"export {key}={shlex.quote(value)}")
    elif command == "load-image":
        provider.load_image(options.image)
    elif command == "build-image":
        _build_image(provider, options)
    elif command == "kubectl":
        return _kubectl(provider, options.arguments)
    elif command == "logs":
        return _logs(provider, options)
    elif command == "s3-user":
        from lora_cluster.s3 import create_user  # noqa: PLC0415 - one command of many

        create_user(provider.environment(), options)
    else:
        number = _signal_number(options.signal) if command == "kill" else signal.SIGTERM
        print(provider.control(command, options.component, signal=number))
    return 0


def _build_image(provider: Provider, options: argparse.Namespace) -> None:
    from lora_cluster.image_build import build  # noqa: PLC0415 - one command of many

    reference = build(options.kind)
    if options.load:
        provider.load_image(reference)
    print(reference)


def _kubectl(provider: Provider, arguments: list[str]) -> int:
    environment = {**os.environ, **provider.environment()}
    rest = arguments[1:] if arguments[:1] == ["--"] else arguments
    return subprocess.run(["kubectl", *rest], env=environment, check=False).returncode


def _logs(provider: Provider, options: argparse.Namespace) -> int:
    path = str(provider.log_file(options.component))
    follow = ["--follow"] if options.follow else []
    return subprocess.run(
        ["tail", f"--lines={options.tail}", *follow, path], check=False
    ).returncode


def _signal_number(text: str) -> int:
    try:
        name = text.upper().removeprefix("SIG")
        return int(text) if text.isdigit() else signal.Signals[f"SIG{name}"].value
    except KeyError as error:
        raise ClusterError(
            "BadSignal", f"{text!r} is no signal; try KILL, TERM or STOP."
        ) from error


def main(argv: list[str] | None = None) -> int:
    """Entry point: 0 done, 1 a failure that was explained, 130 interrupted."""
    options = parser().parse_args(argv)
    try:
        return run(options)
    except ClusterError as error:
        sys.stderr.write(f"lora-cluster: {error.reason}: {error.message}\n")
        return 1
    except OSError as error:
        # What the commands themselves did not foresee is nearly always a missing right.
        root = "" if os.geteuid() == 0 else " (the host provider needs root)"
        sys.stderr.write(f"lora-cluster: {error}{root}\n")
        return 1
    except KeyboardInterrupt:
        return 130
