"""NaturalBench: pairs of photographs with pairs of questions that tell them apart (Li et al. 2024, arXiv 2410.14669).

A group is two images and two questions, each of which has one answer for the first image and the other for the second:
yes or no, or one of two options. A group becomes four problems that are graded together. The score of each is the
group score, 1 if all four are right; whether it is right by itself, and whether its question is of both images and its
image in both questions, are its measures. So the mean score is the published group score, and the mean measures are
the other three.

Validation is 200 groups and test 200 others, chosen by hash; the remaining 1,500 are the human baseline. (The code of
the DataEnvGym paper takes the first 51 and the last 50.) The authors' release has no skills; the type of question,
`yes_no` or `multiple_choice`, is the gold skill, and the source of the images is reported as a slice.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Final

from dgym.core import Attempt, Example, Grade, Problem, Split, derive_seed
from dgym.data import DataSet, Kind, Part, Row
from dgym.domains.dataset import DataSetDomain, by_hash, content_id, text_of
from dgym.errors import DomainError, unknown_name
from dgym.graders import vqa

_GROUPS: Final = 200
_TEXTS: Final[dict[str, Kind]] = {
    "Index": "int",
    "Question_0": "text",
    "Image_0_Question_0": "text",
    "Image_1_Question_0": "text",
    "Question_1": "text",
    "Image_0_Question_1": "text",
    "Image_1_Question_1": "text",
    "Question_Type": "text",
    "Source": "text",
}

DATA: Final = DataSet(
    name="naturalbench",
    title="pairs of photographs with pairs of questions",
    parts=(
        Part(
            "train",
            {**_TEXTS, "Image_0": "image", "Image_1": "image"},
            rows=1_900,
            optional=frozenset({"Source"}),
        ),
    ),
    licence="Apache-2.0; the photographs come from Flickr30K and DOCCI, under their own terms",
    homepage="https://linzhiqiu.github.io/papers/naturalbench",
    hub="BaiqiL/NaturalBench",
    revision="21c415e3d60cdbabad4a02feaa2e4643789612f4",
)

_SUFFIXES: Final[Mapping[vqa.Kind, str]] = {
    "yes_no": "Please answer Yes or No.",
    "multiple_choice": "Please output the letter corresponding to the correct option.",
}
_OPTIONS: Final = re.compile(r"\bA\s*[:.)].*\bB\s*[:.)]", re.DOTALL)
_SPARE: Final = ("arithmetic", "spelling", "stripes")
_OPPOSITE: Final = {"yes": "No", "no": "Yes", "a": "B", "b": "A"}


@dataclass(frozen=True, slots=True)
class _Group:
    """Two images and two questions, without the images.

    Attributes:
        index: Their number in the data set.
        kind: What is asked for.
        questions: Both.
        answers: By question and image.
        source: Where the images come from.
    """

    index: int
    kind: vqa.Kind
    questions: tuple[str, str]
    answers: tuple[tuple[str, str], tuple[str, str]]
    source: str

    @property
    def name(self) -> str:
        return content_id("naturalbench", self.index, *self.questions)


class NaturalBench(DataSetDomain):
    """Questions about photographs in groups of four, all of which must be right (NaturalBench)."""

    base = "naturalbench"
    version = "1"
    data = DATA
    sizes: ClassVar[Mapping[Split, int]] = {"feedback": 400, "selection": 400, "test": 800}
    description = (
        "Questions about a photograph that people answer easily: what is there, what it is like, what it does and how "
        "it stands to other things. Every question is asked of two similar photographs, of which the answers differ, "
        "and two such questions of the same two photographs make a group; a group counts if all four answers are right."
    )
    answer_format = "'Yes' or 'No', or where the question has options, the letter 'A' or 'B'; nothing else."
    pictures: ClassVar[str] = (
        "Describe a photograph in one or two sentences: the place, the people and things in it that the question is "
        "about, what they look like and do, and how they stand to each other. The question must have one right answer "
        "about the picture that is drawn from these words."
    )

    # The groups ------------------------------------------------------------------------------------------------

    @cached_property
    def _groups(self) -> Mapping[str, Sequence[_Group]]:
        """Returns the groups of validation, test and train."""
        rows = self.source.pick("train", tuple(_TEXTS))
        groups = by_hash(map(_group, rows), lambda group: group.name, "naturalbench")
        count = min(_GROUPS, len(groups) // 4)
        return {
            "validation": groups[:count],
            "test": groups[count : 2 * count],
            "train": groups[2 * count :],
        }

    def _problems(self, groups: Iterable[_Group], chosen: Callable[[Problem], bool] | None = None) -> list[Problem]:
        groups = tuple(groups)
        columns = ("Index", "Image_0", "Image_1")
        rows = self.source.pick("train", columns, where="Index", among=[group.index for group in groups])
        images = {row["Index"]: (row["Image_0"], row["Image_1"]) for row in rows}
        out = []
        for group in groups:
            for q, question in enumerate(group.questions):
                for i, image in enumerate(images[group.index]):
                    out.append(
                        Problem(
                            id=content_id(group.name, q, i),
                            prompt=f"{question} {_SUFFIXES[group.kind]}",
                            reference=group.answers[q][i],
                            skill=group.kind,
                            images=(image,),
                            slice=group.source,
                            group=group.name,
                        )
                    )
        return out if chosen is None else [problem for problem in out if chosen(problem)]

    def validation(self) -> Sequence[Problem]:
        """Returns the problems of 200 groups."""
        return self._problems(self._groups["validation"])

    def test(self) -> Sequence[Problem]:
        """Returns the problems of 200 other groups."""
        return self._problems(self._groups["test"])

    def train(self) -> Sequence[Problem]:
        """Returns those of all remaining groups."""
        return self._problems(self._groups["train"])

    # Grading ---------------------------------------------------------------------------------------------------

    def grade(self, problem: Problem, response: str) -> float:
        """Says whether this one answer is right, whatever becomes of the others of its group; 1.0 or 0.0."""
        kind = _kind(problem.reference)
        return float(kind is not None and vqa.extract(response, kind) == vqa.extract(problem.reference, kind))

    def grade_all(self, problems: Sequence[Problem], responses: Sequence[str]) -> Sequence[Grade]:
        """Grades by groups: the score of a problem is that of its group, as far as it was asked.

        The measures are `right`, the verdict on the problem itself, `question_score`, whether its question is answered
        rightly of every image, and `image_score`, whether every question about its image is.
        """
        right = [self.grade(p, r) for p, r in zip(problems, responses, strict=True)]
        least: dict[tuple[object, ...], float] = {}
        for problem, verdict in zip(problems, right, strict=True):
            for key in _keys(problem):
                least[key] = min(verdict, least.get(key, 1.0))
        out = []
        for problem, verdict in zip(problems, right, strict=True):
            group, question, image = (least[key] for key in _keys(problem))
            out.append((group, {"right": verdict, "question_score": question, "image_score": image}))
        return out

    def summary(self, attempts: Sequence[Attempt]) -> Mapping[str, float]:
        """Returns the four published scores, of the groups of which all four problems were asked.

        They are computed as the original's `get_scores` does (see `dgym.graders.vqa.scores`).
        """
        groups: dict[str, dict[tuple[str, tuple[bytes, ...]], bool]] = {}
        for attempt in attempts:
            p = attempt.problem
            groups.setdefault(p.group or p.id, {})[p.prompt, p.images] = attempt.correct
        tables = []
        for group in groups.values():
            prompts, images = (list(dict.fromkeys(key[place] for key in group)) for place in (0, 1))
            if len(group) == 4 and len(prompts) == len(images) == 2:
                tables.append([[group[prompt, image] for image in images] for prompt in prompts])  # type: ignore[index]
        return vqa.scores(tables)

    def check(self, example: Example) -> bool | None:
        """Grades the answer to a known problem; says nothing of others."""
        problem = self._find(example.prompt, example.images)
        return None if problem is None else self.grade(problem, example.response) >= 1.0

    # How a problem is worded -----------------------------------------------------------------------------------

    def frame(self, prompt: str) -> str:
        """Asks for the letter of an option where the question has options, else for yes or no, as the original does."""
        question = self.bare(prompt)
        return f"{question} {_SUFFIXES['multiple_choice' if _OPTIONS.search(question) else 'yes_no']}"

    def bare(self, prompt: str) -> str:
        """Returns the question without what is asked for."""
        text = prompt.strip()
        for suffix in _SUFFIXES.values():
            text = text.removesuffix(suffix).strip()
        return text

    # Examples by people ----------------------------------------------------------------------------------------

    @cached_property
    def _by_question(self) -> Mapping[str, Sequence[_Group]]:
        found: dict[str, list[_Group]] = {}
        for groups in self._groups.values():
            for group in groups:
                for question in group.questions:
                    found.setdefault(question, []).append(group)
        return found

    def _find(self, prompt: str, images: tuple[bytes, ...]) -> Problem | None:
        """Looks a problem up among all of them; images are only read where the question is a known one."""
        question = self.bare(prompt)
        groups = self._by_question.get(question, ())
        if not groups or len(images) != 1:
            return None
        found = self._problems(groups, lambda p: p.images == images and self.bare(p.prompt) == question)
        return found[0] if found else None

    def skills(self) -> Sequence[str]:
        """Returns the types of question."""
        return tuple(sorted({group.kind for groups in self._groups.values() for group in groups}))

    def subskills(self, skill: str) -> Sequence[str]:
        """Returns none: types of question are not divided further."""
        return ()

    def off_domain(self) -> Sequence[str]:
        """Returns kinds of question about drawn pictures that nobody asks here."""
        return _SPARE

    def infer_skill(self, prompt: str, images: tuple[bytes, ...] = ()) -> str | None:
        """Looks a problem up among the known ones."""
        problem = self._find(prompt, images)
        return None if problem is None else problem.skill

    def fresh(self, skill: str, count: int, seed: int) -> list[Example]:
        """Draws distinct examples of the train split: `count`, or as many as there are.

        Raises:
            UsageError: If there is no such skill.
        """
        if skill in _SPARE:
            from dgym.domains.vqa import VqaDomain

            return VqaDomain().fresh(skill, count, seed)
        if skill not in self.skills():
            raise unknown_name(f"{self.name} skill", skill, (*self.skills(), *_SPARE))
        groups = [group for group in self._groups["train"] if group.kind == skill]
        places = [(group, place) for group in groups for place in range(4)]
        drawn = random.Random(derive_seed(self.base, skill, seed)).sample(places, min(count, len(places)))
        problems = {p.id: p for p in self._problems(dict.fromkeys(group for group, _ in drawn))}
        found = [problems[content_id(group.name, *divmod(place, 2))] for group, place in drawn]
        return [Example(p.prompt, p.reference, skill, images=p.images) for p in found]

    def wrong_answer(self, example: Example, seed: int) -> Example:
        """Returns the example with the opposite answer.

        Raises:
            DomainError: If its answer is neither yes nor no, nor the letter of an option.
        """
        problem = self._find(example.prompt, example.images)
        right = vqa.normalise(problem.reference if problem else example.response)
        if right not in _OPPOSITE:
            raise DomainError(f"No wrong answer found for {example.prompt[:80]!r}.")
        return Example(example.prompt, _OPPOSITE[right], example.skill, example.item, example.images)


def _group(row: Row) -> _Group:
    kind = row["Question_Type"]
    answers = [[text_of(row[f"Image_{i}_Question_{q}"]) for i in (0, 1)] for q in (0, 1)]
    if kind not in _SUFFIXES or {_kind(answer) for pair in answers for answer in pair} != {kind}:
        raise DomainError(
            f"Group {row['Index']} of NaturalBench is no pair of questions of one known type: {kind!r} with {answers}."
        )
    (a, b), (c, d) = answers
    questions = (text_of(row["Question_0"]), text_of(row["Question_1"]))
    return _Group(row["Index"], kind, questions, ((a, b), (c, d)), text_of(row["Source"] or ""))


def _kind(answer: str) -> vqa.Kind | None:
    word = vqa.normalise(answer)
    return "yes_no" if word in ("yes", "no") else "multiple_choice" if word in ("a", "b") else None


def _keys(problem: Problem) -> tuple[tuple[object, ...], ...]:
    """Returns what a problem shares: with its group, with those of its question, with those of its image."""
    group = problem.group or problem.id
    return (group,), (group, problem.prompt), (group, problem.images)
