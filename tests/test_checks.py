"""The public conformance checks: all that is registered passes, and every kind of fault is found."""

import random
import threading
import time
from dataclasses import replace

import pytest

from dgym import checks, registry
from dgym.core import Example, Plan, PlanItem, State
from dgym.environments.open_ended import OpenEnded
from dgym.environments.skill_list import SkillList
from dgym.errors import UsageError
from dgym.fakes import FakeDomain, FakeFamily, FakeStudent
from dgym.teachers import make_teacher

DOMAIN = FakeDomain()


def failed(findings, *, warning=False):
    return [f"{f.name} | {f.detail}" for f in findings if not f.ok and f.warning == warning]


@pytest.mark.parametrize("kind", ["teacher", "domain", "environment", "student"])
def test_all_that_is_registered_conforms(kind):
    for name in registry.BUILTIN[kind]:
        if name in ("pool", "isolated"):
            continue  # they need a file or a teacher; see tests/teachers/test_writing.py and tests/isolation
        entry = f"{name}@stand-in" if name.startswith("agent") else name
        if kind == "domain" and hasattr(registry.load(kind, name), "data"):
            continue  # on its fixture; see tests/domains/published
        for domain in ("fake", "math") if kind == "teacher" else ("fake",):
            findings = checks.check(kind, entry, domain, deep=name == "fake")
            assert checks.passed(findings)
            assert failed(findings, warning=True) == []
            assert len(findings) >= 3


@pytest.mark.slow
def test_the_students_that_ship_learn():
    assert failed(checks.check("student", "micro-math", "math", deep=True)) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("weakness", "teacher"),
        ("agent@stand-in", "teacher"),
        ("math", "domain"),
        ("reasoning-gym:generators=gcd", "domain"),
        ("skill-tree", "environment"),
        ("micro-math", "student"),
        ("micro-math:b", "student"),
        ("org/model", "student"),
        ("unsafe", "sandbox"),
        ("stand-in", "chat"),
        ("local", "backend"),
    ],
)
def test_the_kind_is_found_by_the_name(name, kind):
    assert checks.kind_of(name) == kind


@pytest.mark.parametrize(
    ("methods", "kind"),
    [
        ("plan generate", "teacher"),
        ("problems grade fingerprints", "domain"),
        ("observe", "environment"),
        ("draw digest load", "student"),
        ("complete", "chat"),
        ("run close", "sandbox"),
        ("run", "backend"),
        ("something", "teacher"),
    ],
)
def test_the_kind_of_what_a_file_holds_is_found_by_its_methods(teacher_file, methods, kind):
    body = "\n".join(["class Mine:", *(f"    def {method}(self): ..." for method in methods.split())])
    assert checks.kind_of(teacher_file(body)) == kind


def test_an_entry_of_the_file_of_language_models_is_a_chat_and_the_teacher_that_it_makes(tmp_path, monkeypatch):
    (tmp_path / "chats.toml").write_text('[mine]\nmodel = "x"\n')
    monkeypatch.setenv("DGYM_CHATS", str(tmp_path / "chats.toml"))
    with pytest.raises(UsageError, match="--kind teacher or --kind chat"):
        checks.kind_of("mine")
    with pytest.raises(UsageError, match="Did you mean 'mine', a chat"):
        checks.kind_of("mien")


def test_a_name_that_stands_for_several_things_needs_its_kind():
    with pytest.raises(UsageError, match=r"domain, student, chat\): say which with --kind domain or --kind student or"):
        checks.check("", "fake")
    with pytest.raises(UsageError, match=r"teacher, student, chat"):
        checks.check("", "openai:gpt-4o-mini")


def test_unknown_things_are_the_callers_errors():
    with pytest.raises(UsageError, match=r"nothing named 'weekness' to check. Did you mean 'weakness', a teacher"):
        checks.check("", "weekness")
    with pytest.raises(UsageError, match=r"nothing named 'namespace:x' to check. Did you mean 'namespaces', a sandbox"):
        checks.check("", "namespace:x")
    with pytest.raises(UsageError, match=r"no Python file 'nowhere.py'"):
        checks.check("", "nowhere.py:Mine")
    with pytest.raises(UsageError, match="Did you mean 'teacher'"):
        checks.check("techer", "uniform")
    with pytest.raises(UsageError, match="Did you mean 'uniform'"):
        checks.check("teacher", "uniforn")
    with pytest.raises(UsageError, match="no domain named"):
        checks.check("teacher", "uniform", "mth")


def test_warnings_do_not_fail():
    finding = checks.Finding("a check", False, "why", warning=True)
    assert checks.passed([finding])
    assert not checks.passed([replace(finding, warning=False)])


def test_what_cannot_be_made_is_a_finding(teacher_file):
    name = teacher_file("class Mine:\n    def __init__(self, needed): ...\n")
    (finding,) = checks.check("domain", name)
    assert (finding.ok, finding.name) == (False, "it can be made without arguments")
    assert "needed" in finding.detail


def test_a_teachers_file_is_checked(teacher_file):
    body = """
from dgym import Example, Plan, PlanItem

class Mine:
    def plan(self, brief, state):
        return Plan((PlanItem(state.examples_left),))

    def generate(self, brief, item):
        return [Example(f"add {item.seed % 997} {i}", str(item.seed % 997 + i)) for i in range(item.count)]
"""
    assert failed(checks.check("teacher", teacher_file(body))) == []
    (fault, *_) = failed(checks.check("teacher", teacher_file(body.replace("examples_left", "observations[0]"))))
    assert "open-ended: plans in an ordinary state" in fault


class Sound:
    """A teacher without faults, in parts that can be replaced."""

    def plan(self, brief, state):
        return Plan((PlanItem(state.examples_left),) if state.examples_left else ())

    def generate(self, brief, item):
        return DOMAIN.fresh("add", item.count, item.seed)


def fault_of_teacher(**methods):
    def make():
        broken = type("Broken", (Sound,), methods)()
        return replace(make_teacher("no-data"), policies={"open-ended": broken}, engine=broken)

    return checks.check_teacher(make(), again=make)


def test_the_sound_teacher_is_sound():
    findings = fault_of_teacher()
    assert failed(findings) == failed(findings, warning=True) == []


counter = iter(range(1_000_000))


def alone(self, brief, item):
    """Writes with a generator that all items share."""
    self.rng = random.Random(item.seed)
    rows = []
    for i in range(item.count):
        time.sleep(0.002)
        rows.append(Example(f"note {i} {self.rng.random()}", "1"))
    return rows


def forgets_nothing(self, brief, state):
    return Plan((PlanItem(2),), memory=[*(state.memory or []), "x" * 200_000])


def changes_the_brief(self, brief, state):
    brief.protocol["verify"] = False
    return Plan((PlanItem(2),))


def draws(self, brief, item):
    random.random()
    return DOMAIN.fresh("add", item.count, item.seed)


@pytest.mark.parametrize(
    ("method", "body", "name"),
    [
        ("plan", lambda self, b, s: 1 / 0, "plans in an ordinary state"),
        ("plan", lambda self, b, s: Plan((PlanItem(len(s.observations) // len(s.observations)),)), "without any obs"),
        ("plan", lambda self, b, s: Plan((PlanItem(40 // s.examples_left),)), "plans in an exhausted budget"),
        ("plan", lambda self, b, s: next(o for o in s.observations if not o.correct) and Plan(), "without errors"),
        ("plan", lambda self, b, s: Plan(memory=next(counter)), "same state gives the same plan"),
        ("plan", lambda self, b, s: Plan(memory={1: 2}) if s.memory is None else Plan(s.memory[1]), "goes on from its"),
        ("plan", lambda self, b, s: Plan(memory=object()), "plans in an ordinary state"),
        ("generate", lambda self, b, i: DOMAIN.fresh("add", i.count + 1, i.seed), "at most what an item counts"),
        ("generate", lambda self, b, i: ["junk"], "well-formed"),
        ("generate", lambda self, b, i: [Example("", "")], "well-formed"),
        ("generate", lambda self, b, i: DOMAIN.fresh("add", i.count, next(counter)), "same examples"),
        ("generate", lambda self, b, i: DOMAIN.fresh(i.skill or "add", i.count, i.seed), "skill that it does not know"),
        ("generate", lambda self, b, i: [], "plays an episode"),
        ("plan", forgets_nothing, "memory stays within 1 MB for 12 rounds"),
        ("plan", changes_the_brief, "leaves Brief and State as they were"),
        ("plan", lambda self, b, s: Plan((PlanItem(2, str(id(type(self)))),)), "made anew, it plans and writes"),
        ("generate", lambda self, b, i: [Example(f"note {id(type(self))}", "1")], "made anew, it plans and writes"),
        ("generate", alone, "after others, and beside others | in threads"),
    ],
)
def test_a_teachers_fault_is_found(method, body, name):
    faults = failed(fault_of_teacher(**{method: body}))
    assert any(name in f for f in faults), faults


@pytest.mark.parametrize(
    ("method", "body", "name"),
    [
        ("plan", lambda self, b, s: Plan((PlanItem(s.examples_left + 1),)), "asks for no more than is left"),
        ("generate", lambda self, b, i: DOMAIN.fresh("add", i.count, 1), "another seed gives other examples"),
        ("generate", lambda self, b, i: [Example(f"add 1 {i.seed + n}", "1") for n in range(i.count)], "most of its"),
        (
            "generate",
            lambda self, b, i: print("hello") or Sound.generate(self, b, i),
            "prints nothing | it prints 'hel",
        ),
        ("generate", draws, "leaves the global random state alone"),
    ],
)
def test_advice_is_given(method, body, name):
    assert any(name in f for f in failed(fault_of_teacher(**{method: body}), warning=True))


def test_an_engine_that_minds_the_order_of_items_is_found():
    def plan(self, brief, state):
        return Plan((PlanItem(2), PlanItem(2)))

    def generate(self, brief, item):
        before, self.last = getattr(self, "last", 101), item.seed
        return [Example(f"note {before} {item.seed}", "1")]

    faults = failed(fault_of_teacher(plan=plan, generate=generate))
    assert [f for f in faults if "in another order they differ" in f]
    assert not [f for f in faults if "the same item gives" in f]


def test_what_is_no_engine_and_an_environment_that_nobody_has_are_found():
    sound = make_teacher("uniform")
    assert "it is a int" in failed(checks.check_teacher(replace(sound, engine=1)))[0]
    elsewhere = replace(sound, policies={**sound.policies, "skill-forest": Sound()})
    assert "skill-forest not registered" in failed(checks.check_teacher(elsewhere), warning=True)[0]


def test_a_teacher_that_enters_nothing_is_found():
    assert "enters none" in failed(checks.check_teacher(replace(make_teacher("uniform"), policies={})))[0]


def in_main():
    return threading.current_thread() is threading.main_thread()


def swapped(problems, i, **fields):
    return [*problems[:i], replace(problems[i], **fields), *problems[i + 1 :]]


@pytest.mark.parametrize(
    ("methods", "name"),
    [
        ({"answer_format": ""}, "it has all"),
        ({"problems": lambda self, s: DOMAIN.problems(s) if s != "test" else ()}, "have problems"),
        ({"problems": lambda self, s: swapped(DOMAIN.problems(s), 0, id="one")}, "ids are unique"),
        ({"problems": lambda self, s: [replace(p, id=s + p.id) for p in DOMAIN.problems(s)]}, "ids tell neither"),
        ({"problems": lambda self, s: [replace(p, id=p.skill + p.id) for p in DOMAIN.problems(s)]}, "ids tell neither"),
        ({"problems": lambda self, s: swapped(DOMAIN.problems(s), 0, reference=" x")}, "graded 1"),
        ({"grade": lambda self, p, r: float(int(r) == int(p.reference))}, "without an exception"),
        ({"grade": lambda self, p, r: 1.0}, "no right answer"),
        ({"check": lambda self, e: False}, "not known to be wrong"),
        ({"fingerprints": lambda self, p: ()}, "any text has a fingerprint"),
        ({"fingerprints": lambda self, p: ("same",)}, "in two splits"),
        ({"overlap_keys": lambda self, p: ("other",)}, "overlap keys"),
        ({"infer_skill": lambda self, p: "add"}, "recognises the skill"),
        ({"skills": lambda self: ("add",)}, "knows the skills"),
        ({"fresh": lambda self, s, n, seed: DOMAIN.fresh(s, n, next(counter))}, "the same for the same seed"),
        ({"fresh": lambda self, s, n, seed: DOMAIN.fresh(s, n, 1) if s == "add" else []}, "as many as asked"),
        ({"fresh": lambda self, s, n, seed: DOMAIN.fresh(s, 1, seed) * n}, "pass the gate"),
        ({"wrong_answer": lambda self, e, seed: e}, "wrong answers are wrong"),
        ({"problems": lambda self, s: swapped(DOMAIN.problems(s), 0, prompt=" ")}, "can be asked"),
        ({"problems": lambda self, s: swapped(DOMAIN.problems(s), 0, images=("path",))}, "can be asked"),
        ({"tools": ({"name": object()},)}, "survives JSON"),
        ({"grade": lambda self, p, r: float(r == p.reference) * (next(counter) % 2)}, "graded 1"),
        ({"grade": lambda self, p, r: float(r == p.reference) or (next(counter) % 7) / 10}, "asked again"),
        ({"grade": lambda self, p, r: float(r == p.reference and in_main())}, "in threads, a grade differs"),
        ({"grade_all": lambda self, p, r: [(1.0, {}) for _ in p]}, "graded together"),
        ({"measures": lambda self, p, r: {"precision": 2.0}}, "measures any response"),
        ({"measures": lambda self, p, r: {"precision": 1 / len(r)}}, "measures any response"),
        ({"summary": lambda self, a: {"pass@1": 17.0}}, "sums up"),
        ({"frame": lambda self, p: f"{p} Go!", "bare": lambda self, p: p}, "framed twice"),
        (
            {"fresh": lambda self, s, n, seed: DOMAIN.fresh("add" if s == "no such skill" else s, n, seed)},
            "unknown kind",
        ),
        ({"fresh": lambda self, s, n, seed: DOMAIN.fresh(s, n or 1, seed)}, "0 examples"),
        ({"infer_skill": lambda self, p: p.split()[0]}, "any text has a skill or none"),
    ],
)
def test_a_domains_fault_is_found(methods, name):
    faults = failed(checks.check_domain(type("Broken", (FakeDomain,), methods)()))
    assert any(name in f for f in faults), faults


def test_a_problem_of_a_hidden_split_written_as_fresh_is_found():
    class Leaking(FakeDomain):
        def fresh(self, skill, count, seed):
            hidden = next(p for p in DOMAIN.problems("test") if p.skill in (skill, "add"))
            return [Example(hidden.prompt, hidden.reference, skill), *DOMAIN.fresh(skill, count - 1, seed)]

    assert any("overlap-test" in f for f in failed(checks.check_domain(Leaking())))


class Telling(OpenEnded):
    """Shows names and skills, in an observation's text."""

    attribute = "id"

    def observe(self, feedback, context):
        state = super().observe(feedback, context)
        if not feedback.attempts:
            return state
        shown = replace(state.observations[0], response=getattr(feedback.attempts[0].problem, self.attribute))
        return replace(state, observations=(shown,))


def observes(change):
    """An environment whose states are changed."""
    return type("T", (SkillList,), {"observe": lambda self, f, c: change(SkillList.observe(self, f, c))})()


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        (Telling(), "hides the names of problems | it shows one"),
        (type("T", (Telling,), {"attribute": "skill"})(), "it shows a gold skill"),
        (type("T", (SkillList,), {"name": "other-name", "observe": lambda s, f, c: None})(), "it gives a NoneType"),
        (type("T", (SkillList,), {"observe": lambda s, f, c: State("skill-list", 0, 0, f.score)})(), "passed on"),
        (type("T", (SkillList,), {"observe": lambda s, f, c: State("x", 0, 0, 2.0)})(), "name and score"),
        (object(), "it has all"),
        (type("T", (SkillList,), {"version": ""})(), "its version is empty"),
        (observes(lambda state: replace(state, environment="x")), "the state says 'x'"),
        (observes(lambda state: replace(state, score=state.score + 0.1)), "the score is"),
        (observes(lambda state: replace(state, memory=("a tuple",))), "survives JSON | it does not"),
        (observes(lambda state: replace(state, seed=next(counter))), "a second state differs"),
        (type("T", (SkillList,), {"expand": lambda s, p, state: replace(p, items=p.items and (1,))})(), "no PlanItem"),
        (type("T", (SkillList,), {"wants_probes": None})(), "neither True nor False"),
        (type("T", (SkillList,), {"expand": lambda s, p, state: 1 / len(p.items)})(), "carried out or refused"),
        (type("T", (SkillList,), {"expand": lambda s, p, state: Plan()})(), "memory is lost"),
        (
            type("T", (SkillList,), {"expand": lambda s, p, state: replace(p, items=(PlanItem(1),))})(),
            "empty plan asks",
        ),
        (type("T", (SkillList,), {"training_set": lambda s, e, c: [*e, Example("a", "b")]})(), "never written"),
    ],
)
def test_an_environments_fault_is_found(environment, name):
    faults = failed(checks.check_environment(environment))
    assert any(name in f for f in faults), faults


def test_an_environment_that_differs_when_made_anew_is_found():
    class Named(OpenEnded):
        def __init__(self):
            self.number = next(counter)

        def observe(self, feedback, context):
            return replace(super().observe(feedback, context), environment=f"open-ended-{self.number}")

    assert any("made anew" in f for f in failed(checks.check_environment(Named(), Named)))


class Forgetful(FakeStudent):
    """Saves nothing and loads nothing."""

    def save(self, path):
        pass

    def load(self, path):
        pass


class Drifting(FakeStudent):
    """Trains on top where it should start anew."""

    def train(self, examples, *, seed, fresh):
        return super().train(examples, seed=seed, fresh=False)


class Delicate(FakeStudent):
    """Cannot learn from what no tokenizer has seen."""

    def train(self, examples, *, seed, fresh):
        for example in examples:
            example.prompt.encode("ascii")
        return super().train(examples, seed=seed, fresh=fresh)


class Moody(FakeStudent):
    """Learns another thing every time, if it is to go on."""

    def train(self, examples, *, seed, fresh):
        return super().train(examples if fresh else examples[: next(counter) % 2 * 30], seed=seed, fresh=fresh)


class Sharing(FakeStudent):
    """Closes all when it is closed."""

    all = []  # noqa: RUF012

    def __init__(self, levels):
        super().__init__(levels)
        self.all.append(self)

    def close(self):
        for student in self.all:
            FakeStudent.close(student)


def family(**members):
    return type("Broken", (FakeFamily,), members)()


def of_students(**members):
    """A family whose students have other methods."""
    student = type("Broken", (FakeStudent,), members)
    return family(open=lambda self, recipe, variant: student(self._levels(variant)))


def starts_anywhere(self, examples, *, seed, fresh):
    return FakeStudent.train(self, examples[: next(counter) % 2 * 99], seed=seed, fresh=fresh)


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        (family(variants=()), "no variants"),
        (family(draw=lambda s, seed: "z"), "draws a variant"),
        (family(draw=lambda s, seed: s.variants[next(counter) % 4]), "draws a variant"),
        (family(digest=lambda s, v: "same"), "two variants share one"),
        (family(digest=lambda s, v: v + str(next(counter))), "asked again"),
        (family(load=lambda s, *a: 1 / 0), "a variant loads"),
        (family(open=lambda s, r, v: Forgetful(s._levels(v))), "saved and loaded"),
        (family(open=lambda s, r, v: Drifting(s._levels(v))), "untrained student"),
        (family(variants=("a", "a")), "two variants have one name"),
        (family(digest=lambda s, v: ""), "one is empty or no text"),
        (family(open=lambda s, r, v: object()), "they lack a method"),
        (of_students(answer=lambda s, p: ["?"] * (len(p) + 1)), "41 answers to 40 problems"),
        (of_students(answer=lambda s, p: [None] * len(p)), "an answer is no text"),
        (of_students(answer=lambda s, p: [str(next(counter)) for _ in p]), "asked again, they differ"),
        (of_students(answer=lambda s, p: FakeStudent.answer(s, p) or ["?"]), "no problems should give no answers"),
        (of_students(train=lambda s, e, *, seed, fresh: {"loss": "low"}), "it reports {'loss': 'low'}"),
        (of_students(train=starts_anywhere), "the same training gives the same answers | they differ"),
        (family(open=lambda s, r, v: Delicate(s._levels(v))), "any text to learn"),
        (family(open=lambda s, r, v: Moody(s._levels(v))), "goes on learning"),
        (family(open=lambda s, r, v: Sharing(s._levels(v))), "leaves others alone"),
    ],
)
def test_a_students_fault_is_found(broken, name):
    faults = failed(checks.check_student(broken, deep=True))
    assert any(name in f for f in faults), faults


def test_a_student_that_learns_nothing_gets_a_warning():
    findings = checks.check_student(of_students(train=lambda s, e, *, seed, fresh: {}), deep=True)
    assert failed(findings) == []
    assert "training changes its answers" in failed(findings, warning=True)[0]


def test_an_open_family_that_draws_is_found():
    class Open(FakeFamily):
        open = True

        def digest(self, variant):
            raise UsageError("There is no such thing.")

        load = digest

    assert "seed 1 draws 'a'" in failed(checks.check_student(Open()))[0]


def test_a_students_variant_can_be_named():
    assert failed(checks.check("student", "fake:c", deep=True)) == []
    assert "'z' is none of its variants" in failed(checks.check("student", "fake:z"))[0]
