"""Commands on results: leaderboards, comparisons, grading anew, merging, and what columns mean.

Parsing and printing only, as in `dgym.cli`, which takes them in with `register`; everything heavy is imported where it
is needed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from dgym.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from dgym.leaderboard import Leaderboard
    from dgym.results import Run

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Results folder of a run, or its URL.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


class ShowsByDefault(TyperGroup):
    """Takes `dgym leaderboard RUN` for `dgym leaderboard show RUN`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the command in where it was left out."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)


leaderboard_app = typer.Typer(
    cls=ShowsByDefault,
    help="Show a run's leaderboard (dgym leaderboard RUN), or publish those of some runs (dgym leaderboard build).",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def register(app: typer.Typer) -> None:
    """Adds the commands to the command line."""
    app.add_typer(leaderboard_app, name="leaderboard")
    for command in (compare, rescore, compact, columns):
        app.command()(command)


@leaderboard_app.command("show")
def show_leaderboard(
    run: RunArgument,
    out: Annotated[str | None, typer.Option(help="Write Markdown, CSV and JSON into this folder or URL.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a run's leaderboard; `show` may be left out."""
    from dgym import leaderboard as board

    built = _leaderboard(run)
    if out is not None:
        board.write(built, out)
    if as_json:
        typer.echo(built.json())
        return
    _console().print(built.rich())


@leaderboard_app.command("build")
def build_leaderboard(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Results folders of runs, or their URLs.")],
    out: Annotated[str, typer.Option(help="Folder or URL for the files.")] = "leaderboard",
    as_json: JsonOption = False,
) -> None:
    """Write the leaderboards of some runs as Markdown, CSV, JSON and one HTML page."""
    from dgym import leaderboard_page

    written = leaderboard_page.write({name: _leaderboard(run) for name, run in _named(runs).items()}, out)
    if as_json:
        typer.echo(json.dumps({"files": written}))
        return
    for path in written:
        typer.echo(path)


def compare(
    first: Annotated[str, typer.Argument(help="A teacher, as the leaderboard names it, or a run.")],
    second: Annotated[str, typer.Argument(help="The teacher or run to compare it with.")],
    run: Annotated[str, typer.Option("--run", help="The run of two teachers.")] = "runs/quick",
    as_json: JsonOption = False,
) -> None:
    """Compare two teachers of a run, or two runs: paired differences, first minus second, over all and cell by cell."""
    from dgym import results

    folders = [_is_run(name) for name in (first, second)]
    if all(folders):
        one, two = _open(first), _open(second)
        found = results.compare_runs(one, two)
        partial = list(dict.fromkeys([*one.partial, *two.partial]))
    else:
        if any(folders):
            raise UsageError(f"{first!r} and {second!r} are a run and a teacher: name two of a kind.")
        opened = _open(run)
        found = results.compare(opened, first, second)
        partial = list(opened.partial)
    if as_json:
        typer.echo(json.dumps({"rows": _plain(found), "partial": partial}, indent=1, allow_nan=False))
        return
    console = _console()
    what = f"{first} minus {second}"
    for track, rows in found.groupby("track", sort=False):
        console.print(_comparison(f"{what}, {track}", rows))
        console.print()
    console.print(
        "Points of test score gained at the chosen iteration, on shared seeds and problems; p-values are unadjusted.",
        style="dim",
        highlight=False,
    )
    for line in partial:
        console.print(line, style="yellow", highlight=False)


def rescore(
    run: RunArgument,
    out: Annotated[str | None, typer.Option(help="Write a run with the new grades into this folder or URL.")] = None,
    unsafe: Annotated[
        bool, typer.Option("--unsafe", help="Run untrusted programs without a sandbox, where there is none.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Grade the stored answers again with the graders of today, and say how many verdicts changed."""
    from dgym import rescoring

    if unsafe:
        os.environ["DGYM_SANDBOX"] = "unsafe"
    opened = _open(run)
    progress = _console(stderr=True)
    changes = rescoring.rescore(opened, out, lambda line: progress.print(line, style="dim", highlight=False))
    if as_json:
        from dataclasses import asdict

        rows = [asdict(change) | {"changed": change.changed} for change in changes]
        typer.echo(json.dumps({"domains": rows, "partial": opened.partial, "out": out}))
        return
    numbers = ("answers", "different", "changed", "better", "worse", "no problem", "episodes", "other choice")
    table = _table("domain", *numbers, "graded before", "now")
    for c in changes:
        counts = (c.attempts, c.answers, c.changed, c.better, c.worse, c.missing, c.episodes, c.chosen)
        table.add_row(c.domain, *(f"{count:,}" for count in counts), ", ".join(c.before), c.now or "–")
    console = _console()
    console.print(table)
    for change in changes:
        if change.error:
            console.print(f"{change.domain} was not graded again: {change.error}", style="yellow", highlight=False)
    if any(change.missing for change in changes):
        console.print("Answers to problems that a domain does not have any more keep their grade.", highlight=False)
    for line in opened.partial:
        console.print(line, style="yellow", highlight=False)
    if out is not None:
        console.print(f"The run with the new grades is in {out}: dgym compare {out} {run}", highlight=False)
    elif any(change.changed for change in changes):
        console.print("Nothing was written; --out FOLDER makes a run with the new grades.", highlight=False)


def compact(
    run: RunArgument,
    out: Annotated[str | None, typer.Option(help="Folder or URL for the files; RUN/compact by default.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Merge a run's part files into one Parquet file a table, as runs are published."""
    from dgym.results.compact import compact as merge
    from dgym.results.place import Place

    opened = _open(run)
    folder = Place.of(out or Place.of(run).shown("compact"))
    sizes = merge(opened, folder.name)
    if as_json:
        typer.echo(json.dumps({"folder": folder.name, "bytes": sizes, "partial": opened.partial}))
        return
    for table, size in sizes.items():
        typer.echo(f"{folder.shown(f'{table}.parquet')}: {size / 1e6:.2f} MB")
    for line in opened.partial:
        typer.echo(line)


def columns(
    table: Annotated[str, typer.Argument(help="episodes, steps, attempts, examples, calls, curves, ...; or all.")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what the columns of results mean: name, type, unit and meaning."""
    from dgym.results import columns as described
    from dgym.results import documentation

    if markdown:
        typer.echo(documentation.markdown(table or None), nl=False)
        return
    found = described(table or None)
    if as_json:
        typer.echo(json.dumps(_plain(found), indent=1))
        return
    console = _console()
    for name, rows in found.groupby("table", sort=False):
        shown = _table(str(name), "type", "unit", "meaning")
        for column in shown.columns[1:]:
            column.justify = "left"
        for row in _plain(rows):
            shown.add_row(*(row[key] for key in ("name", "type", "unit", "meaning")))
        console.print(shown)
        console.print()


# --------------------------------------------------------------------------------------------------------------


def _open(run: str) -> Run:
    from dgym.results import open as open_run

    return open_run(run)


def _leaderboard(name: str) -> Leaderboard:
    """Builds a run's leaderboard.

    Raises:
        UsageError: If there is nothing to rank.
    """
    from dgym import leaderboard as board

    run = _open(name)
    built = board.build(run)
    if not built.tables:
        why = " ".join(built.notes) or "It has no episode yet, or it is no run."
        raise UsageError(f"There is nothing to rank in {name!r}. {why}")
    return built


def _named(runs: list[str]) -> dict[str, str]:
    """Returns runs by the names of their folders, or as they were given where two are called alike.

    Raises:
        UsageError: If one is given twice.
    """
    if len(set(runs)) < len(runs):
        raise UsageError("A run was named twice.")
    names = [run.rstrip("/").rpartition("/")[2] or run for run in runs]
    return dict(zip(names if len(set(names)) == len(names) else runs, runs, strict=True))


def _is_run(name: str) -> bool:
    return "://" in name or Path(name).is_dir()


def _plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns the rows of a frame as plain values; what is missing is `None`."""
    rows: list[Any] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return rows


def _comparison(title: str, rows: pd.DataFrame) -> Any:
    """Renders the rows of a track."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from dgym.leaderboard import points, with_interval

    runs = bool((rows["first"].isna() | (rows["first"] == rows["second"])).all())
    names = ["teacher"] * runs + [
        "domain",
        "student",
        "first",
        "second",
        "difference [95 %]",
        "P(better)",
        "p",
        "seeds",
    ]
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
    for name in names:
        left = name in ("teacher", "domain", "student")
        table.add_column(name, justify="left" if left else "right", no_wrap=not left)
    for row in _plain(rows):
        interval = None if row["low"] is None else (row["low"], row["high"])
        texts = (
            *[row["first"] or "all together"] * runs,
            row["domain"] or "all",
            row["student"] or "all",
            points(row["first_gain"]),
            points(row["second_gain"]),
            with_interval(row["difference"], interval),
            f"{row['improvement']:.2f}",
            "–" if row["p_value"] is None else f"{row['p_value']:.3f}",
            str(row["seeds"]),
        )
        table.add_row(*map(Text, texts), style="bold" if row["domain"] is None else "")
    return table


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr)
    # A file or a pipe has no width of its own; tables should not be cut for it.
    return console if console.is_terminal else Console(stderr=stderr, width=120)


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
    return table
