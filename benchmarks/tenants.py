"""Eight students on one host: memory, makespan and fairness.

    python benchmarks/tenants.py [--student smollm2-135m] [--device cuda]

Each way runs in a process of its own, which trains every student and asks it some problems. Memory is what is above a
process that has only imported the libraries: peak resident set on the CPU, peak allocated memory on a GPU. Eight
students share one host and run at the same time, each in a thread of its own as on a cluster. Makespan is compared with
the sum of the seconds that each of them takes alone on a host, and the slowest student with the fastest, which had
equal work. For the small students, eight hosts with a base of their own are measured too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from common import STUDENTS, arguments, examples, load, problems, recipe_of, synchronised, threads_of

COUNT = 8
RUNS = 3
WORK = {"micro-math": (75, 150, 3), "smollm2-135m": (8, 8, 1), "gemma-2-2b": (16, 16, 2)}
"""Examples and problems per iteration, and iterations."""


def peak_megabytes(device: str) -> float:
    """Returns the peak memory of this process, in MB."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def now_megabytes(device: str) -> float:
    """Returns the memory that this process has just now, in MB."""
    if device.startswith("cuda"):
        return 0.0
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def episode(tenant, student: str, seed: int) -> float:
    """Trains and asks one student for some iterations; returns when it was done."""
    taught, asked, iterations = WORK[student]
    for iteration in range(1, iterations + 1):
        tenant.train(examples(taught, seed * 10 + iteration), seed=iteration, fresh=True)
        tenant.answer(problems(asked))
    return time.perf_counter()


def seconds_to_return(tenants) -> float:
    """Returns the median seconds in which the device changes hands between students that had lain parked."""
    base = tenants[0]._base
    times = []
    for tenant in (*tenants, *tenants):
        start = time.perf_counter()
        base.adapted(tenant, tenant._config, None)
        synchronised(base.device)
        times.append(time.perf_counter() - start)
        base.rest()
    return sorted(times)[len(times) // 2]


def measure(way: str, student: str, device: str, threads: int) -> None:
    """Runs the students one way, and prints what was measured as JSON."""
    import torch

    torch.set_num_threads(threads)
    recipe = recipe_of(student)
    examples(8), problems(8)
    before = now_megabytes(device)
    bases = [load(student, device, threads) for _ in range({"separate": COUNT}.get(way, 1))]
    seconds, finished = [], []
    if way in ("one", "alone"):
        # One after the other, each with the host to itself; of `one` there is only one.
        for seed in range(1 if way == "one" else COUNT):
            tenant = bases[0].open(recipe, "a")
            start = time.perf_counter()
            seconds.append(episode(tenant, student, seed) - start)
            tenant.close()
        makespan = sum(seconds)
    else:
        tenants = [bases[i % len(bases)].open(recipe, "a") for i in range(COUNT)]
        ends = [0.0] * COUNT

        def work(i: int) -> None:
            ends[i] = episode(tenants[i], student, i)

        threads_ = [threading.Thread(target=work, args=(i,)) for i in range(COUNT)]
        start = time.perf_counter()
        for thread in threads_:
            thread.start()
        for thread in threads_:
            thread.join()
        finished = [end - start for end in ends]
        makespan = max(finished)
        memory = peak_megabytes(device) - before
        back = seconds_to_return(tenants) if len(bases) == 1 else 0.0
        print(json.dumps({"memory": memory, "makespan": makespan, "finished": finished, "back": back}))
        return
    print(json.dumps({"memory": peak_megabytes(device) - before, "makespan": makespan}))


def main() -> None:
    """Measures the ways side by side."""
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="runs of each way")
    parser.add_argument("--way", choices=["one", "alone", "tenants", "separate"], help="run one way and print JSON")
    args = parser.parse_args()
    assert args.student in STUDENTS
    threads = threads_of(args)
    if args.way:
        measure(args.way, args.student, args.device, threads)
        return
    ways = ["one", "alone", "tenants", *(["separate"] if args.student == "micro-math" else [])]
    found: dict[str, list[dict]] = {way: [] for way in ways}
    for _ in range(args.runs):
        for way in ways:
            options = ["--student", args.student, "--device", args.device, "--threads", str(threads), "--way", way]
            # As the cluster starts hosts: glibc would keep freed memory for each of the students' threads.
            environment = os.environ | {"MALLOC_ARENA_MAX": "1"}
            command = [sys.executable, __file__, *options]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))

    def middle(way: str, what) -> float:
        return sorted(what(run) for run in found[way])[args.runs // 2]

    memory = {way: middle(way, lambda r: r["memory"]) for way in ways}
    alone, together = (middle(way, lambda r: r["makespan"]) for way in ("alone", "tenants"))
    spread = middle("tenants", lambda r: max(r["finished"]) / min(r["finished"]))
    print("memory above the libraries, MB: " + ", ".join(f"{way} {value:.0f}" for way, value in memory.items()))
    print(f"{COUNT} tenants / one: {memory['tenants'] / memory['one']:.2f} (at most 1.25)")
    if "separate" in memory:
        print(f"{COUNT} separate bases / {COUNT} tenants: {memory['separate'] / memory['tenants']:.2f}")
    print(f"{COUNT} one after the other: {alone:.1f} s; at the same time on one host: {together:.1f} s")
    back = middle("tenants", lambda r: r["back"])
    print(f"a parked student is back in {1000 * back:.1f} ms")
    print(f"ratio {alone / together:.2f} (at least 0.95); slowest / fastest {spread:.2f} (below 1.3)")


if __name__ == "__main__":
    main()
