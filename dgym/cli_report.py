"""The command `dgym report`: parsing and printing only."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the command to an app."""
    app.command()(report)


def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Results folder of a run, or its URL.")],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The file to write, or its URL; by default report.html in the run's folder, or here if that is a URL.",
        ),
    ] = None,
) -> None:
    """Write a run's report: one HTML file that opens offline."""
    import shlex

    from dgym.report import write
    from dgym.results import open as open_run
    from dgym.results.place import Place

    opened = open_run(run)
    place = Place.of(run)
    # A run elsewhere is only read.
    file = out or (place.shown("report.html") if place.local else "report.html")
    command = ["dgym", "report", run, *(["--out", out] if out is not None else [])]
    written = write(opened, file, command=shlex.join(command))
    typer.echo(f"{written} ({Place.of(written).size() / 1e6:.1f} MB)")
