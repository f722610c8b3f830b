"""Reading a run: five tables as pandas frames or Arrow tables, from a folder or any URL that fsspec opens.

Nothing is read before it is asked for, and of a table only the columns and rows that are asked for. A file that cannot
be read is left out with a warning, and an episode's rows in the other tables are only read when its row in `episodes`
can be: what a killed run left half-written is never mixed with finished results. `Run.partial` says what is missing.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dgym.errors import UsageError, one_line, unknown_name
from dgym.results.place import Place
from dgym.results.schema import (
    EPISODES,
    PARTITIONS,
    PLANNED,
    READABLE,
    SCHEMA_VERSION,
    TABLES,
    VERSION_KEY,
    Table,
    partitions_of,
)

if TYPE_CHECKING:
    import pandas as pd

_BATCH: Final = 32
"""Part files that one thread reads and filters together."""

REMOTE_READERS: Final = 16
"""Files that are read at a time where each answer takes long."""

_PARTITIONS: Final = frozenset(column.name for column in PARTITIONS)

_IN_PATH: Final = _PARTITIONS | {"digest"}
"""Columns that a part's path tells."""


class Run:
    """One run's tables; each is read when it is first asked for.

    Args:
        folder: The run's folder, or its URL.

    Raises:
        UsageError: If no file system is known or installed for a URL.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        self._place = Place.of(folder)
        self._unread: dict[str, list[str]] = {}
        self._missing: set[str] = set()

    @property
    def name(self) -> str:
        """The path or URL that was opened."""
        return self._place.name

    @cached_property
    def episodes(self) -> pd.DataFrame:
        """One row per episode; see `schema.EPISODES`."""
        return self.frame("episodes")

    @cached_property
    def steps(self) -> pd.DataFrame:
        """One row per iteration; see `schema.STEPS`."""
        return self.frame("steps")

    @cached_property
    def attempts(self) -> pd.DataFrame:
        """One row per answered problem, with the response; see `schema.ATTEMPTS`."""
        return self.frame("attempts")

    @cached_property
    def examples(self) -> pd.DataFrame:
        """One row per submitted example; see `schema.EXAMPLES`."""
        return self.frame("examples")

    @cached_property
    def calls(self) -> pd.DataFrame:
        """One row per call of a language model, or per plan item; see `schema.CALLS`."""
        return self.frame("calls")

    def columns(self, table: str) -> pd.DataFrame:
        """Says what a table's columns are: name, type, unit and meaning; see `dgym.results.documentation`."""
        from dgym.results.documentation import columns

        return columns(_known(table).name).drop(columns="table")

    def frame(self, table: str, columns: Sequence[str] | None = None, where: Any = None) -> pd.DataFrame:
        """Reads a table, or some of its columns and rows, as a pandas frame; see `arrow`."""
        frame: pd.DataFrame = self.arrow(table, columns, where).to_pandas()
        return frame

    def arrow(
        self, table: str, columns: Sequence[str] | None = None, where: Any = None, *, encoded: bool = False
    ) -> pa.Table:
        """Reads a table, or some of its columns and rows; what is not asked for is not read.

        Args:
            table: The table's name.
            columns: Names of columns; all by default.
            where: Which rows: an expression such as `pyarrow.compute.field("split") == "test"`, or a list such as
                `[("split", "==", "test")]`, over any columns of the table.
            encoded: Whether text comes dictionary-encoded, which takes much less memory where it repeats.

        Returns:
            The table; empty if the run has no such rows.

        Raises:
            UsageError: If there is no such table or column, if `where` does not fit the table, or if a published
                table cannot be read. What of a run's part files cannot be read is left out with a warning.
        """
        known = _known(table)
        names = list(known.read_schema.names if columns is None else columns)
        for name in names:
            if name not in known.read_schema.names:
                raise unknown_name(f"column of {table}", name, known.read_schema.names)
        rows, used = _condition(known, where)
        if self._place.is_file(f"{table}.parquet"):
            return self._merged(known, names, rows, encoded)
        if table == EPISODES.name:
            chosen = self._parts.rows if rows is None else self._parts.rows.filter(rows)
            return chosen.select(names).cast(_schema(known, names, encoded))
        parts = self._parts.parts
        if rows is not None and used & _IN_PATH:
            parts = _pruned(known, parts, rows, self._place)

        def finish(batch: pa.Table) -> pa.Table:
            return (batch if rows is None else batch.filter(rows)).select(names)

        found, unread = [_schema(known, names, encoded).empty_table()], list[str]()
        for batch in self._batches(known, parts, [*names, *sorted(used - set(names))], finish, encoded=encoded):
            found.append(batch.rows)
            unread += batch.unread
        if (self._published or unread) and not self._place.is_folder(table):
            self._missing.add(table)
            unread = [f"{self.name} has no table {table}"]
        self._leave_out(table, unread)
        return pa.concat_tables(found)

    @property
    def partial(self) -> tuple[str, ...]:
        """Why what was read so far is not all of the run, one sentence for each reason; empty if nothing is missing."""
        lines = []
        if self.outstanding:
            planned = f"{self.outstanding} of {len(self._planned)} planned episodes"
            lines.append(f"Partial: {planned} have no result yet; the run is going on, or was stopped.")
        for table, unread in self._unread.items():
            files = f"{len(unread)} file{'' if len(unread) == 1 else 's'} of the table {table}"
            missing = f"the table {table} is missing" if table in self._missing else f"{files} cannot be read"
            lines.append(f"Partial: {missing}.")
        return tuple(lines)

    @cached_property
    def outstanding(self) -> int:
        """Episodes planned by the last `dgym bench` in this folder that left no row yet, not even a failed one."""
        if not self._planned:
            return 0
        return len(self._planned - set(self.arrow("episodes", ["digest"]).column(0).to_pylist()))

    @cached_property
    def _planned(self) -> frozenset[str]:
        try:
            return frozenset(json.loads(self._place.read(PLANNED))["episodes"])
        except (OSError, ValueError, KeyError, TypeError):
            return frozenset()  # what is older or published has no such file

    @cached_property
    def _published(self) -> bool:
        return self._place.is_file(f"{EPISODES.name}.parquet")

    @cached_property
    def _parts(self) -> _Batch:
        """The part of every episode, relative to a table's folder, and its row in `episodes`."""
        parts, tables, unread = list[PurePosixPath](), [], list[str]()
        listed = _parts_in(self._place, EPISODES.name)
        for batch in self._batches(EPISODES, listed, EPISODES.read_schema.names):
            parts += batch.parts
            tables.append(batch.rows)
            unread += batch.unread
        self._leave_out(EPISODES.name, unread)
        rows = pa.concat_tables([_schema(EPISODES, EPISODES.read_schema.names).empty_table(), *tables])
        # A teacher's file keeps its digest when it moves, so a digest may have parts in two folders: the
        # finished one counts, then one that was not stopped, then the later one.
        best: dict[str, tuple[tuple[bool, bool, Any], int]] = {}
        for place, row in enumerate(rows.select(["digest", "status", "stopped", "finished_at"]).to_pylist()):
            order = (row["status"] == "ok", row["stopped"] is None, row["finished_at"])
            if row["digest"] not in best or best[row["digest"]][0] < order:
                best[row["digest"]] = (order, place)
        chosen = [place for _, place in best.values()]
        return _Batch([parts[place] for place in chosen], rows.take(pa.array(chosen, pa.int64())), unread)

    def _batches(
        self,
        table: Table,
        parts: Sequence[PurePosixPath],
        columns: Sequence[str],
        finish: Callable[[pa.Table], pa.Table] = lambda rows: rows,
        *,
        encoded: bool = False,
    ) -> Iterator[_Batch]:
        """Reads parts in order, a batch on each thread."""
        folder = self._place.within(table.name)
        # A file on this machine is opened faster by its path than through a file system.
        system = None if self._place.local else self._place.system

        def read(batch: Sequence[PurePosixPath]) -> _Batch:
            good, tables, unread = [], [], []
            for part in batch:
                try:
                    tables.append(_file_rows(table, f"{folder}/{part}", columns, system, encoded))
                    good.append(part)
                except ValueError as error:
                    unread.append(str(error))
            return _Batch(good, finish(_joined(table, good, tables, columns, encoded)), unread)

        readers, size = ((os.cpu_count() or 1), _BATCH) if self._place.local else (REMOTE_READERS, 1)
        with ThreadPoolExecutor(readers) as pool:
            yield from pool.map(read, [parts[i : i + size] for i in range(0, len(parts), size)])

    def _merged(self, table: Table, names: Sequence[str], rows: Any, encoded: bool) -> pa.Table:
        """Reads a published table; see `dgym.results.compact`."""
        import pyarrow.dataset as ds  # comes with pandas

        path = self._place.within(f"{table.name}.parquet")
        texts = [name for name in table.read_schema.names if encoded and _is_text(table, name)]
        try:
            _newer(table, pq.read_schema(path, filesystem=self._place.system), table.read_schema.names)
            data = ds.dataset(
                path,
                schema=_schema(table, table.read_schema.names, encoded),
                filesystem=self._place.system,
                format=ds.ParquetFileFormat(
                    read_options=ds.ParquetReadOptions(dictionary_columns=texts),
                    default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True),
                ),
            )
            return data.to_table(columns=list(names), filter=rows).replace_schema_metadata(None)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read: {one_line(error)}") from error

    def _leave_out(self, table: str, unread: Sequence[str]) -> None:
        """Notes what of a table cannot be read, and warns of what is new."""
        known = self._unread.get(table, [])
        new = [line for line in unread if line not in known]
        if new:
            self._unread[table] = [*known, *new]
            warnings.warn(_summed(new), stacklevel=3)


@dataclass(frozen=True)
class _Batch:
    """Parts that could be read, their rows, and why the others could not."""

    parts: Sequence[PurePosixPath]
    rows: pa.Table
    unread: Sequence[str]


def open(run: str | PathLike[str]) -> Run:  # noqa: A001 (used as results.open)
    """Opens a run: a folder, or a URL such as `s3://bucket/runs/quick`.

    Raises:
        UsageError: If there is no such folder, or if no file system is known or installed for a URL.
    """
    place = Place.of(run)
    if not place.is_folder():
        raise UsageError(f"There is no run in {place.name!r}.")
    return Run(run)


def part_files(folder: str | PathLike[str] | Place) -> list[PurePosixPath]:
    """Returns the part files below a table's folder, relative to it, sorted; temporary files are left out."""
    return _parts_in(Place.of(folder))


def read_part(folder: str | PathLike[str] | Place, part: PurePath, columns: Sequence[str]) -> pa.Table:
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
    place = Place.of(folder)
    table = TABLES[PurePosixPath(place.path).name]
    rows = _file_rows(table, place.within(str(part)), columns, None if place.local else place.system)
    return _joined(table, [part], [rows], columns, encoded=False)


def is_whole(folder: str | PathLike[str] | Place, part: PurePath) -> bool:
    """Whether a part file of a table has an intact end, of this schema version."""
    try:
        read_part(folder, part, [])
    except ValueError:
        return False
    return True


def codes(rows: pa.Table, name: str) -> tuple[Any, Any]:
    """Returns the different values of a text column, and which of them each row has (-1 for null)."""
    column = rows.column(name)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    whole = pa.table([column], [name]).unify_dictionaries().column(0).combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # of an empty table
        whole = whole.chunk(0) if whole.num_chunks else pa.array([], whole.type)
    return whole.dictionary.to_numpy(zero_copy_only=False), whole.indices.fill_null(-1).to_numpy()


def _file_rows(table: Table, path: str, columns: Sequence[str], system: Any = None, encoded: bool = False) -> pa.Table:
    """Reads columns of one part file, those left out that stand in its path.

    Raises:
        ValueError: See `read_part`.
    """
    names = [name for name in columns if name not in _PARTITIONS]
    texts = [name for name in names if _is_text(table, name)] if encoded else None
    try:
        with pq.ParquetFile(path, filesystem=system, read_dictionary=texts, page_checksum_verification=True) as file:
            newer = _newer(table, file.schema_arrow, names)
            rows = file.read([name for name in names if name not in newer], use_threads=False)
            if not rows.num_columns:  # which alone would count no rows
                rows = pa.table({"": pa.nulls(file.metadata.num_rows)})
    except Exception as error:
        if system is None and not isinstance(error, (pa.ArrowException, OSError, ValueError, KeyError)):
            raise
        raise ValueError(f"{path} is left out: {one_line(error)}") from error
    if table.name == EPISODES.name and rows.num_rows != 1:
        raise ValueError(f"{path} is left out: it has {rows.num_rows} rows where one episode is due")
    for name in newer.intersection(names):
        rows = rows.append_column(name, pa.nulls(rows.num_rows, _schema(table, [name], encoded).field(0).type))
    return rows


def _joined(
    table: Table, parts: Sequence[PurePath], tables: Sequence[pa.Table], columns: Sequence[str], encoded: bool
) -> pa.Table:
    """Puts the rows of part files together, with what their paths tell."""
    wanted = _schema(table, columns, encoded)
    if not tables:
        return wanted.empty_table()
    names = [name for name in columns if name not in _PARTITIONS]
    rows = pa.concat_tables([each.select(names) if names else each for each in tables])
    values = [partitions_of(part) for part in parts]
    which = pa.array(np.repeat(np.arange(len(parts), dtype=np.int32), [each.num_rows for each in tables]))
    arrays = []
    for field in wanted:
        if field.name not in _PARTITIONS:
            arrays.append(rows.column(field.name))
            continue
        texts = pa.array([known[field.name] for known in values], pa.string())
        arrays.append((texts.dictionary_encode() if encoded else texts).take(which))
    return pa.Table.from_arrays(arrays, schema=wanted) if arrays else rows.select([])


def _newer(table: Table, schema: pa.Schema, names: Sequence[str]) -> set[str]:
    """Returns which columns a file's version of the schema did not have yet.

    Raises:
        ValueError: If that version is not read, or if a column is missing or of another type for another reason, so
            that it never looks empty.
    """
    version = (schema.metadata or {}).get(VERSION_KEY, b"none").decode()
    if version not in READABLE:
        later = version.isdigit() and int(version) > int(SCHEMA_VERSION)
        how = "; a newer dgym wrote it" if later else ""
        raise ValueError(f"its schema has version {version}, this dgym reads {', '.join(READABLE)}{how}")
    if schema.equals(table.schema):
        return set()
    newer = {column.name for column in table.columns if column.since > int(version)}
    for name in names:
        if name in newer:
            continue
        place = schema.get_field_index(name)
        if place < 0:
            raise ValueError(f"its column {name!r} is missing")
        found, wanted = schema.field(place).type, table.read_schema.field(name).type
        if found != wanted and not (pa.types.is_dictionary(found) and found.value_type == wanted):
            raise ValueError(f"its column {name!r} is of type {found}")
    return newer


def _known(table: str) -> Table:
    if table not in TABLES:
        raise unknown_name("table", table, TABLES)
    return TABLES[table]


def _is_text(table: Table, name: str) -> bool:
    return bool(table.read_schema.field(name).type == pa.string())


def _schema(table: Table, names: Sequence[str], encoded: bool = False) -> pa.Schema:
    """The schema of some columns as they are read."""
    types = [table.read_schema.field(name).type for name in names]
    text = pa.dictionary(pa.int32(), pa.string())
    return pa.schema([(n, text if encoded and t == pa.string() else t) for n, t in zip(names, types, strict=True)])


def _condition(table: Table, where: Any) -> tuple[Any, set[str]]:
    """Returns a filter as an expression, and the columns that it uses.

    Raises:
        UsageError: If it does not fit the table.
    """
    if where is None:
        return None, set()
    empty = table.read_schema.empty_table()
    try:
        rows = where if isinstance(where, pc.Expression) else pq.filters_to_expression(where)
        empty.filter(rows)
    except (pa.ArrowException, ValueError, TypeError) as error:
        unknown = re.search(r"FieldRef\.Name\((.+?)\)", str(error))
        if unknown:
            raise unknown_name(f"column of {table.name}", unknown[1], empty.column_names) from error
        raise UsageError(f"These rows of {table.name} cannot be chosen: {one_line(error)}") from error
    return rows, {name for name in empty.column_names if not _fits(rows, empty.drop_columns([name]))}


def _fits(rows: Any, table: pa.Table) -> bool:
    try:
        table.filter(rows)
    except pa.ArrowException:
        return False
    return True


def _pruned(table: Table, parts: Sequence[PurePosixPath], rows: Any, place: Place) -> list[PurePosixPath]:
    """Leaves out the parts whose path tells that none of their rows is chosen."""
    import pyarrow.dataset as ds  # comes with pandas

    form = ds.ParquetFileFormat()
    fragments = []
    for part in parts:
        known = pc.field("digest") == part.stem
        for name, value in partitions_of(part).items():
            known &= pc.field(name) == value
        fragments.append(form.make_fragment(str(part), place.system, partition_expression=known))
    data = ds.FileSystemDataset(fragments, table.read_schema, form, place.system)
    return [PurePosixPath(fragment.path) for fragment in data.get_fragments(filter=rows)]


def _parts_in(place: Place, *within: str) -> list[PurePosixPath]:
    depth = len(PARTITIONS) + 1
    return [path for path in place.files(*within, suffix=".parquet") if len(path.parts) == depth]


def _summed(lines: Sequence[str]) -> str:
    return lines[0] + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else "")
