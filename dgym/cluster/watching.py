"""What a run on Ray shows while it goes on: its hosts, for its heartbeat, and its metrics, for Ray's own exporter.

Ray's agent on each node serves the metrics to Prometheus, beside Ray's own, where `ray[default]` is installed; where
it is not, they go nowhere. All are told by the driver.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import ray
from ray.util import metrics

from dgym.bench import Job, Progress, Report
from dgym.heartbeat import NO_EPISODE, Hosts, at_work
from dgym.students.host import HostNow

PATIENCE: Final = 2.0
"""Seconds for the hosts to answer: one that computes may take long."""


class Metrics:
    """The metrics of a run; Ray puts `ray_` before their names, and `_total` behind those of counters.

    `dgym_episodes` (by `status`: ok, failed), `dgym_iterations` and `dgym_host_busy_seconds` (by `host`) only grow;
    `dgym_episodes_running` and `dgym_hosts` (by `state`: busy, or why it is idle) are as of now.

    Args:
        job: Whose; all carry its suite.
    """

    def __init__(self, job: Job) -> None:
        def named(kind: Any, name: str, text: str, *tags: str) -> Any:
            made = kind(name, description=text, tag_keys=("suite", *tags))
            made.set_default_tags({"suite": job.suite})
            return made

        self._episodes = named(metrics.Counter, "dgym_episodes", "Episodes that ended.", "status")
        self._iterations = named(metrics.Counter, "dgym_iterations", "Iterations that ended.")
        self._running = named(metrics.Gauge, "dgym_episodes_running", "Episodes that have begun and not ended.")
        self._busy = named(metrics.Counter, "dgym_host_busy_seconds", "Time for which a student host worked.", "host")
        self._hosts = named(metrics.Gauge, "dgym_hosts", "Student hosts.", "state")
        self._iteration: dict[str, int] = {}  # the latest of each running episode
        self._told: dict[tuple[int, int], float] = {}
        self._states: set[str] = set()
        self.ended = 0
        """Episodes that ended."""

    def counted(self, report: Report) -> Report:
        """Returns a report that counts what it passes on."""

        def count(progress: Progress) -> None:
            # The last iteration and the end of an episode are one report; see `EpisodeTrial.step`.
            known = self._iteration.get(progress.digest, 0)
            if progress.iteration > known:
                self._iterations.inc(progress.iteration - known)
            if progress.status == "running":
                self._iteration[progress.digest] = max(known, progress.iteration)
            else:
                self._iteration.pop(progress.digest, None)
                self._episodes.inc(tags={"status": progress.status})
                self.ended += 1
            self._running.set(len(self._iteration))
            report(progress)

        return count

    def show(self, seen: Sequence[HostNow | None], hosts: Hosts) -> None:
        """Tells what the hosts do."""
        for place, host in enumerate(seen):
            if host is None:
                continue
            key = place, host.process  # a replacement begins anew
            if host.busy > self._told.get(key, 0.0):
                self._busy.inc(host.busy - self._told.get(key, 0.0), {"host": str(place)})
                self._told[key] = host.busy
        states = Counter({"busy": hosts.busy, **hosts.idle})
        self._states |= {*states}
        for state in self._states:
            self._hosts.set(states[state], {"state": state})


class Observer:
    """Looks at the hosts of a part of a run when it is asked to, until it is closed.

    Args:
        manager: Handle of the `HostManager`.
        job: The part.
        told: The run's metrics.
        gpus_per_host: GPUs that each host holds.
        unheld: Why GPUs that the hosts do not hold are idle.
    """

    def __init__(self, manager: Any, job: Job, told: Metrics, gpus_per_host: float, unheld: str) -> None:
        self._manager, self._job, self._metrics = manager, job, told
        self._gpus_per_host, self._unheld = gpus_per_host, unheld
        self._before = told.ended
        self._known: dict[Any, HostNow] = {}
        self._lock = threading.Lock()
        self._open = True

    def look(self) -> Hosts | None:
        """Asks the hosts what they do just now; `None` once it is closed.

        Raises:
            ray.exceptions.RayError: If their manager does not answer.
        """
        with self._lock:
            return self._look() if self._open else None

    def close(self) -> None:
        """Looks no more; waits for a look that goes on: one after the end of Ray would start another."""
        with self._lock:
            self._open = False

    def _look(self) -> Hosts:
        asked = [self._manager.hosts.remote(), self._manager.leases.remote(), self._manager.late.remote()]
        hosts, leases, late = ray.get(asked, timeout=PATIENCE)
        calls = [host.now.remote() for host in hosts]
        ready, _ = ray.wait(calls, num_returns=len(calls), timeout=PATIENCE) if calls else ([], [])
        seen = [self._seen(host, call if call in ready else None) for host, call in zip(hosts, calls, strict=True)]
        ended = self._metrics.ended - self._before
        left = max(0, len(self._job.episodes) - ended - len(leases))
        found = at_work(seen, left, len(late))
        gpus, held = float(ray.cluster_resources().get("GPU", 0.0)), self._gpus_per_host * (len(hosts) - len(late))
        unheld = self._unheld if left or not self._gpus_per_host else NO_EPISODE
        found = replace(found, gpus=gpus, gpus_held=held, unheld=unheld if held < gpus else "")
        self._metrics.show(seen, found)
        return found

    def _seen(self, host: Any, call: Any) -> HostNow | None:
        if call is not None:
            try:
                self._known[host] = ray.get(call)
            except ray.exceptions.RayError:
                return None  # it died; another takes its place
            return self._known[host]
        # One that has answered before has no time now.
        known = self._known.get(host)
        return replace(known, working=1) if known is not None else None
