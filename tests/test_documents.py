"""Documents that cannot drift: the README's table is the published one, its layout is the tree, its code runs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from dgym import ablation, leaderboard, results, specs
from dgym.core import Budget, Rules
from dgym.results.schema import TABLES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def publish():
    spec = importlib.util.spec_from_file_location("publish", ROOT / "leaderboard" / "publish.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_in_the_readme_is_the_published_one() -> None:
    script = publish()
    published = (ROOT / "leaderboard" / "quick" / "leaderboard.md").read_text(encoding="utf-8")
    assert "weakness" in published
    assert script.table_in(README) == script.excerpt(published)


def test_the_layout_in_the_readme_is_the_tree() -> None:
    tree = README.partition("dgym/\n  core.py")[2].partition("```")[0]
    named = {"core.py", *re.findall(r"^  ([\w.]+?/?) ", tree, flags=re.MULTILINE)}
    there = {p.name + "/" * p.is_dir() for p in (ROOT / "dgym").iterdir() if not p.name.startswith(("_", "."))}
    assert named == there


def test_the_teacher_in_the_readme_runs(tmp_path: Path) -> None:
    code = re.search(r"```python\n# my_teacher.py\n(.*?)```", README, flags=re.DOTALL)
    file = tmp_path / "my_teacher.py"
    file.write_text(code[1])
    rules = Rules(iterations=1, budget=Budget(30))
    spec = specs.EpisodeSpec(teacher=f"{file}:Sums", domain="math", student="fake:a", rules=rules)
    from dgym.bench import LocalBackend, bench
    from dgym.results import open as open_run

    assert len(bench([spec], tmp_path / "run", backend=LocalBackend()).ok) == 1
    examples = open_run(tmp_path / "run").examples
    assert examples.kept.sum() > 25
    assert examples.correct.all()


def test_every_suite_that_ships_expands_and_only_those_for_gpus_need_a_network() -> None:
    for name in specs.suite_files():
        suite = specs.load_suite(name)
        episodes = suite.episodes()
        if suite.gpu:
            assert len({e.model_dump_json() for e in episodes}) == len(episodes)
            continue
        assert len({specs.identify(e).digest for e in episodes}) == len(episodes)
        assert {e.domain for e in episodes} <= {"math", "code", "tools", "vqa", "fake"}


PUBLISHED = sorted(p.parent.name for p in (ROOT / "leaderboard").glob("*/episodes.parquet"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_results_are_those_of_this_code(name: str) -> None:
    """Anything that can move a score moves a digest: weights, versions, rules, names."""
    published = set(results.open(ROOT / "leaderboard" / name).episodes.digest)
    assert published == {specs.identify(e).digest for e in specs.load_suite(name).episodes()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_tables_are_whole_small_and_give_the_published_leaderboard(name: str) -> None:
    folder = ROOT / "leaderboard" / name
    run = results.open(folder)
    assert (run.episodes.status == "ok").all()
    assert all((folder / f"{table}.parquet").stat().st_size <= 25_000_000 for table in TABLES)
    assert leaderboard.build(run).markdown() == (folder / "leaderboard.md").read_text(encoding="utf-8")
    found = ablation.contrasts(run)
    assert bool(found) == (folder / "ablation.md").is_file()
    if found:
        assert ablation.markdown(found) == (folder / "ablation.md").read_text(encoding="utf-8")


def test_in_the_published_standard_controls_are_no_better_than_uniform_in_any_domain() -> None:
    rows = results.open(ROOT / "leaderboard" / "standard").episodes
    gains = (rows.best_test - rows.base_test).groupby([rows.teacher, rows.domain]).mean().unstack()
    assert list(gains.columns) == ["code", "math", "tools", "vqa"]
    assert (gains.loc["no-data"] == 0).all()
    for control in ("wrong-answers", "off-domain"):
        assert (gains.loc[control] <= gains.loc["uniform"]).all()
    assert (gains.loc["ceiling"] > gains.loc["uniform"]).all()


@pytest.mark.parametrize(
    ("suite", "exchange"),
    [
        ("standard", "weakness with state"),
        ("standard-u", "weakness with state"),
        ("ablation", "gate off"),
        ("ablation", "continued training"),
    ],
)
def test_differences_in_the_readme_are_the_published_ones(suite: str, exchange: str) -> None:
    table = (ROOT / "leaderboard" / suite / "ablation.md").read_text(encoding="utf-8")
    (row,) = [line for line in table.splitlines() if line.startswith(f"| {exchange} |")]
    assert row.split(" | ")[4] in README


def test_the_best_teacher_in_the_readme_is_that_of_the_published_standard() -> None:
    overall = (ROOT / "leaderboard" / "standard" / "leaderboard.md").read_text(encoding="utf-8").rpartition("## ")[2]
    best = next(line for line in overall.splitlines() if line.startswith("| 1"))
    assert best.split(" | ")[1] == "weakness\\*"
