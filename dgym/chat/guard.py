"""Runs a server for as long as the process that asked for it lives, and ends all that the server started.

    python guard.py PARENT GRACE COMMAND...

It is a process group of its own, with two guards in it, because no other way is sure. A process that is killed can end
nothing itself. The kernel's `PR_SET_PDEATHSIG` reaches children but not theirs, and counts the death of the *thread*
that started them. And whoever kills a process may kill its children too, as Ray does with its workers: the first guard
watches the parent, the second one watches the first.

It uses the standard library only, and is run by its path, so that it costs little.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_POLL = 0.1


def main(argv: Sequence[str]) -> NoReturn:
    """Runs the command until it ends, until SIGTERM, or until the parent is gone; then kills the whole group.

    Args:
        argv: The parent's process id; the seconds that the command has to end after SIGTERM; the command.
    """
    parent, grace, command = int(argv[0]), float(argv[1]), list(argv[2:])
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: asked.append(number))
    first = os.getpid()
    if os.getpgrp() != first:  # somebody runs it by hand, in the group of a shell
        os.setpgid(0, 0)
    second = os.fork()
    if second == 0:
        _serve(command, grace, lambda: not asked and os.getppid() == first)
        os.killpg(first, signal.SIGKILL)
    while os.waitpid(second, os.WNOHANG)[0] == 0:
        if asked or os.getppid() != parent:
            os.kill(second, signal.SIGTERM)
            os.waitpid(second, 0)
            break
        time.sleep(_POLL)
    os.killpg(first, signal.SIGKILL)
    raise AssertionError("this process is in the group")


def _serve(command: Sequence[str], grace: float, wanted: Callable[[], bool]) -> None:
    """Runs the command while it is wanted."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def end_with_guard() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    try:
        server = subprocess.Popen(command, preexec_fn=end_with_guard)  # noqa: PLW1509 - there are no threads here
    except OSError as error:
        print(f"OSError: {command[0]}: {error.strerror}", flush=True)
        return
    while server.poll() is None and wanted():
        time.sleep(_POLL)
    if server.poll() is None:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(grace)


if __name__ == "__main__":
    main(sys.argv[1:])
