"""The vocabulary: the records that cross a boundary, and the Protocols of what acts on them.

Records are small, frozen and made of plain values, so that each of them survives a pipe, a Ray object store or
a JSON file unchanged (`to_json`, `from_json`). What acts is a Protocol with one or two methods. Each noun has
one writer: `evaluate` makes `Feedback`, the environment makes `State`, the policy makes `Plan`s, the engine
makes `Example`s, the gate decides which of them are kept, the student owns weights.

This module knows nothing of files, models, Ray or any particular domain.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

from dgym.errors import DgymError

Split = Literal["train", "feedback", "selection", "test"]
"""The four splits: *train* is what teachers may write, *feedback* is shown to them, *selection* chooses the
iteration and *test* scores it; the last two are hidden."""

SPLITS: tuple[Split, ...] = ("train", "feedback", "selection", "test")

NEW_COMBINATION = "new-combination"
"""The slice of a test split whose combinations no other split shows."""

MEMORY_LIMIT = 1_000_000
"""Largest size of a policy's memory, in bytes of JSON."""


# --------------------------------------------------------------------------------------------------------------
# What is learned


_BYTES: dict[str, str] = {"ser_json_bytes": "base64", "val_json_bytes": "base64"}
# Images stand in JSON as base64.


@dataclass(frozen=True, slots=True)
class Problem:
    """One task for the student.

    Attributes:
        id: Opaque name, unique within its data set; it tells nothing about skill, split or answer.
        prompt: What the student is asked, before any chat template.
        reference: A correct answer.
        skill: The gold skill, as the domain's authors see it; environments decide whether a teacher sees it.
        images: What the prompt is about, as encoded files (PNG, JPEG).
        slice: Part of a split that is also reported by itself, such as `"new-combination"`; else empty.
        group: Problems that are graded together, such as the four of a NaturalBench group, share one; else empty.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _BYTES

    id: str
    prompt: str
    reference: str
    skill: str
    images: tuple[bytes, ...] = ()
    slice: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A student's graded answer to a problem.

    Attributes:
        problem: What was asked.
        response: What the student wrote.
        score: The grade, in [0, 1].
        measures: What the domain measures beside the grade, by name, such as precision and recall. Where problems are
            graded in groups, `right` is the verdict on this one by itself.
    """

    problem: Problem
    response: str
    score: float
    measures: Mapping[str, float] = field(default_factory=dict)

    @property
    def correct(self) -> bool:
        """Whether the answer is fully right, whatever became of the others of its group."""
        return self.measures.get("right", self.score) >= 1.0


@dataclass(frozen=True, slots=True)
class Feedback:
    """All attempts of one student on one split.

    Attributes:
        split: Which split was asked.
        attempts: One per problem, in the split's order.
    """

    split: Split
    attempts: tuple[Attempt, ...]

    @property
    def score(self) -> float:
        """The mean score, in [0, 1]; 0 for an empty split."""
        return sum(a.score for a in self.attempts) / len(self.attempts) if self.attempts else 0.0

    def by_skill(self) -> dict[str, tuple[Attempt, ...]]:
        """Groups the attempts by gold skill, skills in alphabetical order."""
        groups: dict[str, list[Attempt]] = {}
        for attempt in self.attempts:
            groups.setdefault(attempt.problem.skill, []).append(attempt)
        return {skill: tuple(groups[skill]) for skill in sorted(groups)}


@dataclass(frozen=True, slots=True)
class Example:
    """One training example, written by an engine.

    Attributes:
        prompt: The problem as the student would be asked it.
        response: The answer to learn.
        skill: What the teacher says it trains; a claim, used for probes and tables only.
        item: Index of the plan item that it came from.
        images: What the prompt is about, as encoded files.
        rejected: Of a preference pair, the response that is worse; `None` for a plain example.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _BYTES

    prompt: str
    response: str
    skill: str | None = None
    item: int = 0
    images: tuple[bytes, ...] = ()
    rejected: str | None = None


# --------------------------------------------------------------------------------------------------------------
# What a teacher is told


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a teacher may submit. What is rejected counts too: the gate is no free verifier.

    Attributes:
        examples_per_iteration: Most examples submitted in one iteration.
        examples_total: Most examples submitted in the episode; `None` for no limit of its own.
        response_tokens_total: Most response tokens submitted in the episode, in words and single symbols as
            `count_tokens` counts them; `None` for no limit.
        known_checks_total: How many examples of the episode a teacher may have the student asked before it
            is trained on them (see `Plan.ask_known`).
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    examples_per_iteration: int = 100
    examples_total: int | None = None
    response_tokens_total: int | None = None
    known_checks_total: int = 0


@dataclass(frozen=True, slots=True)
class Rules:
    """The protocol of an episode: all that is fixed besides domain, student and teacher.

    Attributes:
        iterations: How many rounds of data, training and evaluation, at least 0.
        budget: How much a teacher may submit.
        training: `"retrain"` trains from the base model on all data so far, as the paper's code does;
            `"continue"` trains the current student on the new data.
        generations: Data generations per training; the state is renewed between them, the student is not.
        validation: `"split"` uses separate feedback and selection splits; `"paper"` uses the feedback split
            for both, as the paper does.
        verify: Whether examples that the domain knows to be wrong are rejected.
        gate: Whether anything but malformed examples and what is over budget is rejected. Off, duplicates, wrong
            examples and copies of hidden problems pass: for ablations only.
        test_every_iteration: Whether the test score of every iteration is recorded.
        share: The part of each evaluation split that is used, in (0, 1]: the same first problems for all.
        training_seed: Seed of all training.
        teacher_seed: Seed of all that the teacher does.
        counts: How many problems of an evaluation split are used, where that is not said by `share`: spread evenly over
            the skills, the same first ones for all.
    """

    # A misspelt field in a TOML file is an error, not a default.
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    iterations: int = 3
    budget: Budget = Budget()
    training: Literal["retrain", "continue"] = "retrain"
    generations: int = 1
    validation: Literal["split", "paper"] = "split"
    verify: bool = True
    gate: bool = True
    test_every_iteration: bool = False
    share: float = 1.0
    training_seed: int = 1
    teacher_seed: int = 1
    counts: Mapping[Split, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.iterations < 0 or self.generations < 1:
            raise ValueError("iterations must be at least 0 and generations at least 1")
        if not 0 < self.share <= 1:
            raise ValueError("share must be above 0 and at most 1")
        if any(count < 1 for count in self.counts.values()) or "train" in self.counts:
            raise ValueError("counts must be at least 1, of feedback, selection or test")


@dataclass(frozen=True, slots=True)
class Curriculum:
    """What the user wants taught, whatever the teacher thinks; for environments with skills.

    Skills are named as the environment shows them.

    Attributes:
        include: Only these skills; empty for all.
        exclude: Not these.
        weights: How much a skill is wanted beside its needs; 1 for those not named.
        caps: Most examples of a skill in one plan.
        freeze: Skills whose trees stay as they are.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    caps: Mapping[str, int] = field(default_factory=dict)
    freeze: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Brief:
    """What a teacher is told at the start of an episode. Brief and State are all that it ever knows.

    Attributes:
        domain: The domain's name.
        environment: The environment's name.
        description: What the domain is about and what a problem looks like.
        answer_format: How a response must look to be graded.
        example_schema: JSON schema of an example's fields that the teacher fills in.
        budget: How much may be submitted.
        iterations: How many rounds of data the episode has.
        protocol: Remaining rules, by name, such as `{"training": "retrain", "verify": true}`.
        tools: The catalogue of tools, where the domain has one.
        subskills: Refinements of the domain's own skills that may be proposed in a skill tree, by skill.
        samples: A few problems of the train split with their answers, to show what a problem looks like.
        pictures: How the picture of an example is described in words, where problems have pictures; else empty.
    """

    domain: str
    environment: str
    description: str
    answer_format: str
    example_schema: Mapping[str, Any]
    budget: Budget
    iterations: int
    protocol: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()
    subskills: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    samples: tuple[Example, ...] = ()
    pictures: str = ""


@dataclass(frozen=True, slots=True)
class Observation:
    """One feedback problem as a teacher sees it.

    Attributes:
        prompt: What the student was asked.
        response: What it answered.
        reference: A correct answer.
        correct: The verdict.
        images: What the prompt is about, as encoded files.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _BYTES

    prompt: str
    response: str
    reference: str
    correct: bool
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class SkillReport:
    """Feedback on one discovered skill.

    Attributes:
        skill: The skill's name.
        accuracy: Mean score on its feedback problems, in [0, 1].
        count: How many feedback problems it has.
        errors: The failed ones.
        weight: How much the user wants of it, beside its needs; 1 unless the curriculum says otherwise.
        cap: Most examples of it in one plan, as the curriculum says; `None` for no limit.
    """

    skill: str
    accuracy: float
    count: int
    errors: tuple[Observation, ...] = ()
    weight: float = 1.0
    cap: int | None = None


@dataclass(frozen=True, slots=True)
class Subskill:
    """A leaf of a skill tree.

    Attributes:
        name: Full name, such as `"chain_sum/with carry"`.
        allocation: How many examples of it the student is to be trained on, at least 0.
        data: How many examples of it are there to be trained on.
        accuracy: The student's accuracy on those, from the latest probe, in [0, 1]; `None` before the first.
    """

    name: str
    allocation: int
    data: int = 0
    accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class SkillTree:
    """One skill, with the subskills that a teacher has grown so far, in the order of their growth.

    Attributes:
        skill: The skill's name.
        subskills: The leaves.
        frozen: Whether the curriculum forbids any change.
    """

    skill: str
    subskills: tuple[Subskill, ...] = ()
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class Action:
    """What a policy does to one skill tree.

    Attributes:
        skill: Which tree.
        kind: `"explore"` grows new subskills, `"exploit"` changes the allocation of existing ones.
        grow: Explore: names of new subskills.
        data: Explore: allocation of each new subskill.
        shift: Exploit: change of allocation by subskill, up or down.
        why: The reason, in a few words, for whoever reads the episode.
        show_errors: Whether the engine is shown what the student got wrong; false for policies without state.
    """

    skill: str
    kind: Literal["explore", "exploit"]
    grow: tuple[str, ...] = ()
    data: int = 0
    shift: Mapping[str, int] = field(default_factory=dict)
    why: str = ""
    show_errors: bool = True


@dataclass(frozen=True, slots=True)
class Turn:
    """One iteration as an environment with a history shows it.

    Attributes:
        iteration: Of the student before, from 0.
        accuracy: Feedback accuracy by skill before.
        actions: What the policy did.
        reward: Change of feedback accuracy by skill that followed.
        kept: Examples that the gate kept, by claimed skill.
    """

    iteration: int
    accuracy: Mapping[str, float]
    actions: tuple[Action, ...] = ()
    reward: Mapping[str, float] = field(default_factory=dict)
    kept: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Probe:
    """The student's accuracy on training data of one claimed skill, measured by the loop.

    Attributes:
        skill: The skill that the teacher claimed.
        accuracy: Mean score of the student's own answers, in [0, 1].
        count: How many examples were asked.
    """

    skill: str
    accuracy: float
    count: int


@dataclass(frozen=True, slots=True)
class State:
    """What the environment tells the teacher after an iteration.

    Attributes:
        environment: The environment's name.
        iteration: How many trainings lie behind the student; 0 is the untrained student.
        seed: The teacher's random seed for this round; the only randomness a policy may use.
        score: The student's score on the feedback split, in [0, 1].
        observations: Open-ended: every feedback problem, without skill labels.
        skills: Skill-list and skill-tree: accuracy and errors per skill.
        trees: Skill-tree: the tree of each skill, in the order of `skills`.
        history: Skill-tree: what was done before and what came of it, oldest first.
        probes: Accuracy on the data taught so far, where the environment asked for it.
        rejected: Why examples of the last submission were rejected, as counts by reason.
        examples_left: How many more examples may be submitted in this round.
        known: Of the last submission, how many examples the student was asked before training and how many
            of them it knew (`{"asked": 20, "known": 7}`); empty where the policy did not ask.
        known_checks_left: How many more examples the student may be asked.
        memory: What the policy returned with its last plan.
    """

    environment: str
    iteration: int
    seed: int
    score: float
    observations: tuple[Observation, ...] = ()
    skills: tuple[SkillReport, ...] = ()
    trees: tuple[SkillTree, ...] = ()
    history: tuple[Turn, ...] = ()
    probes: tuple[Probe, ...] = ()
    rejected: Mapping[str, int] = field(default_factory=dict)
    examples_left: int = 0
    known: Mapping[str, int] = field(default_factory=dict)
    known_checks_left: int = 0
    memory: Any = None


@dataclass(frozen=True, slots=True)
class Past:
    """What one earlier iteration leaves for an environment that keeps a history.

    Attributes:
        iteration: Of the student before it, from 0; data generations of one iteration share it.
        feedback: Of that student.
        actions: What the policy did to the trees, in order.
        kept: Examples that the gate kept, as a teacher may know it, by claimed skill.
    """

    iteration: int
    feedback: Feedback
    actions: tuple[Action, ...] = ()
    kept: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StateContext:
    """What the loop adds to feedback when a state is made.

    Attributes:
        past: Earlier iterations, and earlier data generations of this one, oldest first.
        iteration, seed, probes, rejected, examples_left, known, known_checks_left, memory: As in `State`.
    """

    iteration: int
    seed: int
    past: tuple[Past, ...] = ()
    probes: tuple[Probe, ...] = ()
    rejected: Mapping[str, int] = field(default_factory=dict)
    examples_left: int = 0
    known: Mapping[str, int] = field(default_factory=dict)
    known_checks_left: int = 0
    memory: Any = None

    def fields(self) -> dict[str, Any]:
        """Returns the fields that a `State` shares, by name, to build one from."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "past"}


# --------------------------------------------------------------------------------------------------------------
# What a teacher answers


@dataclass(frozen=True, slots=True)
class PlanItem:
    """A specification of some training data: the unit that an engine works on.

    Attributes:
        count: How many examples are wanted, at least 1.
        instruction: What to write, in words.
        skill: The skill to practise; `None` leaves it to the engine.
        like: Problems to write variations of.
        seed: The engine's random seed for this item. The loop sets it; whatever a policy puts here is
            replaced, so that the number of workers changes nothing.
    """

    count: int
    instruction: str = ""
    skill: str | None = None
    like: tuple[Observation, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A policy's action: what data to write next.

    Attributes:
        items: The specifications, in order. In the skill-tree environment they follow from `actions`.
        memory: What the policy wants to be given back with the next state: JSON, at most 1 MB.
        actions: Skill-tree: what to do to the trees.
        ask_known: Whether to ask the student the written examples before it is trained on them, as far as the
            budget's `known_checks_total` allows.
    """

    items: tuple[PlanItem, ...] = ()
    memory: Any = None
    actions: tuple[Action, ...] = ()
    ask_known: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's decision on one submitted example.

    Attributes:
        example: What was submitted.
        kept: Whether the student is trained on it.
        reason: Why not; empty when kept. One of `dgym.episode.REASONS`.
        correct: Whether the domain could compute that the response is right; `None` where it cannot say.
        tokens: Response tokens that it counted against the budget.
        known: Whether the student knew the answer before; `None` where it was not asked.
        overlaps: Ids of the evaluation problems that it repeats, whatever it was rejected for; hidden from teachers.
    """

    example: Example
    kept: bool
    reason: str = ""
    correct: bool | None = None
    tokens: int = 0
    known: bool | None = None
    overlaps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a language model, from the first request to the answer or to its being given up.

    Attributes:
        purpose: What it was for, such as `"plan"` or `"write"`.
        model: Which model.
        outcome: `"ok"`, or why the answer was lost; one of `dgym.chat.errors.LOSSES`.
        tokens_in: Tokens read, over all requests that were answered.
        tokens_out: Tokens written.
        tokens_cached: Tokens read from the provider's cache.
        requests: Requests sent, or found recorded: 1, more after transient failures and repairs.
        cache_hit: Whether every answer came from the record and nothing was sent.
        cost: Price in US dollars at the price table's rates, recorded or not; `None` for an unknown model.
        seconds: Latency, waiting for the limiter included.
        item: Index of the plan item that it served; `None` for a policy's.
        generation: Data generation within the iteration.
    """

    purpose: str
    model: str
    outcome: str = "ok"
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    requests: int = 1
    cache_hit: bool = False
    cost: float | None = 0.0
    seconds: float = 0.0
    item: int | None = None
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """What an engine made of one plan item.

    Attributes:
        examples: What it wrote.
        error: What it ended with, if it ended badly.
        calls: The language-model calls that it took.
    """

    examples: tuple[Any, ...] = ()
    error: DgymError | None = None
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One iteration of an episode, as `run_episode` yields it.

    Attributes:
        iteration: 0 for the untrained student, then 1, 2, ...
        feedback: Attempts on the split that the teacher sees.
        selection: Attempts on the split that chooses the iteration.
        test: Attempts on the test split; `None` where it was not asked.
        plans: The teacher's plans of this iteration, one per data generation.
        verdicts: Every example submitted in this iteration, kept or not.
        examples_total: Kept examples that the student of this iteration was trained on.
        best: Whether this is the best iteration so far on selection; ties go to the earlier.
        seconds: Wall-clock seconds by stage: `plan`, `generate`, `gate`, `train`, `answer`.
        train: What the trainer reports, such as `loss` and `tokens`.
        probes: Accuracy on the data taught so far, where the environment asked for it.
        calls: The teacher's language-model calls of this iteration, policy and engine.
        stopped: Why the teacher's spending was stopped in this iteration, which is then the last; else empty.
    """

    iteration: int
    feedback: Feedback
    selection: Feedback
    test: Feedback | None
    plans: tuple[Plan, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    examples_total: int = 0
    best: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    train: Mapping[str, float] = field(default_factory=dict)
    probes: tuple[Probe, ...] = ()
    calls: tuple[Call, ...] = ()
    stopped: str = ""

    @property
    def kept(self) -> tuple[Example, ...]:
        """The examples of this iteration that passed the gate."""
        return tuple(v.example for v in self.verdicts if v.kept)


# --------------------------------------------------------------------------------------------------------------
# What acts


@runtime_checkable
class Domain(Protocol):
    """What is learned: problems, grader, and how an example is written.

    Attributes:
        name: The registered name.
        version: Bumped whenever scores would move.
        description: For the Brief.
        answer_format: For the Brief.
    """

    name: str
    version: str
    description: str
    answer_format: str

    def problems(self, split: Split) -> Sequence[Problem]:
        """Returns the fixed problems of `feedback`, `selection` or `test`; `train` may be empty."""
        ...

    def grade(self, problem: Problem, response: str) -> float:
        """Grades a response in [0, 1]; never raises on what a student wrote."""
        ...

    def check(self, example: Example) -> bool | None:
        """Says whether an example's response answers its prompt; `None` where that cannot be computed."""
        ...

    def fingerprints(self, prompt: str, images: tuple[bytes, ...] = ()) -> tuple[str, ...]:
        """Returns what makes a problem that problem, without its template.

        The first is the problem's identity. Where the domain does not recognise the text, weaker forms follow.
        """
        ...

    def overlap_keys(self, problem: Problem) -> tuple[str, ...]:
        """Returns every fingerprint under which a copy of this hidden problem would show."""
        ...


@runtime_checkable
class Generator(Protocol):
    """What a domain with procedural problems offers to *privileged* engines (see `dgym.teachers`)."""

    def skills(self) -> Sequence[str]:
        """Returns the names of the domain's own kinds of problem."""
        ...

    def subskills(self, skill: str) -> Sequence[str]:
        """Returns the refinements of a skill that `fresh` knows too, as full names `skill/refinement`."""
        ...

    def infer_skill(self, prompt: str, images: tuple[bytes, ...] = ()) -> str | None:
        """Recognises a problem's kind from its text and images alone."""
        ...

    def fresh(self, skill: str, count: int, seed: int) -> list[Example]:
        """Writes `count` distinct, correct examples of the train split.

        `skill` may also be a refinement, or a kind off the domain. A domain whose `problems("train")` are all that
        people wrote returns as many as there are of the skill.
        """
        ...

    def off_domain(self) -> Sequence[str]:
        """Returns kinds of problem that `fresh` knows but the domain does not test."""
        ...

    def wrong_answer(self, example: Example, seed: int) -> Example:
        """Returns the example with a plausible answer that is wrong."""
        ...


@runtime_checkable
class Student(Protocol):
    """Who learns. One object is one student of one episode; several may share a base model."""

    def train(self, examples: Sequence[Example], *, seed: int, fresh: bool) -> Mapping[str, float]:
        """Trains on `examples`, from the base model when `fresh`, else on top of what was learned.

        Args:
            examples: Kept examples, in a fixed order; may be empty (then a fresh student is the base).
            seed: All randomness of the training derives from it.
            fresh: Whether to forget earlier training first.

        Returns:
            Measures such as `loss` (mean of the last epoch), `steps` and `tokens`.

        Raises:
            StudentError: If training fails.
        """
        ...

    def answer(self, problems: Sequence[Problem]) -> list[str]:
        """Answers each problem greedily, in order."""
        ...

    def save(self, path: str) -> None:
        """Writes what was learned into the folder `path`."""
        ...

    def load(self, path: str) -> None:
        """Restores what `save` wrote."""
        ...

    def close(self) -> None:
        """Gives back the memory; closing twice is harmless."""
        ...


@runtime_checkable
class Measures(Protocol):
    """What a domain offers that measures more of a response than its grade."""

    def measures(self, problem: Problem, response: str) -> Mapping[str, float]:
        """Measures a response, by name, each in [0, 1]; never raises on what a student wrote."""
        ...


Grade = tuple[float, Mapping[str, float]]
"""A response's grade in [0, 1], and what else was measured of it."""


@runtime_checkable
class GradesTogether(Protocol):
    """What a domain offers that grades many responses better than one: in groups, or on all cores."""

    def grade_all(self, problems: Sequence[Problem], responses: Sequence[str]) -> Sequence[Grade]:
        """Returns grade and measures of each response, in order; never raises on what a student wrote."""
        ...


@runtime_checkable
class Summarises(Protocol):
    """What a domain offers whose field reports more than the mean grade of a split."""

    def summary(self, attempts: Sequence[Attempt]) -> Mapping[str, float]:
        """Returns figures on all attempts together, by name, each in [0, 1], such as pass@k."""
        ...


@runtime_checkable
class Frames(Protocol):
    """What a domain offers whose problems all stand in the same words, such as a request for a boxed answer."""

    def frame(self, prompt: str) -> str:
        """Writes a problem as the student is asked it; leaves one that is written so already."""
        ...

    def bare(self, prompt: str) -> str:
        """Returns a problem without the words that stand around every one."""
        ...


@runtime_checkable
class Distinctive(Protocol):
    """What a domain offers whose problems share long passages with others that are no copies of them."""

    def distinctive(self, prompt: str) -> str:
        """Returns what of a problem is its own, such as the request that follows descriptions of functions."""
        ...


@runtime_checkable
class Prepares(Protocol):
    """What a domain offers that needs something of the machine, such as a sandbox."""

    def prepare(self) -> None:
        """Gets ready to grade.

        Raises:
            DgymError: If this machine cannot; the message says what to do.
        """
        ...


class Base(Protocol):
    """A loaded model on which students are opened."""

    @property
    def bytes(self) -> int:
        """Memory of the weights, in bytes."""
        ...

    def open(self, recipe: Any, variant: str) -> Student:
        """Opens a new, untrained student; `recipe` is a `dgym.models.recipe.Recipe`."""
        ...


@runtime_checkable
class StudentFamily(Protocol):
    """A registered student: variants of one model, each with its own strengths.

    Attributes:
        name: The registered name.
        variants: All variants.
    """

    name: str
    variants: tuple[str, ...]

    def draw(self, seed: int) -> str:
        """Returns the variant that a seed stands for."""
        ...

    def digest(self, variant: str) -> str:
        """Identifies a variant's weights without loading them."""
        ...

    def load(self, variant: str, device: str, precision: str, threads: int) -> Base:
        """Loads a variant."""
        ...


@runtime_checkable
class Environment(Protocol):
    """What the teacher sees.

    Attributes:
        name: The registered name.
        version: Bumped whenever scores would move.
        wants_probes: Whether the loop should measure the student on the data it was taught.
    """

    name: str
    version: str
    wants_probes: bool

    def observe(self, feedback: Feedback, context: StateContext) -> State:
        """Turns feedback into the teacher's state; knows nothing of the hidden splits."""
        ...


@runtime_checkable
class SkillOrganisation(Protocol):
    """What an environment has that organises skills: it carries out plans, and chooses among the data."""

    def expand(self, plan: Plan, state: State) -> Plan:
        """Returns the plan as it is carried out: within the curriculum, actions turned into items.

        Raises:
            TeacherError: If the plan does not fit the environment.
        """
        ...

    def training_set(self, examples: Sequence[Example], context: StateContext) -> Sequence[Example]:
        """Chooses from all kept examples, oldest first, those that the student is trained on (`retrain` only)."""
        ...


@runtime_checkable
class Policy(Protocol):
    """Decides what data to write, from Brief and State alone."""

    def plan(self, brief: Brief, state: State) -> Plan:
        """Returns the plan for the next data."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Writes examples for one plan item, from Brief and item alone. Items are worked on concurrently."""

    def generate(self, brief: Brief, item: PlanItem) -> Sequence[Example]:
        """Returns up to `item.count` examples; all randomness comes from `item.seed`."""
        ...


@runtime_checkable
class WorksTogether(Protocol):
    """What an engine offers that works on many items better than on one: where each start costs something."""

    def generate_all(self, brief: Brief, items: Sequence[PlanItem]) -> list[Written]:
        """Returns for each item what came of it, in order; never raises."""
        ...


@dataclass(frozen=True, slots=True)
class Message:
    """One message to a language model.

    Attributes:
        role: Who speaks.
        content: What is said.
        images: What it is about, as encoded files.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _BYTES

    role: Literal["system", "user", "assistant"]
    content: str
    images: tuple[bytes, ...] = ()


@runtime_checkable
class Chat(Protocol):
    """A language model that answers in JSON.

    Attributes:
        model: Which one, for caches and tables.
    """

    model: str

    def complete(self, messages: Sequence[Message], schema: Mapping[str, Any], seed: int) -> Any:
        """Returns a JSON value that fits the JSON schema.

        Raises:
            TeacherError: If the model gives none.
        """
        ...


@runtime_checkable
class Checks(Protocol):
    """What a language model offers that can be tried before anything is run."""

    def check(self) -> None:
        """Tries whether calls can succeed.

        Raises:
            UsageError: If none can; the message says what to set.
        """
        ...


@dataclass(frozen=True)
class Teacher:
    """A named entry: one engine, and a policy for each environment that it enters.

    Attributes:
        name: The registered name.
        policies: By environment name.
        engine: What writes the examples.
        version: Bumped whenever scores would move.
        privileged: Whether the engine uses the domain's own generators. Such a teacher tests the allocation
            of data, not the writing of it.
        unverified: Whether its examples pass the gate without being checked for correctness: true for the
            wrong-answers and off-domain controls, which would otherwise teach nothing.
        budget_factor: Multiplies the budget; 10 for the ceiling, 1 for every teacher that is ranked.
        state_blind: Whether no policy looks at the state. Such a teacher runs once per cell and counts in
            every track.
        ranked: Whether it is ranked; controls and the ceiling are shown beside the ranking.
        twin: Of a teacher that does not look at the student: the name of the one that does and otherwise
            acts alike; empty for all others.
        chats: The language models that it asks.
        concurrency: How many of its plan items may be worked on at a time by one worker: 1 for engines that
            compute, more for those that wait for a language model.
    """

    name: str
    policies: Mapping[str, Policy]
    engine: Engine
    version: str = "1"
    privileged: bool = False
    unverified: bool = False
    budget_factor: int = 1
    state_blind: bool = False
    ranked: bool = True
    twin: str = ""
    chats: tuple[Chat, ...] = ()
    concurrency: int = 1

    @classmethod
    def of(cls, made: object, name: str, environments: Sequence[str]) -> Teacher | None:
        """Takes a teacher as it is, or one object with both methods as policy and engine; `None` for anything else.

        Args:
            made: What a teacher's factory gave.
            name: What one object is called.
            environments: Which it enters unless its attribute `environments` names some.
        """
        if isinstance(made, cls):
            return made
        if not (isinstance(made, Policy) and isinstance(made, Engine)):
            return None
        entered: Sequence[str] = getattr(made, "environments", None) or environments
        return cls(
            name=name,
            policies=dict.fromkeys(entered, made),
            engine=made,
            version=str(getattr(made, "version", "1")),
            privileged=bool(getattr(made, "privileged", False)),
            state_blind=bool(getattr(made, "state_blind", False)),
        )


class Pool(Protocol):
    """Maps an engine over plan items; the order of results is the order of items."""

    def generate(self, brief: Brief, items: Sequence[PlanItem]) -> list[Written]:
        """Returns for each item what the engine made of it."""
        ...


# --------------------------------------------------------------------------------------------------------------
# Small tools that every layer shares

T = TypeVar("T")


def derive_seed(*parts: object) -> int:
    """Derives an independent 63-bit seed from a path of names and numbers, the same on every machine."""
    text = "\x1f".join(str(p) for p in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def digest(value: Any) -> str:
    """Hashes a JSON value canonically; 32 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def count_tokens(text: str) -> int:
    """Counts response tokens for the budget without any model's tokenizer: words and single symbols."""
    return sum(1 for _ in _tokens(text))


def _tokens(text: str) -> Iterator[str]:
    word = False
    for char in text:
        if char.isalnum():
            if not word:
                yield char
            word = True
        else:
            word = False
            if not char.isspace():
                yield char


@lru_cache(maxsize=64)
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def to_json(record: Any) -> Any:
    """Turns a record of this module into JSON values."""
    kind: Any = type(record)
    return _adapter(kind).dump_python(record, mode="json")


def from_json(kind: type[T], value: Any) -> T:
    """Restores a record from `to_json`'s output.

    Raises:
        pydantic.ValidationError: If the value does not fit the record.
    """
    key: Any = kind
    result: T = _adapter(key).validate_json(json.dumps(value))
    return result
