"""Isolation by the kernel's own means, without any tool: namespaces, Landlock and seccomp where it has them.

One long-lived helper per processor holds a minimal root in a user, mount, pid, network, IPC and UTS namespace of
its own and forks a process in a further pid namespace for every program (`dgym.sandbox.runner`). Needs a Linux that
lets this user make user namespaces; no privileges otherwise.
"""

from __future__ import annotations

import sys
from typing import ClassVar

from dgym.sandbox.records import SandboxError
from dgym.sandbox.worker import Pool, Worker, command, hints


class Namespaces(Pool):
    """Isolation by the kernel's own means: namespaces, seccomp, and Landlock where there is one."""

    name: ClassVar[str] = "namespaces"
    keeps: ClassVar[bool] = True

    def _start(self) -> Worker:
        if sys.platform != "linux":
            raise SandboxError("namespaces need Linux")
        try:
            return Worker(command("namespaces"))
        except SandboxError as error:
            hint = hints()
            raise SandboxError(f"{error}{f' ({hint})' if hint else ''}") from error
