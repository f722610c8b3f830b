"""Where a run lies: a folder of this machine, or a URL that fsspec opens (`s3://`, `gs://`, `memory://`, ...).

Everything that reads or writes results goes through a `Place`, so that local and remote runs are handled by the same
code. A file is written whole or not at all: on this machine under a temporary name that is then renamed, in an object
store in one put. Keys, endpoints and other options of a store come from its own configuration and from fsspec's
(`FSSPEC_S3_ENDPOINT_URL`, ...) on each machine: they are never passed on, printed or stored. It knows nothing of
tables.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from os import PathLike, fspath
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from pyarrow import fs

from dgym.errors import InfrastructureError, UsageError, one_line

_EXTRA: Final = frozenset(("s3", "s3a", "gs", "gcs"))
"""Protocols whose packages the extra `cloud` installs."""

_ATOMIC: Final = _EXTRA | {"abfs", "abfss", "az", "memory", "oci", "oss"}
"""Protocols where a file appears when all of it is there; elsewhere it is written under another name and renamed."""

_TRIAL: Final = 64 * 1024
"""Bytes of the file that tries whether a folder can be written: on a full disk, an empty one still can."""


@dataclass(frozen=True)
class Place:
    """A folder somewhere.

    Attributes:
        name: As a person gave it.
        path: The folder's path within its file system.
        system: The file system, a `pyarrow.fs.FileSystem`.
        local: Whether it is on this machine.
    """

    name: str
    path: str
    system: Any
    local: bool

    @classmethod
    def of(cls, given: str | PathLike[str] | Place) -> Place:
        """Makes a place from a path or URL.

        Raises:
            UsageError: If no file system is known or installed for the URL, or if a password stands in it.
        """
        if isinstance(given, Place):
            return given
        name = fspath(given)
        if not is_url(name):
            return cls(name, str(Path(name)), fs.LocalFileSystem(), local=True)
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        protocol = name.partition("://")[0]
        if re.match(r"[^/@]*:[^/@]*@", name.partition("://")[2]):
            raise UsageError(
                f"A {protocol}:// URL with a password would be printed and stored: leave it out, and give it where "
                "the file system's own package or fsspec looks for it."
            )
        try:
            system, path = fsspec.core.url_to_fs(name)
        except (ImportError, ValueError, OSError) as error:
            if protocol in _EXTRA and isinstance(error, ImportError):
                raise UsageError(f'{protocol}:// needs a package: pip install "dgym[cloud]".') from error
            why = f"no file system for {protocol}:// ({one_line(error)})"
            raise UsageError(f"{name!r} cannot be opened: {why}.") from error
        if isinstance(system, LocalFileSystem):
            return cls(name, path, fs.LocalFileSystem(), local=True)
        return cls(name, path.rstrip("/"), fs.PyFileSystem(fs.FSSpecHandler(system)), local=False)

    def __reduce__(self) -> Any:
        # A remote file system holds the keys of this machine; another has its own.
        return Place.of, (self.name,)

    def within(self, *parts: str) -> str:
        """Returns the path of something in the folder."""
        return "/".join([self.path, *parts]) if self.path else "/".join(parts)

    def shown(self, *parts: str) -> str:
        """Returns the path or URL of something in the folder, as a person would write it."""
        return os.path.join(self.name, *parts) if self.local else "/".join([self.name.rstrip("/"), *parts])  # noqa: PTH118

    def below(self, *parts: str) -> Place:
        """Returns a folder in this one."""
        return Place(self.shown(*parts), self.within(*parts), self.system, self.local)

    def absolute(self) -> str:
        """Returns the path or URL as processes with another working directory need it."""
        return str(Path(self.path).absolute()) if self.local else self.name

    def same_as(self, other: str | PathLike[str] | Place) -> bool:
        """Whether another place is this one."""
        there = Place.of(other)
        if self.local and there.local:
            return Path(self.path).resolve() == Path(there.path).resolve()
        return not self.local and not there.local and self.system == there.system and self.path == there.path

    def is_folder(self, *parts: str) -> bool:
        """Whether there is such a folder; object stores know one by what it holds.

        Raises:
            UsageError: If the file system cannot be asked.
        """
        return bool(self._info(*parts).type == fs.FileType.Directory)

    def is_file(self, *parts: str) -> bool:
        """Whether there is such a file.

        Raises:
            UsageError: If the file system cannot be asked.
        """
        return bool(self._info(*parts).type == fs.FileType.File)

    def size(self, *parts: str) -> int:
        """Returns a file's size in bytes.

        Raises:
            UsageError: If the file system cannot be asked.
        """
        return int(self._info(*parts).size or 0)

    def _info(self, *parts: str) -> Any:
        self._look_anew()
        try:
            return self.system.get_file_info(self.within(*parts))
        except Exception as error:  # every fsspec file system raises errors of its own
            raise UsageError(f"{self.name!r} cannot be read: {one_line(error)}.") from error

    def files(self, *parts: str, suffix: str) -> list[PurePosixPath]:
        """Lists the files below a folder of this place, relative to that folder and sorted; hidden ones are left out.

        Raises:
            UsageError: If the file system cannot be asked.
        """
        return sorted(path for path in self.sizes(*parts) if path.suffix == suffix)

    def sizes(self, *parts: str) -> dict[PurePosixPath, int]:
        """Lists the files below a folder, relative to it, with their sizes in bytes; hidden ones are left out.

        Raises:
            UsageError: If the file system cannot be asked.
        """
        top = self.within(*parts)
        self._look_anew()
        try:
            if self.local:
                chosen = fs.FileSelector(top, recursive=True, allow_not_found=True)
                listed = [(info.path, info.size) for info in self.system.get_file_info(chosen) if info.is_file]
            else:
                # Arrow asks twice, and takes a folder of which the first file appears in between for a file.
                found = self._fsspec.find(top, detail=True)
                listed = [(path, info["size"]) for path, info in found.items() if info["type"] == "file"]
        except Exception as error:
            raise UsageError(f"{self.name!r} cannot be read: {one_line(error)}.") from error
        files = ((PurePosixPath(path).relative_to(top), size) for path, size in listed)
        return {path: int(size or 0) for path, size in files if path.name and not path.name.startswith(".")}

    def read(self, *parts: str) -> bytes:
        """Reads a file.

        Raises:
            OSError: If it cannot be read.
        """
        with self.system.open_input_stream(self.within(*parts)) as file:
            data: bytes = file.read()
        return data

    def write(self, data: bytes | str, *parts: str) -> None:
        """Writes a file in one atomic step; folders on the way are made, and what was there is replaced.

        Raises:
            InfrastructureError: If it cannot be written; nothing is then left behind.
        """
        content = data.encode("utf-8") if isinstance(data, str) else data
        self.build(lambda file: file.write(content), *parts)

    def build(self, write: Callable[[IO[bytes]], Any], *parts: str) -> int:
        """Writes a file in one atomic step, as `write` does, and returns its size in bytes.

        Args:
            write: Called with a binary file that it is to fill.
            parts: The file, relative to this folder.

        Raises:
            InfrastructureError: If it cannot be written; nothing is then left behind.
        """
        if self.local:
            try:
                return self._rename(write, Path(self.within(*parts)))
            except OSError as error:
                raise self._unwritten(error, parts) from error
        # What fails while it is made must not reach the store: a stream there keeps what it has when it is closed.
        buffer = BytesIO()
        write(buffer)
        try:
            self._put(buffer.getvalue(), self.within(*parts))
        except Exception as error:  # every fsspec file system raises errors of its own
            raise self._unwritten(error, parts) from error
        return buffer.tell()

    def _unwritten(self, error: Exception, parts: Sequence[str]) -> InfrastructureError:
        reason = (error.strerror if isinstance(error, OSError) else "") or one_line(error)
        return InfrastructureError(f"Results cannot be written to {self.shown(*parts[:-1])!r}: {reason.rstrip('.')}.")

    @staticmethod
    def _rename(write: Callable[[IO[bytes]], Any], path: Path) -> int:
        temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                write(file)
                size = file.tell()
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return size

    def _put(self, data: bytes, path: str) -> None:
        system = self._fsspec
        protocols = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
        if protocols & _ATOMIC:
            system.pipe_file(path, data)
            return
        folder, _, name = path.rpartition("/")
        temporary = f"{folder}/.{name}.{os.getpid()}.tmp"
        system.makedirs(folder, exist_ok=True)
        system.pipe_file(temporary, data)
        system.mv(temporary, path)

    @contextmanager
    def as_folder(self, *, write: bool = False) -> Iterator[Path]:
        """Gives this place as a folder of this machine: itself, or a copy that lasts as long as the context.

        Args:
            write: Whether the folder is to be filled: a copy then begins empty and is stored afterwards, file by file.

        Raises:
            UsageError: If there is nothing to be read.
            InfrastructureError: If it cannot be stored.
        """
        if self.local:
            yield Path(self.path)
            return
        with tempfile.TemporaryDirectory(prefix="dgym-") as scratch:
            copy = Path(scratch)
            if not write:
                found = self.sizes()
                if not found:
                    raise UsageError(f"There is nothing at {self.name!r}.")
                for path in found:
                    copy.joinpath(path).parent.mkdir(parents=True, exist_ok=True)
                    copy.joinpath(path).write_bytes(self.read(*path.parts))
            yield copy
            if write:
                for file in sorted(file for file in copy.rglob("*") if file.is_file()):
                    self.write(file.read_bytes(), *file.relative_to(copy).parts)

    def remove(self, *parts: str) -> None:
        """Removes a file; one that is not there is ignored.

        Raises:
            InfrastructureError: If it is there and cannot be removed.
        """
        try:
            if self.local:
                Path(self.within(*parts)).unlink(missing_ok=True)
            elif self.is_file(*parts):
                self._fsspec.rm_file(self.within(*parts))
        except Exception as error:
            raise InfrastructureError(f"{self.shown(*parts)!r} cannot be removed: {one_line(error)}.") from error

    def make(self) -> None:
        """Makes the folder, if it does not exist, and tries to write there.

        Raises:
            InfrastructureError: If it cannot be made or written.
        """
        trial = f".write-{os.getpid()}"
        self.write(b"\0" * (_TRIAL if self.local else 1), trial)
        try:
            self.remove(trial)
        except InfrastructureError:
            if self.local:
                raise
            # Whoever may write to a store need not be allowed to remove; hidden files are not read.

    def _look_anew(self) -> None:
        """Forgets listings that fsspec keeps: other processes write here too."""
        if not self.local:
            self._fsspec.invalidate_cache()

    @property
    def _fsspec(self) -> Any:
        return self.system.handler.fs


def is_url(name: str) -> bool:
    """Whether a name is a URL, and not a path of this machine."""
    return "://" in name


def write_file(file: str | PathLike[str] | Place, data: bytes | str) -> str:
    """Writes one file in one atomic step; folders on the way are made, and what was there is replaced.

    A device or a pipe of this machine is written to instead.

    Args:
        file: Path or URL.
        data: What is written.

    Returns:
        The file's path or URL.

    Raises:
        UsageError: If it cannot be written, or if a folder is there.
    """
    place = Place.of(file)
    if place.name.endswith("/") or place.is_folder():
        raise UsageError(f"{place.name!r} is a folder: name a file in it.")
    here = Path(place.path) if place.local else None
    try:
        if here is not None and here.exists() and not here.is_file():
            here.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
        else:
            place.write(data)
    except InfrastructureError as error:
        raise _unwritable(place.name, error) from error
    except OSError as error:
        raise UsageError(f"{place.name} cannot be written: {error.strerror}.") from error
    return place.name


def read_file(file: str | PathLike[str] | Place) -> bytes:
    """Reads one file.

    Args:
        file: Path or URL.

    Raises:
        UsageError: If it cannot be read.
    """
    place = Place.of(file)
    try:
        if place.local:
            return Path(place.path).read_bytes()  # of a pipe, too
        if place.is_file():
            return place.read()
    except UsageError:
        raise
    except Exception as error:  # every fsspec file system raises errors of its own
        reason = (error.strerror if isinstance(error, OSError) else "") or one_line(error)
        raise UsageError(f"{place.name} cannot be read: {reason.rstrip('.')}.") from error
    raise UsageError(f"{place.name} cannot be read: there is no such file.")


def _unwritable(name: str, error: InfrastructureError) -> UsageError:
    return UsageError(f"{name} cannot be written: {str(error).partition(': ')[2] or str(error)}")


def write_files(folder: str | PathLike[str] | Place, contents: Mapping[str, str]) -> list[str]:
    """Writes texts into a folder, each in one atomic step.

    Args:
        folder: Path or URL; made if it does not exist.
        contents: Texts by the name of the file.

    Returns:
        The files' paths or URLs.

    Raises:
        UsageError: If one cannot be written.
    """
    place = Place.of(folder)
    written = []
    for name, text in contents.items():
        try:
            place.write(text, name)
        except InfrastructureError as error:
            raise _unwritable(place.shown(name), error) from error
        written.append(place.shown(name))
    return written
