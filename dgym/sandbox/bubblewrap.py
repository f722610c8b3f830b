"""Isolation by bubblewrap (`bwrap`), for machines that allow namespaces to it but not to everyone.

Every program gets a bubblewrap of its own with a helper in it (`dgym.sandbox.runner`), which costs a start of Python
each time. The helper shares the program's pid namespace: where the kernel has no Landlock of version 6, a program can
kill its helper, and then counts as killed; it cannot speak for it.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

from dgym.sandbox.records import Limits, SandboxError
from dgym.sandbox.worker import ENVIRONMENT, RUNNER, Pool, Worker, command, hints

_INSIDE = "/run/dgym"


@functools.cache
def _needed() -> dict[str, list[str]]:
    """Returns what an interpreter needs, see `dgym.sandbox.runner.files`."""
    done = subprocess.run(command("files"), env=ENVIRONMENT, capture_output=True, check=True, timeout=60)
    needed: dict[str, list[str]] = json.loads(done.stdout)
    return needed


def arguments(needed: dict[str, list[str]]) -> list[str]:
    """Builds bubblewrap's command line, without its own name: the standard library and nothing else of the host.

    Args:
        needed: What `dgym.sandbox.runner.files` lists.

    Returns:
        The arguments up to and including `--`.
    """
    words = ["--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
    words += ["--cap-drop", "ALL", "--setenv", "PYTHONHASHSEED", "0"]
    for link in (Path("/lib"), Path("/lib64")):  # the loader looks for libraries under these
        if link.is_symlink():
            words += ["--dir", str(Path("/", link.readlink())), "--symlink", str(link.readlink()), str(link)]
    for path in [*needed["library"], *needed["shared"], *needed["program"]]:
        words += ["--ro-bind", os.path.realpath(path), path]
    for path in needed["hidden"]:
        words += ["--tmpfs", path, "--remount-ro", path]
    for file in (RUNNER, RUNNER.with_name("plain.py")):
        words += ["--ro-bind", str(file), f"{_INSIDE}/{file.name}"]
    words += ["--dev", "/dev", "--remount-ro", "/dev", "--proc", "/proc"]
    words += ["--size", str(4 * Limits().file_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/", "--"]
    return words


class Bubblewrap(Pool):
    """Isolation by bubblewrap, for machines that allow namespaces to it but not to everyone."""

    name: ClassVar[str] = "bubblewrap"

    def _start(self) -> Worker:
        if sys.platform != "linux":
            raise SandboxError("bubblewrap needs Linux")
        tool = shutil.which("bwrap")
        if tool is None:
            raise SandboxError("bubblewrap is not installed (the package is called bubblewrap, the tool bwrap)")
        words = command("inside")
        words[words.index(str(RUNNER))] = f"{_INSIDE}/{RUNNER.name}"
        try:
            return Worker([tool, *arguments(_needed()), *words])
        except (SandboxError, subprocess.SubprocessError) as error:
            hint = hints()
            raise SandboxError(f"{error}{f' ({hint})' if hint else ''}") from error
