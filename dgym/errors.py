"""Errors by boundary: whose fault a failure is.

Every failure that dgym expects is a `DgymError` and carries the boundary at which it happened. A failed
episode is stored with that name, so a table can say "the teacher's output could not be used" apart from "the
host ran out of memory". `UsageError` is the one kind that a person caused at the command line; it is shown as
one line, without a traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Final


class DgymError(Exception):
    """Base class of every failure that dgym foresees.

    Attributes:
        boundary: Who is responsible: `"usage"`, `"domain"`, `"teacher"`, `"student"` or `"infrastructure"`.
    """

    boundary: ClassVar[str] = "infrastructure"


class UsageError(DgymError):
    """A person asked for something that does not exist or cannot be read; the message says what to do."""

    boundary = "usage"


class DomainError(DgymError):
    """Problems or graders of a domain are unusable."""

    boundary = "domain"


class TeacherError(DgymError):
    """A policy or an engine raised, or returned something that is not a plan or not examples."""

    boundary = "teacher"


class StudentError(DgymError):
    """A student cannot be loaded, trained or asked."""

    boundary = "student"


class InfrastructureError(DgymError):
    """Disk, network, a killed worker: nothing that domain, teacher or student could help."""

    boundary = "infrastructure"


SET_TOKEN: Final = (
    "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's: `ray get-auth-token` there "
    "shows it."
)
"""What to do where a Ray cluster asks for a token that a process does not have."""


def boundary_of(error: BaseException) -> str:
    """Names the boundary at which `error` happened; an unforeseen exception counts as infrastructure."""
    return error.boundary if isinstance(error, DgymError) else InfrastructureError.boundary


def one_line(error: BaseException) -> str:
    """Renders an exception as one line for a table or a terminal, with its type unless it is ours."""
    text = " ".join(str(error).split())
    if isinstance(error, DgymError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Builds the error for a name that is not registered, with the nearest valid choice.

    Args:
        kind: What was looked for, in words, such as `"teacher"`.
        name: The name that was given.
        known: The valid names.

    Returns:
        The error, to be raised by the caller.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return UsageError(f"There is no {kind} named {name!r}. {hint}Known: {', '.join(names) or 'none'}.")


def refuse_url(path: Path | None) -> Path | None:
    """Returns a path as it is: what a command line checks its paths of this machine with.

    Raises:
        UsageError: If it was a URL: as a path, `s3://bucket/a` would be a folder called `s3:`.
    """
    url = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/(.*)", str(path or ""))
    if url:
        raise UsageError(
            f"'{url[1]}://{url[2]}' is a URL, and here a path of this machine is needed: name one, and copy what is "
            "there with a tool of that store."
        )
    return path
