"""reasoning-gym: a hundred kinds of puzzle, made and scored by a library (Stojanovski et al. 2025, arXiv 2505.24760).

Every generator of reasoning-gym 0.1.25 is a skill, at its default difficulty; its family, such as `algebra`, is the
slice. Of each, 20 validation and 30 test problems are drawn once, when the data set is computed, or fewer where it has
no more different ones. Half of all questions, by a hash of their text, belong to neither; those are what privileged
teachers draw, afresh and without end.

A score is the library's own, between 0 and 1 where it gives partial credit, and an answer is correct at 1 only (see
`dgym.graders.reasoning_gym` for what differs). `LEFT_OUT` says which generators are not asked, and why.

What this module does not know: how a puzzle is made or scored.
"""

from __future__ import annotations

import math
import random
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from importlib.metadata import version
from typing import ClassVar, Final

from dgym.core import Example, Grade, Problem, Split, derive_seed
from dgym.data import DataSet, Kind, Part, Row
from dgym.domains.dataset import DataSetDomain, by_hash, content_id
from dgym.domains.procedural import percentile
from dgym.errors import DomainError, UsageError, unknown_name
from dgym.graders.reasoning_gym import CHUNK, Entry, draw_all, generators, score_all

RELEASE: Final = "0.1.25"
"""The release of reasoning-gym whose problems these are."""

LEFT_OUT: Final[Mapping[str, str]] = {
    "boxnet": "it has no answer to give, and scores one move where a solution takes several",
    "coin_flip": "its scorer takes 0 for any probability",
    "composite": "it mixes the problems of the others",
    "game_of_life_halting": "its scorer takes any answer for right",
    "puzzle24": "its scorer takes any four numbers that make 24, whichever were given",
    "rush_hour": "it has no answer to give",
}
"""Generators that are not asked, and why."""

_PER_GENERATOR: Final[Mapping[str, int]] = {"validation": 20, "test": 30}
_LONGEST: Final = 10_000
_CHANGING: Final = re.compile(
    r"random|numpy|now\(|today\(|time\.|import time|from time|datetime|perf_counter|uuid|socket|urllib|requests|hash\(|"
    r"\bid\(|\bset\("
)
_AT_ONCE: Final = 32
_BATCH: Final = 60
_PIECE: Final = 5

_COLUMNS: Final[dict[str, Kind]] = {
    "generator": "text",
    "category": "text",
    "seed": "int",
    "index": "int",
    "question": "text",
    "answer": "text",
    "metadata": "json",
}


def part_of(generator: str, question: str) -> str:
    """Returns `"train"`, `"validation"` or `"test"`: where a question belongs, by hash."""
    place = percentile(f"{generator}|{question.strip()}")
    return "train" if place < 50 else "validation" if place < 70 else "test"


def _usable(entry: Entry) -> bool:
    # The programs of codeio are run to get their answers; some give others every day, or with another numpy.
    changing = entry.generator == "codeio" and _CHANGING.search(entry.question)
    return entry.sound and not changing and len(entry.question) <= _LONGEST and len(entry.answer) <= _LONGEST


def rows_of(part: str) -> Iterator[Row]:
    """Computes the rows of a part.

    Raises:
        DomainError: If another release of the library is installed.
    """
    if version("reasoning-gym") != RELEASE:
        raise DomainError(
            f"The problems are those of reasoning-gym {RELEASE}; {version('reasoning-gym')} is installed, which may "
            "make others."
        )
    names = [name for name in generators() if name not in LEFT_OUT]
    for start in range(0, len(names), _AT_ONCE):
        for parts in _evaluation(tuple(names[start : start + _AT_ONCE])):
            yield from parts[part]


@lru_cache(maxsize=64)  # one computation for both parts
def _evaluation(names: tuple[str, ...]) -> Sequence[Mapping[str, Sequence[Row]]]:
    """Draws the validation and test problems of some generators, side by side."""
    found: dict[str, dict[str, dict[str, Row]]] = {name: {part: {} for part in _PER_GENERATOR} for name in names}
    for start in range(0, CHUNK, _BATCH):
        lacking = [n for n in names if any(len(found[n][part]) < most for part, most in _PER_GENERATOR.items())]
        seeds = [derive_seed("reasoning-gym", "evaluation", name) >> 32 for name in lacking]
        drawn = draw_all([(name, seed, start, _BATCH) for name, seed in zip(lacking, seeds, strict=True)])
        for entry in (entry for entries in drawn for entry in entries if _usable(entry)):
            rows = found[entry.generator].get(part_of(entry.generator, entry.question))
            if rows is not None and len(rows) < _PER_GENERATOR[part_of(entry.generator, entry.question)]:
                rows.setdefault(entry.question.strip(), {name: getattr(entry, name) for name in _COLUMNS})
    return [{part: tuple(rows.values()) for part, rows in found[name].items()} for name in names]


DATA: Final = DataSet(
    name="reasoning-gym",
    title="a hundred kinds of puzzle",
    parts=(Part("validation", _COLUMNS), Part("test", _COLUMNS)),
    licence="Apache-2.0",
    homepage="https://github.com/open-thought/reasoning-gym",
    made=rows_of,
    digest="d130220b2112ce4e76b52beb734fba73",
)


class ReasoningGym(DataSetDomain):
    """A hundred kinds of puzzle with a scorer for each (reasoning-gym).

    Args:
        fixture: Whether to use a small data set of a dozen generators.
        generators: Which generators or families of generators to ask, joined by `+`; all by default.
    """

    base = "reasoning-gym"
    version = "1"
    data = DATA
    sizes: ClassVar[Mapping[Split, int]] = {"feedback": 1_000, "selection": 1_000, "test": 3_000}
    description = (
        "Puzzles with answers that can be checked: arithmetic and algebra, words and letters, grids and matrices, "
        "graphs, logic, games such as sudoku and countdown, geometry, program execution, and rules to be found from "
        "examples. Every problem says in its own words what is asked and how the answer is to be written."
    )
    answer_format = (
        "The bare answer, in the form that the problem asks for, with no word before or after it. Where the problem "
        "says nothing of the form: a number, a word, or a list such as 'a, b, c'."
    )

    def __init__(self, *, fixture: bool = False, generators: str | None = None) -> None:
        super().__init__(fixture=fixture)
        self._wanted = () if generators is None else tuple(dict.fromkeys(str(generators).split("+")))
        if "" in self._wanted or "True" in self._wanted:
            raise UsageError("Name the generators of reasoning-gym, joined by +: generators=gcd+lcm.")
        for name in self._wanted:
            if name in LEFT_OUT:
                raise UsageError(f"The generator {name!r} of reasoning-gym is not asked: {LEFT_OUT[name]}.")
        if self._wanted:
            self.name = self.named(f"generators={'+'.join(self._wanted)}")
        self._drawn: dict[str, Entry] = {}
        self._lock = threading.Lock()

    # Problems --------------------------------------------------------------------------------------------------

    @cached_property
    def _families(self) -> Mapping[str, str]:
        """Returns the family of every generator that is asked.

        Raises:
            UsageError: If one is asked for that there is not.
        """
        there = {row["generator"]: row["category"] for part in _PER_GENERATOR for row in self.rows(part)}
        for name in self._wanted:
            if name not in there and name not in there.values():
                raise unknown_name("generator of reasoning-gym", name, sorted({*there, *there.values()}))
        wanted = self._wanted
        return {n: family for n, family in there.items() if not wanted or n in wanted or family in wanted}

    def validation(self) -> Sequence[Problem]:
        """Returns twenty problems of each generator."""
        return self._problems("validation")

    def test(self) -> Sequence[Problem]:
        """Returns thirty problems of each generator."""
        return self._problems("test")

    def _problems(self, part: str) -> Sequence[Problem]:
        rows = [row for row in self.rows(part) if row["generator"] in self._families]
        # Neither place nor neighbours tell a problem's skill.
        return by_hash(map(_problem, rows), lambda problem: problem.id, "reasoning-gym")

    @cached_property
    def _entries(self) -> Mapping[str, Entry]:
        """Returns the entry of every stored problem, by its prompt."""
        rows = [row for part in _PER_GENERATOR for row in self.rows(part)]
        return {row["question"].strip(): Entry(**row) for row in rows}

    # Grading ---------------------------------------------------------------------------------------------------

    def grade(self, problem: Problem, response: str) -> float:
        """Scores a response as the library does, in [0, 1].

        Raises:
            DomainError: If the problem is none of the data set.
        """
        return self.grade_all([problem], [response])[0][0]

    def grade_all(self, problems: Sequence[Problem], responses: Sequence[str]) -> Sequence[Grade]:
        """Scores responses, on all processors."""
        asked = []
        for problem, response in zip(problems, responses, strict=True):
            entry = self._entries.get(self.bare(problem.prompt))
            if entry is None:
                raise DomainError(f"The problem {problem.id!r} is none of {self.name}: {problem.prompt[:80]!r}.")
            asked.append((entry, response))
        return [(score, {}) for score in score_all(asked)]

    def check(self, example: Example) -> bool | None:
        """Scores the answer to a stored problem; says nothing of others, whose answers a text does not tell."""
        entry = self._entries.get(self.bare(example.prompt))
        return None if entry is None else score_all([(entry, example.response)])[0] >= 1.0

    def fingerprints(self, prompt: str, images: tuple[bytes, ...] = ()) -> tuple[str, ...]:
        """Returns what a puzzle of a known kind says, but for case and spacing; for any other text its words.

        Puzzles of a kind share most of their words, and new grids of a few signs look like old ones: none but the same
        is a copy.
        """
        skill = self._kind(prompt)
        if skill is None:
            return super().fingerprints(prompt, images)
        return (f"{skill}|{content_id(*prompt.lower().split())}",)

    # What privileged teachers use -------------------------------------------------------------------------------

    def skills(self) -> Sequence[str]:
        """Returns the names of the generators."""
        return tuple(sorted(self._families))

    def subskills(self, skill: str) -> Sequence[str]:
        """Returns none: generators are not divided further."""
        return ()

    def off_domain(self) -> Sequence[str]:
        """Returns none."""
        return ()

    def infer_skill(self, prompt: str, images: tuple[bytes, ...] = ()) -> str | None:
        """Looks a problem up among those that are stored or were drawn here; else goes by its wording.

        By their wording nearly all can be told apart, but not `arc_agi` from `rearc`.
        """
        text = self.bare(prompt)
        drawn = self._drawn.get(text)
        skill = drawn.generator if drawn is not None else self._kind(text)
        return skill if skill in self._families else None

    def _kind(self, prompt: str) -> str | None:
        text = self.bare(prompt)
        entry = self._entries.get(text)
        return entry.generator if entry is not None else self._wordings.find(text)

    @cached_property
    def _wordings(self) -> _Wordings:
        return _Wordings((entry.generator, text) for text, entry in self._entries.items())

    def fresh(self, skill: str, count: int, seed: int) -> list[Example]:
        """Draws distinct problems of the train share: `count`, or as many as 5,000 draws give.

        Raises:
            UsageError: If there is no such generator.
            DomainError: If it has none.
        """
        if skill not in self._families:
            raise unknown_name(f"{self.name} skill", skill, self.skills())
        found: dict[str, Entry] = {}
        for chunk in range(5):
            first = derive_seed("reasoning-gym", "fresh", skill, seed, chunk) >> 32
            start, step = 0, 2 * count + 8
            while start < CHUNK and len(found) < count:
                # Side by side, in an order that does not depend on how many processors there are.
                pieces = [
                    (skill, first, at, min(_PIECE, start + step - at)) for at in range(start, start + step, _PIECE)
                ]
                for entry in (entry for entries in draw_all(pieces) for entry in entries):
                    if _usable(entry) and part_of(skill, entry.question) == "train":
                        found.setdefault(entry.question.strip(), entry)
                start += step
        if count and not found:
            raise DomainError(f"The generator {skill!r} has no problems to spare.")
        chosen = dict(list(found.items())[:count])
        self._remember(chosen)
        return [Example(text, entry.answer.strip(), skill) for text, entry in chosen.items()]

    def _remember(self, entries: Mapping[str, Entry]) -> None:
        with self._lock:
            self._drawn.update(entries)
            while len(self._drawn) > 20_000:
                del self._drawn[next(iter(self._drawn))]

    def wrong_answer(self, example: Example, seed: int) -> Example:
        """Returns the example with the answer to another problem of its generator.

        Raises:
            DomainError: If none is wrong.
        """
        text = self.bare(example.prompt)
        entry = self._entries.get(text) or self._drawn.get(text)
        rng = random.Random(derive_seed("wrong", seed, text))
        skill = self.infer_skill(text)
        answers = _answers(self, skill if skill in self._families else rng.choice(self.skills()))
        for answer in rng.sample(answers, len(answers)):
            if answer != example.response and (entry is None or score_all([(entry, answer)])[0] < 1.0):
                return Example(example.prompt, answer, example.skill, example.item, example.images)
        raise DomainError(f"No wrong answer found for {example.prompt[:80]!r}.")


@lru_cache(maxsize=256)
def _answers(domain: ReasoningGym, skill: str) -> Sequence[str]:
    """Returns some answers of a generator, to be wrong ones."""
    return tuple(dict.fromkeys(example.response for example in domain.fresh(skill, 20, 0)))


def _problem(row: Row) -> Problem:
    return Problem(
        id=content_id("reasoning-gym", row["generator"], row["question"]),
        prompt=row["question"].strip(),
        reference=row["answer"].strip(),
        skill=row["generator"],
        slice=row["category"],
    )


class _Wordings:
    """Tells generators apart by their words: naive Bayes over runs of three words, numbers and signs.

    Args:
        texts: Generators with questions of theirs.
    """

    def __init__(self, texts: Iterable[tuple[str, str]]) -> None:
        counts: Counter[str] = Counter()
        seen: dict[tuple[str, ...], Counter[str]] = {}
        self._openings: dict[str, set[tuple[str, ...]]] = {}
        for name, text in texts:
            counts[name] += 1
            self._openings.setdefault(name, set()).add(_opening(text))
            for run in _runs(text):
                seen.setdefault(run, Counter())[name] += 1
        self._absent = {name: math.log(_SMOOTHING / (count + 2 * _SMOOTHING)) for name, count in counts.items()}
        # What a run's presence adds to a generator's log-likelihood, against its absence.
        self._gain = {
            run: {name: math.log((count + _SMOOTHING) / _SMOOTHING) for name, count in by_name.items()}
            for run, by_name in seen.items()
        }

    def find(self, text: str) -> str | None:
        """Returns the likeliest generator; `None` for a text that shares little with any."""
        runs = _runs(text)
        scores = {name: absent * len(runs) for name, absent in self._absent.items()}
        shared: Counter[str] = Counter()
        for run in runs:
            for name, gain in self._gain.get(run, {}).items():
                scores[name] += gain
                shared[name] += 1
        if not scores:
            return None
        opening = _opening(text)
        # A picture made of signs looks like anything, but what is asked of it begins with the same words as ever.
        known = [
            name
            for name in sorted(scores)
            if shared[name] >= max(_SHARED * len(runs), 8) or opening in self._openings[name]
        ]
        return max(known, key=lambda name: scores[name], default=None)


_SMOOTHING: Final = 0.02
_SHARED: Final = 0.16
_READ: Final = 4_000


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+|0|[^\sa-z0]", re.sub(r"\d+", "0", text[:_READ].lower()))


def _runs(text: str) -> set[tuple[str, ...]]:
    words = _words(text)
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}


def _opening(text: str) -> tuple[str, ...]:
    return tuple(_words(text)[:3])
