"""A few examples of what teachers wrote, kept and rejected: enough to see what the numbers are made of.

How many there are does not depend on the size of the run.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

EPISODES: Final = 24
"""Most episodes that samples are drawn from."""

KEPT: Final = 2
"""Kept examples shown of each chosen episode."""

PER_REASON: Final = 4
"""Rejected examples shown for each reason."""

REASONS: Final = 12
"""Most reasons shown."""

CHARACTERS: Final = 600
"""Longest text shown of a prompt or a response."""

IMAGES: Final = 24
IMAGE_BYTES: Final = 40_000
"""Most images of the page, and the largest that is shown."""

_FORMATS: Final = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}


@dataclass(frozen=True)
class Sample:
    """An example as the page shows it.

    Attributes:
        domain, teacher: Of its episode.
        iteration: For which it was written.
        skill: What the teacher claims; empty if nothing.
        reason: Why it was rejected; empty when kept.
        correct: Whether the response is right; `None` where the domain cannot say.
        prompt, response: Texts, cut to `CHARACTERS`.
        worse: Of a preference pair, the response that is worse; else empty.
        images: Data URIs.
        left_out: Images that are not shown.
    """

    domain: str
    teacher: str
    iteration: int
    skill: str
    reason: str
    correct: bool | None
    prompt: str
    response: str
    worse: str = ""
    images: tuple[str, ...] = ()
    left_out: int = 0


def chosen_episodes(episodes: pd.DataFrame, counts: pd.DataFrame) -> list[str]:
    """Chooses episodes to draw samples from.

    Every domain and teacher has its turn, and every reason for a rejection is among them if possible.

    Args:
        episodes: Rows of the table `episodes`.
        counts: Rejected examples by `digest` and `reason`.

    Returns:
        Digests, at most `EPISODES`.
    """
    by_reason = counts.sort_values(["count", "digest"], ascending=[False, True]).drop_duplicates("reason")
    rare = by_reason["digest"].head(EPISODES // 2).tolist()
    turns = episodes.drop_duplicates(["domain", "teacher_label"])
    # Teachers and domains change together, so that few episodes show many of both.
    turns = turns.assign(
        turn=(turns.groupby("domain").cumcount() + turns["domain"].rank(method="dense"))
        % turns["teacher_label"].nunique()
    )
    spread = turns.sort_values(["turn", "domain"], kind="stable")["digest"].tolist()
    return list(dict.fromkeys([*rare, *spread]))[:EPISODES]


def drawn(rows: pd.DataFrame, labels: dict[str, str]) -> tuple[list[Sample], list[Sample]]:
    """Draws samples from the examples of the chosen episodes.

    Args:
        rows: Rows of the table `examples`.
        labels: Teachers' short names, by digest.

    Returns:
        Kept and rejected samples.
    """
    rows = rows[rows["digest"].isin(labels)]
    kept = rows[rows["kept"]]
    # The first and the last of what was kept: data may change over an episode.
    ends = pd.concat([kept.groupby("digest", sort=False).head(1), kept.groupby("digest", sort=False).tail(KEPT - 1)])
    rejected = rows[~rows["kept"]]
    reasons = rejected["reason"].value_counts().head(REASONS).index
    # Teachers alternate within a reason.
    order = rejected.groupby(["reason", "digest"], sort=False).cumcount()
    few = (
        rejected.assign(order=order).sort_values("order", kind="stable").groupby("reason", sort=False).head(PER_REASON)
    )
    few = few[few["reason"].isin(reasons)].sort_values("reason", kind="stable")
    pictures = _Pictures(IMAGES)
    ends = ends[~ends.index.duplicated()].sort_index(kind="stable")
    return _samples(ends, labels, pictures), _samples(few, labels, pictures)


class _Pictures:
    """Turns images into data URIs until there are enough."""

    def __init__(self, left: int) -> None:
        self._left = left

    def uris(self, images: Sequence[bytes] | None) -> tuple[tuple[str, ...], int]:
        shown: list[str] = []
        images = [] if images is None else list(images)
        for image in images:
            kind = next((name for start, name in _FORMATS.items() if image.startswith(start)), None)
            if kind and self._left > 0 and len(image) <= IMAGE_BYTES:
                self._left -= 1
                shown.append(f"data:image/{kind};base64,{base64.b64encode(image).decode()}")
        return tuple(shown), len(images) - len(shown)


def _samples(rows: pd.DataFrame, labels: dict[str, str], pictures: _Pictures) -> list[Sample]:
    out = []
    for row in rows.to_dict("records"):
        images, left_out = pictures.uris(row["images"])
        out.append(
            Sample(
                domain=row["domain"],
                teacher=labels[row["digest"]],
                iteration=int(row["iteration"]),
                skill=_text(row["skill"]),
                reason=_text(row["reason"]),
                correct=None if pd.isna(row["correct"]) else bool(row["correct"]),
                prompt=_cut(_text(row["prompt"])),
                response=_cut(_text(row["response"])),
                worse=_cut(_text(row["rejected"])),
                images=images,
                left_out=left_out,
            )
        )
    return out


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _cut(text: str) -> str:
    more = len(text) - CHARACTERS
    return text if more <= 0 else f"{text[:CHARACTERS]}… ({more:,} more characters)"
