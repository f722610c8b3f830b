r"""MATH: problems of mathematics competitions (Hendrycks et al. 2021, https://arxiv.org/abs/2103.03874).

Validation is up to 50 problems of each subject and level of *train*, chosen by hash where DataEnvGym takes the first;
those without a level are left out. The rest of *train* is the human baseline. Test is all 5,000 of the published test.
Gold skills are the seven subjects, and results are also reported by level.

The problems ask for a box, as DataEnvGym's do; examples of other problems, which it shows to a student that is not yet
trained, are not shown. Answers are compared by math-verify, or with `grader=minerva` by the rules of Minerva, which the
paper uses.

The original on the hub, hendrycks/competition_math, was taken down after a DMCA notice, and lighteval/MATH, which
DataEnvGym names, is gone. EleutherAI/hendrycks_math has the same rows in a table for each subject: to use it, put its
tables one after the other into `train.jsonl` and `test.jsonl` of a folder, for `dgym data pull --from`.

What this module does not know: how an answer is found and compared (`dgym.graders.math_answers`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar, Final

from dgym.core import Problem, Split
from dgym.data import DataSet, Kind, Part, Row
from dgym.domains.dataset import by_hash, first_of_each
from dgym.domains.published.final_answers import FinalAnswers
from dgym.errors import DomainError, unknown_name
from dgym.graders.math_answers import MODES

_COLUMNS: Final[dict[str, Kind]] = {"problem": "text", "level": "text", "type": "text", "solution": "text"}
_LEVELS: Final = frozenset(f"level {n}" for n in range(1, 6))
_EACH: Final = 50
_EACH_OF_FIXTURE: Final = 2

DATA: Final = DataSet(
    name="hendrycks-math",
    title="competition mathematics (MATH)",
    parts=(Part("train", _COLUMNS, rows=7_500), Part("test", _COLUMNS, rows=5_000)),
    licence="MIT; the problems are those of competitions, and the first copy on the hub fell to a DMCA notice",
    homepage="https://github.com/hendrycks/math",
    hub="DigitalLearningGmbH/MATH-lighteval",
    revision="0530c78699ea5e8eb5530600900e1f328b48acad",
    mirrors=("xDAN2099/lighteval-MATH",),
    bytes=4_848_021,
)


class HendrycksMath(FinalAnswers):
    """Competition mathematics in English and LaTeX (MATH).

    Args:
        fixture: Whether to use the small data set of dgym's own writing.
        grader: `"math-verify"`, or `"minerva"` for the rules of the paper.

    Raises:
        UsageError: If there is no such grader.
    """

    base = "hendrycks-math"
    version = "1"
    data = DATA
    # At most; subjects and levels with fewer than 50 problems give fewer.
    sizes: ClassVar[Mapping[Split, int]] = {"feedback": 875, "selection": 875, "test": 5_000}
    description = (
        "Problems of mathematics competitions for high schools, in English and LaTeX: algebra, counting and "
        "probability, geometry, number theory, precalculus. Levels go from 1, easy, to 5."
    )
    answer_format = (
        "A solution step by step, with the final answer in \\boxed{}, in LaTeX and as simple as it can be: "
        "\\boxed{\\frac{3}{4}}, \\boxed{(2, -1)}, \\boxed{[0, 3)}, \\boxed{\\text{even}}. The last box counts."
    )
    instruction: ClassVar[tuple[str, str]] = ("Put the final answer in \\boxed{}.\n\n", "")

    def __init__(self, *, fixture: bool = False, grader: str = "math-verify") -> None:
        super().__init__(fixture=fixture)
        chosen = next((mode for mode in MODES if mode == grader), None)
        if chosen is None:
            raise unknown_name(f"grader of the domain {self.base!r}", str(grader), MODES)
        self.rules = chosen
        if chosen != FinalAnswers.rules:
            self.name = self.named(f"grader={chosen}")

    def validation(self) -> Sequence[Problem]:
        """Returns up to 50 problems of each subject and level of the published train split."""
        levelled = (p for p in self._spare if p.slice in _LEVELS)
        each = _EACH_OF_FIXTURE if self._fixture else _EACH
        return first_of_each(levelled, lambda p: f"{p.skill}, {p.slice}", each)

    def train(self) -> Sequence[Problem]:
        """Returns the rest of it, with the published solutions."""
        chosen = {p.id for p in self.validation()}
        return [p for p in self._spare if p.id not in chosen]

    def test(self) -> Sequence[Problem]:
        """Returns the published test split."""
        return self._problems(self.rows("test"))

    @cached_property
    def _spare(self) -> Sequence[Problem]:
        rows = by_hash(self.rows("train"), lambda row: (row["problem"], row["solution"]), self.base)
        return self.unseen(self._problems(rows), self.problems("test"))

    def _problems(self, rows: Sequence[Row]) -> list[Problem]:
        problems = []
        for name, row in zip(self.ids([row["problem"].strip() for row in rows]), rows, strict=True):
            level, subject = row["level"].strip(), row["type"].strip()
            if not level.startswith("Level ") or not subject:
                raise DomainError(
                    f"The data set {self.data.name!r} has {level!r} for a level and {subject!r} for a type of "
                    f"{row['problem'][:40]!r}, where 'Level 3' and a subject were expected: it has changed upstream."
                )
            problems.append(
                Problem(
                    id=name,
                    prompt=self.frame(row["problem"].strip()),
                    reference=row["solution"].strip(),
                    skill=subject,
                    slice=level.lower(),
                )
            )
        return problems
