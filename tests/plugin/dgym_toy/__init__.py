"""A toy of every kind that dgym knows, registered by entry points."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dgym import Brief, Example, Plan, PlanItem, State
from dgym.bench import Job, LocalBackend, Report, Usage
from dgym.chat.ledger import current_purpose, note
from dgym.core import Call, Feedback, Message, Problem, Split, StateContext
from dgym.errors import TeacherError
from dgym.sandbox import Outcome, Program
from dgym.sandbox.namespaces import Namespaces

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


class Cell:
    """A sandbox that runs one program at a time."""

    name = "toy-cell"

    def __init__(self) -> None:
        self._inner = Namespaces()

    def run(self, programs: Sequence[Program]) -> list[Outcome]:
        return [self._inner.run([program])[0] for program in programs]

    def close(self) -> None:
        self._inner.close()


class Oracle:
    """A language model that answers any question with the least that fits the schema."""

    def __init__(self, model: str = "delphi") -> None:
        self.model = f"toy-oracle:{model}"

    def complete(self, messages: Sequence[Message], schema: Mapping[str, Any], seed: int) -> Any:
        answer = least(schema, schema.get("$defs", {}), f"word{seed % 1000}")
        read = sum(len(m.content.split()) for m in messages)
        note(Call(current_purpose(), self.model, tokens_in=read, tokens_out=len(str(answer).split())))
        return answer


def least(schema: Mapping[str, Any], defs: Mapping[str, Any], word: str) -> Any:
    if "$ref" in schema:
        return least(defs[schema["$ref"].rpartition("/")[2]], defs, word)
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("type") == "object":
        return {name: least(part, defs, word) for name, part in schema["properties"].items()}
    if schema.get("type") == "array":
        return [least(schema["items"], defs, f"{word} {i}") for i in range(schema.get("minItems", 1))]
    if schema.get("type") == "string":
        if schema.get("maxLength", len(word)) < max(len(word), schema.get("minLength", 0)):
            raise TeacherError(f"No text fits {dict(schema)}.")
        return word
    return schema.get("minimum", 1)


class Backwards:
    """A backend that runs the last episode first."""

    def run(self, job: Job, report: Report) -> Usage:
        return LocalBackend().run(Job(job.episodes[::-1], job.folder, job.suite, job.chat), report)
