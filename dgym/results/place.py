"""Where a run lies: a folder of this machine, or a URL that fsspec opens (`s3://`, `gs://`, `memory://`, ...).

Everything that reads results goes through a `Place`, so that local and remote runs are read by the same code. It knows
nothing of tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path, PurePosixPath
from typing import Any

from pyarrow import fs

from dgym.errors import UsageError, one_line


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
    def of(cls, given: str | PathLike[str]) -> Place:
        """Makes a place from a path or URL.

        Raises:
            UsageError: If no file system is known or installed for the URL.
        """
        name = fspath(given)
        if "://" not in name:
            return cls(name, str(Path(name)), fs.LocalFileSystem(), local=True)
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        protocol = name.partition("://")[0]
        try:
            system, path = fsspec.core.url_to_fs(name)
        except (ImportError, ValueError, OSError) as error:
            why = f"no file system for {protocol}:// ({one_line(error)})"
            raise UsageError(f"{name!r} cannot be opened: {why}.") from error
        if isinstance(system, LocalFileSystem):
            return cls(name, path, fs.LocalFileSystem(), local=True)
        return cls(name, path.rstrip("/"), fs.PyFileSystem(fs.FSSpecHandler(system)), local=False)

    def within(self, *parts: str) -> str:
        """Returns the path of something in the folder."""
        return "/".join([self.path, *parts]) if self.path else "/".join(parts)

    def is_folder(self, *parts: str) -> bool:
        """Whether there is such a folder; object stores know one by what it holds.

        Raises:
            UsageError: If the file system cannot be asked.
        """
        return bool(self._kind(*parts) == fs.FileType.Directory)

    def is_file(self, *parts: str) -> bool:
        """Whether there is such a file.

        Raises:
            UsageError: If the file system cannot be asked.
        """
        return bool(self._kind(*parts) == fs.FileType.File)

    def _kind(self, *parts: str) -> Any:
        try:
            return self.system.get_file_info(self.within(*parts)).type
        except Exception as error:  # every fsspec file system raises errors of its own
            raise UsageError(f"{self.name!r} cannot be read: {one_line(error)}.") from error

    def files(self, *parts: str, suffix: str) -> list[PurePosixPath]:
        """Lists the files below a folder of this place, relative to that folder and sorted; hidden ones are left out.

        Raises:
            UsageError: If the file system cannot be asked.
        """
        top = self.within(*parts)
        try:
            found = self.system.get_file_info(fs.FileSelector(top, recursive=True, allow_not_found=True))
        except Exception as error:
            raise UsageError(f"{self.name!r} cannot be read: {one_line(error)}.") from error
        paths = (PurePosixPath(info.path) for info in found if info.type == fs.FileType.File)
        return sorted(p.relative_to(top) for p in paths if p.suffix == suffix and not p.name.startswith("."))

    def read(self, *parts: str) -> bytes:
        """Reads a file.

        Raises:
            OSError: If it cannot be read.
        """
        with self.system.open_input_stream(self.within(*parts)) as file:
            data: bytes = file.read()
        return data
