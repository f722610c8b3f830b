"""What a teacher's process sees, by the kind of teacher: files, packages, and the command that starts it.

Three kinds can be isolated, each by what stands behind `isolated@`:

- `path/to/file.py:Attr`: the file; the standard library; the records of dgym, and nothing else of it, so that no
  problem of a hidden split can be had by importing it.
- a folder with a `pyproject.toml` that has a table `[tool.dgym.submission]`: the folder and its packages; a
  `module:Attr`, or any command that speaks the protocol.
- a registered name: all of this installation. That isolates the process, and hides nothing from it: it is for teachers
  that dgym ships, and to show that isolation moves no score.

What this module does not know: how a process is isolated, and what is spoken with it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shlex
import shutil
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dgym import registry
from dgym.cache import cache_folder
from dgym.errors import UsageError, one_line, unknown_name
from dgym.sandbox.session import USUAL, Command, libraries, needed, python

PACKAGE: Final = Path(__file__).resolve().parents[1]
"""Where dgym itself lies."""

TEACHER: Final = "/teacher"
RECORDS: Final = "/records"
PACKAGES: Final = "/packages"
INSTALLED: Final = "/installed"
"""Where a process finds its teacher's files, the records of dgym, the packages that it declares, and, if it is one that
dgym ships, all that is installed."""

SEEN: Final = {
    "dgym/__init__.py": "__init__.py",
    "dgym/core.py": "core.py",
    "dgym/errors.py": "errors.py",
    "dgym/isolation/__init__.py": None,
    "dgym/isolation/inside_chat.py": "isolation/inside_chat.py",
    "dgym/isolation/protocol.py": "isolation/protocol.py",
    "dgym/isolation/teach.py": "isolation/teach.py",
    "dgym/chat/__init__.py": None,
}
"""All of dgym that an isolated teacher sees, by where it finds it."""

_INSIDE: Final = {"dgym/chat/__init__.py": b"from dgym.isolation.inside_chat import GrantedChat, find_chat\n"}

FILE: Final = "teacher.py"
"""What a teacher's file is called there, whatever it is called here."""

SYSTEM: Final = ("/usr", "/lib", "/lib64", "/bin", "/opt")
"""Where a system's packages install what programs need."""

MAX_FILES: Final = 2_000
MAX_BYTES: Final = 256 << 20
"""Most files and bytes of a teacher."""

_LEFT_OUT: Final = frozenset(
    {"__pycache__", ".git", ".venv", "dist", "runs", "tests", ".pytest_cache", ".ruff_cache", ".mypy_cache"}
)
"""Folders that are no part of a teacher; nor are its Markdown files. What is left out moves no digest."""

TABLE: Final = "tool.dgym.submission"


@dataclass(frozen=True)
class Place:
    """A teacher and what its process sees.

    Attributes:
        label: What results call it: the same wherever its files lie.
        digest: Identifies its files; empty for a registered name.
        command: What is run.
        trusted: Whether it is one that dgym ships.
        endpoints: Names of the language models that it asks for.
    """

    label: str
    digest: str
    command: Command
    trusted: bool = False
    endpoints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Submission:
    """The table `[tool.dgym.submission]` of a teacher's `pyproject.toml`.

    Attributes:
        name: Of the project.
        version: Of the project.
        teacher: `module:Attr` of a teacher in Python; empty for another program.
        command: Words of another program; `{teacher}` stands for the folder.
        read: Further files and folders of the machine that the program needs, such as an interpreter's library.
        dependencies: Of the project.
        endpoints: Language models that it asks for.
        table: The whole table.
    """

    name: str
    version: str
    teacher: str = ""
    command: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    dependencies: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    table: Mapping[str, Any] = field(default_factory=dict)


def teacher_files(folder: Path) -> list[Path]:
    """Lists the files that make a teacher's folder a teacher: those that its digest covers and its process sees."""
    return list(_files(folder, None))


def digest_of_folder(folder: Path) -> str:
    """Digests a teacher's folder, as the digests of its episodes do.

    Raises:
        UsageError: If it has too many files, or if one cannot be read.
    """
    return _staged(folder)[1]


def place_of(name: str, params: Mapping[str, Any], packages: str = "") -> Place:
    """Finds a teacher and what its process is to see.

    Args:
        name: What stands behind `isolated@`.
        params: Keyword arguments of the teacher's factory.
        packages: Folder of the packages that the teacher declares; for a folder those in the cache by default.

    Raises:
        UsageError: If there is no such teacher, or its files cannot be used.
    """
    if registry.is_file(name):
        stem, _, attribute = name.partition(".py:")
        file = Path(f"{stem}.py")
        if not file.is_file():
            raise UsageError(f"There is no teacher file {str(file)!r}.")
        folder, digest = _staged(file.parent, file)
        return Place(attribute, digest, _python(f"{{{TEACHER}}}/{FILE}:{attribute}", params, folder, packages))
    if Path(name).is_dir():
        return _of_folder(Path(name), params, packages)
    if name in registry.BUILTIN["teacher"]:
        return Place(name, "", _trusted(name, params), trusted=True)
    hint = unknown_name("teacher", name, registry.BUILTIN["teacher"])
    raise UsageError(f"{hint} In isolation: one of these, path/to/file.py:Attr, or a folder with a pyproject.toml.")


def submission_of(folder: Path) -> Submission:
    """Reads a teacher's `pyproject.toml`.

    Raises:
        UsageError: If there is none, if it cannot be read, or if its table lacks something.
    """
    file = folder / "pyproject.toml"
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"The folder {str(folder)!r} has no pyproject.toml that can be read.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{str(file)!r} is no TOML: {one_line(error)}") from error
    project = content.get("project", {})
    table = content.get("tool", {}).get("dgym", {}).get("submission")
    if not isinstance(table, dict):
        raise UsageError(f"{str(file)!r} has no table [{TABLE}]; `dgym new teacher NAME` writes one.")
    teacher, command = table.get("teacher", ""), table.get("command", [])
    if not teacher and not command:
        teacher = next(iter(project.get("entry-points", {}).get("dgym.teachers", {}).values()), "")
    if bool(teacher) == bool(command):
        raise UsageError(
            f'[{TABLE}] in {str(file)!r} needs either teacher = "module:Attr" or command = ["...", "..."].'
        )
    for key in ("command", "read", "endpoints"):
        if not isinstance(table.get(key, []), list) or not all(isinstance(word, str) for word in table.get(key, [])):
            raise UsageError(f"[{TABLE}] in {str(file)!r}: {key} must be a list of texts.")
    return Submission(
        name=str(project.get("name", folder.resolve().name)),
        version=str(project.get("version", "0")),
        teacher=str(teacher),
        command=tuple(command),
        read=tuple(table.get("read", ())),
        dependencies=tuple(str(d) for d in project.get("dependencies", ())),
        endpoints=tuple(table.get("endpoints", ())),
        table=table,
    )


def requirements_of(submission: Submission) -> tuple[str, ...]:
    """Returns the packages that a Python teacher imports; the records of dgym come without saying."""
    return tuple(d for d in submission.dependencies if not re.match(r"dgym(?![A-Za-z0-9_-])", d)) * bool(
        submission.teacher
    )


def packages_of(requirements: Sequence[str]) -> Path:
    """Returns the folder in the cache that holds exactly these packages, once they are installed."""
    key = hashlib.blake2b(json.dumps(sorted(requirements)).encode(), digest_size=16).hexdigest()
    return cache_folder() / "packages" / f"{sys.implementation.cache_tag}-{key}"


def install_command(requirements: Sequence[str]) -> list[str]:
    """Returns the command that installs packages for teachers: wheels only, as building would run code of theirs."""
    target = str(packages_of(requirements))
    return [sys.executable, "-m", "pip", "install", "-q", "--only-binary", ":all:", "--target", target, *requirements]


def _installed(submission: Submission) -> str:
    requirements = requirements_of(submission)
    if not requirements:
        return ""
    folder = packages_of(requirements)
    if not folder.is_dir():
        command = shlex.join(install_command(requirements))
        raise UsageError(f"The teacher {submission.name!r} needs packages. Install them with: {command}")
    return str(folder)


def _of_folder(path: Path, params: Mapping[str, Any], packages: str) -> Place:
    submission = submission_of(path)
    folder, digest = _staged(path)
    label = submission.name
    packages = packages or _installed(submission)
    if submission.teacher:
        command = _python(submission.teacher, params, folder, packages)
        return Place(label, digest, command, endpoints=submission.endpoints)
    words = [word.replace("{teacher}", f"{{{TEACHER}}}") for word in submission.command]
    found = words[0] if words[0].startswith("{") else shutil.which(words[0])
    if found is None:
        raise UsageError(f"The teacher {label!r} runs {words[0]!r}, which this machine does not have.")
    files = {TEACHER: folder}
    if not found.startswith("{"):
        found = str(_of_the_system(label, found))
        files |= {found: found}
    program = found.replace(f"{{{TEACHER}}}", folder)
    for wanted in (*libraries(program), *submission.read):
        if not Path(wanted).exists():
            raise UsageError(f"The teacher {label!r} needs {wanted!r}, which this machine does not have.")
        _of_the_system(label, wanted)
        files[wanted] = wanted
    return Place(label, digest, Command([found, *words[1:]], files), endpoints=submission.endpoints)


def _of_the_system(label: str, name: str) -> Path:
    """Resolves a path that a teacher asks for; it must lead to what the system's packages install.

    Raises:
        UsageError: If it leads anywhere else: to files of whoever runs the teacher, to dgym, or around either.
    """
    path = Path(name).resolve()
    own = {PACKAGE, Path(sys.prefix).resolve(), Path.home().resolve(), cache_folder().resolve(), Path.cwd()} - {
        Path("/")
    }
    inside = any(path.is_relative_to(root) and path != Path(root) for root in SYSTEM)
    if not inside or any(path.is_relative_to(one) or one.is_relative_to(path) for one in own):
        raise UsageError(
            f"The teacher {label!r} asks for {name!r}. It may read what the system's packages install, below "
            f"{', '.join(SYSTEM)}, and nothing else of this machine."
        )
    return path


def _python(teacher: str, params: Mapping[str, Any], folder: str, packages: str) -> Command:
    files = {RECORDS: _records(), TEACHER: folder}
    if packages:
        if not Path(packages).is_dir():
            raise UsageError(f"There is no folder of packages {packages!r}.")
        files |= {PACKAGES: packages} | _native()
    path = [f"{{{name}}}" for name in (RECORDS, TEACHER, *([PACKAGES] if packages else []))]
    path.insert(2, f"{{{TEACHER}}}/src")
    return Command(_start(path, {"teacher": teacher, "params": dict(params)}), files)


def _trusted(name: str, params: Mapping[str, Any]) -> Command:
    root = str(PACKAGE.parent)
    installed = [sysconfig.get_path(kind) for kind in ("purelib", "platlib")]
    path = list(dict.fromkeys([root, *(p for p in sys.path if p.startswith(sys.prefix) or p in installed), *installed]))
    # Under other names: a folder below /tmp would lie behind the process's own.
    files = {f"{INSTALLED}/{number}": p for number, p in enumerate(p for p in path if Path(p).is_dir())}
    what = {"teacher": name, "params": dict(params), "trusted": True}
    return Command(_start([f"{{{shown}}}" for shown in files], what), files | _native(), dict(USUAL))


def _native() -> dict[str, str]:
    """The folders of the machine's shared libraries, which compiled packages are linked with."""
    folders = {str(Path(name).parent) for name in needed()["shared"]}
    # Those of the system alone: an interpreter's own folder would bring its packages along, dgym perhaps among them.
    return {folder: folder for folder in sorted(folders) if folder.startswith(("/lib", "/usr/lib"))}


def _start(path: list[str], what: Mapping[str, Any]) -> list[str]:
    # Words are the command's own: JSON in JSON is a Python literal of text.
    code = (
        "import json, sys; sys.path[:0] = json.loads(sys.argv[1]); "
        "from dgym.isolation.teach import main; main(json.loads(sys.argv[2]))"
    )
    return python("-c", code, json.dumps(path), json.dumps(what))


@functools.cache
def _records() -> str:
    """Lays out what isolated teachers see of dgym; the folder lasts as long as this process."""
    folder = _scratch("records")
    for shown, file in SEEN.items():
        target = folder / shown
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((PACKAGE / file).read_bytes() if file else _INSIDE.get(shown, b""))
        target.chmod(0o644)
    _readable(folder)
    return str(folder)


_kept: list[tempfile.TemporaryDirectory[str]] = []


def _scratch(name: str) -> Path:
    _kept.append(tempfile.TemporaryDirectory(prefix=f"dgym-{name}-", ignore_cleanup_errors=True))
    return Path(_kept[-1].name)


def _readable(folder: Path) -> None:
    """Lets the sandbox's user read what lies in a folder, whoever owns it."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _staged(folder: Path, only: Path | None = None) -> tuple[str, str]:
    """Copies a teacher's files to where its process may read them, and digests them.

    Args:
        folder: The teacher's folder.
        only: The file that is the whole teacher, whatever lies beside it.

    Raises:
        UsageError: If there are too many files, or if one cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    found: list[tuple[str, bytes, int]] = []
    total = 0
    try:
        for path in _files(folder, only):
            content = path.read_bytes()
            total += len(content)
            if len(found) >= MAX_FILES or total > MAX_BYTES:
                raise UsageError(
                    f"The teacher's folder {str(folder)!r} has more than {MAX_FILES:,} files or {MAX_BYTES >> 20} MiB: "
                    "put the teacher into a folder of its own."
                )
            name = path.relative_to(folder).as_posix() if only is None else FILE
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
            found.append((name, content, path.stat().st_mode))
    except OSError as error:
        raise UsageError(f"The teacher's file {error.filename!r} cannot be read: {error.strerror}.") from error
    key = digest.hexdigest()
    if key not in _copies:
        copy = _scratch("teacher")
        for name, content, mode in found:
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            target.chmod(0o755 if mode & 0o100 else 0o644)
        _readable(copy)
        _copies[key] = str(copy)
    return _copies[key], key


_copies: dict[str, str] = {}


def _files(folder: Path, only: Path | None) -> Iterator[Path]:
    if only is not None:
        yield only
        return
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        # A link may lead anywhere on the machine of whoever runs it.
        if path.is_file() and not path.is_symlink() and not _LEFT_OUT & set(inside) and path.suffix != ".md":
            yield path
