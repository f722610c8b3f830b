"""What a run needs of a cluster: its episodes in parts that are alike, and the machines that there are."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dgym.bench import Job, student_config
from dgym.errors import DgymError
from dgym.specs import Identity
from dgym.students.host import StudentConfig, need_of
from dgym.students.machine import this_machine
from dgym.students.sizing import Machine, Need, is_small, largest

_Kind = tuple[str, str, bool, int]


def parts(job: Job) -> list[tuple[Job, Need, int]]:
    """Cuts a run into parts whose students want hosts of the same kind, with what those need and their threads.

    The parts are run one after the other. Hosts of several kinds beside each other would want the same cores: one with
    all of them, and as many again with one each. Within a part, the episodes of one large base come before those of the
    next, so that hosts seldom load another.
    """
    found: dict[_Kind, Job] = {}
    needs: dict[_Kind, list[Need]] = {}
    known: dict[StudentConfig, Need] = {}
    for identity in job.episodes:
        config = student_config(identity)
        if config not in known:
            known[config] = _need(config)
        need = known[config]
        # A base that does not say how large it is has one thread too, and on a GPU one for itself, as a large one.
        large = need.accelerator and not is_small(need.base)
        kind = (config.device.partition(":")[0], config.engine, large, config.threads)
        part = found.get(kind, replace(job, episodes=[]))
        found[kind] = replace(part, episodes=[*part.episodes, identity])
        needs.setdefault(kind, []).append(need)
    for kind, part in found.items():
        if not is_small(largest(needs[kind], waits=False).base):
            bases = {base: place for place, base in reversed([*enumerate(map(_base, part.episodes))])}
            found[kind] = replace(part, episodes=sorted(part.episodes, key=lambda i: bases[_base(i)]))
    waits = {kind: any(i.waits for i in part.episodes) for kind, part in found.items()}
    return [(part, largest(needs[kind], waits=waits[kind]), kind[-1]) for kind, part in found.items()]


def _base(identity: Identity) -> tuple[str, str, str]:
    config = student_config(identity)
    return config.family, config.variant, config.precision


def _need(config: StudentConfig) -> Need:
    try:
        return need_of(config)
    except DgymError:
        # What is wrong with it will be seen, and stored with its episodes, when it is opened.
        return Need(accelerator=config.device != "cpu", served=config.engine == "vllm")


def machines(here: bool, need: Need) -> list[Machine]:
    """Returns the machines of the cluster that Ray is connected to.

    Args:
        here: Whether it is this machine alone, whatever Ray counts.
        need: What decides how closely to look. Where the memory matters, each machine of a cluster is looked at, which
            takes a second or two; else what Ray knows of them is enough.
    """
    told = {node["NodeID"]: _told(node["Resources"]) for node in ray.nodes() if node["Alive"]}
    if here:
        found = this_machine(gpus_too=need.accelerator)
        return [replace(found, gpus=sum(machine.gpus for machine in told.values()))]
    if need.accelerator or (need.base is not None and not is_small(need.base)):
        look = ray.remote(this_machine)
        there = {node: NodeAffinitySchedulingStrategy(node, soft=False) for node in told}
        asked = {node: look.options(num_cpus=0, scheduling_strategy=there[node]).remote() for node in told}
        for node, ref in asked.items():
            with contextlib.suppress(ray.exceptions.RayError):  # it went meanwhile, or has no time to answer
                seen: Machine = ray.get(ref, timeout=60)
                # How many cores and GPUs it gives is the cluster's decision.
                told[node] = replace(told[node], memory=seen.memory, gpu_memory=seen.gpu_memory)
    # A head that gives no cores is there to keep order.
    return [m for m in told.values() if m.cores or m.gpus] or list(told.values())


def _told(resources: Mapping[str, float]) -> Machine:
    return Machine(int(resources.get("CPU", 0)), None, int(resources.get("GPU", 0)))
