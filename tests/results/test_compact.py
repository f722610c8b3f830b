"""Published tables: one file a table, read like any run."""

from __future__ import annotations

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dgym import leaderboard
from dgym.bench import LocalBackend, bench
from dgym.errors import UsageError
from dgym.results import open as open_run
from dgym.results.compact import compact
from dgym.results.schema import TABLES
from dgym.specs import load_suite


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder, out = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("published")
    bench(load_suite("smoke").episodes(), folder, backend=LocalBackend())
    run = open_run(folder)
    sizes = compact(run, out)
    assert sizes == {name: (out / f"{name}.parquet").stat().st_size for name in TABLES}
    return run, open_run(out)


def test_all_rows_are_there(runs):
    for name in TABLES:
        one, other = (r.arrow(name) for r in runs)
        assert one.schema == other.schema
        assert sorted(map(str, one.to_pylist())) == sorted(map(str, other.to_pylist()))


def test_columns_and_rows_can_be_chosen(runs):
    chosen = runs[1].arrow("attempts", ["score"], pc.field("split") == "test")
    assert chosen.column_names == ["score"]
    assert 0 < chosen.num_rows < runs[1].arrow("attempts").num_rows


def test_the_leaderboard_is_the_same(runs):
    one, other = (leaderboard.build(run).json() for run in runs)
    assert one == other


def test_a_table_of_another_version_or_broken_is_refused(runs, tmp_path):
    table = runs[1].arrow("steps")
    pq.write_table(table, tmp_path / "steps.parquet")
    with pytest.raises(UsageError, match="version none"):
        open_run(tmp_path).arrow("steps")
    (tmp_path / "steps.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(UsageError, match="cannot be read"):
        open_run(tmp_path).arrow("steps")
