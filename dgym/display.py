"""What people see while episodes run: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType

import pandas as pd
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dgym.bench import Progress, Usage, expected_work
from dgym.core import Step
from dgym.heartbeat import work_done
from dgym.specs import Identity

_BLOCKS = " ▁▂▃▄▅▆▇█"


def duration(seconds: float) -> str:
    """Renders a duration as `1:05` or `2:03:04`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def bar(value: float, width: int = 20) -> str:
    """Draws a value in [0, 1] as a bar of eighths."""
    eighths = round(max(0.0, min(1.0, value)) * width * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_BLOCKS[rest] if rest else "")).ljust(width)


class Watch:
    """Shows the progress of a run.

    Args:
        console: Where to show it.
        title: Heading of the live table.
        live: Whether to redraw; plain lines otherwise.
    """

    def __init__(self, console: Console, title: str, live: bool) -> None:
        self._console, self._title = console, title
        self._episodes: dict[str, Identity] = {}
        self._work: dict[str, float] = {}
        self._running: dict[str, Progress] = {}
        self._ended: dict[str, Progress] = {}
        self._skipped = 0
        self._start = time.monotonic()
        # Last: it draws at once.
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4) if live else None

    def __enter__(self) -> Watch:
        """Starts drawing."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops drawing."""
        if self._live is not None:
            self._live.stop()

    def begin(self, todo: Sequence[Identity], skipped: int) -> None:
        """Takes the episodes to run; see `dgym.bench.bench`."""
        self._episodes = {i.digest: i for i in todo}
        self._work = {i.digest: 1 + expected_work(i) for i in todo}
        self._skipped = skipped
        done = f", {skipped} finished before" if skipped else ""
        if self._live is None:
            self._console.print(f"{self._title}: {len(todo)} episodes to run{done}", highlight=False)

    def report(self, progress: Progress) -> None:
        """Takes a progress; see `dgym.bench.bench`."""
        if progress.status == "running":
            self._running[progress.digest] = progress
            return
        self._running.pop(progress.digest, None)
        self._ended[progress.digest] = progress
        line = self._line(progress)
        if self._live is None:
            self._console.print(line, highlight=False, soft_wrap=True)
        elif progress.status == "failed":
            self._live.console.print(Text(line, style="red"), soft_wrap=True)

    def _line(self, progress: Progress) -> str:
        label = self._episodes[progress.digest].label
        count = f"[{len(self._ended)}/{len(self._episodes)}]"
        if progress.status == "failed":
            return f"{count} failed ({progress.boundary}) {label}: {progress.message}"
        return f"{count} {duration(time.monotonic() - self._start)} {label}: selection {progress.score:.1%}"

    def _share(self) -> float:
        """The part of the expected work that is done; short episodes count little."""
        iterations = {digest: self._episodes[digest].spec.rules.iterations for digest in self._running}
        running = {digest: (p.iteration, iterations[digest]) for digest, p in self._running.items()}
        return work_done(self._work, [*self._ended], running)

    def _render(self) -> Group:
        elapsed = time.monotonic() - self._start
        share = self._share()
        left = f" · about {duration(elapsed * (1 - share) / share)} left" if 0.05 < share < 1 else ""
        failures = sum(p.status == "failed" for p in self._ended.values())
        head = Text.assemble(
            (self._title, "bold"),
            f"  {len(self._ended)} of {len(self._episodes)} episodes",
            f", {self._skipped} finished before" if self._skipped else "",
            (f", {failures} failed" if failures else "", "red"),
            f" · {duration(elapsed)}{left}",
        )
        table = Table(box=None, show_header=True, header_style="dim", padding=(0, 2, 0, 0))
        for name in ("teacher", "environment", "domain", "seed", "iteration", "selection"):
            table.add_column(name, justify="right" if name in ("seed", "iteration") else "left")
        for digest, progress in list(self._running.items())[:12]:
            spec = self._episodes[digest].spec
            table.add_row(
                spec.teacher,
                spec.environment,
                spec.domain,
                str(spec.seeds.variant),
                f"{progress.iteration}/{spec.rules.iterations}",
                f"{bar(progress.score)} {progress.score:6.1%}",
            )
        done = Table.grid()  # a bar alone would not end its line
        done.add_row(ProgressBar(total=1.0, completed=share, width=60))
        return Group(head, done, table)


def host_report(usage: Usage) -> list[str]:
    """Says in a few lines how the student hosts of a run were used."""

    def hosts(count: int) -> str:
        return f"{count} student host{'s' if count != 1 else ''}"

    lines = []
    if usage.busy is not None:
        between = f"the {usage.seconds:.0f} s between first and last training"
        lines.append(f"{hosts(usage.hosts)}, busy {usage.busy:.0%} of {between}")
    if usage.asked > usage.answered:
        lines.append(f"{usage.asked:,} answers asked for, {usage.answered:,} computed: the others were known already")
    if usage.replaced:
        were = "were" if usage.replaced != 1 else "was"
        lines.append(
            f"{hosts(usage.replaced)} died and {were} replaced; their students went on from their last training"
        )
    return lines


def spending(episodes: pd.DataFrame) -> str:
    """Says what the teachers' language models were asked and what was lost; empty where none was asked.

    Args:
        episodes: Rows of the table `episodes`.
    """
    calls = int(episodes["teacher_calls"].fillna(0).sum())
    if not calls:
        return ""
    losses: Counter[str] = Counter()
    for text in episodes["teacher_losses"].dropna():
        losses.update(json.loads(text))
    lost = f", {losses.total()} lost ({', '.join(f'{n} {why}' for why, n in losses.most_common())})" if losses else ""
    costs = episodes["cost"]
    cost = "price unknown" if costs.isna().any() else f"${costs.sum():.2f}"
    tokens = int(episodes["teacher_tokens"].fillna(0).sum())
    return f"Language models: {calls:,} calls{lost}, {tokens:,} tokens, {cost}"


class Curve:
    """Prints one episode's iterations as they come."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._base = 0.0

    def show(self, step: Step) -> None:
        """Prints a step as one line."""
        if step.iteration == 0:
            self._base = step.selection.score
            self._console.print(
                "[dim]iteration   selection                       change   feedback    test   kept   seconds"
            )
        gain = 100 * (step.selection.score - self._base)
        test = f"{step.test.score:7.1%}" if step.test else "      –"
        kept = f"{len(step.kept):3d}/{len(step.verdicts):<3d}" if step.iteration else "   –   "
        mark = "[green]best[/green]" if step.best and step.iteration else ""
        self._console.print(
            f"{step.iteration:9d}   {bar(step.selection.score, 22)} {step.selection.score:6.1%}  {gain:+6.1f}   "
            f"{step.feedback.score:8.1%} {test}  {kept} {sum(step.seconds.values()):7.1f}  {mark}",
            highlight=False,
        )
