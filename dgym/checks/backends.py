"""Checks of a backend: a few episodes on fakes give the rows that they give one after the other in this process."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dgym.checks.findings import Finding, Report, require
from dgym.core import Budget, Rules

if TYPE_CHECKING:
    import pandas as pd

    from dgym.bench import Backend, Progress
    from dgym.specs import EpisodeSpec, Identity

_BROKEN: Final = """
class Broken:
    def plan(self, brief, state):
        raise RuntimeError("as it should")

    def generate(self, brief, item):
        return []
"""

_KEYS: Final = {
    "episodes": ("status", "error_boundary", "spec", "pins", "iterations_run", "base_test", "best_test", "last_test"),
    "examples": ("iteration", "item", "prompt", "response", "kept", "reason"),
    "attempts": ("iteration", "split", "problem", "response", "score"),
}
"""What has to be equal, by table: all but times and versions."""


def check_backend(backend: Backend) -> list[Finding]:
    """Checks a backend, by running episodes on it."""
    from dgym.bench import Job, LocalBackend, Usage, bench
    from dgym.specs import identify

    report = Report()
    with report("it has run(job, report)"):
        require(callable(getattr(backend, "run", None)), f"{type(backend).__name__} has not; see dgym.bench.Backend")
    if not report.sound:
        return report.findings
    with tempfile.TemporaryDirectory(prefix="dgym-check-") as folder:
        specs = _specs(Path(folder))
        here, there = Path(folder, "here"), Path(folder, "there")
        for place in (here, there):
            place.mkdir()
        bench(specs, here, backend=LocalBackend())
        identities = [identify(spec) for spec in specs]
        told: list[Progress] = []
        with report("it runs all episodes, and says how its hosts were used"):
            usage = backend.run(Job(identities, there, "check"), told.append)
            require(isinstance(usage, Usage), f"it returns a {type(usage).__name__}")
            require(usage.hosts >= 1, "no host was used")
        if not report.sound:
            return report.findings
        with report("it reports the end of every episode once, and the iterations before"):
            _told(told, identities)
        with report("an episode that fails is told as its teacher's fault, and the others go on"):
            ends = {p.digest: p for p in told if p.status != "running"}
            bad = ends[identities[-1].digest]
            require((bad.status, bad.boundary) == ("failed", "teacher"), f"it ends {bad.status!r}, {bad.boundary!r}")
            require("as it should" in bad.message, f"the message is {bad.message!r}")
            good = [ends[i.digest].status for i in identities[:-1]]
            require(set(good) == {"ok"}, f"the others end {good}")
        for table, columns in _KEYS.items():
            with report(f"its rows are those of episodes in this process: {table}"):
                expected, found = _rows(here, table, columns), _rows(there, table, columns)
                require(len(expected) > 0, "there are none to compare with")
                require(found.equals(expected), f"{len(found)} rows differ from {len(expected)}")
        with report("what it has finished is not run again"):
            summary = bench(specs, there, backend=LocalBackend())
            require(summary.skipped == len(specs) - 1, f"{summary.skipped} of {len(specs) - 1} were finished")
    return report.findings


def _specs(folder: Path) -> list[EpisodeSpec]:
    from dgym.specs import EpisodeSpec

    file = folder / "broken.py"
    file.write_text(_BROKEN)
    rules = Rules(iterations=2, budget=Budget(12), share=0.2)
    entries = [("weakness", "open-ended"), ("random", "skill-list"), ("bandit", "skill-tree")]
    entries.append((f"{file}:Broken", "open-ended"))
    return [EpisodeSpec(teacher=t, environment=e, domain="fake", student="fake:a", rules=rules) for t, e in entries]


def _told(told: list[Progress], identities: list[Identity]) -> None:
    ends = Counter(p.digest for p in told if p.status != "running")
    require(ends == {i.digest: 1 for i in identities}, f"{sum(ends.values())} ends of {len(identities)} episodes")
    for identity in identities[:-1]:
        seen = [p.iteration for p in told if p.digest == identity.digest]
        # The end may be told with the last iteration, or after it.
        require(list(dict.fromkeys(seen)) == [0, 1, 2], f"the iterations of one are told as {seen}")


def _rows(folder: Path, table: str, columns: tuple[str, ...]) -> pd.DataFrame:
    from dgym import results

    run = results.open(folder)
    found: pd.DataFrame = getattr(run, table)
    kept = ["digest", *columns]
    return found[kept].sort_values(kept, ignore_index=True)
