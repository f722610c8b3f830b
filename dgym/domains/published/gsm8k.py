"""GSM8K: grade-school word problems in English (Cobbe et al. 2021, https://arxiv.org/abs/2110.14168).

Validation is 1,000 problems of *train*, chosen by hash; the rest of *train* is the human baseline. Test is the
published test. There are no gold skills; the number of steps in the published solution stands for one.

References are the published solutions without their marks for a calculator (`<<48/2=24>>`), and with the number after
`####` in a sentence, as the problems ask for it.

What this module does not know: how an answer is found and compared (`dgym.graders.math_answers`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar, Final

from dgym.core import Problem, Split
from dgym.data import DataSet, Kind, Part, Row
from dgym.domains.dataset import by_hash
from dgym.domains.published.final_answers import FinalAnswers
from dgym.errors import DomainError

_COLUMNS: Final[dict[str, Kind]] = {"question": "text", "answer": "text"}
_VALIDATION: Final = 1_000
_CALCULATION: Final = re.compile(r"<<[^<>]*>>")
# The authors' own pattern, but for a sign of money.
_ANSWER: Final = re.compile(r"\s*\$?(-?[0-9.,]*[0-9])")

DATA: Final = DataSet(
    name="gsm8k",
    title="grade-school word problems",
    parts=(
        Part("train", _COLUMNS, config="main", rows=7_473),
        Part("test", _COLUMNS, config="main", rows=1_319),
    ),
    licence="MIT",
    homepage="https://github.com/openai/grade-school-math",
    hub="openai/gsm8k",
    revision="740312add88f781978c0658806c59bc2815b9866",
    bytes=5_000_000,
)


class Gsm8k(FinalAnswers):
    """Grade-school word problems in English, answered with a number (GSM8K)."""

    base = "gsm8k"
    version = "1"
    data = DATA
    sizes: ClassVar[Mapping[Split, int]] = {"feedback": 500, "selection": 500, "test": 1_319}
    description = (
        "Word problems in English at the level of a grade school, which take two to eight steps of arithmetic."
    )
    answer_format = (
        "The steps in a few short sentences, and at the end the number: 'The final answer is 42.' "
        "The number in \\boxed{} counts too."
    )
    instruction: ClassVar[tuple[str, str]] = (
        "Solve the following problem step by step. End with: The final answer is ANSWER.\n\n",
        "",
    )

    def validation(self) -> Sequence[Problem]:
        """Returns 1,000 problems of the published train split."""
        return self._spare[: self._validation]

    def train(self) -> Sequence[Problem]:
        """Returns the rest of it, with the published solutions."""
        return self._spare[self._validation :]

    def test(self) -> Sequence[Problem]:
        """Returns the published test split."""
        return self._problems(self.rows("test"))

    def is_answer(self, text: str) -> bool:
        """Whether a final answer has a number in it."""
        return re.search(r"\d", text) is not None

    @property
    def _validation(self) -> int:
        return min(_VALIDATION, len(self._spare) // 3)

    @cached_property
    def _spare(self) -> Sequence[Problem]:
        rows = by_hash(self.rows("train"), lambda row: (row["question"], row["answer"]), self.base)
        return self.unseen(self._problems(rows), self.problems("test"))

    def _problems(self, rows: Sequence[Row]) -> list[Problem]:
        problems = []
        for name, row in zip(self.ids([row["question"].strip() for row in rows]), rows, strict=True):
            solution, mark, end = row["answer"].rpartition("####")
            answer = _ANSWER.match(end)
            if not mark or answer is None:
                raise DomainError(
                    f"The data set {self.data.name!r} has {row['answer'][-40:]!r} at the end of an answer, where "
                    "'#### 42' was expected: it has changed upstream."
                )
            steps = len(solution.strip().splitlines())
            shown = _CALCULATION.sub("", solution).strip()
            problems.append(
                Problem(
                    id=name,
                    prompt=self.frame(row["question"].strip()),
                    reference=f"{shown}\nThe final answer is {answer[1].replace(',', '')}.",
                    skill="1 or 2 steps" if steps < 3 else "3 or 4 steps" if steps < 5 else "5 or more steps",
                )
            )
        return problems
