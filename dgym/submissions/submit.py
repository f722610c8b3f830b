"""`dgym submit`: checks a teacher and its results, and packs both.

What this module does not know: the command line, and verification.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from dgym import __version__
from dgym.checks import Finding, check_teacher, passed
from dgym.errors import UsageError
from dgym.isolation.places import digest_of_folder, teacher_files
from dgym.registry import ISOLATED
from dgym.results import Run
from dgym.results import open as open_run
from dgym.results.compact import write_table
from dgym.results.schema import TABLES
from dgym.submissions.bundle import SUFFIX, pack
from dgym.submissions.card import Card, card_of
from dgym.submissions.episodes import (
    claims,
    contradictions,
    expected,
    missing,
    official,
    params,
    suites_of,
    teacher_rows,
)
from dgym.teachers import make_teacher


@dataclass(frozen=True)
class Packed:
    """A bundle that was written.

    Attributes:
        path: The file.
        digest: Of the file.
        card: What the teacher declares.
        suite: Name of the suite.
        episodes: How many there are.
        failed: How many of them failed.
    """

    path: Path
    digest: str
    card: Card
    suite: str
    episodes: int
    failed: int


def checked(folder: Path, domain: str = "fake") -> list[Finding]:
    """Runs the public conformance checks on a teacher in isolation.

    Raises:
        UsageError: If it cannot be made.
    """
    name, given = f"{ISOLATED}{folder}", params(folder)
    return check_teacher(make_teacher(name, given), domain, lambda: make_teacher(name, given))


def submit(folder: Path, run: str, out: Path) -> Packed:
    """Checks a teacher's folder and its results, and packs both into a bundle.

    Args:
        folder: The teacher's folder, with a `pyproject.toml`.
        run: Results of `dgym bench --suite NAME --teacher isolated@FOLDER`.
        out: Folder for the bundle.

    Raises:
        UsageError: If something is missing, wrong or contradictory; the message says what to do.
    """
    card = card_of(folder)
    findings = checked(folder)
    if not passed(findings):
        said = "; ".join(f"{f.name}: {f.detail}" for f in findings if not (f.ok or f.warning))
        raise UsageError(f"The teacher does not pass `dgym check`: {said[:800]}.")
    digest = digest_of_folder(folder)
    bench = f"dgym bench --suite NAME --teacher {shlex.quote(f'{ISOLATED}{folder}')} --out {shlex.quote(run)}"
    try:
        found = open_run(run)
        rows = teacher_rows(found, digest)
    except UsageError as error:
        raise UsageError(f"{error} Make it: {bench}") from error
    if rows.empty:
        raise UsageError(f"{run!r} has no episode of this teacher as its files are now. Run: {bench}")
    names = suites_of(rows)
    if len(names) > 1:
        raise UsageError(
            f"{run!r} has this teacher's episodes of several suites: {', '.join(names)}. Submit one at a time."
        )
    suite = official(names[0])
    wanted = expected(suite, folder)
    absent = missing(wanted, list(rows["digest"]))
    if absent:
        raise UsageError(
            f"{len(absent)} of {len(wanted)} episodes of the suite {suite.name!r} have no result yet, such as "
            f"{absent[0].label}. Go on with: {bench.replace('NAME', suite.name)}"
        )
    rows = rows[rows["digest"].isin({i.digest for i in wanted})]
    if wrong := contradictions(found, list(rows["digest"])):
        raise UsageError(f"The results contradict themselves: {wrong[0]}.")
    with tempfile.TemporaryDirectory(prefix="dgym-submit-") as temporary:
        tables = _tables(found, list(rows["digest"]), Path(temporary))
        files = {f"teacher/{path.relative_to(folder).as_posix()}": path for path in teacher_files(folder)}
        files |= {f"results/{path.name}": path for path in tables}
        manifest = {
            "card": card.to_json(),
            "teacher": digest,
            "dgym": __version__,
            "suite": {"name": suite.name, "version": suite.version},
            "episodes": [vars(claim) for claim in claims(rows)],
        }
        path = out / f"{card.name}-{card.version}-{suite.name}{SUFFIX}"
        sealed = pack(path, files, manifest)
    failed = int((rows["status"] != "ok").sum())
    return Packed(path, sealed, card, suite.name, len(rows), failed)


def _tables(run: Run, digests: Sequence[str], folder: Path) -> list[Path]:
    """Writes the rows of some episodes, one file a table."""
    out = []
    for name in TABLES:
        rows = run.arrow(name, where=pc.field("digest").isin(list(digests)), encoded=True)
        write_table(name, [rows], folder)
        out.append(folder / f"{name}.parquet")
    return out
