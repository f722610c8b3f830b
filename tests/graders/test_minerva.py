"""The rules of Minerva against a second writing of them, step by step as they were published."""

import csv
import re
from importlib import import_module
from pathlib import Path

import pytest

from dgym.graders.math_answers import right, right_all
from dgym.graders.math_minerva import normal_form

with Path(__file__).with_name("math_pairs.tsv").open(encoding="utf-8", newline="") as lines:
    ALL = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))

NESTED = {"$5$", r"\(5\)", r"\fbox{5}"}
"""Answers that bring a box or the signs of a formula of their own, which the published rules look into once only."""

PAIRS = [pair for pair in ALL if pair["answer"] not in NESTED]


# What follows transcribes, for comparison only, the published rules: normal form and substitutions from appendix D of
# Lewkowycz et al. 2022 (https://arxiv.org/abs/2206.14858) as lm-evaluation-harness (MIT) and DataEnvGym have them;
# equality as in lm-evaluation-harness 0.4.13; the place of the answer as in DataEnvGym's scoring of MATH.

SUBSTITUTIONS = [
    ("an ", ""),
    ("a ", ""),
    (".$", "$"),
    ("\\$", ""),
    (r"\ ", ""),
    (" ", ""),
    ("mbox", "text"),
    (",\\text{and}", ","),
    ("\\text{and}", ","),
    ("\\text{m}", "\\text{}"),
]
REMOVED_EXPRESSIONS = [
    "square",
    "ways",
    "integers",
    "dollars",
    "mph",
    "inches",
    "ft",
    "hours",
    "km",
    "units",
    "\\ldots",
    "sue",
    "points",
    "feet",
    "minutes",
    "digits",
    "cents",
    "degrees",
    "cm",
    "gm",
    "pounds",
    "meters",
    "meals",
    "edges",
    "students",
    "childrentickets",
    "multiples",
    "\\text{s}",
    "\\text{.}",
    "\\text{\ns}",
    "\\text{}^2",
    "\\text{}^3",
    "\\text{\n}",
    "\\text{}",
    r"\mathrm{th}",
    r"^\circ",
    r"^{\circ}",
    r"\;",
    r",\!",
    "{,}",
    '"',
    "\\dots",
]


def published_normal_form(answer):
    answer = answer.split("=")[-1]
    for before, after in SUBSTITUTIONS:
        answer = answer.replace(before, after)
    for expression in REMOVED_EXPRESSIONS:
        answer = answer.replace(expression, "")
    answer = re.sub(r"(.*?)(\$)(.*?)(\$)(.*)", "$\\3$", answer)
    answer = re.sub(r"(\\text\{)(.*?)(\})", "\\2", answer)
    answer = re.sub(r"(\\textbf\{)(.*?)(\})", "\\2", answer)
    answer = re.sub(r"(\\overline\{)(.*?)(\})", "\\2", answer)
    answer = re.sub(r"(\\boxed\{)(.*)(\})", "\\2", answer)
    answer = re.sub(r"(frac)([^{])(.)", "frac{\\2}{\\3}", answer)
    answer = re.sub(r"(sqrt)([^{])", "sqrt{\\2}", answer)
    answer = answer.replace("$", "")
    if answer.replace(",", "").isdigit():
        answer = answer.replace(",", "")
    return answer


@pytest.fixture(scope="module")
def published_equality():
    """Equality of two normal forms; the parser is sympy's own, for whatever ANTLR is installed."""
    import sympy

    with pytest.MonkeyPatch.context() as patch:
        module = import_module("sympy.parsing.latex._parse_latex_antlr")
        patch.setattr(module, "version", lambda package: "4.11.1")
        patch.setattr(import_module("antlr4.Recognizer").Recognizer, "checkVersion", lambda self, version: None)

        def equal(first, second):
            if first and first == second:
                return True
            try:
                return bool(sympy.simplify(module.parse_latex(first) - module.parse_latex(second)) == 0)
            except Exception:
                return False

        yield equal


def published_place(text):
    end = "I hope it is correct."
    text += end
    found = re.search(r"Final Answer: The final answer is(.*?). I hope it is correct.", text)
    if found:
        return found.group(1).strip()
    for prefix in ("Final Answer: The final answer is", "Therefore, the final answer is"):
        found = re.search(prefix + r"(.*?)\s*" + re.escape(end), text)
        if found:
            # The original leaves the full stop out; DataEnvGym's pattern keeps it, and then takes "$x=5$." for "5.".
            return found.group(1).strip().removesuffix(".")
    found = re.search(r"(?P<boxed>\$\\boxed\{[^}]+\}\$)(?![^$]*\$\\boxed)", text)
    return found.group("boxed").strip() if found else None


# ----------------------------------------------------------------------------------------------------------------


def test_there_are_at_least_300_pairs():
    assert len(PAIRS) >= 300
    assert len({(p["reference"], p["answer"]) for p in ALL}) == len(ALL)
    assert {p["minerva"] for p in ALL} == {"y", "n"}


def test_a_box_or_formula_within_another_is_looked_into():
    for answer in NESTED:
        assert right("minerva", "5", f"The final answer is ${answer}$.")


@pytest.mark.parametrize("column", ["reference", "answer"])
def test_normal_forms_agree(column):
    for pair in ALL:
        assert normal_form(pair[column]) == published_normal_form(pair[column])


def test_verdicts_agree_on_all_pairs(published_equality):
    given = [(rf"\boxed{{{p['reference']}}}", rf"\boxed{{{p['answer']}}}") for p in PAIRS]
    verdicts = right_all("minerva", given)
    expected = [
        published_equality(published_normal_form(p["reference"]), published_normal_form(p["answer"])) for p in PAIRS
    ]
    assert [p for p, v, e in zip(PAIRS, verdicts, expected, strict=True) if v != e] == []
    assert verdicts == [p["minerva"] == "y" for p in PAIRS]


PLACES = (
    "We add them up.\nFinal Answer: The final answer is ${}$. I hope it is correct.",
    "Final Answer: The final answer is ${}$. I hope it is correct.\n\nProblem:\nAnother is $\\boxed{{9}}$.",
    "So it is 7, or \\boxed{{8}}.\nFinal Answer: The final answer is $\\boxed{{{}}}$.",
    "Therefore, the final answer is ${}$. I hope it is correct.",
    "The sum is $\\boxed{{{}}}$, as one sees.",
)


@pytest.mark.parametrize("place", PLACES)
def test_verdicts_on_whole_responses_agree_wherever_the_published_rules_find_an_answer(place, published_equality):
    responses = [place.format(p["answer"]) for p in PAIRS]
    answers = [published_place(response) for response in responses]
    verdicts = right_all(
        "minerva", [(rf"It is $\boxed{{{p['reference']}}}$.", r) for p, r in zip(PAIRS, responses, strict=True)]
    )
    expected = [
        None if a is None else published_equality(published_normal_form(p["reference"]), published_normal_form(a))
        for p, a in zip(PAIRS, answers, strict=True)
    ]
    assert [r for r, v, e in zip(responses, verdicts, expected, strict=True) if e is not None and v != e] == []
    assert sum(e is not None for e in expected) >= 200
