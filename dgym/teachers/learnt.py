"""The teacher `learnt`: a policy over skills that was learnt from episodes, played from a file.

The policy is a softmax over skills whose logits are linear in a few features of each skill, with the same weights for
all of them, so that it plays in any domain. `benchmarks/learn_policy.py` learns one on `dgym.plan_env`, whose
observations and actions are those of this module; the file that ships was made by it. A file holds numbers alone.

What this module does not know: how weights are learnt.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dgym.core import Brief, Plan, PlanItem, SkillReport, State, Teacher
from dgym.errors import UsageError, one_line, unknown_name
from dgym.skills.curriculum import ITEM_SIZE, chunks
from dgym.teachers.engines import Procedural
from dgym.teachers.policies import spend

Array = NDArray[np.float32]

FORMAT: Final = 1
"""Version of the file."""

SHIPPED: Final = Path(__file__).with_name("learnt.json")
"""The file that is played where none is named."""

FEATURES: Final = ("error", "gain", "share", "late_error")
"""Of a skill: 1 minus accuracy; change of accuracy in the last round; its share of all examples so far over an equal
one, minus 1; and the error times the part of the rounds that is over."""


def observed(
    accuracy: Sequence[float], before: Sequence[float] | None, counts: Sequence[int], *, left: float, progress: float
) -> dict[str, Array]:
    """Returns what a policy sees, as `dgym.plan_env` shows it.

    Args:
        accuracy: Accuracy on the feedback problems of each of K skills, in [0, 1].
        before: The same a round earlier; `None` before any training.
        counts: Examples asked for so far, by skill.
        left: Part of the episode's budget that is left, in [0, 1].
        progress: Part of the rounds that is over, in [0, 1].

    Returns:
        `accuracy`, `gain` (change in the last round, in [-1, 1]) and `allocation` (shares of the examples so far, all 0
        before any) of shape (K,), `budget` and `iteration` of shape (1,).
    """
    now = np.asarray(accuracy, dtype=np.float32)
    asked = np.asarray(counts, dtype=np.float32)
    return {
        "accuracy": now,
        "gain": np.zeros_like(now) if before is None else now - np.asarray(before, dtype=np.float32),
        "allocation": asked / max(1.0, float(asked.sum())),
        "budget": np.asarray([left], dtype=np.float32),
        "iteration": np.asarray([progress], dtype=np.float32),
    }


def features(observation: Mapping[str, Array]) -> Array:
    """Returns `FEATURES` of each skill, shape (K, 4)."""
    error = 1 - observation["accuracy"]
    allocation = observation["allocation"]
    share = allocation * len(allocation) - 1 if allocation.any() else np.zeros_like(allocation)
    return np.stack([error, observation["gain"], share, error * observation["iteration"]], axis=1)


def shares(observation: Mapping[str, Array], weights: Sequence[float]) -> Array:
    """Returns the share of each skill: a softmax of the features times the weights; adds up to 1."""
    logits = features(observation) @ np.asarray(weights, dtype=np.float32)
    parts = np.exp(logits - logits.max())
    out: Array = parts / parts.sum()
    return out


def plan_by(
    reports: Sequence[SkillReport], wanted: Sequence[float], total: int
) -> tuple[tuple[PlanItem, ...], list[int]]:
    """Turns non-negative weights over skills into plan items.

    Args:
        reports: The skills, with the curriculum's weights and caps.
        wanted: A weight for each of them; equal parts where all are 0.
        total: How many examples may be written.

    Returns:
        The items, and how many examples each skill gets.
    """
    counts = spend(reports, [float(weight) for weight in wanted], total, replay=0.0, rng=None)
    items = tuple(
        PlanItem(part, f"Write problems that practise {report.skill}.", report.skill)
        for report, count in zip(reports, counts, strict=True)
        for part in chunks(count, ITEM_SIZE)
    )
    return items, counts


@dataclass(frozen=True)
class LearntPolicy:
    """Plays a linear softmax in the environment `skill-list`.

    All that it remembers is in the plan's memory: accuracies before, and examples asked for so far.

    Attributes:
        weights: One for each of `FEATURES`.
    """

    weights: tuple[float, ...]

    def plan(self, brief: Brief, state: State) -> Plan:
        """Splits the allowance by the policy's shares."""
        memory = state.memory if isinstance(state.memory, Mapping) else {}
        before, asked = memory.get("accuracy", {}), memory.get("asked", {})
        accuracy = {report.skill: report.accuracy for report in state.skills}
        total = brief.iterations * brief.budget.examples_per_iteration
        observation = observed(
            list(accuracy.values()),
            [before.get(skill, now) for skill, now in accuracy.items()] if state.iteration else None,
            [asked.get(skill, 0) for skill in accuracy],
            left=1 - sum(asked.values()) / max(1, total),
            progress=state.iteration / max(1, brief.iterations),
        )
        wanted = shares(observation, self.weights) if state.skills else ()
        items, counts = plan_by(state.skills, list(wanted), state.examples_left)
        so_far = {skill: asked.get(skill, 0) + count for skill, count in zip(accuracy, counts, strict=True)}
        return Plan(items, {"accuracy": accuracy, "asked": so_far})


def learnt(file: str = "") -> Teacher:
    """A policy over skills that was learnt from episodes (`benchmarks/learn_policy.py`).

    Args:
        file: What that script wrote; the file that ships by default.
    """
    path = Path(file).expanduser() if file else SHIPPED
    weights, pin = read_policy(path)
    return Teacher(
        name="learnt",
        policies={"skill-list": LearntPolicy(weights)},
        engine=Procedural(),
        version=f"1 {pin}",
        privileged=True,
    )


def read_policy(path: Path) -> tuple[tuple[float, ...], str]:
    """Reads a policy's weights, and the hash of the file's bytes.

    Raises:
        UsageError: If the file cannot be read, or if it is no such policy.
    """
    try:
        raw = path.read_bytes()
        value: Any = json.loads(raw)
    except OSError as error:
        raise UsageError(f"The policy file {str(path)!r} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"The policy file {str(path)!r} is not JSON: {one_line(error)}.") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT or not isinstance(value.get("weights"), dict):
        raise UsageError(
            f"{str(path)!r} is no policy of format {FORMAT}; python benchmarks/learn_policy.py --out FILE writes one."
        )
    weights: dict[str, Any] = value["weights"]
    for name in weights:
        if name not in FEATURES:
            raise unknown_name(f"feature of {path}", name, FEATURES)
    for name in FEATURES:
        found = weights.get(name)
        if not isinstance(found, int | float) or isinstance(found, bool) or not math.isfinite(found):
            raise UsageError(f"{path}: the weight of {name!r} is {found!r}; it must be a finite number.")
    return tuple(float(weights[name]) for name in FEATURES), hashlib.blake2b(raw, digest_size=16).hexdigest()


def write_policy(path: Path, weights: Sequence[float], how: Mapping[str, Any]) -> None:
    """Writes a policy's file.

    Args:
        path: Where.
        weights: One for each of `FEATURES`.
        how: How it was learnt, for whoever reads the file.

    Raises:
        UsageError: If it cannot be written.
    """
    named = dict(zip(FEATURES, (float(weight) for weight in weights), strict=True))
    try:
        path.write_text(json.dumps({"format": FORMAT, "weights": named, "learnt": how}, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
