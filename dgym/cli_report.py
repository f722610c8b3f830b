"""The command `dgym report`: parsing and printing only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the command to an app."""
    app.command()(report)


def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Results folder of a run, or its URL.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file to write; report.html in the run's folder by default.")
    ] = None,
) -> None:
    """Write a run's report: one HTML file that opens offline."""
    import shlex

    from dgym.report import write
    from dgym.results import open as open_run

    opened = open_run(run)
    # A run elsewhere is only read.
    place = out or (Path(run) / "report.html" if "://" not in run else Path("report.html"))
    command = ["dgym", "report", run, *(["--out", str(out)] if out is not None else [])]
    written = write(opened, place, command=shlex.join(command))
    typer.echo(f"{written} ({written.stat().st_size / 1e6:.1f} MB)")
