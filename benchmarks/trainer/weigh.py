"""Runs a command and writes the largest resident set that it had, in bytes, to a file.

A program of its own because of what the kernel counts: a process begins with the largest set of
the one that started it, until then or ever. The benchmark holds torch, and gigabytes after it has
made a model; this holds next to nothing.

    python -I weigh.py file command...
"""

import os
import sys
from pathlib import Path


def main() -> int:
    """Run, write, and end as the command did."""
    target, *command = sys.argv[1:]
    process = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(process, 0)
    Path(target).write_text(str(usage.ru_maxrss * 1024))
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
