"""How to reach the local cluster, as `lora-cluster env` tells it.

A module of its own so that the rest of the demonstration knows addresses and credentials only,
not how the cluster was made.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

POLL_SECONDS = 0.1
_EXPORT = re.compile(r"^export (\w+)=(.*)$")


class DemoError(Exception):
    """Something the demonstration needs did not work; the text says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """Where the cluster's API server and object storage are.

    Attributes:
        variables: Environment for kubectl and helm, KUBECONFIG and PATH among them.
        s3_endpoint: Object storage as seen from this machine.
        s3_cluster_endpoint: Object storage as seen from a pod.
        access_key: Access key of the object storage.
        secret_key: Secret key of the object storage.
    """

    variables: dict[str, str]
    s3_endpoint: str
    s3_cluster_endpoint: str
    access_key: str
    secret_key: str


def cluster(*arguments: str) -> str:
    """Runs a `lora-cluster` command with its progress shown.

    Returns:
        Its answer, where it has one.

    Raises:
        DemoError: The command failed; it has said why.
    """
    command = [sys.executable, "-m", "lora_cluster", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise DemoError(f"`lora-cluster {shlex.join(arguments)}` failed: the lines above say why")
    return done.stdout


def cluster_together(*commands: tuple[str, ...]) -> list[str]:
    """Runs `lora-cluster` commands side by side; when one fails, the others are ended at once.

    Returns:
        Their answers, in the order of the commands.

    Raises:
        DemoError: A command failed; it has said why.
    """
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "lora_cluster", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # so that ending one also ends the compilers it started
        )
        for arguments in commands
    ]
    try:
        while any(process.poll() is None for process in running):
            if any(process.poll() for process in running):
                break
            time.sleep(POLL_SECONDS)
        for arguments, process in zip(commands, running, strict=True):
            if process.poll():
                raise DemoError(
                    f"`lora-cluster {shlex.join(arguments)}` failed: the lines above say why"
                )
        return [process.communicate()[0] for process in running]
    finally:
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()


def read_environment() -> Environment:
    """Asks the running cluster for its addresses.

    Raises:
        DemoError: The cluster does not run.
    """
    exported = {}
    for line in cluster("env").splitlines():
        if match := _EXPORT.match(line):
            exported[match[1]] = shlex.split(match[2])[0]
    return Environment(
        variables={**os.environ, **exported},
        s3_endpoint=exported["AWS_ENDPOINT_URL"],
        s3_cluster_endpoint=exported["LORA_S3_ENDPOINT_IN_CLUSTER"],
        access_key=exported["AWS_ACCESS_KEY_ID"],
        secret_key=exported["AWS_SECRET_ACCESS_KEY"],
    )


def run(environment: Environment, *command: str, stdin: str | None = None) -> str:
    """Runs kubectl or helm against the cluster.

    Args:
        environment: Where the cluster is.
        *command: Program and arguments.
        stdin: Text for its standard input.

    Returns:
        Its standard output.

    Raises:
        DemoError: It failed.
    """
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env=environment.variables,
    )
    if done.returncode:
        raise DemoError(f"`{shlex.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout
