"""Learns a policy over skills on the small student of the domain math, with at most 200 episodes.

    python benchmarks/learn_policy.py --out dgym/teachers/learnt.json
    dgym bench --suite learnt

The policy is the linear softmax of `dgym.teachers.learnt`. Its four weights are searched by the cross-entropy method
(de Boer et al. 2005, "A tutorial on the cross-entropy method") with noise that is added to the spread and decreases
over the generations (Szita & Lőrincz 2006, "Learning Tetris using the noisy cross-entropy method"). It starts from
weights of 0, which give equal shares. A candidate's return is the change in selection score over an episode: what the
rewards of `dgym.plan_env` add up to. All candidates of a generation play the same seeds, one for each variant of the
student, so that they differ by less than seeds do; the seeds are others than those of any suite.

An episode is that of the suite, but for its problems: more of them on selection, where returns are measured, and hardly
any on test, from which nothing is learnt. One core; the same weights on every run.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dgym.errors import UsageError
from dgym.plan_env import RULES, PlanEnv
from dgym.teachers.learnt import FEATURES, shares, write_policy

EPISODES = 200
FIRST_SEED = 1001
SPREAD = np.array([1.5, 3.0, 0.5, 1.5])
"""Standard deviation of each weight in the first generation: what moves a skill's share by a factor of some three."""

ELITE = 3
NOISE = 0.3


def play(env: Any, weights: np.ndarray, seed: int) -> float:
    """Plays one episode and returns what its rewards add up to, in points."""
    observation, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        observation, reward, over, _, _ = env.step(shares(observation, weights))
        total += 100 * reward
    return total


def search(env: Any, generations: int, population: int, seeds: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Searches weights; returns the last mean, and what each generation gained."""
    rng = np.random.default_rng(0)
    mean, spread = np.zeros(len(FEATURES)), SPREAD
    history = []
    for generation in range(generations):
        first = FIRST_SEED + generation * seeds
        # The mean itself is the first candidate: its returns say how far the search is.
        drawn = rng.normal(mean, spread, size=(population - 1, len(FEATURES)))
        candidates = np.concatenate([mean[None], drawn])
        start = time.perf_counter()
        returns = np.array([np.mean([play(env, c, first + i) for i in range(seeds)]) for c in candidates])
        elite = candidates[np.argsort(-returns, kind="stable")[:ELITE]]
        history.append({"of_mean": round(float(returns[0]), 3), "of_all": round(float(returns.mean()), 3)})
        mean = elite.mean(axis=0)
        spread = elite.std(axis=0) + NOISE * (1 - (generation + 1) / generations) * SPREAD
        shown = ", ".join(f"{name} {weight:+.2f}" for name, weight in zip(FEATURES, mean, strict=True))
        print(
            f"generation {generation + 1}: mean policy {returns[0]:+.2f} points, all {returns.mean():+.2f}, "
            f"best {returns.max():+.2f}; then {shown}; {time.perf_counter() - start:.0f} s",
            flush=True,
        )
    return mean, history


def main() -> None:
    """Searches and writes the policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domain", default="math")
    parser.add_argument("--student", default="micro-math")
    parser.add_argument("--generations", type=int, default=5)
    parser.add_argument("--population", type=int, default=8, help=f"candidates of a generation, more than {ELITE}")
    parser.add_argument("--seeds", type=int, default=3, help="episodes of a candidate")
    parser.add_argument("--out", type=Path, required=True, help="file of the policy to write")
    args = parser.parse_args()
    episodes = args.generations * args.population * args.seeds
    if episodes > EPISODES or args.population <= ELITE:
        raise SystemExit(f"{episodes} episodes with {args.population} candidates: at most {EPISODES}, above {ELITE}.")
    rules = replace(RULES, counts={"selection": 200, "test": 10})
    try:
        env = PlanEnv(args.domain, args.student, rules=rules)
        start = time.perf_counter()
        weights, history = search(env, args.generations, args.population, args.seeds)
        wall = time.perf_counter() - start
        print(f"{episodes} episodes in {wall:.0f} s, in which this process computed for {time.process_time():.0f} s")
        how = {
            "by": "benchmarks/learn_policy.py",
            "domain": args.domain,
            "student": args.student,
            "episodes": episodes,
            "seeds": [FIRST_SEED, FIRST_SEED + args.generations * args.seeds - 1],
            "points_by_generation": history,
        }
        write_policy(args.out, np.round(weights, 3).tolist(), how)
    except UsageError as error:
        raise SystemExit(f"learn_policy: {error}") from error


if __name__ == "__main__":
    main()
