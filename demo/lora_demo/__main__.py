"""`python -m lora_demo`: the demonstration's command line."""

import argparse
import sys
import time

from kubernetes.client.exceptions import ApiException
from minio.error import MinioException
from rich.console import Console
from urllib3.exceptions import HTTPError

from lora_demo.environment import DemoError
from lora_demo.install import install
from lora_demo.quickstart import run_quickstart


def main() -> int:
    """Runs the demonstration or only its first half.

    Returns:
        Process exit status.
    """
    parser = argparse.ArgumentParser(
        prog="lora_demo",
        description="From a bare machine to a LoRA one can look at, in the local cluster.",
    )
    parser.add_argument(
        "command",
        choices=("run", "install"),
        help="run: everything; install: cluster, images and operator only",
    )
    arguments = parser.parse_args()
    console = Console()
    started = time.monotonic()
    try:
        environment = install(console)
        if arguments.command == "run":
            run_quickstart(environment, console)
    except (DemoError, ApiException, MinioException, HTTPError, OSError) as error:
        Console(stderr=True).print(
            f"error: {error}", style="bold red", highlight=False, markup=False
        )
        return 1
    except KeyboardInterrupt:
        console.print("stopped watching; cluster and run go on (`make down` ends them)")
        return 130
    console.print(f"  {'took':<14} {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
