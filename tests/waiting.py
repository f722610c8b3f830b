"""Waiting for what another thread or process does, as tests do: until it is true, however slow the machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

SOON = 60.0
"""Seconds in which what is due has long happened."""


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody waited for does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
