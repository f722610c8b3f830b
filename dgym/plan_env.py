"""The closed loop as a Gymnasium environment at the level of plans, so that policies can be *learnt*.

Importing this module registers `dgym/Plan-v0`; it needs `pip install "dgym[gym]"`::

    import gymnasium
    import dgym.plan_env

    env = gymnasium.make("dgym/Plan-v0", domain="math", student="micro-math")
    observation, info = env.reset(seed=1)
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())

One episode here is one episode of dgym in the environment `skill-list`. An action splits a round's allowance among the
skills; the domain's own generators write the data, as for every *privileged* teacher. How a policy is learnt is not
known here: `benchmarks/learn_policy.py` is an example, and `dgym.teachers.learnt` plays what it has learnt.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dgym.core import Brief, Budget, Plan, Rules, State, Step, Teacher
from dgym.domains import make_domain
from dgym.environments import make_environment
from dgym.episode import ClosedLoop, LocalPool, overlap_index, teach, used
from dgym.errors import DgymError, UsageError
from dgym.models.recipe import Recipe
from dgym.students.host import StudentConfig, StudentHost, configured, local_student
from dgym.students.names import own_recipe
from dgym.teachers.engines import Procedural
from dgym.teachers.learnt import observed, plan_by

try:
    import gymnasium
except ModuleNotFoundError as missing:
    raise UsageError('Gymnasium is not installed: pip install "dgym[gym]".') from missing

Array = NDArray[np.float32]

ID: Final = "dgym/Plan-v0"
"""The registered name; its version is bumped whenever rewards or observations would move."""

RULES: Final = Rules(iterations=2, budget=Budget(100), share=0.15)
"""The protocol by default: that of the suite `quick`."""

_SEEDS: Final = 2**31


class PlanEnv(gymnasium.Env[dict[str, Array], Array]):
    """One domain, student and protocol; actions are allocations over the domain's skills.

    Skills stand in alphabetical order in all vectors; `skills` names them, K of them.

    Observation, all float32: `accuracy` (K,) on the feedback problems of each skill, in [0, 1]; `gain` (K,), its change
    in the last round, in [-1, 1]; `allocation` (K,), the shares of all examples asked for so far, all 0 at first;
    `budget` (1,) and `iteration` (1,), the parts of the examples that are left and of the rounds that are over.

    Action: K weights in [0, 1]. Normalised to add up to 1 they are the shares of the round's examples, rounded by
    largest remainder; all 0 means equal shares.

    Reward: the change in the score on the selection split, in [-1, 1]. An episode has `rules.iterations` steps, its
    last one is `terminated`, and none is ever truncated.

    Info: `iteration`; `feedback` and `selection`, the scores in [0, 1]; `counts`, examples asked for by skill in this
    round; `kept`, how many passed the gate; and `test_gain`, the change in the test score, in [-1, 1], at the iteration
    that is best on selection so far. It is what teachers are ranked by, and is not to be learnt from.

    A seed given to `reset` is that of the student's variant, of its training and of the data, as `--seed` is
    elsewhere. Without one each episode draws its own from `np_random`.

    Args:
        domain: Registered name of a domain with generators.
        student: Registered name, which draws a variant by seed, or `name:variant`.
        rules: The protocol; its two seeds are replaced. That of the suite `quick` by default.
        recipe: How the student is trained; by default as its family says.

    Raises:
        UsageError: If a name is unknown, or if the rules leave nothing to act on.
    """

    def __init__(
        self,
        domain: str = "math",
        student: str = "micro-math",
        *,
        rules: Rules = RULES,
        recipe: Recipe | None = None,
    ) -> None:
        if rules.iterations < 1 or rules.generations != 1:
            raise UsageError("A plan environment needs at least one iteration, and one generation in each.")
        self._domain, self._student, self._rules = make_domain(domain), student, rules
        self._recipe = recipe or Recipe.preset(own_recipe(student))
        self._config(1)  # a wrong name is known at once
        self._index = overlap_index(self._domain, rules.validation)
        self._host = StudentHost()
        self._loop: ClosedLoop | None = None
        self.skills = tuple(sorted({problem.skill for problem in used(self._domain, "feedback", rules)}))
        size = len(self.skills)
        budget = rules.budget
        per_episode = rules.iterations * budget.examples_per_iteration
        self._total = min(per_episode, budget.examples_total or per_episode)
        seen = {"accuracy": _box(0, size), "gain": _box(-1, size), "allocation": _box(0, size)}
        seen |= {"budget": _box(0, 1), "iteration": _box(0, 1)}
        observation_space: Any = gymnasium.spaces.Dict(seen)
        self.observation_space = observation_space
        self.action_space = _box(0, size)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Starts an episode with an untrained student, and evaluates it.

        Args:
            seed: Of variant, training and data.
            options: None are known.
        """
        super().reset(seed=seed)
        number = int(self.np_random.integers(1, _SEEDS)) if seed is None else seed
        rules = replace(self._rules, training_seed=number, teacher_seed=number)
        student = local_student(self._host, self._config(number), "plan-env")
        self._loop = ClosedLoop(self._domain, make_environment("skill-list"), student, rules, index=self._index)
        self._asked = [0] * len(self.skills)
        step = self._loop.begin()
        self._before: list[float] | None = None
        self._base = self._best = _test(step)
        return self._observation(), self._info(step, [0] * len(self.skills))

    def step(self, action: Array) -> tuple[dict[str, Array], float, bool, bool, dict[str, Any]]:
        """Has data written by an allocation, trains the student on it and evaluates it.

        Args:
            action: Weights of the skills; see the class.

        Raises:
            DgymError: If the episode is over, or was not begun.
            UsageError: If the action is not K finite numbers of at least 0.
        """
        loop = self._loop
        if loop is None or loop.done:
            raise DgymError("The episode is over; call reset()." if loop else "Call reset() first.")
        wanted = np.asarray(action, dtype=np.float64)
        if wanted.shape != (len(self.skills),) or not np.isfinite(wanted).all() or (wanted < 0).any():
            raise UsageError(f"An action is {len(self.skills)} finite numbers of at least 0, one for each skill.")
        accuracy, selection = self._accuracy(), loop.last.selection.score
        chosen = _Chosen(wanted.tolist())
        teacher = Teacher("plan-env", {"skill-list": chosen}, Procedural(), privileged=True)
        teach(loop, teacher, LocalPool(teacher))
        step = loop.learn()
        self._before = accuracy
        self._asked = [asked + count for asked, count in zip(self._asked, chosen.counts, strict=True)]
        if step.best:
            self._best = _test(step)
        reward = step.selection.score - selection
        return self._observation(), reward, loop.done, False, self._info(step, chosen.counts)

    def close(self) -> None:
        """Gives back the student's memory."""
        self._host.close("plan-env")
        self._loop = None

    def _config(self, seed: int) -> StudentConfig:
        return configured(self._student, seed, self._recipe)

    def _accuracy(self) -> list[float]:
        assert self._loop is not None
        return [report.accuracy for report in self._loop.observe().skills]

    def _observation(self) -> dict[str, Array]:
        assert self._loop is not None
        return observed(
            self._accuracy(),
            self._before,
            self._asked,
            left=1 - sum(self._asked) / max(1, self._total),
            progress=self._loop.iteration / self._rules.iterations,
        )

    def _info(self, step: Step, counts: list[int]) -> dict[str, Any]:
        return {
            "iteration": step.iteration,
            "feedback": step.feedback.score,
            "selection": step.selection.score,
            "counts": dict(zip(self.skills, counts, strict=True)),
            "kept": Counter(v.kept for v in step.verdicts)[True],
            "test_gain": self._best - self._base,
        }


class _Chosen:
    """A policy that plans what an action says."""

    def __init__(self, wanted: list[float]) -> None:
        self._wanted, self.counts = wanted, [0] * len(wanted)

    def plan(self, brief: Brief, state: State) -> Plan:
        items, self.counts = plan_by(state.skills, self._wanted, state.examples_left)
        return Plan(items)


def _box(low: float, size: int) -> Any:
    return gymnasium.spaces.Box(low, 1.0, (size,), np.float32)


def _test(step: Step) -> float:
    return step.test.score if step.test is not None else 0.0


if ID not in gymnasium.registry:
    gymnasium.register(ID, entry_point="dgym.plan_env:PlanEnv")
