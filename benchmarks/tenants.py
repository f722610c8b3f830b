"""Memory for eight students: tenants on one base against eight separate students.

    python benchmarks/tenants.py [--device cuda]

Each way runs in a process of its own, which trains every student once. What is compared is memory above a process that
has only imported the libraries: resident set on CPU, peak allocated memory on a GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

STUDENTS = 8


def resident_megabytes() -> float:
    """Returns this process's resident set, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def measure(way: str, device: str) -> None:
    """Opens and trains the students one way, and prints the memory in MB."""
    import torch

    from dgym.domains.math import MathDomain
    from dgym.models.recipe import Recipe
    from dgym.students import base as module
    from dgym.students.micro import micro_math

    # The first training of a process allocates workspaces that have nothing to do with the number of students.
    examples = MathDomain().fresh("chain_sum", 32, 0)
    kept: list[object] = [module]
    family = micro_math()
    bases = {"nothing": 0, "tenants": 1, "separate": STUDENTS}[way]
    loaded = [family.load("a", device, "float32", 1) for _ in range(bases)]
    for i in range(STUDENTS if bases else 0):
        tenant = loaded[i % bases].open(Recipe(), "a")
        tenant.train(examples, seed=i, fresh=True)
        kept.append(tenant)
    memory = torch.cuda.max_memory_allocated() / 1e6 if device.startswith("cuda") else resident_megabytes()
    print(memory)


def main() -> None:
    """Measures the ways side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--way", choices=["nothing", "tenants", "separate"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        measure(args.way, args.device)
        return
    memory = {}
    for way in ("nothing", "tenants", "separate"):
        command = [sys.executable, __file__, "--device", args.device, "--way", way]
        runs = [float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(3)]
        memory[way] = sorted(runs)[1]
    tenants, separate = (memory[way] - memory["nothing"] for way in ("tenants", "separate"))
    print(f"libraries only: {memory['nothing']:.0f} MB")
    print(
        f"{STUDENTS} tenants on one base: {tenants:.0f} MB more; {STUDENTS} separate students: {separate:.0f} MB more"
    )
    print(f"ratio {separate / tenants:.2f}")


if __name__ == "__main__":
    main()
