"""What domains share whose problems have one final answer in mathematics.

What this module does not know: the data sets, and how two answers are compared (`dgym.graders.math_answers`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from dgym.core import Example, Grade, Problem
from dgym.domains.dataset import HumanExamples, content_id
from dgym.graders.math_answers import Mode, final_answer, right_all


class FinalAnswers(HumanExamples):
    """A domain whose responses are graded by their final answer.

    Attributes:
        rules: Whose rules say whether two answers are equal.
    """

    rules: Mode = "math-verify"

    def grade(self, problem: Problem, response: str) -> float:
        """Compares the final answer with the published one; 1.0 or 0.0."""
        return self.grade_all([problem], [response])[0][0]

    def grade_all(self, problems: Sequence[Problem], responses: Sequence[str]) -> Sequence[Grade]:
        """Compares final answers."""
        pairs = [(p.reference, r) for p, r in zip(problems, responses, strict=True)]
        return [(float(right), {}) for right in right_all(self.rules, pairs)]

    def check(self, example: Example) -> bool | None:
        """Says whether an example's response answers its prompt, as far as that can be said.

        A response without a final answer that is marked as such is none. Known problems are graded; whether other
        answers are right is not known.
        """
        answer = final_answer(example.response, self.rules, marked=True)
        return super().check(example) if answer is not None and self.is_answer(answer) else False

    def is_answer(self, text: str) -> bool:
        """Whether a final answer is of the kind that is asked for."""
        return True

    def ids(self, texts: Sequence[str]) -> list[str]:
        """Names problems by their text, and where several have the same text, by their turn too."""
        seen: Counter[str] = Counter()
        out = []
        for text in texts:
            seen[text] += 1
            out.append(content_id(self.base, text, *([seen[text]] if seen[text] > 1 else [])))
        return out

    def unseen(self, problems: Iterable[Problem], hidden: Iterable[Problem]) -> list[Problem]:
        """Returns the problems whose reference has an answer, each once, without those that are hidden too."""
        known = {self.fingerprints(p.prompt)[0] for p in hidden}
        kept = []
        for problem in problems:
            (words,) = self.fingerprints(problem.prompt)
            if words not in known and final_answer(problem.reference, self.rules, marked=True) is not None:
                known.add(words)
                kept.append(problem)
        return kept
