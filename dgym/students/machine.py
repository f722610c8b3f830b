"""What this machine has, as `dgym.students.sizing` asks for it. Loads no torch."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from dgym.students.sizing import Machine

_QUERY = ("nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits")


def cores() -> int:
    """Returns how many CPU cores this process may use: of the machine's, those left by affinity and container."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit() and int(period):
        here = min(here, -(-int(quota) // int(period)))
    return max(1, here)


def memory() -> int | None:
    """Returns the main memory that this process may use, in bytes; `None` where that cannot be told."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _read(file)
        if text.isdigit():
            found.append(int(text))
    return min(found, default=None)


def this_machine(gpus_too: bool = True) -> Machine:
    """Returns what this machine has.

    Args:
        gpus_too: Whether to look for GPUs, which takes a moment: NVIDIA's, those that `$CUDA_VISIBLE_DEVICES` leaves
            visible.
    """
    gpus = visible_gpus(_smi(), os.environ.get("CUDA_VISIBLE_DEVICES")) if gpus_too else []
    return Machine(cores(), memory(), len(gpus), min(gpus, default=None))


def visible_gpus(listed: str, visible: str | None) -> list[int]:
    """Reads the memory of each GPU that is visible, in bytes.

    Args:
        listed: Lines of index, UUID and memory in MiB, as nvidia-smi writes them.
        visible: `$CUDA_VISIBLE_DEVICES`: indices or UUIDs, or their beginnings, up to the first that does not exist.
    """
    rows = [[part.strip() for part in line.split(",")] for line in listed.splitlines()]
    found = [(row[0], row[1], int(row[2]) * 2**20) for row in rows if len(row) == 3 and row[2].isdigit()]
    if visible is None:
        return [size for _, _, size in found]
    out = []
    for name in (part.strip() for part in visible.split(",")):
        sizes = [size for index, uuid, size in found if name and (name == index or uuid.startswith(name))]
        if not sizes:
            break
        out.append(sizes[0])
    return out


def _smi() -> str:
    try:
        return subprocess.run(_QUERY, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
