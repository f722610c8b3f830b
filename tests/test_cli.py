"""The command line as a person uses it: real processes for what ends them, the runner for the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dgym import cli
from dgym.bench import LocalBackend

RUNNER = CliRunner()


def dgym(*args: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a process of its own."""
    return subprocess.run([sys.executable, "-m", "dgym", *args], capture_output=True, text=True, check=False)


def test_help_loads_neither_ray_nor_torch() -> None:
    code = (
        "import sys; sys.argv = ['dgym', '--help']\n"
        "import dgym.cli\n"
        "try: dgym.cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print([m for m in ('ray', 'torch', 'transformers', 'pandas', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "bench" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["bench", "--suite", "quik"], "Did you mean 'quick'"),
        (["bench", "--suite", "smoke", "--teacher", "weekness"], "Did you mean 'weakness'"),
        (["bench", "--suite", "smoke", "--seeds", "one"], "--seeds"),
        (["run", "--domain", "maths"], "Did you mean 'math'"),
        (["run", "--environment", "openended"], "Did you mean 'open-ended'"),
        (["run", "--student", "micro-math:z"], "variant of micro-math"),
        (["run", "--teacher", "nowhere.py:Teacher"], "no teacher file 'nowhere.py'"),
        (["ls", "teecher"], "Did you mean"),
        (["check", "weekness"], "Did you mean 'weakness'"),
        (["leaderboard", "nowhere"], "nowhere"),
        (["train", "--examples", "nowhere.jsonl", "--out", "x"], "nowhere.jsonl cannot be read"),
    ],
)
def test_a_wrong_name_is_one_line_that_helps(args: list[str], said: str, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "run")] if args[0] in ("bench", "run") else []
    backend = ["--backend", "local"] if args[0] == "bench" else []
    done = dgym(*args, *out, *backend)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "is not valid TOML"),
        ("name = 'x'\ncells = []\nentries = []\nseed = [1]", "Did you mean 'seeds'"),
        ("name = 'x'\ncells = []\nentries = []\nrules = { iteration = 3 }", "Did you mean 'iterations'"),
        ("name = 'x'\ncells = []\nentries = []\nrules = { iterations = -1 }", "iterations must be at least 0"),
        ("cells = []\nentries = []", "'name'"),
    ],
)
def test_a_malformed_suite_is_one_line_that_names_the_place(text: str, said: str, tmp_path: Path) -> None:
    suite = tmp_path / "suite.toml"
    suite.write_text(text)
    done = dgym("bench", "--suite", str(suite), "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert said in done.stderr
    assert str(suite) in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_teacher_file_that_raises_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("raise ValueError('half written')")
    done = dgym("bench", "--suite", "smoke", "--teacher", f"{file}:Teacher", "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "half written" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_unwritable_results_folder_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    done = dgym("bench", "--suite", "smoke", "--backend", "local", "--out", str(file / "run"))
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_ray_prints_meanwhile_is_kept_out_of_the_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = LocalBackend.run

    def noisy(self: LocalBackend, *args: object) -> object:
        print("(raylet) WARNING: 8 PYTHON worker processes have been started")
        return run(self, *args)

    monkeypatch.setattr(LocalBackend, "run", noisy)
    done = RUNNER.invoke(cli.app, ["bench", "--suite", "smoke", "--backend", "local", "--out", str(tmp_path), "--json"])
    assert json.loads(done.stdout)["failed"] == []
    assert "raylet" in done.stderr


def test_smoke_runs_ends_with_a_leaderboard_and_is_not_run_twice(tmp_path: Path) -> None:
    args = ["bench", "--suite", "smoke", "--backend", "local", "--out", str(tmp_path)]
    first = RUNNER.invoke(cli.app, args)
    assert first.exit_code == 0, first.output
    assert "weakness" in first.output
    assert "Track: skill-list" in first.output
    again = RUNNER.invoke(cli.app, [*args, "--json"])
    report = json.loads(again.stdout)
    assert (report["skipped"], report["ok"]) == (report["episodes"], 0)
    assert {p.name for p in tmp_path.glob("leaderboard.*")} == {"leaderboard.md", "leaderboard.csv", "leaderboard.json"}
    more = RUNNER.invoke(cli.app, [*args, "--seeds", "1-6", "--json"])
    assert json.loads(more.stdout)["ok"] == report["episodes"] // 5


def test_a_failed_episode_makes_the_exit_status_non_zero(tmp_path: Path) -> None:
    file = tmp_path / "silent.py"
    file.write_text(
        "from dgym import Plan, PlanItem\n"
        "class Silent:\n"
        "    def plan(self, brief, state): return Plan((PlanItem(3),))\n"
        "    def generate(self, brief, item): return []\n"
    )
    out = str(tmp_path / "run")
    done = dgym("bench", "--suite", "smoke", "--backend", "local", "--teacher", f"{file}:Silent", "--out", out)
    assert done.returncode == 1
    assert "failed (teacher)" in done.stderr + done.stdout
    assert "10 of 50 episodes failed" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_three_stages_alone_make_a_loop(tmp_path: Path) -> None:
    attempts, examples, student = (tmp_path / n for n in ("attempts.jsonl", "examples.jsonl", "student"))
    fake = ["--domain", "fake", "--student", "fake:a", "--json"]
    before = RUNNER.invoke(cli.app, ["evaluate", *fake, "--out", str(attempts)])
    assert before.exit_code == 0, before.output
    args = ["--domain", "fake", "--attempts", str(attempts), "--out", str(examples), "--environment", "skill-list"]
    made = json.loads(RUNNER.invoke(cli.app, ["generate", *args, "--examples", "60", "--json"]).stdout)
    assert made["kept"] == len(examples.read_text().splitlines()) == 60
    trained = RUNNER.invoke(cli.app, ["train", *fake, "--examples", str(examples), "--out", str(student)])
    assert json.loads(trained.stdout)["steps"] == 60
    after = RUNNER.invoke(cli.app, ["evaluate", *fake, "--trained", str(student), "--out", str(tmp_path / "after")])
    assert json.loads(after.stdout)["score"] > json.loads(before.stdout)["score"]


def test_generate_says_when_attempts_are_missing(tmp_path: Path) -> None:
    attempts = tmp_path / "attempts.jsonl"
    RUNNER.invoke(
        cli.app, ["evaluate", "--domain", "fake", "--student", "fake", "--share", "0.5", "--out", str(attempts)]
    )
    done = dgym("generate", "--domain", "fake", "--attempts", str(attempts), "--out", str(tmp_path / "examples"))
    assert done.returncode == 2
    assert "have no attempt" in done.stderr


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    examples = tmp_path / "examples.jsonl"
    examples.write_text('{"prompt": "add 1 2", "response": "3"}\n{"prompt": 7}\n')
    done = dgym("train", "--domain", "fake", "--student", "fake", "--examples", str(examples), "--out", str(tmp_path))
    assert done.returncode == 2
    assert "line 2" in done.stderr


def test_run_shows_a_curve(tmp_path: Path) -> None:
    args = ["--domain", "fake", "--student", "fake", "--iterations", "2", "--examples", "40", "--out", str(tmp_path)]
    done = RUNNER.invoke(cli.app, ["run", *args])
    assert done.exit_code == 0, done.output
    assert len([line for line in done.output.splitlines() if "█" in line]) == 3
    assert "best" in done.output


def test_run_takes_a_spec_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "episode.toml"
    file.write_text(
        "teacher = 'uniform'\ndomain = 'fake'\nstudent = 'fake:b'\n"
        "rules = { iterations = 1, budget = { examples_per_iteration = 8 } }\n"
    )
    done = RUNNER.invoke(cli.app, ["run", "--spec", str(file), "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert "uniform teaches fake:b in open-ended" in done.output
    assert "8/8" in done.output
    file.write_text("teecher = 'uniform'")
    wrong = dgym("run", "--spec", str(file), "--out", str(tmp_path / "run"))
    assert wrong.returncode == 2
    assert "Did you mean 'teacher'" in wrong.stderr


def test_ls_lists_everything_registered() -> None:
    found = json.loads(RUNNER.invoke(cli.app, ["ls", "--json"]).stdout)
    assert "weakness" in found["teachers"]
    assert "micro-math" in found["students"]
    assert "quick" in found["suites"]
    assert all(text for rows in found.values() for text in rows.values())


def test_check_passes_a_good_teacher_and_fails_a_bad_one(tmp_path: Path) -> None:
    assert RUNNER.invoke(cli.app, ["check", "weakness"]).exit_code == 0
    file = tmp_path / "bad.py"
    file.write_text(
        "class Bad:\n    def plan(self, brief, state): return 7\n    def generate(self, brief, item): return []\n"
    )
    done = RUNNER.invoke(cli.app, ["check", f"{file}:Bad"])
    assert done.exit_code == 1
    assert "FAIL" in done.output


def test_where_programs_cannot_be_isolated_nothing_is_run_and_the_way_on_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = tmp_path / "code.toml"
    suite.write_text(
        'name = "x"\n[[cells]]\ndomain = "code"\nstudent = "fake"\n[[entries]]\nteachers = ["no-data"]\n'
        "[rules]\niterations = 0\nshare = 0.01\n"
    )
    broken = "raise OSError('no namespaces here')\n"
    (tmp_path / "broken.py").write_text(f"class Broken:\n    def __init__(self):\n        {broken}")
    monkeypatch.setenv("DGYM_SANDBOX", f"{tmp_path / 'broken.py'}:Broken")
    out = tmp_path / "run"
    result = dgym("bench", "--suite", str(suite), "--backend", "local", "--out", str(out))
    assert result.returncode != 0
    assert "no namespaces here" in result.stderr
    assert "Traceback" not in result.stderr
    assert not out.exists()
    again = dgym("bench", "--suite", str(suite), "--backend", "local", "--out", str(out), "--unsafe")
    assert again.returncode == 0, again.stderr
