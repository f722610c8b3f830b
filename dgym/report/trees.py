"""Skill trees of stored episodes, iteration by iteration, as rows of a picture.

A tree is folded from the stored actions as the environment folds it (`dgym.skills.tree.forest`); nothing is run again.
Skills that no action named have no subskills and are left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd

from dgym.core import Action, Feedback, Past, Probe, SkillTree, from_json
from dgym.gate import HIDDEN_REASONS
from dgym.skills.tree import forest

MOST_ROWS: Final = 120
"""Most lines of one tree's picture; the smallest subskills are left out beyond."""

_NOTHING: Final = Feedback("feedback", ())

Row = Mapping[str, Any]


def tree_rows(steps: Sequence[Row], examples: Sequence[Row]) -> pd.DataFrame:
    """Returns the lines of an episode's picture.

    Args:
        steps: The episode's rows of the table `steps`: `iteration`, `plans`, `probes`.
        examples: Its rows of the table `examples`: `iteration`, `skill`, `kept`, `reason`.

    Returns:
        One row per iteration and line, from top to bottom: `iteration`, `place`, `parent` (the line of its skill),
        `level` (0 for a skill, 1 for a subskill), `grown` (whether it is there already), `skill`, `label`,
        `allocation`, `data`, `accuracy` (in [0, 1]; null where it was not measured). Empty if no action was taken.
    """
    ordered = sorted(steps, key=lambda step: step["iteration"])
    past: list[Past] = []
    by_iteration: dict[int, tuple[SkillTree, ...]] = {}
    for step in ordered:
        plans = json.loads(step["plans"] or "[]")
        past += _past(step["iteration"] - 1, plans, examples)
        skills = [action.skill for turn in past for action in turn.actions]
        probes = [from_json(Probe, probe) for probe in json.loads(step["probes"] or "[]")]
        if skills:
            by_iteration[step["iteration"]] = forest(skills, past, probes)
    if not by_iteration:
        return pd.DataFrame()
    last = by_iteration[max(by_iteration)]
    places = {name: place for place, name in enumerate(_lines(last))}
    rows = [row for iteration, trees in by_iteration.items() for row in _rows(iteration, trees, places)]
    return pd.DataFrame(rows)


def _past(iteration: int, plans: Sequence[Mapping[str, Any]], examples: Sequence[Row]) -> list[Past]:
    """Returns one entry per data generation; what was kept stands with the last, as rows do not say which it was."""
    kept = Counter(
        example["skill"]
        for example in examples
        if example["iteration"] == iteration + 1
        and example["skill"] is not None
        and (example["kept"] or example["reason"] in HIDDEN_REASONS)
    )
    actions = [tuple(from_json(Action, action) for action in plan["actions"]) for plan in plans]
    return [Past(iteration, _NOTHING, each, kept if i == len(actions) - 1 else {}) for i, each in enumerate(actions)]


def _lines(trees: Sequence[SkillTree]) -> list[tuple[str, str]]:
    """Returns skill and subskill of every line, the subskill empty for a skill's own line."""
    leaves = sorted((leaf.allocation for tree in trees for leaf in tree.subskills), reverse=True)
    least = leaves[MOST_ROWS] + 1 if len(leaves) > MOST_ROWS else 0
    lines = []
    for tree in trees:
        lines.append((tree.skill, ""))
        lines += [(tree.skill, leaf.name) for leaf in tree.subskills if leaf.allocation >= least]
    return lines


def _rows(iteration: int, trees: Sequence[SkillTree], places: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    """Returns every line of the picture as it is after an iteration, those that are not grown yet among them."""
    leaves = {(tree.skill, leaf.name): leaf for tree in trees for leaf in tree.subskills}
    skills = {tree.skill for tree in trees}
    rows = []
    for (skill, name), place in places.items():
        leaf = leaves.get((skill, name))
        rows.append(
            {
                "iteration": iteration,
                "place": place,
                "parent": places[skill, ""],
                "level": int(bool(name)),
                "grown": leaf is not None if name else skill in skills,
                "skill": skill,
                "label": name.removeprefix(f"{skill}/") or skill,
                "allocation": leaf.allocation if leaf else None,
                "data": leaf.data if leaf else None,
                "accuracy": leaf.accuracy if leaf else None,
            }
        )
    return rows
