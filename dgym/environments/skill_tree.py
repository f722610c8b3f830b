"""Skill-tree: the teacher sees a tree of subskills per skill, and acts on the trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from dgym.core import (
    Action,
    Curriculum,
    Example,
    Feedback,
    Plan,
    PlanItem,
    SkillTree,
    State,
    StateContext,
    Turn,
)
from dgym.environments.skill_list import SkillList
from dgym.errors import TeacherError, unknown_name
from dgym.skills.curriculum import FREE, allocate, allows, chunks, root
from dgym.skills.tree import BOUNDS, Bounds, apply, deficits, forest, full_name, instruction, size, trained_on

SHOWN_ERRORS: Final = 5
"""How many of a skill's errors each plan item shows the engine."""

MAX_NAME: Final = 200
"""Longest name of a subskill."""


class SkillTreeEnvironment(SkillList):
    """The environment `skill-tree`: a skill-list with a tree per skill.

    A plan *acts* on trees: it grows subskills (explore) or moves their allocations up or down (exploit). Where a
    tree that it acts on is allocated more than there is, the environment asks the engine for the rest; an
    exploit without any shift fills up what is missing. Where a subskill is allocated less than there is, the
    student is trained on the latest examples only (protocol `retrain`). Trees that a plan does not act on get no
    data. Plain items are worked on as in a skill-list, and go first.

    Frozen trees keep subskills and allocations: actions on them are ignored, as are those on excluded skills.

    Args:
        curriculum: What the user wants taught.
        skills: Discovered skills, by problem id; see `SkillList`.
        bounds: How far the trees may grow.
    """

    name = "skill-tree"
    version = "2"
    wants_probes = True
    has_trees = True

    def __init__(
        self,
        *,
        curriculum: Curriculum = FREE,
        skills: Mapping[str, str] | None = None,
        bounds: Bounds = BOUNDS,
    ) -> None:
        super().__init__(curriculum=curriculum, skills=skills)
        self.bounds = bounds

    def observe(self, feedback: Feedback, context: StateContext) -> State:
        """Shows reports, trees in their order, and the history.

        Raises:
            UsageError: If the curriculum names a skill that does not exist, or leaves none.
        """
        state = super().observe(feedback, context)
        shown = tuple(report.skill for report in state.skills)
        trees = forest(shown, context.past, context.probes, frozen=self.curriculum.freeze, bounds=self.bounds)
        return replace(state, trees=trees, history=self._history(feedback, context))

    def expand(self, plan: Plan, state: State) -> Plan:
        """Carries out a plan: actions become items for what the trees then lack.

        If more is lacking than may be written, each skill gets its part in proportion, and so does each of
        its subskills.

        Raises:
            TeacherError: If an action names a skill or a subskill that does not exist, or is malformed.
        """
        plain = super().expand(plan, state).items
        actions, trees = self._accepted(plan.actions, state)
        missing = {skill: deficits(trees[skill]) for skill in dict.fromkeys(a.skill for a in actions)}
        blind = {action.skill for action in actions if not action.show_errors}
        shown = {report.skill: report.errors for report in state.skills if report.skill not in blind}
        items = list(plain)
        for skill, share in self._shares(missing, plain, state).items():
            errors, lacking = shown.get(skill, ()), missing[skill]
            parts = allocate(list(lacking.values()), share, list(lacking.values()))
            turn = 0
            for name, part in zip(lacking, parts, strict=True):
                for count in chunks(part):
                    like = tuple(errors[(turn + i) % len(errors)] for i in range(min(SHOWN_ERRORS, len(errors))))
                    items.append(PlanItem(count, instruction(skill, name), name, like))
                    turn += SHOWN_ERRORS
        return replace(plan, items=tuple(items), actions=tuple(actions))

    def training_set(self, examples: Sequence[Example], context: StateContext) -> Sequence[Example]:
        """Chooses of each subskill the latest examples, as many as it is allocated, and all others."""
        skills = [action.skill for past in context.past for action in past.actions]
        return trained_on(examples, forest(skills, context.past, bounds=self.bounds))

    def _shares(
        self, missing: Mapping[str, Mapping[str, int]], plain: Sequence[PlanItem], state: State
    ) -> dict[str, int]:
        """Splits what may still be written among the skills that lack something."""
        wanted = {skill: sum(lacking.values()) for skill, lacking in missing.items()}
        left = max(0, state.examples_left - sum(max(0, item.count) for item in plain))
        caps = dict(self.curriculum.caps)
        for item in plain:
            skill = root(item.skill or "", wanted)
            if item.skill is not None and skill in caps:
                caps[skill] -= item.count
        limits = [min(count, max(0, caps.get(skill, count))) for skill, count in wanted.items()]
        return dict(zip(wanted, allocate(list(wanted.values()), left, limits), strict=True))

    def _accepted(self, actions: Sequence[Action], state: State) -> tuple[list[Action], dict[str, SkillTree]]:
        """Returns the actions that count, with full names, and the trees after them."""
        trees = {tree.skill: tree for tree in state.trees}
        room = None if self.bounds.total is None else self.bounds.total - sum(map(size, state.trees))
        accepted = []
        for given in actions:
            _check_form(given)
            if given.skill not in trees:
                # Under `include` nothing tells a skill that was left out from one that never was.
                if self.curriculum.include or not allows(self.curriculum, given.skill):
                    continue
                raise TeacherError(str(unknown_name("skill tree", given.skill, trees)))
            tree = trees[given.skill]
            if tree.frozen:
                continue
            action = replace(
                given,
                grow=tuple(full_name(tree.skill, name) for name in given.grow),
                shift={full_name(tree.skill, name): int(change) for name, change in given.shift.items()},
            )
            known = [leaf.name for leaf in tree.subskills]
            for name in action.shift if action.kind == "exploit" else ():
                if name not in known:
                    raise TeacherError(str(unknown_name(f"subskill of {tree.skill!r}", name, known)))
            trees[tree.skill] = apply(tree, action, self.bounds, room)
            room = None if room is None else room - size(trees[tree.skill]) + size(tree)
            accepted.append(action)
        return accepted, trees

    def _history(self, feedback: Feedback, context: StateContext) -> tuple[Turn, ...]:
        """Turns what the loop remembers into what the teacher sees.

        Data generations of one iteration share the reward that followed.
        """
        past, now = context.past, context.iteration
        shown = [*(p.feedback for p in past), feedback]
        accuracies = [self._accuracies(f) for f in shown]
        iterations = [p.iteration for p in past]
        turns = []
        for i, entry in enumerate(past):
            # The latest feedback follows all of the past, unless it is what this very iteration began with.
            later = next((j for j in range(i + 1, len(past)) if iterations[j] > entry.iteration), len(past))
            after = accuracies[later] if later < len(past) or now > entry.iteration else {}
            turns.append(
                Turn(
                    iteration=entry.iteration,
                    accuracy=accuracies[i],
                    actions=entry.actions,
                    reward={s: after[s] - before for s, before in accuracies[i].items() if s in after},
                    kept=dict(entry.kept),
                )
            )
        return tuple(turns)


def _check_form(action: object) -> None:
    """Checks what a policy made: it may be anybody's code, or a language model's words.

    Raises:
        TeacherError: If it is no action that could be carried out or written down.
    """
    if not isinstance(action, Action):
        raise TeacherError(f"The policy planned an action that is a {type(action).__name__}.")
    if action.kind not in ("explore", "exploit"):
        raise TeacherError(f"The policy planned to {action.kind!r}; a tree can be explored or exploited.")
    if not all(isinstance(n, int) for n in (action.data, *action.shift.values())):
        raise TeacherError(f"An action on {action.skill!r} has an allocation that is no whole number.")
    for name in (*action.grow, *action.shift):
        if not (isinstance(name, str) and name.strip() and name.isprintable() and len(name) <= MAX_NAME):
            raise TeacherError(
                f"An action on {action.skill!r} names a subskill {ascii(name)[:80]}; "
                f"it must be printable text of at most {MAX_NAME} characters."
            )
