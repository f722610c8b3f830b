"""Episodes an hour on two student hosts of one thread each against one, on a machine of two cores.

    python benchmarks/hosts.py [--episodes 72] [--rounds 3] [--iterations 3]

The same episodes (those of the suite `standard` in the domain math, taught by `weakness` and `uniform`) run on Ray with
one host and with two, teacher workers as by default. Every run is a fresh process with a Ray of its own, the ways take
turns, and medians count. Episodes an hour are those of the steady part: of the episodes that end after the first of
every tenant of every host has ended. A long run consists of it, and what it leaves out (starting Ray and all processes,
importing, loading) takes the same time however many episodes follow. The end, where one host has nothing left to do, is
in it. The whole time is printed beside it.

What the machine allows is measured in the same turns: as many processes as hosts, without Ray, teachers, grading and
files, that train and answer as a host does. Processor seconds of the steady part say who needed what: what is not the
hosts' runs beside one host on the other core, and beside two hosts in their time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import psutil
from common import examples, load, medians, problems, recipe_of

from dgym.bench import bench
from dgym.cluster import RayBackend
from dgym.core import Budget, Rules
from dgym.results import open as open_run
from dgym.specs import EpisodeSpec, Seeds
from dgym.students.sizing import COMPUTING

AIM = 1.8
TEACHERS = ("weakness", "uniform")

BARE = (100, 300, 6)
"""Examples and problems of a round, and rounds, of a process that only trains and answers."""

KINDS = {"HostActor": "hosts", "ResourceTrainable": "trials", "TeacherWorker": "teachers"}
"""Processes of Ray's workers, by what stands in their names; Tune calls all trials the same."""

RAY = "Ray and driver"
ELSE = "not of the run"
"""What the machine's processors did for others, or had taken from them by the machine's own host."""


def specs(count: int, iterations: int) -> list[EpisodeSpec]:
    """Returns episodes of about the same work, as in `standard`: teachers in turn, then seeds."""
    rules = Rules(iterations=iterations, budget=Budget(75), share=0.15)
    each = [(seed, teacher) for seed in range(1, -(-count // len(TEACHERS)) + 1) for teacher in TEACHERS]
    return [
        EpisodeSpec(
            teacher=teacher,
            environment="skill-list",
            domain="math",
            student="micro-math",
            rules=rules,
            seeds=Seeds.all(seed),
            threads=1,
        )
        for seed, teacher in each[:count]
    ]


ELSE_ID = -1

Sample = tuple[float, dict[int, tuple[str, float]]]


@contextmanager
def sampled(every: float = 4.0) -> Iterator[list[Sample]]:
    """Samples kind and processor time of this process and all that it started."""
    samples: list[Sample] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(every):
            whole = psutil.cpu_times()
            now = {ELSE_ID: (ELSE, sum(whole) - whole.idle - whole.iowait - whole.guest - whole.guest_nice)}
            me = psutil.Process()
            for process in [me, *me.children(recursive=True)]:
                try:
                    used = process.cpu_times()
                    words = "" if process.pid == me.pid else " ".join(process.cmdline()[:1])
                    kind = next((kind for name, kind in KINDS.items() if name in words), RAY)
                    now[process.pid] = kind, used.user + used.system
                except (psutil.Error, IndexError):
                    continue
            samples.append((time.time(), now))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def used(samples: list[Sample], start: float, end: float) -> dict[str, float]:
    """Returns the processor seconds between two times, by kind; as if used evenly between two samples."""
    total: defaultdict[str, float] = defaultdict(float)
    last: dict[int, float] = {}
    before = samples[0][0]
    for when, now in samples:
        part = max(0.0, min(when, end) - max(before, start)) / (when - before) if when > before else 0.0
        for process, (kind, seconds) in now.items():
            # What began in between had used nothing before.
            total[kind] += part * (seconds - last.get(process, 0.0))
            last[process] = seconds
        before = when
    total[ELSE] -= sum(seconds for kind, seconds in total.items() if kind != ELSE)
    return total


def run(hosts: int, count: int, iterations: int) -> dict[str, Any]:
    """Runs the episodes in this process; returns seconds, but for `whole` those of an episode."""
    import dgym.cluster.hosts as actors

    stats: list[Any] = []
    ask = actors.host_stats

    def kept(manager: Any) -> Any:
        found = ask(manager)
        stats.extend(found[0])
        return found

    actors.host_stats = kept
    with tempfile.TemporaryDirectory() as folder, sampled() as samples:
        start = time.time()
        summary = bench(specs(count, iterations), Path(folder, "run"), suite="hosts", backend=RayBackend(hosts=hosts))
        whole = time.time() - start
        if len(summary.ok) != count:
            raise SystemExit(f"{len(summary.failed)} of {count} episodes failed: {summary.failed[:1]}")
        ends = sorted(end.timestamp() for end in open_run(Path(folder, "run")).episodes["finished_at"])
    begun = hosts * COMPUTING
    first, end = ends[begun - 1], ends[-1]
    busy = sum(max(0.0, min(b, end) - max(a, first)) for host in stats for a, b in host.busy)
    steady = end - first
    return {
        "whole": whole,
        "each": steady / (count - begun),
        "busy": busy / (hosts * steady),
        "work": busy / (count - begun),
        "cpu": {kind: seconds / (count - begun) for kind, seconds in used(samples, first, end).items()},
    }


def bare() -> None:
    """Trains and answers as a host does, once it is told to; writes how long that took."""
    import torch

    torch.set_num_threads(1)
    taught, asked, rounds = BARE
    tenant = load("micro-math", "cpu", 1).open(recipe_of("micro-math"), "a")
    data, given = [examples(taught, seed) for seed in range(rounds)], problems(asked)
    tenant.train(examples(16), seed=0, fresh=True)
    tenant.answer(given[:16])
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    for seed, part in enumerate(data):
        tenant.train(part, seed=seed, fresh=True)
        tenant.answer(given)
    print(time.perf_counter() - start, flush=True)


def side_by_side(processes: int) -> float:
    """Runs such processes at the same time; returns the seconds of the slowest."""
    # As hosts have it; see `dgym.cluster.hosts`.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "TRANSFORMERS_VERBOSITY": "error"}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "--part", "bare"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(processes)
    ]
    for process in started:
        assert process.stdout is not None
        while process.stdout.readline().strip() != "ready":
            if process.poll() is not None:
                raise SystemExit("A process ended before it was ready.")
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return max(float(process.communicate()[0].split()[-1]) for process in started)


def alone(hosts: int, args: argparse.Namespace) -> dict[str, Any]:
    """Calls `run` in a fresh process."""
    words = [sys.executable, __file__, "--part", str(hosts)]
    words += ["--episodes", str(args.episodes), "--iterations", str(args.iterations)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measures both ways and what the machine allows, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=72)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part == "bare":
        bare()
        return
    if args.part:
        print(json.dumps(run(int(args.part), args.episodes, args.iterations)))
        return
    runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    times: dict[str, list[float]] = {"bare 1": [], "bare 2": []}
    # One, two, two, one: what changes on the machine meanwhile falls on both.
    for hosts in islice(cycle((1, 2, 2, 1)), 2 * args.rounds):
        times[f"bare {hosts}"].append(side_by_side(hosts))
        found = alone(hosts, args)
        runs[hosts].append(found)
        print(
            f"{hosts} host{'s' * (hosts > 1)}: {found['each']:.2f} s an episode, whole {found['whole']:.1f} s, "
            f"hosts busy {found['busy']:.0%}; {found['cpu'][ELSE]:.2f} processor seconds an episode {ELSE}; bare "
            f"{times[f'bare {hosts}'][-1]:.1f} s",
            flush=True,
        )
    for hosts, each in runs.items():
        for name in ("each", "whole", "work", "busy"):
            times[f"{name} {hosts}"] = [found[name] for found in each]
        for kind in (*KINDS.values(), RAY, ELSE):
            times[f"{kind} {hosts}"] = [found["cpu"].get(kind, 0.0) for found in each]
    middle = medians(times)
    for hosts in (1, 2):
        hourly, of_all = 3600 / middle[f"each {hosts}"], args.episodes * 3600 / middle[f"whole {hosts}"]
        spent = ", ".join(f"{kind} {middle[f'{kind} {hosts}']:.2f}" for kind in (*KINDS.values(), RAY, ELSE))
        print(
            f"{hosts} host{'s' * (hosts > 1)}: {hourly:.0f} episodes an hour ({of_all:.0f} of the whole time); each "
            f"{middle[f'work {hosts}']:.2f} s of training and answering, hosts busy {middle[f'busy {hosts}']:.0%}; "
            f"processor seconds an episode: {spent}"
        )
    machine = 2 * middle["bare 1"] / middle["bare 2"]
    ratio = middle["each 1"] / middle["each 2"]
    print(
        f"two hosts against one: {ratio:.2f} (at least {AIM}), of the whole time "
        f"{middle['whole 1'] / middle['whole 2']:.2f}; two bare processes against one: {machine:.2f}"
    )


if __name__ == "__main__":
    main()
