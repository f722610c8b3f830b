"""`dgym submit` and `dgym verify`: a teacher goes to the leaderboard. Parsing and printing only."""

from __future__ import annotations

import json
import secrets
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from dgym.errors import refuse_url

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to an app."""
    app.command("submit")(submit)
    app.command("verify")(verify)


def submit(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="The teacher's folder, with its pyproject.toml.", callback=refuse_url),
    ],
    run: Annotated[
        str, typer.Option(help="Results of `dgym bench` with the teacher isolated@FOLDER: a folder, or a URL.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the bundle.", callback=refuse_url)] = Path("submissions"),
    as_json: JsonOption = False,
) -> None:
    """Check a teacher and its results, pack both into a bundle, and say how to submit it."""
    from dgym.submissions.submit import submit as pack

    packed = pack(folder, run, out)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "bundle": str(packed.path),
                    "digest": packed.digest,
                    "suite": packed.suite,
                    "episodes": packed.episodes,
                    "failed": packed.failed,
                    "card": packed.card.to_json(),
                },
                indent=1,
            )
        )
        return
    card = packed.card
    failed = f", {packed.failed} of them failed" if packed.failed else ""
    place = f"leaderboard/submissions/{card.team}/{packed.path.name}"
    typer.echo(
        f"{packed.path} holds {card.name} {card.version} with {packed.episodes} episodes of {packed.suite}{failed}."
    )
    typer.echo(f"Its digest is {packed.digest}. Try what the maintainers will do: dgym verify {packed.path}")
    typer.echo("To submit it, in a fork of dgym's repository:")
    typer.echo(f"  git switch -c submit-{card.name}-{card.version}")
    typer.echo(f"  mkdir -p {Path(place).parent} && cp {packed.path} {place}")
    typer.echo(f'  git add {place} && git commit -m "Submit {card.name} {card.version}" && git push')
    typer.echo("and open a pull request. The rules are in leaderboard/SUBMITTING.md.")


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `dgym submit` wrote.", callback=refuse_url)],
    episodes: Annotated[int, typer.Option(help="How many episodes are run again; 0 for all.", min=0)] = 3,
    seed: Annotated[int | None, typer.Option(help="Draws them; by chance by default.")] = None,
    record: Annotated[
        Path | None,
        typer.Option(help="Folder of the official record, to which the verdict is added.", callback=refuse_url),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a bundle and run some of its episodes again, in isolation. Exits with 1 unless it is verified."""
    from dgym.submissions.record import add
    from dgym.submissions.verify import gains_of
    from dgym.submissions.verify import verify as run

    with tempfile.TemporaryDirectory(prefix="dgym-verify-") as folder:
        chosen = secrets.randbelow(2**31) if seed is None else seed
        verdict = run(bundle, Path(folder), sample=episodes, seed=chosen, note=lambda text: typer.echo(text, err=True))
        gains = gains_of(Path(folder)) if verdict.outcome != "disqualified" else {}
    if record is not None:
        add(record, verdict, gains)
    if as_json:
        told = {**vars(verdict), "again": [vars(one) for one in verdict.again], "gains": gains}
        typer.echo(json.dumps(told, indent=1))
    else:
        name, suite = f"{verdict.card['name']} {verdict.card['version']}", " ".join(map(str, verdict.suite))
        typer.echo(f"{name} in {suite}: {verdict.outcome}")
        for one in verdict.again:
            claimed, found = ("failed" if s is None else f"{s:.4f}" for s in (one.claimed, one.found))
            typer.echo(f"  {one.label}: claimed {claimed}, found {found}{f' ({one.why})' if one.why else ''}")
        for reason in verdict.reasons:
            typer.echo(f"  {reason}")
        for track, gain in gains.items():
            low, high = gain["interval"] or (None, None)
            typer.echo(
                f"  {track}: {gain['gain']:+.1f}{f' [{low:+.1f}, {high:+.1f}]' if low is not None else ''} points"
            )
    if verdict.outcome != "verified":
        raise typer.Exit(1)
