"""Policies that ask a language model, one for each environment; none knows a particular domain.

They follow the agents of DataEnvGym (arXiv 2410.06215): open-ended, a list of data specifications from the student's
errors; skill-list, per skill hypotheses about the weakness and then specifications; skill-tree, per skill explore or
exploit from its history, then the names of new subskills or new allocations. With `state=False` the same is asked
without anything that the student did.

Whatever a model answers, there is a plan: where an answer is lost, the data of that step are asked for in general
words, and the loss stands in the table of calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from dgym.chat.errors import LostAnswerError
from dgym.chat.ledger import concurrently
from dgym.core import (
    Action,
    Brief,
    Chat,
    Observation,
    Plan,
    PlanItem,
    SkillReport,
    SkillTree,
    State,
    derive_seed,
)
from dgym.skills.curriculum import allocate, chunks
from dgym.skills.tree import ungrown
from dgym.teachers.answers import Choice, DataPlan, Proposals, Shifts, SkillPlan, Specification
from dgym.teachers.policies import Blind, ByErrorRate, Shares
from dgym.teachers.showing import Shown, drawn, put
from dgym.teachers.tree import GrowThenShift

S = TypeVar("S")
T = TypeVar("T")

ITEM: Final = 10
"""Examples per plan item: as many as a model writes well at a time."""

HISTORY: Final = 8
"""Most earlier rounds that a model is shown."""


@dataclass(frozen=True)
class OpenEndedAgent:
    """Open-ended: specifications from the student's errors.

    Attributes:
        chat: The language model.
        state: Whether it is told anything about the student.
        errors: Most failed problems that it is shown, drawn by the state's seed.
        see: Whether it is shown pictures.
    """

    chat: Chat
    state: bool = True
    errors: int = 20
    see: bool = True

    def plan(self, brief: Brief, state: State) -> Plan:
        """Asks for specifications that spend the allowance."""
        total, memory = state.examples_left, _memory(state)
        if total < 1:
            return Plan(memory=state.memory)
        failed = drawn([o for o in state.observations if not o.correct], self.errors, state.seed) if self.state else []
        shown = Shown(self.see)
        values = {
            "count": total,
            "state": self.state,
            "score": state.score,
            "errors": shown.errors(failed),
            "history": [row if self.state else _without(row, "accuracy") for row in memory],
            "rejected": dict(state.rejected),
            "task": {"task": "plan", "domain": brief.domain, "count": total},
        }
        try:
            made = put(self.chat, brief, "plan", values, DataPlan, derive_seed(state.seed, "plan"), shown)
        except LostAnswerError:
            return Plan(Blind(size=ITEM).items(total), memory=state.memory)
        items = _items(made.specifications, total, failed, skill=None)
        asked = [s.instruction for s in made.specifications]
        row = {"iteration": state.iteration, "accuracy": round(state.score, 3), "asked": asked}
        return Plan(items, memory=[*memory, row][-HISTORY:])


@dataclass(frozen=True)
class SkillListAgent:
    """Skill-list: per skill, hypotheses about the weakness, then specifications.

    Attributes:
        chat: The language model.
        state: Whether it is told anything about the student.
        shares: Splits the allowance among skills; by error rates with a part for all, or equally without state.
        errors: Most failed problems of a skill that it is shown.
        see: Whether it is shown pictures.
    """

    chat: Chat
    state: bool = True
    shares: Shares | None = None
    errors: int = 8
    see: bool = True

    def plan(self, brief: Brief, state: State) -> Plan:
        """Asks about all skills that have a share, at a time."""
        counts, memory = (self.shares or ByErrorRate(state=self.state)).split(state, state.skills)
        wanted = [(report, count) for report, count in zip(state.skills, counts, strict=True) if count > 0]
        parts = _each(lambda one: self._skill(brief, state, *one), wanted)
        return Plan(tuple(item for part in parts for item in part), memory=memory)

    def _skill(self, brief: Brief, state: State, report: SkillReport, count: int) -> tuple[PlanItem, ...]:
        seed = derive_seed(state.seed, "skill", report.skill)
        failed = drawn(report.errors, self.errors, seed) if self.state else []
        shown = Shown(self.see)
        values = {
            "skill": report.skill,
            "count": count,
            "state": self.state,
            "accuracy": report.accuracy,
            "problems": report.count,
            "errors": shown.errors(failed),
            "rejected": dict(state.rejected),
            "task": {"task": "plan", "domain": brief.domain, "skill": report.skill, "count": count},
        }
        try:
            made = put(self.chat, brief, "plan_skill", values, SkillPlan, seed, shown)
        except LostAnswerError:
            return tuple(
                PlanItem(part, f"Write problems that practise {report.skill}.", report.skill, tuple(failed))
                for part in chunks(count, ITEM)
            )
        return _items(made.specifications, count, failed, skill=report.skill)


@dataclass(frozen=True)
class SkillTreeAgent:
    """Skill-tree: per skill, explore or exploit from its history.

    Attributes:
        chat: The language model.
        state: Whether it is told anything about the student.
        proposals: `"model"` has it name new subskills, `"list"` takes the domain's own from the Brief in order.
        grow: Most subskills that one explore adds.
        shares: Splits the allowance among skills; by error rates with a part for all, or equally without state.
        errors: Most failed problems of a skill that it is shown.
        see: Whether it is shown pictures.
    """

    chat: Chat
    state: bool = True
    proposals: Literal["model", "list"] = "model"
    grow: int = 2
    shares: Shares | None = None
    errors: int = 8
    see: bool = True

    def plan(self, brief: Brief, state: State) -> Plan:
        """Acts on all trees that have a share, at a time."""
        trees = {tree.skill: tree for tree in state.trees if not tree.frozen}
        reports = [report for report in state.skills if report.skill in trees]
        counts, memory = (self.shares or ByErrorRate(state=self.state)).split(state, reports)
        wanted = [(report, count) for report, count in zip(reports, counts, strict=True) if count > 0]
        actions = _each(lambda one: self._act(brief, state, trees[one[0].skill], *one), wanted)
        return Plan(memory=memory, actions=tuple(actions))

    def _act(self, brief: Brief, state: State, tree: SkillTree, report: SkillReport, count: int) -> Action:
        seed = derive_seed(state.seed, "act", tree.skill)
        left = ungrown(tree, brief.subskills.get(tree.skill, ()), 0) if self.proposals == "list" else None
        task = {"domain": brief.domain, "skill": tree.skill, "count": count}
        values = {
            "skill": tree.skill,
            "count": count,
            "state": self.state,
            "accuracy": report.accuracy,
            "leaves": self._leaves(tree),
            "history": self._history(state, tree.skill),
        }
        try:
            made = put(self.chat, brief, "act", {**values, "task": {"task": "act", **task}}, Choice, seed)
            explores, why = made.action == "explore", made.why
        except LostAnswerError:
            explores, why = not tree.subskills, "the model's choice was lost"
        if explores and left is not None and not left:
            explores, why = False, f"{why} (but nothing is left to grow)"
        if explores or not tree.subskills:
            names = self._names(brief, tree, report, left, min(self.grow, count), seed)
            if names:
                data = -(-count // len(names))
                return Action(tree.skill, "explore", names, data, why=why, show_errors=self.state)
            why = f"{why} (but no usable name came of it)"
        return self._exploit(brief, tree, {**values, "task": {"task": "shift", **task}}, why, seed)

    def _names(
        self, brief: Brief, tree: SkillTree, report: SkillReport, left: Sequence[str] | None, number: int, seed: int
    ) -> tuple[str, ...]:
        """Returns names of new subskills, without the skill's own."""
        if left is not None:
            return tuple(left[:number])
        known = [leaf.name.removeprefix(f"{tree.skill}/") for leaf in tree.subskills]
        shown = Shown(self.see)
        failed = drawn(report.errors, self.errors, seed) if self.state else []
        values = {
            "skill": tree.skill,
            "number": number,
            "known": known,
            "errors": shown.errors(failed),
            "task": {"task": "subskills", "domain": brief.domain, "skill": tree.skill, "count": number},
        }
        try:
            made = put(self.chat, brief, "subskills", values, Proposals, derive_seed(seed, "names"), shown)
        except LostAnswerError:
            # A tree without any subskill could be taught nothing.
            return () if tree.subskills else ("mixed",)
        names = dict.fromkeys(_name(text, tree.skill) for text in made.subskills)
        return tuple(name for name in names if name and name not in known)[:number]

    def _exploit(self, brief: Brief, tree: SkillTree, values: Mapping[str, Any], why: str, seed: int) -> Action:
        count: int = values["count"]
        if not tree.subskills:
            return Action(tree.skill, "explore", ("mixed",), count, why=why, show_errors=self.state)
        try:
            made = put(self.chat, brief, "shift", values, Shifts, derive_seed(seed, "shift"))
        except LostAnswerError:
            targets = GrowThenShift(self.state).targets(tree, count)
            even = {leaf.name: t - leaf.allocation for leaf, t in zip(tree.subskills, targets, strict=True)}
            return Action(tree.skill, "exploit", shift=even, why=why, show_errors=self.state)
        known = {leaf.name.removeprefix(f"{tree.skill}/"): leaf for leaf in tree.subskills}
        shifts = {known[s.subskill].name: s.change for s in made.shifts if s.subskill in known and s.change}
        up = [name for name in shifts if shifts[name] > 0]
        # The sum of what is added is the share, whatever the model made of it.
        if up:
            shifts |= dict(zip(up, allocate([float(shifts[name]) for name in up], count), strict=True))
        else:
            shifts |= dict(zip((x.name for x in tree.subskills), allocate([1.0] * len(known), count), strict=True))
        return Action(tree.skill, "exploit", shift=shifts, why=f"{why} {made.why}".strip(), show_errors=self.state)

    def _leaves(self, tree: SkillTree) -> list[dict[str, Any]]:
        rows = []
        for leaf in tree.subskills:
            row: dict[str, Any] = {"subskill": leaf.name.removeprefix(f"{tree.skill}/"), "examples": leaf.data}
            if self.state:
                row["accuracy"] = None if leaf.accuracy is None else round(leaf.accuracy, 3)
            rows.append(row)
        return rows

    def _history(self, state: State, skill: str) -> list[dict[str, Any]]:
        rows = []
        for turn in state.history[-HISTORY:]:
            row: dict[str, Any] = {"iteration": turn.iteration}
            if self.state and skill in turn.accuracy:
                row["accuracy"] = round(turn.accuracy[skill], 3)
            row["actions"] = [
                {"kind": a.kind, "grew": list(a.grow), "shifted": dict(a.shift)}
                for a in turn.actions
                if a.skill == skill
            ]
            if self.state and skill in turn.reward:
                row["reward"] = round(turn.reward[skill], 3)
            rows.append(row)
        return rows


def _each(ask: Callable[[S], T], items: Sequence[S]) -> list[T]:
    """Asks about several things at a time; what is not a lost answer is raised."""
    out: list[T] = []
    for made in concurrently(ask, items):
        if isinstance(made, Exception):
            raise made
        out.append(made)
    return out


def _items(
    specifications: Sequence[Specification], total: int, shown: Sequence[Observation], skill: str | None
) -> tuple[PlanItem, ...]:
    """Turns specifications into items that spend an allowance in the proportions asked for."""
    counts = allocate([float(s.count) for s in specifications], total)
    return tuple(
        PlanItem(
            part,
            specification.instruction,
            skill,
            tuple(shown[n - 1] for n in dict.fromkeys(specification.like) if 1 <= n <= len(shown)),
        )
        for specification, count in zip(specifications, counts, strict=True)
        for part in chunks(count, ITEM)
    )


def _memory(state: State) -> list[Any]:
    return list(state.memory) if isinstance(state.memory, list) else []


def _without(row: Any, name: str) -> Any:
    return {key: value for key, value in row.items() if key != name} if isinstance(row, dict) else row


def _name(text: str, skill: str) -> str:
    """Returns a subskill's name on one line, without the skill's and without slashes."""
    plain = " ".join(text.split()).removeprefix(f"{skill}/").replace("/", "-")
    return "".join(char for char in plain if char.isprintable())[:80].strip()
