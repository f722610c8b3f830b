"""What isolation costs: seconds of plan and generate per iteration, isolated against in process, side by side.

    python benchmarks/isolation.py [--iterations 20] [--items 4]

A teacher that computes next to nothing is asked for a plan and for the examples of some items, as an iteration does, in
this process and in isolation, in turns. Between iterations passes as long as a short training takes, in which the next
process starts. The first, cold start is given apart.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import dgym
from dgym.core import Brief, PlanItem, State, Teacher
from dgym.episode import ask_policy, work_on
from dgym.teachers import make_teacher

TEACHER = """
from dgym import Example, Plan, PlanItem

class Adds:
    def plan(self, brief, state):
        return Plan((PlanItem(state.examples_left),))

    def generate(self, brief, item):
        return [Example(f"add {i} {item.seed % 997}", str(i + item.seed % 997)) for i in range(item.count)]
"""


def iteration(teacher: Teacher, brief: Brief, state: State, items: int, number: int) -> float:
    """Asks for a plan and for examples once; returns the seconds that took."""
    start = time.perf_counter()
    ask_policy(teacher.policies["open-ended"], brief, state)
    work_on(teacher, brief, [PlanItem(100 // items, seed=number + i) for i in range(items)])
    return time.perf_counter() - start


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--items", type=int, default=4, help="plan items of an iteration")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between iterations, in place of a training")
    args = parser.parse_args()
    gym = dgym.make("open-ended", "math", "micro-math:a")
    state = gym.reset()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "adds.py")
        file.write_text(TEACHER)
        start = time.perf_counter()
        inside, isolated = make_teacher(f"{file}:Adds"), make_teacher(f"isolated@{file}:Adds")
        first = iteration(isolated, gym.brief, state, args.items, 0)
        cold = time.perf_counter() - start
        seconds: dict[str, list[float]] = {"in process": [], "isolated": []}
        for number in range(args.iterations):
            for name, teacher in (("in process", inside), ("isolated", isolated)):
                time.sleep(args.pause)
                seconds[name].append(iteration(teacher, gym.brief, state, args.items, number))
    size = sum(len(o.prompt) + len(o.response) for o in state.observations)
    print(
        f"{len(state.observations)} feedback problems, {size:,} characters; {args.items} items of {100 // args.items}\n"
    )
    print("| teacher | seconds per iteration, median | slowest |\n|:--|--:|--:|")
    for name, found in seconds.items():
        print(f"| {name} | {statistics.median(found):.4f} | {max(found):.4f} |")
    print(f"\nCold start, with its first iteration of {first:.2f} s: {cold:.2f} s")


if __name__ == "__main__":
    main()
