"""Public conformance checks for anything registered: `dgym check my_teacher.py:MyTeacher`.

Each check is one sentence that should hold. What a checked thing raises becomes a finding, so that one run tells
everything that is wrong. The project's own tests run the same checks over every registered name. One module a kind.
"""

from __future__ import annotations

import difflib
from typing import Any, Final

from dgym import registry
from dgym.chat import find_chat
from dgym.chat.config import configured
from dgym.checks.backends import check_backend
from dgym.checks.chats import check_chat
from dgym.checks.domains import check_domain
from dgym.checks.environments import check_environment
from dgym.checks.findings import GARBAGE, Finding, Report, passed
from dgym.checks.sandboxes import check_sandbox
from dgym.checks.students import check_student
from dgym.checks.teachers import check_teacher
from dgym.domains import make_domain
from dgym.errors import UsageError, unknown_name
from dgym.students.names import find_family
from dgym.teachers import make_teacher, split_name

__all__ = [
    "GARBAGE",
    "Finding",
    "check",
    "check_backend",
    "check_chat",
    "check_domain",
    "check_environment",
    "check_sandbox",
    "check_student",
    "check_teacher",
    "kind_of",
    "passed",
]

_METHODS: Final[dict[str, tuple[str, ...]]] = {
    "teacher": ("plan", "generate"),
    "domain": ("problems", "grade"),
    "environment": ("observe",),
    "student": ("draw", "load"),
    "chat": ("complete",),
    "sandbox": ("run", "close"),
    "backend": ("run",),
}
"""By which methods a class or an object in a file is recognised, the first that fits."""


def check(kind: str, name: str, domain: str = "fake", *, deep: bool = False) -> list[Finding]:
    """Checks what is registered under a name.

    Args:
        kind: One of `dgym.registry.KINDS`; empty finds it out by the name.
        name: Registered name, or `path/to/file.py:Attr`; a language model's with `:MODEL` where the provider has
            several, a domain's with options behind a colon, a student's with `:VARIANT` or without.
        domain: Registered name of the domain in which a teacher or student is exercised.
        deep: Whether a student is loaded and trained too, and the endpoint of a language model asked, which may take
            seconds to minutes.

    Returns:
        One finding per check.

    Raises:
        UsageError: If there is no such kind or name, if it cannot be imported, or if a name without a kind stands for
            several things.
    """
    kind = kind or kind_of(name)
    if kind not in registry.KINDS:
        raise unknown_name("kind", kind, registry.KINDS)
    if kind == "teacher":
        return check_teacher(make_teacher(name), domain, lambda: make_teacher(name))
    if kind == "chat":
        return check_chat(find_chat(name), lambda: find_chat(name), deep=deep)
    base, variant = find_family(name) if kind == "student" else (name, "")
    made: Any = None if kind == "domain" else registry.load(kind, base)
    if kind == "sandbox":
        return check_sandbox(made)
    report = Report()
    with report("it can be made without arguments"):
        found: Any = make_domain(name) if kind == "domain" else made()
    if not report.sound:
        return report.findings
    if kind == "student":
        return report.findings + check_student(found, domain, variant=variant, deep=deep)
    if kind == "domain":
        return report.findings + check_domain(found)
    if kind == "environment":
        return report.findings + check_environment(found, made)
    return report.findings + check_backend(found)


def kind_of(name: str) -> str:
    """Finds out what kind of thing a name stands for.

    What a file holds is recognised by its methods, and is a teacher's factory where it has none of them.

    Raises:
        UsageError: If there is no such name, or if it stands for things of several kinds.
    """
    if name.startswith(registry.ISOLATED):
        return "teacher"
    if registry.is_file(name):
        made = registry.load("Python", name)
        return next((k for k, methods in _METHODS.items() if all(hasattr(made, m) for m in methods)), "teacher")
    found = [kind for kind in registry.KINDS if _stands_for(kind, name)]
    if not found:
        known = {n: kind for kind in registry.KINDS for n in registry.names(kind)} | dict.fromkeys(configured(), "chat")
        base = name.partition("@")[0].partition(":")[0]
        near = difflib.get_close_matches(base, sorted(known), n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}, a {known[near[0]]}?" if near else ""
        raise UsageError(f"There is nothing named {name!r} to check.{hint} `dgym ls` lists what there is.")
    if len(found) > 1:
        choices = " or ".join(f"--kind {kind}" for kind in found)
        raise UsageError(f"{name!r} is the name of several things ({', '.join(found)}): say which with {choices}.")
    return found[0]


def _stands_for(kind: str, name: str) -> bool:
    known = registry.names(kind)
    if kind == "teacher":
        return split_name(name)[0] in known
    if kind == "student":
        return find_family(name)[0] in known
    # What stands behind a colon is the domain's options or the provider's model.
    base = name.partition(":")[0] if kind in ("domain", "chat") else name
    return base in known or (kind == "chat" and name in configured())
