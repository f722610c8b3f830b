"""Hosts: one object per device (or share of one) that keeps bases loaded and serves many students.

`StudentHost` is a plain class; the cluster makes an actor of it from outside. Threads may use it at the same time: its
students take turns at the device (see `dgym.students.turns`). `HostedStudent` is what an episode holds: a `Student`
whose work is done by a host, here or elsewhere.
"""

from __future__ import annotations

import gc
import io
import os
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from dgym import registry
from dgym.core import Base, Example, Problem, Student, StudentFamily
from dgym.errors import StudentError
from dgym.models.recipe import Recipe
from dgym.models.weights import ITEM_BYTES
from dgym.students.machine import cores
from dgym.students.names import find_student
from dgym.students.sizing import Need, default_threads, need
from dgym.students.turns import Turns, turns_of

SNAPSHOT_LIMIT: Final = 2**30
"""Largest snapshot that is kept after a training, in bytes; a larger student is trained again if its host dies."""

_FINDING = threading.Lock()
_LOADING = threading.Lock()


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
        engine: What answers for it: `"transformers"` or `"vllm"`.
        seeded_as: What training randomness takes for the variant's name; `None` for the name itself.
    """

    family: str
    variant: str
    recipe: Recipe
    device: str = "cpu"
    precision: str = "float32"
    threads: int = 1
    engine: str = "transformers"
    seeded_as: str | None = None


def configured(
    name: str,
    seed: int,
    recipe: Recipe,
    *,
    device: str = "cpu",
    precision: str = "auto",
    threads: int | None = None,
    engine: str = "transformers",
) -> StudentConfig:
    """Resolves a student's name, and what is left open of how it computes, without loading anything.

    Args:
        name: See `dgym.students.names`.
        seed: Draws a variant where the name has none.
        recipe: How it is trained.
        device: Where it lives.
        precision: In what it computes; `"auto"` is float32 on the CPU and bfloat16 on a CUDA device. It is part of an
            episode's identity and so must not depend on the machine that asks.
        threads: CPU threads; `None` for one with small students and on accelerators, else all cores of this machine.
        engine: What answers for it.

    Raises:
        UsageError: If there is no such student.
    """
    family_name, family, variant = find_student(name, seed)
    if precision == "auto":
        precision = "bfloat16" if device.startswith("cuda") else "float32"
    if threads is None:
        accelerator = device != "cpu"
        base = None if accelerator else base_bytes(family, variant, precision)
        threads = default_threads(base, cores(), accelerator)
    seeded_as = "" if is_place(family, variant) else None
    return StudentConfig(family_name, variant, recipe, device, precision, threads, engine, seeded_as)


def base_bytes(family: StudentFamily, variant: str, precision: str) -> int | None:
    """Returns the memory of a variant's weights, in bytes; `None` where the family has no method `bytes` to tell it."""
    tell = getattr(family, "bytes", None)
    return int(tell(variant, precision)) if callable(tell) else None


def is_place(family: StudentFamily, variant: str) -> bool:
    """Whether a variant is a folder or file on this machine; where it lies must move no score."""
    if getattr(family, "open", False) is not True:
        return False
    return variant.startswith(("/", ".", "~")) or Path(variant).expanduser().exists()


def need_of(config: StudentConfig) -> Need:
    """Estimates what a student needs of its host."""
    family = _family(config.family)
    recipe, item = config.recipe, ITEM_BYTES.get(config.precision, 4)
    return need(
        base_bytes(family, config.variant, config.precision),
        item,
        recipe.rank if recipe.method == "lora" else None,
        accelerator=config.device != "cpu",
        served=config.engine == "vllm",
    )


@dataclass
class HostStats:
    """What a host did, for the report on how busy it was.

    Attributes:
        busy: When its devices worked, as (start, end) in seconds of the wall clock, one after the other. Waiting for a
            turn and loading are not in it.
        first_training: When the first training began; `None` before.
        last_training: When the last training ended.
        loads: How often a base was loaded.
        tenants: Students open just now.
        asked: Answers that its students were asked for.
        answered: How many of them were computed; those that do not count them are left out of both.
        started: When the host was made.
        process: Its process's id.
        ended: When it was ended, before the run was; `None` if it was not.
    """

    busy: list[tuple[float, float]] = field(default_factory=list)
    first_training: float | None = None
    last_training: float | None = None
    loads: int = 0
    tenants: int = 0
    asked: int = 0
    answered: int = 0
    started: float = 0.0
    process: int = 0
    ended: float | None = None


@dataclass(frozen=True)
class HostNow:
    """What a host does just now, in few bytes: it is asked every few seconds.

    Attributes:
        tenants: Students that are open.
        opening: Students that are being opened, for which a base may have to be loaded.
        working: Calls that train, answer, or wait for their turn to.
        busy: Seconds for which its devices have worked so far.
        process: Its process's id.
    """

    tenants: int = 0
    opening: int = 0
    working: int = 0
    busy: float = 0.0
    process: int = 0


_Key = tuple[str, str, str, str, str]


@dataclass(eq=False)
class _Lease:
    config: StudentConfig
    base: Base | None = None
    student: Student | None = None

    @property
    def key(self) -> _Key:
        c = self.config
        return (c.family, c.variant, c.device, c.precision, c.engine)


class StudentHost:
    """Loads bases on demand, keeps those that fit, and holds tenants by lease.

    A base says with its attribute `turns` that its students take turns by themselves, or, with `None` there, that they
    need none. For the students of one without that attribute, the host takes a turn around every call, so that they
    never meet.

    Args:
        keep_bytes: Memory for bases that nobody uses just now; the least recently used go first.
    """

    def __init__(self, keep_bytes: int = 4 * 2**30) -> None:
        self._keep = keep_bytes
        self._bases: dict[_Key, Base] = {}
        self._leases: dict[str, _Lease] = {}
        self._turns: dict[str, Turns] = {}  # of the devices that were used
        self._stats = HostStats(started=time.time(), process=os.getpid())
        self._working = 0
        self._lock = threading.Lock()  # of the above; never held while something is waited for

    def open(self, lease: str, config: StudentConfig) -> None:
        """Opens a student under a lease; opening it again starts it anew.

        Raises:
            StudentError: If it cannot be opened, or if the lease was ended meanwhile.
        """
        self.close(lease)
        mine = _Lease(config)
        with self._lock:
            self._leases[lease] = mine  # from now on its base is in use
            self._turns.setdefault(config.device, turns_of(config.device))
        try:
            mine.base = self._base(lease, mine)
            variant = config.variant if config.seeded_as is None else config.seeded_as
            student = mine.base.open(config.recipe, variant)
        except BaseException:
            with self._lock:
                if self._leases.get(lease) is mine:
                    del self._leases[lease]
            raise
        with self._lock:
            current = self._leases.get(lease) is mine
            if current:
                mine.student = student
        if not current:
            student.close()
            raise StudentError(f"The student lease {lease!r} was ended while it was opened.")
        self._shed()

    def train(self, lease: str, examples: Sequence[Example], seed: int, fresh: bool) -> dict[str, float]:
        """Trains a leased student; see `dgym.core.Student.train`."""
        start = time.time()
        with self._lock:
            if self._stats.first_training is None:
                self._stats.first_training = start
        try:
            with self._at_work(lease) as student:
                return dict(student.train(examples, seed=seed, fresh=fresh))
        finally:
            with self._lock:
                self._stats.last_training = time.time()

    def train_and_keep(
        self, lease: str, examples: Sequence[Example], seed: int, fresh: bool
    ) -> tuple[dict[str, float], bytes]:
        """Trains a leased student and returns a snapshot of it beside the report; an empty one if none can be had."""
        report = self.train(lease, examples, seed, fresh)
        try:
            snapshot = self.snapshot(lease)
        except Exception:
            snapshot = b""  # the training itself went well; if need be, it is done again
        return report, snapshot if len(snapshot) <= SNAPSHOT_LIMIT else b""

    def answer(self, lease: str, problems: Sequence[Problem]) -> list[str]:
        """Asks a leased student; see `dgym.core.Student.answer`."""
        with self._at_work(lease) as student:
            return student.answer(problems)

    def snapshot(self, lease: str) -> bytes:
        """Returns what a leased student has learned, for `restore`."""
        with self._at_work(lease) as student:
            take = getattr(student, "snapshot", None)
            if take is not None:
                taken: bytes = take()
                return taken
            with tempfile.TemporaryDirectory(prefix="dgym-student-") as folder:
                student.save(folder)
                return _packed(Path(folder))

    def restore(self, lease: str, snapshot: bytes) -> None:
        """Brings a leased student to what `snapshot` gave, on this host or another.

        Raises:
            StudentError: If the snapshot is unusable.
        """
        with self._at_work(lease) as student:
            take = getattr(student, "restore", None)
            if take is not None:
                take(snapshot)
                return
            with tempfile.TemporaryDirectory(prefix="dgym-student-") as folder:
                _unpack(snapshot, Path(folder))
                student.load(folder)

    def save(self, lease: str, path: str) -> None:
        """Saves a leased student on the host's file system."""
        with self._at_work(lease) as student:
            student.save(path)

    def load(self, lease: str, path: str) -> None:
        """Restores a leased student from the host's file system."""
        with self._at_work(lease) as student:
            student.load(path)

    def close(self, lease: str) -> None:
        """Ends a lease; an unknown one is ignored, so that it can be ended twice."""
        with self._lock:
            ended = self._leases.pop(lease, None)
            student = ended.student if ended is not None else None
        if ended is not None and student is not None:
            with self._turn(lease, ended):
                student.close()
            with self._lock:
                asked, answered = _counts(student)
                self._stats.asked += asked
                self._stats.answered += answered
            if not hasattr(ended.base, "turns"):
                turns_of(ended.config.device).forget(lease)

    def stats(self) -> HostStats:
        """Returns what was done so far."""
        with self._lock:
            turns, started = list(self._turns.values()), self._stats.started
            out = HostStats(**vars(self._stats))
            students = [entry.student for entry in self._leases.values() if entry.student is not None]
            out.tenants = len(students)
            for student in students:
                asked, answered = _counts(student)
                out.asked += asked
                out.answered += answered
        out.busy = union([(max(a, started), b) for t in turns for a, b in t.busy() if b > started])
        return out

    def now(self) -> HostNow:
        """Returns what it does just now."""
        stats = self.stats()
        with self._lock:
            opening = sum(entry.student is None for entry in self._leases.values())
            working = self._working
        return HostNow(stats.tenants, opening, working, sum(b - a for a, b in stats.busy), stats.process)

    @contextmanager
    def _at_work(self, lease: str) -> Iterator[Student]:
        with self._lock:
            entry = self._leases.get(lease)
            student = entry.student if entry is not None else None
        if entry is None or student is None:
            raise StudentError(f"The student lease {lease!r} is not open on this host.")
        _set_threads(entry.config.threads)
        with self._lock:
            self._working += 1
        try:
            with self._turn(lease, entry):
                yield student
        finally:
            with self._lock:
                self._working -= 1

    @contextmanager
    def _turn(self, lease: str, entry: _Lease) -> Iterator[None]:
        if hasattr(entry.base, "turns"):
            yield
            return
        with turns_of(entry.config.device).alone(lease):
            yield

    def _base(self, lease: str, entry: _Lease) -> Base:
        """Returns a lease's base, which is loaded once, however many ask for it at the same time."""
        base = self._loaded(entry.key)
        if base is not None:
            return base
        with _LOADING:
            base = self._loaded(entry.key)
            if base is not None:
                return base
            config = entry.config
            family = _family(config.family)
            self._shed(base_bytes(family, config.variant, config.precision) or 0)
            # Transformers builds models under settings of the whole process, such as torch's default precision, which a
            # student that is trained meanwhile would have too.
            with turns_of(config.device).alone(f"load {lease}", counted=False):
                base = family.load(config.variant, config.device, config.precision, config.threads)
                if config.engine == "vllm":
                    _serve(base, config.family)
            turns_of(config.device).forget(f"load {lease}")
            with self._lock:
                self._stats.loads += 1
                self._bases[entry.key] = base
            return base

    def _loaded(self, key: _Key) -> Base | None:
        with self._lock:
            base = self._bases.pop(key, None)
            if base is not None:
                self._bases[key] = base  # most recently used last
            return base

    def _shed(self, coming: int = 0) -> None:
        """Gives up bases that nobody uses, as far as they and `coming` bytes are more than is kept."""
        dropped: list[Base] = []
        with self._lock:
            used = {entry.key for entry in self._leases.values()}
            total = coming + sum(base.bytes for base in self._bases.values())
            for key in list(self._bases):
                if total > self._keep and key not in used:
                    dropped.append(self._bases.pop(key))
                    total -= dropped[-1].bytes
        if not dropped:
            return
        while dropped:
            end = getattr(dropped.pop(), "close", None)
            if end is not None:
                end()
        del end
        gc.collect()  # models refer to themselves


def _counts(student: Student) -> tuple[int, int]:
    return getattr(student, "asked", 0), getattr(student, "answered", 0)


def union(intervals: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Joins intervals that overlap or touch; what is returned is in order."""
    out: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


def _family(name: str) -> StudentFamily:
    with _FINDING:  # a file that another thread has begun to import would look as if it lacked what it defines
        family: StudentFamily = registry.load("student", name)()
        return family


def _serve(base: Base, family: str) -> None:
    use = getattr(base, "use_vllm", None)
    if use is None:
        raise StudentError(f'vLLM cannot answer for {family!r}: set engine = "transformers".')
    use()


def _set_threads(count: int) -> None:
    """Sets the threads of torch, if it is in use: another base of the process may have been loaded with others."""
    if "torch" not in sys.modules:
        return
    import torch  # which waits, where another thread imports it just now: what is in sys.modules may be half of it

    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def _packed(folder: Path) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, file.relative_to(folder))
    return out.getvalue()


def _unpack(data: bytes, folder: Path) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            archive.extractall(folder)
    except zipfile.BadZipFile as error:
        raise StudentError(f"No student can be restored from these {len(data)} bytes: {error}") from error


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
