"""A run in an object store is the run in a folder: in process, on Ray, killed and continued, without a key in it."""

import json
import os
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from dgym import results
from dgym.bench import LocalBackend, bench
from dgym.cli import app
from dgym.cluster import RayBackend
from dgym.results.place import Place
from dgym.specs import load_suite
from tests.rows import assert_same_rows
from tests.s3 import KEY, SECRET, serving


@pytest.fixture
def s3():
    with serving() as url:
        yield url


def smoke(count):
    """The first episodes of the suite `smoke` in each of its environments."""
    episodes = [spec for spec in load_suite("smoke").episodes() if spec.seeds.variant == 1]
    parts = [[s for s in episodes if s.environment == name] for name in ("open-ended", "skill-list")]
    return [spec for part in parts for spec in part[: count // 2]]


@pytest.mark.parametrize(
    ("count", "backend"),
    [(4, LocalBackend()), pytest.param(14, RayBackend(hosts=2), marks=pytest.mark.slow)],
    ids=["in-process", "ray"],
)
def test_a_run_in_an_object_store_has_the_rows_of_a_run_in_a_folder(s3, tmp_path, count, backend):
    specs, url = smoke(count), f"{s3}/run"
    assert len({spec.environment for spec in specs}) == 2
    assert len(bench(specs, tmp_path / "run").ok) == len(specs)
    summary = bench(specs, url, backend=backend)
    assert len(summary.ok) == len(specs), summary.failed
    assert_same_rows(url, tmp_path / "run")
    assert results.open(url).partial == ()
    again = bench(specs, url, backend=backend)
    assert (again.skipped, again.ok) == (len(specs), [])


SUITE = """
name = "kill"
seeds = [1, 2, 3]
rules = { iterations = 3, budget = { examples_per_iteration = 30 } }
cells = [{ domain = "fake", student = "fake" }]
entries = [{ teachers = ["uniform", "weakness", "random", "wrong-answers"] }]
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["local", "ray"])
def test_a_killed_run_in_an_object_store_is_continued(s3, tmp_path, backend):
    suite, run = tmp_path / "kill.toml", f"{s3}/killed"
    suite.write_text(SUITE)
    command = [sys.executable, "-m", "dgym", "bench", "--suite", str(suite), "--out"]
    words = [*command, run, "--backend", backend]
    quiet = subprocess.DEVNULL
    victim = subprocess.Popen(words, stdout=quiet, stderr=quiet, start_new_session=True)
    place = Place.of(run)
    while len(place.files("episodes", suffix=".parquet")) < 2 and victim.poll() is None:
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    finished = results.finished(run)
    assert len(finished) >= 1

    done = subprocess.run([*words, "--json"], check=True, capture_output=True, text=True)
    report = json.loads(done.stdout)
    # Whatever was being written when the driver was killed may have been finished by a process that outlived it.
    assert report["skipped"] >= len(finished)
    assert report["skipped"] + report["ok"] == report["episodes"]
    assert report["folder"] == run
    folder = tmp_path / "undisturbed"
    subprocess.run([*command, str(folder), "--backend", "local"], check=True, capture_output=True)
    assert_same_rows(run, folder)
    ranked = ["track", "teacher", "rank_best", "gain", "gain_low", "last_gain", "examples"]
    board = pd.read_csv(BytesIO(place.read("leaderboard.csv")))[ranked]
    pd.testing.assert_frame_equal(board, pd.read_csv(folder / "leaderboard.csv")[ranked])
    assert {"leaderboard.md", "leaderboard.json"} <= set(map(str, place.sizes()))


def test_commands_on_results_write_to_an_object_store_and_keep_no_key(s3, tmp_path):
    run, merged = f"{s3}/suite", f"{s3}/merged"

    def dgym(*words):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    suite = tmp_path / "one.toml"
    suite.write_text(SUITE.replace("[1, 2, 3]", "[1]"))
    said = dgym("bench", "--suite", str(suite), "--backend", "local", "--out", run)
    assert f"leaderboard.md are in {run}" in said
    said += dgym("compact", run)
    said += dgym("rescore", run, "--out", merged)
    said += dgym("leaderboard", merged, "--out", f"{s3}/board")
    assert_same_rows(run, f"{run}/compact")
    place = Place.of(s3)
    names = list(map(str, place.sizes()))
    assert {"suite/compact/attempts.parquet", "merged/episodes.parquet", "board/leaderboard.md"} <= set(names)
    # Nothing of this was written to a folder called "s3:" here.
    assert not Path("s3:").exists()
    for text in (said, *(place.read(name).decode("latin-1") for name in names)):
        assert KEY not in text
        assert SECRET not in text
