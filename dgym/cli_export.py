"""`dgym export`: a run in the forms of others. Parsing and printing only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Results folder of a run.")]
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
    out: Annotated[Path, typer.Option(help="New folder for the data set.")],
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

    choice = Choice(tuple(teacher or ()), tuple(domain or ()), tuple(environment or ()), tuple(episode or ()))
    done = export(open_run(run), out, choice, licence=licence)
    if as_json:
        typer.echo(json.dumps({"folder": str(out), "rows": done.rows, "episodes": done.episodes, "files": done.files}))
        return
    typer.echo(f"{done.rows:,} examples of {done.episodes} episodes are in {out}; its card is README.md.")
    typer.echo(f'Read them with: datasets.load_dataset("{out}", split="train")')


def every_eval_ever(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="Folder; files of the same run are replaced.")],
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
        typer.echo(json.dumps({"folder": str(out), "records": done.records, "samples": done.samples}))
        return
    lines = f" and {done.samples:,} answers" if samples else ""
    typer.echo(f"{len(done.records)} records{lines} are in {out}, in version {SCHEMA_VERSION} of the schema.")
