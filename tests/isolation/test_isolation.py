"""Teachers in a process of their own: the same scores, in any language, and a clear word when something goes wrong."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

import dgym
from dgym import registry, results
from dgym.bench import LocalBackend, bench
from dgym.chat_server import ChatServer
from dgym.cli import app, extended
from dgym.core import Brief, Budget, PlanItem, Rules
from dgym.episode import work_on
from dgym.errors import TeacherError, UsageError
from dgym.isolation.teacher import _Home
from dgym.specs import EpisodeSpec, Seeds, identify, load_suite
from dgym.teachers import full_name, make_teacher
from tests.rows import assert_same_rows
from tests.waiting import until

EXAMPLES = Path(__file__).parents[2] / "leaderboard" / "examples"
RULES = Rules(iterations=2, budget=Budget(20))
BRIEF = Brief("fake", "open-ended", "numbers", "a number", {}, Budget(20), 2)

ADDS = '''
"""Adds numbers, and imports a module of the standard library only when it is asked."""
from dgym import Example, Plan, PlanItem, Teacher


class Adds:
    version = "7"

    def __init__(self, largest=999):
        self.largest = largest

    def plan(self, brief, state):
        seen = (state.memory or []) + [state.iteration]
        return Plan((PlanItem(state.examples_left // 2), PlanItem(state.examples_left // 2)), memory=seen)

    def generate(self, brief, item):
        import random

        rng = random.Random(item.seed)
        pairs = [(rng.randint(0, self.largest), rng.randint(0, self.largest)) for _ in range(item.count)]
        print("this goes nowhere")
        return [Example(f"add {a} {b}", str(a + b), skill="add") for a, b in pairs]
'''


pytestmark = pytest.mark.usefixtures("sandboxed")


@pytest.fixture
def file(tmp_path):
    """Writes a teacher's file and returns its name behind `isolated@`."""

    def write(body, attribute="T", name="t.py"):
        (tmp_path / name).write_text(body)
        return f"isolated@{tmp_path / name}:{attribute}"

    return write


def spec(teacher, **fields):
    given = {"environment": "skill-list", "domain": "fake", "student": "fake", "rules": RULES, "seeds": Seeds.all(1)}
    return EpisodeSpec(teacher=teacher, **given | fields)


def scores(folder):
    steps = results.open(folder).arrow("steps", ["iteration", "feedback", "selection", "examples_kept"]).to_pylist()
    return sorted(tuple(row.values()) for row in steps)


@pytest.mark.parametrize("environment", ["open-ended", "skill-list", "skill-tree"])
@pytest.mark.parametrize("teacher", ["weakness", "uniform", "wrong-answers"])
def test_shipped_teachers_have_the_same_scores_in_process_and_isolated(tmp_path, teacher, environment):
    for name, folder in ((teacher, "in"), (f"isolated@{teacher}", "out")):
        summary = bench([spec(name, environment=environment)], tmp_path / folder, backend=LocalBackend())
        assert len(summary.ok) == 1, summary.failed
    ours, theirs = (results.open(tmp_path / folder) for folder in ("in", "out"))
    assert scores(tmp_path / "in") == scores(tmp_path / "out")
    told = ["prompt", "response", "skill", "item", "kept", "reason"]
    assert ours.arrow("examples", told).equals(theirs.arrow("examples", told))
    assert list(ours.episodes.privileged) == list(theirs.episodes.privileged) == [True]


def test_a_file_has_the_same_scores_in_process_and_isolated(tmp_path, file):
    isolated = file(ADDS, "Adds")
    for name, folder in ((isolated.removeprefix("isolated@"), "in"), (isolated, "out")):
        assert len(bench([spec(name, teacher_params={"largest": 500})], tmp_path / folder).ok) == 1
    assert scores(tmp_path / "in") == scores(tmp_path / "out")
    row = results.open(tmp_path / "out").episodes.iloc[0]
    assert not row.privileged
    assert row.examples_submitted == 40


def test_a_shipped_teacher_in_a_real_domain_too(tmp_path):
    """Its generators, packages and compiled libraries are there."""
    fields = {"domain": "math", "student": "micro-math", "environment": "skill-tree"}
    rules = Rules(iterations=1, budget=Budget(12), share=0.03)
    for name, folder in (("weakness", "in"), ("isolated@weakness", "out")):
        summary = bench([spec(name, rules=rules, **fields)], tmp_path / folder)
        assert len(summary.ok) == 1, summary.failed
    assert scores(tmp_path / "in") == scores(tmp_path / "out")


@pytest.mark.slow
def test_on_ray_too(tmp_path, file):
    from dgym.cluster import RayBackend

    name = file(ADDS, "Adds")
    for folder, backend in (("local", LocalBackend()), ("ray", RayBackend(hosts=1, workers=2))):
        assert len(bench([spec(name)], tmp_path / folder, backend=backend).ok) == 1
    assert_same_rows(tmp_path / "local", tmp_path / "ray")


def test_the_digest_pins_the_bytes_and_not_the_place(tmp_path, file):
    first = identify(spec(file(ADDS, "Adds")))
    assert first.digest == identify(spec(file(ADDS, "Adds", "moved.py"))).digest
    assert first.digest != identify(spec(file(ADDS + "\n# changed", "Adds"))).digest
    assert first.digest != identify(spec(file(ADDS, "Adds"), teacher_params={"largest": 3})).digest
    assert first.spec.teacher.startswith("isolated@")
    assert identify(spec("isolated@weakness")).digest != identify(spec("weakness")).digest


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node.js here")
def test_a_teacher_in_javascript_runs_and_is_deterministic(tmp_path):
    name = f"isolated@{EXAMPLES / 'sums-js'}"
    teacher = make_teacher(name)
    assert (teacher.state_blind, sorted(teacher.policies)) == (True, sorted(registry.names("environment")))
    items = [PlanItem(5, seed=2**63 - 1), PlanItem(5, seed=2**63 - 2)]
    first, again = work_on(teacher, BRIEF, items), work_on(teacher, BRIEF, items)
    assert first == again
    assert first[0] != first[1]
    for example in first[0].examples:
        asked, _, right = example.prompt.removeprefix("State the final answer").rpartition(": ")[2].partition(" + ")
        assert int(asked) + int(right.removesuffix(" =")) == int(example.response)
    for folder in ("one", "two"):
        assert len(bench([spec(name)], tmp_path / folder).ok) == 1
    assert_same_rows(tmp_path / "one", tmp_path / "two")


def test_a_teacher_in_any_language_that_reads_lines(tmp_path):
    """Of the shell alone, as far as the standard library goes: nothing but the protocol is needed."""
    folder = tmp_path / "shell"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "shell"\nversion = "1"\n[tool.dgym.submission]\ncommand = ["sh", "{teacher}/t.sh"]\n'
    )
    (folder / "t.sh").write_text(
        """while read -r line; do
    id=${line#*'"id":'}; id=${id%%[,\\}]*}
    case $line in
        *'"type":"hello"'*) say='"type":"hello","protocol":1,"version":"1","environments":["open-ended"]' ;;
        *'"type":"plan"'*) say='"type":"plan","plan":{"items":[{"count":1}]}' ;;
        *) say='"type":"examples","examples":[{"prompt":"add 1 1","response":"2"}]' ;;
    esac
    echo "{\\"id\\":$id,$say}"
done
"""
    )
    assert len(bench([spec(f"isolated@{folder}", environment="open-ended")], tmp_path / "run").ok) == 1
    assert results.open(tmp_path / "run").episodes.examples_submitted.item() == 2


def test_each_call_has_a_fresh_process_and_memory_goes_through_the_plan(file):
    teacher = make_teacher(
        file(
            """
import os
from dgym import Example, Plan, PlanItem
calls = []
class T:
    def plan(self, brief, state):
        calls.append(1)
        open("/tmp/kept", "a").write("x")
        return Plan((PlanItem(1),), memory=[len(calls), len(open("/tmp/kept").read()), state.memory])
    def generate(self, brief, item):
        calls.append(1)
        return [Example(f"call {len(calls)}", str(os.path.exists("/tmp/kept")))]
"""
        )
    )
    from dgym.gym import make

    gym = make("open-ended", "fake", "fake")
    state = gym.reset()
    policy = teacher.policies["open-ended"]
    first = policy.plan(gym.brief, state)
    second = policy.plan(gym.brief, replace(state, memory=first.memory))
    assert first.memory == [1, 1, None]
    assert second.memory == [1, 1, first.memory]
    # The items of one batch share a process, and it is a fresh one.
    written = work_on(teacher, BRIEF, [PlanItem(1), PlanItem(1)])
    assert [w.examples[0].prompt for w in written] == ["call 1", "call 2"]
    assert {w.examples[0].response for w in written} == {"False"}


def test_processes_end_with_their_teacher(file):
    def alive():
        found = set()
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has just ended
                found |= {process.pid} if "dgym.isolation.teach" in " ".join(process.cmdline()) else set()
        return found

    before = alive()
    teacher = make_teacher(file(ADDS, "Adds"))
    work_on(teacher, BRIEF, [PlanItem(1)])
    home = teacher.engine._home
    assert isinstance(home, _Home)
    home.take().close()
    home.close()
    until(lambda: alive() <= before)


CALLS = """
from dgym import Example, Plan, PlanItem
from dgym.chat import find_chat
from dgym.core import Message
SCHEMA = {"type": "object", "properties": {"examples": {"type": "array"}}, "required": ["examples"]}
class T:
    def plan(self, brief, state):
        return Plan((PlanItem(2),))
    def generate(self, brief, item):
        said = find_chat("openai:stand-in").complete([Message("user", "Write 2 problems.")], SCHEMA, item.seed)
        return [Example(f"add {item.seed % 1000} {i}", str(item.seed % 1000 + i) + "" * len(said)) for i in range(2)]
"""


def test_language_models_are_asked_outside_and_only_those_that_were_granted(tmp_path, file, monkeypatch):
    name = file(CALLS)
    with ChatServer() as server:
        # It knows dgym's own prompts only.
        server.stand_in.answer = lambda messages, schema, seed, wrong: {"examples": []}
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "canary-key")
        refused = bench([spec(name)], tmp_path / "refused")
        assert "'openai:stand-in' was not granted; granted: none" in refused.failed[0].message
        granted = spec(name, teacher_params={"grant": ["openai:stand-in"]})
        summary = bench([granted], tmp_path / "granted")
        assert len(summary.ok) == 1, summary.failed
    calls = results.open(tmp_path / "granted").calls
    assert list(calls[calls.model.notna()].outcome) == ["ok", "ok"]
    assert identify(granted).digest != identify(spec(name)).digest
    for file_ in (tmp_path / "granted").rglob("*"):
        assert not file_.is_file() or b"canary-key" not in file_.read_bytes()


# What goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise RuntimeError('no idea')", r"cannot be made in isolation.*RuntimeError: no idea"),
        ("import numpy\nclass T: pass", r"No module named 'numpy'"),
        ("class T: pass", r"T is a T; it must be a dgym.Teacher, or plan and generate"),
        ("class U: pass", r"has no attribute 'T'"),
        ("def T(:", r"SyntaxError"),
        ("import os\nos._exit(3)", r"left with status 3"),
        ("import os\nos.write(1, b'x')\nos.close(0)\nimport sys\nsys.exit('enough')", r"enough"),
    ],
)
def test_a_teacher_that_cannot_be_made_is_one_line(file, body, words):
    with pytest.raises(UsageError, match=words) as caught:
        make_teacher(file(body))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("isolated@", "Say what to isolate"),
        ("isolated@nowhere.py:T", "There is no teacher file 'nowhere.py'"),
        ("isolated@weaknes", "Did you mean 'weakness'"),
        ("isolated@/tmp", "has no pyproject.toml"),
    ],
)
def test_what_is_not_there_is_named(name, words):
    with pytest.raises(UsageError, match=words):
        make_teacher(name)


def test_a_folder_says_what_it_lacks(tmp_path):
    def words(table):
        (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "x"\n{table}')
        with pytest.raises(UsageError) as caught:
            make_teacher(f"isolated@{tmp_path}")
        return str(caught.value)

    assert "has no table [tool.dgym.submission]" in words("")
    assert "is no TOML" in words("[")
    assert "needs either teacher" in words("[tool.dgym.submission]")
    assert "command must be a list" in words('[tool.dgym.submission]\ncommand = "x"')
    assert "'no-such-program', which this machine does not have" in words(
        '[tool.dgym.submission]\ncommand = ["no-such-program"]'
    )
    assert "needs '/usr/nowhere/lib'" in words('[tool.dgym.submission]\ncommand = ["sh"]\nread = ["/usr/nowhere/lib"]')
    assert "asks for 'openai:gpt-9'. To grant it" in words(
        '[tool.dgym.submission]\ncommand = ["sh"]\nendpoints = ["openai:gpt-9"]'
    )


@pytest.mark.parametrize(
    "wanted",
    ["/", "/usr", "/root", "/etc/passwd", "/proc", "/tmp", str(Path(dgym.__file__).parent), "/usr/../etc/hostname"],
)
def test_a_folder_cannot_ask_for_files_of_this_machine(tmp_path, wanted):
    """Else it could see hidden problems, results and keys by declaring them."""
    (tmp_path / "pyproject.toml").write_text(
        f'[project]\nname = "x"\n[tool.dgym.submission]\ncommand = ["sh"]\nread = [{wanted!r}]'
    )
    with pytest.raises(UsageError, match=r"and nothing else of this machine|this machine does not have"):
        make_teacher(f"isolated@{tmp_path}")


def test_nor_for_a_link_to_them_or_a_program_of_its_own_choice(tmp_path):
    (tmp_path / "secret").write_text("x")
    (tmp_path / "program").symlink_to("/etc/hostname")
    for table in (f'command = ["sh"]\nread = ["{tmp_path}/program"]', f'command = ["{sys.executable}"]'):
        (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "x"\n[tool.dgym.submission]\n{table}')
        with pytest.raises(UsageError, match="and nothing else of this machine"):
            make_teacher(f"isolated@{tmp_path}")


def test_limits_are_checked(file):
    name = file(ADDS, "Adds")
    with pytest.raises(UsageError, match="Did you mean 'seconds'"):
        make_teacher(name, {"limits": {"second": 1}})
    with pytest.raises(UsageError, match="must be above 0"):
        make_teacher(name, {"limits": {"seconds": 0}})
    with pytest.raises(UsageError, match="must be a number"):
        make_teacher(name, {"limits": {"seconds": "9"}})


def test_what_a_teacher_raises_is_its_own_failure(tmp_path, file):
    name = file(
        """
from dgym import Plan, PlanItem
class T:
    def plan(self, brief, state):
        return Plan((PlanItem(2), PlanItem(3)))
    def generate(self, brief, item):
        if item.count == 2:
            raise ValueError("not two")
        return [{"prompt": 1}, "text", None]
"""
    )
    two, three = work_on(make_teacher(name), BRIEF, [PlanItem(2), PlanItem(3)])
    assert isinstance(two.error, TeacherError)
    assert "ValueError: not two" in str(two.error)
    # What is no example is for the gate to judge.
    assert len(three.examples) == 3
    summary = bench([spec(name)], tmp_path)
    assert summary.failed[0].boundary == "teacher"


def test_the_command_line(tmp_path, file, monkeypatch):
    name = file(ADDS, "Adds")
    done = CliRunner().invoke(
        app, ["run", "--teacher", name, "--domain", "fake", "--student", "fake", "--out", str(tmp_path / "run")]
    )
    assert done.exit_code == 0, done.output
    failed = subprocess.run(
        [sys.executable, "-m", "dgym", "run", "--teacher", f"{name}x", "--domain", "fake", "--student", "fake"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "400"},
    )
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr
    assert "has no attribute 'Addsx'" in failed.stderr


def test_a_suite_grants_models_to_added_teachers_in_isolation_only(file):
    name = file(CALLS)
    suite = extended(load_suite("smoke"), (name, "weakness"), None, ("openai:stand-in",))
    given = {e.teacher: e.teacher_params for e in suite.episodes()}
    assert given[name] == {"grant": ["openai:stand-in"]}
    assert given["weakness"] == {}


def test_what_a_class_says_of_itself_counts_in_process_and_isolated(file):
    """Else a teacher that looks at no state would run once in isolation, and in every environment without."""
    says = "    version = '7'\n    state_blind = True\n    privileged = True\n    environments = ('skill-list',)\n"
    name = file(ADDS.replace('    version = "7"\n', says), "Adds")
    for teacher in (make_teacher(name.removeprefix("isolated@")), make_teacher(name)):
        assert (teacher.state_blind, teacher.privileged, list(teacher.policies)) == (True, True, ["skill-list"])
        assert teacher.version.startswith("7")


def test_names():
    assert full_name("isolated@my.py:T") == "isolated@my.py:T"
    assert full_name("isolated@weakness") == "isolated@weakness"
    assert not registry.is_file("isolated@my.py:T")


def test_what_the_example_says_of_itself_is_complete():
    from dgym.isolation.places import submission_of

    table = submission_of(EXAMPLES / "sums-js").table
    assert json.dumps(dict(table))
    assert {"title", "description", "authors", "models", "data"} <= set(table)
