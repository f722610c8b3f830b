"""The gate: which submitted examples reach the student, and why the others do not.

Every submitted example gets one verdict. The order of the checks is the order of `REASONS`, so that an example
that fails several is counted under the first. What is rejected counts against the budget all the same.

The gate knows the hidden splits and therefore never runs in a teacher's process.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from dgym.core import Budget, Domain, Example, Frames, Problem, Split, Verdict, count_tokens

REASONS: Final = (
    "malformed",
    "over-budget",
    "duplicate",
    "overlap-feedback",
    "overlap-selection",
    "overlap-test",
    "incorrect",
)
"""Every reason for which an example can be rejected, in the order of the checks."""

HIDDEN_REASONS: Final = frozenset({"overlap-selection", "overlap-test"})
"""Reasons that a teacher is never told: such an example looks kept to it."""

MAX_CHARACTERS: Final = 20_000
"""Longest prompt or response."""

MAX_IMAGES: Final = 8
"""Most images of an example."""

MAX_IMAGE_BYTES: Final = 2_000_000
"""Largest encoded image."""

NGRAM: Final = 13
"""Length in words of the n-grams compared for free text (Brown et al. 2020, appendix C)."""

_SHINGLE = 5
_NEAR_DUPLICATE = 0.8
_TEMPLATE = 3


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _shingles(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


class OverlapIndex:
    """Finds examples that repeat a problem of an evaluation split.

    The first test is the domain's fingerprint. A text that the domain does not recognise is also compared by
    13-grams and by the Jaccard similarity of 5-word shingles, both without those n-grams that more than
    `_TEMPLATE` problems share: they are the template, not the problem.
    """

    def __init__(self, domain: Domain, splits: Mapping[Split, Sequence[Problem]]) -> None:
        self._domain = domain
        self._keys: dict[str, Split] = {}
        texts: list[tuple[Split, set[tuple[str, ...]], set[tuple[str, ...]]]] = []
        for split, problems in splits.items():
            for problem in problems:
                for key in domain.overlap_keys(problem):
                    self._keys.setdefault(key, split)
                words = _words(self._bare(problem.prompt))
                texts.append((split, _shingles(words, NGRAM), _shingles(words, _SHINGLE)))
        seen = Counter(g for _, long, short in texts for g in (*long, *short))
        self._ngrams: dict[tuple[str, ...], Split] = {}
        self._shingles: list[tuple[Split, set[tuple[str, ...]]]] = []
        self._holders: dict[tuple[str, ...], list[int]] = {}
        self._template = {g for g, n in seen.items() if n > _TEMPLATE}
        for split, long, short in texts:
            for gram in long - self._template:
                self._ngrams.setdefault(gram, split)
            rest = short - self._template
            if rest:
                for gram in rest:
                    self._holders.setdefault(gram, []).append(len(self._shingles))
                self._shingles.append((split, rest))

    def _bare(self, prompt: str) -> str:
        """Returns a problem without what stands around every one: with it, its first words would make an n-gram."""
        return self._domain.bare(prompt) if isinstance(self._domain, Frames) else prompt

    def find(self, prompt: str, fingerprints: Sequence[str]) -> Split | None:
        """Returns the split whose problem this prompt repeats, or `None`."""
        for key in fingerprints:
            if key in self._keys:
                return self._keys[key]
        if len(fingerprints) == 1 and not fingerprints[0].startswith("text|"):
            return None  # recognised by the domain, and new
        words = _words(self._bare(prompt))
        for gram in _shingles(words, NGRAM):
            if gram in self._ngrams:
                return self._ngrams[gram]
        mine = _shingles(words, _SHINGLE) - self._template
        shared = Counter(i for gram in mine for i in self._holders.get(gram, ()))
        for index, common in shared.items():
            split, theirs = self._shingles[index]
            if common >= _NEAR_DUPLICATE * len(mine | theirs):
                return split
        return None


class Gate:
    """Judges the submissions of one episode.

    Args:
        domain: Recognises and checks examples.
        index: Finds repeated evaluation problems; may be shared by episodes.
        budget: Limits on what is submitted.
        verify: Whether to reject examples that are known to be wrong.
        open_: Whether to let everything pass that is well formed and within the budget; for ablations.
    """

    def __init__(self, domain: Domain, index: OverlapIndex, budget: Budget, verify: bool, open_: bool = False) -> None:
        self._domain, self._index, self._budget, self._verify, self._open = domain, index, budget, verify, open_
        self._seen: set[str] = set()
        self._submitted = 0
        self._this_iteration = 0
        self._tokens = 0

    @property
    def examples_left(self) -> int:
        """How many more examples may be submitted before the next training."""
        left = self._budget.examples_per_iteration - self._this_iteration
        if self._budget.examples_total is not None:
            left = min(left, self._budget.examples_total - self._submitted)
        if self._budget.response_tokens_total is not None and self._tokens >= self._budget.response_tokens_total:
            return 0
        return max(0, left)

    def next_iteration(self) -> None:
        """Opens a new iteration's allowance."""
        self._this_iteration = 0

    def submit(self, examples: Iterable[object]) -> list[Verdict]:
        """Judges examples in order; each one counts against the budget, whatever comes of it."""
        return [self._judge(example) for example in examples]

    def _judge(self, given: object) -> Verdict:
        example, well_formed = _well_formed(given)
        tokens = count_tokens(f"{example.response} {example.rejected or ''}") if well_formed else 0
        if self.examples_left == 0:
            return Verdict(example, False, "over-budget", tokens=0)
        limit = self._budget.response_tokens_total
        if limit is not None and self._tokens + tokens > limit:
            return Verdict(example, False, "over-budget", tokens=0)
        self._submitted += 1
        self._this_iteration += 1
        self._tokens += tokens
        if not well_formed:
            return Verdict(example, False, "malformed")
        prints = self._domain.fingerprints(example.prompt, example.images)
        correct = self._domain.check(example)
        if correct and example.rejected is not None:
            # A pair that rejects a right response teaches the wrong thing.
            correct = self._domain.check(replace(example, response=example.rejected)) is not True
        reason = "" if self._open else self._reason(example, prints, correct)
        if not reason:
            self._seen.add(prints[0])
        return Verdict(example, not reason, reason, correct, tokens)

    def _reason(self, example: Example, prints: Sequence[str], correct: bool | None) -> str:
        if prints[0] in self._seen:
            return "duplicate"
        split = self._index.find(example.prompt, prints)
        if split is not None:
            return f"overlap-{split}"
        return "incorrect" if self._verify and correct is False else ""


def told(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Counts rejections by reason as a teacher may know them."""
    counts = Counter(v.reason for v in verdicts if v.reason and v.reason not in HIDDEN_REASONS)
    return {reason: counts[reason] for reason in REASONS if counts[reason]}


def _well_formed(given: object) -> tuple[Example, bool]:
    if not isinstance(given, Example):
        return Example(prompt=_shown(given), response=""), False
    texts = (given.prompt, given.response, *(() if given.rejected is None else (given.rejected,)))
    if not _images_fit(given.images):
        return Example(_shown(given.prompt), _shown(given.response)), False
    if not all(isinstance(t, str) for t in texts) or not isinstance(given.skill, str | None):
        return Example(prompt=_shown(given), response=""), False
    try:
        "".join((*texts, given.skill or "")).encode()
    except UnicodeEncodeError:  # a lone surrogate, which no table could store
        return Example(prompt=_shown(given), response=""), False
    if not all(t.strip() and len(t) <= MAX_CHARACTERS for t in texts):
        return Example(given.prompt[:200], given.response[:200], given.skill, given.item), False
    return given, True


def _images_fit(images: object) -> bool:
    return (
        isinstance(images, tuple)
        and len(images) <= MAX_IMAGES
        and all(isinstance(i, bytes) and 0 < len(i) <= MAX_IMAGE_BYTES for i in images)
    )


def _shown(given: object) -> str:
    """Renders what is no example; its `repr` is the teacher's code, and may do anything but be trusted."""
    try:
        return repr(given)[:200].encode("utf-8", "replace").decode()
    except Exception:
        return f"an object of type {type(given).__name__}"
