"""Rows from wherever they come, brought to one form, with a clear error where upstream has changed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from dgym.data.records import Kind, Part, Row
from dgym.errors import DomainError, InfrastructureError, one_line

_SUFFIXES: Final = (".parquet", ".jsonl", ".jsonl.gz", ".json")

_TYPES: Final[Mapping[Kind, tuple[type, ...]]] = {
    "text": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "list": (list,),
    "image": (bytes,),
    "json": (object,),
}


def files_of(part: Part, folder: Path) -> list[Path]:
    """Finds a part's files in a folder: those it names, else `<part>`, `<config>/<split>` or the shards of one.

    Returns:
        The files in order; none where the folder has none of it.
    """
    if part.files:
        found = [folder / name for name in part.files]
        if all(file.is_file() for file in found):
            return found
        flat = [folder / Path(name).name for name in part.files]
        if all(file.is_file() for file in flat):
            return flat
    split = part.split or part.name
    stems = [part.name, *([f"{part.config}/{split}", f"{part.config}-{split}"] if part.config else [split])]
    for stem in stems:
        for suffix in _SUFFIXES:
            if (folder / f"{stem}{suffix}").is_file():
                return [folder / f"{stem}{suffix}"]
    for place in (part.config, f"data/{part.config}" if part.config else "data", ""):
        shards = sorted((folder / place).glob(f"{split}-*-of-*.parquet"))
        if shards:
            return shards
    return []


def read_files(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Reads the rows of Parquet and JSON files, one after the other.

    Raises:
        DomainError: If a file is no such file.
        InfrastructureError: If a file cannot be read.
    """
    for file in files:
        try:
            yield from _read(file)
        except OSError as error:
            raise InfrastructureError(f"{file} cannot be read: {error.strerror or one_line(error)}.") from error


def _read(file: Path) -> Iterator[dict[str, Any]]:
    if file.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(file) as opened:
                for batch in opened.iter_batches(batch_size=256):
                    yield from batch.to_pylist()
        except pa.ArrowInvalid as error:
            raise DomainError(f"{file} is no whole Parquet file: {one_line(error)}.") from error
        return
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rt", encoding="utf-8") as lines:
        first = ""
        if file.suffix == ".json":
            # A list, one object, or an object a line in spite of the name.
            text = lines.read()
            try:
                whole = json.loads(text)
            except ValueError:
                first = text
            else:
                yield from whole if isinstance(whole, list) else [whole]
                return
        for number, line in enumerate(first.split("\n") if first else lines, 1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DomainError(f"{file}, line {number}: not JSON: {error}.") from error


class Columns:
    """Brings rows to the declared columns.

    Args:
        name: The data set's name, for messages.
        part: What is declared.
        source: Where the rows come from, for messages.
        folder: What file names of images are relative to.
    """

    def __init__(self, name: str, part: Part, source: str, folder: Path | None = None) -> None:
        self._name, self._part, self._source, self._folder = name, part, source, folder

    def rows(self, given: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
        """Yields the rows with the declared columns only.

        Raises:
            DomainError: If a column is missing or holds something else; the message says what upstream has.
        """
        for number, row in enumerate(given):
            yield {name: self._value(name, kind, row, number) for name, kind in self._part.columns.items()}

    def _value(self, name: str, kind: Kind, row: Mapping[str, Any], number: int) -> Any:
        optional = name in self._part.optional
        if not isinstance(row, Mapping):
            raise self._moved(f"row {number} is a {type(row).__name__}, not an object")
        if name not in row:
            if optional:
                return None
            raise self._moved(f"there is no column {name!r} any more; it has {', '.join(map(repr, row))}")
        value = row[name]
        if value is None and (optional or kind == "json"):
            return None
        if kind == "image":
            return self._image(name, value, number)
        if kind == "float" and isinstance(value, int):
            value = float(value)
        if not isinstance(value, _TYPES[kind]) or (kind == "int" and isinstance(value, bool)):
            raise self._moved(f"column {name!r} holds {_shown(value)} in row {number}, where {kind} was expected")
        return value

    def _image(self, name: str, value: Any, number: int) -> bytes:
        """Takes an image as the hub's tables have it, as bytes, as a picture, or as the name of a file."""
        if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
            value = value["bytes"]
        elif isinstance(value, Mapping) and isinstance(value.get("path"), str):
            value = value["path"]
        if isinstance(value, str) and self._folder is not None:
            file = self._folder / value
            if not file.resolve().is_relative_to(self._folder.resolve()):
                raise self._moved(f"column {name!r} names a file outside the folder in row {number}: {value!r}")
            try:
                return file.read_bytes()
            except OSError as error:
                raise self._moved(f"the image {value!r} of row {number} is missing ({error.strerror})") from error
        if not isinstance(value, bytes):
            raise self._moved(f"column {name!r} holds {_shown(value)} in row {number}, where an image was expected")
        return value

    def _moved(self, what: str) -> DomainError:
        part = f", part {self._part.name!r}" if self._part.name else ""
        return DomainError(
            f"The data set {self._name!r}{part}, from {self._source}, is not as dgym knows it: {what}. "
            f"Name another source: `dgym data pull {self._name} --mirror ORG/NAME[@REVISION]` or `--from FOLDER`."
        )


def _shown(value: object) -> str:
    return f"{type(value).__name__} ({repr(value)[:40]})"
