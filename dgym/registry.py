"""One lazy registry: names to `"pkg.mod:Attr"` strings, entry points for third parties, and files.

Nothing is imported until it is loaded. A name may be:

- a built-in (`"weakness"`),
- the name of an entry point in the group `dgym.<kind>s`, such as `dgym.teachers`, of an installed package,
- a file and an attribute in it (`"path/to/file.py:Attr"`).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

from dgym.errors import DgymError, UsageError, one_line, unknown_name

BUILTIN: Final[dict[str, dict[str, str]]] = {
    "domain": {
        "math": "dgym.domains.math:MathDomain",
        "code": "dgym.domains.code:CodeDomain",
        "tools": "dgym.domains.tools:ToolsDomain",
        "tools-all": "dgym.domains.tools:WholeCatalogue",
        "vqa": "dgym.domains.vqa:VqaDomain",
        "hendrycks-math": "dgym.domains.published.hendrycks_math:HendrycksMath",
        "gsm8k": "dgym.domains.published.gsm8k:Gsm8k",
        "gqa": "dgym.domains.published.gqa:Gqa",
        "naturalbench": "dgym.domains.published.naturalbench:NaturalBench",
        "livecodebench": "dgym.domains.published.livecodebench:LiveCodeBench",
        "humaneval": "dgym.domains.published.humaneval:HumanEval",
        "mnms": "dgym.domains.published.mnms:Mnms",
        "bfcl": "dgym.domains.published.bfcl:Bfcl",
        "reasoning-gym": "dgym.domains.published.reasoning_gym:ReasoningGym",
        "fake": "dgym.fakes:FakeDomain",
    },
    "environment": {
        "open-ended": "dgym.environments.open_ended:OpenEnded",
        "skill-list": "dgym.environments.skill_list:SkillList",
        "skill-tree": "dgym.environments.skill_tree:SkillTreeEnvironment",
    },
    "teacher": {
        "uniform": "dgym.teachers.builtin:uniform",
        "random": "dgym.teachers.builtin:random_skills",
        "weakness": "dgym.teachers.builtin:weakness",
        "weakness-blind": "dgym.teachers.builtin:weakness_blind",
        "bandit": "dgym.teachers.builtin:bandit",
        "bandit-blind": "dgym.teachers.builtin:bandit_blind",
        "threshold": "dgym.teachers.builtin:threshold",
        "random-tree": "dgym.teachers.builtin:random_tree",
        "alternating": "dgym.teachers.builtin:alternating",
        "alternating-blind": "dgym.teachers.builtin:alternating_blind",
        "fill-balanced": "dgym.teachers.builtin:fill_balanced",
        "fill-balanced-blind": "dgym.teachers.builtin:fill_balanced_blind",
        "no-data": "dgym.teachers.builtin:no_data",
        "wrong-answers": "dgym.teachers.builtin:wrong_answers",
        "off-domain": "dgym.teachers.builtin:off_domain",
        "ceiling": "dgym.teachers.builtin:ceiling",
        "agent": "dgym.teachers.chatting:agent",
        "agent-blind": "dgym.teachers.chatting:agent_blind",
        "agent-seeded": "dgym.teachers.chatting:agent_seeded",
        "agent-pairs": "dgym.teachers.chatting:agent_pairs",
        "pool": "dgym.teachers.chatting:pool",
        "learnt": "dgym.teachers.learnt:learnt",
    },
    "student": {
        "micro-math": "dgym.students.micro:micro_math",
        "micro-code": "dgym.students.micro:micro_code",
        "micro-tools": "dgym.students.micro:micro_tools",
        "micro-vqa": "dgym.students.micro:micro_vqa",
        "smollm2-135m": "dgym.students.pretrained:smollm2_135m",
        "hf": "dgym.students.pretrained:hf",
        "tiny": "dgym.students.tiny:tiny",
        "openai": "dgym.students.fixed:endpoint",
        "answers": "dgym.students.fixed:stored",
        "fake": "dgym.fakes:fake_student",
    },
    "sandbox": {
        "namespaces": "dgym.sandbox.namespaces:Namespaces",
        "bubblewrap": "dgym.sandbox.bubblewrap:Bubblewrap",
        "unsafe": "dgym.sandbox.unsafe:Unsafe",
    },
    "chat": {
        "openai": "dgym.chat:openai",
        "vllm": "dgym.chat.local:vllm",
        "hf": "dgym.chat.local:hf",
        "stand-in": "dgym.teachers.stand_in:StandIn",
        "fake": "dgym.fake_chat:FakeChat",
    },
    "backend": {
        "local": "dgym.bench:LocalBackend",
        "ray": "dgym.cluster:RayBackend",
    },
}
"""Every built-in, by kind and name."""

KINDS: Final = tuple(BUILTIN)


def group(kind: str) -> str:
    """Returns the entry-point group of a kind, such as `dgym.teachers`."""
    return f"dgym.{kind}es" if kind.endswith("x") else f"dgym.{kind}s"


@lru_cache(maxsize=8)
def _plugins(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group(kind))}


def names(kind: str) -> list[str]:
    """Returns every registered name of a kind, built-ins and entry points, sorted."""
    if kind not in BUILTIN:
        raise unknown_name("kind", kind, KINDS)
    return sorted({*BUILTIN[kind], *_plugins(kind)})


ISOLATED: Final = "isolated@"
"""Before the name of a teacher: the same in a process of its own."""


def is_file(name: str) -> bool:
    """Whether a name is of the form `path/to/file.py:Attr`."""
    return ".py:" in name and not name.startswith(ISOLATED)


def load(kind: str, name: str) -> Any:
    """Imports what a name stands for.

    Args:
        kind: One of `KINDS`.
        name: A registered name, or `path/to/file.py:Attr`.

    Returns:
        The attribute itself: a class, a factory or an object.

    Raises:
        UsageError: If there is no such name, file or attribute, or if it cannot be imported.
    """
    if is_file(name):
        return _load_file(kind, name)
    if name in BUILTIN.get(kind, {}):
        module, _, attribute = BUILTIN[kind][name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    if kind in BUILTIN and name in _plugins(kind):
        try:
            return _plugins(kind)[name].load()
        except Exception as error:
            raise UsageError(f"The {kind} {name!r} cannot be imported: {one_line(error)}") from error
    raise unknown_name(kind, name, names(kind))


def make(kind: str, name: str, protocol: Any, what: str = "", **params: Any) -> Any:
    """Loads a class, a factory or an object, makes it where it is not made yet, and checks what came of it.

    Args:
        kind: One of `KINDS`, or any word where the name is a file's.
        name: A registered name, or `path/to/file.py:Attr`.
        protocol: What it must be, a Protocol that can be checked at run time.
        what: What messages call it: its kind and name as the person gave them; those above by default.
        params: Keyword arguments of the class or factory.

    Raises:
        UsageError: If there is no such name, if it cannot be made, or if it is something else.
    """
    what = what or f"{kind} {name!r}"
    made = load(kind, name)
    if isinstance(made, type) or (callable(made) and not isinstance(made, protocol)):
        try:
            made = made(**params)
        except DgymError:
            raise
        except Exception as error:
            raise UsageError(f"The {what} cannot be made: {one_line(error)}") from error
    if not isinstance(made, protocol):
        raise UsageError(f"The {what} is a {type(made).__name__}; it is not a dgym {protocol.__name__}.")
    return made


def pin(kind: str, name: str) -> str:
    """Returns what a name pins beyond itself: the bytes of a file, or the version of a plugin's package."""
    if is_file(name):
        path = Path(name.partition(".py:")[0] + ".py")
        try:
            return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        except OSError as error:
            raise UsageError(f"The {kind} file {str(path)!r} cannot be read: {error.strerror}.") from error
    if name not in BUILTIN.get(kind, {}) and name in _plugins(kind):
        package = _plugins(kind)[name].dist
        return f"{package.name}=={package.version}" if package else ""
    return ""


def _load_file(kind: str, name: str) -> Any:
    stem, _, attribute = name.partition(".py:")
    path = Path(f"{stem}.py")
    if not path.is_file():
        raise UsageError(f"There is no {kind} file {str(path)!r}.")
    module_name = f"dgym_file_{hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()}"
    module = sys.modules.get(module_name)
    if module is None:
        found = importlib.util.spec_from_file_location(module_name, path)
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules[module_name] = module
        try:
            found.loader.exec_module(module)
        except DgymError:
            del sys.modules[module_name]
            raise
        except BaseException as error:
            del sys.modules[module_name]
            if isinstance(error, KeyboardInterrupt):
                raise
            raise UsageError(f"The {kind} file {str(path)!r} raises {one_line(error)}") from error
    if not hasattr(module, attribute):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise unknown_name(f"attribute in {path}", attribute, public)
    return getattr(module, attribute)
