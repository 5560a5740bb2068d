"""The process's surroundings, set before any heavy library is imported.

A module of its own because these variables work only when they are set before the first import of
torch or transformers, so nothing here may import either.
"""

import os
import sys
from pathlib import Path

from lora_api.settings import MemoryStrategy, OptimizationSettings, Optimizer, Switch

_QUOTA_V2 = Path("/sys/fs/cgroup/cpu.max")
_QUOTA_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
_NVIDIA_DRIVER = Path("/dev/nvidiactl")
# That, and the same of AMD's GPUs and of Windows' subsystem for Linux.
_GPUS = (_NVIDIA_DRIVER, Path("/dev/kfd"), Path("/dev/dxg"))
_PERIOD_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def cpus_from_quota(text: str) -> float | None:
    """CPUs that a cgroup quota allows.

    Args:
        text: ``"<quota> <period>"`` in microseconds, as cpu.max has it; quota ``max`` or ``-1``
            means no limit.

    Returns:
        The number of CPUs, or None where there is no limit or no sense in the text.
    """
    try:
        quota, period = text.split()[:2]
        if quota in {"max", "-1"}:
            return None
        return float(quota) / float(period)
    except (ValueError, ZeroDivisionError):
        return None


def available_cpus() -> int:
    """CPUs that this process may really use: affinity, cut by the cgroup's quota, at least 1.

    A container with `cpu: 2` on a 64-core node sees 64 cores; as many threads would share two.
    """
    count = len(os.sched_getaffinity(0))
    quota = cpus_from_quota(_quota_text())
    return max(1, min(count, round(quota)) if quota else count)


def _quota_text() -> str:
    try:
        if _QUOTA_V2.exists():
            return _QUOTA_V2.read_text()
        return f"{_QUOTA_V1.read_text().strip()} {_PERIOD_V1.read_text().strip()}"
    except OSError:
        return ""


def confine(workspace: Path) -> None:
    """Keep libraries' writes inside the workspace and their hands off the network.

    The container's root file system is read-only and its user has no home.

    Args:
        workspace: The run's workspace folder; must exist.
    """
    scratch = workspace / "tmp"
    scratch.mkdir(exist_ok=True)
    folders = {
        "HOME": scratch,
        "TMPDIR": scratch,
        "XDG_CACHE_HOME": scratch / "cache",
        "HF_HOME": scratch / "huggingface",
        "TORCH_HOME": scratch / "torch",
        "TORCHINDUCTOR_CACHE_DIR": scratch / "inductor",
        "TRITON_CACHE_DIR": scratch / "triton",
        "MPLCONFIGDIR": scratch / "matplotlib",
    }
    os.environ.update({name: str(folder) for name, folder in folders.items()})
    os.environ.update(
        {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "DIFFUSERS_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "DISABLE_TELEMETRY": "YES",
            "TOKENIZERS_PARALLELISM": "false",
            "TRANSFORMERS_VERBOSITY": "error",
            "DIFFUSERS_VERBOSITY": "error",
        }
    )
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cpus()))
    # Threads that wait spin by default. Where a core is shared (another pod, a CPU limit) they burn
    # the time that the thread they wait for needs: measured, 2 threads on 2 busy cores did 0.14
    # steps per second spinning and 0.86 sleeping.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # PyTorch's C++ parts write warnings past our log, one of them in each process of several, about
    # an option that is set on purpose (group.py).
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def leave_out_unneeded(optimization: OptimizationSettings) -> None:
    """Let no library find bitsandbytes, Triton and CUDA's bindings in a run that can't need them.

    They are imported wherever they are installed. bitsandbytes: diffusers does, and with it a
    compiler's front end: measured, a third of the CPU time of all imports after torch (4.3 to 5.9 s
    without, 7.4 to 8.2 s with). The others: torch does; measured, 85 MB of 767 MB that a process
    has taken once all is imported.

    Args:
        optimization: Says what is named; the memory ladder may need bitsandbytes on a GPU.
    """
    if "torch" in sys.modules:
        return
    named = (
        optimization.optimizer is Optimizer.ADAMW_8BIT
        or optimization.memory is MemoryStrategy.NF4
        or (optimization.memory is MemoryStrategy.AUTO and _NVIDIA_DRIVER.exists())
    )
    unneeded = [] if named else ["bitsandbytes"]
    if not any(gpu.exists() for gpu in _GPUS) and optimization.compile is not Switch.ALWAYS:
        unneeded += ["triton", "cuda"]
    for module in unneeded:
        sys.modules[module] = None  # type: ignore[assignment]


def threads() -> int:
    """Threads that numeric libraries may use: OMP_NUM_THREADS where set, else all CPUs."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdigit() and int(named) > 0 else available_cpus()
