"""Who gets how much: splitting an allowance, and the user's curriculum over it.

Pure functions. Environments use them to keep a plan within the curriculum, policies to spend what they may.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from dgym.core import Curriculum, PlanItem
from dgym.errors import UsageError, unknown_name

FREE: Final = Curriculum()
"""The curriculum that leaves everything to the teacher."""

ITEM_SIZE: Final = 20
"""Examples per plan item where nobody says otherwise: the unit of concurrent work."""


def allocate(weights: Sequence[float], total: int, caps: Sequence[int | None] | None = None) -> list[int]:
    """Splits `total` in proportion to non-negative weights, by largest remainder; equal parts if all are 0.

    Args:
        weights: Finite; a weight of 0 beside others above 0 gets nothing.
        total: How much there is, at least 0.
        caps: Most that each may get; `None` for no limit. What is over a cap goes to the others.

    Returns:
        As many counts as weights. They add up to `total`, or to less when every cap is reached.
    """
    counts = [0] * len(weights)
    limits = [total if cap is None else max(0, cap) for cap in caps or [None] * len(weights)]
    even = not any(weights)
    left, open_ = total, [i for i, weight in enumerate(weights) if even or weight > 0]
    while open_ and left > 0:
        parts = _largest_remainder([1.0 if even else weights[i] for i in open_], left)
        over = {i for i, part in zip(open_, parts, strict=True) if part > limits[i]}
        for i, part in zip(open_, parts, strict=True):
            counts[i] = limits[i] if i in over else part
        if not over:
            break
        left -= sum(limits[i] for i in over)
        open_ = [i for i in open_ if i not in over]
        # What the others were given stands only if nothing is handed on to them.
        for i in open_:
            counts[i] = 0
    return counts


def _largest_remainder(weights: Sequence[float], total: int) -> list[int]:
    mass = sum(weights)
    shares = [w / mass * total for w in weights]
    counts = [int(share) for share in shares]
    order = sorted(range(len(weights)), key=lambda i: (counts[i] - shares[i], i))
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts


def chunks(total: int, size: int = ITEM_SIZE) -> list[int]:
    """Splits `total` into parts of at most `size`."""
    return [min(size, total - first) for first in range(0, total, size)]


def root(name: str, skills: Collection[str]) -> str:
    """Returns the skill that a name belongs to: itself, or what it refines (`skill/refinement`).

    Skills may have a slash in their own names, so that the longest of `skills` that fits goes first; a name
    that fits none is taken up to its first slash.
    """
    parts = name.split("/")
    for length in range(len(parts), 0, -1):
        skill = "/".join(parts[:length])
        if skill in skills:
            return skill
    return parts[0]


def named(curriculum: Curriculum) -> tuple[str, ...]:
    """Returns every skill that a curriculum names, once, in the order of its fields."""
    parts = (curriculum.include, curriculum.exclude, curriculum.weights, curriculum.caps, curriculum.freeze)
    return tuple(dict.fromkeys(name for part in parts for name in part))


def allows(curriculum: Curriculum, skill: str) -> bool:
    """Whether a curriculum lets a skill be taught."""
    return (not curriculum.include or skill in curriculum.include) and skill not in curriculum.exclude


def check_numbers(curriculum: Curriculum) -> None:
    """Checks weights and caps.

    Raises:
        UsageError: If one of them is negative or no finite number.
    """
    for skill, weight in curriculum.weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise UsageError(f"The curriculum's weight of {skill!r} is {weight}; it must be a number of at least 0.")
    for skill, cap in curriculum.caps.items():
        if cap < 0:
            raise UsageError(f"The curriculum's cap of {skill!r} is {cap}; it must be at least 0.")


def check_names(curriculum: Curriculum, skills: Sequence[str]) -> None:
    """Checks a curriculum against the skills that there are.

    Raises:
        UsageError: If it names a skill that does not exist, with the nearest that does, or if it leaves none.
    """
    for name in named(curriculum):
        if name not in skills:
            raise unknown_name("skill of the curriculum", name, skills)
    if not any(allows(curriculum, skill) for skill in skills):
        raise UsageError(f"The curriculum leaves no skill to teach; there are: {', '.join(sorted(skills))}.")


def within(curriculum: Curriculum, items: Sequence[PlanItem], skills: Sequence[str]) -> tuple[PlanItem, ...]:
    """Keeps plan items within a curriculum.

    Items of excluded skills are dropped. Those of capped skills are cut in order, refinements counting under
    their skill. An item that names no skill passes: nobody knows what will come of it.

    Args:
        curriculum: What the user wants.
        items: A plan's items.
        skills: Every skill that is known by name, to tell which one a refinement belongs to.
    """
    known = {*skills, *named(curriculum)}
    left = dict(curriculum.caps)
    out = []
    for item in items:
        if item.skill is None:
            out.append(item)
            continue
        skill = root(item.skill, known)
        count = max(0, min(item.count, left.get(skill, item.count)))
        if count == 0 or not allows(curriculum, skill):
            continue
        if skill in left:
            left[skill] -= count
        out.append(replace(item, count=count))
    return tuple(out)
