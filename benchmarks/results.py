"""Says how fast large results are read: leaderboard and report of 2,000 episodes with 10 million attempts.

The episodes are made up: students whose answers are drawn, in the files that a run would write. Each command is run in
a fresh process, on the part files of a run and on the same run merged into one file a table, and its wall-clock time,
processor time and peak memory are measured from outside.

    python benchmarks/results.py
    python benchmarks/results.py --keep /tmp/large     # makes the files once, and uses them again
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

DOMAINS = ("math", "code", "tools", "vqa")
ENVIRONMENTS = ("open-ended", "skill-list", "skill-tree")
BLIND = ("uniform", "no-data")
SKILLS = 10
ITERATIONS = 3
PROBLEMS = {"feedback": 250, "selection": 400, "test": 600}
EXAMPLES = 100
"""Per iteration."""

ATTEMPTS = (ITERATIONS + 1) * sum(PROBLEMS.values())
"""Of each episode: 5,000."""

SECONDS, MEGABYTES = 10, 2000
"""What leaderboard and report may take."""


def plan(episodes: int, seeds: int) -> list[dict[str, Any]]:
    """Returns the episodes to make up: teachers by environments, domains and seeds; two of them look at no state."""
    each = len(DOMAINS) * seeds
    teachers = [f"teacher-{i:02d}" for i in range(max(2, (episodes - 2 * each) // (each * len(ENVIRONMENTS))))]
    entries = [(teacher, environment) for teacher in teachers for environment in ENVIRONMENTS]
    return [
        {"teacher": teacher, "environment": environment, "domain": domain, "seed": seed, "number": number}
        for number, (teacher, environment) in enumerate([*entries, *((name, "open-ended") for name in BLIND)])
        for domain in DOMAINS
        for seed in range(1, seeds + 1)
    ]


def make(folder: Path, episodes: int, seeds: int) -> int:
    """Makes a run up and returns how many episodes it has."""
    planned = plan(episodes, seeds)
    size = 50
    parts = [planned[i : i + size] for i in range(0, len(planned), size)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_make, [folder] * len(parts), parts))
    return len(planned)


def _make(folder: Path, part: list[dict[str, Any]]) -> None:
    for episode in part:
        _write(folder, episode)


def _write(folder: Path, episode: dict[str, Any]) -> None:
    import pyarrow as pa

    from dgym.results.schema import TABLES, part_path
    from dgym.results.writer import write_parquet

    key = {name: episode[name] for name in ("domain", "environment", "teacher")}
    digest = hashlib.blake2b(json.dumps(episode).encode(), digest_size=16).hexdigest()
    for name, columns in _rows(episode).items():
        schema = TABLES[name].schema
        count = len(next(iter(columns.values())))
        arrays = [
            pa.repeat(digest, count)
            if f.name == "digest"
            else pa.array(list(columns[f.name]) if count == 0 else columns[f.name], f.type)
            if f.name in columns
            else pa.nulls(count, f.type)
            for f in schema
        ]
        write_parquet(pa.table(arrays, schema=schema), folder / part_path(name, key, digest))


def _rows(episode: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    from dgym.core import Budget, Rules
    from dgym.results.writer import label_of
    from dgym.specs import EpisodeSpec, Seeds

    domain, seed, teacher = episode["domain"], episode["seed"], episode["teacher"]
    teaches = teacher != "no-data"
    rules = Rules(iterations=ITERATIONS, budget=Budget(EXAMPLES), test_every_iteration=True)
    spec = EpisodeSpec(
        teacher=teacher, environment=episode["environment"], domain=domain, rules=rules, seeds=Seeds.all(seed)
    )
    rng = np.random.default_rng([episode["number"], DOMAINS.index(domain), seed])
    # Better teachers have lower numbers; problems have their difficulty, the same for all.
    ability = 0.4 + teaches * np.arange(ITERATIONS + 1) * (0.12 - 0.001 * episode["number"] / len(ENVIRONMENTS))
    ability = ability + rng.normal(0, 0.02) * (np.arange(ITERATIONS + 1) > 0)
    scores = {}
    for split, count in PROBLEMS.items():
        difficulty = np.random.default_rng([count, DOMAINS.index(domain)]).normal(0, 0.2, count)
        drawn = rng.random((ITERATIONS + 1, count)) < np.clip(ability[:, None] - difficulty, 0, 1)
        scores[split] = drawn.astype(float) if teaches else np.tile(drawn[0].astype(float), (ITERATIONS + 1, 1))
    means = {split: values.mean(axis=1) for split, values in scores.items()}
    best = int(means["selection"].argmax())
    submitted = np.array([0, *[EXAMPLES * teaches] * ITERATIONS])
    skills = np.array([f"{domain} skill {i}" for i in range(SKILLS)])
    attempts: dict[str, list[Any]] = {"iteration": [], "split": [], "problem": [], "skill": [], "score": []}
    for split, values in scores.items():
        count = values.shape[1]
        names = np.array([f"{domain}-{split}-{i:05d}" for i in range(count)])
        attempts["iteration"].append(np.repeat(np.arange(ITERATIONS + 1), count))
        attempts["split"].append(np.repeat(split, values.size))
        attempts["problem"].append(np.tile(names, ITERATIONS + 1))
        attempts["skill"].append(np.tile(skills[np.arange(count) % SKILLS], ITERATIONS + 1))
        attempts["score"].append(values.ravel())
    whole = {name: np.concatenate(parts) for name, parts in attempts.items()}
    told = np.array([f"The answer, after some thought on it, is \\boxed{{{i}}}." for i in range(1000)])
    # The order of an episode: split after split within an iteration.
    order = np.argsort(whole["iteration"], kind="stable")
    whole = {name: values[order] for name, values in whole.items()}
    whole["response"] = told[rng.integers(len(told), size=len(order))]
    made = int(submitted.sum())
    kept = rng.random(made) < 0.9
    seconds = {f"seconds_{stage}": np.full(ITERATIONS + 1, 2.5) for stage in ("plan", "generate", "gate", "train")}
    began = datetime(2026, 1, 1, tzinfo=UTC)
    return {
        "attempts": whole,
        "steps": {
            "iteration": np.arange(ITERATIONS + 1),
            **means,
            "best": np.arange(ITERATIONS + 1) == best,
            "examples_submitted": submitted,
            "examples_kept": submitted,
            "examples_total": submitted.cumsum(),
            "rejected": ["{}"] * (ITERATIONS + 1),
            "response_tokens": submitted * 12,
            "plans": ["[]"] * (ITERATIONS + 1),
            "probes": ["[]"] * (ITERATIONS + 1),
            "cost": np.array([0.0, *[0.01] * ITERATIONS]),
            "seconds_answer": np.full(ITERATIONS + 1, 3.0),
            **seconds,
        },
        "examples": {
            "iteration": np.repeat(np.arange(ITERATIONS + 1), submitted),
            "item": np.arange(made) % 10,
            "skill": skills[rng.integers(SKILLS, size=made)],
            "kept": kept,
            "reason": np.where(kept, None, "duplicate"),
            "tokens": np.full(made, 12),
            "prompt": np.array([f"A problem that is like {i} others; what is it?" for i in range(made)]),
            "response": np.array([f"\\boxed{{{i}}}" for i in range(made)]),
        },
        "calls": {
            "iteration": np.repeat(np.arange(1, ITERATIONS + 1), 10 * teaches),
            "generation": np.zeros(10 * ITERATIONS * teaches, dtype=int),
            "item": np.tile(np.arange(10 * teaches), ITERATIONS),
            "asked": np.full(10 * ITERATIONS * teaches, 10),
            "returned": np.full(10 * ITERATIONS * teaches, 10),
        },
        "episodes": {
            "suite": ["made-up"],
            "variation": [""],
            "teacher_label": [label_of(spec)],
            "student": [spec.student],
            "variant": ["a"],
            **{f"seed_{name}": [seed] for name in ("variant", "training", "teacher")},
            "privileged": [False],
            "state_blind": [teacher in BLIND],
            "ranked": [teaches],
            "status": ["ok"],
            "protocol": ["0" * 32],
            "spec": [spec.model_dump_json()],
            "pins": [json.dumps({"domain": "1", "teacher": "1"})],
            "versions": ["{}"],
            "device": ["cpu"],
            "iterations_run": [ITERATIONS],
            "best_iteration": [best],
            "base_test": [means["test"][0]],
            "best_test": [means["test"][best]],
            "last_test": [means["test"][-1]],
            "base_selection": [means["selection"][0]],
            "best_selection": [means["selection"][best]],
            "retention": [0.0],
            "retention_last": [0.0],
            "retention_skills": [5],
            "examples_submitted": [made],
            "examples_kept": [int(kept.sum())],
            "response_tokens": [12 * made],
            "teacher_calls": [0],
            "teacher_losses": ["{}"],
            "teacher_tokens": [0],
            "cost": [0.03 * teaches],
            "seconds_student": [22.0],
            "seconds_total": [52.0],
            "started_at": [began],
            "finished_at": [began + timedelta(seconds=episode["number"])],
        },
    }


def measure(*args: str) -> dict[str, float]:
    """Runs a command of dgym in a fresh process and measures it from outside."""
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "dgym", *args], stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"dgym {' '.join(args)} failed.")
    seconds = time.perf_counter() - start
    # Linux gives kilobytes.
    return {"seconds": seconds, "processor": used.ru_utime + used.ru_stime, "megabytes": used.ru_maxrss / 1000}


def main() -> None:
    """Makes the files, runs the commands and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=10, help="fewer seeds make more teachers")
    parser.add_argument("--runs", type=int, default=3, help="how often each command is run; the median counts")
    parser.add_argument("--keep", type=Path, help="folder for the files; a temporary one by default")
    parser.add_argument("--parts", action="store_true", help="leave the merged run out")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        run, merged, out = folder / "run", folder / "merged", folder / "out"
        if not (run / "episodes").exists():
            start = time.perf_counter()
            print(f"{make(run, args.episodes, args.seeds):,} episodes made in {time.perf_counter() - start:.0f} s")
        if not args.parts and not merged.exists():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", "dgym", "compact", str(run), "--out", str(merged)], check=True)
            print(f"merged in {time.perf_counter() - start:.0f} s")
        from dgym.results import open as open_run

        episodes = open_run(run).arrow("episodes", ["digest"]).num_rows
        print(f"{episodes:,} episodes, {episodes * ATTEMPTS:,} attempts; at most {SECONDS} s and {MEGABYTES:,} MB\n")
        print("| command | files | seconds | processor seconds | peak MB |\n|:--|:--|--:|--:|--:|")
        for what, command in {
            "leaderboard build": ("leaderboard", "build", "--out", str(out)),
            "report": ("report", "--out", str(out / "report.html")),
        }.items():
            for place in (run, *[merged] * (not args.parts)):
                found = sorted((measure(*command, str(place)) for _ in range(args.runs)), key=lambda m: m["seconds"])
                middle = found[len(found) // 2]
                print(f"| {what} | {place.name} | {middle['seconds']:.1f} | {middle['processor']:.1f} | "
                      f"{max(m['megabytes'] for m in found):.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
