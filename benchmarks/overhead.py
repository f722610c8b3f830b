"""What dgym adds to Ray Tune: 300 fake episodes of 3 iterations against as many bare Tune trials.

    python benchmarks/overhead.py [--episodes 300]

A bare trial is a class Trainable that reports four rows and does nothing else, in reused processes, as many at a time
as dgym runs. A fake episode leases a student, plans, writes and judges examples, trains, answers, grades, and writes
five Parquet files. Both start Ray anew, and both times include that.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from dgym.bench import bench
from dgym.cluster import RayBackend, quiet
from dgym.core import Budget, Rules
from dgym.specs import EpisodeSpec, Seeds
from dgym.students.sizing import COMPUTING

ROWS = 4


def bare(trials: int, concurrent: int) -> float:
    """Runs bare trials; returns seconds."""
    quiet(verbose=False)
    import logging

    import ray
    from ray import tune

    class Bare(tune.Trainable):
        """Reports four rows."""

        def setup(self, config: dict) -> None:
            self.rows = 0

        def reset_config(self, new_config: dict) -> bool:
            self.rows = 0
            return True

        def step(self) -> dict:
            self.rows += 1
            return {"score": 0.0, tune.result.DONE: self.rows >= ROWS}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            Path(checkpoint_dir, "rows").write_text(str(self.rows))

        def load_checkpoint(self, checkpoint: dict) -> None:
            pass

    start = time.perf_counter()
    ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        tune.Tuner(
            tune.with_resources(Bare, {"cpu": 0.01}),
            param_space={"index": tune.grid_search(list(range(trials)))},
            tune_config=tune.TuneConfig(max_concurrent_trials=concurrent, reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=folder,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, num_to_keep=1),
            ),
        ).fit()
    ray.shutdown()
    return time.perf_counter() - start


def episodes(count: int, hosts: int) -> float:
    """Runs fake episodes; returns seconds."""
    rules = Rules(iterations=ROWS - 1, budget=Budget(20))
    specs = [
        EpisodeSpec(teacher="uniform", domain="fake", student="fake", rules=rules, seeds=Seeds.all(seed))
        for seed in range(1, count + 1)
    ]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        summary = bench(specs, Path(folder), suite="overhead", backend=RayBackend(hosts=hosts))
        seconds = time.perf_counter() - start
    if len(summary.ok) != count:
        raise SystemExit(f"{len(summary.failed)} of {count} episodes failed: {summary.failed[:1]}")
    return seconds


def main() -> None:
    """Measures both side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--hosts", type=int, default=2)
    args = parser.parse_args()
    baseline = bare(args.episodes, args.hosts * COMPUTING)
    ours = episodes(args.episodes, args.hosts)
    print(f"{args.episodes} bare Tune trials: {baseline:.1f} s; {args.episodes} fake episodes: {ours:.1f} s")
    print(f"ratio {ours / baseline:.2f}")


if __name__ == "__main__":
    main()
