"""Graders of answers about images against transcriptions of the originals."""

from __future__ import annotations

import re
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgym.graders.vqa import exact_match, extract, normalise, scores

WORDS = st.sampled_from(["yes", "no", "A", "b", "Yes.", "NO", "a dog", "The", "left", "-", "?", "\n", "1", "t-shirt"])
ANSWERS = st.lists(WORDS, max_size=6).map(" ".join) | st.text(alphabet=st.characters(exclude_characters="\0"))


def original_exact_match(prediction: str, reference: str) -> bool:
    """lmms-eval 0.7.3, api/metrics.py, with gqa.yaml's ignore_case and ignore_punctuation, after task.py's strip."""
    predictions, references = np.asarray([prediction.strip()]), np.asarray([reference.strip()])
    predictions, references = np.char.lower(predictions), np.char.lower(references)
    repl_table = string.punctuation.maketrans("", "", string.punctuation)
    predictions = np.char.translate(predictions, table=repl_table)
    references = np.char.translate(references, table=repl_table)
    return bool(np.mean(predictions == references))


@given(ANSWERS, ANSWERS)
def test_exact_match_is_the_originals(response, reference):
    assert exact_match(reference, response) is original_exact_match(response, reference)
    assert exact_match(reference, reference.upper().lower()) is original_exact_match(
        reference.upper().lower(), reference
    )


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("tennis racket", True),
        (" Tennis Racket.\n", True),
        ("'tennis racket'!", True),
        ("tennis-racket", False),
        ("a tennis racket", False),
        ("the racket", False),
        ("tennis  racket", False),
        ("", False),
    ],
)
def test_case_and_punctuation_do_not_count_and_articles_do(response, right):
    assert exact_match("tennis racket", response) is right


def test_only_ascii_punctuation_is_removed():
    assert normalise("  It's (a) T-Shirt… ") == "its a tshirt…"


def original_extract(output_string, task_type="yes_no"):
    """lmms-eval 0.7.3, tasks/naturalbench/utils.py: extract_answer."""

    def find_word_position(string, word):
        pattern = r"\b" + re.escape(word) + r"\b"
        match = re.search(pattern, string, re.IGNORECASE)
        if match:
            return match.start()
        return -1

    if task_type == "yes_no":
        position_yes_and_a = find_word_position(output_string, "yes")
        position_no_and_b = find_word_position(output_string, "no")
    elif task_type == "multiple_choice":
        position_yes_and_a = find_word_position(output_string, "A")
        position_no_and_b = find_word_position(output_string, "B")

    if position_yes_and_a == -1 and position_no_and_b == -1:
        return -1
    if position_yes_and_a != -1 and position_no_and_b != -1:
        return 1 if position_yes_and_a < position_no_and_b else 0
    return 0 if position_yes_and_a == -1 else 1


@given(ANSWERS, st.sampled_from(["yes_no", "multiple_choice"]))
def test_an_answer_is_found_as_in_the_original(response, kind):
    assert extract(response, kind) == original_extract(response, kind)


@pytest.mark.parametrize(
    ("response", "kind", "answer"),
    [
        ("Yes", "yes_no", 1),
        ("no, it is not; yes would be wrong", "yes_no", 0),
        ("eyes and noses", "yes_no", -1),
        ("B", "multiple_choice", 0),
        ("It is a B", "multiple_choice", 1),  # the article
        ("", "multiple_choice", -1),
    ],
)
def test_the_first_word_counts(response, kind, answer):
    assert extract(response, kind) == answer


def original_scores(results):
    """lmms-eval 0.7.3, tasks/naturalbench/utils.py: get_scores, of lists [q0_i0, q0_i1, q1_i0, q1_i1]."""
    question = image = binary = group = 0.0
    for result in results:
        of_questions = (result[0] == 1.0 and result[1] == 0.0) + (result[3] == 1.0 and result[2] == 0.0)
        of_images = (result[0] == 1.0 and result[2] == 0.0) + (result[3] == 1.0 and result[1] == 0.0)
        binary += (result[0] == 1.0) + (result[1] == 0.0) + (result[2] == 0.0) + (result[3] == 1.0)
        question += of_questions
        image += of_images
        group += of_questions == 2 and of_images == 2
    count = len(results)
    return {
        "question_score": question / float(count * 2),
        "image_score": image / float(count * 2),
        "accuracy": binary / float(count * 4),
        "group_score": group / count,
    }


@given(st.lists(st.lists(st.sampled_from([1, 0, -1]), min_size=4, max_size=4), min_size=1, max_size=20))
def test_scores_are_the_originals(answers):
    groups = [[[a == 1, b == 0], [c == 0, d == 1]] for a, b, c, d in answers]
    assert scores(groups) == pytest.approx(original_scores(answers))


def test_without_groups_scores_are_nothing():
    assert set(scores([]).values()) == {0.0}


@pytest.mark.parametrize("text", ["yes " * 250_000, "a" * 1_000_000, "\0" * 1_000_000, "nono" * 250_000])
def test_a_megabyte_is_graded(text):
    assert exact_match("yes", text) is False
    for kind in ("yes_no", "multiple_choice"):
        assert extract(text, kind) == original_extract(text, kind)
