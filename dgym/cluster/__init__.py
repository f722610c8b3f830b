"""Running episodes on Ray; the only package that imports it.

Student hosts are actors that keep base models loaded and serve many students; one that dies is replaced. Teacher
workers are actors that write examples concurrently. Ray Tune runs the episodes as trials in reused processes; while one
waits for its teacher, others use the same host.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from dgym.bench import Job, Report, Usage
from dgym.errors import SET_TOKEN, InfrastructureError, UsageError, one_line
from dgym.heartbeat import Hosts
from dgym.students.machine import cores
from dgym.students.sizing import Need, Plan, Wishes, plan, without_gpus

if TYPE_CHECKING:
    from dgym.cluster.pool import Workers

MOST_WORKERS = 32
"""Most teacher workers where nobody says how many: each works for as many episodes as four hosts hold that wait for a
language model."""


@dataclass(frozen=True)
class Shared:
    """Handles of the actors that a run's episodes share.

    Attributes:
        manager: Leases student hosts.
        workers: Write examples.
        alone: Starts a worker for one call.
        desk: Limits language-model calls and counts what they cost.
    """

    manager: Any
    workers: Sequence[Any]
    alone: Workers
    desk: Any


@dataclass(frozen=True)
class RayBackend:
    """Runs episodes on Ray; see `dgym.bench.Backend`.

    Attributes:
        address: Address of a running cluster (`"auto"` finds the local one); `None` starts one that ends with
            the run.
        hosts: Student hosts; by default what follows from the machines (see `dgym.students.sizing`), as all of the
            following does. On a cluster their number follows the queue and the machines that come and go, too.
        max_hosts: Most student hosts, where `hosts` leaves their number to the run.
        workers: Teacher workers; as many as hosts, from two to `MOST_WORKERS`, by default.
        per_host: Episodes at a time per host.
        gpus_per_host: GPUs of a host: a part of one, or whole ones.
        verbose: Whether Ray's own messages are shown.
        track: Trackers to log to as well; see `dgym.cluster.callbacks`.
    """

    address: str | None = None
    hosts: int | None = None
    max_hosts: int | None = None
    workers: int | None = None
    per_host: int | None = None
    gpus_per_host: float | None = None
    verbose: bool = False
    track: tuple[str, ...] = ()
    _watched: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def hosts_now(self) -> Hosts | None:
        """See `dgym.heartbeat.Watched`."""
        observer = self._watched.get("observer")
        hosts: Hosts | None = observer.look() if observer is not None else None
        return hosts

    def run(self, job: Job, report: Report) -> Usage:
        """Runs all episodes and waits for them.

        Raises:
            UsageError: If the cluster cannot be reached, if its machines do not run the same or do not see the results
                folder, if what was asked for does not fit it, or if there is no such tracker.
            InfrastructureError: If Ray itself fails; what is finished stays finished.
        """
        Wishes(gpus_per_host=self.gpus_per_host).check()
        quiet(self.verbose)
        if self.address is None:
            closed()
            frugal(self.verbose)
        if self.track:
            from dgym.cluster.callbacks import check

            check(self.track)
        _must_answer(self.address)
        import ray

        from dgym.cluster.chat import PASSED, serves, start_desk, stop_servers
        from dgym.cluster.nodes import check_nodes, check_place
        from dgym.cluster.planning import parts
        from dgym.cluster.pool import Workers
        from dgym.cluster.watching import Metrics

        check_place(job.folder)
        # "local" never joins what happens to run on this machine already.
        options: dict[str, Any] = {"log_to_driver": self.verbose, "address": self.address or "local"}
        if not self.verbose:
            options["logging_level"] = logging.CRITICAL
        passed = {name: os.environ[name] for name in ("DGYM_SANDBOX", *PASSED) if name in os.environ}
        if passed:
            # Programs are graded and models served in processes that on a running cluster do not inherit this
            # process's choices.
            options["runtime_env"] = {"env_vars": passed}
        if self.address is None:
            options |= {"num_cpus": max(2, cores()), "include_dashboard": False}
        try:
            ray.init(**options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _unreachable(self.address or "this machine", error) from error
        desk = None
        try:
            if self.address is not None:
                check_nodes(job.folder)
            serving = serves(job)
            todo = [
                (part, need.accelerator, partial(self._plan, need, threads, serving))
                for part, need, threads in parts(job)
            ]
            # What does not fit is said before anything is run.
            hosts = max((plan_now().hosts for *_, plan_now in todo), default=1)
            name = f"dgym-desk-{uuid4().hex}"
            desk = start_desk(job.chat, name)
            alone = Workers(job.chat, name)
            workers = alone.shared(self.workers or min(max(2, hosts), MOST_WORKERS))
            self._watched["metrics"] = Metrics(job)
            report = self._watched["metrics"].counted(report)
            shared = Shared(None, workers, alone, desk)
            return Usage.total([self._part(*part, report, shared) for part in todo])
        finally:
            if desk is not None:
                stop_servers(desk)
            ray.shutdown()

    def _plan(self, need: Need, threads: int, serving: bool) -> Plan:
        import ray

        from dgym.cluster.hosts import HOST_RESOURCE
        from dgym.cluster.planning import machines

        there = machines(self.address is None, need)
        if need.accelerator and serving:
            there = without_gpus(there, 1)  # the teacher's model server takes one of its own
        hosts = self.hosts
        if hosts is None and ray.cluster_resources().get(HOST_RESOURCE):
            hosts = int(ray.cluster_resources()[HOST_RESOURCE])  # as the cluster says itself
        wishes = Wishes(hosts, threads, self.per_host, self.gpus_per_host)
        found = plan(there, need, wishes, grows=self.address is not None)
        return replace(found, hosts=min(found.hosts, self.max_hosts or found.hosts))

    def _part(self, job: Job, on_gpus: bool, plan_now: Callable[[], Plan], report: Report, shared: Shared) -> Usage:
        from dgym.cluster.hosts import end_hosts, host_stats, start_manager
        from dgym.cluster.nodes import versions
        from dgym.cluster.watching import Observer

        plan = plan_now()
        hosts = min(len(job.episodes), plan.hosts)
        driver = None if self.address is None else versions()
        manager = start_manager(hosts, plan.tenants, plan.gpus, job.chat, shared.alone.desk, driver)
        unheld = _unheld(hosts, len(job.episodes), plan)
        observer = Observer(manager, job, self._watched["metrics"], plan.gpus, unheld)
        self._watched["observer"] = observer
        most = partial(self._most, on_gpus, plan_now)
        try:
            self._tune(job, report, replace(shared, manager=manager), hosts, plan.tenants, most)
            return Usage.of(*host_stats(manager))
        finally:
            observer.close()
            end_hosts(manager)

    def _most(self, on_gpus: bool, plan_now: Callable[[], Plan]) -> int:
        """Returns how many hosts there may be on the machines of now, or, of GPUs, on those that the cluster can have.

        Ray itself knows whether there is a GPU for a host, and makes one that waits for it a reason for more machines;
        of hosts on the CPU it would place any number on the machines that there are.
        """
        if self.hosts is not None:
            return self.hosts
        fitting = sys.maxsize if on_gpus else plan_now().hosts
        return min(fitting, self.max_hosts or sys.maxsize)

    def _share(self, at_a_time: int) -> float:
        """Returns how many CPUs a trial asks for; students compute in hosts, which take none.

        On a Ray of its own a run takes all of them for as many trials as run at a time. Were there room for more, Tune
        would start a process for every trial that follows, and throw it away when that of the one before is free.
        """
        import ray

        if self.address is not None:
            return 0.01  # others may use the cluster's
        processors = float(ray.cluster_resources().get("CPU", 1))
        return max(0.01, math.floor(10_000 * processors / at_a_time) / 10_000)

    def _tune(
        self, job: Job, report: Report, shared: Shared, hosts: int, tenants: int, most: Callable[[], int]
    ) -> None:
        from ray import tune

        from dgym.cluster.nodes import check_nodes
        from dgym.cluster.queue import Queue
        from dgym.cluster.trial import RESTARTS, EpisodeTrial, InOrder, Latest, Watcher

        configs: list[dict[str, Any]] = [{"index": index} for index in range(len(job.episodes))]
        trackers: list[tune.Callback] = []
        names = None
        if self.track:
            from dgym.cluster.callbacks import callbacks, described, named

            configs = [config | about for config, about in zip(configs, described(job), strict=True)]
            trackers, names = callbacks(self.track, job), named(job)
        search = InOrder(configs, hosts, hosts * tenants)
        queue = None
        if self.address is not None:
            set_to = partial(setattr, search, "at_a_time")
            queue = Queue(shared.manager, tenants, set_to, most, lambda new: check_nodes(job.folder, only=new))
        with tempfile.TemporaryDirectory(prefix="dgym-tune-") as scratch:
            tuner = tune.Tuner(
                tune.with_resources(
                    tune.with_parameters(EpisodeTrial, job=job, shared=shared),
                    {"cpu": self._share(hosts * tenants)},
                ),
                tune_config=tune.TuneConfig(
                    num_samples=len(configs),
                    search_alg=search,
                    scheduler=Latest(),
                    reuse_actors=True,
                    trial_name_creator=names,
                    trial_dirname_creator=names,
                ),
                run_config=tune.RunConfig(
                    name="episodes",
                    storage_path=scratch,
                    verbose=0,
                    callbacks=[Watcher(job, report, shared.manager, queue), *trackers],
                    failure_config=tune.FailureConfig(max_failures=RESTARTS),
                    # Tune keeps checkpoints where every machine can read them; scratch is a folder of this one.
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            )
            try:
                tuner.fit()
            except tune.TuneError as error:
                if queue is not None and queue.error is not None:
                    raise queue.error from error
                raise InfrastructureError(f"Ray Tune stopped: {one_line(error)}") from error


def _unheld(hosts: int, episodes: int, plan: Plan) -> str:
    """Says why GPUs may be held by no student host."""
    if not plan.gpus:
        return "the students compute on the CPU"
    if hosts == episodes < plan.hosts:
        return "there are fewer episodes than hosts would fit"
    return "left free by --hosts, --max-hosts or --gpus-per-host, or for the teachers' model server"


def _must_answer(address: str | None) -> None:
    """Tries an address of the form `host:port`; Ray itself would go on trying for minutes.

    Raises:
        UsageError: If nobody answers there, or if it is a Ray Client address.
    """
    if address is None or address in ("auto", "local"):
        return
    if "://" in address:
        raise UsageError(f"Ray Client addresses ({address}) are not supported; submit dgym as a Ray job instead.")
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise UsageError(f"Ray cannot be reached at {address}: {one_line(error)}") from error


def _unreachable(where: str, error: Exception) -> UsageError:
    """Says why Ray could not be joined; of a missing token, Ray itself says only that it could not connect."""
    from ray.exceptions import AuthenticationError

    reason: BaseException | None = error
    while reason is not None:
        if isinstance(reason, AuthenticationError) or "AuthenticationError" in str(reason):
            return UsageError(f"Ray at {where} asks for a token, and was given none or a wrong one. {SET_TOKEN}")
        reason = reason.__cause__ or reason.__context__
    return UsageError(f"Ray cannot be reached at {where}: {one_line(error)}")


def closed() -> None:
    """Sets that what Ray starts here listens to this machine only; whoever reaches a Ray runs code on it.

    That it asks for a token is its own default for such a Ray. Both are settled when Ray is imported: a program that
    has done so before keeps what it chose.
    """
    if "ray" not in sys.modules:
        # Ray does so on Windows and macOS, where it makes no clusters; this is its name for making some.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def quiet(verbose: bool) -> None:
    """Sets what Ray reads from the environment when it is imported and started."""
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # relative paths of teachers stay valid
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Tune's own record of a run, which dgym does not read; with thousands of trials it is written slowly.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "86400")
    # How many trials may wait for a process is settled by how many run at a time. By default it is one where the
    # trials do not come from Tune itself, and it then throws away processes that could be used again.
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "100000")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's default of 15 starves the students as soon as anything else runs on the machine.
    os.environ.setdefault("RAY_worker_niceness", "0")
    if not verbose:
        logging.getLogger("ray").setLevel(logging.CRITICAL)


def frugal(verbose: bool) -> None:
    """Sets that what Ray starts here leaves out what nobody reads: that takes time from the students."""
    # Statistics of its event loops, for its log files, and what became of each call, for its dashboard.
    os.environ.setdefault("RAY_event_stats", "0")
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
    if not verbose:
        # It looks for new log files ten times a second, to show what they say.
        os.environ.setdefault("RAY_LOG_MONITOR_MANY_FILES_THRESHOLD", "0")
        os.environ.setdefault("LOG_NAME_UPDATE_INTERVAL_S", "60")
