"""GQA: questions of about a hundred types about photographs (Hudson & Manning 2019, https://arxiv.org/abs/1902.09506).

As in the DataEnvGym paper, validation is five questions of each type from the balanced *val* set and test five of each
from the balanced *testdev* set; which five is decided by hash. The types, such as `existAttrC`, are the gold skills
(`types.detailed`); their structures (`query`, `verify`, `choose`, `logical`, `compare`) are reported as slices.

Of the questions `dgym data pull` stores twenty of each type, and of the images those that they ask about. A response is
right if it is the published answer but for case and punctuation (see `dgym.graders.vqa`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Final

from dgym.core import Problem, Split
from dgym.data import DataSet, Kind, Part, Row
from dgym.domains.dataset import DataSetDomain, by_hash, content_id, first_of_each, text_of
from dgym.errors import DomainError, UsageError
from dgym.graders.vqa import exact_match

STORED: Final = 20
"""How many questions of each type are stored, and can be asked."""

_PER_TYPE: Final = 5
_QUESTIONS: Final[dict[str, Kind]] = {
    "id": "text",
    "imageId": "text",
    "question": "text",
    "answer": "text",
    "types": "json",
}
_IMAGES: Final[dict[str, Kind]] = {"id": "text", "image": "image"}


def _type(row: Row) -> str:
    types = row["types"]
    if not isinstance(types, Mapping) or not {"detailed", "structural"} <= types.keys():
        raise DomainError(f"The question {row['id']!r} of GQA has no detailed and structural type, but {types!r}.")
    return text_of(types["detailed"])


def _first(rows: Iterable[Row], count: int) -> list[Row]:
    return first_of_each(by_hash(rows, lambda row: row["id"], "gqa"), _type, count)


def some_of_each_type(rows: Iterable[Row], _: Mapping[str, Sequence[Row]]) -> Iterator[Row]:
    """Chooses the questions that are stored: the first of each type by hash."""
    chosen: list[Row] = []
    for row in rows:
        chosen.append(row)
        if len(chosen) > 20_000:
            chosen = _first(chosen, STORED)
    yield from _first(chosen, STORED)


def images_of(part: str) -> Callable[[Iterable[Row], Mapping[str, Sequence[Row]]], Iterator[Row]]:
    """Chooses the images that the stored questions of a part are about.

    Raises:
        DomainError: When the rows end and one of them is missing.
    """

    def keep(rows: Iterable[Row], before: Mapping[str, Sequence[Row]]) -> Iterator[Row]:
        wanted = {row["imageId"] for row in before[part]}
        for row in rows:
            if row["id"] in wanted:
                wanted.remove(row["id"])
                yield row
        if wanted:
            raise DomainError(f"{len(wanted)} images of GQA that {part!r} asks about are missing: {min(wanted)}, ...")

    return keep


DATA: Final = DataSet(
    name="gqa",
    title="questions of a hundred types about photographs",
    parts=(
        Part(
            "val",
            _QUESTIONS,
            config="val_balanced_instructions",
            split="val",
            rows=132_062,
            keep=some_of_each_type,
        ),
        Part(
            "testdev",
            _QUESTIONS,
            config="testdev_balanced_instructions",
            split="testdev",
            rows=12_578,
            keep=some_of_each_type,
        ),
        Part(
            "testdev-images",
            _IMAGES,
            config="testdev_balanced_images",
            split="testdev",
            rows=398,
            keep=images_of("testdev"),
        ),
        Part(
            "val-images",
            _IMAGES,
            config="val_balanced_images",
            split="val",
            rows=10_234,
            keep=images_of("val"),
        ),
    ),
    licence="CC BY 4.0 (the mirror's card says MIT); the photographs have the licences of Visual Genome's",
    homepage="https://cs.stanford.edu/people/dorarad/gqa",
    hub="lmms-lab/GQA",
    revision="a6e72d6e1b912da88af8b2f9eba05d5ea8ec2dd8",
    mirrors=("lmms-lab-encoder/GQA",),
    bytes=1_500_000_000,
)


class Gqa(DataSetDomain):
    """Questions about photographs, answered with a word or two (GQA).

    Args:
        fixture: Whether to use the small data set of dgym's own writing.
        per_type: How many questions of each type validation and test have, at most 20; 5 as in the paper.
    """

    base = "gqa"
    version = "1"
    data = DATA
    sizes: ClassVar[Mapping[Split, int]] = {"feedback": 250, "selection": 250, "test": 500}
    description = (
        "Questions about a photograph: whether something is there, what it is, what it is made of, which colour, shape "
        "or state it has, where it is and how it stands to other things, what two things have in common, which of two "
        "holds; also about the place and the weather. Many take several steps, from one thing to the next."
    )
    answer_format = (
        "A single word or phrase in lower case and nothing else, such as 'yes', 'left', 'wood' or 'tennis racket'."
    )
    instruction: ClassVar[tuple[str, str]] = ("", "\nAnswer the question using a single word or phrase.")
    pictures: ClassVar[str] = (
        "Describe a photograph in one or two sentences: the place, the things and people in it that the question is "
        "about, each with its colour, material or state, and how they stand to each other. The question must have one "
        "right answer about the picture that is drawn from these words."
    )

    def __init__(self, *, fixture: bool = False, per_type: str | int = _PER_TYPE) -> None:
        super().__init__(fixture=fixture)
        try:
            self._per_type = int(per_type)
        except ValueError:
            self._per_type = 0
        if isinstance(per_type, bool) or not 1 <= self._per_type <= STORED:
            raise UsageError(f"per_type of the domain gqa must be a whole number from 1 to {STORED}, not {per_type!r}.")
        if self._per_type != _PER_TYPE:
            self.name = self.named(f"per_type={self._per_type}")

    def validation(self) -> Sequence[Problem]:
        """Returns the first questions of each type of *val*."""
        return self._problems("val")

    def test(self) -> Sequence[Problem]:
        """Returns the first questions of each type of *testdev*."""
        return self._problems("testdev")

    def _problems(self, part: str) -> Sequence[Problem]:
        rows = _first(self.rows(part), self._per_type)
        wanted = {row["imageId"] for row in rows}
        found = self.source.pick(f"{part}-images", where="id", among=wanted)
        images: dict[str, bytes] = {row["id"]: row["image"] for row in found}
        missing = wanted - images.keys()
        if missing:
            raise DomainError(f"{len(missing)} images of GQA's {part!r} are missing: {min(missing)}, ...")
        return [
            Problem(
                id=content_id("gqa", row["id"]),
                prompt=self.frame(row["question"]),
                reference=text_of(row["answer"]),
                skill=_type(row),
                images=(images[row["imageId"]],),
                slice=text_of(row["types"]["structural"]),
            )
            for row in rows
        ]

    def grade(self, problem: Problem, response: str) -> float:
        """Compares the response with the published answer; 1.0 or 0.0."""
        return float(exact_match(problem.reference, response))
