"""Scores of plans: how the calls of a plan compare with those of a reference.

The scores are those of m&m's (Ma et al. 2024, https://arxiv.org/abs/2403.11085; `MNMEvaluator` and the metrics in
`mnms/evaluation` of RAIVNLab/mnms), written anew. Each plan gives labels of four kinds, and two plans are compared by
the sets of their labels:

- `tool`: the tools that are called;
- `argument_name`: a tool together with the names of all its arguments;
- `argument_value`: a tool together with the names and values of all its arguments, whatever their case;
- `edge`: two tools of which one is called right after the other.

What this module does not know: how plans are written, which tools there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

Plan = Sequence[tuple[str, Mapping[str, str]]]
"""Calls in order: the name of a tool, and its arguments by name. Outputs of other calls stand in values as text."""

Label = tuple[str, ...]

KINDS: Final = ("tool", "argument_name", "argument_value", "edge")
"""The kinds of labels."""


def tools_of(plan: Plan) -> tuple[str, ...]:
    """Returns the names of the tools, in order."""
    return tuple(tool for tool, _ in plan)


def labels(plan: Plan, kind: str) -> list[Label]:
    """Returns the labels of a plan in the order of its calls, repeated ones too."""
    tools = tools_of(plan)
    if kind == "tool":
        return [(tool,) for tool in tools]
    if kind == "edge":
        return list(pairwise(tools))
    if kind == "argument_name":
        return [(tool, *sorted(arguments)) for tool, arguments in plan]
    return [(tool, *(f"{n}={v.lower()}" for n, v in sorted(arguments.items()))) for tool, arguments in plan]


def precision_recall_f1(hits: int, given: int, wanted: int, empty: float = 0.0) -> tuple[float, float, float]:
    """Returns precision, recall and their harmonic mean.

    Args:
        hits: How many are both given and wanted.
        given: How many are given.
        wanted: How many are wanted.
        empty: What stands for a quotient by zero.
    """
    precision = hits / given if given else empty
    recall = hits / wanted if wanted else empty
    return precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def compare(reference: Plan, plan: Plan | None) -> dict[str, float]:
    """Measures a plan against the reference: precision, recall and F1 of each kind, each in [0, 1].

    Where neither plan has labels of a kind, all three are 1. No plan at all has 0 everywhere.
    """
    out: dict[str, float] = {}
    for kind in KINDS:
        wanted, given = {*labels(reference, kind)}, {*labels(plan or (), kind)}
        empty = float(plan is not None and not wanted and not given)
        scores = precision_recall_f1(len(wanted & given), len(given), len(wanted), empty)
        out |= {f"{kind}_{name}": score for name, score in zip(("precision", "recall", "f1"), scores, strict=True)}
    return out


def best_match(references: Sequence[Plan], plan: Plan | None) -> Plan:
    """Returns the first of the references whose tools, as a set, have the highest F1 (m&m's `find_best_match`)."""
    return max(references, key=lambda reference: compare(reference, plan or ())["tool_f1"])


def pooled(pairs: Sequence[tuple[Plan, Plan | None]], tools: Sequence[str]) -> dict[str, float]:
    """Returns the scores of many plans together, by the names that m&m's evaluator gives them, each in [0, 1].

    `argname`, `argvalue` and `edge` have precision, recall and F1 of the labels of all plans counted together, those of
    one plan as a set (`average="binary"` there). `tool_macro` has the unweighted means over all tools of the plans
    that call one (`average="macro"`); a tool that no plan calls has 0, one that there is not does not count.
    `plan_tool`, `plan_argname` and `plan_argvalue` have the share of plans whose list of labels is the reference's.
    `tool_normalized_edit_distance` is 1 minus the mean of 2·LCS/(m + n) over the lists of tools
    (`Levenshtein.ratio`), where all unknown tools count as one: the less, the better.

    Two things differ from m&m's evaluator, which works on programs as text. Outputs count by the number of the call,
    whatever a program calls them, and an output within a text is the same in a program and in JSON; and a call whose
    text it cannot write as a line of Python, such as one with a line break, counts as any other.

    Args:
        pairs: References and what was given for them, `None` where that was no plan.
        tools: The names of all tools.
    """
    if not pairs:
        return {}
    read = [(reference, plan or ()) for reference, plan in pairs]
    out: dict[str, float] = {}
    sets = [({*tools_of(reference)}, {*tools_of(plan)}) for reference, plan in read]
    by_tool = [
        precision_recall_f1(
            sum(tool in wanted and tool in given for wanted, given in sets),
            sum(tool in given for _, given in sets),
            sum(tool in wanted for wanted, _ in sets),
        )
        for tool in tools
    ]
    for index, name in enumerate(("precision", "recall", "f1")):
        out[f"tool_macro_{name}"] = sum(scores[index] for scores in by_tool) / len(tools)
    for kind, called in (("argument_name", "argname"), ("argument_value", "argvalue"), ("edge", "edge")):
        pools = [({*labels(reference, kind)}, {*labels(plan, kind)}) for reference, plan in read]
        hits, given = sum(len(a & b) for a, b in pools), sum(len(b) for _, b in pools)
        scores = precision_recall_f1(hits, given, sum(len(a) for a, _ in pools))
        out |= {f"{called}_{name}": s for name, s in zip(("precision", "recall", "f1"), scores, strict=True)}
    for kind, called in (("tool", "tool"), ("argument_name", "argname"), ("argument_value", "argvalue")):
        same = sum(labels(reference, kind) == labels(plan, kind) for reference, plan in read)
        out[f"plan_{called}_accuracy"] = same / len(read)
    number = {tool: index for index, tool in enumerate(tools, 1)}
    lists = [[[number.get(tool, 0) for tool in tools_of(plan)] for plan in pair] for pair in read]
    out["tool_normalized_edit_distance"] = 1 - sum(_ratio(*pair) for pair in lists) / len(lists)
    return out


def _ratio(one: Sequence[int], other: Sequence[int]) -> float:
    """Returns 2·LCS/(m + n); 1 for two empty lists."""
    longest = Counter[tuple[int, int]]()
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            longest[i, j] = longest[i - 1, j - 1] + 1 if a == b else max(longest[i - 1, j], longest[i, j - 1])
    total = len(one) + len(other)
    return 2 * longest[len(one) - 1, len(other) - 1] / total if total else 1.0
