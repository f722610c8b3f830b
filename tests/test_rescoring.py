"""Grading stored answers again: the grades of the loop, and all that follows from other grades."""

from __future__ import annotations

import json

import pytest

from dgym import leaderboard, results
from dgym.bench import LocalBackend, bench
from dgym.core import Example, Rules, Step, Verdict
from dgym.domains import make_domain
from dgym.episode import evaluate
from dgym.errors import UsageError
from dgym.fakes import FakeDomain
from dgym.rescoring import rescore
from dgym.results.schema import TABLES
from dgym.specs import load_suite
from tests.results.episodes import identity

SPLITS = ("feedback", "selection", "test")


class Scripted:
    """A student that answers every n-th problem wrongly."""

    def __init__(self, every):
        self.every = every

    def answer(self, problems):
        return ["?" if i % self.every == 0 else p.reference for i, p in enumerate(problems)]


def store(folder, name, students, seed=1, paper=False):
    """Stores an episode in which students answer one after the other, as the loop grades them."""
    domain = make_domain(name)
    rules = Rules(iterations=len(students) - 1, validation="paper" if paper else "split")
    who = identity("weakness", seed, domain=name, rules=rules)
    who = who.model_copy(update={"pins": {**who.pins, "domain": domain.version}})
    writer = results.EpisodeWriter(folder, who, "quick")
    best = -1.0
    for iteration, student in enumerate(students):
        feedback, selection, test = (evaluate(student, domain, s, domain.problems(s)) for s in SPLITS)
        selection = feedback if paper else selection
        repeated = tuple(a.problem.id for a in test.attempts[:iteration])
        copy = Verdict(Example("a copy", "1"), False, "overlap-test", overlaps=repeated)
        verdicts = (copy,) if iteration else ()
        writer.add(Step(iteration, feedback, selection, test, verdicts=verdicts, best=selection.score > best))
        best = max(best, selection.score)
    writer.finish()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    bench(load_suite("smoke").episodes(), folder, backend=LocalBackend())
    return folder


def rows(run, table):
    frame = run.frame(table)
    keys = [c for c in ("digest", "iteration", "split", "problem", "item", "prompt", "generation") if c in frame]
    return frame.sort_values(keys, kind="stable", ignore_index=True)


def without_pins(frame):
    return frame.drop(columns="pins", errors="ignore").astype(str)


def test_the_same_grader_changes_nothing_but_says_what_graded(smoke, tmp_path):
    (change,) = rescore(results.open(smoke), tmp_path / "new")
    assert (change.domain, change.before, change.now, change.error) == ("fake", ("1",), "1", "")
    assert (change.changed, change.missing, change.episodes, change.chosen) == (0, 0, 0, 0)
    old, new = results.open(smoke), results.open(tmp_path / "new")
    assert 0 < change.answers < change.attempts == len(old.attempts)
    for table in TABLES:
        assert without_pins(rows(old, table)).equals(without_pins(rows(new, table)))
    assert {json.loads(pins)["graded"] for pins in new.episodes.pins} == {"1"}
    assert leaderboard.build(old).json() == leaderboard.build(new).json()


def test_another_grader_gives_the_rows_of_a_run_that_it_graded(tmp_path, monkeypatch):
    students = [Scripted(2), Scripted(4), Scripted(3)]
    store(tmp_path / "old", "fake", students)
    grade = FakeDomain.grade
    # Today what is odd is wrong, and the domain has another version.
    monkeypatch.setattr(FakeDomain, "grade", lambda self, p, r: grade(self, p, r) * (r == "?" or int(r) % 2 == 0))
    monkeypatch.setattr(FakeDomain, "version", "2")
    store(tmp_path / "today", "fake", students)
    (change,) = rescore(results.open(tmp_path / "old"), tmp_path / "new")
    old, today, new = (results.open(tmp_path / name) for name in ("old", "today", "new"))
    odd = old.attempts[(old.attempts.score == 1) & old.attempts.response.map(lambda r: r != "?" and int(r) % 2 == 1)]
    assert (change.worse, change.better, change.missing) == (len(odd), 0, 0)
    assert (change.before, change.now, change.episodes) == (("1",), "2", 1)
    assert change.answers == len(old.attempts.drop_duplicates(["problem", "response"]))
    for table in TABLES:
        left, right = (rows(run, table) for run in (today, new))
        kept = [c for c in left if not c.startswith(("seconds", "started", "finished")) and c not in ("digest", "pins")]
        assert without_pins(left[kept]).equals(without_pins(right[kept])), table
    assert not without_pins(rows(old, "steps")).equals(without_pins(rows(new, "steps")))
    assert new.episodes.test_overlapped.tolist() == [2]
    assert new.episodes.best_test_clean[0] != new.episodes.best_test[0]


def test_the_iteration_is_chosen_anew(tmp_path, monkeypatch):
    store(tmp_path / "old", "fake", [Scripted(2), Scripted(9), Scripted(2)])
    assert results.open(tmp_path / "old").episodes.best_iteration.tolist() == [1]
    grade = FakeDomain.grade
    monkeypatch.setattr(FakeDomain, "grade", lambda self, p, r: 1 - grade(self, p, r))
    (change,) = rescore(results.open(tmp_path / "old"), tmp_path / "new")
    assert (change.changed, change.episodes, change.chosen) == (change.attempts, 1, 1)
    assert change.better > 0
    row = results.open(tmp_path / "new").episodes.iloc[0]
    assert (row.best_iteration, row.best_test) == (0, 0.5)
    assert results.open(tmp_path / "new").steps.best.tolist() == [True, False, False]


def test_one_split_that_serves_for_two_is_counted_once(tmp_path, monkeypatch):
    store(tmp_path, "fake", [Scripted(2), Scripted(4)], paper=True)
    asked = {p.id for p in FakeDomain().problems("feedback")}
    grade = FakeDomain.grade
    monkeypatch.setattr(FakeDomain, "grade", lambda self, p, r: (1 - grade(self, p, r)) * (p.id in asked))
    rescore(results.open(tmp_path), tmp_path / "new")
    steps = results.open(tmp_path / "new").steps
    assert steps.selection.tolist() == steps.feedback.tolist() == [0.5, 0.25]
    assert steps.test.tolist() == [0, 0]


def test_answers_to_problems_that_are_gone_keep_their_grade(tmp_path, monkeypatch):
    store(tmp_path / "old", "fake", [Scripted(2), Scripted(4)])
    problems = FakeDomain.problems
    monkeypatch.setattr(FakeDomain, "problems", lambda self, split: problems(self, split)[:-5])
    monkeypatch.setattr(FakeDomain, "grade", lambda self, p, r: 0.0)
    (change,) = rescore(results.open(tmp_path / "old"), tmp_path / "new")
    assert change.missing == 2 * 3 * 5
    old, new = (rows(results.open(tmp_path / name), "attempts") for name in ("old", "new"))
    gone = {p.id for split in SPLITS for p in problems(FakeDomain(), split)[-5:]}
    there = old.problem.isin(gone)
    assert new.score[there].equals(old.score[there])
    assert (new.score[~there] == 0).all()


@pytest.mark.parametrize("name", ["naturalbench:fixture", "mnms:fixture", "gsm8k:fixture"])
def test_published_data_sets_are_graded_as_the_loop_grades_them(tmp_path, name):
    """Groups, measures and graders that work on many answers at once included."""
    store(tmp_path / "old", name, [Scripted(2), Scripted(3), Scripted(5), Scripted(2)])
    (change,) = rescore(results.open(tmp_path / "old"), tmp_path / "new")
    old, new = results.open(tmp_path / "old"), results.open(tmp_path / "new")
    assert (change.changed, change.missing, change.attempts) == (0, 0, len(old.attempts))
    assert 0 < old.attempts.score.mean() < 1
    assert without_pins(rows(old, "attempts")).equals(without_pins(rows(new, "attempts")))


def test_a_group_counts_by_its_own_answers_alone(tmp_path, monkeypatch):
    """The same group is answered rightly in one evaluation and wrongly in another."""
    name = "naturalbench:fixture"
    store(tmp_path / "old", name, [Scripted(10**6), Scripted(1)])
    domain = type(make_domain(name))
    grade = domain.grade
    # Today every right answer is wrong and the other way round.
    monkeypatch.setattr(domain, "grade", lambda self, p, r: 1 - grade(self, p, r))
    rescore(results.open(tmp_path / "old"), tmp_path / "new")
    test = results.open(tmp_path / "new").frame("attempts", ["iteration", "score"], [("split", "==", "test")])
    # The first problem alone was answered wrongly at iteration 0; its group is still wrong by the others.
    assert test.groupby("iteration").score.mean().tolist() == [0, 1]


def test_a_domain_that_is_not_there_is_left_as_it_is(tmp_path):
    store(tmp_path / "old", "fake", [Scripted(2), Scripted(4)])
    file = tmp_path / "mine.py"
    file.write_text("from dgym.fakes import FakeDomain\nclass Mine(FakeDomain):\n    name = 'mine'\n")
    store(tmp_path / "old", f"{file}:Mine", [Scripted(2), Scripted(4)])
    file.unlink()
    changes = {change.domain: change for change in rescore(results.open(tmp_path / "old"), tmp_path / "new")}
    assert changes["fake"].error == ""
    assert "mine.py" in changes[f"{file}:Mine"].error
    old, new = (rows(results.open(tmp_path / name), "attempts") for name in ("old", "new"))
    assert without_pins(old).equals(without_pins(new))
    only = tmp_path / "only"
    (only / "episodes").mkdir(parents=True)
    for table in TABLES:
        part = next((tmp_path / "old" / table).glob("domain=*mine*"))
        (only / table).mkdir(exist_ok=True)
        part.rename(only / table / part.name)
    with pytest.raises(UsageError, match=r"can be graded: .*mine.py"):
        rescore(results.open(only))


def test_an_empty_run_and_the_run_itself_are_refused(smoke, tmp_path):
    with pytest.raises(UsageError, match="no episode in"):
        rescore(results.open(tmp_path))
    with pytest.raises(UsageError, match="the run itself"):
        rescore(results.open(smoke), smoke)
