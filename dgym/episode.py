"""The closed loop: evaluate, observe, plan, generate, judge, train, and again.

`run_episode` is the algorithm; `ClosedLoop` holds what one episode needs and is also what `dgym.make` drives by
hand. Neither knows Ray, files or models. A teacher is only ever given a Brief and a State.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from dgym.chat.errors import SpendingStoppedError
from dgym.chat.ledger import recording
from dgym.core import (
    MEMORY_LIMIT,
    Attempt,
    Brief,
    Call,
    Domain,
    Environment,
    Example,
    Feedback,
    Frames,
    Generator,
    Grade,
    GradesTogether,
    Measures,
    Past,
    Plan,
    PlanItem,
    Policy,
    Pool,
    Probe,
    Problem,
    Rules,
    SkillOrganisation,
    Split,
    State,
    StateContext,
    Step,
    Student,
    Teacher,
    Verdict,
    WorksTogether,
    Written,
    derive_seed,
)
from dgym.errors import DgymError, InfrastructureError, TeacherError, UsageError, one_line
from dgym.gate import HIDDEN_REASONS, Gate, told
from dgym.overlap import OverlapIndex

PROBE_PER_SKILL = 20
"""How many of the latest kept examples of a skill a probe asks."""

EXAMPLE_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "prompt": {"type": "string", "description": "the problem, as the student would be asked it"},
        "response": {"type": "string", "description": "the answer to learn, in the answer format"},
        "skill": {"type": ["string", "null"], "description": "what it trains"},
    },
    "required": ["prompt", "response"],
}


def run_episode(loop: ClosedLoop, teacher: Teacher, pool: Pool) -> Iterator[Step]:
    """Runs one episode: a teacher writes data, the student learns from it, round after round.

    Args:
        loop: Domain, environment, student and rules.
        teacher: Plans and writes the data.
        pool: Maps the teacher's engine over plan items.

    Yields:
        The untrained student as step 0, then one step per iteration.

    Raises:
        TeacherError: If a policy raises or plans something unusable, or if the engine gave nothing usable in
            the whole episode although data were planned. Steps already yielded stay valid.
        StudentError: If training or answering fails.
    """
    yield loop.begin()
    while not loop.done:
        for _ in range(loop.rules.generations):
            teach(loop, teacher, pool)
        yield loop.learn()
    loop.finish()


def teach(loop: ClosedLoop, teacher: Teacher, pool: Pool) -> tuple[Verdict, ...]:
    """Lets a teacher see the state, plan and write data once, and puts them through the gate."""
    state = loop.observe()
    with loop.clock("plan"), recording() as calls:
        try:
            plan = ask_policy(teacher.policies[loop.environment.name], loop.brief, state)
        except SpendingStoppedError as error:
            plan = Plan(memory=state.memory)
            loop.stop(str(error))
    loop.note(calls)
    plan = loop.accept(plan, state)
    with loop.clock("generate"):
        written = pool.generate(loop.brief, plan.items)
    return loop.submit(_collect(loop, plan.items, written))


class ClosedLoop:
    """One episode's domain, environment, student and rules; everything but the teacher.

    Args:
        domain: What is learned.
        environment: What the teacher sees.
        student: Who learns.
        rules: The protocol.
        unverified: Whether examples known to be wrong pass (controls only).
        index: Finds copies of evaluation problems; made here when not shared.
    """

    def __init__(
        self,
        domain: Domain,
        environment: Environment,
        student: Student,
        rules: Rules,
        *,
        unverified: bool = False,
        index: OverlapIndex | None = None,
    ) -> None:
        self.domain, self.environment, self.student, self.rules = domain, environment, student, rules
        self.brief = Brief(
            domain=domain.name,
            environment=environment.name,
            description=domain.description,
            answer_format=domain.answer_format,
            example_schema=EXAMPLE_SCHEMA,
            budget=rules.budget,
            iterations=rules.iterations,
            protocol={"training": rules.training, "generations": rules.generations, "verify": rules.verify},
            tools=tuple(getattr(domain, "tools", ())),
            subskills=_subskills(domain),
            samples=_samples(domain),
            pictures=str(getattr(domain, "pictures", "")),
        )
        if index is None:
            index = overlap_index(domain, rules.validation)
        self._gate = Gate(domain, index, rules.budget, verify=rules.verify and not unverified, open_=not rules.gate)
        self._memory: Any = None
        self._data: list[Example] = []
        self._shown: list[Example] = []
        self._trained_on = 0
        self._plans: list[Plan] = []
        self._verdicts: list[Verdict] = []
        self._told: dict[str, int] = {}
        self._probes: tuple[Probe, ...] = ()
        self._past: list[Past] = []
        self._known: dict[str, int] = {}
        self._known_left = rules.budget.known_checks_total
        self._asked = self._well_formed = 0
        self._steps: list[Step] = []
        self._best = 0.0
        self._seconds: dict[str, float] = {}
        self._malformed = ""
        self._calls: list[Call] = []
        self._stopped = ""

    @property
    def iteration(self) -> int:
        """How many trainings lie behind the student."""
        return len(self._steps) - 1

    @property
    def done(self) -> bool:
        """Whether all iterations have been run, or the teacher's spending was stopped."""
        return self.iteration >= self.rules.iterations or bool(self._stopped and self.last.stopped)

    def note(self, calls: Iterable[Call], item: int | None = None) -> None:
        """Adds language-model calls to the coming step."""
        # A policy is asked before its plan is noted, an engine after.
        generation = len(self._plans) - (item is not None)
        self._calls += [replace(call, item=item, generation=generation) for call in calls]

    def stop(self, why: str) -> None:
        """Makes the coming step the last: the teacher may spend nothing more."""
        self._stopped = self._stopped or why

    @property
    def last(self) -> Step:
        """The latest step."""
        return self._steps[-1]

    def begin(self) -> Step:
        """Evaluates the untrained student; the first step of every episode."""
        if self._steps:
            raise DgymError("The episode has begun already.")
        return self._evaluate({})

    def observe(self) -> State:
        """Makes the teacher's state from the latest feedback and what was told of the last submission."""
        return self.environment.observe(self.last.feedback, self._context())

    def _context(self) -> StateContext:
        # Several data generations before one training share its allowance.
        generations = max(1, self.rules.generations - len(self._plans))
        return StateContext(
            iteration=self.iteration,
            seed=derive_seed("policy", *self._place(), len(self._plans)),
            past=tuple(self._past),
            probes=self._probes,
            rejected=dict(self._told),
            examples_left=-(-self._gate.examples_left // generations),
            known=dict(self._known),
            known_checks_left=self._known_left,
            memory=self._memory,
        )

    def accept(self, plan: Plan, state: State) -> Plan:
        """Has the environment carry out a plan, seeds its items, and cuts them to what may still be submitted.

        Raises:
            TeacherError: If the plan does not fit the environment.
        """
        if isinstance(self.environment, SkillOrganisation):
            plan = self.environment.expand(plan, state)
        left = min(self._gate.examples_left, state.examples_left)
        items: list[PlanItem] = []
        for index, item in enumerate(plan.items):
            count = min(item.count, left)
            if count > 0:
                left -= count
                seed = derive_seed("item", *self._place(), len(self._plans), index)
                items.append(replace(item, count=count, seed=seed))
        plan = replace(plan, items=tuple(items))
        self._memory = plan.memory
        self._plans.append(plan)
        self._asked += sum(item.count for item in items)
        return plan

    def submit(self, examples: Sequence[object]) -> tuple[Verdict, ...]:
        """Puts examples through the gate; what is kept is learned from at the next `learn`.

        Where all of the domain's problems stand in the same words, those of the examples do too from here on.
        """
        with self.clock("gate"):
            verdicts = self._gate.submit(_framed(self.domain, examples))
        self._well_formed += sum(v.reason not in ("malformed", "over-budget") for v in verdicts)
        self._malformed = next((v.example.prompt for v in verdicts if v.reason == "malformed"), self._malformed)
        plan = self._plans[-1] if self._plans else Plan()
        verdicts = self._ask_known(verdicts) if plan.ask_known else verdicts
        asked = [v.known for v in verdicts if v.known is not None]
        self._known = {"asked": len(asked), "known": sum(asked)} if asked else {}
        self._verdicts += verdicts
        self._told = told(verdicts)
        kept = Counter(v.example.skill for v in verdicts if _looks_kept(v) and v.example.skill is not None)
        self._past.append(Past(self.iteration, self.last.feedback, plan.actions, dict(kept)))
        return tuple(verdicts)

    def _ask_known(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """Asks the student the examples that look kept in order, as far as the budget for that goes."""
        asked = [i for i, v in enumerate(verdicts) if _looks_kept(v)][: self._known_left]
        self._known_left -= len(asked)
        with self.clock("answer"):
            right = answers_right(self.student, self.domain, [verdicts[i].example for i in asked])
        out = list(verdicts)
        for i, known in zip(asked, right, strict=True):
            out[i] = replace(out[i], known=known)
        return out

    def learn(self) -> Step:
        """Trains the student on what was kept and evaluates it."""
        new = [v.example for v in self._verdicts if v.kept]
        self._data += new
        self._shown += [v.example for v in self._verdicts if _looks_kept(v)]
        retrain = self.rules.training == "retrain"
        seed = derive_seed("train", self.rules.training_seed, self.iteration + 1)
        data: Sequence[Example] = self._data if retrain else new
        if retrain and isinstance(self.environment, SkillOrganisation):
            data = self.environment.training_set(data, self._context())
        with self.clock("train"):
            report = self.student.train(data, seed=seed, fresh=retrain)
        if self.environment.wants_probes:
            shown: Sequence[Example] = self._shown
            if retrain and isinstance(self.environment, SkillOrganisation):
                shown = self.environment.training_set(shown, self._context())
            with self.clock("answer"):
                self._probes = probe(self.student, self.domain, shown)
        self._trained_on = len(data) if retrain else len(self._data)
        self._gate.next_iteration()
        return self._evaluate(report)

    def finish(self) -> None:
        """Ends the episode; an engine that never wrote anything usable has failed.

        Raises:
            TeacherError: If data were planned and not one well-formed example came of it.
        """
        if self._asked and not self._well_formed and not self._stopped:
            shown = f" The last was: {self._malformed[:120]}" if self._malformed else ""
            what = "only malformed examples" if self._malformed else "no examples"
            raise TeacherError(f"The teacher planned {self._asked} examples and its engine returned {what}.{shown}")

    @contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Adds the time spent inside to the coming step's `seconds`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + time.perf_counter() - start

    def _place(self) -> tuple[object, ...]:
        # Never the spec's digest: teachers are compared on shared seeds.
        return (self.rules.teacher_seed, self.domain.name, self.environment.name, self.iteration)

    def _evaluate(self, report: Mapping[str, float]) -> Step:
        first = not self._steps
        with self.clock("answer"):
            feedback = self._ask("feedback")
            selection = feedback if self.rules.validation == "paper" else self._ask("selection")
            # Ties go to the earlier iteration, and iteration 0 counts.
            best = first or selection.score > self._best
            last = self.iteration + 1 >= self.rules.iterations or bool(self._stopped)
            test = self._ask("test") if best or last or self.rules.test_every_iteration else None
        if best:
            self._best = selection.score
        step = Step(
            iteration=self.iteration + 1,
            feedback=feedback,
            selection=selection,
            test=test,
            plans=tuple(self._plans),
            verdicts=tuple(self._verdicts),
            examples_total=self._trained_on,
            best=best,
            seconds=dict(self._seconds),
            train=dict(report),
            probes=self._probes,
            calls=tuple(self._calls),
            stopped=self._stopped,
        )
        self._plans, self._verdicts, self._calls, self._seconds = [], [], [], {}
        self._steps.append(step)
        return step

    def _ask(self, split: Split) -> Feedback:
        return evaluate(self.student, self.domain, split, used(self.domain, split, self.rules))


def _looks_kept(verdict: Verdict) -> bool:
    """Whether an example is kept as far as a teacher may know: what overlaps a hidden split looks kept to it.

    Else every count of what was kept, asked or probed would say which problems are hidden.
    """
    return verdict.kept or verdict.reason in HIDDEN_REASONS


def evaluate(student: Student, domain: Domain, split: Split, problems: Sequence[Problem]) -> Feedback:
    """Asks a student and grades its answers."""
    responses = student.answer(problems)
    graded = zip(problems, responses, grade(domain, problems, responses), strict=True)
    return Feedback(split, tuple(Attempt(p, r, score, dict(measures)) for p, r, (score, measures) in graded))


def grade(domain: Domain, problems: Sequence[Problem], responses: Sequence[str]) -> Sequence[Grade]:
    """Grades answers: all together where the domain can, else one by one.

    Returns:
        Grade and measures of each, in order.
    """
    if isinstance(domain, GradesTogether):
        return domain.grade_all(problems, responses)
    pairs = zip(problems, responses, strict=True)
    # Asked once, not for each answer: to see what an object offers takes longer than to grade a number.
    if isinstance(domain, Measures):
        return [(domain.grade(problem, response), domain.measures(problem, response)) for problem, response in pairs]
    return [(domain.grade(problem, response), {}) for problem, response in pairs]


def used(domain: Domain, split: Split, rules: Rules) -> Sequence[Problem]:
    """Returns the problems of an evaluation split that an episode asks.

    In the paper's protocol there is one validation split, feedback and selection together.
    """
    problems = domain.problems(split)
    if split == "feedback" and rules.validation == "paper":
        problems = [*problems, *domain.problems("selection")]
    count = rules.counts.get(split)
    return share_of(problems, rules.share) if count is None else first_of(problems, count)


def first_of(problems: Sequence[Problem], count: int) -> Sequence[Problem]:
    """Returns the first `count` problems, taken from the skills in turns, in their order.

    Of problems that are graded in groups, whole groups: as many as fit, and at least one.
    """
    seen: Counter[str] = Counter()
    turns: dict[str, tuple[int, int]] = {}
    members: dict[str, list[int]] = {}
    for index, problem in enumerate(problems):
        group = problem.group or problem.id
        members.setdefault(group, []).append(index)
        if group not in turns:
            turns[group] = (seen[problem.skill], index)
            seen[problem.skill] += 1
    chosen: list[int] = []
    for group in sorted(turns, key=lambda name: turns[name]):
        if chosen and len(chosen) + len(members[group]) > count:
            break
        chosen += members[group]
    return [problems[index] for index in sorted(chosen)]


def share_of(problems: Sequence[Problem], share: float) -> Sequence[Problem]:
    """Returns the first `share` of the problems of each skill, in their order; whole groups where there are any."""
    if share >= 1:
        return problems
    skills = Counter(problem.skill for problem in problems)
    left = {skill: max(1, round(count * share)) for skill, count in skills.items()}
    out: list[Problem] = []
    taken: set[str] = set()
    for problem in problems:
        if problem.group in taken or left[problem.skill] > 0:
            left[problem.skill] -= 1
            out.append(problem)
            taken |= {problem.group} - {""}
    return out


def probe(student: Student, domain: Domain, examples: Sequence[Example]) -> tuple[Probe, ...]:
    """Measures a student on the latest training examples of each claimed skill."""
    by_skill: dict[str, list[Example]] = {}
    for example in examples:
        if example.skill is not None:
            by_skill.setdefault(example.skill, []).append(example)
    asked = {skill: by_skill[skill][-PROBE_PER_SKILL:] for skill in sorted(by_skill)}
    # One list for the student: a call for each of many skills would leave its batches nearly empty.
    right = iter(answers_right(student, domain, [e for part in asked.values() for e in part]))
    return tuple(Probe(skill, sum(islice(right, len(part))) / len(part), len(part)) for skill, part in asked.items())


def answers_right(student: Student, domain: Domain, examples: Sequence[Example]) -> list[bool]:
    """Asks a student training examples and says which it answers rightly."""
    problems = [Problem(f"example-{i}", e.prompt, e.response, e.skill or "", e.images) for i, e in enumerate(examples)]
    return [
        answer.strip() == example.response.strip() or domain.check(replace(example, response=answer)) is True
        for example, answer in zip(examples, student.answer(problems) if problems else [], strict=True)
    ]


def _subskills(domain: Domain) -> dict[str, tuple[str, ...]]:
    """Returns what may be proposed in a skill tree, where the domain has refinements of its own."""
    if not isinstance(domain, Generator):
        return {}
    return {skill: tuple(domain.subskills(skill)) for skill in domain.skills()}


SAMPLES: Final = 12
"""How many problems of the train split a teacher is shown."""


def _samples(domain: Domain) -> tuple[Example, ...]:
    """Returns a few train problems, from as many kinds as there are, without the names of the kinds."""
    if isinstance(domain, Generator):
        skills = domain.skills()
        each = -(-SAMPLES // len(skills))
        # One of each kind before a second of any.
        drawn = zip(*(domain.fresh(skill, each, derive_seed("samples", skill)) for skill in skills), strict=True)
        shown = [example for one_each in drawn for example in one_each]
    else:
        # Feedback problems are no secret from a teacher, where the domain has none to spare.
        spare = domain.problems("train") or domain.problems("feedback")
        shown = [Example(p.prompt, p.reference, images=p.images) for p in spare if p.reference]
    return tuple(replace(example, skill=None) for example in shown[:SAMPLES])


def overlap_index(domain: Domain, validation: str = "split") -> OverlapIndex:
    """Builds the index of a domain's evaluation problems, all of them whatever share is used.

    Args:
        domain: Whose problems.
        validation: As in `Rules`: in the paper's protocol selection problems are feedback too.
    """
    splits: tuple[Split, ...] = ("feedback", "selection", "test")
    problems = {split: domain.problems(split) for split in splits}
    if validation == "paper":
        problems["feedback"] = [*problems["feedback"], *problems.pop("selection")]
    return OverlapIndex(domain, problems)


def _framed(domain: Domain, examples: Sequence[object]) -> Sequence[object]:
    """Puts examples' problems into the words in which the student is asked all problems."""
    if not isinstance(domain, Frames):
        return examples
    return [
        replace(example, prompt=domain.frame(example.prompt))
        if isinstance(example, Example) and isinstance(example.prompt, str) and example.prompt.strip()
        else example
        for example in examples
    ]


class LocalPool:
    """Works on plan items in this process: one after the other, or so many at a time as the teacher allows."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher

    def generate(self, brief: Brief, items: Sequence[PlanItem]) -> list[Written]:
        """Maps the engine over items, in order."""
        return work_on(self._teacher, brief, items)


def work_on(teacher: Teacher, brief: Brief, items: Sequence[PlanItem]) -> list[Written]:
    """Works on plan items, in threads where the engine waits for a language model; results keep their order."""
    if isinstance(teacher.engine, WorksTogether):
        return teacher.engine.generate_all(brief, items)
    generate = teacher.engine.generate
    if teacher.concurrency <= 1 or len(items) <= 1:
        return [work(generate, brief, item) for item in items]
    with ThreadPoolExecutor(min(teacher.concurrency, len(items))) as pool:
        return list(pool.map(lambda item: work(generate, brief, item), items))


def work(generate: Callable[[Brief, PlanItem], Sequence[Example]], brief: Brief, item: PlanItem) -> Written:
    """Works on one plan item; what the engine raises is returned, and what is over the count is cut."""
    with recording() as calls:
        examples: tuple[Any, ...] = ()
        error: DgymError | None = None
        try:
            examples = tuple(islice(generate(brief, item), item.count))  # it may never end
        except DgymError as raised:
            error = raised
        except Exception as raised:
            error = TeacherError(f"The engine raised {one_line(raised)}")
    return Written(examples, error, tuple(calls))


def ask_policy(policy: Policy, brief: Brief, state: State) -> Plan:
    """Asks a policy for its plan, and returns it with its memory as JSON gives it back.

    Raises:
        TeacherError: If the policy raises, or if what it returns is no plan that can be worked on.
    """
    try:
        made: object = policy.plan(brief, state)
    except DgymError:
        raise
    except Exception as error:
        raise TeacherError(f"The policy raised {one_line(error)}") from error
    if (
        not isinstance(made, Plan)
        or not isinstance(made.items, Sequence)
        or not all(isinstance(i, PlanItem) for i in made.items)
    ):
        raise TeacherError(f"The policy returned {type(made).__name__} where a Plan of PlanItems is due.")
    if not isinstance(made.actions, Sequence):
        raise TeacherError(f"The policy planned actions that are a {type(made.actions).__name__}, and no sequence.")
    if not all(isinstance(i.count, int) for i in made.items):
        raise TeacherError("The policy planned an item whose count is no whole number.")
    try:
        memory = json.dumps(made.memory, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TeacherError(f"The policy's memory is not JSON: {error}") from error
    if len(memory) > MEMORY_LIMIT:
        raise TeacherError(f"The policy's memory has {len(memory)} bytes; {MEMORY_LIMIT} are allowed.")
    # A copy: an object that a policy keeps a hold on would differ between processes.
    return replace(made, items=tuple(made.items), actions=tuple(made.actions), memory=json.loads(memory))


def _collect(loop: ClosedLoop, items: Sequence[PlanItem], written: Sequence[Written]) -> list[object]:
    """Joins the engine's output in order.

    An item that failed costs its examples. All that failed cost the episode, and so does a single one if no other
    could have gone better, or if it was not the teacher's fault: fewer examples would be held against the teacher.
    Where the spending was stopped, the episode goes on with what there is.
    """
    out: list[object] = []
    for index, part in enumerate(written):
        loop.note(part.calls, index)
        out += [replace(e, item=index) if isinstance(e, Example) else e for e in part.examples]
    errors = [part.error for part in written if part.error is not None]
    stopped = [error for error in errors if isinstance(error, SpendingStoppedError)]
    if stopped:
        loop.stop(str(stopped[0]))
    hopeless = [error for error in errors if isinstance(error, UsageError | InfrastructureError)]
    if hopeless or (errors and len(errors) == len(items) and not stopped):
        raise (hopeless or errors)[0]
    return out
