"""Exit codes after which no other attempt is made.

A module of its own because the Job's policy is built from them and the status is told by them: a
status that calls an attempt the last one while the Job tries again would be a lie.
"""

from lora_api.exit_codes import FINAL_CODES, ExitCode

# SIGKILL without a disruption is the kernel's answer to too little memory in all but rare cases,
# and another attempt would hold the GPU just to run into the same limit. A rule of a Job can't
# tell the rare ones apart: it sees the code alone.
KILLED = 137
# Not executable, not found, by a shell's word: the image is wrong, and stays so. 128 is not among
# them: it is the runtime's word for a container that did not start, for whatever reason.
CANNOT_START = frozenset({126, 127})
LAST_CODES = (FINAL_CODES - {ExitCode.OK}) | CANNOT_START | {KILLED}
