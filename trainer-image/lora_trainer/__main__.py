"""`python -m lora_trainer` and `lora-trainer`: the process around the command line.

A module of its own because ending the process is its only job: torch's threads and a background
import need not be waited for once the result is on disk.
"""

import os
import sys

from lora_trainer.cli import main as run_command_line


def main() -> None:
    """Run the command line and end the process at once."""
    code = run_command_line()
    sys.stdout.flush()
    sys.stderr.flush()
    # Interpreter shutdown would wait for a background import and unload torch: a second or more
    # in which a GPU is held for nothing. All files are closed and durable by now.
    os._exit(code)


if __name__ == "__main__":
    main()
