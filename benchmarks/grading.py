"""Grading throughput of every domain, in answers per second; of code also on one core, against all.

    python benchmarks/grading.py [--answers 400] [--domains math humaneval:fixture ...]

Answers are references and damaged references, half and half, each made different from all others by a comment or a
space where that changes nothing, so that no cache helps. Data sets that are on this machine are graded on their own
problems, others on their fixtures. Starting the sandbox and the graders' processes is not counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence

from dgym import registry
from dgym.core import Domain, GradesTogether, Prepares, Problem
from dgym.domains import data_sets, make_domain
from dgym.errors import DgymError, UsageError

ROUNDS = 3
BUILT_IN = ("math", "code", "vqa", "tools")
CODE = ("code", "humaneval", "livecodebench")


def names() -> list[str]:
    """Returns all domains, over their fixtures where their data sets are not here."""
    found = list(BUILT_IN)
    for name in data_sets():
        if name not in registry.names("domain"):  # a later release of another
            continue
        try:
            make_domain(name).problems("test")
            found.append(name)
        except UsageError:
            found.append(f"{name}:fixture")
    return found


def answers(domain: Domain, count: int, round_: int) -> tuple[list[Problem], list[str]]:
    """Returns problems and an answer to each: in turn a right one and a damaged one, none like another."""
    every = [p for split in ("feedback", "selection", "test") for p in domain.problems(split)]
    problems = [every[i % len(every)] for i in range(count)]
    out = []
    for number, problem in enumerate(problems):
        right = problem.reference or "```python\nprint(input())\n```"
        text = right if number % 2 == 0 else right[: len(right) // 2]
        mark = f"{round_}-{number}"
        if domain.name.partition(":")[0] in CODE:
            text = f"{text.removesuffix('```')}\n# {mark}\n" + "```" * text.endswith("```")
        elif domain.name.partition(":")[0] in ("hendrycks-math", "gsm8k"):
            text = f"({mark}) {text}"
        out.append(text)
    return problems, out


def graded(domain: Domain, problems: Sequence[Problem], responses: Sequence[str]) -> list[float]:
    """Grades as an episode does."""
    if isinstance(domain, GradesTogether):
        return [score for score, _ in domain.grade_all(problems, responses)]
    return [domain.grade(p, r) for p, r in zip(problems, responses, strict=True)]


def rate(domain: Domain, count: int, first: int) -> tuple[float, float]:
    """Returns the median of answers per second, and the mean grade."""
    rates, scores = [], []
    for round_ in range(first, first + ROUNDS):
        problems, responses = answers(domain, count, round_)
        start = time.perf_counter()
        scores = graded(domain, problems, responses)
        rates.append(count / (time.perf_counter() - start))
    return statistics.median(rates), sum(scores) / len(scores)


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=400, help="answers per round")
    parser.add_argument("--domains", nargs="+", default=None, help="domains; all by default")
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    print(f"{'domain':<28}{'answers/s':>12}{'mean grade':>12}{'one core':>12}{'ratio':>8}")
    for name in args.domains or names():
        try:
            domain = make_domain(name)
            if isinstance(domain, Prepares):
                domain.prepare()
            graded(domain, *answers(domain, 8, -1))
            speed, score = rate(domain, args.answers, 0)
        except DgymError as error:
            print(f"{name:<28}{error}")
            continue
        line = f"{name:<28}{speed:>12.0f}{score:>12.2f}"
        if name.partition(":")[0] in CODE:
            os.sched_setaffinity(0, cores[:1])
            from dgym.sandbox import find_sandbox

            find_sandbox().close()  # its helpers were started on all cores
            graded(domain, *answers(domain, 8, -2))
            alone, _ = rate(domain, args.answers, ROUNDS)
            os.sched_setaffinity(0, cores)
            find_sandbox().close()
            line += f"{alone:>12.0f}{speed / alone:>8.2f}"
        print(line)


if __name__ == "__main__":
    main()
