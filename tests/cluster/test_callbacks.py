"""Trackers on a real local Ray: what was logged is read back from the files that they wrote."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from dgym import results
from dgym.bench import Job, bench
from dgym.cluster import RayBackend
from dgym.core import Budget, Rules
from dgym.errors import UsageError
from dgym.specs import EpisodeSpec, Seeds, identify

RULES = Rules(iterations=2, budget=Budget(20))
HERE = tuple(n for n, package in (("mlflow", "mlflow"), ("wandb", "wandb")) if find_spec(package))


def specs() -> list[EpisodeSpec]:
    where = {"domain": "fake", "student": "fake", "environment": "skill-list", "rules": RULES}
    return [EpisodeSpec(teacher=name, seeds=Seeds.all(1), **where) for name in ("uniform", "weakness")]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Two episodes on Ray, logged to TensorBoard and to what else is installed."""
    folder = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        patch.setenv("WANDB_MODE", "offline")
        summary = bench(specs(), folder, suite="tracked", backend=RayBackend(workers=1, track=("tensorboard", *HERE)))
    assert (len(summary.ok), summary.failed) == (2, [])
    return folder


def scores(run: Path) -> dict[str, list[float]]:
    """The selection scores of every iteration by teacher, from the run's own tables."""
    steps = results.open(run).steps.sort_values("iteration")
    return {str(teacher): part["selection"].tolist() for teacher, part in steps.groupby("teacher")}


def test_tensorboard_has_the_scores_in_a_folder_for_each_episode(run: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    logged = {}
    for folder in (run / "tensorboard").iterdir():
        teacher, environment, domain, seed, digest = folder.name.split("_")
        assert (environment, domain, seed) == ("skill-list", "fake", "1")
        assert any(identify(s).digest.startswith(digest) for s in specs())
        found = {}
        for record in records(next(folder.glob("events.out.tfevents.*"))):
            event = Event.FromString(record)
            for value in event.summary.value:
                if value.tag == "ray/tune/score":
                    found[event.step] = value.simple_value
        assert list(found) == [1, 2, 3], "step 1 is the untrained student"
        logged[teacher] = list(found.values())
    assert logged == {teacher: pytest.approx(values) for teacher, values in scores(run).items()}


def records(file: Path) -> list[bytes]:
    """Reads TensorBoard's record format: length, checksum, data, checksum."""
    raw, out, place = file.read_bytes(), [], 0
    while place < len(raw):
        length = int.from_bytes(raw[place : place + 8], "little")
        out.append(raw[place + 12 : place + 12 + length])
        place += length + 16
    return out


@pytest.mark.skipif("mlflow" not in HERE, reason="mlflow is not installed")
def test_mlflow_has_the_scores_and_what_the_episode_was(run: Path, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    client = MlflowClient((run / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("tracked")
    found = {}
    for logged in client.search_runs([experiment.experiment_id]):
        assert logged.info.status == "FINISHED"
        assert logged.data.params["episode/environment"] == "skill-list"
        history = client.get_metric_history(logged.info.run_id, "score")
        found[logged.data.params["episode/teacher"]] = [m.value for m in sorted(history, key=lambda m: m.step)]
    assert found == {teacher: pytest.approx(values) for teacher, values in scores(run).items()}


@pytest.mark.skipif("wandb" not in HERE, reason="wandb is not installed")
def test_wandb_logs_offline_into_the_results_folder(run: Path) -> None:
    files = list((run / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    assert all(b"score" in file.read_bytes() for file in files)
    assert {t for t in (b"uniform", b"weakness") for file in files if t in file.read_bytes()} == {
        b"uniform",
        b"weakness",
    }


def test_the_rows_are_those_of_a_run_that_nobody_tracks(run: Path, tmp_path: Path) -> None:
    from tests.rows import assert_same_rows

    bench(specs(), tmp_path, suite="tracked")
    assert_same_rows(run, tmp_path)


def test_what_trackers_write_stays_on_this_machine_where_results_go_elsewhere(monkeypatch, tmp_path: Path) -> None:
    from dgym.cluster.callbacks import callbacks

    monkeypatch.chdir(tmp_path)
    (made,) = callbacks(["tensorboard"], Job([], "memory://bucket/run", "mine"))
    assert made._folder == tmp_path / "runs" / "mine" / "tensorboard"
    (made,) = callbacks(["tensorboard"], Job([], "file:///results/run", "mine"))
    assert made._folder == Path("/results/run/tensorboard")


def test_an_unknown_tracker_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"no tracker named 'tensorbord'\. Did you mean 'tensorboard'\?"):
        RayBackend(track=("tensorbord",)).run(Job([], Path()), print)


def test_a_missing_package_is_one_line_that_says_what_to_install(monkeypatch) -> None:
    from dgym.cluster import callbacks

    monkeypatch.setattr(callbacks, "find_spec", lambda name: None)
    for name in callbacks.TRACKERS:
        with pytest.raises(UsageError, match=r'pip install "dgym\[track\]"'):
            callbacks.check([name])


def test_wandb_without_a_key_is_one_line(monkeypatch, tmp_path: Path) -> None:
    from dgym.cluster import callbacks

    monkeypatch.setattr(callbacks, "find_spec", lambda name: name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="WANDB_API_KEY, or WANDB_MODE=offline"):
        callbacks.check(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    callbacks.check(["wandb"])
    monkeypatch.delenv("WANDB_MODE")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key")
    callbacks.check(["wandb"])


def test_names_of_trials_are_names_of_folders() -> None:
    from dgym.cluster.callbacks import named

    spec = EpisodeSpec(teacher="weakness", teacher_params={"replay": 0.5}, domain="fake", student="fake")
    name = named(Job([identify(spec)], Path()))(type("Trial", (), {"config": {"index": 0}}))
    assert name == f"weakness-replay=0.5-_open-ended_fake_1_{identify(spec).digest[:8]}"
