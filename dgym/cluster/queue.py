"""How a run on a cluster follows its queue and its machines: hosts, and the episodes that run at a time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, Final

import ray

from dgym.errors import UsageError

EVERY: Final = 2.0
"""Seconds between two looks at the hosts."""

MACHINES_EVERY: Final = 10.0
"""Seconds between two looks at the machines."""


class Queue:
    """Called by the driver again and again: has the hosts fitted to the queue, and as many episodes run as they hold.

    It never waits for the hosts' manager, but takes what it answered to the last call.

    Args:
        manager: Handle of the `HostManager`.
        tenants: Episodes at a time on a host.
        at_a_time: Sets how many episodes run at a time.
        most: Returns how many hosts there may be, as machines are now.
        joined: Called with the ids of machines that have joined; may raise.
    """

    def __init__(
        self,
        manager: Any,
        tenants: int,
        at_a_time: Callable[[int], None],
        most: Callable[[], int],
        joined: Callable[[set[str]], None],
    ) -> None:
        self._manager, self._tenants, self._set = manager, tenants, at_a_time
        self._most_now, self._joined = most, joined
        self._machines = machines()
        self._most = most()
        self._next = self._next_machines = 0.0
        self._call: Any = None
        self.error: UsageError | None = None
        """What ended the run: a machine that has joined cannot take part."""

    def __call__(self, left: int) -> None:
        """Looks, if it is time to.

        Args:
            left: Episodes that have not ended.

        Raises:
            UsageError: If a machine has joined that cannot take part.
        """
        now = time.monotonic()
        if now >= self._next_machines:
            self._next_machines = now + MACHINES_EVERY
            self._look_at_machines()
        if self._call is not None and ray.wait([self._call], timeout=0)[0]:
            with contextlib.suppress(ray.exceptions.RayError):  # the manager is being started again
                self._set(max(1, ray.get(self._call)) * self._tenants)
            self._call = None
        if self._call is None and now >= self._next:
            self._next = now + EVERY
            self._call = self._manager.fit.remote(left, self._most)

    def _look_at_machines(self) -> None:
        there = machines()
        if there == self._machines:
            return
        new, self._machines = there - self._machines, there
        try:
            if new:
                self._joined(new)
            self._most = self._most_now()
        except UsageError as error:
            self.error = error
            raise


def machines() -> set[str]:
    """Returns the ids of the machines that the cluster has now."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}
