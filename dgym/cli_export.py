"""`dgym export`: a run in the forms of others. Parsing and printing only."""

from __future__ import annotations

import json
from typing import Annotated

import typer

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Results folder of a run, or its URL.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def register(app: typer.Typer) -> None:
    """Adds the command group `export` to an app."""
    group = typer.Typer(
        help="Write a run in the forms of others: a Hugging Face data set, records of Every Eval Ever.",
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    group.command("dataset")(dataset)
    group.command("every-eval-ever")(every_eval_ever)
    app.add_typer(group, name="export")


def dataset(
    run: RunArgument,
    out: Annotated[str, typer.Option(help="New folder for the data set, or its URL.")],
    teacher: Annotated[
        list[str] | None, typer.Option("--teacher", "-t", help="Only this teacher's data (repeatable).")
    ] = None,
    domain: Annotated[list[str] | None, typer.Option("--domain", "-d", help="Only this domain's (repeatable).")] = None,
    environment: Annotated[
        list[str] | None, typer.Option("--environment", "-e", help="Only this environment's (repeatable).")
    ] = None,
    episode: Annotated[
        list[str] | None, typer.Option(help="Only the episodes whose digest begins so (repeatable).")
    ] = None,
    licence: Annotated[
        str, typer.Option("--license", help="Identifier as the Hugging Face hub knows it, such as apache-2.0.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Write the kept examples as a Hugging Face data set with a card."""
    from dgym.exports.datasets import Choice, export
    from dgym.results import open as open_run
    from dgym.results.place import Place

    choice = Choice(tuple(teacher or ()), tuple(domain or ()), tuple(environment or ()), tuple(episode or ()))
    done = export(open_run(run), out, choice, licence=licence)
    if as_json:
        typer.echo(json.dumps(vars(done)))
        return
    typer.echo(f"{done.rows:,} examples of {done.episodes} episodes are in {out}; its card is README.md.")
    # `load_dataset` takes what is no folder of this machine for a data set of the hub.
    place = Place.of(out)
    what = f'"{place.path}"' if place.local else f'"parquet", data_files="{place.shown("data", "train-*.parquet")}"'
    typer.echo(f'Read them with: datasets.load_dataset({what}, split="train")')


def every_eval_ever(
    run: RunArgument,
    out: Annotated[str, typer.Option(help="Folder or URL; files of the same run are replaced.")],
    organization: Annotated[str, typer.Option(help="Who ran the evaluation.")] = "unknown",
    samples: Annotated[
        bool, typer.Option("--samples", help="Also write every answer of the students on the test split.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the leaderboard as JSON in the schema of Every Eval Ever, one record a teacher."""
    from dgym.exports.every_eval_ever import SCHEMA_VERSION, export
    from dgym.results import open as open_run

    done = export(open_run(run), out, organization=organization, samples=samples)
    if as_json:
        typer.echo(json.dumps(vars(done)))
        return
    lines = f" and {done.samples:,} answers" if samples else ""
    typer.echo(f"{len(done.records)} records{lines} are in {out}, in version {SCHEMA_VERSION} of the schema.")
