"""Answers to questions about images: GQA's exact match, and NaturalBench's yes or no, A or B in groups of four.

Both follow lmms-eval 0.7.3 (https://github.com/EvolvingLMMs-Lab/lmms-eval), which most published results on the two
benchmarks come from: `tasks/gqa/gqa.yaml` with `api/metrics.py`, and `tasks/naturalbench/utils.py`, whose functions are
those of NaturalBench's authors.

What this module does not know: questions, images, and which problems belong together.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Final, Literal

Kind = Literal["yes_no", "multiple_choice"]
"""What NaturalBench asks for: yes or no, or the letter of one of two options."""

_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_FIRST: Final[Mapping[Kind, tuple[re.Pattern[str], re.Pattern[str]]]] = {
    "yes_no": (re.compile(r"\byes\b", re.IGNORECASE), re.compile(r"\bno\b", re.IGNORECASE)),
    "multiple_choice": (re.compile(r"\bA\b", re.IGNORECASE), re.compile(r"\bB\b", re.IGNORECASE)),
}


def normalise(answer: str) -> str:
    """Removes surrounding white space and ASCII punctuation, and writes all in lower case; articles stay."""
    return answer.strip().lower().translate(_PUNCTUATION)


def exact_match(reference: str, response: str) -> bool:
    """Whether a response is the reference, but for case and punctuation."""
    return normalise(reference) == normalise(response)


def extract(response: str, kind: Kind) -> int:
    """Finds the answer in a response: whichever word comes first.

    Case does not matter, so that the article "a" counts as option A, as in the original.

    Returns:
        1 for yes or A, 0 for no or B, -1 for neither.
    """
    yes, no = (pattern.search(response) for pattern in _FIRST[kind])
    if yes is None or no is None:
        return 1 if yes else 0 if no else -1
    return int(yes.start() < no.start())


def scores(groups: Sequence[Sequence[Sequence[bool]]]) -> dict[str, float]:
    """Computes NaturalBench's four scores (Li et al. 2024, section 3).

    They are those of the original's `get_scores`, which says of its results: `'Acc': Average binary VQA acc`, `'Q_Acc':
    Average question acc`, `'I_Acc': Average image acc`, `'G_Acc': Average group acc`.

    Args:
        groups: Of every group, by question and image, whether the answer is right: `group[question][image]`.

    Returns:
        `accuracy`, of all answers; `question_score`, of questions that are answered rightly of both images;
        `image_score`, of images of which both questions are; `group_score`, of groups in which all four are; each in
        [0, 1], and 0 without groups.
    """
    answers = [right for group in groups for question in group for right in question]
    questions = [all(question) for group in groups for question in group]
    images = [all(image) for group in groups for image in zip(*group, strict=True)]
    whole = [all(map(all, group)) for group in groups]
    names = ("accuracy", "question_score", "image_score", "group_score")
    verdicts = (answers, questions, images, whole)
    return {name: sum(v) / len(v) if v else 0.0 for name, v in zip(names, verdicts, strict=True)}
