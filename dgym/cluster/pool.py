"""The teacher pool: actors that work on plan items concurrently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ray

from dgym.core import Brief, Example, PlanItem, Teacher
from dgym.episode import work
from dgym.errors import DgymError, InfrastructureError
from dgym.teachers import make_teacher


class TeacherWorker:
    """Makes each teacher once and works on its plan items, one at a time."""

    def __init__(self) -> None:
        self._teachers: dict[str, Teacher] = {}

    def work(
        self, name: str, params: Mapping[str, Any], brief: Brief, items: Sequence[PlanItem]
    ) -> list[Sequence[Example] | DgymError]:
        """Works on some items in order."""
        key = f"{name} {sorted(params.items())!r}"
        if key not in self._teachers:
            self._teachers[key] = make_teacher(name, params)
        return [work(self._teachers[key].engine.generate, brief, item) for item in items]


class RayPool:
    """A `dgym.core.Pool` over worker actors: item `i` goes to worker `i mod n`, results keep the items' order.

    Every item carries its own seed, so the number of workers changes nothing but the time.

    Args:
        workers: Handles of `TeacherWorker` actors, shared with other episodes.
        name: The teacher's registered name.
        params: Its parameters.
        shift: Where to begin among the workers, so that episodes do not all begin with the same one.
    """

    def __init__(self, workers: Sequence[Any], name: str, params: Mapping[str, Any], shift: int = 0) -> None:
        self._workers, self._name, self._params, self._shift = list(workers), name, dict(params), shift

    def generate(self, brief: Brief, items: Sequence[PlanItem]) -> list[Sequence[Example] | DgymError]:
        """Maps the engine over the items; a worker that died fails its items only."""
        count = len(self._workers)
        parts = [list(items[first::count]) for first in range(count)]
        calls = {
            first: self._workers[(first + self._shift) % count].work.remote(self._name, self._params, brief, part)
            for first, part in enumerate(parts)
            if part
        }
        out: list[Sequence[Example] | DgymError] = [InfrastructureError("The teacher worker died.")] * len(items)
        for first, call in calls.items():
            try:
                out[first::count] = ray.get(call)
            except ray.exceptions.RayActorError:
                continue
        return out


def start_workers(count: int) -> list[Any]:
    """Starts teacher workers; they take no CPU from Ray's count, the hosts are what is scheduled."""
    actor = ray.remote(TeacherWorker).options(num_cpus=0, max_restarts=3)
    return [actor.remote() for _ in range(count)]
