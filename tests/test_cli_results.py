"""Commands on results: what they print, and the one line that says what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dgym import leaderboard, results
from dgym.cli import app
from dgym.errors import UsageError
from dgym.results.schema import TABLES
from dgym.results.writer import announce
from tests.test_leaderboard import run_episode


def invoke(*args, fails=False):
    done = CliRunner().invoke(app, list(map(str, args)))
    if fails:
        assert isinstance(done.exception, UsageError), done.output
        message = str(done.exception)
        assert "\n" not in message
        return message
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mine"
    for seed in (1, 2, 3):
        for environment in ("open-ended", "skill-list"):
            run_episode(folder, "weakness", seed, 10, 25 + seed, last=24, environment=environment, domain="fake")
        run_episode(folder, "uniform", seed, 10, 14 + seed % 3, state_blind=True, privileged=True, domain="fake")
        run_episode(folder, "no-data", seed, 10, 10, state_blind=True, ranked=False, domain="fake")
    return folder


def test_the_leaderboard_is_shown_with_or_without_its_name(run, tmp_path):
    shown = invoke("leaderboard", run)
    assert shown == invoke("leaderboard", "show", run)
    assert "Track: skill-list" in shown
    given = json.loads(invoke("leaderboard", "--json", run, "--out", tmp_path / "out"))
    assert given == leaderboard.build(results.open(run)).plain()
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_leaderboards_of_several_runs_are_built_into_one_folder(run, tmp_path):
    shutil.copytree(run, tmp_path / "other")
    given = json.loads(invoke("leaderboard", "build", run, tmp_path / "other", "--out", tmp_path / "out", "--json"))
    assert [name.rpartition("/")[2] for name in given["files"]] == [
        "leaderboard.md", "leaderboard.csv", "leaderboard.json", "index.html"
    ]  # fmt: skip
    content = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert list(content["runs"]) == ["mine", "other"]
    shutil.copytree(run, tmp_path / "deep" / "mine")
    invoke("leaderboard", "build", run, tmp_path / "deep" / "mine", "--out", tmp_path / "alike")
    assert list(json.loads((tmp_path / "alike" / "leaderboard.json").read_text())["runs"]) == [
        str(run), str(tmp_path / "deep" / "mine")
    ]  # fmt: skip
    assert "twice" in invoke("leaderboard", "build", run, run, "--out", tmp_path, fails=True)


def test_two_teachers_and_two_runs_are_compared(run, tmp_path):
    shown = invoke("compare", "weakness", "uniform", "--run", run)
    assert "weakness minus uniform, overall" in shown
    rows = json.loads(invoke("compare", "weakness", "uniform", "--run", run, "--json"))["rows"]
    assert [(row["track"], row["domain"]) for row in rows][:2] == [("open-ended", None), ("open-ended", "fake")]
    assert f"{rows[0]['difference']:+.1f} [" in shown
    shutil.copytree(run, tmp_path / "other")
    shown = invoke("compare", run, tmp_path / "other")
    assert "all together" in shown
    assert "0.0 [0.0, 0.0]" in shown
    assert "name two of a kind" in invoke("compare", run, "uniform", fails=True)
    assert "Did you mean 'uniform'" in invoke("compare", "weakness", "unifrom", "--run", run, fails=True)
    assert "no run in" in invoke("compare", "weakness", "uniform", "--run", tmp_path / "nowhere", fails=True)


def test_grading_again_says_what_changed(run, tmp_path):
    # The stored problems are none of the domain's.
    shown = invoke("rescore", run)
    assert "keep their grade" in shown
    given = json.loads(invoke("rescore", run, "--out", tmp_path / "new", "--json"))
    (domain,) = given["domains"]
    assert (domain["domain"], domain["changed"], domain["missing"]) == ("fake", 0, domain["attempts"])
    assert leaderboard.build(results.open(tmp_path / "new")).json() == leaderboard.build(results.open(run)).json()


def test_parts_are_merged(run, tmp_path):
    shutil.copytree(run, tmp_path / "mine")
    given = json.loads(invoke("compact", tmp_path / "mine", "--json"))
    assert given["folder"] == str(tmp_path / "mine" / "compact")
    assert set(given["bytes"]) == set(TABLES)
    assert len(results.open(tmp_path / "mine" / "compact").episodes) == len(results.open(tmp_path / "mine").episodes)
    assert "attempts.parquet" in invoke("compact", run, "--out", tmp_path / "out")


def test_columns_are_explained():
    assert "the problem's gold skill" in invoke("columns", "attempts")
    assert invoke("columns", "--markdown").startswith("# Columns of results")
    assert {row["table"] for row in json.loads(invoke("columns", "curves", "--json"))} == {"curves"}
    assert "Did you mean 'attempts'" in invoke("columns", "attemts", fails=True)


def test_where_there_is_nothing_to_rank_one_line_says_why(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for command in (["leaderboard"], ["leaderboard", "build", "--out", tmp_path / "out"]):
        assert "no episode yet" in invoke(*command, tmp_path / "empty", fails=True)
    shutil.copytree(run, tmp_path / "lost")
    shutil.rmtree(tmp_path / "lost" / "attempts")
    with pytest.warns(UserWarning, match="has no table attempts"):
        assert "the table attempts is missing" in invoke("leaderboard", tmp_path / "lost", fails=True)
    for part in (tmp_path / "lost" / "episodes").rglob("*.parquet"):
        part.write_bytes(part.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="left out"):
        said = invoke("leaderboard", tmp_path / "lost", fails=True)
    assert "12 files of the table episodes cannot be read" in said


def test_a_partial_result_says_that_it_is_partial(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    announce(tmp_path / "run", [*results.open(run).episodes.digest, "one more"])
    partial = "1 of 13 planned episodes have no result yet"
    for args in (["leaderboard"], ["compare", tmp_path / "run"], ["rescore"], ["compact"]):
        command = [*args, tmp_path / "run"]
        assert partial in invoke(*command), args
        assert partial in invoke(*command, "--json"), args


def test_errors_and_warnings_of_a_process_are_lines_and_its_status_is_not_zero(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for part in sorted((tmp_path / "run" / "steps").rglob("*.parquet"))[:2]:
        part.write_bytes(b"PAR1")

    def dgym(*args):
        return subprocess.run([sys.executable, "-m", "dgym", *args], capture_output=True, text=True, check=False)

    done = dgym("leaderboard", str(tmp_path / "run"))
    assert done.returncode == 0
    assert "Partial: 2 files of the table steps cannot be read." in done.stdout
    assert done.stderr.startswith("dgym: ")
    assert done.stderr.count("\n") == 1
    assert "(and 1 more)" in done.stderr
    done = dgym("leaderboard", str(tmp_path / "nowhere"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no run in" in done.stderr
