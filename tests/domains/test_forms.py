"""Sentences with slots."""

import random

import pytest

from dgym.domains.forms import NUMBER, Forms, one_of

COLOURS = one_of({"r": ("red", "dark red"), "b": "blue"})


def test_what_is_written_is_read_back():
    forms = Forms("Paint {n} in {c}.", "{c} for {n}, and {c} again", n=NUMBER, c=COLOURS)
    rng = random.Random(1)
    seen = set()
    for n in range(-5, 60):
        text = forms.render(rng, n=n, c="r")
        seen.add(text.replace(str(n), ""))
        assert forms.read(text) == {"n": n, "c": "r"}
    assert len(seen) == 4


@pytest.mark.parametrize(
    "text",
    ["Paint 3 in green.", "paint 3 in red.", "Paint 3 in red. Now", "red for 3, and blue again", "Paint x in red."],
)
def test_other_texts_are_not(text):
    assert Forms("Paint {n} in {c}.", "{c} for {n}, and {c} again", n=NUMBER, c=COLOURS).read(text) is None


def test_the_longer_word_wins():
    assert Forms("{c}", c=COLOURS).read("dark red") == {"c": "r"}


def test_mistakes_in_a_template_show_at_once():
    with pytest.raises(ValueError, match="does not name"):
        Forms("no place", n=NUMBER)
    with pytest.raises(ValueError, match="share"):
        one_of({1: "same", 2: "same"})
