"""m&m's: requests that a plan of one to three calls of 33 tools fulfils (Ma et al. 2024, arXiv 2403.11085).

As in DataEnvGym (Khan et al. 2025), test is `test_human_verified_filtered`, 882 plans that people verified and that
run, and validation is what `test_human_verified` has beside it, about 683. Requests that are in both, or there twice,
are taken once. There is no train split: the authors say that the set should not be used for training, and what is left
over, `test_raw`, has plans that nobody verified.

A skill is the tuple of tools of the reference, joined by `+`. The grade is m&m's plan accuracy: the tools of the
answer, in order, are those of the reference; arguments do not count. `measures` and `summary` have the rest of m&m's
scores. The prompt has all 33 tools, and shows no examples; a teacher writes requests only.

`format=json` asks for plans as JSON and not as a program; both are read whatever was asked for. `alt_plans` compares an
answer with that of the published alternatives whose tools come nearest, as m&m's evaluator does with
`use_best_match`, which is off there by default too.

What this module does not know: how plans are read (`dgym.graders.plans`) and scored (`dgym.graders.plan_scores`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Final

from dgym.core import Attempt, Example, Problem
from dgym.data import DataSet, Kind, Part, Row
from dgym.domains.dataset import DataSetDomain, content_id, unframed
from dgym.domains.published.mnms_tools import TOOLS, validate
from dgym.errors import DomainError, unknown_name
from dgym.graders.plan_scores import Plan, best_match, compare, pooled, tools_of
from dgym.graders.plans import read_nodes, read_plan, show_code, show_json

_COLUMNS: Final[Mapping[str, Kind]] = {"id": "int", "user_request": "text", "plan_str": "text", "alt_plans_str": "text"}
_VERIFIED: Final = "test_human_verified"
_FILTERED: Final = "test_human_verified_filtered"

DATA: Final = DataSet(
    name="mnms",
    title="plans of multi-modal tools",
    parts=tuple(
        Part(name, _COLUMNS, files=(f"{name}.json",), rows=rows, optional=frozenset({"alt_plans_str"}))
        for name, rows in ((_VERIFIED, 1_565), (_FILTERED, 882))
    ),
    licence="MIT; its authors add that it should not be used for training models",
    homepage="https://mnms-project.github.io",
    hub="zixianma/mnms",
    revision="da313260161c982eb2004bb15761d7aa2e03eb4f",
    bytes=3_000_000,
)

FORMATS: Final = ("code", "json")
"""How a prompt asks for plans."""

_TOOLS: Final = "\n".join(f"{tool.signature}: {tool.description}" for tool in TOOLS.values())
_ASKED: Final[Mapping[str, str]] = {
    "code": (
        "Write a Python program that fulfils the request by calling tools from this list, as few as possible. Define "
        "solve(), assign the output of each call to output0, output1, ... in turn, give all arguments by name, and use "
        "earlier outputs as in output0['text']. Enclose the program in ```python and ```."
    ),
    "json": (
        "Fulfil the request by calling tools from this list, as few as possible. Answer with JSON only: "
        '{"nodes": [{"id": 0, "name": "tool", "args": {"argument": "value"}}, ...]}, with ids from 0 in the order of '
        "the calls and all arguments by name. <node-0>.text stands for the output text of call 0, also within a value."
    ),
}


class Mnms(DataSetDomain):
    """Requests that one to three calls of multi-modal tools fulfil (m&m's).

    Args:
        fixture: Whether to use the small data set of dgym's own writing.
        format: How plans are asked for: `"code"` or `"json"`.
        alt_plans: Whether an answer is compared with the nearest of the published alternatives.

    Raises:
        UsageError: If there is no such format.
    """

    base = "mnms"
    version = "1"
    data = DATA
    description = (
        "Requests in English that one to three calls of tools fulfil, where later calls use outputs of earlier ones. "
        "The 33 tools answer, classify, sum up and write texts, describe, edit and crop images, find and count "
        "objects, recognise speech, and ask public services for facts, places, films and the weather. A prompt lists "
        "them all; the request follows, and it alone is to be written. It names all that the plan needs, such as "
        "files. Right is the exact list of tools in the order of the calls."
    )
    answer_format = (
        'A program: ```python\ndef solve():\n    output0 = image_captioning(image="12.jpg")\n    output1 = '
        "text_summarization(text=output0['text'])\n    result = {0: output0, 1: output1}\n    return result\n```, or "
        'the same as JSON: {"nodes": [{"id": 0, "name": "image_captioning", "args": {"image": "12.jpg"}}, {"id": 1, '
        '"name": "text_summarization", "args": {"text": "<node-0>.text"}}]}. As few calls as possible, arguments by '
        "name."
    )
    tools: ClassVar[tuple[Mapping[str, Any], ...]] = tuple(tool.schema() for tool in TOOLS.values())

    def __init__(self, *, fixture: bool = False, format: str = "code", alt_plans: bool = False) -> None:  # noqa: A002
        super().__init__(fixture=fixture)
        if format not in FORMATS:
            raise unknown_name("format of mnms", format, FORMATS)
        self._format, self._alternatives = format, bool(alt_plans)
        if format != FORMATS[0]:
            self.name = self.named(f"format={format}")
        if alt_plans:
            self.name = self.named("alt_plans")

    # Problems --------------------------------------------------------------------------------------------------

    def validation(self) -> Sequence[Problem]:
        """Returns what people verified and is not in the test."""
        tested = {row["id"] for row in self.rows(_FILTERED)}
        requests = {_request(row) for row in self.rows(_FILTERED)}
        rows = (row for row in self.rows(_VERIFIED) if row["id"] not in tested and _request(row) not in requests)
        return [self._problem(row) for row in _once(rows)]

    def test(self) -> Sequence[Problem]:
        """Returns the plans that people verified and that run."""
        return [self._problem(row) for row in _once(self.rows(_FILTERED))]

    def _problem(self, row: Row) -> Problem:
        plan = read_nodes(row["plan_str"])
        if plan is None:
            raise DomainError(
                f"The plan {str(row['id'])!r} of the data set {self.data.name!r} is no list of calls: "
                f"{row['plan_str'][:60]!r}."
            )
        calls = len(plan)
        program = f"```python\n{show_code(plan)}\n```"
        # What cannot be written as a program, for its names, stands as JSON.
        written = self._format == "code" and read_plan(program) == plan
        return Problem(
            id=self._id(row),
            prompt=self.frame(row["user_request"]),
            reference=program if written else show_json(plan),
            skill="+".join(tools_of(plan)),
            slice=f"{calls} tool" if calls == 1 else f"{calls} tools",
        )

    def _id(self, row: Row) -> str:
        return content_id(row["user_request"], row["plan_str"])

    @cached_property
    def _alternative_plans(self) -> Mapping[str, Sequence[Plan]]:
        """The published alternatives by the ids of problems."""
        out = {}
        for part in (_VERIFIED, _FILTERED):
            for row in self.rows(part):
                try:
                    given = ast.literal_eval(row["alt_plans_str"] or "[]")
                except (ValueError, SyntaxError):
                    given = []
                plans = [read_nodes(repr(nodes)) for nodes in given] if isinstance(given, list) else []
                out[self._id(row)] = [plan for plan in plans if plan]
        return out

    # Prompts ---------------------------------------------------------------------------------------------------

    @property
    def _words(self) -> str:
        return f"# TOOLS\n{_TOOLS}\n\n# TASK\n{_ASKED[self._format]}\n\n# REQUEST\n"

    def frame(self, prompt: str) -> str:
        """Writes a request under the list of tools; leaves one that is written so already."""
        return f"{self._words}{self.bare(prompt)}"

    def bare(self, prompt: str) -> str:
        """Returns a request without the list of tools."""
        return unframed(prompt, self._words, "")

    # Plans -----------------------------------------------------------------------------------------------------

    def grade(self, problem: Problem, response: str) -> float:
        """Whether the tools of the plan are those of the reference, in order; 1.0 or 0.0."""
        plan = read_plan(response)
        return float(plan is not None and tools_of(plan) == tools_of(self._wanted(problem, plan)))

    def check(self, example: Example) -> bool | None:
        """Whether a response answers its prompt, as far as that can be said.

        Known problems are graded. Of others a response is wrong if it is no plan or could not be carried out; else
        that cannot be said.
        """
        known = super().check(example)
        if known is not None:
            return known
        plan = read_plan(example.response)
        return False if plan is None or validate(plan) else None

    def measures(self, problem: Problem, response: str) -> Mapping[str, float]:
        """Compares a response with the reference plan; see `dgym.graders.plan_scores.compare`."""
        plan = read_plan(response)
        return compare(self._wanted(problem, plan), plan)

    def summary(self, attempts: Sequence[Attempt]) -> Mapping[str, float]:
        """Returns the scores of m&m's evaluator; see `dgym.graders.plan_scores.pooled`."""
        plans = [read_plan(attempt.response) for attempt in attempts]
        wanted = [self._wanted(a.problem, plan) for a, plan in zip(attempts, plans, strict=True)]
        return pooled(list(zip(wanted, plans, strict=True)), tuple(TOOLS))

    def _wanted(self, problem: Problem, plan: Plan | None) -> Plan:
        """Returns the plan that another is compared with."""
        reference = read_plan(problem.reference)
        if reference is None:
            raise DomainError(f"The reference of the {self.name} problem {problem.id!r} is no plan.")
        others = self._alternative_plans.get(problem.id, ()) if self._alternatives else ()
        return best_match([reference, *others], plan)


def _request(row: Row) -> str:
    return " ".join(row["user_request"].casefold().split())


def _once(rows: Iterable[Row]) -> list[Row]:
    """Returns the rows whose request no row before has."""
    return list({_request(row): row for row in reversed([*rows])}.values())[::-1]
