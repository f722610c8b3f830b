"""What the driver of a run costs, from 100 over 1,000 to 10,000 episodes, and how soon a long run goes on.

    python benchmarks/scale.py [--episodes 100 1000 10000]

Fake episodes of 5 iterations: each leases a student, plans, writes and judges examples, trains, answers, grades, and
writes five Parquet files and a note. Every size is a run of its own in a fresh process, with Ray started anew; counted
are the processor time of the driver (all threads, from the expansion of the suite to the end), its largest memory, that
of Ray's head (the largest sum over its processes other than workers), and the files and bytes that were written. Linear
means that an iteration costs the same in all of them.

Of the largest run a tenth is then removed, and the same command begins again: it is timed until the first of the
episodes has answered an iteration, the start of Ray included, and stopped there.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from dgym.bench import Progress, bench
from dgym.cluster import RayBackend
from dgym.core import Budget, Rules
from dgym.specs import EpisodeSpec, Seeds

ITERATIONS = 5
MOST_SECONDS = 0.02
"""What an iteration may take of the driver's processor time."""

HEAD = ("gcs_server", "raylet", "python")
"""Names of the processes of Ray's head; workers are named `ray::` and what they run."""


def specs(count: int) -> list[EpisodeSpec]:
    """Returns fake episodes that differ in their seeds."""
    rules = Rules(iterations=ITERATIONS, budget=Budget(20))
    return [
        EpisodeSpec(teacher="uniform", domain="fake", student="fake", rules=rules, seeds=Seeds.all(seed))
        for seed in range(1, count + 1)
    ]


@contextmanager
def watched(every: float = 2.0) -> Iterator[dict[str, float]]:
    """Samples the memory of Ray's head while a run goes on."""
    seen, stop = {"head_mb": 0.0}, threading.Event()

    def look() -> None:
        while not stop.wait(every):
            total = 0
            for process in psutil.Process().children(recursive=True):
                try:
                    if process.name().startswith(HEAD) and not process.cmdline()[0].startswith("ray::"):
                        total += process.memory_info().rss
                except (psutil.Error, IndexError):
                    continue
            seen["head_mb"] = max(seen["head_mb"], total / 1e6)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield seen
    stop.set()
    thread.join()


def run(count: int, folder: Path, hosts: int) -> dict[str, float]:
    """Runs episodes in this process; returns what they cost."""
    start, before = time.perf_counter(), time.process_time()
    with watched() as seen:
        summary = bench(specs(count), folder, suite="scale", backend=RayBackend(hosts=hosts))
    if len(summary.ok) != count:
        raise SystemExit(f"{len(summary.failed)} of {count} episodes failed: {summary.failed[:1]}")
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {
        "episodes": count,
        "seconds": time.perf_counter() - start,
        "driver_seconds": time.process_time() - before,
        "driver_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        "files": len(files),
        "bytes": sum(p.stat().st_size for p in files),
        **seen,
    }


def goes_on(count: int, folder: Path, hosts: int) -> dict[str, float]:
    """Removes a tenth of a run and times how long it takes until work begins again."""
    lost = set(random.Random(0).sample(sorted(p.stem for p in (folder / "episodes").rglob("*.parquet")), count // 10))
    for path in folder.rglob("*"):
        if path.is_file() and path.name.partition(".")[0] in lost:
            path.unlink()
    start = time.perf_counter()
    times: dict[str, float] = {}

    def begin(todo: object, skipped: int) -> None:
        times.update(known=time.perf_counter() - start, finished=skipped)

    def first(progress: Progress) -> None:
        times["first"] = time.perf_counter() - start
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        bench(specs(count), folder, suite="scale", backend=RayBackend(hosts=hosts), begin=begin, report=first)
    return times


def alone(what: str, count: int, folder: Path, hosts: int) -> dict[str, float]:
    """Calls one of the above in a fresh process."""
    words = [sys.executable, __file__, "--part", what, str(count), str(folder), "--hosts", str(hosts)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measures all sizes one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--part", nargs=3, metavar=("WHAT", "EPISODES", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        what, count, folder = args.part
        print(json.dumps({"run": run, "goes-on": goes_on}[what](int(count), Path(folder), args.hosts)))
        return
    print("episodes  seconds  driver s  per iteration  driver MB  head MB   files     MB")
    with tempfile.TemporaryDirectory() as scratch:
        for count in args.episodes:
            folder = Path(scratch, str(count))
            f = alone("run", count, folder, args.hosts)
            each = f["driver_seconds"] / (count * ITERATIONS)
            print(
                f"{count:8d} {f['seconds']:8.0f} {f['driver_seconds']:9.1f} {each:14.4f} {f['driver_mb']:10.0f} "
                f"{f['head_mb']:8.0f} {f['files']:7d} {f['bytes'] / 1e6:6.0f}",
                flush=True,
            )
        print(f"at most {MOST_SECONDS} s of the driver an iteration are aimed at")
        again = alone("goes-on", count, folder, args.hosts)
        print(
            f"{again['finished']:.0f} of {count} finished: known after {again['known']:.1f} s, the first iteration of "
            f"another after {again['first']:.1f} s (aim: 10)"
        )


if __name__ == "__main__":
    main()
