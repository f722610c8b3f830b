"""A normal program, and how to tell that a hostile one left nothing behind."""

from pathlib import Path

from dgym.sandbox import Program, verdict

NORMAL = Program("def add(a, b):\n    return a + b", "add", ((1, 2), ("x", "y")))


def is_normal(outcome):
    """Whether the program `NORMAL` was graded as it should be."""
    return verdict(outcome, [3, "xy"]) and not verdict(outcome, [3, "yx"])


def command_lines():
    """Returns the command lines and names of all processes of this machine."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                found.append((folder / "cmdline").read_bytes() + (folder / "comm").read_bytes())
            except OSError:
                continue
    return found


def may_fork(sandbox):
    """Whether programs may start processes: not where they would run as the machine's root."""
    program = Program("import os\nif not os.fork():\n    os._exit(0)\nos.wait()")
    return sandbox.run([program])[0].status == "done"
