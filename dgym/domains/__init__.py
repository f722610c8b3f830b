"""What is learned: problems, graders, fingerprints, and how an example is written."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

from dgym import registry
from dgym.core import Domain
from dgym.data import DataSet
from dgym.errors import DgymError, UsageError, one_line, unknown_name


def make_domain(name: str) -> Domain:
    """Makes a domain from its name.

    A name may carry options after a colon, separated by commas: `"gsm8k:fixture"`,
    `"livecodebench:since=2024-08-01,until=2025-01-01"`. An option without a value is true; several values of one
    option are joined by `+`. The same name gives the same object, unless it names a file.

    Raises:
        UsageError: If there is no such domain or option, or if it cannot be made.
    """
    if registry.is_file(name):
        made: Domain = registry.make("domain", name, Domain)
        return made
    return _made(name)


@lru_cache(maxsize=64)
def _made(name: str) -> Domain:
    base, _, text = name.partition(":")
    factory = registry.load("domain", base)
    given: dict[str, Any] = {}
    for option in filter(None, text.split(",")):
        key, equals, value = option.partition("=")
        given[key.strip().replace("-", "_")] = value.strip() if equals else True
    known = [p.name for p in inspect.signature(factory).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for key in given:
        if key not in known:
            raise unknown_name(f"option of the domain {base!r}", key, known)
    try:
        domain: Domain = factory(**given)
    except DgymError:
        raise
    except Exception as error:
        raise UsageError(f"The domain {name!r} cannot be made: {one_line(error)}") from error
    if not isinstance(domain, Domain):
        raise UsageError(f"The domain {name!r} is a {type(domain).__name__}; it is not a dgym Domain.")
    return domain


def data_sets() -> dict[str, DataSet]:
    """Returns the data sets of all registered domains that have some, by name."""
    found = {}
    for name in registry.names("domain"):
        try:
            made = registry.load("domain", name)
        except DgymError:
            continue  # a plugin that cannot be imported is shown by `dgym ls`
        for data in (getattr(made, "data", None), *getattr(made, "more", ())):
            if isinstance(data, DataSet):
                found[data.name] = data
    return found
