"""`dgym doctor` and `dgym status`: what this machine has, and how a run stands. Parsing and printing only."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from rich.console import Console, Group

    from dgym.status import Status

_COLOURS: Final = {"green": "green", "yellow": "yellow", "red": "bold red"}

_STATES: Final = {
    "running": "goes on",
    "ended": "has ended",
    "stopped": "was stopped",
    "silent": "stopped without a word",
    "unknown": "is not at its end",
    "empty": "has not begun",
}

_PACE: Final = 3.0
"""Seconds between two looks of `--watch`, and at least ten times what a look takes."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def register(app: typer.Typer) -> None:
    """Adds the commands `doctor` and `status` to an app."""
    app.command("doctor")(doctor)
    app.command("status")(status)


def doctor(
    address: Annotated[
        str | None, typer.Option(help="Also look at a Ray cluster: host:port, or auto; $RAY_ADDRESS by default.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look at versions, machine, sandbox, Ray, endpoints, data sets and models; say what to do about what is red."""
    from dgym.doctor import examine, healthy

    findings = examine(address)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=1, ensure_ascii=False))
    else:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2, 0, 0))
        for finding in findings:
            colour = _COLOURS[finding.level]
            text = Text(finding.found)
            if finding.advice:
                text.append(f"\n→ {finding.advice}", style="dim")
            table.add_row(Text(finding.level, style=colour), finding.area, text)
        _console().print(table)
    if not healthy(findings):
        raise typer.Exit(1)


def status(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Results folder of a run, or its URL.")],
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Look again every few seconds until the run ends.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say how a run stands, from its folder alone: while it goes on, from any machine that can read that."""
    from dgym.status import read

    if not watch:
        found = read(run)
        if as_json:
            typer.echo(_json(found))
        else:
            _console().print(render(found), highlight=False)
        return
    if as_json:
        for found in _looks(run):
            typer.echo(_json(found, indent=None))
        return
    console = _console()
    if not console.is_terminal:
        for found in _looks(run):
            console.print(render(found), highlight=False)
        return
    from rich.live import Live

    with Live(console=console, auto_refresh=False) as live:
        for found in _looks(run):
            live.update(render(found), refresh=True)


def _looks(run: str) -> Iterator[Status]:
    """Reads a run again and again, until it has ended."""
    from dgym.status import read

    while True:
        start = time.monotonic()
        found = read(run)
        yield found
        if found.over:
            return
        time.sleep(max(_PACE, 10 * (time.monotonic() - start)))


def render(found: Status) -> Group:
    """Draws how a run stands."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    from dgym.display import bar

    parts: list[Any] = [Text.assemble((found.run, "bold"), f" {_STATES[found.state]}{_why(found)}")]
    if found.planned:
        grid = Table.grid()  # a bar alone would not end its line
        grid.add_row(ProgressBar(total=found.planned, completed=found.planned - found.to_come, width=60))
        parts += [grid, *(Text(line) for line in _lines(found))]
    if found.running:
        table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
        for name in ("running", "iteration", "selection"):
            table.add_column(name, justify="right" if name == "iteration" else "left")
        for r in found.running:
            table.add_row(Text(r.label), f"{r.iteration}/{r.iterations}", f"{bar(r.score)} {r.score:6.1%}")
        parts.append(table)
    if found.failures:
        parts.append(Text("latest failures" if found.failed + found.early > len(found.failures) else "failures", "dim"))
        for failure in found.failures:
            where = f" ({failure.boundary})" if failure.boundary else ""
            text = Text(f"{_clock(failure.finished_at)} {failure.label}{where}: {failure.reason}", "red")
            parts.append(Padding(text, (0, 0, 0, 2)))
    return Group(*parts, *(Text(note, "yellow") for note in found.notes))


def _why(found: Status) -> str:
    beat = found.beat
    if beat is None:
        return ": its signs of life are not in its folder" if found.state == "unknown" else ""
    where = f"process {beat.pid} on {beat.host} ({beat.backend})"
    if found.state == "running":
        return f": {where}, since {_clock(beat.started_at)}; heard of {found.age or 0:.0f} s ago"
    if found.state == "silent":
        return f": {where} was last heard of at {_clock(beat.updated_at)}. The same command as before continues it."
    if found.state == "stopped":
        return f" at {_clock(beat.updated_at)}: {beat.reason.rstrip('.')}. The same command as before continues it."
    return f" at {_clock(beat.updated_at)}"


def _lines(found: Status) -> Iterator[str]:
    from dgym.display import duration

    counts = [f"{found.finished} of {found.planned} episodes finished"]
    counts += [f"{found.failed} failed"] if found.failed else []
    counts += [f"{found.early} ended early"] if found.early else []
    if found.to_come:
        again = f" ({found.again} of them tried again)" if found.again else ""
        counts.append(f"{found.to_come} to come{again}")
    yield ", ".join(counts) + (f"; {found.others} more that are not of the latest suite" if found.others else "")
    if found.per_hour is not None:
        yield f"{found.per_hour:,.1f} episodes an hour: {found.measured}"
    if found.state == "running" and found.to_come:
        left = "" if found.seconds_left is None else f" about {duration(found.seconds_left)}"
        yield f"time left:{left or ' unknown'} ({found.based_on})"
    if found.calls:
        cost = "price unknown" if found.cost is None else f"${found.cost:.2f}"
        going = ", without the running episodes" if found.state == "running" else ""
        yield f"language models: {found.calls:,} calls, {cost}{going}"
    hosts = found.hosts
    if hosts is not None and hosts.count:
        idle = "".join(f", {count} idle: {why}" for why, count in hosts.idle.items())
        yield f"{hosts.count} student host{'s' * (hosts.count != 1)}: {hosts.busy} busy{idle}"
    if hosts is not None and hosts.gpus:
        rest = f"; the others: {hosts.unheld}" if hosts.unheld else ""
        yield f"GPUs: {hosts.gpus_held:g} of {hosts.gpus:g} held by student hosts{rest}"


def _clock(moment: str) -> str:
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _json(found: Status, indent: int | None = 1) -> str:
    return json.dumps(asdict(found) | {"over": found.over}, indent=indent, ensure_ascii=False)


def _console() -> Console:
    from rich.console import Console

    console = Console()
    # A file or a pipe has no width of its own; lines should not be cut for it.
    return console if console.is_terminal else Console(width=160)
