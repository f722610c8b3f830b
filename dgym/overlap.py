"""Does an example repeat an evaluation problem? The index of the problems that a teacher must not teach.

Five searches, each for what the others cannot see:

- **fingerprints**: the domain's own idea of what makes a problem that problem. Where it recognises a text, they decide;
- **n-grams**: a run of 13 normalised words in common (Brown et al. 2020, appendix C), or the whole of a problem of 8 to
  12. In the prompt, and in the responses, where a problem may be hidden under another prompt;
- **near-duplicates**: Jaccard similarity of 3-word shingles of at least 0.8, or of 0.5 where a text of some length says
  the same numbers or none; or three or more numbers in the same order and half of the other words in common;
- **code**: most of a problem's code, prompt or reference, without comments and with its names made alike;
- **pictures**: a picture that looks the same, with the same question.

N-grams that more than three problems share are template, not problem, and count for nothing. That leaves every shingle
with at most three holders, so that all similarities that matter are computed exactly in a few look-ups. MinHash, which
estimates them, would halve this part of the time and miss some (`benchmarks/gate.py --minhash`).

Words are compared without case, punctuation, accents, invisible characters and look-alike letters of other scripts.
Paraphrases, translations and letters with spaces between them are not found.

The index holds hidden problems: it stays in the process of the loop, and a teacher never sees it or its answers. It
knows nothing of budgets, and decides nothing: see `dgym.gate`.
"""

from __future__ import annotations

import builtins
import io
import keyword
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import compress
from typing import Any, Final, Literal

from dgym.core import Distinctive, Domain, Example, Frames, Problem, Split

NGRAM: Final = 13
"""Length in words of the n-grams compared (Brown et al. 2020, appendix C)."""

SHORTEST: Final = 8
"""Words of the shortest problem that is looked for as a whole; what is shorter says too little."""

LIMIT: Final = 100_000
"""Characters of a text that are looked at: the gate lets no longer ones pass, and no text takes more than a moment."""

Search = Literal["fingerprint", "n-gram", "near-duplicate", "numbers", "code", "picture", "response"]
"""What found an overlap."""

_SHINGLE: Final = 3
_NEAR_DUPLICATE: Final = 0.8
_SAME_TEXT: Final = 0.5
_LONG: Final = 20
_TEMPLATE: Final = 3
_NAMES: Final = 3
_NUMBERS: Final = 3
_SAME_NUMBERS: Final = 0.5
_CODE_SHINGLE: Final = 10
_CODE_SIGNS: Final = 4  # in a window of code with fewer, there is no structure that could be alike
_CODE_SHORTEST: Final = 20
_SAME_CODE: Final = 0.8
_PIXELS: Final = 25_000_000
_HASH_BITS: Final = 12  # of 64
_THUMBNAIL: Final = 16
_SHADE: Final = 12  # of 255, in the mean
_COLOUR: Final = 80  # of 255, which a part of one colour has changed by
_CHANGED: Final = 5  # of 256 parts


@dataclass(frozen=True, slots=True)
class Overlap:
    """What an example repeats.

    Attributes:
        split: The split that this is counted under: that of the first problem found.
        problems: The ids of all problems found, of any split.
        search: What found the first.
    """

    split: Split
    problems: tuple[str, ...]
    search: Search


# --------------------------------------------------------------------------------------------------------------
# Words

_WORD: Final = re.compile(r"[^\W_]+")
# Chinese and Japanese are written without spaces: there, a character is a word.
_ANY_WORD: Final = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+"
)
_NUMBER: Final = re.compile(r"\d+")
_NAMED: Final = re.compile(r"[^\W\d_]\w")


def words_of(text: str) -> list[str]:
    """Returns the words of a text as they are compared."""
    text = text[:LIMIT]
    return _WORD.findall(text.lower()) if text.isascii() else _ANY_WORD.findall(_plain(text))


def _plain(text: str) -> str:
    """Writes a text in small letters without accents, invisible characters and look-alikes."""
    text = unicodedata.normalize("NFKD", text)
    # Some letters look alike as capitals only, some as small ones only.
    return text.translate(_letters()).casefold().translate(_letters())


class _Letters(dict[int, str | None]):
    """What each character is written as; each is looked up once."""

    def __missing__(self, code: int) -> str | None:
        letter = chr(code)
        self[code] = None if unicodedata.category(letter) in ("Mn", "Me", "Cf") else letter
        return self[code]


@cache
def _letters() -> _Letters:
    """Begins with the Latin letters that those of other scripts look like, by Unicode's table of confusables."""
    from confusable_homoglyphs.confusables import confusables_data

    out = _Letters()
    for letter, others in confusables_data.items():
        if len(letter) == 1 and not letter.isascii() and letter.isalpha():
            # Some look like several, as many an I does: one of the same case, if there is one.
            latin = sorted(o["c"] for o in others if len(o["c"]) == 1 and o["c"].isascii() and o["c"].isalpha())
            same = [c for c in latin if c.isupper() == letter.isupper()]
            out.update({ord(letter): c for c in (same or latin)[:1]})
    return out


def _ngrams(words: Sequence[str], size: int) -> list[str]:
    return list(map(" ".join, zip(*(words[i:] for i in range(size)), strict=False)))


def _says_something(text: str) -> bool:
    """Whether there are words in it: anybody may count from 1 to 13, or recite the alphabet."""
    return len(_NAMED.findall(text)) >= _NAMES


def _similarity(one: set[str], other: set[str]) -> float:
    together = len(one | other)
    return len(one & other) / together if together else 0.0


# --------------------------------------------------------------------------------------------------------------
# Code

_FENCED: Final = re.compile(r"```[^`\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_FIRST_LINE: Final = re.compile(
    r"^[ \t]*(?:(?:async[ \t]+)?def[ \t]+\w+[ \t]*\(|class[ \t]+\w+[ \t]*[(:{]"
    r"|(?:from[ \t]+[\w.]+[ \t]+)?import[ \t]+\w|\#include|(?:for|while|if|with|try)\b[^\n]*[:{][ \t]*$|return\b"
    r"|(?:public|private|static|function|const|let|var|int)\b[^\n]*[{;(=]|[\w.]+[ \t]*[-+*/]?=[ \t]*[^\s=])",
    re.MULTILINE,
)
# Whatever opens and never closes reaches to the end, so that no text is read twice.
_LEXER: Final = re.compile(
    r"""(?P<skip>\#[^\n]*|//[^\n]*|/\*(?:[^*]|\*(?!/))*+(?:\*/)?)"""
    r"""|(?P<text>\"\"\"(?:[^"\\]|\\[\s\S]|"(?!""))*+(?:\"\"\")?|'''(?:[^'\\]|\\[\s\S]|'(?!''))*+(?:''')?"""
    r"""|"(?:[^"\\\n]|\\[\s\S])*+"?|'(?:[^'\\\n]|\\[\s\S])*+'?)"""
    r"""|(?P<number>\d[\w.]*)|(?P<name>[^\W\d]\w*)|(?P<sign>[^\w\s])"""
)
_KEPT_NAMES: Final = frozenset(
    (
        *keyword.kwlist,
        *dir(builtins),
        "self",
        "var",
        "let",
        "const",
        "function",
        "new",
        "int",
        "void",
        "public",
        "static",
    )
)


def _code_in(text: str) -> str:
    """Returns what of a text is code, as far as that shows without running or parsing it; else nothing."""
    text = text[:LIMIT]
    if "```" in text:
        return "\n".join(_FENCED.findall(text))
    first = _FIRST_LINE.search(text)
    return text[first.start() :] if first else ""


def _code_shingles(text: str) -> set[str]:
    """Returns the windows of ten tokens of the code in a text, their names numbered in order of appearance."""
    tokens: list[str] = []
    names: list[bool] = []
    for match in _LEXER.finditer(_code_in(text)):
        kind, token = match.lastgroup, match[0]
        if kind == "skip":
            continue
        # What stands after a point is somebody else's name, which a copy cannot change.
        own = kind == "name" and token not in _KEPT_NAMES and tokens[-1:] != ["."]
        tokens.append('"' if kind == "text" else token)
        names.append(own)
    out: set[str] = set()
    for i in range(len(tokens) - _CODE_SHINGLE + 1):
        window, own_names = tokens[i : i + _CODE_SHINGLE], names[i : i + _CODE_SHINGLE]
        count = sum(own_names)
        if count and _CODE_SHINGLE - count >= _CODE_SIGNS:
            # Numbered within the window: a line put before a copy would renumber all the rest.
            number = {name: f"${n}" for n, name in enumerate(dict.fromkeys(compress(window, own_names)))}
            window = [number[token] if own else token for token, own in zip(window, own_names, strict=True)]
            out.add(" ".join(window))
    return out


# --------------------------------------------------------------------------------------------------------------
# Pictures


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """How a picture looks: its perceptual hash (64 bits), and the colours of its coarse parts."""

    bits: Any
    colours: Any


def _look(encoded: bytes) -> _Look | None:
    """Looks at a picture; `None` where there is none to be seen, or too large a one."""
    import imagehash
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            if opened.width * opened.height > _PIXELS:
                return None
            opened.draft("RGB", (256, 256))  # of a JPEG, no more is decoded than is looked at
            picture = opened.convert("RGB")
        bits = np.packbits(imagehash.phash(picture).hash.ravel()).view(np.uint64)[0]
        small = picture.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    except Exception:  # Pillow raises whatever its decoders meet
        return None
    return _Look(bits, np.asarray(small, np.int16))


class _Pictures:
    """The looks of the pictures of all problems."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        import numpy as np

        holders: dict[bytes, list[int]] = {}
        for index, problem in enumerate(problems):
            for image in problem.images:
                holders.setdefault(image, []).append(index)
        seen = [(look, held) for image, held in holders.items() if (look := _look(image)) is not None]
        self._bits = np.array([look.bits for look, _ in seen], np.uint64)
        self._seen = seen

    def like(self, images: Iterable[bytes]) -> list[int]:
        """Returns the problems that have a picture which looks like one of these.

        The hash knows coarse shapes and no colours, so what it finds is compared once more, part by part: where a thing
        was moved or coloured anew, a few parts differ by far more than another encoding or size would explain.
        """
        import numpy as np

        out: dict[int, None] = {}
        for look in filter(None, map(_look, images)):
            for place in np.flatnonzero(np.bitwise_count(self._bits ^ look.bits) <= _HASH_BITS):
                theirs, held = self._seen[place]
                change = np.abs(theirs.colours - look.colours)
                if change.mean() <= _SHADE and (change.max(axis=2) > _COLOUR).sum() <= _CHANGED:
                    out.update(dict.fromkeys(held))
        return sorted(out)


# --------------------------------------------------------------------------------------------------------------
# The index


class _Grams:
    """Which problems hold an n-gram, without those that more than three hold."""

    def __init__(self, texts: Iterable[Iterable[str]]) -> None:
        holders: dict[str, list[int]] = {}
        for index, grams in enumerate(texts):
            for gram in dict.fromkeys(grams):
                holders.setdefault(gram, []).append(index)
        self.template = {gram for gram, held in holders.items() if len(held) > _TEMPLATE}
        self.holders = {gram: held for gram, held in holders.items() if len(held) <= _TEMPLATE}
        self.sizes = Counter(index for held in self.holders.values() for index in held)

    def holding(self, grams: Iterable[str]) -> Iterator[int]:
        """Yields the holders of n-grams, in their order, as often as they hold one."""
        for gram in grams:
            yield from self.holders.get(gram, ())


class OverlapIndex:
    """Finds examples that repeat a problem of an evaluation split.

    Args:
        domain: Gives problems their fingerprints, and takes off the words that stand around every one.
        splits: The problems that must not be taught.
    """

    def __init__(self, domain: Domain, splits: Mapping[Split, Sequence[Problem]]) -> None:
        self._domain = domain
        self._problems = [problem for problems in splits.values() for problem in problems]
        self._splits: list[Split] = [split for split, problems in splits.items() for _ in problems]
        self._keys: dict[str, list[int]] = {}
        for index, problem in enumerate(self._problems):
            for key in domain.overlap_keys(problem):
                self._keys.setdefault(key, []).append(index)
        self._words = [words_of(self._bare(problem.prompt)) for problem in self._problems]
        self._long = _Grams(filter(_says_something, _ngrams(words, NGRAM)) for words in self._words)
        self._short = _Grams(_ngrams(words, _SHINGLE) for words in self._words)
        # Short problems, by how they begin.
        self._whole: dict[str, list[int]] = {}
        self._numbers: dict[tuple[str, ...], list[int]] = {}
        self._numbers_of = [_numbers(words) for words in self._words]
        for index, (words, numbers) in enumerate(zip(self._words, self._numbers_of, strict=True)):
            if SHORTEST <= len(words) < NGRAM and _says_something(" ".join(words)):
                self._whole.setdefault(" ".join(words[:SHORTEST]), []).append(index)
            if len(numbers) >= _NUMBERS:
                self._numbers.setdefault(numbers, []).append(index)
        same = Counter(" ".join(words) for words in self._words)
        self._common = {text for text, count in same.items() if count > _TEMPLATE}
        self._code = _Grams(
            _code_shingles(problem.reference) or _code_shingles(self._bare(problem.prompt))
            for problem in self._problems
        )
        self._has_code = any(count >= _CODE_SHORTEST for count in self._code.sizes.values())

    def _bare(self, prompt: str) -> str:
        """Returns a problem without what stands around every one: with it, its first words would make an n-gram."""
        if isinstance(self._domain, Distinctive):
            return self._domain.distinctive(prompt)
        return self._domain.bare(prompt) if isinstance(self._domain, Frames) else prompt

    @cached_property
    def _pictures(self) -> _Pictures:
        # Made when it is first asked for: where the domain recognises its pictures, that is never.
        return _Pictures(self._problems)

    def find(self, example: Example, fingerprints: Sequence[str]) -> Overlap | None:
        """Looks for the problems that an example repeats.

        Args:
            example: Prompt, responses and pictures.
            fingerprints: Of its prompt and pictures, as the domain gives them.

        Returns:
            What it repeats, or `None`.
        """
        found: dict[int, Search] = {}
        for key in fingerprints:
            for index in self._keys.get(key, ()):
                found.setdefault(index, "fingerprint")
        if len(fingerprints) != 1 or fingerprints[0].startswith("text|"):
            self._prompt(example, found)
        for response in (example.response, *(() if example.rejected is None else (example.rejected,))):
            words = words_of(response)
            for index in (*self._runs(words), *self._wholes(words)):
                if self._asked_alike(example, index):
                    found.setdefault(index, "response")
        if not found:
            return None
        first = next(iter(found))
        return Overlap(self._splits[first], tuple(self._problems[i].id for i in found), found[first])

    def _prompt(self, example: Example, found: dict[int, Search]) -> None:
        """Searches for a prompt that the domain does not recognise."""
        words = words_of(self._bare(example.prompt))
        searches: tuple[tuple[Search, Callable[[Sequence[str]], Iterable[int]]], ...] = (
            ("n-gram", self._runs),
            ("n-gram", self._wholes),
            ("near-duplicate", self._near),
            ("numbers", self._same_numbers),
        )
        alike = {i: name for name, search in reversed(searches) for i in search(words)}
        for index in sorted(alike):
            if self._asked_alike(example, index):
                found.setdefault(index, alike[index])
        if self._has_code:
            shingles = _code_shingles(self._bare(example.prompt)) | _code_shingles(example.response)
            for index, common in Counter(self._code.holding(shingles)).items():
                size = self._code.sizes[index]
                if size >= _CODE_SHORTEST and common >= _SAME_CODE * size:
                    found.setdefault(index, "code")
        if example.images:
            pairs = set(_ngrams(words, 2)) or set(words)
            for index in self._pictures.like(example.images):
                theirs = self._words[index]
                same = _similarity(pairs, set(_ngrams(theirs, 2)) or set(theirs))
                if same >= _NEAR_DUPLICATE or index in alike:
                    found.setdefault(index, "picture")

    def _asked_alike(self, example: Example, index: int) -> bool:
        """Whether words alone can tell: a question may well be asked again of another picture."""
        return not (example.images and self._problems[index].images)

    def _runs(self, words: Sequence[str]) -> Iterable[int]:
        return self._long.holding(_ngrams(words, NGRAM))

    def _wholes(self, words: Sequence[str]) -> Iterable[int]:
        if not self._whole:
            return
        for start, gram in enumerate(_ngrams(words, SHORTEST)):
            for index in self._whole.get(gram, ()):
                theirs = self._words[index]
                if words[start : start + len(theirs)] == theirs and " ".join(theirs) not in self._common:
                    yield index

    def _near(self, words: Sequence[str]) -> Iterable[int]:
        mine, numbers = set(_ngrams(words, _SHINGLE)) - self._short.template, _numbers(words)
        for index, common in Counter(self._short.holding(mine)).items():
            size = self._short.sizes[index]
            # A long text that says the same numbers, or none, may have more of its words exchanged.
            same = min(len(mine), size) >= _LONG and numbers == self._numbers_of[index]
            if common >= (_SAME_TEXT if same else _NEAR_DUPLICATE) * (len(mine) + size - common):
                yield index

    def _same_numbers(self, words: Sequence[str]) -> Iterable[int]:
        numbers = _numbers(words)
        held = self._numbers.get(numbers, ()) if len(numbers) >= _NUMBERS else ()
        if not 0 < len(held) <= _TEMPLATE:
            return
        mine = {word for word in words if word.isalpha()}
        for index in held:
            if _similarity(mine, {word for word in self._words[index] if word.isalpha()}) >= _SAME_NUMBERS:
                yield index


def _numbers(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(_NUMBER.findall(" ".join(words)))
