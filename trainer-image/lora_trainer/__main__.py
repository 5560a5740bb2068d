"""`python -m lora_trainer` and `lora-trainer`: the process around the command line.

A module of its own because ending the process is its only job: torch's threads and a background
import need not be waited for once the result is on disk.
"""

import os
import signal
import sys

from lora_trainer import early

early.listen()

from lora_trainer.cli import main as run_command_line  # noqa: E402 - the imports take their time


def main() -> None:
    """Run the command line and end the process at once."""
    code = run_command_line()
    # The word is said; what comes now must not replace it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdout.flush()
    sys.stderr.flush()
    # Interpreter shutdown would wait for a background import and unload torch: a second or more
    # in which a GPU is held for nothing. All files are closed and durable by now.
    os._exit(code)


if __name__ == "__main__":
    main()
