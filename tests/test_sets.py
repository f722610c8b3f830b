"""`dgym data`: what is here, fetching, checking and showing, as a person types it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dgym import cli, registry
from dgym.core import SPLITS
from dgym.data.store import MANIFEST, damaged, folder_of, stored
from dgym.domains import data_sets, make_domain
from dgym.errors import UsageError
from dgym.sets import available, check, samples, write_images

FIXTURES = Path(str(resources.files("dgym.data"))) / "fixtures"
NAMES = [name for name in registry.names("domain") if name in data_sets()]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))
    make = make_domain.__globals__["_made"]
    make.cache_clear()
    yield tmp_path / "cache"
    make.cache_clear()


def dgym(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(cli.app, ["data", *words], catch_exceptions=True)
    if isinstance(done.exception, UsageError):
        return str(done.exception)
    assert done.exit_code == code, done.output
    return done.output


def from_fixture(name: str = "gsm8k") -> str:
    """Pulls a data set from a folder that has it: the fixture as if it were upstream's files."""
    return dgym("pull", name, "--from", str(FIXTURES / name))


def test_what_is_not_here_is_listed_with_how_to_get_it() -> None:
    found = {data.name: data for data in available()}
    assert {"hendrycks-math", "gsm8k", "gqa", "naturalbench", "livecodebench", "mnms", "humaneval", "bfcl"} <= {*found}
    assert not any(data.here for data in found.values())
    out = dgym("ls")
    assert all(name in out for name in found)
    assert "dgym data pull NAME" in out
    rows = json.loads(dgym("ls", "--json"))
    assert {row["name"]: row["here"] for row in rows} == dict.fromkeys(found, False)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_one_line_with_the_command(name: str) -> None:
    domain = make_domain(name)
    if domain.needs() and domain.needs()[0].made is not None:
        pytest.skip("it is computed on first use")
    with pytest.raises(UsageError, match=rf"is not on this machine: fetch it with `dgym data pull {name}`"):
        domain.problems("feedback")


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_has_a_licence_a_home_and_a_fixture(name: str) -> None:
    data = data_sets()[name]
    assert data.licence
    assert data.homepage.startswith("https://")
    assert data.package or data.made or data.revision, "pinned"
    assert registry.BUILTIN["domain"][name]
    domain = make_domain(f"{name}:fixture")
    assert all(domain.problems(split) for split in ("feedback", "selection", "test"))
    assert make_domain(f"{name}:fixture") is domain


def test_a_pull_from_a_folder_is_reported_and_listed() -> None:
    out = from_fixture()
    assert "60 train, 18 test" in out
    assert "Licence: MIT" in out
    assert "dgym run --domain gsm8k" in out
    (row,) = [row for row in json.loads(dgym("ls", "--json")) if row["name"] == "gsm8k"]
    assert row["here"]
    assert row["rows"] == 78
    assert row["origin"].startswith("the folder ")
    assert len(make_domain("gsm8k").problems("test")) == 18


def test_names_that_do_not_exist_are_answered_with_the_nearest() -> None:
    assert "Did you mean 'gsm8k'?" in dgym("pull", "gsm8")
    assert "Did you mean 'gsm8k'?" in dgym("show", "gsm8:fixture")
    assert "option of the domain 'gsm8k'" in dgym("show", "gsm8k:fixtur")
    assert "for one data set at a time" in dgym("pull", "gsm8k", "gqa", "--mirror", "a/b")
    assert "Did you mean '1 or 2 steps'?" in dgym("show", "gsm8k:fixture", "--skill", "1 or 2 step")


def test_a_check_sees_what_was_changed(cache: Path) -> None:
    assert "No data set is here" in dgym("check")
    from_fixture()
    assert dgym("check").startswith("gsm8k: as it should be (40 train, 10 feedback, 10 selection, 18 test)")
    file = folder_of("gsm8k") / MANIFEST
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps(manifest | {"digest": "0" * 32}))
    make_domain.__globals__["_made"].cache_clear()
    assert "not those that were fetched" in dgym("check", "gsm8k", code=1)
    (found,) = json.loads(dgym("check", "gsm8k", "--json", code=1))
    assert found["faults"]


def test_a_check_sees_rows_that_another_version_knew(cache: Path) -> None:
    from_fixture()
    found = stored(data_sets()["gsm8k"])
    known = replace(found, source=found.data.source)
    other = replace(known, data=replace(found.data, digest="1" * 32))
    assert "those that another version of dgym knew; `dgym data pull gsm8k`" in damaged(other)
    assert damaged(replace(known, data=replace(found.data, digest=found.digest))) == ""
    # Rows that a person took from elsewhere are meant to be others.
    assert damaged(replace(other, source="the folder rows")) == ""


@pytest.mark.parametrize("name", NAMES)
def test_every_fixture_passes_its_own_check(name: str) -> None:
    found = check(f"{name}:fixture")
    assert found.faults == ()
    assert [*found.problems] == list(SPLITS)


def test_problems_are_shown_as_they_are_asked(tmp_path: Path) -> None:
    out = dgym("show", "gsm8k:fixture", "-n", "3", "--split", "test")
    shown = samples("gsm8k:fixture", "test", 3)
    assert len(shown) == 3
    assert len({p.skill for p in shown}) == 3
    assert all(p.id in out for p in shown)
    assert out.count("Solve the following problem step by step.") == 3
    rows = json.loads(dgym("show", "gsm8k:fixture", "-n", "3", "--split", "test", "--json"))
    assert [row["prompt"] for row in rows] == [p.prompt for p in shown]


def test_images_go_to_files(tmp_path: Path) -> None:
    out = dgym("show", "gqa:fixture", "-n", "2", "--images", str(tmp_path / "images"))
    files = sorted((tmp_path / "images").iterdir())
    assert len(files) == 2
    assert all(file.name in out.replace("\n", "") for file in files)
    from PIL import Image

    for file in files:
        with Image.open(file) as image:
            assert image.size[0] > 8
    assert "--images FOLDER" in dgym("show", "gqa:fixture", "-n", "1")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write_images(samples("gqa:fixture", "test", 1), tmp_path / "file")


def test_a_damaged_file_names_the_way_out() -> None:
    from_fixture()
    shutil.rmtree(folder_of("gsm8k"))
    folder_of("gsm8k").mkdir()
    assert "dgym data pull gsm8k" in dgym("show", "gsm8k")
