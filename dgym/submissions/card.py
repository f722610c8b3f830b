"""What a submission declares of itself, and whether that is complete.

What this module does not know: results, and how a teacher is run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dgym.errors import UsageError
from dgym.isolation.places import TABLE, requirements_of, submission_of

_PINNED: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._ -]+\])? *== *[A-Za-z0-9.!+_-]+( *;.*)?")
_TEAM: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Card:
    """A submission's declarations.

    Attributes:
        name: Of the teacher's project.
        version: Of the teacher's project.
        team: Who submits, as a folder's name: small letters, digits and hyphens.
        title, description, licence, contact: For readers.
        authors: Who wrote it.
        models: Models that it asks or was trained with.
        data: Data sets that it draws from.
        endpoints: Language models that it asks when it runs.
        requirements: Packages that it imports, each pinned to one version.
    """

    name: str
    version: str
    team: str
    title: str
    description: str
    licence: str
    contact: str
    authors: tuple[str, ...]
    models: tuple[str, ...]
    data: tuple[str, ...]
    endpoints: tuple[str, ...]
    requirements: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the declarations as JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}


def card_of(folder: Path) -> Card:
    """Reads what a teacher's folder declares.

    Raises:
        UsageError: If something is missing or malformed; the message names all of it.
    """
    submission = submission_of(folder)
    table, wrong = submission.table, list[str]()

    def text(key: str, needed: bool = True) -> str:
        value = table.get(key, "")
        if not isinstance(value, str) or (needed and not value.strip()):
            wrong.append(f"{key} must be a text")
            return ""
        return value.strip()

    def texts(key: str, needed: bool = False) -> tuple[str, ...]:
        value = table.get(key)
        if key not in table or not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
            wrong.append(f"{key} must be a list of texts{'' if needed else ', which may be empty'}")
            return ()
        if needed and not value:
            wrong.append(f"{key} must name at least one")
        return tuple(value)

    authors = texts("authors", needed=True)
    first = authors[0].partition(",")[0].lower() if authors else ""
    team = table.get("team", re.sub(r"[^a-z0-9]+", "-", first).strip("-"))
    if not isinstance(team, str) or not _TEAM.fullmatch(team):
        wrong.append('team must be small letters, digits and hyphens, such as team = "my-lab"')
    requirements = requirements_of(submission)
    for requirement in requirements:
        if not _PINNED.fullmatch(requirement):
            wrong.append(f'the dependency {requirement!r} must be pinned to one version, such as "numpy==2.3.1"')
    card = Card(
        name=submission.name,
        version=submission.version,
        team=str(team),
        title=text("title"),
        description=text("description"),
        licence=text("licence"),
        contact=text("contact", needed=False),
        authors=authors,
        models=texts("models"),
        data=texts("data"),
        endpoints=tuple(submission.endpoints),
        requirements=requirements,
    )
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", card.name)
    if not plain or not re.fullmatch(r"[A-Za-z0-9.!+_-]{1,32}", card.version):
        wrong.append("name and version of the project must be plain, such as my-teacher and 0.1.0")
    if wrong:
        where = str(folder / "pyproject.toml")
        raise UsageError(f"The card in {where!r} is not complete ([{TABLE}]): {'; '.join(wrong)}.")
    return card
