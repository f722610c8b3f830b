"""Tidy frames: their numbers by hand, and as the leaderboard has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dgym import leaderboard, results
from dgym.core import Rules
from dgym.errors import TeacherError, UsageError
from dgym.results.frames import FRAMES
from dgym.results.statistics import Bootstrap
from tests.results.episodes import identity, step

ROOT = Path(__file__).parents[2]
BOOTSTRAP = Bootstrap(500)
TESTED = Rules(iterations=2, test_every_iteration=True)


def store(folder, teacher, seed, tests, *, error=None, **fields):
    """Stores an episode whose student solves so many of 8 problems, four of each skill, after each iteration."""
    writer = results.EpisodeWriter(folder, identity(teacher, seed, **fields), "quick")
    for iteration, solved in enumerate(tests):
        scores = np.arange(8) < solved
        writer.add(step(iteration, scores, scores, rejected=iteration))
    if error:
        writer.fail(error)
    else:
        writer.finish()


@pytest.fixture
def run(tmp_path):
    """Two teachers and a control, three seeds; in a second environment only one."""
    for seed in (1, 2, 3):
        store(tmp_path, "good", seed, [2, 4, 4 + seed], rules=TESTED)
        store(tmp_path, "good", seed, [2, 4, 6], rules=TESTED, environment="skill-list")
        store(tmp_path, "poor", seed, [2, 3, 2 + seed], rules=TESTED)
        store(tmp_path, "no-data", seed, [2, 2, 2], rules=TESTED, ranked=False)
    return results.open(tmp_path)


def rows(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name].isna() if value is None else frame[name] == value]
    return frame


@pytest.mark.parametrize("name", FRAMES)
def test_frames_have_the_documented_columns_and_types(run, name):
    frame = results.compare(run, "good", "poor") if name == "compare" else getattr(results, name)(run)
    assert len(frame) > 0
    assert list(frame.columns) == [column.name for column in FRAMES[name].columns]
    assert list(results.columns(name)["name"]) == list(frame.columns)
    kinds = {"string": "U", "int64": "i", "double": "f", "bool": "b"}
    for column in FRAMES[name].columns:
        kind = frame[column.name].dtype.kind
        assert kind == kinds[str(column.type)] or (kind == "O" and str(column.type) == "string"), column.name
    if name != "allocations":  # where a teacher may claim no skill
        needed = [c.name for c in FRAMES[name].columns if "null" not in c.meaning and c.name not in ("high",)]
        assert not frame[needed].isna().any().any()


def test_two_teachers_are_compared_on_what_they_share(run):
    found = results.compare(run, "good", "poor", bootstrap=BOOTSTRAP)
    assert list(found["track"]) == ["open-ended"] * 2
    whole, cell = found.to_dict("records")
    assert pd.isna(whole["domain"])
    assert pd.isna(whole["student"])
    assert (cell["domain"], cell["student"]) == ("math", "micro-math")
    assert (whole["seeds"], whole["problems"]) == (3, 8)
    # good chooses 5, 6 and 7 of 8 solved, poor 3, 4 and 5.
    assert whole["first_gain"] == pytest.approx(100 * (6 - 2) / 8)
    assert whole["second_gain"] == pytest.approx(100 * (4 - 2) / 8)
    assert whole["difference"] == pytest.approx(100 * 2 / 8)
    assert whole["improvement"] == 1.0
    assert whole["low"] <= whole["difference"] <= whole["high"]
    assert list(whole.values())[5:] == list(cell.values())[5:]  # there is but one cell


def test_the_other_way_round_is_the_mirror_image(run):
    one = results.compare(run, "good", "poor", bootstrap=BOOTSTRAP).iloc[0]
    two = results.compare(run, "poor", "good", bootstrap=BOOTSTRAP).iloc[0]
    assert one["difference"] == -two["difference"]
    assert (one["low"], one["high"]) == pytest.approx((-two["high"], -two["low"]))
    assert one["improvement"] == 1 - two["improvement"]


def test_what_cannot_be_compared_is_one_line(run, tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'good'"):
        results.compare(run, "god", "poor")
    store(tmp_path / "other", "good", 9, [2, 4, 5], rules=TESTED)
    other = results.open(tmp_path / "other")
    with pytest.raises(UsageError, match="share no track, student, seed and problem"):
        results.compare(run, "good", "good", other=other)
    with pytest.raises(UsageError, match="share no teacher, student, seed and problem"):
        results.compare_runs(run, other)


def test_two_runs_are_compared_teacher_by_teacher_and_together(run, tmp_path):
    for seed in (1, 2, 3):
        store(tmp_path / "other", "good", seed, [2, 4, 3 + seed], rules=TESTED)
        store(tmp_path / "other", "poor", seed, [2, 3, 1 + seed], rules=TESTED)
        store(tmp_path / "other", "new", seed, [2, 3, 3], rules=TESTED)
        store(tmp_path / "other", "no-data", seed, [2, 2, 2], rules=TESTED, ranked=False)
    found = results.compare_runs(run, results.open(tmp_path / "other"), bootstrap=BOOTSTRAP)
    assert set(found["track"]) == {"open-ended"}
    assert list(found["first"].fillna("all")) == [
        "all",
        *(n for name in ("good", "no-data", "poor") for n in (name, name)),
    ]
    good, poor = (rows(found, first=name).iloc[0]["difference"] for name in ("good", "poor"))
    # Seed 1 of good chooses iteration 1 in either run.
    assert good == pytest.approx(100 * np.mean([1, 1, 1]) / 8)
    assert found.iloc[0]["difference"] == pytest.approx((good + poor) / 2)
    across = results.compare(run, "good", "poor", other=results.open(tmp_path / "other"))
    assert across.iloc[0]["difference"] > 0


def test_curves_are_means_over_seeds_with_what_was_spent(run):
    found = results.curves(run, bootstrap=BOOTSTRAP)
    good = rows(found, teacher="good", track="open-ended", split="test", domain=None)
    assert list(good["iteration"]) == [0, 1, 2]
    assert list(good["gain"]) == pytest.approx([0, 100 * 2 / 8, 100 * 4 / 8])
    assert list(good["examples"]) == [0, 11, 23]
    assert list(good["tokens"]) == [0, 22, 46]
    assert list(good["seconds"]) == [2.25, 4.5, 6.75]
    assert good["seeds"].tolist() == [3] * 3
    assert (good["low"].iloc[2], good["high"].iloc[2]) != (good["gain"].iloc[2],) * 2
    assert len(rows(found, teacher="good", track="open-ended", split="test")) == 6
    assert set(found["track"]) == {"open-ended", "skill-list"}


def test_the_area_on_the_leaderboard_is_that_of_the_curve(run):
    found = rows(results.curves(run), teacher="good", track="open-ended", split="test", domain=None)
    (table,) = [t for t in leaderboard.build(run, BOOTSTRAP).tables if t.track == "open-ended"]
    budget = 2 * identity(rules=TESTED).spec.rules.budget.examples_per_iteration
    x, y = [*found["examples"], budget], [*found["gain"], found["gain"].iloc[-1]]
    assert {row.teacher: row.area for row in table.rows}["good"] == pytest.approx(np.trapezoid(y, x) / budget)


def test_where_not_every_iteration_was_tested_there_are_only_selection_curves(tmp_path):
    for seed in (1, 2, 3):
        writer = results.EpisodeWriter(tmp_path, identity("good", seed), "quick")
        for iteration in range(3):
            writer.add(step(iteration, [1] * (2 + iteration) + [0], [0, 1] if iteration != 1 else None))
        writer.finish()
    assert set(results.curves(results.open(tmp_path))["split"]) == {"selection"}


def test_an_episode_that_ended_early_keeps_its_last_gain(tmp_path):
    store(tmp_path, "good", 1, [2, 4, 6], rules=TESTED)
    store(tmp_path, "good", 2, [2, 4], rules=TESTED)
    store(tmp_path, "good", 3, [2, 8, 8], rules=TESTED, error=TeacherError("no"))
    good = rows(results.curves(results.open(tmp_path)), split="test", domain=None)
    assert list(good["gain"]) == pytest.approx([0, 25, 37.5])
    assert list(good["examples"]) == [0, 11, 17]
    assert good["seeds"].tolist() == [2] * 3


def test_gains_by_skill_make_up_the_gain(run):
    found = rows(results.skills(run), track="open-ended", teacher="good")
    assert list(found["skill"]) == ["first", "second"]
    assert list(found["before"]) == [0.5, 0]
    # All four of the first skill, then 1, 2 and 3 of the second.
    assert list(found["gain"]) == pytest.approx([50, 50])
    assert list(found["error"]) == pytest.approx([0, 25 / np.sqrt(3)])
    for (track, teacher), part in results.skills(run).groupby(["track", "teacher"]):
        (table,) = [t for t in leaderboard.build(run, BOOTSTRAP).tables if t.track == track]
        gain = {row.teacher: row.gain.value for row in table.rows}[teacher]
        assert np.average(part["gain"], weights=part["problems"]) == pytest.approx(gain)


def test_allocations_count_what_was_submitted(run):
    found = rows(results.allocations(run), track="open-ended", teacher="good")
    assert list(found["iteration"].unique()) == [1, 2]
    second = rows(found, iteration=2)
    assert rows(second, skill="first")[["submitted", "kept"]].to_numpy().tolist() == [[10, 10]]
    assert rows(second, skill=None)[["submitted", "kept"]].to_numpy().tolist() == [[2, 0]]


def test_costs_are_those_of_the_leaderboard_and_the_front_is_marked(run):
    found = results.costs(run, bootstrap=BOOTSTRAP)
    for table in leaderboard.build(run, BOOTSTRAP).tables:
        for row in table.rows:
            (cost,) = rows(found, track=table.track, teacher=row.teacher).to_dict("records")
            assert (cost["gain"], cost["low"], cost["high"]) == (row.gain.value, *row.gain.interval)
            assert (cost["examples"], cost["tokens"], cost["cost"]) == (row.examples, row.tokens, row.cost)
            assert (cost["student_seconds"], cost["control"]) == (row.student_seconds, row.control)
    front = rows(found, track="open-ended").set_index("teacher")["efficient"]
    assert front.to_dict() == {"good": True, "no-data": False, "poor": False}


def test_an_empty_run_gives_empty_frames(tmp_path):
    run = results.open(tmp_path)
    for name in ("curves", "skills", "allocations", "costs"):
        frame = getattr(results, name)(run)
        assert frame.empty
        assert list(frame.columns) == [column.name for column in FRAMES[name].columns]
    with pytest.raises(UsageError, match="There is no teacher"):
        results.compare(run, "good", "poor")


def test_a_pair_of_a_published_leaderboard_is_what_compare_says():
    """The same function over the same files."""
    run = results.open(ROOT / "leaderboard" / "quick")
    bootstrap = Bootstrap()
    for table in leaderboard.build(run, bootstrap).tables:
        for first, second, pair in table.pairs:
            found = rows(results.compare(run, first, second, bootstrap=bootstrap), track=table.track).iloc[0]
            assert (found["difference"], found["improvement"]) == (pair.gain.value, pair.improvement)
            assert (found["low"], found["high"], found["p_value"]) == (*pair.gain.interval, pair.p_value)
