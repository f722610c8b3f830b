"""What a suite needs of a machine, and what of it is missing here: said once, before anything is run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from dgym.bench import asked_by
from dgym.data import is_here
from dgym.domains import make_domain
from dgym.domains.dataset import DataSetDomain
from dgym.errors import DgymError, UsageError, one_line
from dgym.specs import EpisodeSpec, SuiteSpec, load_suite
from dgym.students.machine import this_machine
from dgym.students.names import find_student

_SMALLER: Final = ("standard", "quick", "smoke")
"""Suites that need nothing but the package, the largest first."""


def ready(suite: SuiteSpec, *, nodes: bool = False, ask: bool = True) -> None:
    """Checks that a suite can run here.

    Args:
        suite: The suite.
        nodes: Whether it runs on other machines, whose students and GPUs are not known here.
        ask: Whether its language models and painters have to be reachable.

    Raises:
        UsageError: If not; the one message says what is missing, how to get it, and which suite fits.
    """
    found = missing(suite.episodes(), nodes=nodes, ask=ask)
    if not found:
        return
    fits = [name for name in _SMALLER if name != suite.name and not missing(load_suite(name).episodes())]
    instead = f"--suite {fits[0]} runs here as it is, and " if fits else ""
    sized = f" It is sized for {suite.gpu}." if suite.gpu else ""
    raise UsageError(
        f"The suite {suite.name!r} cannot run here: {'; '.join(found)}.{sized} {instead}--suite {suite.name} "
        "--scale tiny runs all of it on stand-ins."
    )


def missing(specs: Sequence[EpisodeSpec], *, nodes: bool = False, ask: bool = False) -> list[str]:
    """Returns what some episodes need and this machine lacks, each thing in a few words with what to do."""
    return [*_data(specs), *(() if nodes else (*_device(specs), *_students(specs))), *(_asked(specs) if ask else ())]


def _data(specs: Sequence[EpisodeSpec]) -> Iterator[str]:
    names = []
    for name in dict.fromkeys(spec.domain for spec in specs):
        domain = make_domain(name)
        if isinstance(domain, DataSetDomain):
            names += [data.name for data in domain.needs() if not is_here(data)]
    if names:
        wanted = list(dict.fromkeys(names))
        yield f"data sets are missing ({', '.join(wanted)}): `dgym data pull {' '.join(wanted)}`"


def _device(specs: Sequence[EpisodeSpec]) -> Iterator[str]:
    if any(spec.device.startswith("cuda") for spec in specs) and not this_machine().gpus:
        yield "there is no GPU"


def _students(specs: Sequence[EpisodeSpec]) -> Iterator[str]:
    reasons = {}
    for spec in {s.student: s for s in specs}.values():
        try:
            _, family, variant = find_student(spec.student, spec.seeds.variant)
            family.digest(variant)
        except DgymError as error:
            reasons[spec.student.removeprefix("hf:")] = one_line(error)
    if len(reasons) == 1:
        yield f"a student is missing: {next(iter(reasons.values())).rstrip('.')}"
    elif reasons:
        yield f"students are missing: `dgym models pull` gets {', '.join(reasons)}"


def _asked(specs: Sequence[EpisodeSpec]) -> Iterator[str]:
    reasons = []
    for asked in asked_by(specs):
        try:
            asked.check()
        except DgymError as error:
            reasons.append(one_line(error).rstrip("."))
    yield from dict.fromkeys(reasons)
