"""The teacher pool: actors that work on plan items concurrently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from threading import Lock
from typing import Any

import ray

from dgym.chat import session
from dgym.cluster.chat import remote_session
from dgym.core import Brief, PlanItem, Teacher, Written
from dgym.episode import work_on
from dgym.errors import InfrastructureError
from dgym.teachers import make_teacher

EPISODES_PER_WORKER = 32
"""Episodes whose items one worker works on at a time: those of language models only wait."""


class TeacherWorker:
    """Makes each teacher once and works on its plan items; several calls may run at a time, in threads.

    Args:
        settings: What a person chose for language-model calls.
        desk: Name of the `ChatDesk` that the run's processes share: a handle would be kept in the object store, from
            where a worker that is started again might not get it.
    """

    def __init__(self, settings: session.Settings, desk: str) -> None:
        session.begin(remote_session(settings, ray.get_actor(desk)))
        self._teachers: dict[str, Teacher] = {}
        # Items of engines that compute come one at a time, as there is one core for them.
        self._computing = Lock()

    def work(self, name: str, params: Mapping[str, Any], brief: Brief, items: Sequence[PlanItem]) -> list[Written]:
        """Works on some items; results keep their order."""
        key = f"{name} {sorted(params.items())!r}"
        teacher = self._teachers.get(key)
        if teacher is None:
            teacher = self._teachers.setdefault(key, make_teacher(name, params))
        with nullcontext() if teacher.concurrency > 1 else self._computing:
            return work_on(teacher, brief, items)


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

    def generate(self, brief: Brief, items: Sequence[PlanItem]) -> list[Written]:
        """Maps the engine over the items; a worker that died fails its items only."""
        count = len(self._workers)
        parts = [list(items[first::count]) for first in range(count)]
        calls = {
            first: self._workers[(first + self._shift) % count].work.remote(self._name, self._params, brief, part)
            for first, part in enumerate(parts)
            if part
        }
        out = [Written(error=InfrastructureError("The teacher worker died."))] * len(items)
        for first, call in calls.items():
            try:
                out[first::count] = ray.get(call)
            except ray.exceptions.RayActorError:
                continue
        return out


def start_workers(count: int, settings: session.Settings, desk: str) -> list[Any]:
    """Starts teacher workers; they take no CPU from Ray's count, the hosts are what is scheduled."""
    actor = ray.remote(TeacherWorker).options(num_cpus=0, max_restarts=3, max_concurrency=EPISODES_PER_WORKER)
    return [actor.remote(settings, desk) for _ in range(count)]
