"""How many student hosts a run takes, and how much of a machine each of them: from numbers alone.

What is chosen, and why:

- **Small students on the CPU** (`SMALL`; also those that do not say how large they are): one thread a host, and as many
  hosts as there are cores. A model of a million parameters gains nothing from a second thread, and one that runs alone
  on its core gives the same bits on every machine.
- **Larger students on the CPU**: one host with all cores. The base is in memory once, and every matrix product has all
  cores. Where `threads` are set, as many hosts as have room for so many, each with a base of its own.
- **On GPUs**: one host per GPU, since two models that compute at the same time take as long as one after the other.
  Small students leave a GPU mostly waiting for the next kernel, so several hosts share it, as many as there are cores
  to feed it and as memory allows. A host there has one thread: its work is to start kernels.
- **Students that a vLLM server answers for**: one host per GPU or machine, however small they are, since each host
  starts a server of its own.
- **Students at a time per host**: two where teachers compute, so that one learns while the other's teacher works; eight
  where teachers wait for a language model, which takes longer. Fewer where memory does not suffice.

What a user sets wins. What cannot be is said at once: Ray would wait for it for ever.

The sizes of what is not the base are estimates from what was measured: hosts of the students that ship took 850 MB,
with four of their bases, and an episode's process 325 MB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from dgym.errors import UsageError

SMALL: Final = 50_000_000
"""Largest base of a small student, in bytes. Those that ship take 5 MB."""

COMPUTING: Final = 2
"""Students at a time per host where all teachers compute."""

WAITING: Final = 8
"""Students at a time per host where a teacher waits for a language model."""

PROCESS: Final = 900_000_000
"""Main memory of a host without a base, in bytes: libraries, and the workspaces of a small training."""

EPISODE: Final = 350_000_000
"""Main memory of an episode's own process, in bytes."""

CONTEXT: Final = 1_000_000_000
"""GPU memory of a host without a base, in bytes: what CUDA and its libraries take, and a small training."""

SHARING: Final = 8
"""Most hosts on one GPU: more only take turns."""

USABLE: Final = 0.9
"""Part of the memory that is planned with."""


@dataclass(frozen=True)
class Machine:
    """What one machine has.

    Attributes:
        cores: CPU cores that may be used.
        memory: Main memory, in bytes; `None` if unknown.
        gpus: GPUs.
        gpu_memory: Memory of the smallest GPU, in bytes; `None` if unknown.
    """

    cores: int
    memory: int | None = None
    gpus: int = 0
    gpu_memory: int | None = None


@dataclass(frozen=True)
class Need:
    """What the students of a run need.

    Attributes:
        base: Memory of the largest base, in bytes; `None` if unknown.
        tenant: Memory beside the base that every student keeps where the base lies, in bytes.
        parked: Main memory that every student keeps while others have their turn, in bytes.
        training: Memory where the base lies that the one whose turn it is takes, in bytes.
        waits: Whether a teacher waits for a language model.
        accelerator: Whether they live on a GPU.
        served: Whether a vLLM server of each host answers for them.
    """

    base: int | None = None
    tenant: int = 0
    parked: int = 0
    training: int = 0
    waits: bool = False
    accelerator: bool = False
    served: bool = False

    @property
    def shares(self) -> bool:
        """Whether several hosts may share a GPU."""
        return is_small(self.base) and not self.served


@dataclass(frozen=True)
class Wishes:
    """What the user sets; `None` leaves it to the plan.

    Attributes:
        hosts: Student hosts, on all machines together.
        threads: CPU threads of a host.
        per_host: Students at a time per host.
        gpus_per_host: GPUs of a host: a part of one, or whole ones.
    """

    hosts: int | None = None
    threads: int | None = None
    per_host: int | None = None
    gpus_per_host: float | None = None

    def check(self) -> None:
        """Checks what can be checked without knowing the machines.

        Raises:
            UsageError: If the GPUs per host are no number that Ray can count.
        """
        gpus = self.gpus_per_host
        if gpus is None:
            return
        if gpus <= 0 or (gpus > 1 and gpus != round(gpus)):
            raise UsageError(f"A host has a part of a GPU or whole ones, not {gpus:g}.")
        if gpus < 0.0001:
            raise UsageError(f"A part of {gpus:g} of a GPU is too small to be counted.")


@dataclass(frozen=True)
class Plan:
    """How a run uses the machines.

    Attributes:
        hosts: Student hosts.
        threads: CPU threads of each.
        gpus: GPUs of each: a part of one, or whole ones; 0 on the CPU.
        tenants: Students at a time on each.
    """

    hosts: int
    threads: int
    gpus: float
    tenants: int


def is_small(base: int | None) -> bool:
    """Whether a base of so many bytes is a small student's; what does not say how large it is is not taken for one."""
    return base is not None and base <= SMALL


def default_threads(base: int | None, cores: int, accelerator: bool) -> int:
    """Returns the CPU threads of a host where none are set; see the module.

    Args:
        base: Memory of the base, in bytes; `None` if unknown.
        cores: Of the machine.
        accelerator: Whether the students live on a GPU.
    """
    return 1 if accelerator or base is None or is_small(base) else max(1, cores)


def need(base: int | None, item: int, rank: int | None, *, accelerator: bool = False, served: bool = False) -> Need:
    """Estimates what a student needs beside its base.

    A LoRA adapter has `rank` numbers for each row and each column of each matrix. A model of n weights in square
    matrices of width w has 2·rank·n/w of them, and its width is at least the cube root of n: models are deeper than
    they would have to be for the width to be less. They are float32, and training adds a gradient and two moments to
    each. Activations are taken to be as large as the base; where they are larger, training halves its micro-batches.

    Args:
        base: Memory of the base, in bytes; `None` if unknown.
        item: Bytes of one of its weights.
        rank: LoRA rank; `None` where all weights are trained.
        accelerator: See `Need`.
        served: See `Need`. The server holds the base once more.
    """
    if base is None:
        return Need(accelerator=accelerator, served=served)
    again = base if served else 0
    if rank is None:
        return Need(base, base, 0, base + 3 * base + again, False, accelerator, served)
    adapter = min(base, round(4 * 2 * rank * (base / item) ** (2 / 3)))
    return Need(base, 0, adapter, base + 4 * adapter + again, False, accelerator, served)


def largest(needs: Sequence[Need], *, waits: bool = False) -> Need:
    """Returns what suffices for each of some needs; a base of unknown size hides none that is known.

    Args:
        needs: At least one.
        waits: Whether a teacher waits for a language model.
    """
    return Need(
        base=max((n.base for n in needs if n.base is not None), default=None),
        tenant=max(n.tenant for n in needs),
        parked=max(n.parked for n in needs),
        training=max(n.training for n in needs),
        waits=waits or any(n.waits for n in needs),
        accelerator=any(n.accelerator for n in needs),
        served=any(n.served for n in needs),
    )


def plan(machines: Sequence[Machine], need: Need, wishes: Wishes = Wishes(), *, grows: bool = False) -> Plan:
    """Plans hosts for a run; see the module.

    Args:
        machines: Those that there are, at least one.
        need: What the students need.
        wishes: What the user sets.
        grows: Whether machines may come that are not there yet, as on a cluster that follows its queue. What does not
            fit now may then be asked for all the same.

    Raises:
        UsageError: If what is wished for, or the students themselves, cannot be had from these machines.
    """
    if not machines:
        raise ValueError("A plan needs a machine.")
    wishes.check()
    return (_on_gpus if need.accelerator else _on_cpu)(machines, need, wishes, grows)


def _on_cpu(machines: Sequence[Machine], need: Need, wishes: Wishes, grows: bool) -> Plan:
    if wishes.gpus_per_host is not None:
        raise UsageError('GPUs per host were asked for, but the students are on the CPU: set device = "cuda".')
    threads = [wishes.threads or default_threads(need.base, m.cores, False) for m in machines]
    # Where hosts may be of different sizes, each is as large as fits the smallest machine.
    fewest = min(threads)
    one = PROCESS + (need.base or 0)
    room = []
    for machine in machines:
        by_cores = 1 if need.served else max(1, machine.cores // fewest)
        by_memory = _fitting(machine.memory, one + need.training + need.tenant + need.parked)
        if need.base is None or _fitting(machine.memory, need.base, part=1.0):
            by_memory = max(1, by_memory)  # perhaps tight, but its training can make do with small micro-batches
        room.append(min(by_cores, by_memory))
    if not any(room) and not grows:
        raise UsageError(
            f"The student's weights alone take {_size(need.base or 0)}, and the largest machine has "
            f"{_size(max(m.memory or 0 for m in machines))} of memory: choose a smaller student or a lower precision."
        )
    hosts = wishes.hosts or max(1, sum(room))
    if wishes.hosts and need.base is not None and not grows:
        most = sum(_fitting(m.memory, need.base, part=1.0) for m in machines)
        if hosts > most:
            raise UsageError(
                f"{hosts} hosts hold {hosts} bases of {_size(need.base)} each; there is memory for {most:.0f}: ask for "
                "fewer --hosts."
            )
    each = EPISODE + need.tenant + need.parked
    tenants = [
        _tenants(m.memory, math.ceil(hosts * part / sum(room)), one + need.training, each)
        for m, part in zip(machines, room, strict=True)
        if part
    ]
    return Plan(hosts, fewest, 0.0, wishes.per_host or _at_a_time(need, tenants))


def _on_gpus(machines: Sequence[Machine], need: Need, wishes: Wishes, grows: bool) -> Plan:
    threads = wishes.threads or 1
    having = [m for m in machines if m.gpus]
    if not having:
        if not grows:
            raise UsageError('The students are to live on a GPU, but none was found: set device = "cpu".')
        # A machine with a GPU will come for what waits for one.
        return Plan(wishes.hosts or 1, threads, wishes.gpus_per_host or 1.0, wishes.per_host or _at_a_time(need, []))
    gpus = sum(m.gpus for m in having)
    share = wishes.gpus_per_host or 1 / _on_one_gpu(having, need, wishes, gpus)
    most = sum(m.gpus * math.floor(1 / share + 1e-6) if share <= 1 else m.gpus // round(share) for m in having)
    if not most and not grows:
        raise UsageError(f"No machine has the {share:g} GPUs that one host was to have: ask for fewer --gpus-per-host.")
    hosts = wishes.hosts or max(1, most)
    if hosts > most and not grows:
        raise UsageError(
            f"{hosts} hosts with {share:g} GPUs each do not fit {gpus} GPU{'s' if gpus > 1 else ''}: ask for fewer "
            "--hosts or --gpus-per-host."
        )
    sharing = max(1, math.floor(1 / share + 1e-6)) if share <= 1 else 1
    tenants = []
    for machine in having:
        memory = machine.gpu_memory
        if memory is not None and share > 1:
            memory *= round(share)
        if need.base is not None and _fitting(memory, sharing * need.base, part=1.0) == 0 and not grows:
            raise UsageError(
                f"{sharing} base{'s' if sharing > 1 else ''} of {_size(need.base)} each will not fit a GPU of "
                f"{_size(memory or 0)}: choose a smaller student or a lower precision"
                + (", or ask for fewer hosts on it." if sharing > 1 else ".")
            )
        tenants.append(_tenants(memory, sharing, CONTEXT + (need.base or 0) + need.training, need.tenant))
        tenants.append(_tenants(machine.memory, math.ceil(hosts * machine.gpus / gpus), PROCESS, EPISODE + need.parked))
    # Rounded down: so many parts as were planned must not be more than the whole.
    share = share if share > 1 else math.floor(share * 10_000 + 1e-6) / 10_000
    return Plan(hosts, threads, share, wishes.per_host or _at_a_time(need, tenants))


def _on_one_gpu(machines: Sequence[Machine], need: Need, wishes: Wishes, gpus: int) -> int:
    """Returns how many hosts share a GPU where nothing says how large their parts are."""
    if wishes.hosts:
        return max(1, math.ceil(wishes.hosts / gpus))
    if not need.shares:
        return 1
    by_cores = min(m.cores // m.gpus for m in machines)
    one = CONTEXT + (need.base or 0) + need.training + need.tenant
    by_memory = min(_fitting(m.gpu_memory, one) for m in machines)
    by_main_memory = min(_fitting(m.memory, PROCESS + EPISODE + need.parked) // m.gpus for m in machines)
    return int(max(1, min(SHARING, by_cores, by_memory, by_main_memory)))


def _at_a_time(need: Need, fitting: Sequence[int]) -> int:
    return max(1, min([WAITING if need.waits else COMPUTING, *fitting]))


def _fitting(memory: int | None, each: int, part: float = USABLE) -> int:
    """Returns how many pieces fit a memory; of unknown memory it is taken that all do."""
    return _MANY if memory is None or each <= 0 else int(memory * part) // each


def _tenants(memory: int | None, hosts: int, host: int, tenant: int) -> int:
    """Returns how many students fit each of some hosts on one memory."""
    if memory is None or tenant <= 0 or hosts <= 0:
        return _MANY
    return max(0, int(memory * USABLE) - hosts * host) // (hosts * tenant)


_MANY: Final = 1_000_000


def _size(count: int) -> str:
    """Renders bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def without_gpus(machines: Sequence[Machine], count: int) -> list[Machine]:
    """Returns machines with fewer GPUs, taken from those with the most; one always stays, to be waited for."""
    out = list(machines)
    for _ in range(min(count, sum(m.gpus for m in out) - 1)):
        index = max(range(len(out)), key=lambda i: out[i].gpus)
        out[index] = replace(out[index], gpus=out[index].gpus - 1)
    return out
