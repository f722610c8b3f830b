"""What a run will ask of language models and of GPUs, before anything is spent.

The teachers run for real, against an endpoint that only counts and a student that knows nothing: the calls and the
prompts are then the real ones, the answers as long as answers are. A student that knows something makes for shorter
prompts, so that this is on the high side; repairs and top-ups are not in it.

GPU-hours follow from counts alone: floating-point operations of a model with N parameters are about 2N per token read
or written, 4N per token that adapters are trained on and 6N where all weights are (Kaplan et al. 2020, section 2.1, and
no gradients of frozen weights), at the rates of `PEAK`, `TRAINING` and `ANSWERING`. Start-up is not in it.

What is not on this machine, data sets and students, is estimated from fixtures and from the sizes in names.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, Final

from dgym.bench import open_loop, unfinished
from dgym.chat import session
from dgym.chat.record import estimate_tokens
from dgym.core import Call, Domain, Example, Message, Problem, Split, Teacher
from dgym.domains import make_domain
from dgym.domains.dataset import DataSetDomain
from dgym.episode import LocalPool, run_episode, used
from dgym.errors import DgymError, UsageError
from dgym.specs import EpisodeSpec, Identity, SuiteSpec, identify
from dgym.students.names import find_student
from dgym.teachers import make_teacher
from dgym.teachers.painters import find_painter

PEAK: Final = 312e12
"""Operations a second of one GPU: an A100's in bfloat16."""

TRAINING: Final = 0.4
"""Part of the peak that training and reading reach."""

ANSWERING: Final = 0.1
"""Part of the peak that writing reaches: every token reads all weights, which batches share."""

_BATCH: Final = 20  # problems per call of skill discovery
_WORDS: Final = "what exactly is to be written here, in a sentence or two of usual length, "
_SIZE: Final = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])")
_STAND_IN: Final = "tiny:llama"


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
        gpu_hours: Of one episode's student; 0 on the CPU and where its size is unknown.
    """

    teacher: str
    environment: str
    domain: str
    episodes: int
    calls: int
    tokens_in: int
    tokens_out: int
    cost: float | None
    gpu_hours: float = 0.0


def estimate(
    planned: SuiteSpec | Sequence[EpisodeSpec], folder: str | PathLike[str] | None = None
) -> tuple[list[Estimate], list[str]]:
    """Estimates what some episodes will ask for, in groups that differ in nothing but seeds.

    Args:
        planned: A suite, or episodes.
        folder: Results folder; what is finished there is left out, unless something is not on this machine.

    Returns:
        The estimates, and what they do not know, in sentences.

    Raises:
        UsageError: If a name is unknown.
    """
    specs = planned.episodes() if isinstance(planned, SuiteSpec) else list(planned)
    domains = {name: _here(name) for name in dict.fromkeys(s.domain for s in specs)}
    students = {s.student: _is_here(s) for s in specs}
    notes = []
    gone = sorted(name for name, here in domains.items() if here != name)
    if gone:
        notes.append(f"Not on this machine, and estimated from fixtures: {', '.join(gone)}.")
    unseen = sorted(name for name, here in students.items() if not here)
    if unseen:
        notes.append(f"Not on this machine, and as large as their names say: {', '.join(unseen)}.")
    if not gone and not unseen and folder is not None:
        todo = [(identity.spec, identity) for identity in unfinished(specs, folder)[1]]
    else:
        stand_ins = [
            spec.model_copy(
                update={"domain": domains[spec.domain]}
                | ({} if students[spec.student] else {"student": _STAND_IN, "device": "cpu", "engine": "transformers"})
            )
            for spec in specs
        ]
        # On a machine without a GPU, "auto" cannot be resolved for one.
        pairs = zip(specs, [identify(s.model_copy(update={"device": "cpu"})) for s in stand_ins], strict=True)
        todo = list({(i.digest, s.domain, s.student, s.environment): (s, i) for s, i in pairs}.values())
    groups: dict[str, list[tuple[EpisodeSpec, Identity]]] = {}
    for spec, identity in todo:
        # Variants differ in strengths only, which is not looked at.
        key = spec.model_dump(mode="json", exclude={"seeds", "variation"})
        key["student"] = spec.student.partition(":")[0]
        groups.setdefault(json.dumps(key, sort_keys=True), []).append((spec, identity))
    return [_group(members) for members in groups.values()], notes


def _here(name: str) -> str:
    """Returns a domain's name, or that of its fixture where its data set is not on this machine."""
    domain = make_domain(name)
    if isinstance(domain, DataSetDomain):
        try:
            domain.source  # noqa: B018
        except UsageError:
            return domain.named("fixture")
    return name


def _is_here(spec: EpisodeSpec) -> bool:
    try:
        _, family, variant = find_student(spec.student, spec.seeds.variant)
        family.digest(variant)
    except DgymError:
        return False
    return True


def _group(members: Sequence[tuple[EpisodeSpec, Identity]]) -> Estimate:
    named, identity = members[0]
    spec = identity.spec
    calls: tuple[Call, ...] = ()
    if identity.waits:
        with session.use(session.Session(instead=_answer)):
            loop, teacher = open_loop(_on_gold(identity), _Nobody())
            teacher = _unpainted(teacher)
            calls = tuple(call for step in run_episode(loop, teacher, LocalPool(teacher)) for call in step.calls)
    calls += _discovery(spec)
    costs = [call.cost for call in calls]
    return Estimate(
        teacher=spec.teacher,
        environment="any" if identity.state_blind else spec.environment,
        domain=named.domain,
        episodes=len(members),
        calls=len(calls),
        tokens_in=sum(call.tokens_in for call in calls),
        tokens_out=sum(call.tokens_out for call in calls),
        cost=None if None in costs else float(sum(cost for cost in costs if cost is not None)),
        gpu_hours=_gpu_hours(named, spec),
    )


def parameters(student: str, seed: int = 1) -> float:
    """Returns how many parameters a student has, by its files or else by its name; 0 where neither tells."""
    try:
        _, family, variant = find_student(student, seed)
        size = getattr(family, "bytes", None)
        if callable(size):
            return float(size(variant, "float32")) / 4
    except DgymError:
        pass
    found = _SIZE.findall(student.lower())
    return max((float(number) * {"b": 1e9, "m": 1e6}[unit] for number, unit in found), default=0.0)


def _gpu_hours(named: EpisodeSpec, spec: EpisodeSpec) -> float:
    """Estimates one episode's hours on one GPU; `spec` is the same episode with what is on this machine."""
    size = parameters(named.student, named.seeds.variant)
    if not named.device.startswith("cuda") or not size:
        return 0.0
    domain, rules, recipe = make_domain(spec.domain), spec.seeded_rules(make_teacher(spec.teacher)), named.recipe
    prompt = _mean([estimate_tokens([Message("user", p.prompt)]) for p in domain.problems("feedback")[:50]])
    response = _mean([estimate_tokens([Message("user", p.reference)]) for p in domain.problems("feedback")[:50]])
    validation = _count(domain, "feedback", spec) + (
        0 if rules.validation == "paper" else _count(domain, "selection", spec)
    )
    rounds = rules.iterations
    # The test is asked at the beginning, at the end and whenever selection rises; say half of the time.
    tested = (rounds + 1 if rules.test_every_iteration else 2 + rounds / 2) * _count(domain, "test", spec)
    answers = (rounds + 1) * validation + tested
    taught = sum(range(1, rounds + 1)) if rules.training == "retrain" else rounds
    examples = 0 if spec.teacher == "no-data" else taught * rules.budget.examples_per_iteration
    per_token = 6 if recipe.method == "full" else 4
    trained = per_token * size * examples * recipe.epochs * min(recipe.cutoff, prompt + response)
    reading = 2 * size * answers * prompt
    writing = 2 * size * answers * recipe.max_new_tokens / 2
    return ((trained + reading) / TRAINING + writing / ANSWERING) / PEAK / 3600


def _count(domain: Domain, split: Split, spec: EpisodeSpec) -> float:
    """Returns how many problems of a split are asked; of a fixture, as many as the data set itself has."""
    asked = len(used(domain, split, spec.rules))
    real = getattr(domain, "sizes", {}).get(split)
    if real is None or "fixture" not in domain.name.partition(":")[2].split(","):
        return asked
    if split == "feedback" and spec.rules.validation == "paper":
        real += getattr(domain, "sizes", {})["selection"]
    return float(spec.rules.counts.get(split, real * spec.rules.share))


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0


def _unpainted(teacher: Teacher) -> Teacher:
    """Has pictures made of noise: nothing is drawn to count words."""
    if getattr(teacher.engine, "painter", None) is None:
        return teacher
    engine: Any = teacher.engine
    return replace(teacher, engine=replace(engine, painter=find_painter("noise")))


def _on_gold(identity: Identity) -> Identity:
    """Leaves skill discovery out: its calls are estimated apart, and its results are kept on disk."""
    return identity.model_copy(update={"spec": identity.spec.model_copy(update={"skills": "gold"})})


def _discovery(spec: EpisodeSpec) -> tuple[Call, ...]:
    """Estimates the calls of skill discovery by a language model: labels, categories, assignment."""
    if not spec.skills.startswith("chat:"):
        return ()
    from dgym.chat.prices import price_of

    problems = used(make_domain(spec.domain), "feedback", spec.rules)
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
    samples = [row for row in rows if row.get("right")] or [{"problem": _WORDS, "right": _WORDS[:20]}]
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
