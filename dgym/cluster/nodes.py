"""Whether the machines of a cluster run what the driver runs and see its results folder, before anything is run there.

Machines that join later are looked at when they do, and a host that starts on one looks for itself (`same_versions`).
Every row of `episodes` says with which versions it was made.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Collection, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import dgym
from dgym.errors import InfrastructureError, UsageError, one_line
from dgym.results.place import Place

_LIBRARIES: Final = ("ray", "torch", "transformers", "peft", "numpy")
"""Beside Python and dgym itself, what can move a score or must be equal for processes to talk to each other."""

_PATIENCE: Final = 60.0
"""Seconds in which a machine must answer; one that is busy or just went is not waited for longer."""

_GONE: Final = (
    ray.exceptions.GetTimeoutError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.TaskUnschedulableError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.OutOfMemoryError,
)


def check_nodes(
    folder: str | PathLike[str], here: Mapping[str, str] | None = None, only: Collection[str] | None = None
) -> None:
    """Compares every machine of the cluster that Ray is connected to with this one.

    Args:
        folder: The run's folder or URL, which exists and which all of them must see.
        here: What `versions` gives; that of this process by default.
        only: Ids of the machines to look at; all by default.

    Raises:
        UsageError: If versions differ, or if a machine does not see the folder; the message says which and what.
        InfrastructureError: If the folder cannot be written from here.
    """
    here = versions() if here is None else here
    place = Place.of(folder)
    mark, word = f".driver-{uuid4().hex}", uuid4().hex
    place.write(word, mark)
    try:
        look = ray.remote(_look)
        asked = []
        for node in ray.nodes():
            if node["Alive"] and (only is None or node["NodeID"] in only):
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                task = look.options(num_cpus=0, max_retries=0, scheduling_strategy=there)
                asked.append((node["NodeManagerAddress"], task.remote(place.absolute(), mark, word)))
        found = [(address, _answer(ref, here)) for address, ref in asked]
    finally:
        place.remove(mark)
    answers = [(address, *answer) for address, answer in found if answer is not None]
    unequal = [f"{address} has {differences(here, seen)}" for address, seen, _ in answers if differences(here, seen)]
    blind = [f"{address} ({why})" for address, _, why in answers if why]
    wrong = []
    if unequal:
        wrong.append(
            f"Not every machine of the cluster runs what this one runs: {'; '.join(unequal)}. Install the same on all "
            "of them, or submit the run as a Ray job with a runtime environment."
        )
    if blind:
        wrong.append(
            f"The results folder {place.name!r} is not seen on every machine of the cluster: {', '.join(blind)}. Name "
            "one on shared storage, or a URL such as s3://bucket/run, with --out."
        )
    if wrong:
        raise UsageError(" ".join(wrong))


def check_place(folder: str | PathLike[str]) -> None:
    """Checks that a results folder is of a kind that several processes can share.

    Raises:
        UsageError: If it lies in the memory of one.
    """
    if Place.of(folder).name.startswith("memory://"):
        raise UsageError("memory:// is seen by one process alone: name another results folder, or use --backend local.")


def same_versions(driver: Mapping[str, str]) -> None:
    """Compares this process with the driver.

    Args:
        driver: What `versions` gave there.

    Raises:
        InfrastructureError: If it runs something else.
    """
    unequal = differences(driver, versions())
    if unequal:
        raise InfrastructureError(
            f"The machine {platform.node()} does not run what the driver did when the run began: it has {unequal}. It "
            "joined since, or its code was changed: install the same there, or take it out of the cluster."
        )


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """Says in which versions a machine differs from this one; empty if in none."""
    parts = [
        f"{name} {there.get(name, 'not installed')} (here {here.get(name, 'not installed')})"
        for name in dict.fromkeys([*here, *there])
        if here.get(name) != there.get(name)
    ]
    return ", ".join(parts)


@cache
def versions() -> Mapping[str, str]:
    """Returns what this process runs: Python, dgym with a digest of its code, and libraries, by name.

    Builds of one version for different hardware (`2.13.0+cpu`) count as equal: a head without GPU has another than the
    workers.
    """
    found = {"python": ".".join(platform.python_version_tuple()[:2]), "dgym": f"{dgym.__version__} ({_code()})"}
    for library in _LIBRARIES:
        try:
            found[library] = version(library).partition("+")[0]
        except PackageNotFoundError:
            continue
    return found


def _code() -> str:
    # The version alone says little between releases, where a cluster may have an older checkout.
    top = Path(dgym.__file__).parent
    code = hashlib.sha256()
    for path in sorted(top.rglob("*.py")):
        code.update(path.relative_to(top).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"code {code.hexdigest()[:8]}"


def _look(folder: str, mark: str, word: str) -> tuple[Mapping[str, str], str]:
    """Runs on a machine: its versions, and why it does not see or cannot write the folder."""
    try:
        place = Place.of(folder)
        if place.read(mark) != word.encode():
            return versions(), "it has another file there"
        place.make()
    except Exception as error:  # every fsspec file system raises errors of its own
        return versions(), one_line(error).rstrip(".")
    return versions(), ""


def _answer(ref: Any, here: Mapping[str, str]) -> tuple[Mapping[str, str], str] | None:
    try:
        answer: tuple[Mapping[str, str], str] = ray.get(ref, timeout=_PATIENCE)
    except _GONE:
        return None
    except ray.exceptions.RayError as error:
        # A dgym that lacks this module, or none at all.
        reason = one_line(getattr(error, "cause", None) or error)[:200]
        return {**here, "dgym": f"none that can be run: {reason}"}, ""
    return answer
