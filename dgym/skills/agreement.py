"""How well discovered skills agree with the gold ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import comb

from dgym.core import Problem


def agreement(assignment: Mapping[str, str], problems: Sequence[Problem]) -> float:
    """Computes the adjusted Rand index between discovered and gold skills.

    The share of problem pairs on which both groupings agree, corrected for chance: 1 when they are the same up
    to names, 0 in the mean for groupings drawn at random with the same sizes, negative (down to -0.5) below
    that. From the contingency table n_ij with row sums a_i and column sums b_j over n problems
    (Hubert & Arabie, "Comparing partitions", Journal of Classification 2, 1985, equation 5):

        (sum C(n_ij, 2) - E) / ((sum C(a_i, 2) + sum C(b_j, 2)) / 2 - E),
        E = sum C(a_i, 2) * sum C(b_j, 2) / C(n, 2)

    Args:
        assignment: Skill by problem id.
        problems: The problems to compare on, with their gold skills.

    Returns:
        The index, at most 1; 1 where both groupings are the same trivial one, also for no problems.

    Raises:
        ValueError: If a problem has no skill.
    """
    missing = [p.id for p in problems if p.id not in assignment]
    if missing:
        raise ValueError(f"{len(missing)} of {len(problems)} problems have no skill, such as {missing[0]!r}")
    both = _pairs((p.skill, assignment[p.id]) for p in problems)
    gold = _pairs(p.skill for p in problems)
    found = _pairs(assignment[p.id] for p in problems)
    total = comb(len(problems), 2)
    # Whole numbers up to the division, so that equal groupings give exactly 1.
    most = total * (gold + found) - 2 * gold * found
    return 2 * (both * total - gold * found) / most if most else 1.0


def _pairs(groups: Iterable[object]) -> int:
    return sum(comb(size, 2) for size in Counter(groups).values())
