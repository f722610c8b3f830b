"""What this machine has for dgym, what is wrong with it, and what to do about that: records only, shown elsewhere.

Nothing is changed, installed or fetched. The sandbox is tried with a small program; the network is used for the
endpoints and the Ray cluster that the environment or the caller names, and for nothing else. What is secret is never
in a finding: values of the environment that look like keys are struck out of every text.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, requires, version
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import psutil
from packaging.requirements import InvalidRequirement, Requirement

from dgym.cache import cache_folder
from dgym.errors import SET_TOKEN, DgymError, one_line

Level = Literal["green", "yellow", "red"]

SHOWN: Final = ("dgym", "ray", "torch", "transformers", "peft", "vllm", "pyarrow", "pandas")
"""Packages whose versions are told where they are as they should be; of the others, only those that are not."""

PATIENCE: Final = 5.0
"""Seconds for an endpoint to answer."""

RAY_PATIENCE: Final = 15.0
"""Seconds for a cluster to answer; importing Ray is in them."""

_GIB: Final = 2**30
_SCARCE: Final = {"memory": (1 * _GIB, 4 * _GIB), "disk": (1 * _GIB, 10 * _GIB)}
"""Below the first number of free bytes it is red, below the second yellow: a Ray of one host takes more than 1 GiB, a
student of 2B parameters and its data sets some GB of disk."""

_SECRET: Final = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        area: What was looked at.
        level: `"green"`: as it should be; `"yellow"`: something is not possible, or not safe; `"red"`: broken.
        found: What is there.
        advice: What to do about it; empty where it is green.
    """

    area: str
    level: Level
    found: str
    advice: str = ""


def examine(address: str | None = None) -> list[Finding]:
    """Looks at everything; takes some seconds.

    Args:
        address: Of a Ray cluster, `"auto"` for the one that Ray finds; `$RAY_ADDRESS` by default, and without that no
            cluster is looked for.
    """
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "versions": versions,
        "cpu": cpu,
        "memory": memory,
        "gpu": gpu,
        "disk": disk,
        "sandbox": sandbox,
        "ray": lambda: ray_cluster(address or os.environ.get("RAY_ADDRESS") or None),
        "endpoints": endpoints,
        "data sets": data_sets,
        "models": models,
    }
    waits = ("gpu", "ray", "endpoints")  # for other processes; the rest computes
    with ThreadPoolExecutor(len(waits)) as pool:
        asked = {area: pool.submit(_findings, area, checks[area]) for area in waits}
        done = {area: _findings(area, check) for area, check in checks.items() if area not in waits}
        found = [f for area in checks for f in (asked[area].result() if area in asked else done[area])]
    return [replace(f, found=without_secrets(f.found), advice=without_secrets(f.advice)) for f in found]


def healthy(findings: Sequence[Finding]) -> bool:
    """Whether nothing is red."""
    return all(finding.level != "red" for finding in findings)


def _findings(area: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(check())
    except Exception as error:  # the other areas are looked at all the same
        return [Finding(area, "red", f"it could not be looked at: {one_line(error)}", "Mend what the message names.")]


def without_secrets(text: str) -> str:
    """Strikes values of the environment that look like keys out of a text, and passwords out of its URLs."""
    text = re.sub(r"(\w://)[^/\s@]*@", r"\1…@", text)
    secrets = {value.strip() for name, value in os.environ.items() if _SECRET.search(name) and len(value.strip()) > 5}
    # A path or an address says where a secret is, and is none.
    for secret in sorted((s for s in secrets if "/" not in s), key=len, reverse=True):
        text = text.replace(secret, "…")
    return text


def versions() -> Iterator[Finding]:
    """Compares installed packages with the ranges that dgym declares."""
    installed = dict[str, str]()
    wrong = list[Finding]()
    for line in ["dgym", *(requires("dgym") or [])]:
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            continue
        extra = re.search(r"extra\s*==\s*['\"](\w+)['\"]", line)
        if extra is None and wanted.marker is not None and not wanted.marker.evaluate():
            continue
        try:
            there = version(wanted.name)
        except PackageNotFoundError:
            if extra is None:
                wrong.append(Finding("versions", "red", f"{wanted.name} is not installed", _install(wanted)))
            continue
        installed[wanted.name] = there
        if not wanted.specifier.contains(there, prereleases=True):
            mend = _install(wanted)
            level: Level = "red" if extra is None or wanted.name in SHOWN else "yellow"
            wrong.append(Finding("versions", level, f"{wanted.name} {there} is not {wanted.specifier}", mend))
    told = ", ".join(f"{name} {installed[name]}" for name in SHOWN if name in installed)
    yield Finding("versions", "green", f"Python {platform.python_version()}, {told}")
    yield from dict.fromkeys(wrong)


def _install(wanted: Requirement) -> str:
    return f'pip install "{wanted.name}{wanted.specifier}".'


def cpu() -> Iterator[Finding]:
    """Counts the CPU cores that may be used."""
    from dgym.students.machine import cores

    mine, all_of_them = cores(), os.cpu_count() or 1
    rest = f" of {all_of_them}, by affinity or container" if mine < all_of_them else ""
    if mine > 1:
        yield Finding("cpu", "green", f"{mine} cores{rest}")
    else:
        yield Finding(
            "cpu", "yellow", f"1 core{rest}", "One student host fits: expect the smallest suites to take long."
        )


def memory() -> Iterator[Finding]:
    """Looks at main memory: what this process may use, and what of it is free."""
    from dgym.students.machine import memory as limit

    machine = psutil.virtual_memory()
    total = min(limit() or machine.total, machine.total)
    free = min(total, machine.available)
    yield _scarce(
        "memory",
        free,
        f"{_size(total)}, {_size(free)} free",
        "End what else runs here, or run with fewer --hosts and --per-host.",
    )


def gpu() -> Iterator[Finding]:
    """Counts the GPUs that are visible, and looks whether the installed torch can use them."""
    from dgym.students.machine import this_machine

    machine = this_machine()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not machine.gpus:
        hidden = visible is not None and shutil.which("nvidia-smi")
        found = f"none: $CUDA_VISIBLE_DEVICES is {visible!r}" if hidden else "none"
        advice = (
            "Unset CUDA_VISIBLE_DEVICES to use them." if hidden else "Suites of small students need none; others do."
        )
        yield Finding("gpu", "yellow", found, advice)
        return
    size = f", {_size(machine.gpu_memory)} each at least" if machine.gpu_memory else ""
    found = f"{machine.gpus}{size}"
    build = version("torch").partition("+")[2]
    if build == "cpu":
        advice = "Install a build of torch for CUDA: https://pytorch.org/get-started/locally."
        yield Finding("gpu", "red", f"{found}, but the installed torch is built for the CPU only", advice)
        return
    yield Finding("gpu", "green", found)


def disk() -> Iterator[Finding]:
    """Looks at the space for what is fetched and for results."""
    for what, folder, move in (
        ("cache", cache_folder(), "set $DGYM_CACHE to a folder on another disk"),
        ("results here", Path.cwd(), "name another folder with --out"),
    ):
        there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        if not os.access(there, os.W_OK):
            yield Finding("disk", "red", f"{what}: {folder} cannot be written", f"Change its rights, or {move}.")
            continue
        free = shutil.disk_usage(there).free
        yield _scarce("disk", free, f"{what}: {_size(free)} free in {folder}", f"Free some, or {move}.")


def _scarce(area: str, free: int, found: str, advice: str) -> Finding:
    least, enough = _SCARCE[area]
    level: Level = "red" if free < least else "yellow" if free < enough else "green"
    return Finding(area, level, found, "" if level == "green" else advice)


def _size(count: int) -> str:
    return f"{count / _GIB:,.1f} GiB"


def sandbox() -> Iterator[Finding]:
    """Has the sandbox that a run would use run a small program."""
    from dgym.sandbox import find_sandbox, tier
    from dgym.sandbox.records import SandboxError

    found = tier()
    if found.startswith("none: "):
        reason, _, advice = found.removeprefix("none: ").partition(" To proceed, ")
        yield Finding("sandbox", "red", reason, advice[:1].upper() + advice[1:] or "Unset or mend $DGYM_SANDBOX.")
        return
    try:
        unsafe = find_sandbox().name == "unsafe"
    except SandboxError:
        unsafe = False
    if unsafe:
        yield Finding("sandbox", "yellow", found, "Unset DGYM_SANDBOX, unless this machine may be lost.")
    else:
        yield Finding("sandbox", "green", found)


def ray_cluster(address: str | None) -> Iterator[Finding]:
    """Looks at a Ray cluster, or at how one would be started here.

    Args:
        address: Where it is; `None` for none.
    """
    disabled = os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled"
    if address is None or address == "local":
        if disabled:
            found = "a run starts a Ray of its own, without a token: RAY_AUTH_MODE is 'disabled'"
            yield Finding("ray", "red", found, "Unset RAY_AUTH_MODE: whoever reaches a Ray without a token runs code.")
        else:
            yield Finding("ray", "green", "a run starts a Ray of its own, with a token; --address looks at a cluster")
        return
    if "://" in address:
        advice = "Name host:port, or submit dgym as a Ray job."
        yield Finding("ray", "red", f"{address} is an address of Ray Client, which dgym does not use", advice)
        return
    stranger, mine = _probe(address, stranger=True), _probe(address)
    if mine["error"]:
        advice = "Start it, or mend --address or $RAY_ADDRESS."
        if mine["denied"]:
            advice = SET_TOKEN
        yield Finding("ray", "red", f"{mine.get('address') or address}: {mine['error']}", advice)
        return
    place = mine["address"]
    nodes = f"{mine['nodes']} node{'s' * (mine['nodes'] != 1)}"
    here = version("ray")
    if mine["ray"] != here:
        advice = f'pip install "ray[tune]=={mine["ray"]}" here, or the same version there.'
        yield Finding("ray", "red", f"{place} has Ray {mine['ray']}, this Python {here}", advice)
    elif mine["python"] != platform.python_version():
        level: Level = "yellow" if _minor(mine["python"]) == _minor(platform.python_version()) else "red"
        found = f"{place} has Python {mine['python']}, this is {platform.python_version()}"
        yield Finding("ray", level, found, "Ray wants the same Python everywhere, to the last number.")
    else:
        yield Finding("ray", "green", f"{place} answers: Ray {here}, {nodes}")
    if stranger["denied"]:
        yield Finding("ray", "green", "it asks for a token")
    elif not stranger["error"]:
        level = "yellow" if _is_loopback(place) else "red"
        advice = "Start it with RAY_AUTH_MODE=token: whoever reaches it runs code there."
        yield Finding("ray", level, f"{place} answers without a token", advice)
    dashboard = mine["dashboard"]
    if dashboard and not _is_loopback(dashboard):
        advice = "Start Ray with --dashboard-host 127.0.0.1, and reach it through `ssh -L 8265:localhost:8265`."
        yield Finding("ray", "red", f"the dashboard listens on {dashboard}, where others reach it", advice)
    elif dashboard:
        yield Finding("ray", "green", f"the dashboard listens on the loopback address only ({dashboard})")


def _probe(address: str, *, stranger: bool = False) -> dict[str, Any]:
    """Looks at a cluster in a process of its own.

    Args:
        address: Where it is.
        stranger: Whether to ask as somebody who has no token.
    """
    environment = dict(os.environ)
    if stranger:
        environment["RAY_AUTH_MODE"] = "disabled"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "dgym.cluster.probe", address],
            capture_output=True,
            text=True,
            timeout=RAY_PATIENCE,
            check=False,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        found: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
        return found
    except subprocess.TimeoutExpired:
        return {"error": f"nobody answers within {RAY_PATIENCE:.0f} s", "denied": False}
    except ValueError:
        return {"error": "Ray's client broke off while it was asked", "denied": False}


def _minor(python: str) -> list[str]:
    return python.split(".")[:2]


def _is_loopback(place: str) -> bool:
    host = urlsplit(f"//{place}").hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def endpoints() -> Iterator[Finding]:
    """Asks the language models' endpoints that are configured for their models."""
    from dgym.chat.config import OPENAI, chat_file, configured

    try:
        configs = [(config.endpoint, config.key, f"{name} of {chat_file()}") for name, config in configured().items()]
    except DgymError as error:
        yield Finding("endpoints", "red", one_line(error), "Mend that file.")
        configs = []
    named = os.environ.get("OPENAI_BASE_URL", "").strip()
    if named or os.environ.get("OPENAI_API_KEY", "").strip():
        configs.insert(0, (named or OPENAI, "OPENAI_API_KEY", "openai:MODEL"))
    served = os.environ.get("DGYM_VLLM_URL", "").strip()
    if served:
        configs.append((served, "", "$DGYM_VLLM_URL"))
    places: dict[tuple[str, str], list[str]] = {}
    for url, key, whose in configs:
        places.setdefault((url.rstrip("/"), key), []).append(whose)
    if not places:
        advice = (
            "Teachers without a language model need none; for others set OPENAI_API_KEY, and OPENAI_BASE_URL for "
            "another place than OpenAI's; `dgym serve` starts a stand-in."
        )
        yield Finding("endpoints", "yellow", "none is configured", advice)
    with ThreadPoolExecutor(8) as pool:
        yield from pool.map(lambda place: _endpoint(place[0], place[1], places[place]), places)


def _endpoint(url: str, key: str, whose: Sequence[str]) -> Finding:
    about = f"{_place(url)} ({', '.join(whose)})"
    secret = os.environ.get(key, "").strip() if key else ""
    if key and not secret:
        return Finding("endpoints", "red", f"{about}: no key is set", f"Set {key}; any text where none is asked for.")
    if not url.startswith(("http://", "https://")):
        return Finding("endpoints", "red", f"{about} is no URL", "It begins with http:// or https:// and ends in /v1.")
    keyed = f", the key in {key} is set" if key else ""
    try:
        status = _status(f"{url}/models", secret)
    except (OSError, ValueError) as error:
        inner = error.reason if isinstance(error, urllib.error.URLError) else error
        reason = one_line(inner) if isinstance(inner, Exception) else inner
        return Finding("endpoints", "red", f"{about} does not answer: {reason}", "Start it, or mend its address.")
    if status in (401, 403):
        return Finding("endpoints", "red", f"{about} refuses the key (HTTP {status})", f"Mend {key or 'its rights'}.")
    if status >= 500:
        return Finding("endpoints", "red", f"{about} answers with HTTP {status}", "Look at the server.")
    if status not in (200, 404, 405, 429):
        return Finding("endpoints", "yellow", f"{about} answers with HTTP {status}{keyed}", "Look at its address.")
    return Finding("endpoints", "green", f"{about} answers{keyed}")


def _place(url: str) -> str:
    """A URL without what may be secret in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else "what is named"


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: the key is for the place that was named."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _status(url: str, secret: str) -> int:
    headers: Mapping[str, str] = {"Authorization": f"Bearer {secret}"} if secret else {}
    try:
        with urllib.request.build_opener(_Stay).open(
            urllib.request.Request(url, headers=headers), timeout=PATIENCE
        ) as a:
            return int(a.status)
    except urllib.error.HTTPError as error:
        return error.code


def data_sets() -> Iterator[Finding]:
    """Lists which published data sets are here."""
    from dgym.sets import available

    found = available()
    here = [data.name for data in found if data.here]
    missing = [data.name for data in found if not data.here]
    yield _listed("data sets", here, missing, "`dgym data pull NAME` fetches what a suite names.")


def models() -> Iterator[Finding]:
    """Lists which models are here."""
    from dgym.models.store import available

    found = available()
    here = [model.name for model in found if model.here]
    missing = [model.name for model in found if not model.here]
    yield _listed(
        "models", here, missing, "`dgym models pull NAME` fetches what a suite names; built-in ones are here."
    )


def _listed(area: str, here: Sequence[str], missing: Sequence[str], advice: str) -> Finding:
    parts = [f"here: {', '.join(here) or 'none'}", *([f"not here: {', '.join(missing)}"] if missing else [])]
    return Finding(area, "yellow" if missing else "green", "; ".join(parts), advice if missing else "")
