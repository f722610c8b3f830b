"""Grading programs: finding the program in a response, running it on tests in the sandbox, and pass@k.

A test gives a program something to read and says what it has to print, or gives a function its arguments and says
what it has to return (`Case`). Every response is run apart from all others, and what is expected never enters its
process; verdicts are computed here. The rules of comparison are those of LiveCodeBench's `testing_util.py`
(https://github.com/LiveCodeBench/LiveCodeBench): printed text line by line without surrounding space, a line that
differs as a list of decimal numbers, values as Python's `==` sees them, tuples as lists.

A program is stopped when it exceeds its limits; nothing else here depends on time. Its first failed test ends it.

What this module does not know: any data set, and how a program is kept from doing harm (`dgym.sandbox`).
"""

from __future__ import annotations

import ast
import json
import os
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from dgym.core import Attempt
from dgym.sandbox import Limits, Outcome, Program, Sandbox, find_sandbox

A = TypeVar("A")
B = TypeVar("B")

MAX_RESPONSE: Final = 1_000_000
"""Longest response that is looked at, in characters."""

KS: Final = (1, 2, 5, 10, 20, 50, 100)
"""For which k pass@k is reported, as far as there are so many samples of each problem."""

# --------------------------------------------------------------------------------------------------------------
# From a response to a program


def programs_of(response: str, name: str = "", head: str = "") -> tuple[str, ...]:
    r"""Finds the program in a response, wherever it stands.

    Of several fenced blocks the last one counts that defines `name`; where a script is asked for, the last Python
    block that reads input. Without such a block the last one written in Python counts, then the last one at all. A
    block may begin in the middle of a line and may lack its end. Without any fence the whole response counts, or what
    is left of it without the prose around the code. What does not define `name` is the body of the function that
    `head` begins, indented or not; what follows such a body at the margin is left out, unless it defines something.

    Args:
        response: What a student wrote.
        name: The function or method that is asked for; empty for a script.
        head: How the program begins, where only its end may have been asked for: up to the signature or the docstring
            of `name`.

    Returns:
        Readings of the response, of which the first that is Python counts; none if there is nothing to run or the
        response has more than `MAX_RESPONSE` characters.
    """
    if len(response) > MAX_RESPONSE:
        return ()
    text = response.replace("\r\n", "\n").replace("\r", "\n")
    thought, _, said = text.rpartition("</think>")
    text = said if said.strip() else thought or text
    blocks = [block for block in _blocks(text) if block.code.strip()]
    word = re.escape(name)
    defined = re.compile(
        rf"^[ \t]*(?:async[ \t]+)?def[ \t]+{word}\b|^[ \t]*class[ \t]+Solution\b|^{word}[ \t]*=[^=]", re.MULTILINE
    )
    chosen = _chosen(blocks, defined if name else None)
    if name and defined.search(text) and not (chosen and defined.search(chosen.code)):
        chosen = None  # what is fenced is something else
    readings = [text]
    if chosen:
        # A block may hold fences of its own, in a docstring; then it ends at the last one.
        last = max(fence.start() for fence in _FENCE.finditer(text))
        readings = [chosen.code, *([text[chosen.begin : last]] if last > chosen.end else [])]
        if name and head and not defined.search(chosen.code):
            # A body may end with a fence that nothing opened.
            rest = text[: next(_FENCE.finditer(text)).start()]
            readings = [rest, *readings] if _indented(rest) else [*readings, rest]
    out: list[str] = []
    for reading in readings:
        given = reading.strip("\n").rstrip()
        code = textwrap.dedent(given)
        if not code.strip():
            continue
        if name and head and not defined.search(code):
            out += _continued(head, name, given)
            continue
        out.append(code)
        if not chosen:
            out.append("\n".join(_without_prose(code, script=not name)))
    return tuple(dict.fromkeys(filter(None, out)))


_PYTHON: Final = frozenset({"python", "python3", "py", "python2", "py3"})
_FENCE: Final = re.compile(r"`{3,}|~{3,}")
_LANGUAGE: Final = re.compile(r"\{?\.?([A-Za-z][\w+#.-]*)?\}?(?:[ \t]+[\w-]+=\S+)*")
_READS: Final = re.compile(r"\binput\b|\bstdin\b|\bopen\(0|\bfileinput\b")
_BEGINS: Final = re.compile(r"@|(?:async[ \t]+def|def|class|import|from)\b")
_STATEMENT: Final = re.compile(
    r"(?:if|for|while|try|with)\b.*:|[A-Za-z_][\w.]*"
    r"(?:\(|(?:\[[^\]]*\])?(?:[ \t]*,[ \t]*[A-Za-z_]\w*)*[ \t]*[-+*/%&|^]*=[^=])"
)
_GOES_ON: Final = re.compile(r"\s|$|#|[\"'\])}]|(?:elif|else|except|finally)\b")


@dataclass(frozen=True, slots=True)
class _Block:
    """A fenced block: its language, its code, and where the code begins and ends in the text."""

    language: str
    code: str
    begin: int
    end: int


def _chosen(blocks: Sequence[_Block], defined: re.Pattern[str] | None) -> _Block | None:
    """Chooses the block that is the answer, see `programs_of`."""
    python = [block for block in blocks if block.language in _PYTHON]
    unnamed = [block for block in blocks if not block.language]
    if defined:
        right = [b for b in blocks if (b.language in _PYTHON or not b.language) and defined.search(b.code)]
    else:
        # A block without a language may be a sample of what is read or printed.
        right = [block for block in python if _READS.search(block.code)] or python
    best = right or python or unnamed or blocks
    return best[-1] if best else None


def _blocks(text: str) -> list[_Block]:
    """Finds fenced blocks, closed or not."""
    blocks: list[_Block] = []
    opened: tuple[str, str, int] | None = None  # fence, language, where the code begins
    at = 0
    for line in text.split("\n"):
        after = at + len(line) + 1
        for fence in islice(_FENCE.finditer(line), 8):
            start, stop = at + fence.start(), at + fence.end()
            before, rest = line[: fence.start()].strip(), line[fence.end() :]
            if opened is not None:
                mark, language, begin = opened
                fits = fence[0][0] == mark[0] and len(fence[0]) >= len(mark) and start >= begin
                inline = begin > at  # the code began on this line
                if not fits or (before and rest.strip() and not inline):
                    continue
                blocks.append(_Block(language, text[begin:start], begin, start))
                opened = None
                if rest.strip() in _PYTHON:  # no end, but the next beginning
                    opened = fence[0], rest.strip(), after
                continue
            info, closed, _ = rest.partition(fence[0])
            named = _LANGUAGE.fullmatch(info.strip())
            if named and not closed:
                opened = fence[0], (named[1] or "").lower(), after
            elif closed or not before:
                # Code on the line of its fence, perhaps after the language.
                word = re.match(r"[ \t]*(?:python3?|py)[ \t]+", rest)
                opened = fence[0], "python" if word else "", stop + (word.end() if word else 0)
        at = after
    if opened is not None:
        mark, language, begin = opened
        blocks.append(_Block(language, text[begin:], begin, len(text)))
    return blocks


def _without_prose(code: str, *, script: bool) -> Iterator[str]:
    """Yields the lines of code from the first definition or import on, up to the first line that is no code.

    Of a script, from the first line that looks like a statement.
    """
    begun = False
    for line in code.split("\n"):
        starts = bool(_BEGINS.match(line))
        states = bool(_STATEMENT.match(line))
        if not begun:
            begun = starts or (script and states)
        elif not (starts or states or _GOES_ON.match(line)):
            return
        if begun:
            yield line


def _continued(head: str, name: str, body: str) -> list[str]:
    """Writes a body after the head of its function, in the ways that it may be meant."""
    indents = re.findall(rf"^([ \t]*)(?:async[ \t]+)?def[ \t]+{re.escape(name)}\b", head, re.MULTILINE)
    margin = (indents[-1] if indents else "") + "    "
    lines = body.split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip()), 0)
    indented = _indented(body)
    kept = lines[: first + 1]
    tail: list[str] = []
    for number, line in enumerate(lines[first + 1 :], first + 1):
        if indented and line.strip() and not line[:1].isspace():
            tail = list(_defining(lines[number:]))
            break
        kept.append(line)
    start = head.rstrip()
    after = "\n\n" + "\n".join(tail) if tail else ""
    whole = textwrap.indent(textwrap.dedent("\n".join(kept)), margin)
    if indented:
        return [f"{start}\n" + "\n".join(kept) + after, f"{start}\n{whole}{after}"]
    # Where surrounding space was cut off, only the first line lacks its indentation.
    return [f"{start}\n{whole}", f"{start}\n{margin}" + "\n".join(kept[first:])]


def _indented(text: str) -> bool:
    """Whether the first line of a text that is not blank is indented."""
    return bool(re.match(r"(?:[^\S\n]*\n)*[^\S\n]+\S", text))


def _defining(lines: Sequence[str]) -> Iterator[str]:
    """Yields definitions and imports at the margin, up to the first line there that is neither."""
    for line in lines:
        if line.strip() and not line[:1].isspace() and not _BEGINS.match(line):
            return
        yield line


# --------------------------------------------------------------------------------------------------------------
# Running and judging


_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Case:
    """One test.

    Attributes:
        given: What the program reads; of a function, its arguments in JSON, one a line.
        wanted: What it has to print; of a function, what it has to return in JSON.
    """

    given: str
    wanted: str


@dataclass(frozen=True, slots=True)
class Job:
    """A response that is to be graded.

    Attributes:
        programs: What `programs_of` gives.
        cases: Gives the tests, which may be large; called in a thread.
        function: The function or the method of `Solution` that is called; empty for a script.
        before: What is executed before the program, such as imports that everybody may rely on.
        limits: For each test.
    """

    programs: tuple[str, ...]
    cases: Callable[[], Sequence[Case]]
    function: str = ""
    before: str = ""
    limits: Limits = _LIMITS


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a response.

    Attributes:
        right: Whether it passes all tests, and there are some.
        compiles: Whether it is Python at all.
        passed: How many tests it passes before the first that it fails.
        total: How many tests there are; 0 where none was run.
        error: How it failed, in a few words; partly the program's own.
    """

    right: bool
    compiles: bool
    passed: int = 0
    total: int = 0
    error: str = ""

    @property
    def measures(self) -> Mapping[str, float]:
        """What is measured beside the verdict."""
        measured = {"compiles": float(self.compiles)}
        return measured | {"tests": self.passed / self.total if self.total else 0.0}


NOTHING: Final = Result(False, False, error="there is no program in it")


def grade_programs(jobs: Sequence[Job]) -> list[Result]:
    """Grades responses on all cores, each by itself; never raises on what a student wrote.

    Returns:
        One result per job, in order.

    Raises:
        SandboxError: If programs cannot be isolated on this machine.
    """
    sandbox = find_sandbox()
    width = max(1, cores() // max(1, len(jobs)))
    return on_all_cores(lambda job: _graded(sandbox, job, width), jobs)


def cores() -> int:
    """Returns how many programs the sandbox may run at once."""
    return max(1, min(8, len(os.sched_getaffinity(0)))) if hasattr(os, "sched_getaffinity") else 1


def on_all_cores(act: Callable[[A], B], items: Sequence[A]) -> list[B]:
    """Maps in as many threads as there are cores, for work that waits for the sandbox."""
    if len(items) < 2:
        return [act(item) for item in items]
    with ThreadPoolExecutor(min(cores(), len(items))) as pool:
        return list(pool.map(act, items))


@cache
def inside(name: str) -> str:
    """Returns the text of what runs beside a program: a function of `code_inside.py`, and all that it uses.

    Every program compiles this text again, so the rest is left out.
    """
    tree = ast.parse(Path(__file__).with_name("code_inside.py").read_text(encoding="utf-8"))
    parts = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    used = [name]
    for one in used:
        names = {node.id for node in ast.walk(parts[one]) if isinstance(node, ast.Name)}
        used += sorted(names & parts.keys() - set(used))
    kept = [node for node in tree.body if node not in parts.values() or getattr(node, "name", "") in used]
    return ast.unparse(ast.Module(kept, []))


def said(outcome: Outcome) -> str:
    """Says how a program ended that did not end well."""
    return f"{outcome.status}: {outcome.error[:200]}"


def compiles(outcome: Outcome) -> bool:
    """Whether a program of ours that ran a student's could compile it."""
    return not outcome.error.startswith("NotPythonError")


def are_python(readings: Sequence[tuple[str, ...]]) -> list[bool]:
    """Says of each response, as `programs_of` reads it, whether it is Python; parses in the sandbox only."""
    programs = [Program(inside("compiles"), "compiles", ((list(texts),),)) for texts in readings]
    outcomes = find_sandbox().run(programs)
    return [len(o.returned) == 1 and o.returned[0].value is True for o in outcomes]


def _graded(sandbox: Sandbox, job: Job, width: int) -> Result:
    if not job.programs:
        return NOTHING
    cases = job.cases()
    return _by_calls(sandbox, job, cases) if job.function else _by_scripts(sandbox, job, cases, width)


def _by_scripts(sandbox: Sandbox, job: Job, cases: Sequence[Case], width: int) -> Result:
    """Runs the program once for each test, `width` tests at a time, until one fails."""
    source = f"{inside('script')}\nscript({job.before!r}, {list(job.programs)!r})\n"
    for start in range(0, len(cases), width):
        some = cases[start : start + width]
        outcomes = sandbox.run([Program(source, stdin=c.given, limits=_roomy(job.limits, len(c.wanted))) for c in some])
        for number, (case, outcome) in enumerate(zip(some, outcomes, strict=True), start):
            if outcome.status != "done":
                return Result(False, compiles(outcome), number, len(cases), said(outcome))
            if not same_output(outcome.stdout, case.wanted):
                return Result(False, True, number, len(cases), "wrong answer")
    return Result(bool(cases), True, len(cases), len(cases))


def _by_calls(sandbox: Sandbox, job: Job, cases: Sequence[Case]) -> Result:
    """Calls the program's function once for each test, in one process as long as it keeps within its time.

    The time limit is that of one test. A process that exceeds it after a few calls has spent it on several: the test
    that it was at is tried again with the whole time.
    """
    source = f"{inside('solution')}\nanswer = solution({job.before!r}, {list(job.programs)!r}, {job.function!r})\n"
    limits = _roomy(job.limits, sum(len(case.wanted) for case in cases))
    passed = 0
    while passed < len(cases):
        left = cases[passed:]
        calls = tuple((case.given,) for case in left)
        (outcome,) = sandbox.run([Program(source, "answer", calls, limits=limits)])
        for returned, case in zip(outcome.returned, left, strict=False):
            if not returned.ok or not same_value(returned.value, case.wanted):
                return Result(False, True, passed, len(cases), returned.error[:200] or "wrong answer")
            passed += 1
        late = outcome.status == "time" and outcome.cpu_seconds > limits.cpu_seconds  # not one that waits
        if len(outcome.returned) < len(left) and not (late and outcome.returned):
            return Result(False, compiles(outcome), passed, len(cases), said(outcome))
    return Result(bool(cases), True, passed, len(cases))


def _roomy(limits: Limits, characters: int) -> Limits:
    """Returns limits under which so much can be printed or returned, in any spacing."""
    return replace(limits, output_bytes=max(limits.output_bytes, 8 * characters))


def same_output(printed: str, wanted: str) -> bool:
    """Compares what was printed, as LiveCodeBench does.

    Lines are compared without surrounding space, and so are the texts; lines that differ are equal as lists of decimal
    numbers or not at all. There is no tolerance.
    """
    given, right = printed.strip(), wanted.strip()
    if given == right:
        return True
    lines, others = given.split("\n"), right.split("\n")
    return len(lines) == len(others) and all(map(_same_line, lines, others))


def _same_line(line: str, other: str) -> bool:
    line, other = line.strip(), other.strip()
    if line == other:
        return True
    try:
        return list(map(Decimal, line.split())) == list(map(Decimal, other.split()))
    except (ArithmeticError, ValueError):
        return False


def same_value(returned: object, wanted: str) -> bool:
    """Compares what was returned, in JSON, as LiveCodeBench does: by `==`, without tolerance; tuples are lists."""
    if not isinstance(returned, str):
        return False
    if returned == wanted:
        return True
    try:
        return bool(json.loads(returned) == json.loads(wanted))
    except (ValueError, RecursionError, MemoryError):
        return False


# --------------------------------------------------------------------------------------------------------------
# pass@k


def pass_at_k(n: int, c: int, k: int) -> float:
    """Estimates, without bias, how probably one of k samples passes, from n samples of which c pass.

    `1 - comb(n - c, k) / comb(n, k)`, as a product in which nothing overflows (Chen et al. 2021,
    https://arxiv.org/abs/2107.03374, section 2.1).

    Args:
        n: Samples.
        c: Those that pass, from 0 to n.
        k: From 1 to n.

    Raises:
        ValueError: If the numbers do not go together.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {n} samples, of which {c} pass")
    if n - c < k:
        return 1.0
    missed = 1.0
    for i in range(n - c + 1, n + 1):
        missed *= 1 - k / i
    return 1 - missed


def summary(attempts: Sequence[Attempt]) -> Mapping[str, float]:
    """Returns pass@1, and pass@k for those `KS` of which every problem has so many attempts; none for no attempts."""
    samples: dict[str, list[bool]] = {}
    for attempt in attempts:
        samples.setdefault(attempt.problem.id, []).append(attempt.correct)
    least = min(map(len, samples.values()), default=0)
    return {
        f"pass@{k}": sum(pass_at_k(len(s), sum(s), k) for s in samples.values()) / len(samples)
        for k in KS
        if k <= least
    }
