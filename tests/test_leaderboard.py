"""The leaderboard, from real result files."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from dgym import leaderboard, results
from dgym.core import Rules
from dgym.errors import TeacherError, UsageError
from dgym.results.statistics import Bootstrap
from tests.results.episodes import episode, identity, step

BOOTSTRAP = Bootstrap(500)
PROBLEMS = 40


def run_episode(folder, teacher, seed, base, chosen, *, last=None, error=None, **fields):
    """Stores an episode whose student solves the given numbers of 40 problems."""
    writer = results.EpisodeWriter(folder, identity(teacher, seed, **fields), "quick")
    tests = [np.arange(PROBLEMS) < solved for solved in (base, chosen, chosen if last is None else last)]
    for one in episode(*tests) if error is None else episode(*tests)[:1]:
        writer.add(one)
    if error is None:
        writer.finish()
    else:
        writer.fail(error)


def no_data(folder, seed):
    writer = results.EpisodeWriter(folder, identity("no-data", seed, state_blind=True, ranked=False), "quick")
    scores = np.arange(PROBLEMS) % 2
    for iteration in range(3):
        writer.add(step(iteration, [1, 0], scores, examples=0, rejected=0))
    writer.finish()


@pytest.fixture
def run(tmp_path):
    """Two tracks; weakness enters both, skills only one; five seeds."""
    for seed in range(1, 6):
        for environment in ("open-ended", "skill-list"):
            run_episode(tmp_path, "weakness", seed, 10, 25 + seed, last=24, environment=environment)
        run_episode(tmp_path, "skills", seed, 10, 12 + seed % 2, last=12, environment="skill-list", privileged=True)
        run_episode(tmp_path, "uniform", seed, 10, 14 + seed % 3, last=12, state_blind=True, privileged=True)
        no_data(tmp_path, seed)
    return results.open(tmp_path)


def table(board, track):
    return next(t for t in board.tables if t.track == track)


def rows(board, track="open-ended"):
    return {row.teacher: row for row in table(board, track).rows}


def test_tracks_state_blind_teachers_and_the_overall_table(run):
    board = leaderboard.build(run, BOOTSTRAP)
    assert [t.track for t in board.tables] == ["open-ended", "skill-list", "overall"]
    assert list(rows(board)) == ["weakness", "uniform", "no-data"]
    assert list(rows(board, "skill-list")) == ["weakness", "uniform", "skills", "no-data"]
    assert list(rows(board, "overall")) == ["weakness", "uniform", "no-data"]
    assert board.notes == ()


def test_figures_of_a_row(run):
    row = rows(leaderboard.build(run, BOOTSTRAP))["weakness"]
    assert row.gain.value == pytest.approx(100 * (25 + 3 - 10) / 40)
    assert row.gain.interval[0] < row.gain.value < row.gain.interval[1]
    assert row.last.value == pytest.approx(100 * 14 / 40)
    assert (row.seeds, row.failures, row.privileged, row.control) == (5, 0, False, False)
    assert (row.examples, row.tokens, row.student_seconds) == (24, 48, 6)
    # Selection goes 0, 0.5, 0 at 0, 12 and 24 of 300 examples.
    assert row.area == pytest.approx(50 * 12 / 300)


def test_no_data_is_exactly_zero(run):
    row = rows(leaderboard.build(run, BOOTSTRAP))["no-data"]
    assert (row.gain.value, row.gain.interval) == (0, (0, 0))
    assert (row.last.value, row.last.interval) == (0, (0, 0))
    assert row.area == 0
    assert row.rank is None


def test_ranks_are_intervals_and_ties_share_them(run):
    found = rows(leaderboard.build(run, BOOTSTRAP), "skill-list")
    assert found["weakness"].rank == (1, 1)
    assert found["uniform"].rank[0] == 2
    assert found["no-data"].unranked == "control or ceiling"


def test_few_seeds_are_shown_unranked(tmp_path):
    for seed in range(1, 4):
        run_episode(tmp_path, "three", seed, 10, 20 + seed)
    run_episode(tmp_path, "one", 1, 10, 20)
    board = leaderboard.build(results.open(tmp_path), BOOTSTRAP)
    found = rows(board)
    assert (found["three"].rank, found["one"].rank) == (None, None)
    assert found["three"].gain.interval is not None
    assert found["one"].gain.interval is None
    assert "Not ranked: three: 3 seeds, a rank needs 5." in board.tables[0].notes


def test_a_failed_episode_counts_as_the_lower_of_zero_and_the_worst_seed(tmp_path):
    for teacher, shift in (("good", 8), ("bad", -8)):
        for seed in (1, 2):
            run_episode(tmp_path, teacher, seed, 20, 20 + shift)
        run_episode(tmp_path, teacher, 3, 20, 20, error=TeacherError("no"))
    run_episode(tmp_path, "never", 1, 20, 20, error=TeacherError("no"))
    found = rows(leaderboard.build(results.open(tmp_path), BOOTSTRAP))
    assert found["good"].gain.value == pytest.approx(2 * 20 / 3)
    assert found["bad"].gain.value == pytest.approx(-20)
    assert (found["never"].gain.value, found["never"].failures) == (0, 1)
    assert found["good"].seeds == 3


def test_an_episode_whose_attempts_are_lost_is_left_out(tmp_path):
    run_episode(tmp_path, "weakness", 1, 10, 20)
    run_episode(tmp_path, "weakness", 2, 10, 30)
    lost = next((tmp_path / "attempts").rglob(f"{identity('weakness', 2).digest}.parquet"))
    lost.write_bytes(lost.read_bytes()[:100])
    with pytest.warns(UserWarning, match="is left out"):
        board = leaderboard.build(results.open(tmp_path), BOOTSTRAP)
    assert rows(board)["weakness"].gain.value == pytest.approx(25)
    assert board.notes == (
        "1 episode left out: the test attempts cannot be read.",
        "Partial: 1 file of the table attempts cannot be read.",
    )


def test_protocols_and_versions_of_a_teacher_are_not_mixed(tmp_path):
    run_episode(tmp_path, "weakness", 1, 10, 40, rules=Rules(iterations=9))
    run_episode(tmp_path, "a/t.py:T", 1, 10, 20, pin="aaaaaaaa")
    run_episode(tmp_path, "a/t.py:T", 1, 10, 30, pin="bbbbbbbb")
    run_episode(tmp_path, "a/t.py:T", 1, 10, 38, pin="bbbbbbbb", teacher_params={"share": 0.5})
    board = leaderboard.build(results.open(tmp_path), BOOTSTRAP)
    found = {name: round(row.gain.value) for name, row in rows(board).items()}
    assert found == {"t.py:T(share=0.5)": 70, "t.py:T #bbbbbb": 50, "t.py:T #aaaaaa": 25}
    assert board.notes == ("1 episode of another protocol (rules, recipe or engine) left out.",)


def test_a_run_without_episodes_has_no_tables(tmp_path):
    board = leaderboard.build(results.open(tmp_path))
    assert board.tables == ()
    assert [Path(path).name for path in leaderboard.write(board, tmp_path)] == [
        "leaderboard.md", "leaderboard.csv", "leaderboard.json"
    ]  # fmt: skip


def test_the_terminal_table_fits_120_columns_uncut(run, tmp_path):
    run_episode(tmp_path, "a/folder/with_a_long_file_name.py:AndTeacher", 1, 40, 0, state_blind=True, ranked=False)
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(leaderboard.build(run, BOOTSTRAP).rich())
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 120
    assert "…" not in text
    assert "uniform*" in text
    assert "0.0 [0.0, 0.0]" in text
    assert len(re.findall("Minimum detectable difference", text)) == 3


def test_written_files_agree_with_the_tables(run, tmp_path):
    board = leaderboard.build(run, BOOTSTRAP)
    markdown, table_csv, table_json = (Path(path).read_text() for path in leaderboard.write(board, tmp_path / "out"))
    assert markdown.count("| weakness |") == 3
    assert "| uniform\\* |" in markdown
    lines = list(csv.DictReader(io.StringIO(table_csv)))
    assert len(lines) == sum(len(t.rows) for t in board.tables)
    content = json.loads(table_json)
    first = content["tables"][0]["rows"][0]
    assert first["gain"] == rows(board)["weakness"].gain.value
    assert float(lines[0]["gain"]) == pytest.approx(first["gain"])
    assert content["tables"][0]["rows"][-1]["rank_best"] is None
    assert content["tables"][0]["pairs"][0].keys() >= {"first", "second", "difference", "p_value_holm"}


def test_a_folder_that_cannot_be_written_is_one_line(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        leaderboard.write(leaderboard.build(run, BOOTSTRAP), tmp_path / "file")
