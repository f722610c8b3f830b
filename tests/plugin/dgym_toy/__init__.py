"""A toy teacher, domain, environment and student, registered by entry points."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dgym import Brief, Example, Plan, PlanItem, State
from dgym.core import Feedback, Problem, Split, StateContext

CAPITALS = {"Spain": "Madrid", "Italy": "Rome", "Japan": "Tokyo", "Peru": "Lima", "Kenya": "Nairobi", "Cuba": "Havana"}


class Parrot:
    """Plans without looking, and writes sums."""

    version = "3"

    def plan(self, brief: Brief, state: State) -> Plan:
        return Plan((PlanItem(state.examples_left),)) if state.examples_left else Plan()

    def generate(self, brief: Brief, item: PlanItem) -> list[Example]:
        pairs = [(item.seed % 900 + i, i) for i in range(item.count)]
        return [Example(f"add {a} {b}", str(a + b), "add") for a, b in pairs]


class Capitals:
    """Two capitals in each split."""

    name = "toy-capitals"
    version = "1"
    description = "Capitals of countries."
    answer_format = "The capital's name."

    def problems(self, split: Split) -> Sequence[Problem]:
        first = {"feedback": 0, "selection": 2, "test": 4}.get(split, 6)
        pairs = list(CAPITALS.items())[first : first + 2]
        return [Problem(f"{hash_of(land)}", f"What is the capital of {land}?", city, "land") for land, city in pairs]

    def grade(self, problem: Problem, response: str) -> float:
        return float(response.strip().lower() == problem.reference.lower())

    def check(self, example: Example) -> bool | None:
        return None

    def fingerprints(self, prompt: str, images: tuple[bytes, ...] = ()) -> tuple[str, ...]:
        return ("text|" + " ".join(prompt.lower().split()),)

    def overlap_keys(self, problem: Problem) -> tuple[str, ...]:
        return self.fingerprints(problem.prompt)


def hash_of(text: str) -> int:
    return sum(ord(c) * 31**i for i, c in enumerate(text)) % 999_983


class ScoreOnly:
    """Shows nothing but the score."""

    name = "toy-score-only"
    version = "1"
    wants_probes = False

    def observe(self, feedback: Feedback, context: StateContext) -> State:
        return State(environment=self.name, score=feedback.score, **context.fields())


class Echo:
    """A student that learns answers by heart."""

    name = "toy-echo"
    variants = ("only",)
    bytes = 0

    def draw(self, seed: int) -> str:
        return "only"

    def digest(self, variant: str) -> str:
        return "echo-1"

    def load(self, variant: str, device: str, precision: str, threads: int) -> "Echo":
        return self

    def open(self, recipe: Any, variant: str) -> "ByHeart":
        return ByHeart()


class ByHeart:
    """One such student."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def train(self, examples: Sequence[Example], *, seed: int, fresh: bool) -> Mapping[str, float]:
        if fresh:
            self.known = {}
        self.known |= {e.prompt: e.response for e in examples}
        return {"loss": 0.0}

    def answer(self, problems: Sequence[Problem]) -> list[str]:
        return [self.known.get(p.prompt, p.prompt) for p in problems]

    def save(self, path: str) -> None:
        (Path(path) / "known.json").write_text(json.dumps(self.known))

    def load(self, path: str) -> None:
        self.known = json.loads((Path(path) / "known.json").read_text())

    def close(self) -> None:
        pass
