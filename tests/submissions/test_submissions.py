"""The way of a submission, as a newcomer goes it: new, check, bench, submit, verify; and what does not get through."""

import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dgym import results
from dgym.cli import app
from dgym.errors import UsageError
from dgym.isolation.places import install_command, packages_of
from dgym.specs import load_suite
from dgym.submissions import record
from dgym.submissions.bundle import MANIFEST, pack, unpack
from dgym.submissions.card import card_of
from dgym.submissions.episodes import claims, expected
from dgym.submissions.verify import _compared, verify
from dgym.teachers import make_teacher

TABLE = """
[project]
name = "adds"
version = "1.0"
dependencies = ["dgym>=0.1"]

[tool.dgym.submission]
teacher = "adds:Adds"
title = "Adds"
description = "Adds numbers."
licence = "Apache-2.0"
authors = ["Ada Example"]
team = "some-lab"
models = []
data = []
"""

ADDS = """
import random
from dgym import Example, Plan, PlanItem

class Adds:
    environments = ("open-ended",)
    def plan(self, brief, state):
        return Plan((PlanItem(state.examples_left),))
    def generate(self, brief, item):
        rng = random.Random(item.seed)
        pairs = [(rng.randint(0, 999), rng.randint(0, 999)) for _ in range(item.count)]
        return [Example(f"add {a} {b}", str(a + b), skill="add") for a, b in pairs]
"""


pytestmark = pytest.mark.usefixtures("sandboxed")


def dgym(*words, code=0):
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == code, done.output + str(done.exception)
    return done.output


def teacher(folder, body=ADDS, table=TABLE):
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(table)
    (folder / "adds.py").write_text(body)
    return folder


def benched(folder, run):
    dgym("bench", "--suite", "smoke", "--teacher", f"isolated@{folder}", "--backend", "local", "--out", run)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A teacher's folder and its results."""
    home = tmp_path_factory.mktemp("home")
    benched(teacher(home / "adds"), home / "run")
    return home


@pytest.fixture(scope="module")
def bundle(home):
    dgym("submit", home / "adds", "--run", home / "run", "--out", home / "bundles")
    (path,) = (home / "bundles").iterdir()
    return path


@pytest.fixture
def forged(bundle, tmp_path):
    """Opens a bundle, lets it be changed, and seals it again, the digests of its files being right."""

    def change(act):
        unpacked = unpack(bundle, tmp_path / "open")
        manifest = dict(unpacked.manifest)
        act(unpacked, manifest)
        files = {
            path.relative_to(unpacked.folder).as_posix(): path
            for path in unpacked.folder.rglob("*")
            if path.is_file() and path.name != MANIFEST
        }
        pack(tmp_path / "forged.zip", files, manifest)
        return verify(tmp_path / "forged.zip", tmp_path / "verified", sample=1)

    return change


def edited(path, column, value, rows=slice(0, 1)):
    """Writes other values into some rows of a Parquet file."""
    table = pq.read_table(path)
    values = table.column(column).to_pylist()
    chosen = range(len(values))[rows]
    for index in chosen:
        values[index] = value(values[index]) if callable(value) else value
    place = table.schema.get_field_index(column)
    table = table.set_column(place, table.schema.field(column), pa.array(values, table.schema.field(column).type))
    pq.write_table(table, path)


def test_the_way_of_a_newcomer(tmp_path, monkeypatch):
    """From the README and `dgym new` alone, as typed."""
    monkeypatch.chdir(tmp_path)
    dgym("new", "teacher", "my-teacher")
    assert "authors must name at least one" in refused("submit", "my-teacher", "--run", "run")
    file = tmp_path / "my-teacher" / "pyproject.toml"
    file.write_text(file.read_text().replace("authors = []", 'authors = ["Ada Example, Some Lab"]'))
    dgym("check", "isolated@my-teacher")
    assert "Make it: dgym bench --suite NAME" in refused("submit", "my-teacher", "--run", "run")
    benched("my-teacher", "run")
    told = dgym("submit", "my-teacher", "--run", "run")
    assert "10 episodes of smoke" in told
    assert "leaderboard/submissions/ada-example/my-teacher-0.1.0-smoke.dgym.zip" in told
    path = Path("submissions/my-teacher-0.1.0-smoke.dgym.zip")
    assert f"dgym verify {path}" in told
    said = dgym("verify", path, "--record", "record")
    assert "my-teacher 0.1.0 in smoke 1: verified" in said
    assert said.count("claimed") == 3
    assert "| ada-example | my-teacher | 0.1.0 | smoke 1 | 1 |" in Path("record/README.md").read_text()


def refused(*words):
    done = CliRunner().invoke(app, [*map(str, words)])
    assert isinstance(done.exception, UsageError), done.output
    return str(done.exception)


def test_the_same_submission_gives_the_same_bytes(home, bundle, tmp_path):
    told = json.loads(dgym("submit", home / "adds", "--run", home / "run", "--out", tmp_path, "--json"))
    assert Path(told["bundle"]).read_bytes() == bundle.read_bytes()
    assert told["card"]["team"] == "some-lab"


def test_all_episodes_can_be_run_again(bundle, tmp_path):
    told = json.loads(dgym("verify", bundle, "--episodes", "0", "--seed", "5", "--json").partition("\n{")[2].join("{ "))
    assert told["outcome"] == "verified"
    assert len(told["again"]) == told["episodes"] == 5
    assert all(one["same"] for one in told["again"])


# What is not as it is said to be -------------------------------------------------------------------------------


def test_scores_that_are_raised_show(forged):
    def raise_scores(bundle, manifest):
        edited(bundle.results / "episodes.parquet", "best_test", 0.99)

    verdict = forged(raise_scores)
    assert verdict.outcome == "disqualified"
    assert "the scores in the manifest are not those in the tables" in verdict.reasons
    assert any("best test score is not that of the iteration" in reason for reason in verdict.reasons)


def test_scores_that_are_raised_everywhere_are_found_out_by_the_answers(forged):
    def raise_scores(bundle, manifest):
        edited(bundle.results / "episodes.parquet", "best_test", 0.99, slice(None))
        edited(bundle.results / "steps.parquet", "test", lambda old: old and 0.99, slice(None))
        edited(bundle.results / "episodes.parquet", "base_test", 0.99, slice(None))
        for claim in manifest["episodes"]:
            claim |= {"best_test": 0.99, "base_test": 0.99}

    verdict = forged(raise_scores)
    assert verdict.outcome == "disqualified"
    assert any("its answers give" in reason for reason in verdict.reasons)


def test_answers_that_are_raised_too_come_out_otherwise(forged):
    """Every row agrees with every other; only running it again tells."""

    def raise_all(bundle, manifest):
        edited(bundle.results / "attempts.parquet", "score", 1.0, slice(None))
        for name in ("feedback", "selection", "test"):
            edited(bundle.results / "steps.parquet", name, lambda old: None if old is None else 1.0, slice(None))
        for name in ("base_test", "best_test", "last_test", "base_selection", "best_selection"):
            edited(bundle.results / "episodes.parquet", name, lambda old: None if old is None else 1.0, slice(None))
        for claim in manifest["episodes"]:
            claim |= {"best_test": 1.0, "base_test": 1.0}

    verdict = forged(raise_all)
    assert verdict.outcome == "differs"
    assert "base_test was said to be 1.0" in verdict.reasons[0]
    assert len(verdict.again) == 1


def test_bad_episodes_cannot_be_left_out(forged):
    def leave_out(bundle, manifest):
        for path in bundle.results.iterdir():
            table = pq.read_table(path)
            digests = sorted(set(pq.read_table(bundle.results / "steps.parquet").column("digest").to_pylist()))
            kept = pa.array([d != digests[0] for d in table.column("digest").to_pylist()])
            if path.name != "steps.parquet":
                pq.write_table(table.filter(kept), path)
        manifest["episodes"] = manifest["episodes"][1:]

    verdict = forged(leave_out)
    assert verdict.outcome == "disqualified"
    assert "1 of 5 episodes are left out" in verdict.reasons[0]


def test_another_teacher_than_the_one_that_was_run_is_no_episode_of_it(forged):
    def exchange(bundle, manifest):
        file = bundle.teacher / "adds.py"
        file.write_text(file.read_text() + "\n# better now\n")

    verdict = forged(exchange)
    assert verdict.outcome == "disqualified"
    assert "the teacher's files are not those of the manifest" in verdict.reasons[0]


def test_a_teacher_that_gives_other_data_each_time_differs(tmp_path):
    body = ADDS.replace("random.Random(item.seed)", "random.Random()")
    table = TABLE.replace('"adds"', '"dice"')
    folder = teacher(tmp_path / "dice", body, table)
    assert "does not pass `dgym check`" in refused("submit", folder, "--run", tmp_path / "run")
    # It knows when it is checked, and behaves.
    checked = "random.Random(item.seed if brief.iterations < 3 else None)"
    shutil.rmtree(folder)
    folder = teacher(tmp_path / "dice", ADDS.replace("random.Random(item.seed)", checked), table)
    benched(folder, tmp_path / "run")
    dgym("submit", folder, "--run", tmp_path / "run", "--out", tmp_path)
    said = dgym("verify", tmp_path / "dice-1.0-smoke.dgym.zip", "--record", tmp_path / "record", code=1)
    assert "dice 1.0 in smoke 1: differs" in said
    (entry,) = record.read(tmp_path / "record")
    assert entry["outcome"] == "differs"


def test_where_bits_are_not_promised_scores_may_lie_as_far_off_as_seeds_do(home, bundle, tmp_path):
    unpacked = unpack(bundle, tmp_path / "open")
    identity = expected(load_suite("smoke"), unpacked.teacher)[0]
    seeded = identity.model_copy(update={"spec": identity.spec.model_copy(update={"tier": "seeded"})})
    ours = results.open(home / "run")
    (score,) = (c.best_test for c in claims(ours.episodes) if c.digest == identity.digest)

    def compared(identity, shift):
        edited(unpacked.results / "episodes.parquet", "best_test", lambda old: min(1.0, score + shift), slice(None))
        return _compared(identity, ours, results.open(unpacked.results))

    assert compared(identity, 0.01).why.startswith("best_test was said to be")
    assert compared(seeded, 0.01).same
    far = compared(seeded, -score)
    assert not far.same
    assert "the test score was said to be 0.0000" in far.why


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../outside", "which no bundle has"),
        ("/etc/outside", "which no bundle has"),
        ("teacher/../../outside", "which no bundle has"),
        ("teacher\\..\\outside", "which no bundle has"),
        ("elsewhere/file", "which no bundle has"),
        ("teacher/more.py", "does not hold what its manifest says"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(bundle, tmp_path, name, words):
    path = tmp_path / "bad.zip"
    shutil.copy(bundle, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "x")
    with pytest.raises(UsageError, match=words):
        unpack(path, tmp_path / "open")
    assert not (tmp_path / "outside").exists()


def test_links_bombs_and_rubbish_are_refused(bundle, tmp_path, monkeypatch):
    path = tmp_path / "bad.zip"
    monkeypatch.setattr("dgym.submissions.bundle.MAX_BYTES", 1 << 20)

    def words():
        with pytest.raises(UsageError) as caught:
            unpack(path, tmp_path / "open")
        return str(caught.value)

    shutil.copy(bundle, path)
    link = zipfile.ZipInfo("teacher/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "which no bundle has" in words()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(40):
            archive.writestr(f"teacher/{number}", bytes(1 << 16))
    assert "holds more than" in words()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MANIFEST, "{}")
    assert "no manifest that can be read" in words()
    for content in (b"", b"PK\x03\x04 rubbish", bundle.read_bytes()[:3000]):
        path.write_bytes(content)
        assert "is no bundle that can be read" in words()
    path.unlink()
    assert "There is no bundle" in words()


def test_a_file_that_is_not_what_the_manifest_says_is_refused(bundle, tmp_path):
    with zipfile.ZipFile(bundle) as old, zipfile.ZipFile(tmp_path / "bad.zip", "w") as new:
        for info in old.infolist():
            content = old.read(info)
            new.writestr(info, content + b"#" if info.filename == "teacher/adds.py" else content)
    with pytest.raises(UsageError, match=r"'teacher/adds.py' is not what the manifest says"):
        unpack(tmp_path / "bad.zip", tmp_path / "open")


# The card ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('title = "Adds"\n', "", "title must be a text"),
        ('authors = ["Ada Example"]', "authors = []", "authors must name at least one"),
        ("models = []\n", "", "models must be a list of texts, which may be empty"),
        ('team = "some-lab"', 'team = "Some Lab"', "team must be small letters"),
        ('["dgym>=0.1"]', '["dgym>=0.1", "numpy>=2"]', r"'numpy>=2' must be pinned to one version"),
        ('["dgym>=0.1"]', '["numpy @ https://example.org/x.whl"]', r"must be pinned"),
        ('name = "adds"', 'name = "a b"', "must be plain"),
    ],
)
def test_what_a_card_lacks_is_named(tmp_path, old, new, words):
    assert old in TABLE
    with pytest.raises(UsageError, match=words):
        card_of(teacher(tmp_path / "adds", table=TABLE.replace(old, new)))


def test_all_that_a_card_lacks_is_named_at_once(tmp_path):
    table = '[project]\nname = "adds"\n[tool.dgym.submission]\nteacher = "adds:Adds"\n'
    with pytest.raises(UsageError) as caught:
        card_of(teacher(tmp_path / "adds", table=table))
    assert all(
        f"{name} must be" in str(caught.value) for name in ("title", "description", "licence", "authors", "data")
    )


def test_packages_are_those_that_are_pinned_and_come_from_wheels_only(tmp_path, monkeypatch):
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))
    table = TABLE.replace('["dgym>=0.1"]', '["dgym>=0.1", "numbers-of-mine==2.5"]')
    body = ADDS.replace("import random", "import numbers_of_mine\nimport random")
    folder = teacher(tmp_path / "adds", body, table)
    with pytest.raises(UsageError, match=r"pip install -q --only-binary :all: --target .* numbers-of-mine==2.5"):
        make_teacher(f"isolated@{folder}")
    place = packages_of(["numbers-of-mine==2.5"])
    assert str(place) in install_command(["numbers-of-mine==2.5"])
    place.mkdir(parents=True)
    (place / "numbers_of_mine.py").write_text("")
    assert make_teacher(f"isolated@{folder}").policies


# Incomplete results --------------------------------------------------------------------------------------------


def test_a_run_must_be_whole_and_of_the_files_as_they_are(home, tmp_path):
    shutil.copytree(home / "run", tmp_path / "run")
    (part,) = [p for p in (tmp_path / "run" / "episodes").rglob("*.parquet") if "adds" in str(p)][:1]
    part.unlink()
    said = refused("submit", home / "adds", "--run", tmp_path / "run")
    assert "1 of 5 episodes of the suite 'smoke' have no result yet" in said
    assert "Go on with: dgym bench --suite smoke --teacher isolated@" in said
    shutil.copytree(home / "adds", tmp_path / "adds")
    (tmp_path / "adds" / "adds.py").write_text(ADDS + "\n# changed\n")
    assert "has no episode of this teacher as its files are now" in refused(
        "submit", tmp_path / "adds", "--run", home / "run"
    )


def test_a_suite_takes_submissions_as_long_as_it_lives(home, bundle, tmp_path, monkeypatch):
    ended = load_suite("smoke").model_copy(update={"until": date(2020, 1, 31)})
    monkeypatch.setattr("dgym.submissions.episodes.load_suite", lambda name: ended)
    for act in (
        lambda: refused("submit", home / "adds", "--run", home / "run", "--out", tmp_path),
        lambda: refused("verify", bundle),
    ):
        assert "took submissions until 2020-01-31: use a newer dgym" in act()
    for name in ("quick", "standard", "full", "paper"):
        assert load_suite(name).until > date(2026, 11, 1)


def test_what_moves_no_score_moves_no_digest(home, tmp_path):
    shutil.copytree(home / "adds", tmp_path / "adds")
    (tmp_path / "adds" / "README.md").write_text("# Adds")
    (tmp_path / "adds" / "tests").mkdir()
    (tmp_path / "adds" / "tests" / "test_adds.py").write_text("")
    dgym("submit", tmp_path / "adds", "--run", home / "run", "--out", tmp_path)


# The record ----------------------------------------------------------------------------------------------------


def test_the_record_only_grows(bundle, tmp_path):
    verdict = verify(bundle, tmp_path / "v", sample=1)
    when = datetime(2026, 1, 2, tzinfo=UTC)
    for _ in range(3):
        record.add(tmp_path / "record", verdict, {"overall": {"gain": 1.5, "interval": [0.5, 2.5]}}, when)
    entries = record.read(tmp_path / "record")
    assert [e["number"] for e in entries] == [1, 2, 3]
    assert record.continues(entries[:2], entries)
    assert not record.continues(entries[1:], entries)
    shown = (tmp_path / "record" / "README.md").read_text()
    assert shown == record.table(entries)
    # The same bundle again is on record, and no further attempt.
    assert shown.count("| 2026-01-02 | some-lab | adds | 1.0 | smoke 1 | 1 | +1.5 [+0.5, +2.5] | verified |") == 3
    file = tmp_path / "record" / record.FILE
    lines = file.read_text().splitlines(keepends=True)
    for changed in (lines[1:], [lines[0], lines[2]], [lines[0].replace("verified", "differs "), *lines[1:]], ["{}\n"]):
        file.write_text("".join(changed))
        with pytest.raises(UsageError, match=r"was changed|cannot be read"):
            record.read(tmp_path / "record")


def test_the_published_record_is_whole_and_its_table_current():
    folder = Path(__file__).parents[2] / "leaderboard" / "submissions"
    entries = record.read(folder)
    assert (folder / record.TABLE).read_text(encoding="utf-8") == record.table(entries)


def test_no_traceback_for_a_mistake(tmp_path):
    for words in (["submit", "nowhere", "--run", "run"], ["verify", "nowhere.zip"]):
        done = subprocess.run(
            [sys.executable, "-m", "dgym", *words],
            capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ | {"COLUMNS": "300"},
        )  # fmt: skip
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("dgym: ")
