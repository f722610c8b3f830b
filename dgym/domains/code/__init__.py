"""Code: short Python functions from a signature and a sentence, graded by hidden tests in a sandbox.

A problem is the head of a function; the response is its body, or the whole function. It is right when it returns
what it should for every hidden test, whatever way it takes. The tests follow from the problem's identity: eight
sets of arguments, drawn about the numbers that the sentence names. Expected results are computed here, from a
meaning that is written apart from the solution, and never enter the process that runs a response.

What this module does not know: how a program is kept from doing harm (`dgym.sandbox`).
"""

from __future__ import annotations

import ast
import random
import re
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from dgym.core import Example, Grade, Problem, derive_seed
from dgym.domains.code.structures import STRUCTURES, Structure, Values
from dgym.domains.procedural import ProceduralDomain, Task
from dgym.errors import DomainError
from dgym.graders.code import on_all_cores
from dgym.sandbox import Limits, Program, find_sandbox, scaled, verdict

TESTS: Final = 8
"""Hidden tests of each problem."""

MAX_PROGRAM: Final = 4_000
"""Longest response that is run, in characters."""

_PROMPT = re.compile(r'def f\(([a-z, ]*)\):\n    """([^"]+)"""')
_FENCE = re.compile(r"```(?:[a-zA-Z]+)?\n(.*?)(?:```|\Z)", re.DOTALL)
_DEFINED = re.compile(r"^def f\(", re.MULTILINE)

_BY_SKILL: Final = {s.skill: [t for t in STRUCTURES if t.skill == s.skill] for s in STRUCTURES}
_BY_PARAMETERS: Final[dict[str, list[Structure]]] = {}
for _one in STRUCTURES:
    _BY_PARAMETERS.setdefault(", ".join(name for name, _ in _one.parameters), []).append(_one)

_WORDS = ("apple", "Pear", "fig", "kiwi", "Plum", "lime", "date", "cherry", "nut", "Melon", "oat", "rice")


class CodeDomain(ProceduralDomain):
    """The domain `code` (see the module's text)."""

    name = "code"
    version = "1"
    description = (
        "Short Python functions named f. A problem gives the head of the function and a sentence that says what it "
        "returns: arithmetic, conditionals, strings, lists, comprehensions, aggregates, dictionaries, loops, "
        "recursion, sorting with keys, sets, nested lists. Hidden tests decide."
    )
    answer_format = (
        "The body of the function without indentation, such as 'return x + 1', or the whole function. Nothing else: "
        "no explanation, no test."
    )

    def prepare(self) -> None:
        """Starts the sandbox.

        Raises:
            SandboxError: If programs cannot be isolated on this machine.
        """
        find_sandbox()

    def refinements(self) -> Mapping[str, Sequence[str]]:
        """Returns the structures of each skill."""
        return _REFINEMENTS

    def off_domain(self) -> Sequence[str]:
        """Returns kinds of problem about Python that need no function."""
        return tuple(_OFF)

    def stream(self, skill: str, seed: int) -> Iterator[tuple[Task, Example]]:
        """Draws problems with their reference solutions."""
        rng = random.Random(seed)
        while True:
            if skill in _OFF:
                prompt, response = _OFF[skill](rng)
                yield Task(skill, prompt, response), Example(prompt, response, skill)
                continue
            structure = rng.choice(_BY_SKILL[skill])
            values = structure.draw(rng)
            task = _task(structure, values)
            head = ", ".join(name for name, _ in structure.parameters)
            yield task, Example(prompt_of(head, structure.forms.render(rng, **values)), task.answer, skill)

    def parse(self, prompt: str, images: tuple[bytes, ...] = ()) -> Task | None:
        """Recognises a problem from its text."""
        match = _PROMPT.fullmatch(prompt.strip())
        if match is None:
            return None
        for structure in _BY_PARAMETERS.get(match[1], ()):
            values = structure.forms.read(match[2])
            if values is not None:
                return _task(structure, values)
        return None

    def right(self, task: Task, response: str) -> bool:
        """Runs the response on the hidden tests in the sandbox."""
        return _passes(task.skill, task.identity, task, source_of(response, head_of(task)))

    def check(self, example: Example) -> bool | None:
        """Runs the response of a known problem; of any other, says whether it is a function at all.

        Returns:
            `None` for a text of no known kind, unless the prompt asks for a function and the response is no Python.
        """
        known = super().check(example)
        if known is None and example.prompt.lstrip().startswith("def "):
            return None if _parses(source_of(example.response, "def f():")) else False
        return known

    def fresh(self, skill: str, count: int, seed: int) -> list[Example]:
        """Writes examples and executes every solution; see `ProceduralDomain.fresh`.

        Raises:
            DomainError: If a solution does not do what its sentence says.
        """
        examples = super().fresh(skill, count, seed)
        for example in examples:
            task = self.recognise(example.prompt)
            if task is not None and not executes(task, example.response):
                raise DomainError(f"A solution is wrong: {example.prompt!r}, {example.response!r}.")
        return examples

    def wrong_answer(self, example: Example, seed: int) -> Example:
        """Returns the example with the solution of another problem about the same parameters."""
        task = self.recognise(example.prompt)
        if task is None:
            return super().wrong_answer(example, seed)
        rng = random.Random(derive_seed("wrong", seed, example.prompt))
        structure, _ = task.data
        for _ in range(200):
            other = rng.choice(_BY_PARAMETERS[", ".join(name for name, _ in structure.parameters)])
            body = other.body(other.draw(rng))
            if body != example.response and not executes(task, body):
                return Example(example.prompt, body, example.skill, example.item)
        raise DomainError(f"No wrong answer found for {example.prompt[:80]!r}.")

    def grade_all(self, problems: Sequence[Problem], responses: Sequence[str]) -> Sequence[Grade]:
        """Grades on all cores; see `dgym.core.GradesTogether`."""

        def graded(pair: tuple[Problem, str]) -> Grade:
            return self.grade(*pair), self.measures(*pair)

        return on_all_cores(graded, list(zip(problems, responses, strict=True)))

    def measures(self, problem: Problem, response: str) -> Mapping[str, float]:
        """Says whether the response is Python at all."""
        task = self.recognise(problem.prompt)
        head = "def f():" if task is None else head_of(task)
        return {"compiles": float(_parses(source_of(response, head)))}


def prompt_of(head: str, sentence: str) -> str:
    """Writes a problem: the head of the function and what it is to return."""
    return f'def f({head}):\n    """{sentence}"""'


def head_of(task: Task) -> str:
    """Returns the first line of a task's function."""
    structure: Structure = task.data[0]
    return f"def f({', '.join(name for name, _ in structure.parameters)}):"


def source_of(response: str, head: str) -> str:
    """Makes a program of a response: the fenced part if there is one, and the function's head if it lacks it."""
    fenced = _FENCE.search(response)
    text = (fenced[1] if fenced else response).strip("\n").rstrip()
    if _DEFINED.search(text):
        return text
    # A body whose first line alone is indented less is put right: it follows the head directly.
    return f"{head}\n{textwrap.indent(textwrap.dedent(text), '    ')}"


def executes(task: Task, body: str) -> bool:
    """Runs a solution of our own making here, without the sandbox, and compares with the meaning."""
    function = _function(body, head_of(task))
    arguments, expected, _ = hidden_tests(task)
    for given, wanted in zip(arguments, expected, strict=True):
        try:
            if function(*_copied(given)) != wanted:
                return False
        except Exception:
            return False
    return True


def _function(body: str, head: str) -> Callable[..., Any]:
    scope: dict[str, Any] = {}
    exec(compile(source_of(body, head), "<solution>", "exec"), scope)
    made: Callable[..., Any] = scope["f"]
    return made


def hidden_tests(task: Task) -> tuple[tuple[tuple[Any, ...], ...], tuple[Any, ...], float]:
    """Returns arguments, expected results, and the CPU seconds that the reference solution takes for them."""
    return _tests(task.skill, task.identity, task)


class _Same:
    """Makes a cache look at the names beside it only."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same)

    def __hash__(self) -> int:
        return 0


def _tests(skill: str, identity: str, task: Task) -> tuple[tuple[tuple[Any, ...], ...], tuple[Any, ...], float]:
    return _tests_of(skill, identity, _Same(task))


@lru_cache(maxsize=20_000)
def _tests_of(skill: str, identity: str, same: _Same) -> tuple[tuple[tuple[Any, ...], ...], tuple[Any, ...], float]:
    structure, values = same.task.data
    rng = random.Random(derive_seed("tests", skill, identity))
    numbers = [v if isinstance(v, int) else v[1] for v in values.values() if isinstance(v, int | tuple)] or [5]
    letters = [v for v in values.values() if isinstance(v, str) and len(v) == 1 and v.isalpha()]
    arguments = tuple(
        tuple(_argument(kind, rng, numbers, letters) for _, kind in structure.parameters) for _ in range(TESTS)
    )
    expected = tuple(structure.meaning(values, *_copied(given)) for given in arguments)
    reference = _function(same.task.answer, head_of(same.task))
    copies = [_copied(given) for given in arguments]
    start = time.process_time()
    for given in copies:
        reference(*given)
    return arguments, expected, time.process_time() - start


def _argument(kind: str, rng: random.Random, numbers: list[int], letters: list[str]) -> Any:
    """Draws an argument about the numbers and letters of the sentence, where wrong solutions show."""

    def number() -> int:
        if rng.random() < 0.4:
            return rng.choice(numbers) + rng.randint(-1, 1)
        return rng.randint(-20, 60)

    def numbers_list(least: int = 0) -> list[int]:
        length = max(least, rng.choice((0, 1, 2, 3, 5, 8, rng.choice(numbers) % 30 + 2)))
        return [number() for _ in range(length)]

    if kind == "int":
        return number()
    if kind == "ints":
        return numbers_list()
    if kind == "str":
        length = rng.choice((0, 1, 3, 8, rng.choice(numbers) % 30 + 2))
        pool = "aAbBcCxyz 12" + "".join(letters) * 4 + "".join(letters).upper()
        return "".join(rng.choice(pool) for _ in range(length))
    if kind == "words":
        return rng.choices(_WORDS, k=rng.choice((0, 1, 3, 5, 9, 12, rng.choice(numbers) % 20 + 1)))
    if kind == "counts":
        keys = letters * (rng.random() < 0.6) + rng.sample("abcdefghijklmnopqrstuvwxyz", rng.randint(0, 5))
        return {key: number() for key in keys}
    return [numbers_list(least=1) for _ in range(rng.randint(0, 4))]


def _copied(arguments: tuple[Any, ...]) -> list[Any]:
    import copy

    return [copy.deepcopy(a) for a in arguments]


def _task(structure: Structure, values: Values) -> Task:
    identity = f"{structure.name}|" + "|".join(f"{k}={_text(values[k])}" for k in sorted(values))
    body = structure.body(values)
    return Task(structure.skill, identity, body, structure.name, structure.combination(values), (structure, values))


def _text(value: Any) -> str:
    return f"{value[0]} {value[1]}" if isinstance(value, tuple) else str(value)


_FILTERS: Final = threading.Lock()


def _parses(source: str) -> bool:
    try:
        # Filters belong to the whole process: two threads at once would leave each other's behind.
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # what students write is not for the terminal
            ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _passes(skill: str, identity: str, task: Task, source: str) -> bool:
    return _passes_of(skill, identity, source, _Same(task))


@lru_cache(maxsize=100_000)
def _passes_of(skill: str, identity: str, source: str, same: _Same) -> bool:
    if len(source) > MAX_PROGRAM or not _parses(source):
        return False
    arguments, expected, seconds = _tests_of(skill, identity, same)
    limits: Limits = scaled(seconds)
    (outcome,) = find_sandbox().run([Program(source, "f", arguments, limits=limits)])
    return verdict(outcome, expected)


def _off_value(rng: random.Random) -> tuple[str, str]:
    a, b, sign = rng.randint(2, 99), rng.randint(2, 99), rng.choice("+-*")
    return f">>> {a} {sign} {b}", str({"+": a + b, "-": a - b, "*": a * b}[sign])


def _off_type(rng: random.Random) -> tuple[str, str]:
    value: Any = rng.choice((rng.randint(0, 999), rng.choice(_WORDS), [rng.randint(0, 99)], (rng.randint(0, 99),)))
    return f">>> type({value!r}).__name__", repr(type(value).__name__)


def _off_name(rng: random.Random) -> tuple[str, str]:
    words = rng.sample(_WORDS, 3)
    return f"Write in snake case: {' '.join(words)}", "_".join(w.lower() for w in words)


_OFF: Final[dict[str, Callable[[random.Random], tuple[str, str]]]] = {
    "evaluate": _off_value,
    "name the type": _off_type,
    "snake case": _off_name,
}
_REFINEMENTS: Final = {skill: tuple(s.name for s in group) for skill, group in _BY_SKILL.items()}
