"""The cores and the memory that this process may use: what its machine has, its affinity and its control groups allow.

A container sees all cores and all memory of its host; a thread for each core that it may not use makes it many times
slower, and memory beyond its limit ends it without a word.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROC, _GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores, at least 1; a quota of 1.5 cores counts as 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups("cpu"):
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (group / "cpu.max").read_text().split()
            cores = min(cores, int(quota) // int(period))  # "max" is no number
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            cores = min(cores, quota // period if quota > 0 else cores)
    return max(1, cores)


def usable_memory() -> int | None:
    """Bytes that can still be had; None where nothing tells."""
    found = []
    with suppress(OSError, StopIteration, ValueError):
        lines = (_PROC / "meminfo").read_text().splitlines()
        found.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")))
    for group in _groups("memory"):
        for limit, used, files in (
            ("memory.max", "memory.current", "inactive_file "),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "),
        ):
            with suppress(OSError, ValueError):
                left = int((group / limit).read_text()) - int((group / used).read_text())
                with suppress(OSError, StopIteration):  # parts of files, which the kernel drops when asked for memory
                    lines = (group / "memory.stat").read_text().splitlines()
                    left += next(int(line.split()[1]) for line in lines if line.startswith(files))
                found.append(left)
    return max(0, min(found)) if found else None


def has_bf16() -> bool:
    """Whether the processor multiplies in bfloat16; False where nothing tells."""
    with suppress(OSError):
        return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint((_PROC / "cpuinfo").read_text().split())
    return False


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the control groups, of version 2 and 1, that this process is in, up to the outermost that it sees."""
    with suppress(OSError):
        for line in (_PROC / "self" / "cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            root = _GROUPS / controllers if controllers else _GROUPS
            group = root / name.lstrip("/")
            # In a container the name may be the host's, and what it sees as the outermost group is its own.
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root))
