"""The gate: which submitted examples reach the student, and why the others do not.

Every submitted example gets one verdict. The order of the checks is the order of `REASONS`, so that an example
that fails several is counted under the first. What is rejected counts against the budget all the same.

The gate knows the hidden splits and therefore never runs in a teacher's process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from dgym.core import Budget, Domain, Example, Verdict, count_tokens
from dgym.overlap import OverlapIndex

REASONS: Final = (
    "malformed",
    "over-budget",
    "duplicate",
    "overlap-feedback",
    "incorrect",
    "overlap-selection",
    "overlap-test",
)
"""Every reason for which an example can be rejected, in the order of the checks.

What a teacher is told comes first: were a wrong answer to a hidden problem not called incorrect like any other, wrong
answers would find out which problems are hidden.
"""

HIDDEN_REASONS: Final = frozenset({"overlap-selection", "overlap-test"})
"""Reasons that a teacher is never told: such an example looks kept to it."""

MAX_CHARACTERS: Final = 20_000
"""Longest prompt or response."""

MAX_IMAGES: Final = 8
"""Most images of an example."""

MAX_IMAGE_BYTES: Final = 2_000_000
"""Largest encoded image."""


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
        duplicate = prints[0] in self._seen
        # What the first of them repeats is recorded there.
        overlap = None if duplicate and not self._open else self._index.find(example, prints)
        reason = ""
        if not self._open:
            if duplicate:
                reason = "duplicate"
            elif overlap is not None and f"overlap-{overlap.split}" not in HIDDEN_REASONS:
                reason = f"overlap-{overlap.split}"
            elif self._verify and correct is False:
                reason = "incorrect"
            elif overlap is not None:
                reason = f"overlap-{overlap.split}"
        # Submitted again, what looks kept is told to be a duplicate, hidden or not.
        if not reason or reason in HIDDEN_REASONS:
            self._seen.add(prints[0])
        return Verdict(example, not reason, reason, correct, tokens, overlaps=overlap.problems if overlap else ())


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
