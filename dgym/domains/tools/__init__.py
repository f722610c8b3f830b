"""Tools: requests in English that a plan of one to four calls of typed tools fulfils, in the manner of m&m's.

A prompt lists the few tools that could apply and makes a request; the response is a plan in which later calls
consume earlier outputs:

    Tools: mail(person, text; time), scan(image; language), summarize(text; sentences), ...
    Request: Mail a summary of the text seen in photo12.png to Anna.

    scan(image=photo12.png); summarize(text=$1); mail(person=Anna, text=$2)

A skill is the tuple of tools of the plan. A problem's identity is its plan, whatever the sentence and the list of
tools. Six tuples are only in the test split, as new combinations. The grade asks for the exact ordered list of
tools, as in m&m's (Ma et al. 2024, https://arxiv.org/abs/2403.11085); `measures` has the rest of that
benchmark's comparison, and the gate wants the whole plan right.

What this module does not know: who asks, what a teacher sees.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

from dgym.core import Example, Problem, Split, derive_seed
from dgym.domains.procedural import ProceduralDomain, Task
from dgym.domains.tools.catalogue import ACCEPTS, CATALOGUE, Tool, choices, value_class
from dgym.domains.tools.grammar import EVERY_TOOL, Structure, pick
from dgym.domains.tools.plans import Call, Plan, Ref, compare, parse_plan, same, show, tools_of, validate
from dgym.domains.tools.skills import OFF_DOMAIN, SKILLS, TEST_ONLY, read_request, structures
from dgym.errors import DomainError

__all__ = [
    "CATALOGUE",
    "Call",
    "Plan",
    "Ref",
    "Tool",
    "ToolsDomain",
    "WholeCatalogue",
    "parse_plan",
    "show",
    "validate",
]

_REQUEST: Final = "Request: "
_LISTED: Final = re.compile(r"(\w+)\([^()]*\)")
_LIST_SIZES: Final = (5, 6, 7)
_BY_NAME: Final = tuple(CATALOGUE)
_NEAR: Final[Mapping[str, tuple[str, ...]]] = {
    name: tuple(other for other, t in CATALOGUE.items() if t.area == tool.area and other != name) or _BY_NAME
    for name, tool in EVERY_TOOL.items()
}


class ToolsDomain(ProceduralDomain):
    """Plans of one to four calls."""

    name: ClassVar[str] = "tools"
    version: ClassVar[str] = "1"
    description: ClassVar[str] = (
        "Requests in English that one to four calls of tools fulfil; later calls use the outputs of earlier ones. "
        "A prompt has two lines: `Tools:` with the signatures of five to seven tools of the catalogue that could "
        "apply, in any order, optional parameters after a semicolon; and `Request:` with the request. "
        "Right is the exact list of tools in the order of the calls."
    )
    answer_format: ClassVar[str] = (
        "The calls in order, separated by '; ', with named arguments: "
        "`weather(city=Oslo, day=Monday); translate(text=$1, language=French)`. `$k` is the output of call k. "
        "Values stand as the request gives them, in double quotes if they have other characters than letters, digits "
        "and . : - _; optional arguments only where the request asks for them. Calls that do not depend on each other "
        "stand in the order of the request."
    )
    problems_per_skill: ClassVar[Mapping[Split, int]] = {"feedback": 40, "selection": 40, "test": 80}
    tools: ClassVar[tuple[Mapping[str, Any], ...]] = tuple(tool.schema() for tool in CATALOGUE.values())

    def refinements(self) -> Mapping[str, Sequence[str]]:
        """Returns every skill with the names of its structures."""
        return {skill: tuple(parts) for skill, parts in SKILLS.items()}

    def off_domain(self) -> Sequence[str]:
        """Returns kinds of requests for tools beyond the catalogue."""
        return tuple(OFF_DOMAIN)

    def test_only(self) -> Sequence[str]:
        """Returns the tuples of tools that only the test split shows."""
        return tuple(TEST_ONLY)

    def stream(self, skill: str, seed: int) -> Iterator[tuple[Task, Example]]:
        """Draws correct examples of a skill, each structure as often as any other."""
        rng = random.Random(derive_seed("tools", skill, seed))
        parts = structures()[skill]
        while True:
            structure = pick(parts, rng)
            values = structure.draw(rng)
            request = structure.render(values, rng)
            task = _task(structure, values)
            shown = ", ".join(EVERY_TOOL[name].signature for name in self.listed(tools_of(structure.plan), rng))
            prompt = f"Tools: {shown}\n{_REQUEST}{request}"
            yield task, Example(prompt, task.answer, skill)

    def listed(self, used: Sequence[str], rng: random.Random) -> Sequence[str]:
        """Returns which tools a prompt shows: those of the plan among a few others."""
        return _listed(used, rng)

    def parse(self, prompt: str, images: tuple[bytes, ...] = ()) -> Task | None:
        """Recognises a request, with or without a list of tools above it."""
        if images:
            return None
        found = read_request(prompt.rpartition(_REQUEST)[2])
        return None if found is None else _task(*found)

    def right(self, task: Task, response: str) -> bool:
        """Whether the response is a plan with exactly the reference's tools, in order."""
        plan = parse_plan(response, EVERY_TOOL)
        return plan is not None and tools_of(plan) == tools_of(task.data)

    def check(self, example: Example) -> bool | None:
        """Whether a response is the whole right plan, with tools that the prompt lists.

        Of a request that is not recognised, a response is wrong if it is no plan, does not fit the catalogue
        or uses a tool that the prompt does not list; else that cannot be said.
        """
        task = self.recognise(example.prompt, example.images)
        known = CATALOGUE if task is None or task.skill not in OFF_DOMAIN else EVERY_TOOL
        plan = parse_plan(example.response, known)
        if plan is None or validate(plan, known):
            return False
        listed = set(_LISTED.findall(example.prompt.rpartition(_REQUEST)[0]))
        if listed and not listed.issuperset(tools_of(plan)):
            return False
        return None if task is None else same(task.data, plan)

    def measures(self, problem: Problem, response: str) -> Mapping[str, float]:
        """Compares a response with the reference plan; see `dgym.domains.tools.plans.compare`."""
        reference = parse_plan(problem.reference)
        if reference is None:
            raise DomainError(f"The reference of the {self.name} problem {problem.id!r} is no plan.")
        return compare(reference, parse_plan(response))

    def wrong_answer(self, example: Example, seed: int) -> Example:
        """Returns the example with a plan that fits the catalogue and calls other tools.

        A call is dropped, added, or replaced by one of a tool that is easily mistaken for it.
        """
        task = self.recognise(example.prompt, example.images)
        rng = random.Random(derive_seed("wrong", seed, example.prompt))
        plan = task.data if task is not None else parse_plan(example.response)
        if plan is None or validate(plan, EVERY_TOOL):
            plan = next(self.stream(rng.choice(self.skills()), rng.getrandbits(31)))[0].data
        for _ in range(200):
            other = _changed(plan, rng)
            if tools_of(other) != tools_of(plan) and not validate(other, EVERY_TOOL):
                return Example(example.prompt, show(other), example.skill, example.item, example.images)
        raise DomainError(f"No wrong answer found for {example.prompt[:80]!r}.")


class WholeCatalogue(ToolsDomain):
    """The same requests under a prompt that carries the whole catalogue, for larger students."""

    name: ClassVar[str] = "tools-all"
    description: ClassVar[str] = ToolsDomain.description.replace(
        "the signatures of five to seven tools of the catalogue that could apply, in any order,",
        "the signatures of all tools of the catalogue,",
    )

    def listed(self, used: Sequence[str], rng: random.Random) -> Sequence[str]:
        """Returns all tools, in the catalogue's order; a kind off the domain brings its own."""
        return [*CATALOGUE, *(name for name in dict.fromkeys(used) if name not in CATALOGUE)]


def _task(structure: Structure, values: Mapping[str, str]) -> Task:
    plan = structure.filled(values)
    text = show(plan)
    return Task(structure.skill, text, text, structure.name, data=plan)


def _listed(used: Sequence[str], rng: random.Random) -> Sequence[str]:
    """Lists the tools of a plan among others; how many there are tells nothing about the length of the plan."""
    names = list(dict.fromkeys(used))
    size = pick(_LIST_SIZES, rng)
    while len(names) < size:
        other = pick(_NEAR[pick(used, rng)] if rng.random() < 0.5 else _BY_NAME, rng)
        if other not in names:
            names.append(other)
    rng.shuffle(names)
    return names


def _changed(plan: Plan, rng: random.Random) -> Plan:
    """Drops, adds or replaces a call; the result may be the same, or no valid plan."""
    place = rng.randrange(len(plan))
    change = rng.choice(("drop", "add", "replace"))
    if change == "drop":
        return _without(plan, place)
    if change == "add":
        call = _use(rng.choice(_BY_NAME), plan, plan, rng)
        return (*plan, call) if Ref(len(plan)) in dict(call.arguments).values() else plan
    other = _use(rng.choice(_NEAR[plan[place].tool]), plan[:place], plan, rng)
    return (*plan[:place], other, *plan[place + 1 :])


def _without(plan: Plan, place: int) -> Plan:
    """Drops a call; who consumed its output gets what it consumed itself."""
    through = next((v.call for _, v in plan[place].arguments if isinstance(v, Ref)), 0)

    def moved(value: str | Ref) -> str | Ref:
        if not isinstance(value, Ref) or value.call <= place:
            return value
        return Ref(through if value.call == place + 1 else value.call - 1)

    return tuple(Call(c.tool, tuple((n, moved(v)) for n, v in c.arguments)) for i, c in enumerate(plan) if i != place)


def _use(name: str, before: Plan, plan: Plan, rng: random.Random) -> Call:
    """Calls a tool with the latest outputs that fit, else with values of the plan, else with any."""
    given = {}
    for call in plan:
        kinds = EVERY_TOOL[call.tool].parameters
        given.update({value_class(n, kinds[n]): v for n, v in call.arguments if not isinstance(v, Ref)})
    arguments: list[tuple[str, str | Ref]] = []
    for parameter, kind in EVERY_TOOL[name].required.items():
        fitting = [i for i, c in enumerate(before, 1) if EVERY_TOOL[c.tool].returns in ACCEPTS.get(kind, {kind})]
        value = given.get(value_class(parameter, kind)) or rng.choice(choices(parameter, kind))
        arguments.append((parameter, Ref(fitting[-1]) if fitting else value))
    return Call(name, tuple(arguments))
