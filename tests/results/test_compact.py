"""Published tables: one file a table, read like any run."""

from __future__ import annotations

import shutil

import duckdb
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


def test_rows_stand_in_a_fixed_order(runs, tmp_path):
    compact(runs[1], tmp_path)
    for name in TABLES:
        assert open_run(tmp_path).arrow(name).equals(runs[1].arrow(name))
    attempts = runs[1].frame("attempts", ["domain", "split", "problem", "iteration", "digest"])
    assert attempts.equals(attempts.sort_values(list(attempts.columns), ignore_index=True))


def test_columns_and_rows_of_merged_tables_are_chosen_as_of_parts(runs):
    where = [("split", "==", "test"), ("teacher", "in", ["weakness", "uniform"])]
    one, two = (run.frame("attempts", ["digest", "problem", "score"], where) for run in runs)
    assert 0 < len(one) < len(runs[1].arrow("attempts"))
    keys = ["digest", "problem", "score"]
    assert one.sort_values(keys, ignore_index=True).equals(two.sort_values(keys, ignore_index=True))
    encoded = runs[1].arrow("attempts", ["problem"], where, encoded=True)
    assert encoded.cast(runs[1].arrow("attempts", ["problem"], where).schema).num_rows == len(one)


def test_duckdb_reads_merged_tables_as_they_are(runs, tmp_path):
    compact(runs[0], tmp_path)
    query = f"""
        select e.teacher, avg(a.score) as score from '{tmp_path}/attempts.parquet' a
        join '{tmp_path}/episodes.parquet' e using (digest)
        where a.split = 'test' and a.iteration = e.best_iteration group by all order by all
    """
    ours = runs[0].episodes.groupby("teacher").best_test.mean()
    assert dict(duckdb.sql(query).fetchall()) == pytest.approx(ours.to_dict())


def test_a_run_without_episodes_and_its_own_folder_are_refused(runs, tmp_path):
    with pytest.raises(UsageError, match="no episode in"):
        compact(open_run(tmp_path), tmp_path / "out")
    with pytest.raises(UsageError, match="name another folder"):
        compact(runs[0], runs[0].name)


def test_a_published_run_that_lacks_a_table_says_so(runs, tmp_path):
    compact(runs[1], tmp_path)
    (tmp_path / "attempts.parquet").unlink()
    run = open_run(tmp_path)
    with pytest.warns(UserWarning, match="has no table attempts"):
        board = leaderboard.build(run)
    assert board.notes[-1] == "Partial: the table attempts is missing."
    assert len(run.steps) == len(runs[1].steps)


def test_an_older_published_table_has_null_for_what_came_later(runs, tmp_path):
    shutil.copytree(runs[1].name, tmp_path / "old")
    path = tmp_path / "old" / "examples.parquet"
    table = pq.read_table(path, partitioning=None)
    new = [c.name for c in TABLES["examples"].columns if c.since == 3]
    old = table.drop_columns(new)
    pq.write_table(old.replace_schema_metadata({**table.schema.metadata, b"dgym.schema": b"2"}), path)
    examples = open_run(tmp_path / "old").arrow("examples", where=pc.field(new[0]).is_null())
    assert examples.schema == runs[1].arrow("examples").schema
    assert examples.num_rows == table.num_rows
    pq.write_table(old.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(UsageError, match=f"its column '{new[0]}' is missing"):
        open_run(tmp_path / "old").arrow("examples", ["digest"])
