"""Skill trees as pure data: what an action does to a tree, and how a history becomes a forest.

Each skill has one tree; its leaves are subskills. A leaf's *allocation* says how many examples the student is to
be trained on, its *data* how many have been kept. Explore adds leaves; exploit moves allocations up or down.
Where an allocation is above the data, examples are missing (`deficits`); where it is below, the oldest are left
out of the training (`trained_on`).

What this module does not know: who decides on actions, who writes examples, and what a student is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dgym.core import Action, Example, Past, Probe, SkillTree, Subskill

PART: Final = "part"
"""What subskills are called where nobody has names for them: `skill/part 1`, `skill/part 2`."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far a forest may grow.

    Attributes:
        max_subskills: Most subskills of one tree.
        max_allocation: Most examples of one subskill.
        total: Most examples of all subskills of a forest together; `None` for no limit of its own.
    """

    max_subskills: int = 32
    max_allocation: int = 10_000
    total: int | None = None


BOUNDS: Final = Bounds()
"""The bounds where nobody says otherwise."""


def apply(tree: SkillTree, action: Action, bounds: Bounds = BOUNDS, room: int | None = None) -> SkillTree:
    """Returns the tree after an action.

    Explore adds the new names in order, each with the allocation `action.data`; names that the tree has are
    skipped. Exploit first lowers, then raises allocations, in the tree's order; names that it lacks are skipped.
    What an action wants beyond the bounds is cut. An action on another skill, or on a frozen tree, changes nothing.

    Args:
        tree: The tree before.
        action: What to do.
        bounds: How far the tree may grow; `bounds.total` is for `act`, which sees the whole forest.
        room: How much the tree's allocations may grow in sum; `None` for no limit.
    """
    if tree.frozen or action.skill != tree.skill:
        return tree
    if action.kind == "explore":
        return _grown(tree, action, bounds, room)
    return _shifted(tree, action, bounds, room)


def _grown(tree: SkillTree, action: Action, bounds: Bounds, room: int | None) -> SkillTree:
    known = {leaf.name for leaf in tree.subskills}
    wanted = min(max(0, action.data), bounds.max_allocation)
    leaves = list(tree.subskills)
    for name in dict.fromkeys(action.grow):
        if name in known or len(leaves) >= bounds.max_subskills:
            continue
        allocation = wanted if room is None else min(wanted, max(0, room))
        room = None if room is None else room - allocation
        leaves.append(Subskill(name, allocation))
    return replace(tree, subskills=tuple(leaves))


def _shifted(tree: SkillTree, action: Action, bounds: Bounds, room: int | None) -> SkillTree:
    allocations = {leaf.name: leaf.allocation for leaf in tree.subskills}
    shifts = [(name, action.shift[name]) for name in allocations if action.shift.get(name)]
    # What is given up makes room for what is wanted, wherever it stands in the tree.
    for name, change in sorted(shifts, key=lambda shift: shift[1] > 0):
        old = allocations[name]
        new = min(max(0, old + change), max(old, bounds.max_allocation))
        if room is not None:
            new = min(new, old + max(0, room)) if new > old else new
            room -= new - old
        allocations[name] = new
    return replace(tree, subskills=tuple(replace(leaf, allocation=allocations[leaf.name]) for leaf in tree.subskills))


def act(trees: Sequence[SkillTree], actions: Iterable[Action], bounds: Bounds = BOUNDS) -> tuple[SkillTree, ...]:
    """Returns a forest after actions, in their order; those on skills without a tree change nothing."""
    forest_ = {tree.skill: tree for tree in trees}
    for action in actions:
        if action.skill in forest_:
            room = None if bounds.total is None else bounds.total - sum(map(size, forest_.values()))
            forest_[action.skill] = apply(forest_[action.skill], action, bounds, room)
    return tuple(forest_.values())


def size(tree: SkillTree) -> int:
    """Returns the sum of a tree's allocations."""
    return sum(leaf.allocation for leaf in tree.subskills)


def deficits(tree: SkillTree) -> dict[str, int]:
    """Returns how many examples are missing, by subskill in the tree's order; only where some are."""
    return {leaf.name: leaf.allocation - leaf.data for leaf in tree.subskills if leaf.allocation > leaf.data}


def forest(
    skills: Sequence[str],
    past: Sequence[Past],
    probes: Iterable[Probe] = (),
    *,
    frozen: Collection[str] = (),
    bounds: Bounds = BOUNDS,
) -> tuple[SkillTree, ...]:
    """Folds a history into one tree per skill.

    Args:
        skills: The skills that have a tree, in this order.
        past: Earlier rounds, oldest first: their actions are applied, and what was kept is counted.
        probes: The latest accuracies, by claimed skill.
        frozen: Skills whose trees may not change from here on. What was done to them before stands.
        bounds: How far the forest may grow; the same as when the actions were taken.
    """
    trees: tuple[SkillTree, ...] = tuple(SkillTree(skill) for skill in dict.fromkeys(skills))
    data: Counter[str] = Counter()
    for turn in past:
        trees = act(trees, turn.actions, bounds)
        data.update(turn.kept)
    accuracy = {probe.skill: probe.accuracy for probe in probes}
    return tuple(replace(tree, subskills=_known(tree, data, accuracy), frozen=tree.skill in frozen) for tree in trees)


def _known(tree: SkillTree, data: Mapping[str, int], accuracy: Mapping[str, float]) -> tuple[Subskill, ...]:
    return tuple(
        replace(leaf, data=data.get(leaf.name, 0), accuracy=accuracy.get(leaf.name)) for leaf in tree.subskills
    )


def trained_on(examples: Sequence[Example], trees: Iterable[SkillTree]) -> list[Example]:
    """Chooses what a student is trained on: of each subskill the latest examples up to its allocation.

    Args:
        examples: All kept examples, oldest first.
        trees: The forest. Examples that claim none of its subskills are all chosen.

    Returns:
        The chosen examples, in their order.
    """
    left = {leaf.name: leaf.allocation for tree in trees for leaf in tree.subskills}
    out = []
    for example in reversed(examples):
        if example.skill in left:
            if left[example.skill] <= 0:
                continue
            left[example.skill] -= 1
        out.append(example)
    return out[::-1]


def full_name(skill: str, name: str) -> str:
    """Returns a subskill's full name, `skill/refinement`, whichever way it is given."""
    name = name.strip()
    return name if name.startswith(f"{skill}/") else f"{skill}/{name}"


def ungrown(tree: SkillTree, proposals: Sequence[str], parts: int) -> tuple[str, ...]:
    """Returns the full names of subskills that may still be grown, in order.

    Args:
        tree: What has been grown so far.
        proposals: Names to choose from; where there are none, nameless parts are proposed.
        parts: How many nameless parts a skill has at most.
    """
    names = [full_name(tree.skill, name) for name in proposals]
    names = names or [f"{tree.skill}/{PART} {number}" for number in range(1, parts + 1)]
    known = {leaf.name for leaf in tree.subskills}
    return tuple(name for name in dict.fromkeys(names) if name not in known)


def instruction(skill: str, name: str) -> str:
    """Says in words what to write for a subskill."""
    refinement = name.removeprefix(f"{skill}/")
    if refinement.startswith(f"{PART} ") and refinement.removeprefix(f"{PART} ").isdecimal():
        return f"Write problems that practise {skill}, of another kind than in its other parts; this is {refinement}."
    return f"Write problems that practise {skill}, in particular: {refinement}."
