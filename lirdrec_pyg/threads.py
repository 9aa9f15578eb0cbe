"""Threading settings of the command line. They only work before torch is imported."""

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def usable_cpus(cgroups: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Number of CPUs that the process may use, by its affinity and the CPU quota of its cgroups (v1 or v2)."""
    return min([available_cpus(), *(max(1, math.ceil(quota)) for quota in _quotas(cgroups, membership))])


def available_cpus() -> int:
    """Number of CPUs in the affinity mask of the process, or of all CPUs where there are no masks."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare_threads() -> None:
    """Set OpenMP variables for a machine that is busy with other programs, unless the user has set them.

    By default, libgomp threads spin long at every barrier. While another program holds the CPU of one thread, the
    others use up their own time slices. After a short spin, they sleep instead; without any spin, a quiet machine would
    be slower. torch also ignores CPU quotas, so a quota below the number of available CPUs sets the number of threads.
    Does nothing once torch is imported.
    """
    if "torch" in sys.modules:
        return
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    cpus = usable_cpus()
    if cpus < available_cpus():
        os.environ.setdefault("OMP_NUM_THREADS", str(cpus))


def _quotas(cgroups: Path, membership: Path) -> Iterator[float]:
    """Quotas of the process's cgroup and all above it, in CPUs."""
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / "cpu" if controllers else cgroups
        # A container may see the path of the host, which does not exist below its own root.
        for folder in (root / path.lstrip("/") / "x").parents:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
            limit = " ".join(_read(folder / name) for name in names).split()
            if len(limit) == 2 and limit[0] not in ("max", "-1"):
                yield int(limit[0]) / int(limit[1])
            if folder == root:
                break


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
