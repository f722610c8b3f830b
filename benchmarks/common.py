"""What the scripts of this folder share: students by name, on any device, and the data that they are asked and taught.

`gemma-2-2b` is a randomly initialised model of Gemma-2-2B's shape, for machines without its weights: it learns nothing
that is worth knowing, at the same cost.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from typing import Any

STUDENTS = ("micro-math", "smollm2-135m", "gemma-2-2b")


def arguments(description: str | None) -> Any:
    """Returns a parser with the options that all scripts take."""
    import argparse

    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", choices=STUDENTS, default="micro-math")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; one for micro-math, else all cores")
    return parser


def threads_of(args: Any) -> int:
    """Returns the number of threads that a script's options ask for."""
    import os

    return args.threads or (1 if args.student == "micro-math" else os.cpu_count() or 1)


def recipe_of(student: str) -> Any:
    """Returns the recipe with which a student is measured."""
    from dgym.models.recipe import Recipe

    return Recipe() if student == "micro-math" else Recipe.preset("pretrained")


def load(student: str, device: str, threads: int) -> Any:
    """Loads a student's base."""
    from dgym.models.load import resolve_precision
    from dgym.students.names import find_student

    if student == "gemma-2-2b":
        return _gemma(device)
    _, family, variant = find_student(student, 1)
    return family.load(variant, device, resolve_precision("auto", device), threads)


def examples(count: int, seed: int = 0) -> list[Any]:
    """Returns training examples of the domain math, its skills in equal parts."""
    from dgym.domains.math import MathDomain

    domain = MathDomain()
    skills = domain.skills()
    each = -(-count // len(skills))
    return [e for row in zip(*(domain.fresh(s, each, seed) for s in skills), strict=True) for e in row][:count]


def problems(count: int) -> list[Any]:
    """Returns problems of the domain math, those of the test split first; there are 2,000."""
    from dgym.domains.math import MathDomain

    domain = MathDomain()
    return [p for split in ("test", "selection", "feedback") for p in domain.problems(split)][:count]


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    """Returns the median of each list."""
    return {name: median(values) for name, values in times.items()}


def synchronised(device: str) -> None:
    """Waits until an accelerator has done what it was given."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def _gemma(device: str) -> Any:
    """Makes a folder with a random model of Gemma-2-2B's shape, and loads it; needs no network."""
    import torch
    from transformers import Gemma2Config, Gemma2ForCausalLM

    from dgym.models.load import resolve_precision
    from dgym.students.base import Base
    from dgym.students.micro import micro_math

    folder = Path(tempfile.mkdtemp(prefix="gemma-2-2b-"))
    small = micro_math().folder("a")
    for file in small.iterdir():
        if file.name.startswith(("tokenizer", "chat_template", "special_tokens")):
            (folder / file.name).write_bytes(file.read_bytes())
    precision = resolve_precision("auto", device)
    config = Gemma2Config(
        vocab_size=256_000,
        hidden_size=2304,
        intermediate_size=9216,
        num_hidden_layers=26,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        attn_implementation="eager",
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    with torch.device(device):
        model = Gemma2ForCausalLM(config).to(getattr(torch, precision))
    model.save_pretrained(folder)
    del model
    return Base(str(folder), digest="gemma-2-2b-random", device=device, precision=precision)
