"""Teachers out of process: in the sandbox, seeing the Brief and the State and nothing else.

`isolated@NAME` is the teacher NAME in a process of its own, where NAME is a file, a folder or a registered teacher
(`dgym.isolation.places`). It is asked by a versioned protocol of JSON lines (`dgym.isolation.protocol`,
`leaderboard/PROTOCOL.md`), so it may be written in any language. Each plan and each batch of items has a fresh process:
what a teacher wants to remember goes through the plan's memory, as everywhere.
"""

from __future__ import annotations

from typing import Any

__all__ = ["isolated"]


def isolated(teacher: str = "", **params: Any) -> Any:
    """Makes a teacher that runs in isolation; see `dgym.isolation.teacher.isolated`."""
    # Late, so that a teacher's own process can import the package without what is not there.
    from dgym.isolation import teacher as module

    return module.isolated(teacher, **params)
