"""Reading a run: five tables as pandas frames or Arrow tables.

A file that cannot be read is left out with a warning, and an episode's rows in the other tables are only read
when its row in `episodes` can be: what a killed run left half-written is never mixed with finished results.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dgym.errors import UsageError, one_line, unknown_name
from dgym.results.schema import EPISODES, READABLE, TABLES, VERSION_KEY, Table, partitions_of


class Run:
    """One run's tables; each is read when it is first asked for.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = Path(folder)

    @cached_property
    def episodes(self) -> pd.DataFrame:
        """One row per episode; see `schema.EPISODES`."""
        return self._frame("episodes")

    @cached_property
    def steps(self) -> pd.DataFrame:
        """One row per iteration; see `schema.STEPS`."""
        return self._frame("steps")

    @cached_property
    def attempts(self) -> pd.DataFrame:
        """One row per answered problem, with the response; see `schema.ATTEMPTS`."""
        return self._frame("attempts")

    @cached_property
    def examples(self) -> pd.DataFrame:
        """One row per submitted example; see `schema.EXAMPLES`."""
        return self._frame("examples")

    @cached_property
    def calls(self) -> pd.DataFrame:
        """One row per plan item; see `schema.CALLS`."""
        return self._frame("calls")

    def arrow(self, table: str, columns: Sequence[str] | None = None, where: Any = None) -> pa.Table:
        """Reads a table, or some of its columns; what is not asked for is not read from disk.

        Args:
            table: The table's name.
            columns: Names of columns; all by default.
            where: A `pyarrow.compute.Expression` over the columns read, applied file by file.

        Returns:
            The table; empty if the run has no such rows.

        Raises:
            UsageError: If there is no such table.
        """
        if table not in TABLES:
            raise unknown_name("table", table, TABLES)
        schema = TABLES[table].read_schema.remove_metadata()
        names = list(schema.names if columns is None else columns)
        merged = self.folder / f"{table}.parquet"
        if merged.is_file():
            return _merged(merged, names, where)
        parts = []
        for part in self._parts.values():
            try:
                rows = read_part(self.folder / table, part, names)
            except ValueError as error:
                warnings.warn(str(error), stacklevel=2)
                continue
            parts.append(rows if where is None else rows.filter(where))
        wanted = pa.schema([schema.field(name) for name in names])
        return pa.concat_tables([wanted.empty_table(), *(part.cast(wanted) for part in parts)])

    @cached_property
    def _parts(self) -> dict[str, Path]:
        """The part of every episode by digest, relative to a table's folder."""
        # A teacher's file keeps its digest when it moves, so a digest may have parts in two folders: the
        # finished one counts, then one that was not stopped, then the later one.
        best: dict[str, tuple[tuple[bool, bool, Any], Path]] = {}
        unread: list[str] = []
        for part in part_files(self.folder / "episodes"):
            try:
                row = read_part(
                    self.folder / "episodes", part, ["digest", "status", "stopped", "finished_at"]
                ).to_pylist()[0]
            except ValueError as error:
                unread.append(str(error))
                continue
            order = (row["status"] == "ok", row["stopped"] is None, row["finished_at"])
            if row["digest"] not in best or best[row["digest"]][0] < order:
                best[row["digest"]] = (order, part)
        if unread:
            more = f" (and {len(unread) - 1} more)" if len(unread) > 1 else ""
            warnings.warn(f"{unread[0]}{more}", stacklevel=2)
        return {digest: part for digest, (_, part) in best.items()}

    def _frame(self, table: str) -> pd.DataFrame:
        frame: pd.DataFrame = self.arrow(table).to_pandas()
        return frame


def _merged(path: Path, names: Sequence[str], where: Any) -> pa.Table:
    """Reads a published table; see `dgym.results.compact`."""
    try:
        newer = _newer(TABLES[path.stem], pq.read_schema(path))
        there = [name for name in names if name not in newer]
        rows = pq.read_table(path, columns=there, filters=where, page_checksum_verification=True, partitioning=None)
        wanted = TABLES[path.stem].read_schema
        for name in set(names) - set(there):
            rows = rows.append_column(name, pa.nulls(rows.num_rows, wanted.field(name).type))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {one_line(error)}") from error
    return rows.select(list(names)).replace_schema_metadata(None)


def _newer(table: Table, schema: pa.Schema) -> set[str]:
    """Returns the columns that a file's version of the schema did not have yet.

    Raises:
        ValueError: If that version is not read, so that a column that is missing for another reason never looks empty.
    """
    version = (schema.metadata or {}).get(VERSION_KEY, b"none").decode()
    if version not in READABLE:
        raise ValueError(f"its schema has version {version}, this dgym reads {' and '.join(READABLE)}")
    return {column.name for column in table.columns if column.since > int(version)}


def open(run: str | PathLike[str]) -> Run:  # noqa: A001 (used as results.open)
    """Opens a run's folder.

    Raises:
        UsageError: If there is no such folder.
    """
    if not Path(run).is_dir():
        raise UsageError(f"There is no run in {str(run)!r}.")
    return Run(run)


def part_files(folder: Path) -> Iterator[Path]:
    """Yields the part files below a table's folder, relative to it, sorted; temporary files are left out."""
    for path in sorted(folder.glob("*/*/*/*.parquet")):
        if not path.name.startswith("."):
            yield path.relative_to(folder)


def read_part(folder: Path, part: Path, columns: Sequence[str]) -> pa.Table:
    """Reads columns of one part file, with its partitions' values.

    Args:
        folder: The table's folder.
        part: The file, relative to it.
        columns: Names of columns, partitions among them.

    Returns:
        The columns in the order asked.

    Raises:
        ValueError: If the file is missing, truncated, corrupt or of another schema version; the message is
            one line for a warning.
    """
    schema = TABLES[folder.name].schema
    values = partitions_of(part)
    try:
        with pq.ParquetFile(folder / part, page_checksum_verification=True) as file:
            newer = _newer(TABLES[folder.name], file.schema_arrow)
            rows = file.read(columns=[name for name in columns if name in schema.names and name not in newer])
            count = file.metadata.num_rows
        for column in rows.schema:
            if column.type != schema.field(column.name).type:
                raise ValueError(f"its column {column.name!r} is of type {column.type}")
        arrays = [
            pa.repeat(values[name], count)
            if name in values
            else pa.nulls(count, schema.field(name).type)
            if name in newer
            else rows.column(name)
            for name in columns
        ]
        if folder.name == EPISODES.name and count != 1:
            raise ValueError(f"it has {count} rows where one episode is due")
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder / part} is left out: {one_line(error)}") from error
    return pa.table(arrays, names=list(columns))


def is_whole(folder: Path, part: Path) -> bool:
    """Whether a part file of a table has an intact end, of this schema version."""
    try:
        read_part(folder, part, [])
    except ValueError:
        return False
    return True
