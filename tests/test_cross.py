"""Every teacher in every environment and domain: none of it is written per pair, all of it works."""

from __future__ import annotations

from functools import lru_cache

import pytest

from dgym import registry
from dgym.bench import LocalBackend, bench
from dgym.core import Budget, Example, Rules, derive_seed, from_json, to_json
from dgym.environments import make_environment
from dgym.episode import ClosedLoop, LocalPool, overlap_index, run_episode
from dgym.results import open as open_run
from dgym.specs import EpisodeSpec
from dgym.teachers import make_teacher

DOMAINS = ("math", "code", "tools", "vqa", "fake")
ENVIRONMENTS = ("open-ended", "skill-list", "skill-tree")
# Those that are language models are tried with the stand-in; what draws from a file has tests of its own.
TEACHERS = [
    f"{name}@stand-in" if name.startswith("agent") else name for name in registry.BUILTIN["teacher"] if name != "pool"
]
ENTRIES = [(name, env) for name in TEACHERS for env in ENVIRONMENTS if env in make_teacher(name).policies]


class Reader:
    """A student that knows a part of the references, and more of them with every correct example."""

    def __init__(self) -> None:
        self.examples: list[Example] = []

    def train(self, examples, *, seed, fresh):
        self.examples = list(examples) if fresh else [*self.examples, *examples]
        return {"loss": 0.0}

    def answer(self, problems):
        level = 400 + 2 * len(self.examples)
        return [p.reference if derive_seed(p.prompt, p.id) % 1000 < level else "?" for p in problems]

    def save(self, path): ...

    def load(self, path): ...

    def close(self): ...


@lru_cache
def parts(domain):
    made = registry.load("domain", domain)()
    return made, overlap_index(made)


def episode(teacher, environment, domain, **rules):
    made, index = parts(domain)
    entrant = make_teacher(teacher)
    fixed = Rules(iterations=2, budget=Budget(24 * entrant.budget_factor), share=0.04, **rules)
    loop = ClosedLoop(made, make_environment(environment), Reader(), fixed, unverified=entrant.unverified, index=index)
    return list(run_episode(loop, entrant, LocalPool(entrant)))


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize(("teacher", "environment"), ENTRIES)
def test_every_entry_works_in_every_domain(domain, environment, teacher):
    steps = episode(teacher, environment, domain)
    entrant = make_teacher(teacher)
    assert [s.iteration for s in steps] == [0, 1, 2]
    for step in steps[1:]:
        assert from_json(type(step), to_json(step)) == step
        if teacher == "no-data":
            assert not step.verdicts
            continue
        assert 0 < len(step.verdicts) <= 24 * entrant.budget_factor
        reasons = {v.reason for v in step.verdicts} - {"", "duplicate"}
        assert not reasons, "what the domains' own generators write passes the gate"
        right = {v.correct for v in step.verdicts}
        if teacher == "wrong-answers":
            assert True not in right
        elif teacher == "off-domain":
            assert True not in right or domain in ("fake", "tools")
        else:
            assert right == {True}
    if entrant.ranked:
        assert sum(len(s.kept) for s in steps) >= 40, "nearly all of the budget is used"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("domain", DOMAINS)
def test_an_episode_repeats_itself(domain, environment):
    first, second = (
        [(s.kept, [v.reason for v in s.verdicts], s.plans) for s in episode("weakness", environment, domain)]
        for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("domain", DOMAINS)
def test_trees_grow_what_the_domain_refines(domain):
    generator = parts(domain)[0]
    for step in episode("fill-balanced", "skill-tree", domain)[1:]:
        assert step.probes
        for verdict in step.verdicts:
            skill = verdict.example.skill.partition("/")[0]
            assert verdict.example.skill in generator.subskills(skill)


@pytest.mark.parametrize("domain", DOMAINS)
def test_what_the_student_knows_is_asked_on_request_and_limited(domain):
    class Asking:
        def plan(self, brief, state):
            self.states = [*getattr(self, "states", []), state]
            made = make_teacher("uniform").policies["skill-list"].plan(brief, state)
            return type(made)(made.items, ask_known=True)

    made, index = parts(domain)
    entrant, policy = make_teacher("uniform"), Asking()
    teacher = type(entrant)("asking", {"skill-list": policy}, entrant.engine)
    fixed = Rules(iterations=3, budget=Budget(20, known_checks_total=30), share=0.04)
    loop = ClosedLoop(made, make_environment("skill-list"), Reader(), fixed, index=index)
    steps = list(run_episode(loop, teacher, LocalPool(teacher)))
    asked = [sum(v.known is not None for v in s.verdicts) for s in steps]
    assert asked[0] == asked[3] == 0
    assert sum(asked) == 30
    assert [s.known_checks_left for s in policy.states] == [30, 30 - asked[1], 0]
    assert [s.known.get("asked", 0) for s in policy.states] == [0, asked[1], asked[2]]
    known = [v.known for s in steps for v in s.verdicts if v.known is not None]
    assert True in known
    assert False in known


@pytest.mark.slow
@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("domain", DOMAINS[:4])
def test_every_cell_with_its_own_student(domain, environment, tmp_path):
    """Real students: all teachers of an environment, one short episode each."""
    rules = Rules(iterations=1, budget=Budget(30), share=0.08)
    common = {"environment": environment, "domain": domain, "student": f"micro-{domain}", "rules": rules}
    specs = [EpisodeSpec(teacher=name, **common) for name, entered in ENTRIES if entered == environment]
    summary = bench(specs, tmp_path / "run", backend=LocalBackend())
    assert not summary.failed
    run = open_run(tmp_path / "run")
    gains = {e.teacher: e.last_test - e.base_test for e in run.episodes.itertuples()}
    assert gains["no-data"] == 0
    assert all(e.examples_kept > 0 for e in run.episodes.itertuples() if e.teacher != "no-data")
