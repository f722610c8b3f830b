"""What is needed to reproduce a run: commands, versions, seeds, digests.

Everything is read from the table `episodes`; where a suite of that name ships, its file says what belongs to it.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dgym.errors import DgymError
from dgym.models.recipe import PRESETS, Recipe
from dgym.specs import EpisodeSpec, SuiteSpec, load_suite, suite_files
from dgym.students.names import own_recipe


@dataclass(frozen=True)
class Provenance:
    """How a run came about.

    Attributes:
        commands: Commands that give its episodes.
        versions: Versions of Python and libraries, with the number of episodes that had them.
        devices: Devices of students, with the number of episodes.
        protocols: The rules, recipe, engine and precision of each protocol as JSON, with the number of episodes.
        pins: What names stood for (weights, versions, bytes of files), by kind.
    """

    commands: tuple[str, ...]
    versions: tuple[tuple[str, int], ...]
    devices: tuple[tuple[str, int], ...]
    protocols: tuple[tuple[str, str, int], ...]
    pins: tuple[tuple[str, tuple[str, ...]], ...]


def provenance(episodes: pd.DataFrame) -> Provenance:
    """Reads off a run's episodes how they came about."""
    specs = [json.loads(text) for text in episodes["spec"]]
    commands: list[str] = []
    for name, part in episodes.groupby("suite", sort=False):
        suite = _suite(str(name))
        commands += _commands(str(name), part, suite)
    return Provenance(
        commands=tuple(commands),
        versions=_counted(", ".join(f"{k} {v}" for k, v in json.loads(text).items()) for text in episodes["versions"]),
        devices=_counted(episodes["device"].fillna("unknown")),
        protocols=_protocols(episodes, specs),
        pins=_pins(episodes),
    )


def _suite(name: str) -> SuiteSpec | None:
    try:
        return load_suite(name) if name in suite_files() else None
    except DgymError:
        return None


def _commands(name: str, episodes: pd.DataFrame, suite: SuiteSpec | None) -> list[str]:
    if not name:
        # Made by `dgym run`; options do not say everything that a spec can.
        rows = episodes.head(3).to_dict("records")
        more = [f"# and {len(episodes) - len(rows)} more, each with its own spec"] if len(episodes) > len(rows) else []
        return [*(_run(row) for row in rows), *more]
    command = ["dgym", "bench", "--suite", name if suite else f"{name}.toml"]
    seeds = tuple(sorted(int(seed) for seed in episodes["seed_variant"].unique()))
    if suite is not None:
        # A suite that was begun has some of its own seeds only, and needs no option for that.
        if set(seeds) - set(suite.seeds):
            command += ["--seeds", ",".join(map(str, seeds))]
        known = {teacher for entry in suite.entries for teacher in entry.teachers}
        for teacher in sorted(set(episodes["teacher"]) - known):
            command += ["--teacher", teacher]
    # Nobody but its author has the file of a suite that does not ship.
    return [shlex.join(command) + ("" if suite else "  # the file that the suite was read from")]


def _run(row: dict[Any, Any]) -> str:
    spec = json.loads(row["spec"])
    rules = spec["rules"]
    command = ["dgym", "run"]
    for option in ("teacher", "environment", "domain", "student"):
        command += [f"--{option}", str(spec[option])]
    command += ["--seed", str(spec["seeds"]["variant"]), "--iterations", str(rules["iterations"])]
    command += ["--examples", str(rules["budget"]["examples_per_iteration"])]
    if rules.get("share", 1.0) != 1.0:
        command += ["--share", str(rules["share"])]
    if rules.get("counts"):
        command += ["--problems", ",".join(f"{split}={count}" for split, count in rules["counts"].items())]
    command += _trained(spec)
    for key, value in sorted((spec.get("teacher_params") or {}).items()):
        command += ["--param", f"{key}={value}"]
    unsaid = _unsaid(spec)
    return shlex.join(command) + (f"  # and in a --spec file: {', '.join(unsaid)}" if unsaid else "")


def _trained(spec: Mapping[str, Any]) -> list[str]:
    """Returns the options that give a spec's recipe: the preset from which least differs, the student's own if any."""
    try:
        own = own_recipe(spec["student"])
    except DgymError:
        own = "default"  # a plugin that is not here
    given = spec.get("recipe") or {}
    presets = {name: Recipe.preset(name).model_dump(mode="json") for name in PRESETS}
    differs = {
        name: {field: value for field, value in given.items() if field in preset and preset[field] != value}
        for name, preset in presets.items()
    }
    name = min(differs, key=lambda name: (len(differs[name]), name != own))
    changes = [
        f"{field}={value if isinstance(value, str) else json.dumps(value)}" for field, value in differs[name].items()
    ]
    return ["--recipe", name] * (name != own) + [part for change in changes for part in ("--set", change)]


def _unsaid(spec: Mapping[str, Any]) -> list[str]:
    """Returns the fields of a spec that no option of `dgym run` sets, where they are not as usual."""
    usual = EpisodeSpec(teacher="uniform").model_dump(mode="json")
    fields = [field for field in ("skills", "curriculum", "engine", "device", "precision", "tier") if field in spec]
    out = [field for field in fields if spec[field] != usual[field]]
    known = {"iterations", "budget", "share", "counts", "test_every_iteration", "training_seed", "teacher_seed"}
    rules, usual_rules = spec.get("rules", {}), usual["rules"]
    out += [f"rules.{key}" for key, value in rules.items() if key not in known and value != usual_rules.get(key, value)]
    budget, usual_budget = rules.get("budget", {}), usual_rules["budget"]
    out += [
        f"rules.budget.{key}"
        for key, value in budget.items()
        if key != "examples_per_iteration" and value != usual_budget.get(key, value)
    ]
    return out


def _protocols(episodes: pd.DataFrame, specs: list[Any]) -> tuple[tuple[str, str, int], ...]:
    """Returns digest, content and number of episodes of each protocol, the most frequent first."""
    contents: dict[str, str] = {}
    for protocol, spec in zip(episodes["protocol"], specs, strict=True):
        if protocol not in contents:
            rules = {key: value for key, value in spec.get("rules", {}).items() if not key.endswith("_seed")}
            fields = ("recipe", "skills", "curriculum", "engine", "precision", "tier", "threads")
            shown = {"rules": rules} | {field: spec[field] for field in fields if field in spec}
            contents[protocol] = json.dumps(shown, indent=2, ensure_ascii=False)
    counts = Counter(episodes["protocol"])
    return tuple((protocol, contents[protocol], count) for protocol, count in counts.most_common())


def _pins(episodes: pd.DataFrame) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found: dict[str, dict[str, None]] = {}
    by = {"domain": "domain", "environment": "environment", "teacher": "teacher", "weights": "student"}
    for row in episodes.drop_duplicates(["pins", "domain", "environment", "teacher", "student", "variant"]).to_dict(
        "records"
    ):
        for kind, value in json.loads(row["pins"]).items():
            of = (
                f"{row[by[kind]]}:{row['variant']} " if kind == "weights" else f"{row[by[kind]]} " if kind in by else ""
            )
            found.setdefault(kind, {})[f"{of}{value}"] = None
    return tuple((kind, tuple(sorted(values))) for kind, values in sorted(found.items()))


def _counted(texts: Any) -> tuple[tuple[str, int], ...]:
    return tuple(Counter(texts).most_common())
