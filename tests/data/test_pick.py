"""Rows of large parts: only what is asked for is read, written in pieces, and told of while it is computed."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from dgym.data import DataSet, Part, pull, store, stored

COLUMNS = {"id": "text", "picture": "image", "more": "json"}
SET = DataSet("toy", "a toy", (Part("train", COLUMNS),), "MIT", "https://example.org", hub="toys/toy")


def rows(count):
    return [{"id": f"r{i}", "picture": b"PNG %d" % i * 100, "more": {"i": i}} for i in range(count)]


def computed(count, data=SET):
    from dataclasses import replace

    return replace(data, hub="", made=lambda _: rows(count))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))


def test_some_columns_of_some_rows(monkeypatch):
    monkeypatch.setattr(store, "_BATCH", 7)
    found = pull(computed(30), report=lambda _: None)
    assert found.pick("train") == tuple(rows(30)) == tuple(found.rows("train"))
    assert found.pick("train", ("id",)) == tuple({"id": f"r{i}"} for i in range(30))
    wanted = ["r3", "r22", "r4", "no such"]
    assert found.pick("train", ("more", "id"), where="id", among=wanted) == tuple(
        {"id": f"r{i}", "more": {"i": i}} for i in (3, 4, 22)
    )
    assert found.pick("train", where="id", among=["r29"]) == (rows(30)[29],)
    assert found.pick("train", where="id") == ()


def test_images_are_written_in_pieces(monkeypatch):
    monkeypatch.setattr(store, "_BATCH_BYTES", 2_500)
    pull(computed(10), report=lambda _: None)
    file = pq.ParquetFile(store.folder_of("toy") / "train.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [5, 5]
    assert stored(SET).rows("train") == tuple(rows(10))


def test_the_digest_does_not_depend_on_the_pieces(monkeypatch):
    digests = []
    for size in (512, 3):
        monkeypatch.setattr(store, "_BATCH", size)
        digests.append(pull(computed(10), report=lambda _: None).digest)
    assert digests[0] == digests[1]


def test_what_is_computed_is_told_of(monkeypatch):
    said: list[str] = []
    pull(computed(3), report=said.append)
    assert said == ["Computing toy, train ..."]
    monkeypatch.setattr(store, "_TELL_SECONDS", -1.0)
    pull(computed(3), report=said.append)
    assert said[2:] == [f"toy, train: {i} rows so far" for i in (1, 2, 3)]


def test_a_later_part_is_chosen_by_an_earlier_one(tmp_path):
    def keep(given, before):
        wanted = {row["id"] for row in before["train"]}
        yield from (row for row in given if row["id"] in wanted)

    data = DataSet(
        "pair",
        "a pair",
        (Part("train", {"id": "text"}), Part("pictures", {"id": "text", "n": "int"}, keep=keep)),
        "MIT",
        "https://example.org",
        hub="toys/pair",
    )
    (tmp_path / "train.jsonl").write_text('{"id": "a"}\n{"id": "c"}\n')
    (tmp_path / "pictures.jsonl").write_text("".join(json.dumps({"id": i, "n": 1}) + "\n" for i in "abcd"))
    found = pull(data, place=tmp_path, report=lambda _: None)
    assert [row["id"] for row in found.rows("pictures")] == ["a", "c"]
