"""What columns mean: generated from the schema, and current where it is published."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgym import results
from dgym.errors import UsageError
from dgym.results import documentation
from dgym.results.frames import FRAMES
from dgym.results.schema import PARTITIONS, TABLES

PUBLISHED = Path(__file__).parents[2] / "leaderboard" / "columns.md"


def test_every_column_of_every_table_and_frame_is_documented() -> None:
    found = results.columns()
    assert list(found.columns) == ["table", "name", "type", "unit", "meaning"]
    names = found.groupby("table")["name"].agg(list)
    for name, table in TABLES.items():
        assert names[name] == table.read_schema.names
    for name, table in FRAMES.items():
        assert names[name] == [column.name for column in table.columns]
    assert set(names.index) == {*TABLES, *FRAMES}
    assert (found["meaning"].str.len() > 0).all()
    assert found["name"][: len(PARTITIONS)].tolist() == [c.name for c in PARTITIONS]


def test_numbers_have_a_unit_or_range() -> None:
    found = results.columns()
    seeds = found["name"].str.startswith("seed_")
    numbers = found[found["type"].isin(["double", "int64"]) & ~seeds]
    assert numbers[numbers["unit"] == ""].empty


def test_one_table_alone() -> None:
    assert set(results.columns("attempts")["table"]) == {"attempts"}
    with pytest.raises(UsageError, match="Did you mean 'curves'"):
        results.columns("curve")


def test_the_published_documentation_is_current() -> None:
    assert PUBLISHED.read_text(encoding="utf-8") == documentation.markdown()
