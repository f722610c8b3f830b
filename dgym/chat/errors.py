"""What can go wrong with a language model, by what a person or a teacher can do about it."""

from __future__ import annotations

from typing import Final

from dgym.errors import TeacherError, UsageError

LOSSES: Final = (
    "refused",
    "no-json",
    "invalid",
    "truncated",
    "empty",
    "rejected",
    "rate-limited",
    "server-error",
    "timeout",
    "connection",
    "unpaintable",
)
"""Why an answer can be lost.

`refused`: the model declined. `no-json`: there was no JSON in the answer. `invalid`: it did not fit the schema.
`truncated`: it was cut at the token limit. `empty`: it was empty. `rejected`: the endpoint rejected the request,
for instance as too long. `rate-limited`, `server-error`, `timeout`, `connection`: the last of all retries ended so.
`unpaintable`: a description of which no picture could be made.
"""


class LostAnswerError(TeacherError):
    """A language model gave no usable answer to one call; other calls may well succeed.

    Args:
        message: What happened, in one line.
        reason: One of `LOSSES`.
    """

    def __init__(self, message: str, reason: str = "invalid") -> None:
        super().__init__(message)
        self.reason = reason


class SpendingStoppedError(TeacherError):
    """The limit on a run's spending is reached; nothing more is asked, and episodes end with what they have."""


class ChatSetupError(UsageError):
    """No call can succeed until a person changes something: key, model, address, quota."""
