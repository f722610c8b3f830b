"""Commands that read a run or write files do so at a URL as in a folder, or say that they cannot."""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from dgym import results
from dgym.cli import app
from dgym.errors import UsageError
from dgym.results.place import Place
from tests.rows import assert_same_rows
from tests.s3 import KEY, SECRET, serving

QUICK = Path(__file__).parents[1] / "leaderboard" / "quick"
MATH = ("-t", "weakness", "-d", "math")


@pytest.fixture(scope="module")
def s3():
    with serving() as url:
        yield url


@pytest.fixture(scope="module")
def published(s3):
    """The published run `quick`, in an object store."""
    there = Place.of(f"{s3}/quick")
    for path in QUICK.glob("*.parquet"):
        there.write(path.read_bytes(), path.name)
    return there.name


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder, in which a path called "s3:" would show."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def dgym(*words: object) -> str:
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, (done.output, done.exception)
    assert KEY not in done.output
    assert SECRET not in done.output
    return done.output


def refusal(*words: object) -> str:
    done = CliRunner().invoke(app, list(map(str, words)))
    assert isinstance(done.exception, UsageError), (done.output, done.exception)
    assert "\n" not in str(done.exception)
    return str(done.exception)


def names(url: str) -> set[str]:
    return set(map(str, Place.of(url).sizes()))


# --------------------------------------------------------------------------------------------------------------
# A run at a URL


def test_a_report_is_written_to_a_url(s3, published, here):
    file = f"{s3}/reports/quick.html"
    assert dgym("report", published, "--out", file).replace("\n", "").startswith(f"{file} (")
    assert names(f"{s3}/reports") == {"quick.html"}
    text = Place.of(file).read().decode()
    assert text.rstrip().endswith("</html>")
    assert f"dgym report {published} --out {file}" in text
    assert list(here.iterdir()) == []


def test_a_report_of_a_run_elsewhere_is_written_here_and_one_behind_a_file_url_beside_its_run(
    published, here, tmp_path
):
    dgym("report", published)
    assert [path.name for path in here.iterdir()] == ["report.html"]
    assert "report.html" not in names(published)
    local = tmp_path / "run"
    local.mkdir()
    for path in QUICK.glob("*.parquet"):
        (local / path.name).write_bytes(path.read_bytes())
    (here / "report.html").unlink()
    dgym("report", local.as_uri())
    assert (local / "report.html").is_file()
    assert list(here.iterdir()) == []


def test_a_report_cannot_replace_a_folder(s3, published, here):
    Place.of(f"{s3}/full").write("x", "a.txt")
    assert "is a folder" in refusal("report", published, "--out", f"{s3}/full")
    assert "is a folder" in refusal("report", published, "--out", f"{s3}/new/")
    assert "is a folder" in refusal("report", published, "--out", here)
    assert names(f"{s3}/full") == {"a.txt"}


def test_a_data_set_at_a_url_is_the_one_in_a_folder_and_loads_as_said(s3, published, here, monkeypatch):
    import datasets

    url = f"{s3}/data/weakness"
    said = dgym("export", "dataset", published, "--out", url, *MATH)
    found = json.loads(dgym("export", "dataset", QUICK, "--out", "data", *MATH, "--json"))
    assert found["folder"] == "data"
    assert names(url) == set(found["files"]) == names("data")
    assert [path.name for path in here.iterdir()] == ["data"]
    assert Place.of(url).read("README.md") == Path("data/README.md").read_bytes()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    load = said.replace("\n", "").partition("Read them with: ")[2]
    at_url = eval(load.removesuffix(")") + f", cache_dir={str(here / 'cache')!r})", {"datasets": datasets})
    in_folder = datasets.load_dataset("data", split="train", cache_dir=str(here / "cache"))
    assert len(at_url) == found["rows"] > 0
    said = dgym("export", "dataset", QUICK, "--out", (here / "other").as_uri(), *MATH)
    assert f'load_dataset("{here / "other"}", split="train")' in said.replace("\n", "")
    assert at_url.features == in_folder.features
    assert at_url.to_list() == in_folder.to_list()


def test_a_data_set_does_not_replace_what_is_at_a_url(s3, published, here):
    url = f"{s3}/mine"
    Place.of(url).write("mine", "mine.txt")
    assert "is there already" in refusal("export", "dataset", published, "--out", url, *MATH)
    assert "is there already" in refusal("export", "dataset", published, "--out", f"{url}/mine.txt", *MATH)
    assert names(url) == {"mine.txt"}


def test_a_data_set_of_several_files_is_written_to_a_url(s3, published, here, monkeypatch):
    monkeypatch.setattr("dgym.exports.datasets.SHARD_BYTES", 50_000)
    found = json.loads(dgym("export", "dataset", published, "--out", f"{s3}/shards", *MATH, "--json"))
    assert len(found["files"]) > 3
    assert names(f"{s3}/shards") == set(found["files"])


def test_records_of_every_eval_ever_at_a_url_are_those_in_a_folder(s3, published, here):
    url = f"{s3}/eee"
    said = json.loads(dgym("export", "every-eval-ever", published, "--out", url, "--samples", "--json"))
    assert said["folder"] == url
    assert set(said["records"]) < names(url)
    (record,) = (name for name in said["records"] if "weakness" in name)
    companion = json.loads(Place.of(url).read(record))["detailed_evaluation_results"]
    assert Place.of(url).read(companion["file_path"]).count(b"\n") == companion["total_rows"] > 0
    assert list(here.iterdir()) == []
    dgym("export", "every-eval-ever", published, "--out", "eee")
    assert len(list(Path("eee").rglob("*.json"))) == len(said["records"])


def test_an_episode_at_a_url_is_shown_as_in_a_folder(published, here):
    label = "weakness skill-list math 1"
    assert dgym("show", label, "--run", published) == dgym("show", label, "--run", QUICK)
    assert f"No episode of {published!r}" in refusal("show", "nobody", "--run", published)


def test_tables_leaderboards_comparisons_and_grades_are_those_of_the_folder(s3, published, here):
    assert dgym("leaderboard", published) == dgym("leaderboard", QUICK)
    pair = ("compare", "weakness", "uniform", "--run")
    assert dgym(*pair, published) == dgym(*pair, QUICK)
    dgym("leaderboard", "build", published, "--out", f"{s3}/boards")
    assert names(f"{s3}/boards") == {"index.html", "leaderboard.md", "leaderboard.csv", "leaderboard.json"}
    dgym("compact", published)
    assert_same_rows(f"{published}/compact", QUICK)
    assert f"{published} has ended" in dgym("status", published)
    assert list(here.iterdir()) == []


def test_one_episode_is_run_into_a_url(s3, here):
    url = f"{s3}/single"
    dgym("run", "-d", "fake", "-s", "fake", "--iterations", 1, "--examples", 10, "--out", url)
    assert len(results.open(url).episodes) == 1
    assert list(here.iterdir()) == []


# --------------------------------------------------------------------------------------------------------------
# Stages


def test_stages_exchange_their_files_at_urls(s3, here):
    attempts, examples = f"{s3}/stages/attempts.jsonl", f"{s3}/stages/examples.jsonl"
    fake = ("-d", "fake", "-s", "fake:a")
    dgym("evaluate", *fake, "--out", attempts)
    assert json.loads(dgym("generate", "-d", "fake", "--attempts", attempts, "--out", examples, "--json"))["kept"] > 0
    assert names(f"{s3}/stages") == {"attempts.jsonl", "examples.jsonl"}
    assert list(here.iterdir()) == []
    assert json.loads(dgym("train", *fake, "--examples", examples, "--out", "student", "--json"))["steps"] > 0
    missing = f"{s3}/stages/none.jsonl"
    assert refusal("train", *fake, "--examples", missing, "--out", "x").startswith(f"{missing} cannot be read: ")


def test_an_adapter_at_a_url_is_the_one_that_was_trained(s3, here):
    few = ("-d", "math", "-s", "micro-math:a", "--share", 0.03)
    dgym("evaluate", *few, "--out", "attempts")
    dgym("generate", "-d", "math", "--share", 0.03, "--attempts", "attempts", "--out", "examples", "--examples", 24)
    student = ("-d", "math", "-s", "micro-math:a")
    url = f"{s3}/adapters/one"
    for out in (url, "one"):
        dgym("train", *student, "--examples", "examples", "--out", out)
    files = {file.name: file.read_bytes() for file in Path("one").iterdir()}
    assert names(url) == files.keys()
    assert any(name.endswith(".safetensors") for name in files)
    assert {name: Place.of(url).read(name) for name in files} == files
    for trained, out in ((url, "far"), ("one", "near")):
        dgym("evaluate", *few, "--trained", trained, "--out", out)
    assert Path("far").read_bytes() == Path("near").read_bytes() != Path("attempts").read_bytes()
    missing = f"{s3}/adapters/none"
    assert refusal("evaluate", *few, "--trained", missing, "--out", "x") == f"There is nothing at {missing!r}."


# --------------------------------------------------------------------------------------------------------------
# Where a path of this machine is needed


def path_options(group: Any, *before: str) -> Iterator[tuple[list[str], str]]:
    """Every command with every parameter of it that is a path of this machine, as a person names them."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from path_options(command, *before, name)
            continue
        hints = get_type_hints(inspect.unwrap(command.callback))
        for parameter in command.params:
            hint = hints.get(parameter.name)
            if Path in (hint, *get_args(hint)):
                option = parameter.opts[0]
                yield [*before, name], option if option.startswith("-") else ""


LOCAL = list(path_options(typer.main.get_command(app)))


def test_such_options_are_found():
    assert (["submit"], "--out") in LOCAL
    assert (["submit"], "") in LOCAL
    assert len(LOCAL) > 8


@pytest.mark.parametrize(("command", "option"), LOCAL, ids=[" ".join((*c, o)) for c, o in LOCAL])
def test_a_url_is_refused_where_a_path_is_needed(command, option, here):
    said = refusal(*command, *[option] * bool(option), "s3://bucket/a/b")
    assert said.startswith("'s3://bucket/a/b' is a URL")
    assert list(here.iterdir()) == []
