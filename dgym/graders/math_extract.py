r"""Finding the final answer in what was written about a problem in mathematics.

In this order:

1. the last `\boxed{...}` or `\fbox{...}` that is closed and not empty (`\boxed 5`, without braces, counts too);
2. what stands after the last "final answer is", "final answer:", "the answer is" or "####": the formula or formulas
   there, else the number that begins the sentence's rest, else that rest;
3. the last number or numeric fraction.

The rules of Minerva (Lewkowycz et al. 2022, appendix D) put their own sentence first, "Final Answer: The final answer
is ... I hope it is correct.", and have no third step: an answer that is not marked is none. There the box is an
extension of DataEnvGym's.

All of it takes time in proportion to the text, of which only the end is read.

What this module does not know: what an answer means, and whether it is right.
"""

from __future__ import annotations

import re
from typing import Final, Literal

Mode = Literal["math-verify", "minerva"]
"""Whose rules say whether two answers are equal."""

TAIL: Final = 20_000
"""How many characters of a text are read, counted from its end."""

LONGEST: Final = 500
"""Longest answer, in characters, that is compared as mathematics: far above what such problems are answered with, while
the time and depth of the parsers grow with the length."""

_BRACES: Final = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*(?P<open>\{)?|\\.|[{}]", re.DOTALL)
_BARE_BOX: Final = re.compile(rf"[^$\n]{{0,{LONGEST}}}?(?=\$|\n|\\\]|\\\)|\Z)")
_MINERVA: Final = "Final Answer: The final answer is"
_HOPE: Final = "I hope it is correct."
_PHRASE: Final = re.compile(
    r"""final\s+answer[*_]*\s*(?:is\b|[:=])
    | \banswer[*_]*\s*(?:is\b|[:=])(?=[\s:*_]*[-+−$\\(\[{\d.€£])
    | \#{4}
    """,
    re.IGNORECASE | re.VERBOSE,
)
_LEADING: Final = " \t\r\n:*_="
_MONEY: Final = re.compile(r"\$\s?(-?\d+(?:,\d{3})*(?:\.\d+)?)(?=[.,;!)*]*(?:\s+[A-Za-z]{2,}|\s*\Z|\s*\n|[.!]\s))")
# "1,200 dollars a year": what is counted is not part of the number, but "2 and 3" are two, and "2 sqrt(3)" is one.
_COUNT: Final = re.compile(
    r"([-−]?[$€£]?\d+(?:,\d{3})*(?:\.\d+)?)\s+"
    r"(?!(?:and|or|to|plus|minus|times|over|choose|squared|cubed|mod|sqrt|sin|cos|tan|log|exp)\b)[A-Za-z]{3,}"
)
_FORMULA: Final = re.compile(r"\$\$(.+?)\$\$|\$((?:\\.|[^$\\\n])+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_JOINED: Final = re.compile(r"\s*(?:,\s*(?:and|or)\b|,|and\b|or\b)\s*", re.IGNORECASE)
# An exclamation mark within a sentence is a factorial.
_SENTENCE: Final = re.compile(r"\.['\")*_]*(?=\s|\Z)|[!?](?=[ \t]*(?:\n|\Z))|\n|\bI hope it is correct")
# Neither an exponent nor an index is an answer.
_NUMBER: Final = re.compile(
    r"""(?:(?<![\w)\]}.])[-−])?
    (?:
        \\[dt]?frac\s?(?:\{-?\d+\}|\d)\s?(?:\{\d+\}|\d)
      | (?<![\d^_])(?<![\^_][-−{])(?<![\^_]\{[-−])
        (?:(?<!\d,)\d{1,3}(?:,\d{3})+(?!,?\d)|\d+)(?:\.\d+)?(?:/\d+)?(?:\s?\\?%)?
      | (?<!\d)\.\d+
    )
    """,
    re.VERBOSE,
)


def final_answer(text: str, mode: Mode = "math-verify", *, marked: bool = False) -> str | None:
    """Finds the final answer of a response.

    Args:
        text: The whole response; its last `TAIL` characters are read.
        mode: Whose rules.
        marked: Whether an answer must be marked as such: the last number does not count.

    Returns:
        The answer as it is written, without what marks it; `None` where there is none.
    """
    text = text[-TAIL:]
    if mode == "minerva":
        return _sentence_of_minerva(text) or boxed(text) or stated(text)
    return bare(boxed(text) or "") or stated(text) or (None if marked else last_number(text))


def reference_answer(text: str, mode: Mode = "math-verify") -> str | None:
    """Finds the answer of a reference, which may also be the bare answer."""
    text = text[-TAIL:]
    if mode == "minerva":
        return boxed(text) or stated(text) or text.strip() or None
    return bare(boxed(text) or "") or stated(text) or bare(text) or None


def boxed(text: str) -> str | None:
    """Returns what the last closed box holds that holds something; `None` without one."""
    if "box" not in text:
        return None
    found, start = "", -1
    opened: list[int] = []  # where the content of each open brace begins; -1 where that is no box
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "{":
            opened.append(-1)
        elif token == "}":
            begin = opened.pop() if opened else -1
            # Of nested boxes the innermost is closed first, and its start is the greatest.
            if begin > start and (content := text[begin : match.start()].strip()):
                found, start = content, begin
        elif match["open"]:
            opened.append(match.end())
        elif token.startswith(("\\boxed", "\\fbox")):
            rest = _BARE_BOX.match(text, match.end())
            if rest and (content := rest.group().strip()):
                found, start = content, match.end()
    return found or None


def stated(text: str) -> str | None:
    """Returns what the text says is the answer, in words; `None` if it does not."""
    for match in reversed(list(_PHRASE.finditer(text))):
        after = text[match.end() :].lstrip(_LEADING)
        if answer := _first_statement(after):
            return answer
    return None


def _first_statement(text: str) -> str:
    if money := _MONEY.match(text):
        return money[1]
    formulas: list[str] = []
    at = 0
    while formula := _FORMULA.match(text, at):
        formulas.append(bare(next(filter(None, formula.groups()), "")))
        joined = _JOINED.match(text, formula.end())
        if not joined:
            break
        at = joined.end()
    if formulas:
        return ", ".join(filter(None, formulas))
    if count := _COUNT.match(text):
        return count[1]
    end = _SENTENCE.search(text)
    return bare((text[: end.start()] if end else text).rstrip(" *"))


def last_number(text: str) -> str | None:
    """Returns the last number of a text, with its sign; numeric fractions count as one."""
    found = None
    for match in _NUMBER.finditer(text):
        found = match.group()
    return found


def bare(text: str) -> str:
    """Returns an answer without what merely surrounds it: space, a full stop, emphasis, signs of a formula."""
    text = text.strip()
    while True:
        before = text
        text = _unstopped(text).strip()
        for left, right in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**")):
            if len(text) > len(left) + len(right) and text.startswith(left) and text.endswith(right):
                inner = text[len(left) : -len(right)]
                if left not in inner and right not in inner:
                    text = inner.strip()
        if text == before:
            return text


def _unstopped(text: str) -> str:
    stripped = text.rstrip(" \t\r\n.,;")
    # The full stop of \right. and the comma of a thin space are part of the formula.
    return text[: len(stripped) + 1] if stripped.endswith(("\\right", "\\")) else stripped


def _sentence_of_minerva(text: str) -> str | None:
    # The sentence may be cut off at its end: DataEnvGym, like the original, appends the end that it looks for.
    text += _HOPE
    begin = text.find(_MINERVA)
    while begin >= 0:
        begin += len(_MINERVA)
        said = text[begin : text.index(_HOPE, begin)].rstrip()
        if "\n" not in said:
            return said.strip().removesuffix(".").rstrip() or None
        begin = text.find(_MINERVA, begin)
    return None
