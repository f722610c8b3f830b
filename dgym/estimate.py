"""What a run will ask of language models, before anything is spent.

The teachers run for real, against an endpoint that only counts and a student that knows nothing: the calls and the
prompts are then the real ones, the answers as long as answers are. A student that knows something makes for shorter
prompts, so that this is on the high side; repairs and top-ups are not in it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dgym import registry
from dgym.bench import open_loop
from dgym.chat import session
from dgym.chat.record import estimate_tokens
from dgym.core import Call, Example, Message, Problem
from dgym.episode import LocalPool, run_episode, used
from dgym.specs import EpisodeSpec, Identity

_BATCH: Final = 20  # problems per call of skill discovery
_WORDS: Final = "what exactly is to be written here, in a sentence or two of usual length, "


@dataclass(frozen=True)
class Estimate:
    """What the episodes of one teacher in one environment and domain will ask for.

    Attributes:
        teacher, environment, domain: Which.
        episodes: How many there are.
        calls: Calls of one episode.
        tokens_in: Tokens read in one episode.
        tokens_out: Tokens written in one episode.
        cost: Price of one episode in US dollars; `None` where a model's price is unknown.
    """

    teacher: str
    environment: str
    domain: str
    episodes: int
    calls: int
    tokens_in: int
    tokens_out: int
    cost: float | None


def estimate(identities: Sequence[Identity]) -> list[Estimate]:
    """Estimates what some episodes will ask for, in groups that differ in nothing but seeds."""
    groups: dict[str, list[Identity]] = {}
    for identity in identities:
        # Variants differ in strengths only, which is not looked at.
        fields = identity.spec.model_dump(mode="json", exclude={"seeds", "student", "variation"})
        groups.setdefault(json.dumps(fields, sort_keys=True), []).append(identity)
    return [_group(members) for members in groups.values()]


def _group(members: Sequence[Identity]) -> Estimate:
    spec = members[0].spec
    calls: tuple[Call, ...] = ()
    if members[0].waits:
        with session.use(session.Session(instead=_answer)):
            loop, teacher = open_loop(_on_gold(members[0]), _Nobody())
            calls = tuple(call for step in run_episode(loop, teacher, LocalPool(teacher)) for call in step.calls)
    calls += _discovery(spec)
    costs = [call.cost for call in calls]
    return Estimate(
        teacher=spec.teacher,
        environment="any" if members[0].state_blind else spec.environment,
        domain=spec.domain,
        episodes=len(members),
        calls=len(calls),
        tokens_in=sum(call.tokens_in for call in calls),
        tokens_out=sum(call.tokens_out for call in calls),
        cost=None if None in costs else float(sum(cost for cost in costs if cost is not None)),
    )


def _on_gold(identity: Identity) -> Identity:
    """Leaves skill discovery out: its calls are estimated apart, and its results are kept on disk."""
    return identity.model_copy(update={"spec": identity.spec.model_copy(update={"skills": "gold"})})


def _discovery(spec: EpisodeSpec) -> tuple[Call, ...]:
    """Estimates the calls of skill discovery by a language model: labels, categories, assignment."""
    if not spec.skills.startswith("chat:"):
        return ()
    from dgym.chat.prices import price_of

    problems = used(registry.load("domain", spec.domain)(), "feedback", spec.rules)
    model = spec.skills.removeprefix("chat:")
    parts = [problems[i : i + _BATCH] for i in range(0, len(problems), _BATCH)]
    sizes = [estimate_tokens([Message("user", p.prompt, p.images) for p in part]) + 300 for part in parts]
    asked = [(n, 20 * len(part)) for n, part in zip(sizes, parts, strict=True)] * 2 + [(500, 200)]
    price = price_of(model)
    return tuple(
        Call("discover", model, tokens_in=read, tokens_out=wrote, cost=price.of(read, wrote) if price else None)
        for read, wrote in asked
    )


class _Nobody:
    """A student that says nothing and learns nothing."""

    def train(self, examples: Sequence[Example], *, seed: int, fresh: bool) -> Mapping[str, float]:
        return {}

    def answer(self, problems: Sequence[Problem]) -> list[str]:
        return [""] * len(problems)

    def save(self, path: str) -> None:
        """Nothing to write."""

    def load(self, path: str) -> None:
        """Nothing to restore."""

    def close(self) -> None:
        """Nothing to give back."""


def _answer(messages: Sequence[Message], schema: Mapping[str, Any]) -> str:
    """Makes an answer of the usual length that fits the schema of one of dgym's own prompts."""
    rows = [json.loads(line) for m in messages for line in m.content.split("\n") if line.startswith("{")]
    task = next((line for line in reversed(messages[-1].content.split("\n")) if line.startswith("Task: ")), "Task: {}")
    asked = json.loads(task.removeprefix("Task: "))
    count = int(asked.get("count", 1))
    samples = [row for row in rows if "right" in row] or [{"problem": _WORDS, "right": _WORDS[:20]}]
    leaves = [row["subskill"] for row in rows if "subskill" in row]
    parts = [min(10, count - first) for first in range(0, count, 10)]
    specifications = [{"instruction": _WORDS * 2, "count": n, "like": [1]} for n in parts]
    fields = schema.get("properties", {})
    known: dict[str, Any] = {
        "specifications": specifications,
        "hypotheses": [_WORDS] * 3,
        "why": _WORDS,
        "action": "exploit" if leaves else "explore",
        "subskills": [f"{_WORDS[:24]}{n}" for n in range(count)],
        "shifts": [{"subskill": name, "change": 1} for name in leaves],
        "solutions": [{"id": n, "response": samples[0]["right"]} for n in range(1, count + 1)],
        "examples": [_draft(samples[n % len(samples)], n, messages, schema) for n in range(count)],
    }
    return json.dumps({name: known.get(name, _WORDS) for name in fields})


def _draft(
    sample: Mapping[str, Any], number: int, messages: Sequence[Message], schema: Mapping[str, Any]
) -> dict[str, str]:
    drafts = schema.get("$defs", {}).get("Draft", {}).get("properties", {})
    # No two alike in one item, or they would be asked for again.
    text = f"{sample['problem']} {number} {sum(len(m.content) for m in messages)}"
    scene = f"a large red circle at the top left; a small blue square at the {('middle', 'bottom')[number % 2]} right"
    known = {"prompt": text, "response": sample["right"], "rejected": sample["right"], "picture": scene}
    return {name: known[name] for name in drafts}


def total(estimates: Sequence[Estimate]) -> Counter[str]:
    """Sums calls and tokens over all episodes."""
    out: Counter[str] = Counter()
    for e in estimates:
        out.update(calls=e.calls * e.episodes, tokens_in=e.tokens_in * e.episodes, tokens_out=e.tokens_out * e.episodes)
    return out
