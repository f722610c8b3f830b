"""Is a student host kept busy while teachers wait for their language model?

    python benchmarks/overlap.py [--latencies 1 4] [--episodes 4]

Some episodes share one host on Ray; their teacher's model answers over HTTP, each call after a fixed time. With c the
host's work a round and L the time that a teacher takes for one, a host that never idled for want of planning would
be busy min(1, n*c / (c + L)) of the time with n episodes. c, L and the share are measured in the same run: c as what
the host was busy with, over all rounds; L as the time of planning and writing, without waiting for the host.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

from dgym.bench import bench
from dgym.chat.session import Settings
from dgym.chat_server import ChatServer, Manner
from dgym.cluster import RayBackend
from dgym.core import Budget, Rules
from dgym.results import open as open_run
from dgym.specs import EpisodeSpec, Seeds


def serve(latency: float, pipe: Any) -> None:
    """Runs the server until it is told to end."""
    with ChatServer(Manner(latency=latency)) as server:
        pipe.send(server.url)
        pipe.recv()


def measure(latency: float, episodes: int, rounds: int) -> None:
    """Runs the episodes against a server of some latency, and prints how busy the host was."""
    near, far = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=serve, args=(latency, far), daemon=True)
    process.start()
    os.environ |= {"OPENAI_BASE_URL": near.recv(), "OPENAI_API_KEY": "any"}
    # Trained on each round's data only, so that all rounds are the same work.
    rules = Rules(iterations=rounds, budget=Budget(60), training="continue", share=0.3)
    specs = [
        EpisodeSpec(
            teacher="agent@openai:stand-in",
            environment="skill-list",
            domain="math",
            student="micro-math:a",
            rules=rules,
            seeds=Seeds.all(seed),
        )
        for seed in range(1, episodes + 1)
    ]
    with tempfile.TemporaryDirectory() as folder:
        summary = bench(
            specs,
            Path(folder) / "run",
            chat=Settings(record=str(Path(folder) / "record")),
            backend=RayBackend(hosts=1, workers=2, per_host=episodes),
        )
        if len(summary.ok) != len(specs):
            raise SystemExit(f"{len(summary.failed)} episodes failed: {summary.failed[:1]}")
        steps = open_run(Path(folder) / "run").steps
    near.send("end")
    process.join(10)
    usage = summary.usage
    assert usage.busy is not None
    taught = steps[steps["iteration"] > 0]
    # The time counted begins with the first training of all.
    work = usage.busy * usage.seconds / (episodes * rounds)
    wait = float((taught["seconds_plan"] + taught["seconds_generate"]).mean())
    best = min(1.0, episodes * work / (work + wait))
    print(f"calls of {latency:g} s: host work c = {work:.2f} s a round, teacher L = {wait:.2f} s a round")
    print(f"  busy {usage.busy:.1%} of {usage.seconds:.0f} s; at best {best:.1%}; ratio {usage.busy / best:.2f}")


def main() -> None:
    """Measures and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latencies", type=float, nargs="+", default=[1.0, 4.0], help="seconds that a call takes")
    parser.add_argument("--episodes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    for latency in args.latencies:
        measure(latency, args.episodes, args.rounds)


if __name__ == "__main__":
    main()
