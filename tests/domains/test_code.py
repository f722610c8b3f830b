"""The domain code, with the real sandbox."""

import itertools
import random
import warnings

import pytest

from dgym.core import NEW_COMBINATION, Example, Problem
from dgym.domains.code import CodeDomain, executes, head_of, hidden_tests, prompt_of, source_of
from dgym.domains.code.structures import STRUCTURES
from dgym.domains.procedural import held_out, split_of
from dgym.errors import DomainError, UsageError

CODE = CodeDomain()
SKILLS = CODE.skills()


def problem(sentence, head="x"):
    return Problem("p", prompt_of(head, sentence), "", "")


def drawn(skill, count, seed=3):
    return itertools.islice(CODE.stream(skill, seed), count)


def test_there_are_enough_skills_structures_and_sentences():
    assert len(SKILLS) >= 10
    for skill in SKILLS:
        structures = [s for s in STRUCTURES if s.skill == skill]
        assert len({s.name for s in structures}) == len(structures) >= 3
        assert all(len(set(s.forms.sentences)) >= 5 for s in structures)


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: f"{s.skill}/{s.name}")
def test_every_sentence_is_read_back_as_what_it_says(structure):
    rng = random.Random(1)
    head = ", ".join(name for name, _ in structure.parameters)
    for sentence in structure.forms.sentences:
        for _ in range(20):
            values = structure.draw(rng)
            shown = {name: slot.show(values[name], rng) for name, slot in structure.forms.slots.items()}
            task = CODE.parse(prompt_of(head, sentence.format_map(shown)))
            assert task is not None
            assert (task.skill, task.refinement) == (structure.skill, structure.name)
            assert task.data[1] == values


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: f"{s.skill}/{s.name}")
def test_solution_and_meaning_agree(structure):
    """Both are written apart; here they are compared on the hidden tests of many problems."""
    found = (t for t, _ in CODE.stream(structure.skill, 11) if t.refinement == structure.name)
    for task in itertools.islice(found, 60):
        assert executes(task, task.answer), (task.identity, task.answer)


@pytest.mark.parametrize("skill", SKILLS)
def test_there_are_more_than_5000_problems(skill):
    found = set()
    for tries, (task, _) in enumerate(CODE.stream(skill, 77)):
        found.add(task.key)
        if len(found) > 5_000 or tries > 60_000:
            break
    assert len(found) > 5_000


@pytest.mark.parametrize("skill", SKILLS)
def test_reference_solutions_pass_in_the_sandbox(skill):
    chosen = {}
    for p in CODE.problems("selection"):
        if p.skill == skill:
            chosen.setdefault(CODE.parse(p.prompt).refinement, p)
    assert len(chosen) >= 3
    for p in chosen.values():
        assert CODE.grade(p, p.reference) == 1.0


def test_splits_share_no_problem_and_test_alone_shows_held_out_combinations():
    keys = {}
    for split in ("feedback", "selection", "test"):
        tasks = [(CODE.parse(p.prompt), p.slice) for p in CODE.problems(split)]
        keys[split] = {t.key for t, _ in tasks}
        for task, slice_ in tasks:
            assert held_out(task.combination) == (slice_ == NEW_COMBINATION)
            assert slice_ or split_of(task.key) == split
        new = sum(slice_ == NEW_COMBINATION for _, slice_ in tasks)
        assert new == (len(tasks) // 4 if split == "test" else 0)
    assert not keys["feedback"] & keys["selection"]
    assert not keys["test"] & (keys["feedback"] | keys["selection"])
    for skill in SKILLS:
        for example in CODE.fresh(skill, 200, 5):
            task = CODE.parse(example.prompt)
            assert not held_out(task.combination)
            assert split_of(task.key) == "train"


@pytest.mark.parametrize(
    ("sentence", "head", "programs"),
    [
        (
            "Return 3 times x, plus 4.",
            "x",
            [
                "return 4 + x * 3",
                "y = x + x + x\nreturn y + 4",
                "    return 3 * x + 4",
                "return (lambda a: 3 * a + 4)(x)",
            ],
        ),
        (
            "Keep what is even in xs; give each squared.",
            "xs",
            [
                "out = []\nfor x in xs:\n    if not x % 2:\n        out.append(x * x)\nreturn out",
                "return list(map(lambda x: x**2, filter(lambda x: x % 2 == 0, xs)))",
                "```python\nreturn [x * x for x in xs if x % 2 == 0]\n```",
                "Here it is:\n```\ndef f(xs):\n    return [x * x for x in xs if x % 2 == 0]\n```\nDone.",
            ],
        ),
    ],
)
def test_several_correct_programs_are_accepted(sentence, head, programs):
    for program in programs:
        assert CODE.grade(problem(sentence, head), program) == 1.0, program


@pytest.mark.parametrize(
    "program",
    [
        "",
        "return 3 * x",
        "return 3if x else 4",
        "return 3 * x + 4.0",
        "return str(3 * x + 4)",
        "return True",
        "print(3 * x + 4)",
        "this is no Python",
        "return 3 * x + 4 if x < 1000 else 1 / 0; raise SystemExit",
        "while True:\n    pass",
        "import os\nos._exit(0)",
        "class A(int):\n    def __eq__(self, other):\n        return True\nreturn A()",
        "return f(x)",
        "x" * 100_000,
        "\x00",
        "\ud800",
    ],
)
def test_wrong_programs_are_not(program, recwarn):
    wanted = 1.0 if program.endswith("SystemExit") else 0.0  # what comes after a return never runs
    assert CODE.grade(problem("Return 3 times x, plus 4."), program) == wanted
    assert not recwarn.list


def test_grading_together_is_grading_one_by_one(recwarn):
    problems = [p for p in CODE.problems("feedback")[:40] for _ in range(2)]
    responses = [
        text for p in problems[::2] for text in (p.reference + "\n# together", "return 3if x else 4  # " + p.id)
    ]
    before = list(warnings.filters)
    graded = CODE.grade_all(problems, responses)
    assert [score for score, _ in graded] == [1.0, 0.0] * 40
    assert graded == [(CODE.grade(*pair), CODE.measures(*pair)) for pair in zip(problems, responses, strict=True)]
    assert warnings.filters == before
    assert not recwarn.list


def test_hidden_tests_are_the_same_for_every_sentence_and_are_about_its_numbers():
    one, other = (
        CODE.parse(problem(s).prompt)
        for s in (
            "If x is greater than 7, return x squared, otherwise x negated.",
            "Return x squared if x is greater than 7, else x negated.",
        )
    )
    assert one == other
    arguments, expected, _ = hidden_tests(one)
    assert len(arguments) == len(expected) == 8
    assert any(6 <= x <= 8 for (x,) in arguments)


@pytest.mark.parametrize("skill", SKILLS)
def test_wrong_answers_are_wrong_and_run(skill):
    for example in CODE.fresh(skill, 5, 2):
        wrong = CODE.wrong_answer(example, 1)
        assert wrong.prompt == example.prompt
        assert CODE.check(wrong) is False
        assert CODE.measures(problem("Return 3 times x, plus 4."), wrong.response)["compiles"] == 1.0


def test_the_engine_executes_what_it_writes(monkeypatch):
    monkeypatch.setattr("dgym.domains.code.executes", lambda task, body: False)
    with pytest.raises(DomainError, match="A solution is wrong"):
        CODE.fresh("arithmetic", 1, 1)


def test_refinements_are_what_they_say():
    for name in CODE.subskills("loops"):
        for example in CODE.fresh(name, 5, 1):
            assert CODE.parse(example.prompt).refinement == name.partition("/")[2]
            assert example.skill == name
    with pytest.raises(UsageError, match="loops/until"):
        CODE.fresh("loops/untill", 1, 1)
    with pytest.raises(UsageError, match="recursion"):
        CODE.fresh("recursoin", 1, 1)


def test_other_texts_are_no_problem_of_ours():
    assert CODE.parse("What is 3 + 4?") is None
    assert CODE.check(Example("What is 3 + 4?", "7")) is None
    own = 'def g(a):\n    """Return a."""'
    assert CODE.check(Example(own, "return a")) is None
    assert CODE.check(Example(own, "return (")) is False
    for kind in CODE.off_domain():
        for example in CODE.fresh(kind, 20, 1):
            assert CODE.parse(example.prompt) is None
            assert CODE.infer_skill(example.prompt) is None


def test_a_response_becomes_a_program():
    task = CODE.parse(problem("Return 3 times x, plus 4.").prompt)
    head = head_of(task)
    assert source_of("return 1", head) == "def f(x):\n    return 1"
    assert source_of("Text first.\n```python\nreturn 1\n```", head) == "def f(x):\n    return 1"
    assert source_of("def f(x):\n    return 1", head) == "def f(x):\n    return 1"
    assert source_of("```\nreturn 1", head) == "def f(x):\n    return 1"
