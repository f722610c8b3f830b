"""What do faults of a teacher's language model cost in score?

    python benchmarks/faults.py [--seeds 5]

The same episodes twice, in process: against a test server that answers well, and against one whose every third
response is faulty, each fault in turn (429 with and without Retry-After, 500, a hang, a cut connection, truncated
JSON, another schema, wrong answers, a refusal, prose). Teachers top up what was lost, so that both keep nearly the same
number of examples. Printed are the losses by reason and the paired difference of test scores with its interval.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from dgym.bench import LocalBackend, bench
from dgym.chat.session import Settings
from dgym.chat_server import FAULTS, ChatServer, Manner
from dgym.core import Budget, Rules
from dgym.results import open as open_run
from dgym.results.statistics import t_quantile
from dgym.specs import EpisodeSpec, Seeds


def run(folder: Path, seeds: int, faults: tuple[str, ...]) -> pd.DataFrame:
    """Runs the episodes against a server with some faults; returns their rows."""
    with ChatServer(Manner(faults=faults, every=3, hang=3.0)) as server:
        chats = folder / "chats.toml"
        # The endpoint stands in the digest and in the record, so the two servers share nothing.
        chats.write_text(f'[model]\nmodel = "stand-in"\nendpoint = "{server.url}"\ntimeout = 1.0\n')
        os.environ["DGYM_CHATS"] = str(chats)
        specs = [
            EpisodeSpec(
                teacher="agent@model",
                environment="skill-list",
                domain="math",
                student="micro-math",
                rules=Rules(iterations=2, budget=Budget(100), share=0.5),
                seeds=Seeds.all(seed),
            )
            for seed in range(1, seeds + 1)
        ]
        summary = bench(specs, folder / "run", backend=LocalBackend(), chat=Settings(record=str(folder / "record")))
        if summary.failed:
            raise SystemExit(f"{len(summary.failed)} episodes failed: {summary.failed[0].message}")
        shown = ", ".join(f"{n} {name}" for name, n in server.seen.faults.most_common())
        print(f"{server.seen.requests} requests; faults: {shown or 'none'}")
    return open_run(folder / "run").episodes.sort_values("seed_variant")


def main() -> None:
    """Measures both and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    rows = {}
    for name, faults in (("good", ()), ("faulty", FAULTS)):
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = run(Path(folder), args.seeds, faults)
    for name, episodes in rows.items():
        losses: Counter[str] = Counter()
        for text in episodes["teacher_losses"]:
            losses.update(json.loads(text))
        gain = 100 * (episodes["last_test"] - episodes["base_test"])
        print(
            f"{name}: gain {gain.mean():+.1f} points at the last iteration, {episodes['examples_kept'].mean():.0f} "
            f"examples kept, {episodes['teacher_calls'].sum()} calls, lost: {dict(losses) or 'none'}"
        )
    difference = 100 * (rows["faulty"]["last_test"].to_numpy() - rows["good"]["last_test"].to_numpy())
    half = t_quantile(0.975, args.seeds - 1) * difference.std(ddof=1) / np.sqrt(args.seeds)
    print(
        f"faulty minus good, paired: {difference.mean():+.1f} points [{-half + difference.mean():+.1f}, "
        f"{half + difference.mean():+.1f}] (95 %, t over {args.seeds} seeds)"
    )


if __name__ == "__main__":
    main()
