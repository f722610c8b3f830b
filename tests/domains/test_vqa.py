"""The domain vqa against an oracle that looks at a plain grid, and its promises on splits and balance."""

import io
import itertools
import re
from collections import Counter, defaultdict
from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dgym.core import Example, Problem
from dgym.domains.procedural import NEW_COMBINATION
from dgym.domains.scenes import COLOURS, SHAPES, SIDE, SIZES, Scene, Thing, read_scene, render
from dgym.domains.vqa import HELD_OUT, STRUCTURES, VqaDomain, read_question
from dgym.errors import DomainError, UsageError

VQA = VqaDomain()
SPLITS = ("feedback", "selection", "test")
SCENE = Scene(
    (
        Thing(0, 0, "circle", "green", "large"),
        Thing(0, 2, "square", "green", "small"),
        Thing(1, 1, "square", "white", "large"),
        Thing(2, 0, "diamond", "purple", "small"),
    )
)
PICTURE = render(SCENE)


@lru_cache
def drawn(skill, count=1_000):
    return list(itertools.islice(VQA.stream(skill, 11), count))


@lru_cache
def hidden_keys():
    return {key for split in SPLITS for p in VQA.problems(split) for key in VQA.overlap_keys(p)}


def every_drawn():
    return [pair for skill in VQA.skills() for pair in drawn(skill)]


def ask(prompt, scene=SCENE):
    task = VQA.parse(prompt, (render(scene),))
    return None if task is None else task.answer


# The oracle: words of a sentence and a grid of words, nothing of the domain's own code.


def oracle(prompt, png):
    grid = {(t.row, t.column): {t.size, t.colour, t.shape} for t in read_scene(png).things}
    text = re.sub(r"(circle|square|triangle|diamond|thing)s\b", r"\1", prompt.lower().replace("crosses", "cross"))
    words = re.findall(r"[a-z]+", text)
    noun = rf"((?:(?:{'|'.join((*SIZES, *COLOURS))}) )*(?:{'|'.join(SHAPES)}|thing))\b"
    nouns = [set(found.split()) - {"thing"} for found in re.findall(noun, text)]
    cells = [{cell for cell, look in grid.items() if wanted <= look} for wanted in nouns]

    def say(holds):
        return "yes" if holds else "no"

    def one(cell, values):
        return next(value for value in values if value in grid[cell])

    def attribute(names):
        return next(
            values for name, values in (("colour", COLOURS), ("shape", SHAPES), ("size", SIZES)) if name in names
        )

    if "edge" in words:
        key = {"top": (-1, 0), "bottom": (1, 0), "left": (0, -1), "right": (0, 1)}[words[words.index("edge") - 1]]
        ranked = sorted(grid, key=lambda cell: -(cell[0] * key[0] + cell[1] * key[1]))
        return one(ranked[0], SHAPES)
    if "corner" in words:
        return say(cells[0] <= {(0, 0), (0, 2), (2, 0), (2, 2)})
    if "row" in words or "column" in words:
        ((row, column),) = cells[0]
        return ("top", "middle", "bottom")[row] if "row" in words else ("left", "middle", "right")[column]
    where = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}
    side = next((w for w in words if w in where), None)
    if "directly" in words:
        ((row, column),) = cells[-1]
        return one((row + where[side][0], column + where[side][1]), SHAPES if "shape" in words else COLOURS)
    place = re.search(r"thing in the (?:centre|(top|middle|bottom) (left|middle|right))", text)
    if place:
        row, column = (word or "middle" for word in place.groups())
        cell = ("top", "middle", "bottom").index(row), ("left", "middle", "right").index(column)
        return one(cell, attribute(words))
    if side:
        ((a,), (b,)) = cells
        return say({"left": a[1] < b[1], "right": a[1] > b[1], "above": a[0] < b[0], "below": a[0] > b[0]}[side])
    if "more" in words:
        return say(len(cells[0]) > len(cells[1]))
    if words[:2] == ["how", "many"] or "number" in words or words[0] == "count":
        return str(len(cells[0]))
    if {"same", "share"} & set(words) or re.match("does the .* have the (colour|shape|size) of the", text):
        ((a,), (b,)) = cells
        values = attribute([w for w in words if w in ("colour", "shape", "size")])
        return say(one(a, values) == one(b, values))
    if "not" in words:
        return say(any(words[-1] not in grid[cell] for cell in cells[0]))
    if "every" in words or "each" in words:
        return say(all(words[-1] in grid[cell] for cell in cells[0]))
    options = re.search(r"(\w+) or (?:a )?(\w+)[?.]$", text)
    definite = "the " in re.sub(r"the (picture|colour|shape|size|number)\b", "", text)
    if options and definite and "either" not in words:
        found = {word for word in options.groups() if word in grid[next(iter(cells[0]))]}
        assert len(found) == 1
        return found.pop()
    if definite and words[0] in ("what", "which", "name", "tell"):
        ((cell),) = cells[0]
        return one(cell, attribute(words))
    if definite:
        ((cell),) = cells[0]
        return say(words[-1] in grid[cell])
    if " and " in text or " or " in text:
        return say((all if " and " in text else any)(cells))
    return say(bool(cells[0]))


@pytest.mark.parametrize("skill", VQA.skills())
def test_answers_agree_with_the_oracle(skill):
    for task, example in drawn(skill):
        assert oracle(example.prompt, example.images[0]) == task.answer == example.response, example.prompt


@pytest.mark.parametrize("skill", VQA.skills())
def test_what_is_written_is_read_back(skill):
    for task, example in drawn(skill):
        assert VQA.parse(example.prompt, example.images) == task
        assert VQA.infer_skill(example.prompt) == VQA.infer_skill(example.prompt, example.images) == skill
        assert VQA.check(example) is True


def test_there_are_ten_types_with_three_structures_of_five_forms():
    assert len(VQA.skills()) == 10
    assert all(len(parts) >= 3 and len(set(parts)) == len(parts) for parts in VQA.refinements().values())
    seen = defaultdict(set)
    for task, example in every_drawn():
        structure, _ = read_question(example.prompt)
        forms = [
            f
            for f in structure.forms.sentences
            if type(structure.forms)(f, **structure.forms.slots).read(example.prompt.lower())
        ]
        assert len(forms) == 1
        assert structure.name == task.refinement
        seen[task.skill, task.refinement] |= set(forms)
    assert seen.keys() == {(skill, part) for skill, parts in VQA.refinements().items() for part in parts}
    assert min(map(len, seen.values())) >= 5


def test_every_sentence_belongs_to_one_structure():
    for prompt in {example.prompt.lower() for _, example in every_drawn()}:
        assert sum(structure.forms.read(prompt) is not None for structure in STRUCTURES) == 1, prompt
        assert len(prompt.split()) <= 14


@pytest.mark.parametrize("skill", VQA.skills())
def test_guessing_does_not_pay(skill):
    answers = defaultdict(Counter)
    for task, _ in drawn(skill):
        answers[task.refinement][task.answer] += 1
    for part, counts in answers.items():
        assert max(counts.values()) <= 0.62 * sum(counts.values()), (part, counts)
    assert sum(max(c.values()) for c in answers.values()) <= 0.56 * len(drawn(skill))


def test_answers_of_the_fixed_problems_are_balanced():
    for skill in VQA.skills():
        counts = Counter(p.reference for p in VQA.problems("test") if p.skill == skill)
        assert max(counts.values()) <= 0.65 * sum(counts.values()), (skill, counts)


# Splits


def combinations(prompt, images):
    shown = {(t.colour, t.shape) for image in images for t in read_scene(image).things}
    words = prompt.lower().replace("crosses", "cross")
    return shown | {(c, s) for c, s in HELD_OUT if re.search(rf"\b{c} {s}", words)}


def test_held_out_pairs_take_little_from_each_colour_and_shape():
    assert len(HELD_OUT) == 3
    assert len({colour for colour, _ in HELD_OUT}) == len({shape for _, shape in HELD_OUT}) == 3


@pytest.mark.parametrize("split", SPLITS)
def test_splits_have_their_size_and_only_test_has_new_combinations(split):
    problems = VQA.problems(split)
    wanted = 100 if split == "test" else 50
    assert Counter(p.skill for p in problems) == dict.fromkeys(VQA.skills(), wanted)
    new = [p for p in problems if HELD_OUT & combinations(p.prompt, p.images)]
    assert len(new) == (len(problems) // 4 if split == "test" else 0)
    assert {p.id for p in problems if p.slice} == {p.id for p in new}
    assert {p.slice for p in new} <= {NEW_COMBINATION}
    assert all(VQA.grade(p, p.reference) == 1.0 for p in problems)
    assert {Image.open(io.BytesIO(i)).size for p in problems for i in p.images} == {(SIDE, SIDE)}


def test_no_problem_is_in_two_splits():
    prints = [VQA.fingerprints(p.prompt, p.images)[0] for split in SPLITS for p in VQA.problems(split)]
    assert len(set(prints)) == len(prints)
    assert len({p.id for split in SPLITS for p in VQA.problems(split)}) == len(prints)


@pytest.mark.parametrize("skill", VQA.skills())
def test_fresh_examples_are_of_the_train_split_and_without_new_combinations(skill):
    examples = VQA.fresh(skill, 200, 3)
    assert examples == VQA.fresh(skill, 200, 3)
    assert examples != VQA.fresh(skill, 200, 4)
    for example in examples:
        assert not HELD_OUT & combinations(example.prompt, example.images)
        assert not hidden_keys() & set(VQA.fingerprints(example.prompt, example.images))
        assert VQA.check(example) is True
    assert len({VQA.fingerprints(e.prompt, e.images) for e in examples}) == 200


def test_train_questions_do_not_name_a_held_out_pair_in_two_places_either():
    for task, _ in drawn("verify") + drawn("choose") + drawn("logical"):
        slots = task.data.slots
        if task.refinement in ("colour", "shape", "not", "every"):
            named = {slots["d"].colour, slots["d"].shape} | {v for v in slots.values() if isinstance(v, str)}
            if any({colour, shape} <= named for colour, shape in HELD_OUT):
                assert VQA.place(task) == ("test", NEW_COMBINATION)


def test_every_refinement_can_be_written():
    for skill in VQA.skills():
        for part in VQA.subskills(skill):
            examples = VQA.fresh(part, 5, 1)
            tasks = [VQA.parse(e.prompt, e.images) for e in examples]
            assert {f"{task.skill}/{task.refinement}" for task in tasks} == {part}
            assert {e.skill for e in examples} == {part}
    with pytest.raises(UsageError, match="Did you mean 'count'"):
        VQA.fresh("cuont", 1, 1)


# Grading


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Is there a green square?", "yes"),
        ("  do YOU see a  large diamond?", "no"),
        ("What colour is the circle?", "green"),
        ("What colour is the large square?", "white"),
        ("Name the colour of the thing in the centre.", "white"),
        ("What shape is the small green thing?", "square"),
        ("Is the white thing a circle or a square?", "square"),
        ("Are the circle and the small square the same colour?", "yes"),
        ("Are there more squares than circles?", "yes"),
        ("Are there more diamonds than circles?", "no"),
        ("How many green things are there?", "2"),
        ("Count the crosses.", "0"),
        ("Is the circle to the left of the white square?", "yes"),
        ("What is the shape nearest the bottom edge?", "diamond"),
        ("Is there both a circle and a cross?", "no"),
        ("Is there a square that is not green?", "yes"),
        ("Is every square green?", "no"),
        ("Is the diamond small?", "yes"),
    ],
)
def test_questions_that_one_can_answer_by_hand(prompt, answer):
    assert ask(prompt) == answer


@pytest.mark.parametrize(
    "prompt",
    [
        "What colour is the square?",  # there are two
        "What colour is the triangle?",  # there is none
        "What colour is the thing in the top middle?",
        "Is the circle red or blue?",
        "Is the circle green or green?",
        "Is the circle left of the circle?",
        "What shape is directly left of the circle?",
        "What shape is nearest the top edge?",
        "Is every cross red?",
        "Is there a circle or a red thing?",
        "Are there more circles than circles?",
    ],
)
def test_a_question_without_an_answer_is_wrong_whatever_the_response(prompt):
    assert read_question(prompt) is not None
    assert VQA.parse(prompt, (PICTURE,)) is None
    assert VQA.check(Example(prompt, "yes", images=(PICTURE,))) is False


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("2", 1),
        (" 2.\n", 1),
        ("two", 1),
        ("Two", 1),
        ("3", 0),
        ("2 things", 0),
        ("", 0),
        (".", 0),
        ("2..", 0),
        ("02", 0),
    ],
)
def test_grading_takes_one_word_or_number(response, score):
    problem = Problem("p", "How many squares are there?", "2", "count", (PICTURE,))
    assert VQA.grade(problem, response) == score


def test_a_wrong_label_is_caught_by_the_picture():
    for prompt, right in (("Is there a cross?", "no"), ("What shape is the purple thing?", "diamond")):
        assert VQA.check(Example(prompt, right, images=(PICTURE,))) is True
        assert VQA.check(Example(prompt, "circle", images=(PICTURE,))) is False
    example = VQA.fresh("query-colour", 1, 2)[0]
    others = [Example(example.prompt, c, images=example.images) for c in COLOURS]
    assert [VQA.check(e) for e in others].count(True) == 1


def test_unknown_pictures_and_questions_cannot_be_checked():
    stripes = VQA.fresh("stripes", 1, 1)[0].images
    assert VQA.check(Example("Is there a cross?", "no")) is None
    assert VQA.check(Example("Is there a cross?", "no", images=stripes)) is None
    assert VQA.check(Example("Is there a cross?", "no", images=(b"rubbish",))) is None
    assert VQA.check(Example("Is there a cross?", "no", images=(PICTURE, PICTURE))) is None
    assert VQA.check(Example("Is there an elephant?", "no", images=(PICTURE,))) is None
    with pytest.raises(DomainError, match="of no known kind"):
        VQA.grade(Problem("p", "Is there an elephant?", "no", "exists", (PICTURE,)), "no")


@settings(deadline=None)
@given(st.text(max_size=300), st.lists(st.binary(max_size=60), max_size=3))
def test_rubbish_has_a_fingerprint_and_no_answer(text, images):
    assert VQA.parse(text, tuple(images)) is None
    assert VQA.fingerprints(text, tuple(images))[0].startswith("text|")
    VQA.check(Example(text, text, images=tuple(images)))


def test_long_texts_are_no_questions():
    assert read_question("Is there a " * 2_000) is None
    assert read_question("How many red " + "things " * 20 + "are there?") is None


# Fingerprints


def test_a_fingerprint_is_the_question_about_the_scene_in_whatever_words():
    prints = {VQA.fingerprints(p, (PICTURE,)) for p in ("Is there a red cross?", "Can you find a red cross?")}
    assert len(prints) == 1
    for one, other in (
        ("Is the diamond red or purple?", "What colour is the diamond, purple or red?"),
        ("Is there a cross or a circle?", "Do you see either a circle or a cross?"),
        ("Is the circle left of the diamond?", "Is the diamond to the right of the circle?"),
        ("Are the circle and the diamond the same size?", "Do the diamond and the circle share a size?"),
    ):
        assert VQA.fingerprints(one, (PICTURE,)) == VQA.fingerprints(other, (PICTURE,))
    moved = Scene(tuple(Thing(t.row, t.column, t.shape, t.colour, t.size, 1, 1) for t in SCENE.things), 30)
    other = Scene(SCENE.things[:3])
    prompt = "Is there a red cross?"
    assert VQA.fingerprints(prompt, (render(moved),)) == VQA.fingerprints(prompt, (PICTURE,))
    assert VQA.fingerprints(prompt, (render(other),)) != VQA.fingerprints(prompt, (PICTURE,))
    assert VQA.fingerprints("Is there a blue cross?", (PICTURE,)) != VQA.fingerprints(prompt, (PICTURE,))


def test_a_hidden_scene_asked_about_in_other_words_is_found():
    problem = VQA.problems("test")[0]
    told = VQA.fingerprints("Say something of this nice picture, please", problem.images)
    assert set(told) & set(VQA.overlap_keys(problem))
    assert VQA.fingerprints(problem.prompt, problem.images)[0] in VQA.overlap_keys(problem)


def test_unknown_questions_about_different_pictures_are_different():
    prompt = "How do you like it?"
    pictures = [e.images for e in VQA.fresh("stripes", 20, 1)]
    assert len({VQA.fingerprints(prompt, images)[0] for images in pictures}) == 20


# Off the domain, and wrong


@pytest.mark.parametrize("kind", VQA.off_domain())
def test_off_domain_examples_are_of_no_skill(kind):
    examples = VQA.fresh(kind, 100, 1)
    assert examples == VQA.fresh(kind, 100, 1)
    assert len({VQA.fingerprints(e.prompt, e.images)[0] for e in examples}) == 100
    assert len({e.response for e in examples}) > 1
    for example in examples:
        assert len(example.images) == 1
        assert Image.open(io.BytesIO(example.images[0])).size == (SIDE, SIDE)
        assert VQA.parse(example.prompt, example.images) is None
        assert VQA.infer_skill(example.prompt) is None
        assert VQA.check(example) is None


def test_wrong_answers_are_wrong_and_of_the_same_sort():
    sorts = [{"yes", "no"}, set(COLOURS), set(SHAPES), set(SIZES), {"top", "bottom", "left", "right", "middle"}]
    for skill in VQA.skills():
        for n, example in enumerate(VQA.fresh(skill, 60, 8)):
            wrong = VQA.wrong_answer(example, n)
            assert wrong == VQA.wrong_answer(example, n)
            assert (wrong.prompt, wrong.images, wrong.skill) == (example.prompt, example.images, skill)
            assert wrong.response != example.response
            assert VQA.check(wrong) is False
            both = {wrong.response, example.response}
            assert any(both <= sort for sort in sorts) or all(answer.isdigit() for answer in both)
    unknown = Example("Is it nice?", "yes", images=(PICTURE,))
    assert VQA.wrong_answer(unknown, 1).response != "yes"
