"""Hosts: one object per device (or CPU share) that keeps bases loaded and serves many students.

`StudentHost` is a plain class; the cluster makes an actor of it from outside. `HostedStudent` is what an episode
holds: a `Student` whose work is done by a host, here or elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dgym import registry
from dgym.core import Base, Example, Problem, Student, StudentFamily
from dgym.errors import StudentError, unknown_name
from dgym.models.recipe import Recipe


@dataclass(frozen=True)
class StudentConfig:
    """Which student to open.

    Attributes:
        family: Registered name of the student.
        variant: Which of its variants.
        recipe: How it is trained.
        device: Where it lives.
        precision: In what it computes.
        threads: CPU threads of the host.
    """

    family: str
    variant: str
    recipe: Recipe
    device: str = "cpu"
    precision: str = "float32"
    threads: int = 1


def find_student(name: str, seed: int) -> tuple[str, StudentFamily, str]:
    """Resolves `family`, which draws a variant by seed, or `family:variant`; a family may be `file.py:Attr`.

    Returns:
        The family's registered name, the family, and the variant.

    Raises:
        UsageError: If there is no such family or variant.
    """
    file, dot, rest = name.rpartition(".py:")
    attribute, _, variant = rest.partition(":")
    family_name = f"{file}{dot}{attribute}"
    family: StudentFamily = registry.load("student", family_name)()
    if variant and variant not in family.variants:
        raise unknown_name(f"variant of {family_name}", variant, family.variants)
    return family_name, family, variant or family.draw(seed)


@dataclass
class HostStats:
    """What a host did, for the report on how busy it was.

    Attributes:
        busy: Intervals of work as (start, end), in seconds of the wall clock.
        first_training: When the first training began; `None` before.
        last_training: When the last training ended.
        loads: How often a base was loaded.
        tenants: Students open just now.
    """

    busy: list[tuple[float, float]] = field(default_factory=list)
    first_training: float | None = None
    last_training: float | None = None
    loads: int = 0
    tenants: int = 0


class StudentHost:
    """Loads bases on demand, keeps those that fit, and holds tenants by lease.

    Args:
        keep_bytes: Memory for bases that nobody uses just now; the least recently used go first.
    """

    def __init__(self, keep_bytes: int = 4 * 2**30) -> None:
        self._keep = keep_bytes
        self._bases: dict[tuple[str, ...], Base] = {}
        self._tenants: dict[str, tuple[Student, tuple[str, ...]]] = {}
        self._stats = HostStats()

    def open(self, lease: str, config: StudentConfig) -> None:
        """Opens a student under a lease; opening it again starts it anew."""
        self.close(lease)
        key = (config.family, config.variant, config.device, config.precision)
        base = self._bases.pop(key, None)
        if base is None:
            family = registry.load("student", config.family)()
            base = family.load(config.variant, config.device, config.precision, config.threads)
            self._stats.loads += 1
        self._bases[key] = base  # most recently used last
        self._tenants[lease] = (base.open(config.recipe, config.variant), key)
        self._shed()

    def train(self, lease: str, examples: Sequence[Example], seed: int, fresh: bool) -> dict[str, float]:
        """Trains a leased student; see `dgym.core.Student.train`."""
        start = time.time()
        if self._stats.first_training is None:
            self._stats.first_training = start
        try:
            return dict(self._tenant(lease).train(examples, seed=seed, fresh=fresh))
        finally:
            self._stats.last_training = time.time()
            self._stats.busy.append((start, time.time()))

    def answer(self, lease: str, problems: Sequence[Problem]) -> list[str]:
        """Asks a leased student; see `dgym.core.Student.answer`."""
        start = time.time()
        try:
            return self._tenant(lease).answer(problems)
        finally:
            self._stats.busy.append((start, time.time()))

    def save(self, lease: str, path: str) -> None:
        """Saves a leased student on the host's file system."""
        self._tenant(lease).save(path)

    def load(self, lease: str, path: str) -> None:
        """Restores a leased student from the host's file system."""
        self._tenant(lease).load(path)

    def close(self, lease: str) -> None:
        """Ends a lease; an unknown one is ignored, so that it can be ended twice."""
        tenant = self._tenants.pop(lease, None)
        if tenant is not None:
            tenant[0].close()

    def stats(self) -> HostStats:
        """Returns what was done so far."""
        self._stats.tenants = len(self._tenants)
        return self._stats

    def _tenant(self, lease: str) -> Student:
        if lease not in self._tenants:
            raise StudentError(f"The student lease {lease!r} is not open on this host.")
        return self._tenants[lease][0]

    def _shed(self) -> None:
        used = {key for _, key in self._tenants.values()}
        total = sum(base.bytes for base in self._bases.values())
        for key in list(self._bases):
            if total <= self._keep:
                return
            if key not in used:
                total -= self._bases.pop(key).bytes


class Call(Protocol):
    """Calls a host's method by name; in process a plain call, on Ray a remote one."""

    def __call__(self, method: str, *args: Any) -> Any:
        """Calls and waits for the result."""
        ...


class HostedStudent:
    """A `Student` whose work is done by a host under a lease.

    Args:
        call: Reaches the host.
        lease: Name of the lease, already open.
    """

    def __init__(self, call: Call, lease: str) -> None:
        self._call, self._lease = call, lease

    def train(self, examples: Sequence[Example], *, seed: int, fresh: bool) -> Mapping[str, float]:
        """See `dgym.core.Student.train`."""
        report: Mapping[str, float] = self._call("train", self._lease, list(examples), seed, fresh)
        return report

    def answer(self, problems: Sequence[Problem]) -> list[str]:
        """See `dgym.core.Student.answer`."""
        answers: list[str] = self._call("answer", self._lease, list(problems))
        return answers

    def save(self, path: str) -> None:
        """See `dgym.core.Student.save`."""
        self._call("save", self._lease, path)

    def load(self, path: str) -> None:
        """See `dgym.core.Student.load`."""
        self._call("load", self._lease, path)

    def close(self) -> None:
        """Ends the lease."""
        self._call("close", self._lease)


def local_student(host: StudentHost, config: StudentConfig, lease: str) -> HostedStudent:
    """Opens a student on a host in this process."""

    def call(method: str, *args: Any) -> Any:
        return getattr(host, method)(*args)

    host.open(lease, config)
    return HostedStudent(call, lease)
