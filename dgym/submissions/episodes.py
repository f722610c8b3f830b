"""Which episodes a submission consists of, and whether their rows agree with each other.

What this module does not know: bundles, and running anything.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pandas as pd

from dgym.errors import UsageError, unknown_name
from dgym.isolation.places import submission_of
from dgym.registry import ISOLATED
from dgym.results import Run
from dgym.specs import Entry, Identity, SuiteSpec, identify, load_suite, suite_files

EXACT: Final = 1e-9
"""How far a mean of stored scores may lie from the stored mean."""


@dataclass(frozen=True)
class Claim:
    """What a submission says of one episode.

    Attributes:
        digest: Of the episode.
        label: For people.
        status: `"ok"` or `"failed"`.
        base_test, best_test: Test scores before, and at the chosen iteration; `None` if it failed.
    """

    digest: str
    label: str
    status: str
    base_test: float | None
    best_test: float | None


def official(name: str) -> SuiteSpec:
    """Reads a suite that ships: only these take submissions.

    Raises:
        UsageError: If there is none of that name, or if its life has ended.
    """
    if name not in suite_files():
        raise unknown_name("suite that takes submissions", name, suite_files())
    suite = load_suite(name)
    today = datetime.now(UTC).date()
    if suite.until is not None and today > suite.until:
        raise UsageError(
            f"Version {suite.version} of the suite {name!r} took submissions until {suite.until}: use a newer dgym, "
            "whose version of it has other hidden problems."
        )
    return suite


def expected(suite: SuiteSpec, folder: Path) -> list[Identity]:
    """Returns all episodes that a teacher has in a suite, run in isolation.

    Raises:
        UsageError: If the teacher cannot be made.
    """
    entered = suite.entries[0].environments
    entry = Entry(teachers=(f"{ISOLATED}{folder}",), environments=entered, params=params(folder))
    alone = suite.model_copy(update={"entries": (entry,), "variations": ()})
    return list({i.digest: i for i in map(identify, alone.episodes())}.values())


def params(folder: Path) -> dict[str, Any]:
    """Returns the parameters with which a submitted teacher is run: it is granted the models that it declares."""
    endpoints = submission_of(folder).endpoints
    return {"grant": list(endpoints)} if endpoints else {}


def claims(rows: pd.DataFrame) -> list[Claim]:
    """Reads claims off the table `episodes`."""
    return [
        Claim(
            digest=row["digest"],
            label=f"{row['environment']} · {row['domain']} · seed {row['seed_variant']}",
            status=row["status"],
            base_test=_number(row["base_test"]),
            best_test=_number(row["best_test"]),
        )
        for row in rows.sort_values("digest").to_dict("records")
    ]


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def missing(wanted: Sequence[Identity], there: Sequence[str]) -> list[Identity]:
    """Returns the episodes that have no row."""
    have = set(there)
    return [identity for identity in wanted if identity.digest not in have]


def contradictions(run: Run, digests: Sequence[str]) -> list[str]:
    """Says where rows of a run contradict each other: scores that are not those of the stored answers.

    Args:
        run: The results.
        digests: Which episodes.

    Returns:
        A sentence for each contradiction.
    """
    chosen = set(digests)
    answers: dict[str, dict[tuple[int, str], list[float]]] = {}
    for row in run.arrow("attempts", ["digest", "iteration", "split", "score"]).to_pylist():
        answers.setdefault(row["digest"], {}).setdefault((row["iteration"], row["split"]), []).append(row["score"])
    steps: dict[str, list[dict[str, Any]]] = {}
    for row in run.arrow("steps", ["digest", "iteration", "feedback", "selection", "test", "best"]).to_pylist():
        steps.setdefault(row["digest"], []).append(row)
    written = Counter(run.arrow("examples", ["digest"]).column(0).to_pylist())
    wanted = ["digest", "status", "base_test", "best_test", "examples_submitted"]
    episodes = [row for row in run.arrow("episodes", wanted).to_pylist() if row["digest"] in chosen]
    found = []
    for row in sorted(episodes, key=lambda row: str(row["digest"])):
        if row["status"] == "ok":
            digest = row["digest"]
            wrong = _contradictions(row, steps.get(digest, []), answers.get(digest, {}), written[digest])
            found += [f"episode {digest[:8]}: {what}" for what in wrong]
    return found


def _contradictions(
    row: Mapping[str, Any],
    steps: Sequence[Mapping[str, Any]],
    answers: Mapping[tuple[int, str], Sequence[float]],
    written: int,
) -> Iterator[str]:
    said = {(s["iteration"], split): s[split] for s in steps for split in ("feedback", "selection", "test")}
    for place in sorted({place for place, score in said.items() if score is not None} | set(answers)):
        score, scores = said.get(place), answers.get(place)
        mean = sum(scores) / len(scores) if scores else None
        if not _alike(score, mean):
            number, split = place
            yield f"the {split} score of iteration {number} is said to be {score}, its answers give {mean}"
    best = [s["test"] for s in sorted(steps, key=lambda s: int(s["iteration"])) if s["best"]]
    if not best or not _alike(best[-1], row["best_test"]):
        yield "its best test score is not that of the iteration that was chosen"
    if not _alike(said.get((0, "test")), row["base_test"]):
        yield "its first test score is not that of the untrained student"
    if written < row["examples_submitted"]:
        yield f"{row['examples_submitted']} examples are said to be submitted, {written} are there"


def _alike(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and abs(one - other) <= EXACT


def teacher_rows(run: Run, digest: str) -> pd.DataFrame:
    """Returns the episodes of a run whose teacher has these files.

    Args:
        run: The results.
        digest: Of the teacher's files.
    """
    rows = run.episodes
    pinned = rows["pins"].map(lambda text: digest in _pin(text))
    return rows[pinned & rows["teacher"].str.startswith(ISOLATED)]


def _pin(text: str) -> str:
    pins: Mapping[str, Any] = json.loads(text)
    return str(pins.get("teacher", ""))


def suites_of(rows: pd.DataFrame) -> list[str]:
    """Names the suites that some episodes were run for.

    Raises:
        UsageError: If one of them was run for none.
    """
    names = sorted(set(rows["suite"]))
    if "" in names:
        raise UsageError("Some episodes were made by `dgym run`: submit those of `dgym bench --suite NAME` only.")
    return names
