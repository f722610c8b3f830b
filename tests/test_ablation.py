"""Contrasts: paired differences between episodes and the same with one thing exchanged."""

from __future__ import annotations

import json

import pytest

from dgym import ablation, leaderboard
from dgym.bench import LocalBackend, bench
from dgym.core import Budget, Rules
from dgym.errors import UsageError
from dgym.results import open as open_run
from dgym.specs import Cell, Entry, SuiteSpec, Variation


def suite(**fields):
    return SuiteSpec(
        name="small",
        seeds=(1, 2, 3, 4),
        rules=Rules(iterations=2, budget=Budget(40)),
        cells=(Cell(domain="fake", student="fake"),),
        entries=(Entry(teachers=("weakness", "weakness-blind", "uniform"), environments=("skill-list", "skill-tree")),),
        **fields,
    )


VARIATIONS = (
    Variation(name="continued training", rules={"training": "continue"}),
    Variation(name="one iteration", rules={"iterations": 1}),
    Variation(name="a label only", rules={"iterations": 2}),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    bench(suite(variations=VARIATIONS[:2]).episodes(), folder, backend=LocalBackend())
    return open_run(folder)


def test_every_variation_and_every_twin_is_compared_in_pairs(run):
    found = {c.name: c for c in ablation.contrasts(run)}
    assert list(found) == ["continued training", "one iteration", "weakness with state"]
    # The fake student forgets nothing, so continued training ends where training anew does.
    same = found["continued training"]
    assert (same.difference.gain.value, same.before) == (0, same.after)
    less = found["one iteration"]
    assert less.after < less.before
    assert less.difference.gain.value == pytest.approx(less.after - less.before)
    assert less.difference.gain.interval[1] < 0
    state = found["weakness with state"]
    assert state.difference.gain.value > 0
    # Two environments, four seeds; two teachers that look at the state or could, and the state-blind one not.
    assert (less.episodes, state.episodes) == (16, 8)
    assert all(c.difference.adjusted >= c.difference.p_value for c in found.values())


def test_gains_are_those_of_the_rows(run):
    rows = run.episodes
    rows = rows.assign(gain=100 * (rows.best_test - rows.base_test))
    chosen = rows[(rows.variation == "one iteration")]
    (less,) = [c for c in ablation.contrasts(run) if c.name == "one iteration"]
    assert less.after == pytest.approx(chosen.gain.mean())
    assert set(chosen.teacher) == {"weakness", "weakness-blind"}


def test_the_leaderboard_leaves_variations_out(run):
    built = leaderboard.build(run)
    assert all(row.seeds == 4 for table in built.tables for row in table.rows)
    assert built.notes == ()


def test_contrasts_are_rendered(run, tmp_path):
    found = ablation.contrasts(run)
    ablation.write(found, tmp_path)
    text = (tmp_path / "ablation.md").read_text()
    assert "| one iteration | skill-list, skill-tree |" in text
    assert len(json.loads((tmp_path / "ablation.json").read_text())) == 3
    assert ablation.rich(found).row_count == 3


def test_a_variation_that_changes_nothing_is_no_episode_of_its_own():
    plain = len(suite().episodes())
    assert len(suite(variations=VARIATIONS).episodes()) == plain + 3 * 16


@pytest.mark.parametrize(
    ("variation", "message"),
    [
        (Variation(name="x", rules={"trainnig": "continue"}), "'rules.trainnig'.*Did you mean 'training'"),
        (Variation(name="x", recipe={"rank": 0}), "'recipe.rank'"),
    ],
)
def test_a_wrong_variation_is_explained(variation, message):
    with pytest.raises(UsageError, match=message):
        suite(variations=(variation,)).episodes()
