"""A bundle: one zip file with a teacher's files, its results, its card, and a manifest with the digest of each.

A bundle comes from anyone. It is opened with limits on what is unpacked, nothing in it is executed or unpickled here,
and every file must be what the manifest says.
"""

from __future__ import annotations

import hashlib
import json
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from dgym.errors import UsageError, one_line

FORMAT: Final = 1
"""Raised whenever a bundle that was packed before could not be read any more."""

SUFFIX: Final = ".dgym.zip"

MANIFEST: Final = "manifest.json"

MAX_FILES: Final = 3_000
MAX_BYTES: Final = 2 << 30
MAX_MANIFEST: Final = 16 << 20
"""Most that is unpacked."""

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        digest: Of the whole file.
        folder: Where it was unpacked.
        manifest: What it says of itself.
    """

    digest: str
    folder: Path
    manifest: Mapping[str, Any]

    @property
    def teacher(self) -> Path:
        """The teacher's folder."""
        return self.folder / "teacher"

    @property
    def results(self) -> Path:
        """The folder of its results."""
        return self.folder / "results"

    @property
    def card(self) -> Mapping[str, Any]:
        """What it declares of itself."""
        card: Mapping[str, Any] = self.manifest["card"]
        return card


def pack(path: Path, files: Mapping[str, Path], manifest: Mapping[str, Any]) -> str:
    """Writes a bundle; the same content gives the same bytes.

    Args:
        path: The file.
        files: What goes in, by its name there.
        manifest: What is said of it; the digests of the files are added.

    Returns:
        The bundle's digest.

    Raises:
        UsageError: If it cannot be written.
    """
    contents = {name: files[name].read_bytes() for name in sorted(files)}
    listed = {name: _digest(content) for name, content in contents.items()}
    said = json.dumps({**manifest, "format": FORMAT, "files": listed}, indent=1, sort_keys=True).encode()
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in {MANIFEST: said, **contents}.items():
                info = zipfile.ZipInfo(name, _EPOCH)
                info.external_attr = (stat.S_IFREG | (0o755 if _executable(files.get(name)) else 0o644)) << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UsageError(
            f"The bundle {str(path)!r} cannot be written: {error.strerror}. Name another with --out."
        ) from error
    return _digest(path.read_bytes())


def unpack(path: Path, folder: Path) -> Bundle:
    """Opens a bundle into an empty folder and checks every file against the manifest.

    Raises:
        UsageError: If it is no bundle, larger than a bundle may be, or not what its manifest says.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            _check_names(path, infos)
            manifest = _manifest(path, archive)
            listed = manifest["files"]
            names = {info.filename for info in infos} - {MANIFEST}
            if names != set(listed):
                odd = sorted(names ^ set(listed))[0]
                raise UsageError(f"The bundle {str(path)!r} does not hold what its manifest says: {odd!r}.")
            for info in infos:
                target = folder / info.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                content = _read(archive, info)
                if info.filename != MANIFEST and _digest(content) != listed[info.filename]:
                    raise UsageError(f"In the bundle {str(path)!r}, {info.filename!r} is not what the manifest says.")
                target.write_bytes(content)
                target.chmod(0o755 if info.external_attr >> 16 & 0o100 else 0o644)
        return Bundle(_digest(path.read_bytes()), folder, manifest)
    except FileNotFoundError as error:
        raise UsageError(f"There is no bundle {str(path)!r}; `dgym submit` makes one.") from error
    except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise UsageError(f"{str(path)!r} is no bundle that can be read: {one_line(error)}.") from error


def _check_names(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    if len(infos) > MAX_FILES or sum(info.file_size for info in infos) > MAX_BYTES:
        raise UsageError(f"The bundle {str(path)!r} holds more than {MAX_FILES:,} files or {MAX_BYTES >> 30} GiB.")
    if len({info.filename for info in infos}) < len(infos):
        raise UsageError(f"The bundle {str(path)!r} holds a file twice.")
    for info in infos:
        inside = PurePosixPath(info.filename)
        plain = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
        odd = inside.is_absolute() or ".." in inside.parts or "\\" in info.filename or info.is_dir()
        if odd or not plain or inside.parts[0] not in ("teacher", "results", MANIFEST):
            raise UsageError(f"The bundle {str(path)!r} holds {info.filename!r}, which no bundle has.")


def _manifest(path: Path, archive: zipfile.ZipFile) -> Mapping[str, Any]:
    try:
        info = archive.getinfo(MANIFEST)
        if info.file_size > MAX_MANIFEST:
            raise ValueError("it is too large")
        manifest = json.loads(_read(archive, info))
        if manifest["format"] != FORMAT:
            raise UsageError(f"The bundle {str(path)!r} has format {manifest['format']!r}; this dgym reads {FORMAT}.")
        needed = {"card": dict, "files": dict, "suite": dict, "teacher": str, "episodes": list}
        for key, kind in needed.items():
            if not isinstance(manifest[key], kind):
                raise ValueError(f"{key} is malformed")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"The bundle {str(path)!r} has no manifest that can be read: {one_line(error)}.") from error
    found: Mapping[str, Any] = manifest
    return found


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with archive.open(info) as file:
        content = file.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise zipfile.BadZipFile(f"{info.filename} is not as large as it says")
    return content


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _executable(path: Path | None) -> bool:
    return path is not None and bool(path.stat().st_mode & 0o100)
