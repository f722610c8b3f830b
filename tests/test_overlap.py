"""The search for copies of evaluation problems: every disguise, honest problems, any text at all."""

import io
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance

from dgym.core import Budget, Example, Problem, to_json
from dgym.domains import make_domain
from dgym.episode import overlap_index
from dgym.fakes import FakeDomain
from dgym.gate import Gate, told
from dgym.overlap import LIMIT, OverlapIndex, words_of


class FreeText(FakeDomain):
    """A domain that recognises no text."""

    def fingerprints(self, prompt, images=()):
        return (f"text|{prompt}|{images}",)

    def overlap_keys(self, problem):
        return self.fingerprints(problem.prompt, problem.images)

    def check(self, example):
        return None


BOXES = (
    "A carpenter makes 12 boxes on Monday and 7 fewer on Tuesday. Each box takes 3 boards, "
    "and every board costs 4 coins. How many coins does she spend on boards in these two days?"
)
GARDEN = (
    "The gardener who looks after the old park near the river wants to plant roses along the path, "
    "but the ground there is so wet that most of them would not survive the winter."
)
SHORT = "What colour is the roof of the tallest barn?"
OTHER = (
    "A tailor sews 5 shirts in the morning and twice as many after lunch. A shirt needs 8 buttons, "
    "and he has 90 of them in a drawer. How many buttons are left in the evening?"
)
SOLUTION = """
def running_median(readings, width):
    window, medians = [], []
    for place, reading in enumerate(readings):
        window.append(reading)  # the newest
        if len(window) > width:
            window.pop(0)
        ordered = sorted(window)
        middle = len(ordered) // 2
        if len(ordered) % 2:
            medians.append(ordered[middle])
        else:
            medians.append((ordered[middle - 1] + ordered[middle]) / 2)
    return medians
"""
TEXTS = {"boxes": BOXES, "garden": GARDEN, "short": SHORT}


def index(*problems, split="test"):
    return OverlapIndex(FreeText(), {split: problems})


FREE = index(*(Problem(name, text, "", "") for name, text in TEXTS.items()))


def find(prompt, response="x", images=(), *, known=FREE, rejected=None):
    example = Example(prompt, response, images=tuple(images), rejected=rejected)
    return known.find(example, FreeText().fingerprints(prompt, example.images))


def png(picture):
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


# --------------------------------------------------------------------------------------------------------------
# Words

DISGUISES = {
    "capitals": str.upper,
    "punctuation": lambda t: "* " + t.replace(" ", " ... ").replace(".", "!"),
    "spaces": lambda t: t.replace(" ", "\n\t\u00a0"),
    "underscores": lambda t: t.replace(" ", "_"),
    "zero-width": "\u200b".join,
    "soft hyphens": lambda t: re.sub(r"(?<=[a-z])(?=[a-z])", "\u00ad", t),
    "full width": lambda t: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in t),
    "accents": lambda t: re.sub("([aeiou])", "\\1\u0308", t),
    "Cyrillic": lambda t: t.translate(str.maketrans("aeopcAEHM", "аеорсАЕНМ")),
    "sentences around it": lambda t: (
        f"Here is what my friend asked me yesterday. {t} I have no idea, to be honest, do you?"
    ),
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("disguise", DISGUISES.values(), ids=DISGUISES)
def test_a_disguised_copy_is_found_and_named(name, disguise):
    copy = disguise(TEXTS[name])
    assert copy != TEXTS[name]
    found = find(copy)
    assert (found.split, found.problems) == ("test", (name,))


@pytest.mark.parametrize("name", TEXTS)
def test_a_problem_in_a_response_under_another_prompt_is_found(name):
    hidden = f"Sure. By the way, somebody asked: {TEXTS[name]} Nobody knew."
    assert find(OTHER, hidden).search == "response"
    assert find(OTHER, "Nothing.", rejected=hidden).problems == (name,)
    assert find(OTHER, "Nothing.") is None


def test_a_problem_with_a_few_other_words_and_the_same_numbers_is_found():
    copy = BOXES
    for word, other in (("carpenter", "joiner"), ("makes", "builds"), ("Each", "Every"), ("spend", "pay")):
        assert word in copy
        copy = copy.replace(word, other)
    copy = copy.replace("and every board costs", "where a board costs").replace("these two days", "both days")
    assert find(copy).search == "numbers"
    # With other numbers it is a problem of its own.
    assert find(copy.replace("12", "15")) is None


def test_a_long_text_with_words_exchanged_here_and_there_is_found_if_it_says_the_same_numbers():
    def exchanged(text):
        return " ".join("zounds" if i % 11 == 10 else word for i, word in enumerate(text.split()))

    assert find(exchanged(GARDEN)).search == "near-duplicate"
    assert find(exchanged(f"{GARDEN} There are 12 of them.")) is None
    assert find(" ".join(reversed(GARDEN.split()))) is None


def test_where_the_domain_recognises_a_prompt_its_fingerprint_decides():
    recognised = ("story|12 7 3 4 coins",)
    assert FREE.find(Example(BOXES.upper(), "x"), recognised) is None
    assert FREE.find(Example(BOXES.upper(), GARDEN), recognised).problems == ("garden",)
    assert FREE.find(Example(BOXES.upper(), "x"), (*recognised, "weaker")).problems == ("boxes",)


@pytest.mark.parametrize(
    "text",
    [
        OTHER,
        "What colour is the door of the smallest barn?",
        "The gardener who looks after the old park wants to plant tulips.",
        "A baker makes 12 loaves. How many are 7 fewer?",
    ],
)
def test_honest_texts_are_not(text):
    assert find(text, text) is None


def test_counting_and_the_alphabet_are_nobodys_text():
    counting = " ".join(str(i) for i in range(1, 30))
    known = index(
        Problem("a", f"Add these up, please: {counting}", "", ""), Problem("b", "1, 0, 0, 0, 0, 0, 0, 0", "", "")
    )
    assert find("Draw a line of dots.", "1 0 0 0 0 0 0 0 0 0 0 0", known=known) is None
    assert find("Say the first numbers.", counting, known=known) is None
    assert find(f"Add these up, please: {counting}", known=known) is not None


def test_all_problems_that_are_repeated_are_named_whatever_their_split():
    problems = {"feedback": [Problem("f", GARDEN, "", "")], "test": [Problem("t", BOXES, "", "")]}
    known = OverlapIndex(FreeText(), problems)
    found = known.find(Example(f"{BOXES} {GARDEN}", "x"), ("text|",))
    assert (found.split, set(found.problems)) == ("feedback", {"f", "t"})


def test_words_that_many_problems_share_hide_no_problem_and_make_none():
    frame = "Please read the following little story with great care and answer with one whole number only."
    problems = [
        Problem(str(i), f"{frame} {a} has {i + 2} cats and {b} has {i + 30}.", "", "")
        for i, (a, b) in enumerate([("Ann", "Bob"), ("Cid", "Dot"), ("Eve", "Fay"), ("Gus", "Hal"), ("Ida", "Jim")])
    ]
    known = index(*problems)
    often = index(*(Problem(str(i), SHORT, "", "", (bytes([i]),)) for i in range(4)))
    assert find(f"I wonder. {SHORT}", known=often) is None
    assert find(f"{frame} There are 3 dogs and 4 more.", frame, known=known) is None
    assert find(problems[2].prompt.upper(), known=known).problems == ("2",)


@settings(deadline=None)
@given(st.text(max_size=400))
def test_spelling_changes_no_word(text):
    words = words_of(text)
    assert words == words_of(text)
    assert words_of(" ".join(words)) == words, "what is normalised stays so"
    assert words_of("\u200b".join(text)) == words_of(text) or not text.isascii()
    if text.isascii():
        assert words_of(text.upper()) == words
        assert words_of(text + "\u00ad") == words


@settings(deadline=None)  # the first one imports what reads pictures
@given(st.text(max_size=300), st.text(max_size=300), st.lists(st.binary(max_size=40), max_size=2))
def test_anything_can_be_looked_for_and_the_answer_is_always_the_same(prompt, response, images):
    found = find(prompt, response, images)
    assert find(prompt, response, images) == found
    known = index(Problem("a", prompt, response, "", tuple(images)), Problem("b", response, prompt, ""))
    assert find(prompt, response, images, known=known).problems[0] == "a"
    find(response, prompt, images, known=known)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.sampled_from(sorted({*words_of(BOXES), *words_of(GARDEN)} - {"a", "12", "7", "3", "4"})),
        min_size=13,
        max_size=60,
    ),
    st.data(),
)
def test_any_thirteen_words_in_a_row_are_found_in_any_case(words, data):
    known = index(Problem("a", " ".join(words), "", ""))
    start = data.draw(st.integers(0, len(words) - 13))
    run = " ".join(words[start : start + 13])
    assert find(f"Zounds! {run.upper()} Zounds!", known=known) is not None


LONG = [
    *(
        "a",
        " ",
        "a b ",
        "```",
        "```x",
        '"""',
        '"',
        "'",
        "\\",
        "/*",
        "//",
        "#",
        "def f(",
        "x = 1\n",
        "if : ",
        "if{ ",
        "from a",
    ),
    *("import ", "1 ", "\ufdfa", "\u200b", "a\u0301", "漢", "\x00", "\U0001f600", "for x in y:\n"),
]


@pytest.mark.parametrize("piece", LONG, ids=ascii)
def test_a_text_of_a_megabyte_does_not_stall(piece):
    text = piece * (1_000_000 // len(piece))
    known = index(Problem("boxes", BOXES, "", ""), Problem("code", "Do it.", f"x = 1\n{SOLUTION}", ""))
    assert find(text, f"x = 1\n{text}", known=known) is None
    assert len(" ".join(words_of(text))) <= 36 * LIMIT, "no more is looked at"
    assert find(f"{BOXES} {text}", known=known) is not None
    assert find(text[: LIMIT - 1000] + f" . {BOXES}", known=known) is not None, "what is long hides nothing"


# --------------------------------------------------------------------------------------------------------------
# Code

CODE = index(Problem("median", "Smooth the readings of a sensor.", SOLUTION, ""))
RENAMED = SOLUTION
for _name in ("running_median", "readings", "reading", "width", "window", "medians", "place", "ordered", "middle"):
    RENAMED = re.sub(rf"\b{_name}\b", f"q{len(_name) * 7}_{_name[0]}", RENAMED)
COMMENTED = "\n".join(f"{line}  # step {n}" if line else "# begin" for n, line in enumerate(SOLUTION.split("\n")))


@pytest.mark.parametrize(
    "copy",
    [
        SOLUTION,
        RENAMED,
        COMMENTED,
        f"Of course:\n```python\n{RENAMED}```\nThat is all.",
        f"x = 1 is how I begin.\n```\npass\n```\nand then\n```python\n{COMMENTED}```",
        f"def helper(value):\n    return [value] * 3\n{RENAMED}",
    ],
    ids=["as it is", "names", "comments", "fenced", "fenced twice", "other code before it"],
)
def test_a_copy_of_a_solution_is_found_whatever_its_names(copy):
    found = find("Write something useful for a weather station.", copy, known=CODE)
    assert (found.search, found.problems) == ("code", ("median",))


def test_other_code_is_no_copy():
    other = "def total(values):\n" + "".join(
        f"    step{i} = values[{i}] + {i} if len(values) > {i} else max(values, default=0) - {i}\n" for i in range(12)
    )
    assert find("Write something useful.", other, known=CODE) is None
    # The same statements about other things that are not the author's to name.
    elsewhere = SOLUTION
    for name, another in (
        ("append", "add"),
        ("pop", "discard"),
        ("sorted", "set"),
        ("len", "max"),
        ("enumerate", "zip"),
    ):
        elsewhere = re.sub(rf"\b{name}\b", another, elsewhere)
    assert find("Write something useful.", elsewhere, known=CODE) is None
    # A loop that everybody writes is too little, however many others there are.
    loop = "def f(xs):\n    out = []\n    for x in xs:\n        out.append(x)\n    return out"
    known = index(Problem("loop", "Do it.", loop, ""), Problem("median", "Smooth the readings.", SOLUTION, ""))
    assert find("Copy a list.", loop.replace("xs", "rows"), known=known) is None
    assert find("Copy a list.", SOLUTION, known=known).problems == ("median",)


# --------------------------------------------------------------------------------------------------------------
# Pictures


def scene(*things):
    picture = Image.new("RGB", (160, 120), (90, 120, 160))
    draw = ImageDraw.Draw(picture)
    for x, y, colour in things:
        draw.ellipse((x, y, x + 34, y + 34), fill=colour)
        draw.rectangle((x + 10, y + 34, x + 24, y + 60), fill=(60, 40, 30))
    return picture


TREES = scene((12, 20, (200, 40, 40)), (100, 50, (240, 220, 60)))
QUESTION = "Is the red tree to the left of the yellow one?"
SEEN = index(Problem("trees", QUESTION, "yes", "", (png(TREES),)))


def jpeg(picture, quality=70):
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()


def marked(picture):
    copy = picture.copy()
    copy.putpixel((3, 3), (255, 255, 255))
    return copy


@pytest.mark.parametrize(
    "copy",
    [
        png(marked(TREES)),
        jpeg(TREES),
        png(TREES.resize((320, 240))),
        jpeg(TREES.resize((80, 60))),
        png(ImageEnhance.Brightness(TREES).enhance(1.05)),
    ],
    ids=["one pixel", "JPEG", "larger", "smaller", "brighter"],
)
@pytest.mark.parametrize("question", [QUESTION, "Please: is the RED tree to the left of the yellow one"])
def test_a_picture_that_looks_the_same_with_the_same_question_is_found(copy, question):
    found = find(question, "yes", [copy], known=SEEN)
    assert (found.search, found.problems) == ("picture", ("trees",))


@pytest.mark.parametrize(
    ("question", "picture"),
    [
        ("Is the red tree to the right of the yellow one?", TREES),
        ("How many trees are there?", TREES),
        (QUESTION, scene((12, 20, (40, 60, 200)), (100, 50, (240, 220, 60)))),
        (QUESTION, scene((100, 20, (200, 40, 40)), (12, 50, (240, 220, 60)))),
        (QUESTION, Image.new("RGB", (160, 120), (90, 120, 160))),
    ],
    ids=["another question", "yet another", "another colour", "other places", "nothing there"],
)
def test_another_question_or_another_picture_is_another_problem(question, picture):
    assert find(question, "yes", [png(picture)], known=SEEN) is None


def test_a_long_question_may_be_asked_again_of_another_picture_but_not_of_none():
    question = f"{QUESTION} And is the sky behind both of them as blue as it is in summer, or rather grey?"
    known = index(Problem("a", question, "yes", "", (png(TREES),)))
    elsewhere = png(scene((60, 10, (250, 250, 250))))
    assert find(question, "no", [elsewhere], known=known) is None
    assert find(question, "no", known=known) is not None


@pytest.mark.parametrize("image", [b"no picture", b"", png(TREES)[:200]])
def test_what_is_no_picture_is_like_none(image):
    assert find(QUESTION, "yes", [image], known=SEEN) is None
    assert find(f"{QUESTION}!", "yes", [image], known=index(Problem("a", QUESTION, "", "", (image,)))) is None


def test_a_data_set_with_pictures_is_searched_by_their_looks():
    domain = make_domain("gqa:fixture")
    known, problem = overlap_index(domain), domain.problems("test")[0]
    copy = (jpeg(Image.open(io.BytesIO(problem.images[0])).convert("RGB")),)
    example = Example(problem.prompt, problem.reference, images=copy)
    found = known.find(example, domain.fingerprints(example.prompt, example.images))
    assert found.search == "picture"
    assert problem.id in found.problems


# --------------------------------------------------------------------------------------------------------------
# The built-in domains, and the gate


@pytest.mark.parametrize("name", ["math", "code", "tools", "tools-all", "vqa"])
def test_honest_examples_pass(name):
    domain = make_domain(name)
    known = overlap_index(domain)
    examples = [example for skill in domain.skills() for example in domain.fresh(skill, 6, 5)]
    lost = [e for e in examples if known.find(e, domain.fingerprints(e.prompt, e.images)) is not None]
    assert len(lost) < 0.01 * len(examples)
    problem = domain.problems("test")[0]
    copy = Example(problem.prompt, problem.reference, images=problem.images)
    assert known.find(copy, domain.fingerprints(copy.prompt, copy.images)).problems == (problem.id,)


def test_a_scene_that_was_encoded_anew_is_found():
    domain = make_domain("vqa")
    known, rng = overlap_index(domain), random.Random(1)
    for problem in rng.sample(domain.problems("selection"), 10):
        picture = Image.open(io.BytesIO(problem.images[0])).convert("RGB")
        example = Example(problem.prompt, problem.reference, images=(jpeg(picture, 80),))
        found = known.find(example, domain.fingerprints(example.prompt, example.images))
        assert problem.id in found.problems


def test_the_gate_records_what_is_repeated_and_tells_nobody():
    problems = {"feedback": [Problem("f", GARDEN, "", "")], "test": [Problem("t", BOXES, "", "")]}
    known = OverlapIndex(FreeText(), problems)
    examples = [Example(BOXES, "1"), Example(OTHER, "1"), Example(GARDEN, "1"), Example(OTHER, "1")]
    verdicts = Gate(FreeText(), known, Budget(10), verify=True).submit(examples)
    assert [v.reason for v in verdicts] == ["overlap-test", "", "overlap-feedback", "duplicate"]
    assert [v.overlaps for v in verdicts] == [("t",), (), ("f",), ()]
    assert told(verdicts) == {"duplicate": 1, "overlap-feedback": 1}
    assert "overlaps" not in to_json(examples[0])


def test_an_open_gate_lets_copies_pass_and_still_records_them():
    known = index(Problem("t", BOXES, "", ""))
    verdicts = Gate(FreeText(), known, Budget(10), verify=True, open_=True).submit([Example(BOXES, "1")] * 2)
    assert [(v.kept, v.overlaps) for v in verdicts] == [(True, ("t",))] * 2
