"""`--scale tiny`: a suite as it stands, on stand-ins for what this machine may not have.

Students become tiny random models of their families, data sets their fixtures, language models the test server, and
sizes shrink to what takes minutes on a laptop. All else is the suite's own: cells, teachers, environments, protocol. It
shows that a suite runs from end to end; scores mean nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from dgym import registry
from dgym.chat_server import ChatServer, Manner
from dgym.core import Rules, Split
from dgym.data import DataSet
from dgym.domains import make_domain
from dgym.models.recipe import Recipe
from dgym.specs import Cell, Entry, SuiteSpec, Variation
from dgym.students.tiny import family_of
from dgym.teachers import split_name

ITERATIONS: Final = 2
EXAMPLES: Final = 8
PROBLEMS: Final = 12
"""Most iterations, examples an iteration and problems a split."""

_NEW_TOKENS: Final = 16
_CUTOFF: Final = 2_048
_SMALL: Final = ("fake", "micro-math", "micro-code", "micro-tools", "micro-vqa", "tiny")
_KEY: Final = "OPENAI_API_KEY"
_ENDPOINT: Final = "OPENAI_BASE_URL"


def tiny(suite: SuiteSpec) -> SuiteSpec:
    """Returns a suite at tiny scale, with its first seed only.

    Raises:
        UsageError: If a name in it is unknown.
    """
    return suite.model_copy(
        update={
            "name": f"{suite.name}-tiny",
            "description": f"{suite.name} on tiny random students, fixtures and the test server; scores mean nothing.",
            "seeds": suite.seeds[:1],
            "rules": _rules(suite.rules),
            "recipe": _recipe(suite.recipe),
            "skills": _skills(suite.skills),
            "cells": tuple(_cell(cell) for cell in suite.cells),
            "entries": tuple(_entry(entry) for entry in suite.entries),
            "variations": tuple(_variation(v) for v in suite.variations),
            "threads": 1,
            "device": "cpu",
            "precision": "auto",
            "engine": "transformers",
        }
    )


def _rules(rules: Rules) -> Rules:
    known = rules.budget.known_checks_total
    budget = replace(
        rules.budget,
        examples_per_iteration=min(EXAMPLES, rules.budget.examples_per_iteration),
        known_checks_total=min(EXAMPLES, known),
    )
    counts: dict[Split, int] = {"feedback": PROBLEMS, "selection": PROBLEMS, "test": PROBLEMS}
    return replace(
        rules, iterations=min(ITERATIONS, rules.iterations), budget=budget, counts=counts, share=1.0, generations=1
    )


def _recipe(recipe: Recipe) -> Recipe:
    return recipe.model_copy(
        update={
            "epochs": 1,
            "max_new_tokens": min(_NEW_TOKENS, recipe.max_new_tokens),
            # Their tokens are short, so that the same text has more of them.
            "cutoff": max(_CUTOFF, recipe.cutoff),
        }
    )


def _cell(cell: Cell) -> Cell:
    base = cell.domain.partition(":")[0]
    made = None if registry.is_file(cell.domain) else registry.load("domain", base)
    data = isinstance(getattr(made, "data", None), DataSet)
    domain = f"{cell.domain}{',' if ':' in cell.domain else ':'}fixture" if data else cell.domain
    student = cell.student
    if student.partition(":")[0] not in _SMALL:
        sees = any(p.images for p in make_domain(domain).problems("feedback"))
        student = f"tiny:{family_of(student, sees=sees)}"
    rules: dict[str, Any] = dict(cell.rules)
    if "iterations" in rules:
        rules["iterations"] = min(ITERATIONS, rules["iterations"])
    if "budget" in rules:
        most = min(EXAMPLES, rules["budget"].get("examples_per_iteration", EXAMPLES))
        rules["budget"] = {**rules["budget"], "examples_per_iteration": most}
    for name in ("counts", "share", "generations"):
        rules.pop(name, None)
    recipe = None if cell.recipe is None else _recipe(cell.recipe)
    changes = {"domain": domain, "student": student, "rules": rules, "recipe": recipe, "engine": None}
    return cell.model_copy(update={**changes, "skills": _skills(cell.skills)})


def _entry(entry: Entry) -> Entry:
    params = {name: "noise" if name == "painter" else _chat(value) for name, value in entry.params.items()}
    teachers = []
    for name in entry.teachers:
        registered, chat = split_name(name)
        teachers.append(f"{registered}@{_chat(chat)}" if chat else name)
    return entry.model_copy(update={"teachers": tuple(teachers), "params": params})


def _variation(variation: Variation) -> Variation:
    rules = {name: value for name, value in variation.rules.items() if name not in ("generations", "counts", "share")}
    return variation.model_copy(update={"rules": rules, "skills": _skills(variation.skills)})


def _chat(name: Any) -> Any:
    """Sends whoever is asked over a network, or from a file of weights, to the test server."""
    provider, _, model = str(name).partition(":")
    return f"openai:{model}" if model and provider in ("openai", "vllm", "hf") else name


def _skills(name: str) -> str:
    return f"chat:{_chat(name.removeprefix('chat:'))}" if name.startswith("chat:") else name


@contextmanager
def endpoint() -> Iterator[str]:
    """Runs the test server, and sends all of `openai:MODEL` in this process and its children there.

    Yields:
        Its base URL.
    """
    before = {name: os.environ.get(name) for name in (_ENDPOINT, _KEY)}
    with ChatServer(Manner(model="")) as server:
        os.environ[_ENDPOINT], os.environ[_KEY] = server.url, "none"
        try:
            yield server.url
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
