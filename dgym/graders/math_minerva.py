r"""The normal form of a final answer under the rules of Minerva (Lewkowycz et al. 2022, appendix D).

They are those of the paper, which DataEnvGym uses too, oddities included, so that scores can be compared with
published ones: units are cut out wherever their letters stand ("ft" also out of `\left`), `0,1` is taken for a number
with separators, and an equation is its right-hand side.

What this module does not know: where an answer stands in a response; equality beyond that of texts, which sympy
decides (`dgym.graders.math_worker`).
"""

from __future__ import annotations

import re
from functools import reduce
from typing import Final

_REPLACED: Final = (
    ("an ", ""),
    ("a ", ""),
    (".$", "$"),
    (r"\$", ""),
    ("\\ ", ""),
    (" ", ""),
    ("mbox", "text"),
    (r",\text{and}", ","),
    (r"\text{and}", ","),
    (r"\text{m}", r"\text{}"),
)
# fmt: off
_REMOVED: Final = (
    "square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units", r"\ldots", "sue", "points",
    "feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "meals", "edges", "students",
    "childrentickets", "multiples", r"\text{s}", r"\text{.}", "\\text{\ns}", r"\text{}^2", r"\text{}^3", "\\text{\n}",
    r"\text{}", r"\mathrm{th}", r"^\circ", r"^{\circ}", r"\;", r",\!", "{,}", '"', r"\dots",
)
# fmt: on
# In this order: what one step leaves, the next one sees.
_REWRITTEN: Final = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r".*?\$(.*?)\$.*", r"$\1$"),  # the formula in a line of text
        (r"\\text\{(.*?)\}", r"\1"),
        (r"\\textbf\{(.*?)\}", r"\1"),
        (r"\\overline\{(.*?)\}", r"\1"),
        (r"\\boxed\{(.*)\}", r"\1"),
        (r"frac([^{])(.)", r"frac{\1}{\2}"),  # \frac12, \frac1{2} becomes \frac{1}{{}2}, as in the original
        (r"sqrt([^{])", r"sqrt{\1}"),
    )
)


def normal_form(answer: str) -> str:
    """Brings an answer to Minerva's normal form; equal ones are equal answers."""
    text = answer.rpartition("=")[2]
    text = reduce(lambda done, pair: done.replace(*pair), _REPLACED, text)
    text = reduce(lambda done, word: done.replace(word, ""), _REMOVED, text)
    text = reduce(lambda done, rule: rule[0].sub(rule[1], done), _REWRITTEN, text)
    text = text.replace("$", "")
    joined = text.replace(",", "")
    return joined if joined.isdigit() else text
