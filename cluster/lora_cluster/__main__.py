"""`python -m lora_cluster`, the same as the console script `lora-cluster`."""

import sys

from lora_cluster.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
