"""The domain tools: what holds for every request, and plans by hand."""

import itertools
import random
import re
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgym.checks import check_domain
from dgym.core import NEW_COMBINATION, Budget, Example, Measures, Problem
from dgym.domains.procedural import split_of
from dgym.domains.tools import CATALOGUE, Call, Ref, ToolsDomain, WholeCatalogue, parse_plan, show, validate
from dgym.domains.tools.catalogue import OTHER_TOOLS
from dgym.domains.tools.grammar import EVERY_TOOL, PHRASES, skeleton
from dgym.domains.tools.plans import MAX_CHARACTERS, compare, same, tools_of
from dgym.domains.tools.skills import OFF_DOMAIN, SKILLS, TEST_ONLY, read_request, structures
from dgym.episode import overlap_index
from dgym.errors import DomainError, UsageError
from dgym.gate import Gate

TOOLS = ToolsDomain()
SPLITS = ("feedback", "selection", "test")
EVERY = (*SKILLS, *TEST_ONLY, *OFF_DOMAIN)


def drawn(skill, count, seed=7):
    return list(itertools.islice(TOOLS.stream(skill, seed), count))


def problem(reference, prompt=""):
    return Problem("p", prompt, reference, "")


def request_of(prompt):
    return prompt.rpartition("Request: ")[2]


# Catalogue and skills --------------------------------------------------------------------------------------------


def test_the_catalogue_is_large_typed_and_shown():
    assert len(CATALOGUE) >= 22
    assert not set(CATALOGUE) & set(OTHER_TOOLS)
    for tool, schema in zip(CATALOGUE.values(), TOOLS.tools, strict=True):
        assert schema["name"] == tool.name
        assert schema["description"].endswith(".")
        assert schema["parameters"]["required"] == list(tool.required)
        assert {n: p["format"] for n, p in schema["parameters"]["properties"].items()} == tool.parameters
    assert CATALOGUE["weather"].signature == "weather(city; day, time, unit)"
    assert CATALOGUE["crop"].signature == "crop(image, width, height)"


def test_skills_are_the_tuples_of_tools_of_one_to_four_calls():
    assert {tuple(s.split("+")) for s in EVERY} == {tools_of(part.plan) for s in EVERY for part in structures()[s]}
    assert Counter(s.count("+") + 1 for s in SKILLS) == {1: 4, 2: 4, 3: 4, 4: 4}
    used = {tool for skill in SKILLS for tool in skill.split("+")}
    assert len(used) >= 20
    assert used == set(CATALOGUE)
    for skill in TEST_ONLY:
        assert set(skill.split("+")) <= used
        assert skill not in SKILLS


@pytest.mark.parametrize("skill", EVERY)
def test_every_later_call_consumes_an_earlier_output(skill):
    for part in structures()[skill]:
        used = {v.call for call in part.plan for _, v in call.arguments if isinstance(v, Ref)}
        assert used == set(range(1, len(part.plan)))


@pytest.mark.parametrize("skill", SKILLS)
def test_a_skill_has_structures_forms_and_problems(skill):
    data = drawn(skill, 7_500)
    forms = {}
    for task, example in data[:500]:
        forms.setdefault(task.refinement, set()).add(skeleton(request_of(example.prompt))[0])
    assert set(forms) == set(TOOLS.refinements()[skill])
    assert len(forms) >= 3
    assert all(len(sentences) >= 5 for sentences in forms.values())
    assert len({task.key for task, _ in data}) >= 5_000
    each = Counter(refinement for refinement, _ in {(t.refinement, t.key) for t, _ in data})
    assert min(each.values()) > 1_000


def test_phrases_name_no_values():
    for phrases in PHRASES.values():
        for text in (*phrases.nouns, *phrases.commands, phrases.back):
            assert "%" not in text
            assert skeleton(re.sub(r"\{=?\w+\}", " ", text))[1] == []
    assert set(PHRASES) == set(EVERY_TOOL)


# Reading back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skill", EVERY)
def test_every_sentence_is_read_back(skill):
    rng = random.Random(1)
    for part in structures()[skill]:
        for clause in {c.key: c for group in part.clauses for c in group}.values():
            values = part.draw(rng)
            text = clause.text % tuple(values[name] for name in clause.slots)
            text = f"I need {text}." if clause.noun else f"Please {text}."
            found = read_request(text)
            assert found is not None, text
            assert found[0] is part
            assert found[1] == values


@settings(deadline=None)
@given(st.sampled_from(EVERY), st.integers(0, 2**31))
def test_what_is_drawn_is_read_back_and_right(skill, seed):
    for task, example in drawn(skill, 3, seed):
        assert TOOLS.parse(example.prompt) == task
        assert TOOLS.parse(request_of(example.prompt).upper().replace(" ", "  ")).skill == skill
        assert TOOLS.right(task, example.response)
        assert TOOLS.check(example) is True
        assert example.response == task.answer == show(task.data)
        assert parse_plan(example.response) == task.data
        assert validate(task.data, EVERY_TOOL) == []


def test_a_fingerprint_knows_neither_sentence_nor_list():
    texts = (
        "Mail a summary of the contents of report12.pdf to Anna.",
        "Can you read report12.pdf, then summarize it, then email the summary to Anna?",
        "Tools: mail(person, text)\nRequest: First open report12.pdf and then mail an outline of the text to Anna.",
    )
    assert len({TOOLS.fingerprints(text) for text in texts}) == 1
    other = "Mail a summary of the contents of report13.pdf to Anna."
    assert TOOLS.fingerprints(other) != TOOLS.fingerprints(texts[0])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?",
        "Request: ",
        "Please ",
        "Hello, how are you?",
        "Mail a summary of the contents of <document> to <person>.",
        "Mail a summary of the contents of report12.pdf to Anna and Ben.",
        "Set an alarm for 25:00 on Monday.",
        "Convert 99999999999999999999 USD to EUR.",
        '"' * 500,
        "a:" * 300,
        "photo12.png " * 10_000,
    ],
)
def test_other_texts_are_no_requests(text):
    assert TOOLS.parse(text) is None
    assert TOOLS.fingerprints(text)[0].startswith("text|")


def test_prompts_are_short_and_their_lists_tell_little():
    sizes = {}
    first = Counter()
    for skill in SKILLS:
        for task, example in drawn(skill, 300):
            tools, _, request = example.prompt.partition("\nRequest: ")
            listed = [part.partition("(")[0] for part in tools.removeprefix("Tools: ").split("), ")]
            assert len(set(listed)) == len(listed)
            assert set(tools_of(task.data)) <= set(listed)
            assert len(request) < 250
            assert len(example.prompt) < 450
            assert len(example.response) < 150
            sizes.setdefault(skill.count("+"), Counter())[len(listed)] += 1
            first[listed.index(task.data[0].tool)] += 1
    assert {tuple(sorted(counts)) for counts in sizes.values()} == {(5, 6, 7)}
    assert first.most_common()[0][1] < 0.3 * first.total()


def test_drawing_and_reading_are_fast():
    data = [pair for skill in SKILLS for pair in drawn(skill, 10)]
    start = time.process_time()
    data = [pair for skill in SKILLS for pair in drawn(skill, 300)]
    middle = time.process_time()
    for _, example in data:
        TOOLS.parse(example.prompt)
    # A fifth of what an idle machine does.
    assert len(data) / (middle - start) > 1_000
    assert len(data) / (time.process_time() - middle) > 1_000


# Splits ----------------------------------------------------------------------------------------------------------


def test_the_domain_passes_the_public_checks():
    assert [f for f in check_domain(TOOLS) if not f.ok] == []
    assert isinstance(TOOLS, Measures)


@pytest.mark.parametrize("split", SPLITS)
def test_splits_have_their_size_and_their_own_problems(split):
    problems = TOOLS.problems(split)
    wanted = TOOLS.problems_per_skill[split]
    names = (*SKILLS, *TEST_ONLY) if split == "test" else tuple(SKILLS)
    assert Counter(p.skill for p in problems) == dict.fromkeys(names, wanted)
    assert {p.skill for p in problems if p.slice == NEW_COMBINATION} == set(names) - set(SKILLS)
    assert {split_of(TOOLS.fingerprints(p.prompt)[0]) for p in problems if not p.slice} == {split}
    assert TOOLS.problems("train") == ()


def test_no_more_than_a_third_of_the_test_split_is_new():
    new = [p.slice == NEW_COMBINATION for p in TOOLS.problems("test")]
    assert 0.2 < sum(new) / len(new) < 0.34


def test_nothing_but_the_test_split_shows_a_new_combination():
    shown = [e.prompt for skill in (*SKILLS, *OFF_DOMAIN) for e in TOOLS.fresh(skill, 200, 3)]
    shown += [p.prompt for split in ("feedback", "selection") for p in TOOLS.problems(split)]
    assert not {TOOLS.parse(prompt).skill for prompt in shown} & set(TEST_ONLY)
    for skill in TEST_ONLY:
        assert skill not in TOOLS.skills()
        with pytest.raises(UsageError):
            TOOLS.fresh(skill, 1, 1)


@pytest.mark.parametrize("skill", SKILLS)
def test_refinements_can_be_written(skill):
    for part in TOOLS.subskills(skill):
        assert {TOOLS.parse(e.prompt).refinement for e in TOOLS.fresh(part, 50, 1)} == {part.partition("/")[2]}


def test_fresh_examples_pass_the_gate():
    fresh = [e for skill in (*SKILLS, *OFF_DOMAIN) for e in TOOLS.fresh(skill, 100, 5)]
    verdicts = Gate(TOOLS, overlap_index(TOOLS), Budget(len(fresh)), verify=True).submit(fresh)
    assert {v.reason for v in verdicts} == {""}


@pytest.mark.parametrize("skill", OFF_DOMAIN)
def test_off_the_domain_are_tools_beyond_the_catalogue(skill):
    for example in TOOLS.fresh(skill, 20, 1):
        assert TOOLS.infer_skill(example.prompt) is None
        assert validate(parse_plan(example.response)) != []


# Plans -----------------------------------------------------------------------------------------------------------

WEATHER = (
    Call("weather", (("city", "Oslo"), ("day", "Monday"))),
    Call("translate", (("text", Ref(1)), ("language", "French"))),
)


@pytest.mark.parametrize(
    "text",
    [
        "weather(city=Oslo, day=Monday); translate(text=$1, language=French)",
        "weather(city=Oslo,day=Monday);translate(text=$1,language=French);",
        "  weather(city = Oslo, day = Monday)\n\ntranslate(text = $1, language = French)\n",
        "weather(city=\"Oslo\", day='Monday'); translate(text=\"$1\", language='French')",
        "1. weather(city=Oslo, day=Monday)\n2. translate(text=$1, language=French)",
        "r1 = weather(city='Oslo', day='Monday')\nr2 = translate(text=r1, language='French')",
        "out = weather(city='Oslo', day='Monday'); x = translate(text=out.text, language='French')",
        "$1 = weather(city=Oslo, day=Monday); $2 = translate(text=$1.text, language=French)",
        "weather(Oslo, Monday); translate($1, French)",
        "weather(Oslo, day=Monday); translate(text: $1, language: French)",
        "```python\nweather(city=Oslo, day=Monday)\ntranslate(text=$1, language=French)\n```",
        "weather(city=Oslo, day=Monday); translate(text=<node-0>.text, language=French)",
        '[{"id": 0, "name": "weather", "args": {"city": "Oslo", "day": "Monday"}}, '
        '{"id": 1, "name": "translate", "args": {"text": "<node-0>.text", "language": "French"}}]',
        '{"nodes": [{"id": 4, "name": "weather", "args": {"city": "Oslo", "day": "Monday"}}, '
        '{"id": 5, "name": "translate", "args": {"text": "<node-4>", "language": "French"}}]}',
    ],
)
def test_a_plan_is_read_in_several_notations(text):
    assert parse_plan(text) == WEATHER


VALUES = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20).filter(lambda t: not t.startswith(("$", "<")))
NAMES = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True)
CALLS = st.builds(
    Call, NAMES, st.lists(st.tuples(NAMES, st.one_of(VALUES, st.builds(Ref, st.integers(1, 9)))), max_size=4).map(tuple)
)


@settings(deadline=None)
@given(st.lists(CALLS, min_size=1, max_size=4).map(tuple))
def test_what_is_shown_is_read(plan):
    assert parse_plan(show(plan)) == plan


def test_values_with_other_characters_are_quoted():
    plan = (Call("alarm", (("time", "07:30"), ("label", 'say "hi", (now); a=b\\c'))),)
    assert show(plan) == 'alarm(time=07:30, label="say \\"hi\\", (now); a=b\\\\c")'
    assert parse_plan(show(plan)) == plan


RUBBISH = (
    "",
    " ",
    "no plan at all",
    "weather",
    "weather(",
    "weather(city",
    "weather(city=",
    "weather(city=Oslo",
    "weather(city=Oslo))",
    "weather(city=Oslo,)",
    "weather(city='Oslo)",
    "weather(text=weather(city=Oslo))",
    "The plan is weather(city=Oslo)",
    "weather(city=Oslo) and more",
    "[]",
    "[1]",
    "{}",
    '[{"name": 3}]',
    '[{"name": "weather", "args": []}]',
    '{"nodes": 7}',
    "[{",
    "\x00\ufffd\U0001f600",
)


@pytest.mark.parametrize("text", RUBBISH)
def test_rubbish_is_no_plan(text):
    assert parse_plan(text) is None


PARTS = (
    *RUBBISH[2:],
    "a(",
    "a(b=",
    '"',
    "'",
    "\\",
    '\\"',
    "```\n",
    "a=",
    "1. ",
    "a()",
    "a(b=$1)",
    "[[",
    '{"a":',
    "<node-",
)


@pytest.mark.parametrize("part", PARTS)
def test_any_long_text_is_read_or_refused_at_once(part):
    task = drawn("convert", 1)[0][0]
    start = time.process_time()
    for text in (
        (part * MAX_CHARACTERS)[:MAX_CHARACTERS],
        f"a(b={part * MAX_CHARACTERS}"[:MAX_CHARACTERS],
        part * 99_999,
    ):
        parse_plan(text)
        assert TOOLS.right(task, text) is False
        assert TOOLS.measures(problem(task.answer), text)["plan_exact"] == 0
    assert time.process_time() - start < 2


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab1$=(),;:'\"\\[]{}<>- \n`"), max_size=60))
def test_reading_never_raises(text):
    plan = parse_plan(text)
    if plan is not None:
        validate(plan)
        assert parse_plan(show(plan)) is not None
    TOOLS.check(Example("Convert 3 USD to EUR.", text or "?"))
    TOOLS.wrong_answer(Example("What is this?", text or "?"), 1)


def test_json_too_deep_is_no_plan():
    for depth in (500, 900, 990, 5_000):
        parse_plan('[{"name": "a", "id": ' + "[" * depth + "]" * depth + "}]")
        parse_plan('[{"name": "a", "args": {"x": ' + "[" * depth + "]" * depth + "}}]")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("wether(city=Oslo)", "there is no tool 'wether'"),
        ("weather(day=Monday)", "the argument 'city' is missing"),
        ("weather(city=Oslo, wind=3)", "it takes no argument 'wind'"),
        ("weather(city=Oslo, city=Rome)", "the argument 'city' is given 2 times"),
        ("weather(city=12)", "city='12' is no city"),
        ("weather(city=Oslo, day=Mayday)", "day='Mayday' is no day"),
        ("weather(city=Oslo, time=24:10)", "time='24:10' is no time"),
        ("resize(image=memo1.mp3, width=10)", "image='memo1.mp3' is no image"),
        ("resize(image=photo1.png, width=wide)", "width='wide' is no number"),
        ("invite(event=party, person=Anna)", "event='party' is no event"),
        ("translate(text=$1, language=French)", "text refers to $1, which is no earlier call"),
        ("translate(text=$2, language=French); weather(city=Oslo)", "text refers to $2"),
        ("translate(text=$0, language=French)", "text refers to $0"),
        ("weather(city=Oslo); blur(image=$1)", "image needs image, and $1 is text"),
        ("weather(city=Oslo); weather(city=$1)", "city needs city, and $1 is text"),
        ("alarm(time=10:00, day=Monday); mail(person=Anna, text=$1)", "text needs text, and $1 is receipt"),
    ],
)
def test_validation_says_what_is_wrong(text, fault):
    found = validate(parse_plan(text))
    assert len(found) == 1
    assert fault in found[0]


@pytest.mark.parametrize(
    "text",
    [
        "weather(city=Lisbon, day=tomorrow, time=7:05)",
        'weather(city="New York")',
        "locate(person=Zoe); distance(start=$1, goal=Oslo)",
        "hotel(city=Oslo, nights=2); mail(person=Anna, text=$1)",
        "convert(amount=12.50, source=USD, target=EUR)",
        "song(artist=Abba); save(file=$1, folder=Travel)",
        "subtract(first=3, second=-1)",
    ],
)
def test_validation_lets_pass_what_could_be_carried_out(text):
    assert validate(parse_plan(text)) == []


def test_an_empty_plan_is_faulty():
    assert validate(()) == ["the plan has no call"]


# Grading ---------------------------------------------------------------------------------------------------------

ASKED = "Mail a summary of the contents of report12.pdf to Anna."
RIGHT = "read(document=report12.pdf); summarize(text=$1); mail(person=Anna, text=$2)"


@pytest.mark.parametrize(
    ("response", "grade", "known_right"),
    [
        (RIGHT, 1, True),
        ("read(report12.pdf)\nsummarize($1)\nmail(Anna, $2)", 1, True),
        ("a = read(document='REPORT12.pdf')\nb = summarize(text=a)\nmail(text=b, person='anna')", 1, True),
        # The tools are right, not the rest.
        (RIGHT.replace("12", "13"), 1, False),
        (RIGHT.replace("text=$2", "text=$1"), 1, False),
        (RIGHT.replace("text=$1", "text=$1, sentences=3"), 1, False),
        (RIGHT.replace("person=Anna, ", ""), 1, False),
        (RIGHT.replace("text=$2", "text=$2, wind=3"), 1, False),
        # The tools are wrong.
        ("summarize(text=$1); read(document=report12.pdf); mail(person=Anna, text=$2)", 0, False),
        ("read(document=report12.pdf); summarize(text=$1)", 0, False),
        (RIGHT + "; blur(image=photo1.png)", 0, False),
        ("read+summarize+mail", 0, False),
        ("", 0, False),
    ],
)
def test_the_grade_is_the_list_of_tools_and_the_gate_wants_all(response, grade, known_right):
    assert TOOLS.grade(problem(RIGHT, ASKED), response) == grade
    assert TOOLS.check(Example(ASKED, response)) is known_right


@pytest.mark.parametrize(
    ("prompt", "response", "verdict"),
    [
        ("Tell me about Oslo in spring.", "weather(city=Oslo)", None),
        ("Tell me about Oslo in spring.", "weather(town=Oslo)", False),
        ("Tell me about Oslo in spring.", "It is lovely.", False),
        ("Tell me about Oslo in spring.", "lights(room=hall, percent=3)", False),
        ("Tools: weather(city), mail(person, text)\nRequest: Is it cold?", "weather(city=Oslo)", None),
        ("Tools: mail(person, text)\nRequest: Is it cold?", "weather(city=Oslo)", False),
        (f"Tools: read(document; page), mail(person, text)\nRequest: {ASKED}", RIGHT, False),
        (f"Tools: read(document), summarize(text), mail(person, text)\nRequest: {ASKED}", RIGHT, True),
    ],
)
def test_a_plan_must_fit_the_catalogue_and_the_list(prompt, response, verdict):
    assert TOOLS.check(Example(prompt, response)) is verdict


def test_an_unknown_problem_is_the_domains_error():
    with pytest.raises(DomainError, match="of no known kind"):
        TOOLS.grade(problem(RIGHT, "What is love?"), RIGHT)
    with pytest.raises(DomainError, match="is no plan"):
        TOOLS.measures(problem("?"), RIGHT)


def scores(reference, response):
    return {n: pytest.approx(v) for n, v in compare(parse_plan(reference), parse_plan(response)).items()}


def test_measures_by_hand():
    # One of three tools too many, one argument name missing, two values wrong, one of two edges found.
    reference = "read(document=a.pdf, page=2); summarize(text=$1); mail(person=Anna, text=$2)"
    response = "read(document=b.pdf); summarize(text=$1); mail(person=Anna, text=$1); blur(image=c.png)"
    assert scores(reference, response) == {
        "tool_precision": 3 / 4,
        "tool_recall": 1,
        "tool_f1": 6 / 7,
        "argument_name_precision": 4 / 5,
        "argument_name_recall": 4 / 5,
        "argument_name_f1": 4 / 5,
        "argument_value_precision": 2 / 5,
        "argument_value_recall": 2 / 5,
        "argument_value_f1": 2 / 5,
        "edge_precision": 1 / 2,
        "edge_recall": 1 / 2,
        "edge_f1": 1 / 2,
        "plan_exact": 0,
    }


def test_tools_are_compared_with_their_multiplicity():
    found = scores("stock(company=A); stock(company=B); subtract(first=$1, second=$2)", "stock(company=A)")
    assert (found["tool_precision"], found["tool_recall"], found["tool_f1"]) == (1, 1 / 3, 1 / 2)
    assert (found["edge_precision"], found["edge_recall"], found["edge_f1"]) == (0, 0, 0)


def test_the_extremes_of_the_measures():
    for split in SPLITS:
        for p in TOOLS.problems(split)[:40]:
            assert set(TOOLS.measures(p, p.reference).values()) == {1.0}
            assert set(TOOLS.measures(p, "I do not know.").values()) == {0.0}
    # Without any edge on either side there is nothing to miss.
    assert scores("alarm(time=07:00)", "alarm(time=7:00)")["edge_f1"] == 1
    assert scores("alarm(time=07:00)", "weather(city=Oslo); mail(person=Anna, text=$1)")["edge_f1"] == 0


def test_what_makes_no_difference_to_a_plan():
    one = parse_plan("tip(amount=07, percent=5.50, currency=eur)")
    assert same(one, parse_plan('tip(currency="EUR", percent=05.5, amount=7)'))
    assert not same(one, parse_plan("tip(amount=70, percent=5.5, currency=eur)"))
    assert same(parse_plan("alarm(time=7:05)"), parse_plan("alarm(time=07:05)"))


@pytest.mark.parametrize("skill", [*SKILLS, *OFF_DOMAIN])
def test_wrong_answers_are_plausible_and_wrong(skill):
    kinds = set()
    for i, example in enumerate(TOOLS.fresh(skill, 20, 9)):
        wrong = TOOLS.wrong_answer(example, i)
        assert wrong == TOOLS.wrong_answer(example, i)
        assert wrong.prompt == example.prompt
        assert TOOLS.check(wrong) is False
        assert not TOOLS.right(TOOLS.parse(example.prompt), wrong.response)
        assert validate(parse_plan(wrong.response), EVERY_TOOL) == []
        kinds.add(tools_of(parse_plan(wrong.response)))
    assert len(kinds) > 1


def test_the_whole_catalogue_may_stand_in_the_prompt():
    every = WholeCatalogue()
    (example,) = every.fresh("scan+translate", 1, 1)
    listed = example.prompt.partition("\n")[0]
    assert all(f"{name}(" in listed for name in CATALOGUE)
    assert every.check(example) is True
    assert every.description != ToolsDomain.description
    assert {p.skill for p in every.problems("feedback")} == set(SKILLS)
