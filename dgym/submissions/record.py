"""The record of official runs: every verification, in order, none withdrawn.

One JSON object a line. Each holds the digest of the line before it, so that a line that was changed, taken out or moved
shows. How often a team has tried is counted from it and shown.

What this module does not know: how a verdict came about.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from dgym.errors import UsageError
from dgym.leaderboard import with_interval
from dgym.submissions.verify import Verdict

FILE: Final = "record.jsonl"
TABLE: Final = "README.md"

START: Final = "0" * 32
"""What stands for the line before the first."""


def read(folder: Path) -> list[dict[str, Any]]:
    """Reads a record and checks that nothing in it was changed.

    Raises:
        UsageError: If a line cannot be read, or does not follow from the line before it.
    """
    path = folder / FILE
    if not path.exists():
        return []
    entries: list[dict[str, Any]] = []
    previous = START
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            follows = entry["previous"] == previous and entry["number"] == number
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"Line {number} of {str(path)!r} cannot be read.") from error
        if not follows:
            raise UsageError(
                f"Line {number} of {str(path)!r} does not follow from the line before: the record was changed."
            )
        entries.append(entry)
        previous = _digest(line)
    return entries


def continues(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a record begins with another, as it must when lines are only ever added."""
    return list(after[: len(before)]) == list(before)


def add(folder: Path, verdict: Verdict, gains: Mapping[str, Any], when: datetime | None = None) -> dict[str, Any]:
    """Adds a verdict to a record, and writes its table anew.

    Args:
        folder: Of the record.
        verdict: What came of a verification.
        gains: By track, `{"gain": points, "interval": [low, high] or None}`.
        when: Now by default.

    Raises:
        UsageError: If the record was changed, or cannot be written.
    """
    entries = read(folder)
    lines = (folder / FILE).read_text(encoding="utf-8").splitlines() if entries else []
    entry = {
        "number": len(entries) + 1,
        "previous": _digest(lines[-1]) if lines else START,
        "at": (when or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "bundle": verdict.bundle,
        "teacher": verdict.teacher,
        "card": verdict.card,
        "suite": list(verdict.suite),
        "outcome": verdict.outcome,
        "reasons": list(verdict.reasons)[:20],
        "gains": dict(gains),
        "episodes": verdict.episodes,
        "failed": verdict.failed,
        "again": [vars(one) for one in verdict.again],
        "seed": verdict.seed,
    }
    line = json.dumps(entry, sort_keys=True, ensure_ascii=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{FILE}.part"
        part.write_text("".join(f"{one}\n" for one in (*lines, line)), encoding="utf-8")
        part.replace(folder / FILE)
        (folder / TABLE).write_text(table([*entries, entry]), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"The record in {str(folder)!r} cannot be written: {error.strerror}.") from error
    return entry


def table(entries: Sequence[Mapping[str, Any]]) -> str:
    """Renders a record as Markdown: every official run, the latest first, with the number of the team's attempts."""
    lines = [
        "# Official runs",
        "",
        "Every verification, the latest first; none is withdrawn. *Attempt* counts what a team submitted to a suite.",
        "",
        "| date | team | teacher | version | suite | attempt | gain [95 %] | outcome | run again |",
        "|:--|:--|:--|:--|:--|--:|--:|:--|--:|",
    ]
    tries: dict[tuple[str, str], list[str]] = {}
    rows = []
    for entry in entries:
        card, suite = entry["card"], f"{entry['suite'][0]} {entry['suite'][1]}"
        tried = tries.setdefault((card["team"], entry["suite"][0]), [])
        # The same bundle again is no further attempt.
        tried += [entry["bundle"]] * (entry["bundle"] not in tried)
        same = sum(one["same"] for one in entry["again"])
        why = f": {entry['reasons'][0]}" if entry["reasons"] else ""
        cells = [
            entry["at"][:10], card["team"], card["name"], card["version"], suite,
            str(tried.index(entry["bundle"]) + 1), _gain(entry["gains"]), f"{entry['outcome']}{why}",
            f"{same} of {len(entry['again'])} the same",
        ]  # fmt: skip
        rows.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, *rows[::-1], ""])


def _gain(gains: Mapping[str, Any]) -> str:
    if not gains:
        return "–"
    best = gains.get("overall") or next(iter(gains.values()))
    interval = best.get("interval")
    return with_interval(best["gain"], tuple(interval) if interval else None)


def _digest(line: str) -> str:
    return hashlib.blake2b(line.encode(), digest_size=16).hexdigest()
