"""Published data sets on this machine: what is here, whether it is whole, and what it looks like.

Behind `dgym data ls | pull | check | show`; what a data set is stands in `dgym.data`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dgym import registry
from dgym.core import SPLITS, GradesTogether, Problem, Split
from dgym.data import DataSet, Stored, is_here, stored
from dgym.data.store import damaged
from dgym.domains import data_sets, make_domain
from dgym.domains.dataset import DataSetDomain
from dgym.errors import DgymError, UsageError, one_line, unknown_name

_SAMPLE: Final = 200
"""How many references of a split are graded by `check`."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A data set in the list.

    Attributes:
        name: What `dgym data pull` takes, and the domain over it.
        title: What it is, in a few words.
        source: Where it comes from.
        licence: Under which it is published.
        here: Whether it is on this machine.
        rows: Stored rows; those upstream where it is not here and the number is known.
        place: Where it lies.
        fetched: When it was fetched, in ISO format.
        origin: Where what is here came from.
    """

    name: str
    title: str
    source: str
    licence: str
    here: bool
    rows: int | None
    place: str = ""
    fetched: str = ""
    origin: str = ""


def available() -> list[Listed]:
    """Lists all data sets that dgym knows, here or not."""
    return [_listed(data) for data in data_sets().values()]


def _listed(data: DataSet) -> Listed:
    if is_here(data):
        found = stored(data)
        rows: int | None = sum(found.counts.values())
        return Listed(
            data.name, data.title, data.source, data.licence, True, rows, str(found.folder), found.fetched, found.source
        )
    known = [part.rows for part in data.parts]
    rows = None if None in known else sum(count or 0 for count in known)
    return Listed(data.name, data.title, data.source, data.licence, False, rows)


def data_set(name: str) -> DataSet:
    """Returns a data set by its name.

    Raises:
        UsageError: If there is none.
    """
    found = data_sets()
    if name not in found:
        raise unknown_name("data set", name, found)
    return found[name]


@dataclass(frozen=True, slots=True)
class Checked:
    """What `check` found of one data set.

    Attributes:
        name: The domain.
        problems: Problems by split.
        faults: What is wrong, in words; empty where nothing is.
    """

    name: str
    problems: Mapping[Split, int] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


def check(name: str) -> Checked:
    """Verifies counts and digest of a stored data set, and that its references are graded as right.

    Args:
        name: A data set, or a domain over one with options, such as `"gsm8k:fixture"`.

    Raises:
        UsageError: If there is no such data set, or if it is not here.
    """
    if name in data_sets() and name not in registry.names("domain"):
        # One that a domain reads only where its options ask for it.
        fault = damaged(stored(data_sets()[name]))
        return Checked(name, faults=(fault,) if fault else ())
    domain = published(name)
    fault = damaged(domain.source)
    if fault:
        return Checked(name, faults=(fault,))
    faults: list[str] = []
    counts: dict[Split, int] = {}
    try:
        for split in SPLITS:
            problems = domain.problems(split)
            counts[split] = len(problems)
            faults += list(_ungraded(domain, split, [p for p in problems if p.reference][:_SAMPLE]))
        ids = Counter(p.id for split in SPLITS for p in domain.problems(split))
        twice = [i for i, n in ids.items() if n > 1]
        if twice:
            faults.append(f"{len(twice)} problems come twice, such as {twice[0]}")
    except DgymError as error:
        faults.append(one_line(error))
    return Checked(name, counts, tuple(faults))


def _ungraded(domain: DataSetDomain, split: Split, problems: Sequence[Problem]) -> Iterator[str]:
    references = [p.reference for p in problems]
    if isinstance(domain, GradesTogether):
        scores = [score for score, _ in domain.grade_all(problems, references)]
    else:
        scores = [domain.grade(p, r) for p, r in zip(problems, references, strict=True)]
    wrong = [p for p, score in zip(problems, scores, strict=True) if score < 1]
    if wrong:
        yield (
            f"{split}: {len(wrong)} of {len(problems)} references are not graded as right, such as "
            f"{wrong[0].reference[:60]!r} to {wrong[0].prompt[:60]!r}"
        )


def published(name: str) -> DataSetDomain:
    """Returns the domain over a published data set.

    Raises:
        UsageError: If there is none of that name.
    """
    base = name.partition(":")[0]
    known = [n for n in registry.names("domain") if n in data_sets()]
    if base not in known:
        raise unknown_name("domain over a data set", base, known)
    domain = make_domain(name)
    if not isinstance(domain, DataSetDomain):
        raise UsageError(f"The domain {name!r} is not over a published data set.")
    return domain


def samples(name: str, split: Split, count: int, skill: str = "") -> list[Problem]:
    """Returns a few problems of a split, from as many skills as there are.

    Raises:
        UsageError: If there is no such data set, or skill, or if it is not here.
    """
    from dgym.episode import first_of

    problems = list(published(name).problems(split))
    if skill:
        known = {p.skill for p in problems}
        if skill not in known:
            raise unknown_name(f"skill in {name}", skill, known)
        problems = [p for p in problems if p.skill == skill]
    return list(first_of(problems, count)) if problems else []


def write_images(problems: Iterable[Problem], folder: Path) -> dict[str, list[Path]]:
    """Writes the images of problems into a folder.

    Returns:
        Files by problem id.

    Raises:
        UsageError: If the folder cannot be written.
    """
    out: dict[str, list[Path]] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for problem in problems:
            for number, image in enumerate(problem.images, 1):
                kind = "png" if image.startswith(b"\x89PNG") else "jpg"
                file = folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', problem.id)}-{number}.{kind}"
                file.write_bytes(image)
                out.setdefault(problem.id, []).append(file)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}.") from error
    return out


def verified(found: Stored) -> bool | None:
    """Whether stored rows are those of published results; `None` where those are not known to dgym."""
    return found.digest == found.data.digest if found.data.digest else None
