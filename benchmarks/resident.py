"""Seconds per iteration: a resident student against fresh processes.

    python benchmarks/resident.py [--device cuda]

An iteration trains on 100 examples and answers the feedback problems. The resident student stays loaded and keeps its
adapter in memory. The other way, common in published code, starts a process that loads, trains and saves, and a
second one that loads base and adapter and answers. Both do the same work and give the same answers (checked).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ITERATIONS = 5


def problems_and_examples(iteration: int):
    """Returns what is asked, and 100 examples of this iteration."""
    from dgym.domains.math import MathDomain

    domain = MathDomain()
    skills = domain.skills()
    examples = [e for i, s in enumerate(skills) for e in domain.fresh(s, 9 + (i == 0), iteration)]
    return domain.problems("feedback"), examples


def load(device: str):
    """Loads the base of variant a."""
    from dgym.students.micro import micro_math

    return micro_math().load("a", device, "float32", 1)


def stage(name: str, iteration: int, folder: str, device: str) -> None:
    """One fresh process: train and save, or load and answer."""
    from dgym.models.recipe import Recipe

    problems, examples = problems_and_examples(iteration)
    tenant = load(device).open(Recipe(), "a")
    if name == "train":
        tenant.train(examples, seed=iteration, fresh=True)
        tenant.save(folder)
    else:
        tenant.load(folder)
        Path(folder, "answers.json").write_text(json.dumps(tenant.answer(problems)))


def main() -> None:
    """Measures both ways side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--stage", nargs=3, metavar=("NAME", "ITERATION", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        stage(args.stage[0], int(args.stage[1]), args.stage[2], args.device)
        return

    from dgym.models.recipe import Recipe

    resident, fresh = [], []
    tenant = load(args.device).open(Recipe(), "a")
    with tempfile.TemporaryDirectory() as folder:
        for iteration in range(ITERATIONS):
            problems, examples = problems_and_examples(iteration)
            start = time.perf_counter()
            tenant.train(examples, seed=iteration, fresh=True)
            answers = tenant.answer(problems)
            resident.append(time.perf_counter() - start)
            start = time.perf_counter()
            for name in ("train", "answer"):
                command = [sys.executable, __file__, "--device", args.device, "--stage", name, str(iteration), folder]
                subprocess.run(command, check=True, env=os.environ | {"TRANSFORMERS_VERBOSITY": "error"})
            fresh.append(time.perf_counter() - start)
            same = json.loads(Path(folder, "answers.json").read_text()) == answers
            print(f"iteration {iteration}: resident {resident[-1]:.2f} s, fresh processes {fresh[-1]:.2f} s")
            if not same and args.device == "cpu":
                sys.exit("The two ways gave different answers.")
    a, b = sorted(resident)[ITERATIONS // 2], sorted(fresh)[ITERATIONS // 2]
    print(f"median seconds per iteration: resident {a:.2f}, fresh processes {b:.2f}, ratio {b / a:.1f}")


if __name__ == "__main__":
    main()
