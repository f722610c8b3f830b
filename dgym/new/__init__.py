"""Packages to begin with: `dgym new teacher NAME` writes one that installs, passes its tests and runs.

A package is a folder of Jinja templates beside this file, one folder a package; `__module__` in a path stands for the
module's name, a leading `dot-` for a dot. What this module does not know: what a teacher does, and how one is checked.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dgym import __version__, registry
from dgym.errors import UsageError

TEACHER: Final = Path(__file__).parent / "teacher"
"""The templates of a teacher that is a Python class."""

_NAME: Final = re.compile(r"[A-Z0-9]|[A-Z0-9][A-Z0-9._-]*[A-Z0-9]", re.IGNORECASE)  # PEP 508
_ENDING: Final = ".j2"


@dataclass(frozen=True, slots=True)
class Created:
    """A package that was written.

    Attributes:
        name: Of the package and of what it registers.
        folder: Where it is.
        files: What was written, relative to the folder.
        steps: What to do next, one line each.
    """

    name: str
    folder: Path
    files: tuple[Path, ...]
    steps: tuple[str, ...]


def new_teacher(name: str, out: Path | None = None) -> Created:
    """Writes a package that registers a small teacher.

    Args:
        name: Of the package and of the teacher.
        out: A folder that does not exist or is empty; `name` in the working folder by default.

    Raises:
        UsageError: If the name is no package's name or is taken, or if the folder is not empty or cannot be written.
    """
    module = module_of(name)
    _check_free(name, module)
    folder = out or Path(name)
    major, minor, *_ = __version__.split(".")
    values = {
        "name": name,
        "module": module,
        "class_name": "".join(word[:1].upper() + word[1:] for word in module.split("_")),
        "dgym": f"{major}.{minor}",
    }
    files = _write(TEACHER, folder, values)
    steps = (
        f'cd {folder} && pip install -e ".[test]" && pytest',
        f"dgym check {name} && dgym run --teacher {name} --domain fake --student fake",
        f"write your own into src/{module}/teacher.py, then: dgym bench --suite quick --teacher {name}",
    )
    return Created(name, folder, files, steps)


def module_of(name: str) -> str:
    """Returns the module of a package: its normalised name, as Python can import it.

    Raises:
        UsageError: If it is no package's name (PEP 508), or if Python cannot import a module of that name.
    """
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "my-teacher"
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name of a package: letters, digits, '-', '_' and '.', the first and last of them a "
            f"letter or a digit. Write {cleaned!r}, for instance."
        )
    module = re.sub(r"[-_.]+", "_", name).lower()
    if not module.isidentifier() or keyword.iskeyword(module):
        raise UsageError(f"Python cannot import a module named {module!r}; write 'my-{cleaned}', for instance.")
    return module


def _check_free(name: str, module: str) -> None:
    if name in registry.names("teacher"):
        raise UsageError(f"There is a teacher {name!r} already; choose another name, such as 'my-{name}'.")
    installed = {re.sub(r"[-_.]+", "-", str(d.name)).lower() for d in importlib.metadata.distributions() if d.name}
    if importlib.util.find_spec(module) is not None or module.replace("_", "-") in installed:
        raise UsageError(
            f"There is a package {name!r} in this environment already, which yours would hide; choose another name, "
            f"such as 'my-{name}'."
        )


def _write(templates: Path, folder: Path, values: Mapping[str, str]) -> tuple[Path, ...]:
    """Renders a folder of templates.

    Raises:
        UsageError: If there is something in the folder, or if it cannot be written.
    """
    from jinja2 import Environment, StrictUndefined

    # This is no HTML; what is put in was checked to be names.
    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{str(folder)!r} is not empty; name another folder with --out.")
    files = []
    try:
        for template in sorted(templates.rglob(f"*{_ENDING}")):
            place = str(template.relative_to(templates)).removesuffix(_ENDING)
            file = Path(re.sub(r"(^|/)dot-", r"\1.", place).replace("__module__", values["module"]))
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            text = environment.from_string(template.read_text(encoding="utf-8")).render(values)
            (folder / file).write_text(text, encoding="utf-8")
            files.append(file)
    except OSError as error:
        raise UsageError(f"{str(folder)!r} cannot be written: {error.strerror}. Name another with --out.") from error
    return tuple(files)
