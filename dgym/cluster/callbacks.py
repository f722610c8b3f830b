"""Experiment trackers, through Ray Tune's own callbacks: TensorBoard, MLflow, Weights & Biases.

A trial is an episode, and its name and configuration say which. Logged is what a backend reports: after each iteration
the selection score (`score`) and the number of the iteration, beside what Tune adds. Tune counts reports from 1, so
that step 1 is the untrained student.

The trackers are for watching and for comparing with other work; the record of a run is its results folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from ray import tune
from ray.tune.logger import TBXLoggerCallback

from dgym.bench import Job
from dgym.errors import UsageError, unknown_name
from dgym.results.place import Place
from dgym.results.writer import label_of
from dgym.specs import Identity

_PACKAGES: Final = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
"""Every tracker, with the module that it needs."""

TRACKERS: Final = tuple(_PACKAGES)


def check(names: Sequence[str]) -> None:
    """Checks that trackers can be used, before anything is started.

    Raises:
        UsageError: If there is no such tracker, if its package is missing, or if W&B has no key.
    """
    for name in names:
        if name not in TRACKERS:
            raise unknown_name("tracker", name, TRACKERS)
        if find_spec(_PACKAGES[name]) is None:
            raise UsageError(f'The tracker {name!r} needs the package {_PACKAGES[name]}: pip install "dgym[track]".')
    offline = os.environ.get("WANDB_MODE") in ("offline", "disabled")
    if "wandb" in names and not offline and not os.environ.get("WANDB_API_KEY") and not _logged_in():
        raise UsageError(
            "The tracker 'wandb' needs a key: set WANDB_API_KEY, or WANDB_MODE=offline to log to the results folder."
        )


def _logged_in() -> bool:
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return file.is_file() and "wandb" in file.read_text(encoding="utf-8", errors="replace")


def callbacks(names: Sequence[str], job: Job) -> list[tune.Callback]:
    """Makes the callbacks of some trackers.

    Everything goes below the results folder, or below `runs/SUITE` of this machine where results go elsewhere, as these
    files grow while they are written: `tensorboard/`, a folder for each episode; `mlflow/`, an MLflow file
    store with the suite as experiment, unless `MLFLOW_TRACKING_URI` names a server; and W&B's own `wandb/`, the suite
    being the group in the project `dgym` unless `WANDB_PROJECT` names another.
    """
    suite = job.suite or "dgym"
    place = Place.of(job.folder)
    folder = Path(place.path if place.local else Path("runs") / suite).absolute()
    made: list[tune.Callback] = []
    if "tensorboard" in names:
        made.append(_TensorBoard(folder / "tensorboard"))
    if "mlflow" in names:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            uri = (folder / "mlflow").as_uri()
            # MLflow keeps its file store without developing it, and wants to be told that it is meant.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        made.append(MLflowLoggerCallback(tracking_uri=uri, experiment_name=suite))
    if "wandb" in names:
        from ray.air.integrations.wandb import WandbLoggerCallback

        project = os.environ.get("WANDB_PROJECT", "dgym")
        made.append(WandbLoggerCallback(project=project, group=suite, dir=str(folder)))
    return made


def described(job: Job) -> list[dict[str, Any]]:
    """Returns what the trials' configurations say about their episodes, beside the index."""
    return [{"episode": _about(identity, job.suite)} for identity in job.episodes]


def named(job: Job) -> Callable[[Any], str]:
    """Returns what names trials, for people and as folders: teacher, environment, domain, seed and digest."""
    names = [_name(identity) for identity in job.episodes]
    return lambda trial: names[trial.config["index"]]


def _about(identity: Identity, suite: str) -> dict[str, Any]:
    spec = identity.spec
    return {
        "suite": suite,
        "teacher": label_of(spec),
        "environment": spec.environment,
        "domain": spec.domain,
        "student": spec.student,
        "variant": identity.variant,
        "variation": spec.variation,
        "seed": spec.seeds.variant,
        "digest": identity.digest,
    }


def _name(identity: Identity) -> str:
    spec = identity.spec
    text = f"{label_of(spec)}_{spec.environment}_{spec.domain}_{spec.seeds.variant}_{identity.digest[:8]}"
    return "".join(char if char.isalnum() or char in "._-@=" else "-" for char in text)


class _TensorBoard(TBXLoggerCallback):  # type: ignore[misc]
    """Ray's own, with event files that outlive Tune's scratch folder.

    Args:
        folder: Where a folder is made for each trial.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def log_trial_start(self, trial: Any) -> None:
        """Opens a trial's event file; anew where the trial is tried again."""
        if trial in self._trial_writer:
            self._trial_writer[trial].close()
        self._trial_writer[trial] = self._summary_writer_cls(str(self._folder / str(trial)), flush_secs=30)
        self._trial_result[trial] = {}
