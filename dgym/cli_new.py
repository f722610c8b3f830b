"""`dgym new`: a package to begin with. Parsing and printing only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dgym.errors import refuse_url


def register(app: typer.Typer) -> None:
    """Adds the command group `new` to an app."""
    group = typer.Typer(
        help="Write a package of your own to begin with: a teacher.",
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @group.callback()
    def _group() -> None:
        # A group of one command would be taken for the command itself.
        pass

    group.command("teacher")(teacher)
    app.add_typer(group, name="new")


def teacher(
    name: Annotated[str, typer.Argument(help="Of the package, and of the teacher that it registers.")],
    out: Annotated[
        Path | None, typer.Option(help="New folder; one of that name by default.", callback=refuse_url)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Write a package with a small teacher that works, its tests, and what a submission declares."""
    from dgym.new import new_teacher

    made = new_teacher(name, out)
    if as_json:
        typer.echo(json.dumps({"folder": str(made.folder), "files": [str(f) for f in made.files]}))
        return
    typer.echo(f"{made.folder} holds the teacher {made.name!r}: {', '.join(str(f) for f in made.files)}")
    for step in made.steps:
        typer.echo(f"  {step}")
