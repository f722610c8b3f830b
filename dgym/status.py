"""How a run stands, from the files of its folder alone: while it goes on, when it ended, or long after.

`read` puts together what was planned (`planned.json`), what has a row (the table `episodes`), and the run's last sign
of life (`status.json`, see `dgym.heartbeat`). It asks no process and changes nothing, so that it works from any machine
that can read the folder. How that is shown is not its business.
"""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from os import PathLike
from typing import Any, Final, Literal

import psutil

from dgym import heartbeat, results
from dgym.heartbeat import Beat, Hosts, Running
from dgym.results.place import Place
from dgym.results.schema import PLANNED

LATEST: Final = 5
"""Failures that are told one by one."""

SILENCE: Final = 60.0
"""Seconds without a beat after which a run counts as dead: shared file systems show a file late, and clocks differ."""

_EARLY: Final = 0.02
"""Below this part of the work, what is left cannot be told from what was done."""

_COLUMNS: Final = (
    "digest",
    "status",
    "stopped",
    "error_boundary",
    "error",
    "teacher_label",
    "environment",
    "domain",
    "seed_variant",
    "variation",
    "teacher_calls",
    "cost",
    "started_at",
    "finished_at",
)

State = Literal["running", "ended", "stopped", "silent", "unknown", "empty"]


@dataclass(frozen=True)
class Failure:
    """An episode that failed, or that was ended early.

    Attributes:
        digest: Which one.
        label: The same for people.
        boundary: Where it failed; empty where it was ended early.
        reason: Why.
        finished_at: When, in ISO format.
    """

    digest: str
    label: str
    boundary: str
    reason: str
    finished_at: str


@dataclass(frozen=True)
class Status:
    """How a run stands.

    Attributes:
        run: Its folder or URL.
        state: `"running"`; `"ended"` when all episodes were tried; `"stopped"` when it says so itself; `"silent"` when
            its signs of life stopped without a word; `"unknown"` where there never were any and episodes are missing;
            `"empty"` where nothing has begun.
        planned: Episodes that it is to have; those that have a row where none were planned.
        finished: How many of them ended well.
        failed: How many failed, and are not being tried again.
        early: How many were ended early, by a limit on spending, and are not being tried again.
        to_come: The others.
        again: How many of those had failed or were ended early before, and are being tried again.
        others: Episodes in the folder that the last `dgym bench` there did not plan.
        failures: The latest failed and early ones, newest first.
        running: The episodes that go on.
        hosts: What the student hosts are doing; `None` where that is not known.
        per_hour: Episodes that end within an hour, finished or not; `None` where that cannot be told.
        measured: What `per_hour` is measured on, in words.
        seconds_left: Until the end; `None` where that cannot be told, or where nothing goes on.
        based_on: What `seconds_left` is based on, or why it cannot be told, in words.
        calls: Calls of language models, of the episodes that have a row.
        cost: Their cost in US dollars; `None` where a price is unknown.
        beat: The run's last sign of life.
        age: Seconds since then.
        notes: What else to know, in sentences.
    """

    run: str
    state: State
    planned: int = 0
    finished: int = 0
    failed: int = 0
    early: int = 0
    to_come: int = 0
    again: int = 0
    others: int = 0
    failures: tuple[Failure, ...] = ()
    running: tuple[Running, ...] = ()
    hosts: Hosts | None = None
    per_hour: float | None = None
    measured: str = ""
    seconds_left: float | None = None
    based_on: str = ""
    calls: int = 0
    cost: float | None = 0.0
    beat: Beat | None = None
    age: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def over(self) -> bool:
        """Whether nothing will change unless somebody runs it again."""
        return self.state in ("ended", "stopped", "silent")


def read(run: str | PathLike[str], now: datetime | None = None) -> Status:
    """Reads how a run stands.

    Args:
        run: Its folder or URL.
        now: The time; that of the clock by default.

    Raises:
        UsageError: If there is no such folder.
    """
    opened = results.open(run)
    now = now or datetime.now(UTC)
    beat = heartbeat.read(run)  # before the rows: an episode may then be told twice, and never be missed
    planned = _planned(run)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = opened.arrow("episodes", _COLUMNS).to_pylist()
    notes = tuple(f"{caught_one.message}." for caught_one in caught if caught_one.category is UserWarning)
    state = _state(beat, now, missing=bool(planned - {row["digest"] for row in rows}), rows=bool(rows))
    return _counted(Status(opened.name, state, beat=beat, notes=notes), rows, planned, now)


def _planned(run: str | PathLike[str]) -> frozenset[str]:
    try:
        return frozenset(json.loads(Place.of(run).read(PLANNED))["episodes"])
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()  # what is older or published has no such file


def _state(beat: Beat | None, now: datetime, *, missing: bool, rows: bool) -> State:
    if beat is None:
        return "unknown" if missing else "ended" if rows else "empty"
    if beat.state != "running":
        return beat.state
    age = _age(beat, now)
    if age > max(SILENCE, 6 * beat.every) or (age > 2 * beat.every and _is_gone(beat)):
        return "silent" if missing else "ended"
    return "running"


def _is_gone(beat: Beat) -> bool:
    """Whether a run's process was one of this machine and is there no more."""
    return beat.host == platform.node() and not psutil.pid_exists(beat.pid)


def _age(beat: Beat, now: datetime) -> float:
    return max(0.0, (now - datetime.fromisoformat(beat.updated_at)).total_seconds())


def _counted(status: Status, rows: Sequence[dict[str, Any]], planned: frozenset[str], now: datetime) -> Status:
    beat, going = status.beat, status.state == "running"
    mine = [row for row in rows if row["digest"] in planned] if planned else list(rows)
    began = datetime.fromisoformat(beat.started_at) if beat is not None else None
    finished = [row for row in mine if row["status"] == "ok" and row["stopped"] is None]
    unfinished = [row for row in mine if row["status"] != "ok" or row["stopped"] is not None]
    # What had failed before the run was started again is tried again.
    again = [row for row in unfinished if going and began is not None and row["finished_at"] < began]
    bad = sorted((row for row in unfinished if row not in again), key=lambda row: row["finished_at"], reverse=True)
    failed = [row for row in bad if row["status"] != "ok"]
    total = len(planned) or len(mine)
    ended = {row["digest"] for row in (*finished, *bad)}
    costs = [row["cost"] for row in mine if row["teacher_calls"]]
    counted = replace(
        status,
        planned=total,
        finished=len(finished),
        failed=len(failed),
        early=len(bad) - len(failed),
        to_come=total - len(finished) - len(bad),
        again=len(again),
        others=len(rows) - len(mine),
        failures=tuple(_failure(row) for row in bad[:LATEST]),
        # Its row is written a moment before the beat that says so.
        running=tuple(r for r in beat.running if r.digest not in ended) if beat is not None and going else (),
        hosts=beat.hosts if beat is not None and going else None,
        calls=sum(row["teacher_calls"] or 0 for row in mine),
        cost=None if None in costs else sum(costs),
        age=_age(beat, now) if beat is not None else None,
    )
    return _timed(counted, [*finished, *bad], began, now)


def _timed(status: Status, ended: Sequence[dict[str, Any]], began: datetime | None, now: datetime) -> Status:
    """Adds throughput and the time that is left."""
    beat = status.beat
    since = [row for row in ended if began is None or row["finished_at"] >= began]
    if since:
        start = began or min(row["started_at"] for row in since)
        end = now if status.state == "running" else max(row["finished_at"] for row in since)
        hours = (end - start).total_seconds() / 3600
        if hours > 0:
            count = f"{len(since)} episode{'s' * (len(since) != 1)}"
            where = "since it was started" if began is not None else "from the first start to the last end"
            status = replace(status, per_hour=len(since) / hours, measured=f"{count} {where}")
    if status.state != "running" or beat is None or began is None:
        return status
    if not status.to_come:
        return replace(status, seconds_left=0.0, based_on="all episodes have a row")
    if beat.share < _EARLY:
        return replace(status, based_on="too little is done to tell")
    worked = (datetime.fromisoformat(beat.updated_at) - began).total_seconds()
    left = worked * (1 - beat.share) / beat.share - _age(beat, now)
    based_on = (
        f"{beat.share:.0%} of the expected work done in {worked / 60:.0f} min, iterations of running episodes too"
    )
    return replace(status, seconds_left=max(0.0, left), based_on=based_on)


def _failure(row: dict[str, Any]) -> Failure:
    parts = [row["teacher_label"], row["environment"], row["domain"], f"seed {row['seed_variant']}", row["variation"]]
    reason = row["error"] if row["status"] != "ok" else f"ended early: {row['stopped']}"
    return Failure(
        row["digest"],
        " · ".join(part for part in parts if part),
        row["error_boundary"] or "",
        reason or "no reason is stored",
        row["finished_at"].isoformat(timespec="seconds"),
    )
