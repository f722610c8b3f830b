"""One episode as a Ray Tune trial, in a process that is reused from trial to trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import ray
from ray import tune
from ray.air._internal import usage
from ray.air.execution._internal import RayActorManager
from ray.tune.execution import tune_controller
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from dgym.bench import Job, Progress, Report, failed, recorded, student_config
from dgym.chat import session
from dgym.cluster import Shared
from dgym.cluster.chat import remote_session
from dgym.cluster.deaths import FEWER, out_of_memory
from dgym.cluster.hosts import open_student
from dgym.cluster.pool import RayPool
from dgym.errors import InfrastructureError
from dgym.results.writer import EpisodeWriter
from dgym.specs import Identity

# Tune counts callbacks for usage statistics, which dgym turns off. To tell whose they are, it would import MLflow and
# the other trackers, which takes seconds where they are installed.
usage.tag_callbacks = lambda _: False

RESTARTS: Final = 3
"""How often an episode whose process died begins again before it ends as failed."""


class _Actors(RayActorManager):  # type: ignore[misc]
    """Tune's own, for which a trial's process has died however Ray tells of it.

    Of one that it killed to free memory, for example, Ray tells with an error at which Tune would end the whole run.
    """

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        known = ray.exceptions.RayActorError, ray.exceptions.RayTaskError
        if isinstance(exception, ray.exceptions.RayError) and not isinstance(exception, known):
            exception = ray.exceptions.RayActorError(error_msg=str(exception))
        super()._actor_task_failed(tracked_actor_task, exception)


tune_controller.RayActorManager = _Actors


class EpisodeTrial(tune.Trainable):  # type: ignore[misc]
    """Leases a student, runs an episode, writes its rows, and reports one metric row per iteration.

    Tune schedules; the results folder is the record of what is done. There are therefore no checkpoints: a trial that
    is tried again runs its episode from the start, with the same outcome.
    """

    def setup(self, config: dict[str, Any], job: Job, shared: Shared) -> None:
        """Called once per process."""
        session.begin(remote_session(job.chat, shared.desk))
        self._job, self._manager = job, shared.manager
        self._workers, self._alone = shared.workers, shared.alone
        self._open(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called when the process is reused for another trial."""
        self._end()
        self._open(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Runs the episode's next iteration."""
        progress = next(self._progress)
        # The last iteration's row and the end of the episode are one report.
        if progress.status == "running" and progress.last:
            progress = next(self._progress)
        if progress.status != "running":
            self._end()
        return {**vars(progress), tune.result.DONE: progress.status != "running"}

    def cleanup(self) -> None:
        """Called when the process ends."""
        self._end()

    def _open(self, config: Mapping[str, Any]) -> None:
        self._identity: Identity = self._job.episodes[config["index"]]
        self._student: Any = None
        self._progress: Iterator[Progress] = self._run()

    def _run(self) -> Iterator[Progress]:
        identity, spec = self._identity, self._identity.spec
        writer = EpisodeWriter(self._job.folder, identity, self._job.suite)
        deaths = writer.deaths
        try:
            deaths["episode"] = ray.get(self._manager.begin.remote(identity.digest))
            config = student_config(identity)
            # Ray shows each host its own GPUs only: the first one there is whatever it was given.
            config = replace(config, device=config.device.partition(":")[0])
            self._student = open_student(self._manager, identity.digest, config, deaths)
        except Exception as error:
            yield failed(identity, error, writer)
            return
        shift = int(identity.digest, 16)
        pool = RayPool(self._workers, spec.teacher, spec.teacher_params, shift, self._alone, deaths)
        yield from recorded(identity, self._student, lambda _: pool, writer)

    def _end(self) -> None:
        if self._student is not None:
            self._student.close()
            self._student = None


class InOrder(Searcher):  # type: ignore[misc]
    """Gives Tune the trials of some episodes, in order.

    At first there is one for each host. Every report lets another begin, until as many run as may: processes that start
    together take the processors from each other, and the hosts would wait for the last of them.

    Tune's own grid search copies the list of all trials for each of them.

    Args:
        configs: A configuration for each.
        hosts: How many begin at first.
        at_a_time: How many may run at a time; may be changed meanwhile.
    """

    def __init__(self, configs: Sequence[Mapping[str, Any]], hosts: int, at_a_time: int) -> None:
        super().__init__()
        self._left = iter(configs)
        self._running: set[str] = set()
        self._admitted = hosts
        self.at_a_time = at_a_time

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Returns the next trial's configuration; `None` while enough of them run."""
        if len(self._running) >= min(self.at_a_time, self._admitted):
            return None
        config = next(self._left, None)
        if config is None:
            finished: dict[str, Any] = Searcher.FINISHED
            return finished
        self._running.add(trial_id)
        return dict(config)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Lets another begin."""
        self._admitted += 1

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Makes room for the next."""
        self._running.discard(trial_id)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Stores nothing: the results folder is the record of what is done."""


class Latest(FIFOScheduler):  # type: ignore[misc]
    """Gives a process that became free to the episode that was added last, of those that are not over.

    There are never more episodes waiting than run at a time, and they are added in their order. For the first of those
    that wait, a process is being started already; Tune's own scheduler would give it the free one and throw the other
    away, again and again where episodes are shorter than the start of a process. It also looks through all trials, each
    time that something happens.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Returns the last trial that waits; `None` if there is none."""
        waiting = [trial for trial in tune_controller.get_live_trials() if trial.status == Trial.PENDING]
        return max(waiting, key=lambda trial: trial.config["index"], default=None)


class Watcher(tune.Callback):  # type: ignore[misc]
    """Lives in the driver: passes on progress, and reclaims what a trial that died has leased.

    Args:
        job: The episodes.
        report: Takes every progress.
        manager: The host manager's handle.
        follow: Called often, with the number of episodes that have not ended.
    """

    def __init__(self, job: Job, report: Report, manager: Any, follow: Callable[[int], None] | None = None) -> None:
        self._job, self._report, self._manager, self._follow = job, report, manager, follow
        self._left = len(job.episodes)

    def __getstate__(self) -> dict[str, Any]:
        # Tune stores its callbacks so that it could restore a run; dgym never does, and a display is no data.
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Passes on an iteration's metrics."""
        progress = Progress(**{name: result[name] for name in Progress.__dataclass_fields__})
        self._left -= progress.status != "running"
        self._report(progress)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Lets hosts follow the queue."""
        if self._follow is not None:
            self._follow(self._left)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Reclaims the lease of a trial that will be tried again."""
        self._manager.release.remote(self._identity(trial).digest)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Reclaims the lease of a trial that died for good, and stores it as failed."""
        identity = self._identity(trial)
        self._manager.release.remote(identity.digest)
        self._left -= 1
        seen = Path(trial.error_file)  # where Tune writes what it was told of each death
        low = seen.exists() and out_of_memory(seen.read_text())
        hint = f"out of memory; {FEWER}" if low else "run with -v to see Ray's messages."
        error = InfrastructureError(f"The process of this episode died {RESTARTS + 1} times; {hint}")
        writer = EpisodeWriter(self._job.folder, identity, self._job.suite)
        writer.deaths["episode"] = RESTARTS + 1
        self._report(failed(identity, error, writer))

    def _identity(self, trial: Any) -> Identity:
        index: int = trial.config["index"]
        return self._job.episodes[index]
