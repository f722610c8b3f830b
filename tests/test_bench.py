"""What a run does around its episodes: order, use of hosts, progress on the screen."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from dgym import results
from dgym.bench import Progress, Usage, bench, expected_work
from dgym.cli import _conclude
from dgym.core import Budget, Rules
from dgym.display import Watch, bar, duration
from dgym.errors import UsageError
from dgym.specs import EpisodeSpec, Seeds, identify
from dgym.students.host import HostStats

RULES = Rules(iterations=2, budget=Budget(20))


def spec(teacher: str = "uniform", seed: int = 1, **fields: object) -> EpisodeSpec:
    return EpisodeSpec(teacher=teacher, domain="fake", student="fake", rules=RULES, seeds=Seeds.all(seed)).model_copy(
        update=fields
    )


def test_busy_counts_work_between_the_first_and_the_last_training_only() -> None:
    one = HostStats(busy=[(0, 2), (2, 6), (8, 10)], first_training=2, last_training=6, loads=1)
    two = HostStats(busy=[(3, 7), (11, 15)], first_training=3, last_training=12, loads=2)
    usage = Usage.of([one, two])
    assert usage.seconds == 10
    assert usage.busy == pytest.approx((4 + 2 + 4 + 1) / 20)
    assert usage.loads == 3
    assert Usage.of([HostStats()]).busy is None


def test_of_a_host_that_came_later_the_time_before_does_not_count() -> None:
    one = HostStats(busy=[(0, 10)], first_training=0, last_training=10, started=0)
    late = HostStats(busy=[(6, 8)], first_training=6, last_training=8, started=6)
    usage = Usage.of([one, late], replaced=1)
    assert usage.busy == pytest.approx((10 + 2) / (10 + 4))
    assert (usage.hosts, usage.seconds, usage.replaced) == (2, 10, 1)
    assert Usage.of([], replaced=2).replaced == 2


def test_parts_of_a_run_add_up() -> None:
    parts = [Usage(4, 0.5, 10.0, 2, 1), Usage(1, 1.0, 20.0, 3, 0), Usage(2, None, 0.0, 1, 1)]
    assert Usage.total(parts) == Usage(4, pytest.approx((0.5 * 40 + 1.0 * 20) / 60), 30.0, 6, 2)
    assert Usage.total([]) == Usage()
    assert Usage.total(parts[2:]).busy is None


@pytest.mark.parametrize(
    ("replaced", "line"),
    [(0, None), (1, "1 student host died and was replaced"), (2, "2 student hosts died and were replaced")],
)
def test_the_last_lines_tell_of_hosts_that_died(tmp_path: Path, replaced: int, line: str | None) -> None:
    summary = bench([spec()], tmp_path)
    summary.usage.replaced = replaced
    out = io.StringIO()
    _conclude(summary, tmp_path, Console(file=out, width=120), as_json=False)
    assert "Results and leaderboard.md are in" in out.getvalue()
    assert (line in out.getvalue()) if line else ("died" not in out.getvalue())


def test_the_longest_episodes_start_first_and_the_same_episode_runs_once(tmp_path: Path) -> None:
    started = []
    todo = [spec("no-data"), spec("uniform"), spec("ceiling"), spec("uniform")]
    summary = bench(todo, tmp_path, begin=lambda episodes, _: started.extend(e.spec.teacher for e in episodes))
    assert started == ["ceiling", "uniform", "no-data"]
    assert summary.total == len(summary.ok) == 3


def test_a_run_that_goes_on_is_partial_until_its_last_episode(tmp_path: Path) -> None:
    seen: list[tuple[str, ...]] = []
    todo = [spec(), spec("ceiling"), spec("no-data")]
    bench(todo[:1], tmp_path)
    bench(todo, tmp_path, report=lambda p: seen.append(results.open(tmp_path).partial) if p.status == "ok" else None)
    assert [lines[0].partition(" planned")[0] for lines in seen[:-1]] == ["Partial: 1 of 3"]
    assert seen[-1] == results.open(tmp_path).partial == ()


def test_retraining_is_more_work_than_continuing() -> None:
    continued = spec(rules=Rules(iterations=2, budget=Budget(20), training="continue"))
    assert expected_work(identify(spec())) > expected_work(identify(continued)) > 0


def test_a_wrong_name_runs_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unifrom"):
        bench([spec(), spec("unifrom")], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_must_enter_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "one.py"
    file.write_text(
        "class One:\n"
        "    environments = ('open-ended',)\n"
        "    def plan(self, brief, state): ...\n"
        "    def generate(self, brief, item): ...\n"
    )
    with pytest.raises(UsageError, match="it enters: open-ended"):
        identify(spec(f"{file}:One", environment="skill-list"))


@pytest.mark.parametrize("live", [True, False])
def test_progress_on_a_terminal_and_elsewhere(live: bool) -> None:
    out = io.StringIO()
    identities = [identify(spec(seed=seed)) for seed in (1, 2)]
    with Watch(Console(file=out, force_terminal=live, width=120), "dgym test", live) as watch:
        watch.begin(identities, 3)
        watch.report(Progress(identities[0].digest, "running", 1, 0.5))
        watch.report(Progress(identities[0].digest, "ok", 2, 0.75))
        watch.report(Progress(identities[1].digest, "failed", 1, message="no idea", boundary="teacher"))
    text = out.getvalue()
    assert "3 finished before" in text
    assert "failed (teacher)" in text
    assert "no idea" in text
    assert ("2 of 2 episodes" if live else "[1/2]") in text
    assert not live or any(line.lstrip().startswith("teacher ") for line in Text.from_ansi(text).plain.splitlines())


def test_small_renderings() -> None:
    assert [duration(s) for s in (5, 65, 7384)] == ["0:05", "1:05", "2:03:04"]
    assert [bar(x, 4) for x in (0, 0.5, 1, 2)] == ["    ", "██  ", "████", "████"]
