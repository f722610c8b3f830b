"""`dgym verify`: opens a bundle, checks it, and runs some of its episodes again in isolation.

A bundle is verified if its files are what its manifest says, its rows agree with each other, no episode of the suite is
left out, and the episodes that are run again come out the same: with equal digests and equal scores where the tier is
`strict`, and within the interval of the seeds where it is `seeded`.

What this module does not know: the command line, and where verdicts are kept.
"""

from __future__ import annotations

import math
import random
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from dgym.bench import LocalBackend, Progress, bench
from dgym.errors import InfrastructureError, UsageError
from dgym.isolation.places import digest_of_folder, install_command, packages_of, requirements_of, submission_of
from dgym.leaderboard import build
from dgym.results import Run
from dgym.results import open as open_run
from dgym.results.statistics import LEVEL, t_quantile
from dgym.specs import Identity
from dgym.submissions.bundle import Bundle, unpack
from dgym.submissions.card import card_of
from dgym.submissions.episodes import claims, contradictions, expected, missing, official

Outcome = Literal["verified", "differs", "disqualified"]
"""*differs*: an episode came out otherwise, which may have an honest reason; *disqualified*: what the bundle says of
itself is not so."""


@dataclass(frozen=True)
class Again:
    """One episode that was run again.

    Attributes:
        digest: As the bundle has it.
        label: For people.
        same: Whether it came out the same.
        claimed, found: Test score at the chosen iteration, as claimed and as found; `None` for a failed one.
        why: What differs; empty if nothing does.
    """

    digest: str
    label: str
    same: bool
    claimed: float | None
    found: float | None
    why: str = ""


@dataclass(frozen=True)
class Verdict:
    """What came of a verification.

    Attributes:
        outcome: The verdict.
        bundle: Digest of the bundle.
        card: What it declares.
        suite: Name and version of the suite.
        teacher: Digest of the teacher's files.
        reasons: Why it is not verified.
        again: The episodes that were run again.
        episodes: How many there are.
        failed: How many of them failed, as the bundle says.
        seed: By which episodes were drawn.
    """

    outcome: Outcome
    bundle: str
    card: dict[str, object]
    suite: tuple[str, int]
    teacher: str
    reasons: tuple[str, ...] = ()
    again: tuple[Again, ...] = ()
    episodes: int = 0
    failed: int = 0
    seed: int = 0


Note = Callable[[str], object]
"""Called with what is going on, in words."""


@dataclass
class _Findings:
    reasons: list[str] = field(default_factory=list)
    outcome: Outcome = "verified"

    def add(self, outcome: Outcome, why: str) -> None:
        self.reasons.append(why)
        if self.outcome != "disqualified":
            self.outcome = outcome


def verify(path: Path, folder: Path, *, sample: int = 3, seed: int = 0, note: Note = str) -> Verdict:
    """Verifies a bundle.

    Args:
        path: The bundle.
        folder: An empty folder to unpack and run in.
        sample: How many episodes are run again; 0 for all.
        seed: Draws them. It should not be known to who submits.
        note: Told what is going on.

    Returns:
        The verdict. What is wrong with the content of a bundle is a verdict, not an error.

    Raises:
        UsageError: If it is no bundle, or cannot be run on this machine.
        InfrastructureError: If its packages cannot be installed.
    """
    bundle = unpack(path, folder / "bundle")
    suite = official(str(bundle.manifest["suite"].get("name")))
    found = _Findings()
    if bundle.manifest["suite"].get("version") != suite.version:
        theirs = bundle.manifest["suite"].get("version")
        raise UsageError(
            f"The bundle is of version {theirs!r} of the suite {suite.name!r}; this dgym has version {suite.version}. "
            "Verify it with the dgym that it was made with."
        )
    note("checking files and rows")
    digest = digest_of_folder(bundle.teacher)
    card = card_of(bundle.teacher)
    if digest != bundle.manifest["teacher"] or card.to_json() != dict(bundle.card):
        found.add("disqualified", "the teacher's files are not those of the manifest")
    _install(bundle.teacher, note)
    wanted = expected(suite, bundle.teacher)
    run = open_run(bundle.results)
    rows = run.episodes
    _check_rows(found, bundle, run, wanted)
    chosen = _drawn(wanted, rows, sample, seed)
    note(f"running {len(chosen)} of {len(wanted)} episodes again, in isolation")
    again = [] if found.outcome == "disqualified" else _rerun(chosen, run, folder / "again", suite.name, note)
    for one in again:
        if not one.same:
            found.add("differs", f"{one.label}: {one.why}")
    return Verdict(
        outcome=found.outcome,
        bundle=bundle.digest,
        card=card.to_json(),
        suite=(suite.name, suite.version),
        teacher=digest,
        reasons=tuple(found.reasons),
        again=tuple(again),
        episodes=len(wanted),
        failed=int((rows["status"] != "ok").sum()),
        seed=seed,
    )


def gains_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns a verified bundle's gains by track: points, with the interval where there are seeds enough.

    Args:
        folder: As given to `verify`.
    """
    board = build(open_run(folder / "bundle" / "results"))
    return {
        table.track: {"gain": row.gain.value, "interval": list(row.gain.interval) if row.gain.interval else None}
        for table in board.tables
        for row in table.rows
    }


def _check_rows(found: _Findings, bundle: Bundle, run: Run, wanted: Sequence[Identity]) -> None:
    rows = run.episodes
    absent = missing(wanted, list(rows["digest"]))
    if absent:
        found.add("disqualified", f"{len(absent)} of {len(wanted)} episodes are left out, such as {absent[0].label}")
    if strange := set(rows["digest"]) - {i.digest for i in wanted}:
        found.add(
            "disqualified", f"{len(strange)} episodes are not this teacher's in this suite, such as {min(strange)[:8]}"
        )
    said = [vars(claim) for claim in claims(rows)]
    if said != bundle.manifest["episodes"]:
        found.add("disqualified", "the scores in the manifest are not those in the tables")
    for wrong in contradictions(run, list(rows["digest"])):
        found.add("disqualified", wrong)


def _drawn(wanted: Sequence[Identity], rows: pd.DataFrame, sample: int, seed: int) -> list[Identity]:
    """Draws episodes to run again: from as many domains and environments as there are draws."""
    known = [identity for identity in wanted if identity.digest in set(rows["digest"])]
    rng = random.Random(seed)
    rng.shuffle(known)
    if not sample:
        return known
    places: dict[tuple[str, str], list[Identity]] = {}
    for identity in known:
        places.setdefault((identity.spec.domain, identity.spec.environment), []).append(identity)
    order = [places[key] for key in rng.sample(sorted(places), len(places))]
    turns = [group[turn] for turn in range(max(map(len, order), default=0)) for group in order if turn < len(group)]
    return turns[:sample]


def _rerun(chosen: Sequence[Identity], run: Run, folder: Path, suite: str, note: Note) -> list[Again]:
    if not chosen:
        return []

    def tell(progress: Progress) -> None:
        if progress.status != "running":
            note(f"{progress.digest[:8]}: {progress.status}")

    bench([identity.spec for identity in chosen], folder, suite=suite, backend=LocalBackend(), report=tell)
    ours, theirs = open_run(folder), run
    return [_compared(identity, ours, theirs) for identity in chosen]


def _compared(identity: Identity, ours: Run, theirs: Run) -> Again:
    here = [("digest", "==", identity.digest)]
    (mine,), (claimed,) = (run.arrow("episodes", where=here).to_pylist() for run in (ours, theirs))
    label = f"{identity.spec.environment} · {identity.spec.domain} · seed {identity.spec.seeds.variant}"
    scores = [None if row["status"] != "ok" else float(row["best_test"]) for row in (claimed, mine)]

    def outcome(why: str) -> Again:
        return Again(identity.digest, label, not why, scores[0], scores[1], why)

    if claimed["status"] != mine["status"]:
        return outcome(
            f"it was said to end with {claimed['status']!r}, and ended with {mine['status']!r}: {mine['error']}"
        )
    if mine["status"] != "ok":
        return outcome("")
    if identity.spec.tier == "strict":
        for name in (
            "base_test",
            "best_test",
            "best_selection",
            "best_iteration",
            "examples_submitted",
            "examples_kept",
        ):
            if mine[name] != claimed[name]:
                return outcome(f"{name} was said to be {claimed[name]}, and came out as {mine[name]}")
        for table, columns in (
            ("examples", ["prompt", "response", "kept", "reason"]),
            ("attempts", ["problem", "response"]),
        ):
            where = [("digest", "==", identity.digest)]
            one, other = (
                sorted(map(tuple, run.frame(table, columns, where).to_numpy().tolist()), key=repr)
                for run in (ours, theirs)
            )
            if one != other:
                return outcome(f"the rows of the table {table} came out otherwise")
        return outcome("")
    assert scores[0] is not None
    assert scores[1] is not None
    width = _of_seeds(identity, theirs)
    if abs(scores[0] - scores[1]) > width:
        return outcome(
            f"the test score was said to be {scores[0]:.4f}, and came out as {scores[1]:.4f}, more than {width:.4f} off"
        )
    return outcome("")


def _of_seeds(identity: Identity, run: Run) -> float:
    """Half the width in which a single episode lies: by the spread over seeds of its cell, and that of its problems."""
    rows = run.episodes
    cell = rows[
        (rows["domain"] == identity.spec.domain)
        & (rows["environment"] == identity.spec.environment)
        & (rows["student"] == identity.spec.student)
        & (rows["status"] == "ok")
    ]
    gains = (cell["best_test"] - cell["base_test"]).astype(float)
    where = [("digest", "==", identity.digest), ("split", "==", "test"), ("iteration", "==", 0)]
    problems = max(1, run.arrow("attempts", ["digest"], where).num_rows)
    (score,) = run.arrow("episodes", ["best_test"], [("digest", "==", identity.digest)]).column(0).to_pylist()
    # Two runs of one episode differ by their own noise; the problems are the same.
    noise = 2 * max(score * (1 - score), 0.25 / problems) / problems
    if len(gains) > 2:
        noise += 2 * float(gains.to_numpy(dtype=float).var(ddof=1))
    return t_quantile((1 + LEVEL) / 2, max(1, len(gains) - 1) if len(gains) > 2 else math.inf) * math.sqrt(noise)


def _install(folder: Path, note: Note) -> None:
    requirements = requirements_of(submission_of(folder))
    if not requirements or packages_of(requirements).is_dir():
        return
    note(f"installing {', '.join(requirements)}")
    done = subprocess.run(install_command(requirements), capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise InfrastructureError(f"The teacher's packages cannot be installed: {said[-1] if said else 'pip failed'}.")
