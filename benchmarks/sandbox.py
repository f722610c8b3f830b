"""Graded programs per second: the sandbox against a fresh interpreter for each program.

    python benchmarks/sandbox.py [--programs 500] [--naive 50]

Both ways run the same small functions on the same arguments and compare what they return with what is expected. The
naive way is common in published graders: `python -I` in a subprocess with a timeout. It isolates nothing. The
first numbers are programs per second of all processors together, the last one is how many times faster the sandbox is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

SOURCES = (
    ("def solve(n):\n    return sum(i * i for i in range(n))", lambda n: sum(i * i for i in range(n))),
    ("from collections import Counter\ndef solve(n):\n    return max(Counter(str(n)).values())", None),
    ("import math\ndef solve(n):\n    return [math.gcd(n, k) for k in range(1, 20)]", None),
    ("def solve(n):\n    return str(n)[::-1] == str(n)", lambda n: str(n)[::-1] == str(n)),
)
CALLS = 5


def tasks(count: int):
    """Returns `(source, arguments, expected)` for every program; every second one of them is graded as wrong."""
    import math
    from collections import Counter

    references = [
        SOURCES[0][1],
        lambda n: max(Counter(str(n)).values()),
        lambda n: [math.gcd(n, k) for k in range(1, 20)],
        SOURCES[3][1],
    ]
    made = []
    for i in range(count):
        arguments = [100 + 7 * i + k for k in range(CALLS)]
        expected = [references[i % 4](n) for n in arguments]
        if i // 4 % 2:
            expected[-1] = None
        made.append((SOURCES[i % 4][0], arguments, expected))
    return made


def sandboxed(work) -> list[bool]:
    """Grades in the sandbox."""
    from dgym.sandbox import Program, find_sandbox, verdict

    programs = [Program(source, "solve", tuple((n,) for n in arguments)) for source, arguments, _ in work]
    outcomes = find_sandbox().run(programs)
    return [verdict(outcome, expected) for outcome, (_, _, expected) in zip(outcomes, work, strict=True)]


def naive(work) -> list[bool]:
    """Grades with one interpreter per program, as many at once as there are processors."""

    def grade(task) -> bool:
        source, arguments, expected = task
        script = f"{source}\nimport json\nprint(json.dumps([solve(n) for n in {arguments!r}]))"
        done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, timeout=10, check=False)
        return json.loads(done.stdout) == expected

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        return list(threads.map(grade, work))


def main() -> None:
    """Measures both ways side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=500)
    parser.add_argument("--naive", type=int, default=50, help="programs for the naive way")
    args = parser.parse_args()

    from dgym.sandbox import tier

    print(f"{len(os.sched_getaffinity(0))} processors, {tier()}")
    rates = {}
    sandboxed(tasks(8))
    for name, way, count in (("sandbox", sandboxed, args.programs), ("naive", naive, args.naive)):
        work = tasks(count)
        start = time.perf_counter()
        verdicts = way(work)
        rates[name] = count / (time.perf_counter() - start)
        if verdicts != [i // 4 % 2 == 0 for i in range(count)]:
            sys.exit(f"{name} grades wrongly.")
        print(f"{name}: {rates[name]:.0f} programs/s")
    print(f"ratio {rates['sandbox'] / rates['naive']:.1f}")


if __name__ == "__main__":
    main()
