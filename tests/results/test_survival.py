"""What goes wrong with the results folder while a run goes on: a message or a repair, and never a wrong number."""

import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import dgym.bench
from dgym import leaderboard, results
from dgym.bench import bench
from dgym.core import Budget, Rules
from dgym.errors import InfrastructureError, TeacherError, UsageError
from dgym.results import EpisodeWriter, reader, writer
from dgym.results.place import Place
from dgym.results.schema import FINISHED, TABLES
from dgym.specs import EpisodeSpec, Seeds
from tests.results.episodes import identity, step
from tests.rows import assert_same_rows

RULES = Rules(iterations=1, budget=Budget(10))


def specs(seeds=(1, 2, 3, 4)):
    fields = {"teacher": "uniform", "domain": "fake", "student": "fake", "rules": RULES}
    return [EpisodeSpec(**fields, seeds=Seeds.all(seed)) for seed in seeds]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert len(bench(specs(), folder).ok) == 4
    return folder


@pytest.fixture
def run(undisturbed, tmp_path):
    return Path(shutil.copytree(undisturbed, tmp_path / "run"))


def after(count, action):
    """Does something when so many episodes have ended well."""
    ended = []

    def report(progress):
        if progress.status == "ok":
            ended.append(progress)
            if len(ended) == count:
                action()

    return report


def test_on_a_full_disk_the_rest_fails_at_once_and_is_run_when_there_is_room(undisturbed, tmp_path, monkeypatch):
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    played = []
    loop = dgym.bench.run_episode
    monkeypatch.setattr(dgym.bench, "run_episode", lambda *args: played.append(1) or loop(*args))
    try:
        # As on a disk with room for a block more, but for this process alone.
        full = after(2, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard)))
        summary = bench(specs(), tmp_path / "run", report=full)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert (len(summary.ok), len(summary.failed), len(played)) == (2, 2, 2)
    assert all("File too large" in progress.message for progress in summary.failed)
    assert len(results.finished(tmp_path / "run")) == 2
    assert len(results.open(tmp_path / "run").episodes) == 2
    again = bench(specs(), tmp_path / "run")
    assert (again.skipped, len(again.ok)) == (2, 2)
    assert_same_rows(tmp_path / "run", undisturbed)


def test_a_full_disk_is_seen_before_anything_is_run(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(UsageError, match=r"cannot be written: File too large\. Name another with --out"):
            bench(specs(), tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_folder_that_vanishes_ends_the_run_and_nothing_is_ranked_in_its_place(undisturbed, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(InfrastructureError, match="has vanished during the run"):
        bench(specs(), run, report=after(2, lambda: shutil.rmtree(run)))
    # Not made anew by the episodes that came later: it may be a mount point.
    assert not run.exists()
    assert len(bench(specs(), run).ok) == 4
    assert_same_rows(run, undisturbed)


def test_objects_that_vanish_end_the_run(undisturbed):
    url = "memory://vanishing/run"
    system = Place.of(url).system.handler.fs
    with pytest.raises(InfrastructureError, match="has vanished during the run"):
        bench(specs(), url, report=after(2, lambda: system.rm("/vanishing", recursive=True)))
    again = bench(specs(), url)
    assert (again.skipped, len(again.ok)) == (2, 2)
    assert_same_rows(url, undisturbed)


@pytest.mark.parametrize("table", TABLES)
def test_a_truncated_file_is_never_counted_and_its_episode_runs_again(undisturbed, run, table):
    part = sorted((run / table).rglob("*.parquet"))[1]
    part.write_bytes(part.read_bytes()[:-40])
    opened = results.open(run)
    with pytest.warns(UserWarning, match="left out"):
        left = getattr(opened, table)
    assert len(left) == len(getattr(results.open(undisturbed), table).query("digest != @part.stem"))
    assert any("Partial: " in line for line in opened.partial)
    assert set(opened.partial) <= set(leaderboard.build(opened).notes)
    assert part.stem not in results.finished(run)
    again = bench(specs(), run)
    assert (again.skipped, again.ok) == (3, [part.stem])
    assert_same_rows(run, undisturbed)
    assert part.stem in results.finished(run)


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_finished_episodes_are_known_from_names_and_sizes_alone(undisturbed, run, monkeypatch, kind):
    if kind == "memory":
        for path in [p for p in undisturbed.rglob("*") if p.is_file()]:
            Place.of("memory://named").write(path.read_bytes(), *path.relative_to(undisturbed).parts)
        run = "memory://named"
    monkeypatch.setattr(writer, "read_part", None)
    monkeypatch.setattr(reader.pq, "ParquetFile", None)
    assert len(results.finished(run)) == 4


def test_a_run_from_before_there_were_notes_is_continued_too(undisturbed, run):
    shutil.rmtree(run / FINISHED)
    assert results.finished(run) == results.finished(undisturbed)
    assert bench(specs((1, 2, 3, 4, 5)), run).skipped == 4


def test_a_stopped_or_failed_episode_has_no_note(tmp_path):
    ends = [("the limit on spending", None), ("", TeacherError("no idea")), ("", None)]
    for number, (stopped, error) in enumerate(ends):
        write = EpisodeWriter(tmp_path, identity(seed=number), "made")
        write.add(replace(step(0, [1]), stopped=stopped))
        write.fail(error) if error else write.finish()
    notes = [path.name.partition(".")[0] for path in (tmp_path / FINISHED).iterdir()]
    assert set(notes) == results.finished(tmp_path) == {identity(seed=2).digest}
