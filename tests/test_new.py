"""`dgym new teacher`: what it writes installs, passes its own tests, is listed, conforms and runs."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dgym import cli, registry
from dgym.errors import UsageError
from dgym.new import TEACHER, module_of, new_teacher
from tests.installing import install

ROOT = Path(__file__).parent.parent
NAME = "my-first.Teacher"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return new_teacher(NAME, tmp_path_factory.mktemp("new") / "package")


@pytest.fixture(scope="module")
def site(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    install(made.folder, folder / "site", folder / "build")
    return folder / "site"


@pytest.fixture
def call(site, tmp_path):
    """Runs a command of Python where the package is installed."""

    def run(*words, cwd=tmp_path):
        env = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "DGYM_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=cwd, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_it_passes_its_own_tests(made, call):
    assert "6 passed" in call("pytest", "-q", "-p", "no:cacheprovider", cwd=made.folder)


def test_it_is_listed_with_what_it_does(call):
    listed = json.loads(call("dgym", "ls", "teachers", "--json"))["teachers"]
    assert listed[NAME].startswith("Varies the problems")


def test_it_conforms_in_every_environment(call):
    findings = json.loads(call("dgym", "check", NAME, "--json"))
    assert {f["name"].partition(":")[0] for f in findings} >= set(registry.names("environment"))
    assert [f for f in findings if not f["ok"]] == []


def test_its_name_and_version_are_part_of_the_digest_and_it_runs(call, tmp_path):
    call("dgym", "run", "--teacher", NAME, "--domain", "fake", "--student", "fake", "--out", "run")
    from dgym import results

    (row,) = results.open(tmp_path / "run").episodes.to_dict("records")
    assert (row["status"], row["privileged"]) == ("ok", False)
    assert f"{NAME}==0.1.0" in str(row["pins"])
    assert row["best_test"] > row["base_test"] + 0.1


def test_the_package_is_what_its_author_would_write(made, site):
    assert [str(f) for f in made.files] == [
        "README.md",
        ".gitignore",
        "pyproject.toml",
        "src/my_first_teacher/__init__.py",
        "src/my_first_teacher/teacher.py",
        "tests/test_teacher.py",
    ]
    project = tomllib.loads((made.folder / "pyproject.toml").read_text())
    assert project["project"]["name"] == NAME
    assert project["project"]["entry-points"]["dgym.teachers"] == {NAME: "my_first_teacher:MyFirstTeacher"}
    declared = project["tool"]["dgym"]["submission"]
    assert set(declared) == {
        "title",
        "description",
        "authors",
        "contact",
        "licence",
        "models",
        "data",
        "endpoints",
    }
    assert project["project"]["license"] == declared["licence"]
    # What is installed is the package and nothing else.
    assert {p.name for p in site.iterdir()} == {"my_first_teacher", "my_first_teacher-0.1.0.dist-info"}
    for file in made.files:
        assert "{{" not in (made.folder / file).read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["ruff", "check", "--select", "E,F,I,B,UP,RUF,PT,SIM,PTH", "."],
        ["ruff", "check", "--select", "D,ANN", "--config", "lint.pydocstyle.convention='google'", "src"],
        ["ruff", "format", "--check", "."],
    ],
)
def test_its_code_is_formatted_and_without_lint(made, words):
    options = ["--no-cache", "--isolated", "--config", "line-length=120"]
    words = [sys.executable, "-m", *words, *options]
    done = subprocess.run(words, cwd=made.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_templates_are_packed_in_the_wheel(tmp_path):
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("dgym-*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    templates = [p for p in TEACHER.rglob("*.j2") if p.is_file()]
    assert len(templates) == 6
    assert {str(p.relative_to(ROOT)) for p in templates} <= packed


def test_the_command_says_what_to_do_next_in_three_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.app, ["new", "teacher", "sums"])
    assert done.exit_code == 0, done.output
    first, *steps = done.output.splitlines()
    assert "sums holds the teacher 'sums'" in first
    assert [step.split()[0] for step in steps] == ["cd", "dgym", "write"]
    assert (tmp_path / "sums" / "src" / "sums" / "teacher.py").is_file()
    shown = CliRunner().invoke(cli.app, ["new", "teacher", "more-sums", "--out", "elsewhere", "--json"])
    assert json.loads(shown.output)["files"][0] == "README.md"
    assert (tmp_path / "elsewhere" / "pyproject.toml").is_file()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("two words", "Write 'two-words'"),
        ("-x", "Write 'x'"),
        ("../up", "Write 'up'"),
        ("", "Write 'my-teacher'"),
        ("é", "Write 'my-teacher'"),
        ("class", "write 'my-class'"),
        ("3d", "write 'my-3d'"),
        ("uniform", "There is a teacher 'uniform' already"),
        ("json", "which yours would hide; choose another name, such as 'my-json'"),
        ("dgym", "which yours would hide"),
        ("DGYM", "which yours would hide"),
        ("import-linter", "which yours would hide"),
    ],
)
def test_a_name_that_will_not_do_is_one_line_with_one_that_does(tmp_path, name, message):
    with pytest.raises(UsageError) as caught:
        new_teacher(name, tmp_path / "out")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_names_are_normalised_to_modules():
    assert module_of("A--b_.C") == "a_b_c"


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    for place in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(UsageError, match="is not empty; name another folder with --out"):
            new_teacher("sums", place)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert new_teacher("sums", tmp_path / "empty").files


def test_a_folder_that_cannot_be_written_is_the_callers_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written: Not a directory"):
        new_teacher("sums", tmp_path / "file" / "below")
