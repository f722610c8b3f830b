"""The teacher pool: actors that work on plan items concurrently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

import ray

from dgym.chat import session
from dgym.cluster.chat import remote_session
from dgym.cluster.deaths import DIED, cause
from dgym.core import Brief, PlanItem, Teacher, Written
from dgym.episode import work_on
from dgym.errors import InfrastructureError
from dgym.teachers import make_teacher

EPISODES_PER_WORKER = 32
"""Episodes whose items one worker works on at a time: those of language models only wait."""

TRIES: Final = 3
"""How often items whose worker died are given to a worker of their own before they fail."""


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

    Every item carries its own seed, so the number of workers changes nothing but the time, and neither does a worker
    that dies: its items are worked on again, by a worker that has nothing else to do. Shared workers would be killed
    again and again, with everybody's items, by a teacher that ends its own process.

    Args:
        workers: Handles of `TeacherWorker` actors, shared with other episodes.
        name: The teacher's registered name.
        params: Its parameters.
        shift: Where to begin among the workers, so that episodes do not all begin with the same one.
        alone: Starts a worker for one call.
        deaths: Counts workers that died, under `"worker"`.
    """

    def __init__(
        self,
        workers: Sequence[Any],
        name: str,
        params: Mapping[str, Any],
        shift: int,
        alone: Callable[[], Any],
        deaths: Counter[str],
    ) -> None:
        self._workers, self._name, self._params, self._shift = list(workers), name, dict(params), shift
        self._alone, self._deaths = alone, deaths

    def generate(self, brief: Brief, items: Sequence[PlanItem]) -> list[Written]:
        """Maps the engine over the items; a worker that dies again and again fails its items."""
        count = len(self._workers)
        parts = [list(items[first::count]) for first in range(count)]
        calls = {
            first: self._ask(self._workers[(first + self._shift) % count], brief, part)
            for first, part in enumerate(parts)
            if part
        }
        out: list[Written] = [Written()] * len(items)
        for first, call in calls.items():
            try:
                out[first::count] = ray.get(call)
            except DIED as error:
                self._deaths["worker"] += 1
                out[first::count] = self._again(brief, parts[first], error)
        return out

    def _ask(self, worker: Any, brief: Brief, items: Sequence[PlanItem]) -> Any:
        return worker.work.remote(self._name, self._params, brief, items)

    def _again(self, brief: Brief, items: Sequence[PlanItem], error: Exception) -> list[Written]:
        for _ in range(TRIES):
            worker = self._alone()
            try:
                written: list[Written] = ray.get(self._ask(worker, brief, items))
            except DIED as again:
                self._deaths["worker"] += 1
                error = again
            else:
                return written
            finally:
                ray.kill(worker)
        times = self._deaths["worker"]
        why = InfrastructureError(f"Teacher workers died {times} times under this episode: {cause(error)}")
        return [Written(error=why)] * len(items)


@dataclass(frozen=True)
class Workers:
    """Starts teacher workers; they take no CPU from Ray's count, the hosts are what is scheduled.

    Args:
        settings: What a person chose for language-model calls.
        desk: Name of the run's `ChatDesk`.
    """

    settings: session.Settings
    desk: str

    def shared(self, count: int) -> list[Any]:
        """Starts workers for all episodes, on all machines; Ray starts one that died again, as often as it takes."""
        actor = ray.remote(TeacherWorker).options(
            num_cpus=0, max_restarts=-1, max_concurrency=EPISODES_PER_WORKER, scheduling_strategy="SPREAD"
        )
        return [actor.remote(self.settings, self.desk) for _ in range(count)]

    def __call__(self) -> Any:
        """Starts a worker that is used for one call."""
        return ray.remote(TeacherWorker).options(num_cpus=0, max_restarts=0).remote(self.settings, self.desk)
