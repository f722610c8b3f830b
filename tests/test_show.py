"""dgym show: one episode from its rows, decision by decision."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from dgym import show
from dgym.bench import LocalBackend, bench, open_loop, student_config
from dgym.cli import app
from dgym.core import Budget, Curriculum, Rules
from dgym.episode import LocalPool, run_episode
from dgym.errors import UsageError
from dgym.specs import EpisodeSpec, identify
from dgym.students.host import StudentHost, local_student

RULES = Rules(iterations=3, budget=Budget(40), test_every_iteration=True)
ENVIRONMENTS = ("open-ended", "skill-list", "skill-tree")


def spec(environment, **fields):
    return EpisodeSpec(
        teacher="weakness", environment=environment, domain="fake", student="fake:a", rules=RULES, **fields
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert not bench([spec(e) for e in ENVIRONMENTS], folder, backend=LocalBackend()).failed
    return folder


def text_of(story, **options):
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(show.render(story, **options), highlight=False)
    return console.export_text()


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_states_are_those_that_the_teacher_saw(run, environment):
    """The stored rows give back every state, but for the seed, what was left and a policy's memory."""
    identity = identify(spec(environment))
    student = local_student(StudentHost(), student_config(identity), "again")
    loop, teacher = open_loop(identity, student)
    seen = []
    observe = loop.environment.observe
    loop.environment.observe = lambda feedback, context: seen.append(observe(feedback, context)) or seen[-1]
    list(run_episode(loop, teacher, LocalPool(teacher)))
    story = show.tell(run, identity.digest[:10])
    told = [i.state for i in story.iterations[1:]]
    assert len(told) == len(seen) == 3
    for one, other in zip(told, seen, strict=True):
        for field in ("score", "observations", "skills", "trees", "history", "probes", "rejected", "examples_left"):
            assert getattr(one, field) == getattr(other, field), field


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_state_plan_examples_and_scores_are_shown(run, environment):
    shown = text_of(show.tell(run, f"weakness {environment}"))
    for part in ("What the teacher saw", "What it planned", "What was written", "What came of it", "best so far"):
        assert part in shown
    assert shown.count("Iteration ") == 3
    assert "  + " in shown
    if environment == "skill-tree":
        assert "explore" in shown
        assert "allocated" in shown


def test_one_iteration_and_json(run):
    story = show.tell(run, "weakness skill-tree")
    assert "Iteration 1 " not in text_of(story, iteration=2)
    with pytest.raises(UsageError, match="0 to 3, and no 9"):
        show.render(story, iteration=9)
    result = CliRunner().invoke(app, ["show", "weakness skill-tree", "--run", str(run), "--json"])
    told = json.loads(result.stdout)
    assert [i["iteration"] for i in told["iterations"]] == [0, 1, 2, 3]
    assert told["iterations"][1]["plans"][0]["actions"]
    assert told["iterations"][1]["state"]["trees"]
    assert len(told["iterations"][1]["examples"]) == 40
    calls = [call for i in told["iterations"] for call in i["calls"]]
    assert len(calls) == sum(len(i.calls) for i in story.iterations) > 0
    assert all(call["iteration"] == i["iteration"] for i in told["iterations"] for call in i["calls"])


def test_test_problems_that_examples_repeated_are_told(run):
    story = show.tell(run, "weakness skill-tree")
    assert "repeated" not in text_of(story)
    told = replace(story, row={**story.row, "test_overlapped": 3, "base_test_clean": 0.25, "best_test_clean": None})
    assert "3 test problems were repeated by its examples" in text_of(told)
    assert "25.0% before and none at the chosen" in text_of(told)


def test_a_name_must_fit_one_episode(run):
    with pytest.raises(UsageError, match=r"3 episodes.*fit 'weakness'"):
        show.tell(run, "weakness")
    with pytest.raises(UsageError, match=r"No episode.*fits 'zzz'"):
        show.tell(run, "zzz")


def test_a_curriculum_shows(tmp_path):
    curriculum = Curriculum(exclude=("add",), caps={"larger": 3}, weights={"smaller": 9.0})
    bench([spec("skill-list", curriculum=curriculum)], tmp_path, backend=LocalBackend())
    story = show.tell(tmp_path, "weakness")
    for iteration in story.iterations[1:]:
        skills = [e["skill"] for e in iteration.examples]
        assert [r.skill for r in iteration.state.skills] == ["larger", "smaller", "subtract"]
        assert "add" not in skills
        assert skills.count("larger") <= 3
        assert skills.count("smaller") > skills.count("subtract")
