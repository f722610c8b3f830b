"""The Gymnasium environment: its own checks, the same numbers as an episode, and the teacher that plays from a file."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from dgym.core import Brief, Budget, Rules, SkillReport, State
from dgym.errors import DgymError, UsageError
from dgym.teachers import make_teacher
from dgym.teachers.learnt import FEATURES, SHIPPED, LearntPolicy, learnt, observed, read_policy, shares, write_policy

gymnasium = pytest.importorskip("gymnasium", reason="the extra `gym` is not installed")

from dgym.plan_env import ID, PlanEnv  # noqa: E402 (after the check)

RULES = Rules(iterations=3, budget=Budget(20))


@pytest.fixture
def env():
    made = PlanEnv("fake", "fake", rules=RULES)
    yield made
    made.close()


def test_it_passes_gymnasiums_checks_without_a_warning() -> None:
    from gymnasium.utils.env_checker import check_env

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(ID, domain="fake", student="fake", rules=RULES).unwrapped)


@pytest.mark.slow
def test_it_passes_them_with_a_real_student() -> None:
    from gymnasium.utils.env_checker import check_env

    rules = Rules(iterations=2, budget=Budget(20), share=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(ID, domain="math", student="micro-math", rules=rules).unwrapped)


def test_an_episode_is_as_the_class_says(env) -> None:
    observation, info = env.reset(seed=1)
    assert env.skills == ("add", "larger", "smaller", "subtract")
    assert observation["accuracy"].tolist() == pytest.approx([0.1, 0.9, 0.8, 0.65])
    assert [observation[name].tolist() for name in ("gain", "allocation")] == [[0] * 4, [0] * 4]
    assert (observation["budget"], observation["iteration"], info["test_gain"]) == (1, 0, 0)
    start = info["selection"]
    rewards = []
    for number in (1, 2, 3):
        before = observation["accuracy"]
        observation, reward, terminated, truncated, info = env.step(np.array([0.5, 0, 0, 0.5], np.float32))
        assert env.observation_space.contains(observation)
        assert (terminated, truncated) == (number == 3, False)
        assert info["counts"] == {"add": 10, "larger": 0, "smaller": 0, "subtract": 10}
        assert observation["gain"] == pytest.approx(observation["accuracy"] - before)
        assert observation["allocation"].tolist() == [0.5, 0, 0, 0.5]
        assert observation["budget"] == pytest.approx(1 - number / 3)
        assert observation["iteration"] == pytest.approx(number / 3)
        rewards.append(reward)
    assert sum(rewards) == pytest.approx(info["selection"] - start)
    assert sum(rewards) > 0.05
    with pytest.raises(DgymError, match="episode is over"):
        env.step(np.ones(4, np.float32))


@pytest.mark.parametrize(
    ("action", "counts"),
    [
        ([0, 0, 0, 0], [5, 5, 5, 5]),
        ([1, 1, 1, 1], [5, 5, 5, 5]),
        ([1, 0, 0, 0], [20, 0, 0, 0]),
        ([3, 1, 0, 0], [15, 5, 0, 0]),
    ],
)
def test_weights_are_normalised(env, action, counts) -> None:
    env.reset(seed=1)
    assert list(env.step(np.array(action, np.float32))[4]["counts"].values()) == counts


@pytest.mark.parametrize("action", [[1, 1], [1, 1, 1, -1], [1, 1, 1, np.nan]])
def test_what_is_no_allocation_is_refused(env, action) -> None:
    env.reset(seed=1)
    with pytest.raises(UsageError, match="4 finite numbers"):
        env.step(np.array(action, np.float32))


def test_a_seed_draws_the_variant_and_no_seed_draws_a_seed(env) -> None:
    weak = [env.skills[int(env.reset(seed=seed)[0]["accuracy"].argmin())] for seed in (1, 2, 3, 4)]
    assert sorted(weak) == sorted(env.skills), "each variant is weak at another skill"
    env.reset(seed=7)
    drawn = [env.reset()[0]["accuracy"].tolist() for _ in range(12)]
    env.reset(seed=7)
    assert drawn == [env.reset()[0]["accuracy"].tolist() for _ in range(12)]
    assert len({tuple(accuracy) for accuracy in drawn}) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fak", "fake"), "Did you mean 'fake'"),
        (("fake", "fale"), "Did you mean 'fake'"),
        (("fake", "fake:q"), "no variant of fake"),
    ],
)
def test_wrong_names_are_one_line(arguments, message) -> None:
    with pytest.raises(UsageError, match=message):
        PlanEnv(*arguments, rules=RULES)


def test_rules_without_a_round_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one iteration"):
        PlanEnv("fake", "fake", rules=Rules(iterations=0))


def test_importing_dgym_needs_no_gymnasium_and_its_absence_is_one_line() -> None:
    code = (
        "import sys; sys.modules['gymnasium'] = None\n"
        "import dgym, dgym.gym, dgym.teachers.learnt\n"
        "try:\n    import dgym.plan_env\n"
        "except dgym.UsageError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'Gymnasium is not installed: pip install "dgym[gym]".'


# The teacher `learnt` ----------------------------------------------------------------------------------------------

WEIGHTS = (2.0, 4.0, -0.5, 1.0)


def test_the_teacher_plays_in_an_episode_as_the_policy_plays_in_the_environment(env, play, tmp_path) -> None:
    write_policy(tmp_path / "policy.json", WEIGHTS, {})
    teacher = learnt(str(tmp_path / "policy.json"))
    steps = play(
        teacher, environment="skill-list", budget=20, variant="b", iterations=3, training_seed=2, teacher_seed=2
    ).steps
    observation, info = env.reset(seed=2)
    scores, examples = [info["selection"]], []
    for _ in range(3):
        observation, _, _, _, info = env.step(shares(observation, WEIGHTS))
        scores.append(info["selection"])
        examples.append(info["counts"])
    assert scores == [step.selection.score for step in steps]
    planned = [{s: sum(i.count for i in step.plans[0].items if i.skill == s) for s in env.skills} for step in steps[1:]]
    assert planned == examples
    assert examples[0] != examples[1], "it goes by what it sees"


def test_weights_of_nothing_are_equal_shares_and_those_of_errors_go_to_errors() -> None:
    seen = observed([0.9, 0.1, 0.5], [0.9, 0.3, 0.5], [10, 10, 20], left=0.5, progress=0.5)
    assert shares(seen, [0, 0, 0, 0]) == pytest.approx([1 / 3] * 3)
    assert shares(seen, [3, 0, 0, 0]).argmax() == 1
    assert shares(seen, [0, 3, 0, 0]).argmin() == 1, "its accuracy fell"
    assert shares(seen, [0, 0, 3, 0]).argmax() == 2, "it had most of the data"
    assert shares(seen, [1e4, 0, 0, 0]) == pytest.approx([0, 1, 0])


def test_it_keeps_to_the_curriculum_and_plans_nothing_without_skills() -> None:
    reports = (SkillReport("a", 0.0, 9, cap=3), SkillReport("b", 0.9, 9), SkillReport("c", 0.0, 9, weight=0))
    brief = Brief("fake", "skill-list", "", "", {}, Budget(20), 2)
    plan = LearntPolicy((5.0, 0, 0, 0)).plan(brief, State("skill-list", 0, 1, 0.5, skills=reports, examples_left=20))
    assert {item.skill: item.count for item in plan.items} == {"a": 3, "b": 17}
    assert LearntPolicy(WEIGHTS).plan(brief, State("skill-list", 0, 1, 0.5, examples_left=20)).items == ()


def test_a_file_is_read_as_it_was_written_and_its_bytes_are_part_of_the_version(tmp_path) -> None:
    path = tmp_path / "policy.json"
    write_policy(path, WEIGHTS, {"by": "hand"})
    assert read_policy(path)[0] == WEIGHTS
    first = make_teacher("learnt", {"file": str(path)})
    write_policy(path, (0.0, *WEIGHTS[1:]), {"by": "hand"})
    second = make_teacher("learnt", {"file": str(path)})
    assert first.version != second.version
    assert make_teacher("learnt").privileged


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is not JSON"),
        ("[]", "is no policy of format 1"),
        ('{"format": 2, "weights": {}}', "is no policy of format 1"),
        ('{"format": 1, "weights": {"eror": 1}}', "Did you mean 'error'"),
        ('{"format": 1, "weights": {"error": 1}}', "the weight of 'gain' is None"),
        (json.dumps({"format": 1, "weights": dict.fromkeys(FEATURES, float("nan"))}), "must be a finite number"),
        (json.dumps({"format": 1, "weights": dict.fromkeys(FEATURES, True)}), "must be a finite number"),
    ],
)
def test_a_file_that_is_no_policy_is_one_line(tmp_path, text, message) -> None:
    path = tmp_path / "policy.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=message):
        make_teacher("learnt", {"file": str(path)})


# The script that learns -------------------------------------------------------------------------------------------


@pytest.fixture
def script():
    path = Path(__file__).parent.parent / "benchmarks" / "learn_policy.py"
    spec = importlib.util.spec_from_file_location("learn_policy", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_the_script_learns_is_played_and_is_the_same_every_time(script, monkeypatch, tmp_path, capsys) -> None:
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    for file in files:
        options = "--domain fake --student fake --generations 2 --population 5 --seeds 2 --out"
        monkeypatch.setattr(sys, "argv", ["learn_policy.py", *options.split(), str(file)])
        script.main()
    assert files[0].read_bytes() == files[1].read_bytes()
    assert "20 episodes in" in capsys.readouterr().out
    how = json.loads(files[0].read_text())["learnt"]
    assert (how["episodes"], how["seeds"]) == (20, [1001, 1004])
    assert any(read_policy(files[0])[0])
    assert set(make_teacher("learnt", {"file": str(files[0])}).policies) == {"skill-list"}


def test_the_script_plays_no_more_than_two_hundred_episodes(script, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(sys, "argv", ["learn_policy.py", "--generations", "9", "--out", str(tmp_path / "policy.json")])
    with pytest.raises(SystemExit, match="at most 200"):
        script.main()


def test_the_policy_that_ships_was_learnt_within_the_limit_and_on_seeds_of_no_suite() -> None:
    from dgym.specs import load_suite

    how = json.loads(SHIPPED.read_text())["learnt"]
    assert how["episodes"] <= 200
    assert min(how["seeds"]) > max(load_suite("learnt").seeds)
