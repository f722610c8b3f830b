"""Seconds per iteration: a resident student against the original's protocol of fresh processes.

    python benchmarks/resident.py [--student smollm2-135m] [--device cuda] [--vllm]

An iteration trains on the data so far and answers problems. The resident student stays loaded and keeps its adapter in
memory. The other way, that of the published code, ends the inference engine, starts a process that loads, trains and
saves, and starts a fresh engine that loads base and adapter and answers. Both do the same work on the same data and
give the same answers (checked on the CPU). Dead time is what is neither training nor answering. With `--vllm` the
original's engine is vLLM, as published (`$DGYM_VLLM` names the command), started anew in every iteration; without it
the fresh engine is transformers in a fresh process, which starts sooner.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import arguments, examples, load, medians, problems, recipe_of, threads_of

ITERATIONS = {"micro-math": 5, "smollm2-135m": 3, "gemma-2-2b": 3}
SIZES = {"micro-math": (75, 300), "smollm2-135m": (64, 100), "gemma-2-2b": (75, 300)}
"""Examples and problems per iteration: those of the suites `standard` and `smollm2`."""


def stage(name: str, student: str, iteration: int, folder: str, device: str, threads: int) -> None:
    """One fresh process: train and save, or load and answer. Writes how long the work itself took."""
    import torch

    torch.set_num_threads(threads)
    taught, asked = SIZES[student]
    tenant = load(student, device, threads).open(recipe_of(student), "a")
    if name == "train":
        data = examples(taught, iteration)
        start = time.perf_counter()
        tenant.train(data, seed=iteration, fresh=True)
        seconds = time.perf_counter() - start
        tenant.save(folder)
    else:
        tenant.load(folder)
        given = problems(asked)
        start = time.perf_counter()
        answers = tenant.answer(given)
        seconds = time.perf_counter() - start
        Path(folder, "answers.json").write_text(json.dumps(answers))
    Path(folder, f"{name}.json").write_text(json.dumps(seconds))


def fresh_vllm(student: str, iteration: int, folder: str, device: str, threads: int) -> tuple[float, list[str]]:
    """Starts a vLLM engine, answers with the saved adapter, and ends it; returns the seconds of answering."""
    base = load(student, device, threads)
    base.use_vllm()
    tenant = base.open(recipe_of(student), "a")
    tenant.load(folder)
    given = problems(SIZES[student][1])
    tenant.answer(given[:1])  # what an engine does before its first answer is no answering
    start = time.perf_counter()
    answers = tenant.answer(given[1:])
    seconds = time.perf_counter() - start
    base.engine.close()
    return seconds, answers


@contextmanager
def measured_work() -> Iterator[list[float]]:
    """Collects the seconds spent inside the training loop and the generation of answers, and nothing else."""
    from dgym.students import base

    seconds: list[float] = []
    originals = {name: getattr(base, name) for name in ("fine_tune", "generate")}

    def timed(work):
        def inside(*args, **kwargs):
            start = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                seconds.append(time.perf_counter() - start)

        return inside

    try:
        for name, work in originals.items():
            setattr(base, name, timed(work))
        yield seconds
    finally:
        for name, work in originals.items():
            setattr(base, name, work)


def main() -> None:
    """Measures both ways side by side."""
    parser = arguments(__doc__)
    parser.add_argument("--vllm", action="store_true", help="the original's engine is vLLM")
    parser.add_argument("--stage", nargs=3, metavar=("NAME", "ITERATION", "FOLDER"), help="one fresh process")
    args = parser.parse_args()
    student, device, threads = args.student, args.device, threads_of(args)
    if args.stage:
        stage(args.stage[0], student, int(args.stage[1]), args.stage[2], device, threads)
        return

    import torch

    torch.set_num_threads(threads)
    taught, asked = SIZES[student]
    given = problems(asked)
    tenant = load(student, device, threads).open(recipe_of(student), "a")
    tenant.train(examples(16), seed=0, fresh=True)  # the episode has begun
    times: dict[str, list[float]] = {"resident": [], "original": [], "resident dead": [], "original dead": []}
    command = [sys.executable, __file__, "--student", student, "--device", device, "--threads", str(threads)]
    with tempfile.TemporaryDirectory() as folder:
        for iteration in range(1, ITERATIONS[student] + 1):
            data = examples(taught, iteration)
            with measured_work() as worked:
                start = time.perf_counter()
                tenant.train(data, seed=iteration, fresh=True)
                answers = tenant.answer(given)
                whole = time.perf_counter() - start
            times["resident"].append(whole)
            times["resident dead"].append(whole - sum(worked))

            start = time.perf_counter()
            environment = os.environ | {"TRANSFORMERS_VERBOSITY": "error"}
            subprocess.run([*command, "--stage", "train", str(iteration), folder], check=True, env=environment)
            if args.vllm:
                answering, _ = fresh_vllm(student, iteration, folder, device, threads)
            else:
                subprocess.run([*command, "--stage", "answer", str(iteration), folder], check=True, env=environment)
                answering = json.loads(Path(folder, "answer.json").read_text())
            whole = time.perf_counter() - start
            times["original"].append(whole)
            times["original dead"].append(whole - answering - json.loads(Path(folder, "train.json").read_text()))
            print(f"iteration {iteration}: resident {times['resident'][-1]:.2f} s, original {whole:.2f} s", flush=True)
            if not args.vllm and device == "cpu":
                same = json.loads(Path(folder, "answers.json").read_text()) == answers
                if not same:
                    sys.exit("The two ways gave different answers.")
    middle = medians(times)
    print(
        f"median seconds per iteration: resident {middle['resident']:.2f}, original {middle['original']:.2f}, "
        f"ratio {middle['original'] / middle['resident']:.1f}"
    )
    print(
        f"dead time: resident {middle['resident dead']:.3f} s, original {middle['original dead']:.2f} s, "
        f"{middle['resident dead'] / middle['original dead']:.2%} of it (at most 3 %)"
    )


if __name__ == "__main__":
    main()
