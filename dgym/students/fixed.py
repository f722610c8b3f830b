"""Students that are asked and never trained: a model behind an endpoint, and answers that are stored in a file.

    dgym evaluate --student openai:gpt-4o-mini --domain math --split test --out attempts.jsonl
    dgym evaluate --student answers:attempts.jsonl --domain math --split test --out again.jsonl

They show where a model stands in a domain, and what an episode looks like in which nothing is learned (with the teacher
`no-data`). An answer is what was said to the bare problem; nothing is added to it and nothing repaired. What this
module does not know: domains, grading, and how a request is sent.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from dgym.chat import find_chat
from dgym.chat.client import OpenAIChat
from dgym.chat.config import ChatConfig, configured
from dgym.chat.errors import LostAnswerError, SpendingStoppedError
from dgym.chat.ledger import concurrently, purpose
from dgym.core import Attempt, Base, Example, Message, Problem, Student, digest, from_json
from dgym.errors import StudentError, UsageError, one_line

_SEED: Final = 0
_HERE: Final = ("127.0.0.1", "localhost", "::1")
_PORTS: Final = {"http": 80, "https": 443}

Asked = tuple[str, tuple[bytes, ...]]
"""What identifies a problem to whoever answers it: its prompt and images."""


def endpoint() -> EndpointFamily:
    """A model behind any OpenAI-compatible endpoint: `openai:MODEL`, or an entry of chats.toml; evaluate-only."""
    return EndpointFamily()


def stored() -> StoredFamily:
    """Answers from a file, `answers:PATH`, such as `dgym evaluate --out` writes; evaluate-only."""
    return StoredFamily()


class _Fixed:
    """What students that cannot be trained have in common.

    Args:
        name: The student's full name, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def train(self, examples: Sequence[Example], *, seed: int, fresh: bool) -> Mapping[str, float]:
        """Learns nothing from no examples; see `dgym.core.Student.train`.

        Raises:
            StudentError: If there are any.
        """
        if examples:
            raise StudentError(
                f"{self._name} is evaluate-only: it cannot be trained; "
                "use it with `dgym evaluate`, or with the teacher no-data."
            )
        return {"loss": 0.0, "steps": 0.0, "tokens": 0.0}

    def save(self, path: str) -> None:
        """Has nothing to write; raises a `StudentError`."""
        raise StudentError(f"{self._name} is evaluate-only: it has learned nothing that could be saved.")

    def load(self, path: str) -> None:
        """Has nothing to restore; raises a `StudentError`."""
        raise StudentError(f"{self._name} is evaluate-only: no training can be loaded into it.")

    def close(self) -> None:
        """Has no memory to give back."""


@dataclass(frozen=True)
class _FixedFamily:
    """What their families have in common; see `dgym.core.StudentFamily`.

    Attributes:
        variants: None by name.
        open: Any text is a variant.
    """

    variants: tuple[str, ...] = ()
    open: bool = True

    def bytes(self, variant: str, precision: str) -> int:
        """Returns how much memory the weights take here: there are none."""
        return 0


# A model behind an endpoint ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EndpointFamily(_FixedFamily):
    """Models behind OpenAI-compatible endpoints.

    A variant is an entry of the file of language models (chats.toml), else a model at `$OPENAI_BASE_URL`.

    Attributes:
        name: Registered name.
    """

    name: str = "openai"

    def draw(self, seed: int) -> str:
        """Draws nothing; raises a `UsageError` that says what to write."""
        raise UsageError("Name the student's model: openai:MODEL, such as openai:gpt-4o-mini.")

    def digest(self, variant: str) -> str:
        """Identifies endpoint and model, whatever machine asks and whatever key it holds."""
        config = _config(variant)
        return digest(["endpoint-1", config.model, _address(config.endpoint), config.extra])

    def load(self, variant: str, device: str, precision: str, threads: int) -> Base:
        """Finds out where the model is; nobody is called yet."""
        return EndpointBase(_config(variant), f"{self.name}:{variant}")


@dataclass(frozen=True)
class EndpointBase:
    """A model behind an endpoint; see `dgym.core.Base`.

    Attributes:
        config: Which model, and where.
        name: The student's full name.
        bytes: Memory of its weights here: none.
        turns: Its students need no turns: they compute elsewhere, and the limiter is theirs to share.
    """

    config: ChatConfig
    name: str
    bytes: int = 0
    turns: None = None

    def open(self, recipe: Any, variant: str) -> Student:
        """Opens a student that writes at most the recipe's `max_new_tokens`, at temperature 0 whatever the config."""
        asked = {"temperature": 0.0, "max_tokens": recipe.max_new_tokens, "structured": "text"}
        return EndpointStudent(OpenAIChat(self.config.model_copy(update=asked)), self.name)


class EndpointStudent(_Fixed):
    """Asks a model each problem as it stands, with its images, many at a time; asks none twice.

    Args:
        chat: The model.
        name: The student's full name.
    """

    def __init__(self, chat: OpenAIChat, name: str) -> None:
        super().__init__(name)
        self._chat = chat
        # An endpoint may answer otherwise the next time, and a student that learned nothing may not.
        self._said: dict[Asked, str] = {}
        self._checked = False

    def answer(self, problems: Sequence[Problem]) -> list[str]:
        """Returns what the model says to each problem.

        Raises:
            StudentError: If it gave no answer to one of them after all retries, or only empty ones, or if the run may
                spend nothing more. What it did answer is recorded.
            ChatSetupError: If no request can succeed: key, model, address, quota, or a strict replay without a record.
        """
        new = {(p.prompt, p.images): p for p in problems if (p.prompt, p.images) not in self._said}
        if new:
            self._said |= zip(new, self._ask(list(new.values())), strict=True)
        return [self._said[p.prompt, p.images] for p in problems]

    def _ask(self, problems: Sequence[Problem]) -> list[str]:
        messages = [Message("user", p.prompt, p.images) for p in problems]
        if not self._checked and any(self._chat.sends([message], _SEED) for message in messages):
            # Where nobody answers, one question tells so at once, and many with their retries only after a while.
            self._chat.check()
            self._checked = True
        failed = threading.Event()

        def ask(message: Message) -> str | None:
            if failed.is_set():
                return None
            try:
                return self._chat.write([message], _SEED)
            except Exception:
                failed.set()  # the evaluation is lost, and the other questions need not be paid for
                raise

        with purpose("answer"):
            outcomes = concurrently(ask, messages)
        said = [outcome for outcome in outcomes if isinstance(outcome, str)]
        for problem, outcome in zip(problems, outcomes, strict=True):
            if isinstance(outcome, LostAnswerError | SpendingStoppedError):
                raise StudentError(
                    f"{self._name} answered {len(said)} of {len(problems)} problems, which are recorded, "
                    f"and failed at {problem.id!r}: {one_line(outcome)}"
                ) from outcome
            if isinstance(outcome, Exception):
                raise outcome
        if len(said) > 1 and not any(text.strip() for text in said):
            raise StudentError(
                f"{self._name} gave nothing but empty answers to {len(said)} problems. A model that thinks before it "
                f"answers needs more than {self._chat.config.max_tokens} tokens: raise max_new_tokens in the recipe."
            )
        return said


def _config(variant: str) -> ChatConfig:
    entries = configured()
    if variant in entries:
        return entries[variant]
    chat = find_chat(f"openai:{variant}")
    assert isinstance(chat, OpenAIChat)
    return chat.config


def _address(url: str) -> str:
    """Returns host, port and path of an endpoint, in one spelling and without what may be secret."""
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise UsageError(f"The endpoint {url!r} is no URL: {error}.") from error
    if host in _HERE:
        host = _HERE[0]
    if port == _PORTS.get(parts.scheme):
        port = None
    return f"{host}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}"


# Stored answers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredFamily(_FixedFamily):
    """Files of answers. A variant is a file's path.

    Attributes:
        name: Registered name.
    """

    name: str = "answers"

    def draw(self, seed: int) -> str:
        """Draws nothing; raises a `UsageError` that says what to write."""
        raise UsageError("Name the file of answers: answers:PATH, such as `dgym evaluate --out PATH` writes.")

    def digest(self, variant: str) -> str:
        """Hashes the file."""
        return hashlib.blake2b(_bytes_of(variant), digest_size=16).hexdigest()

    def load(self, variant: str, device: str, precision: str, threads: int) -> Base:
        """Reads the file.

        Raises:
            UsageError: If it cannot be read, naming the first line that is wrong.
        """
        return StoredBase(read_answers(variant), variant)


@dataclass(frozen=True)
class StoredAnswers:
    """Answers by what their lines name; the most telling counts.

    Attributes:
        by_problem: By prompt and images, of attempts.
        by_id: By a problem's id.
        by_prompt: By the prompt alone; for problems without images, since many ask the same of different ones.
    """

    by_problem: dict[Asked, str] = field(default_factory=dict)
    by_id: dict[str, str] = field(default_factory=dict)
    by_prompt: dict[str, str] = field(default_factory=dict)

    def to(self, problem: Problem) -> str | None:
        """Returns the answer to a problem, if there is one."""
        for found in (
            self.by_problem.get((problem.prompt, problem.images)),
            self.by_id.get(problem.id),
            None if problem.images else self.by_prompt.get(problem.prompt),
        ):
            if found is not None:
                return found
        return None


@dataclass(frozen=True)
class StoredBase:
    """A file of answers that was read; see `dgym.core.Base`.

    Attributes:
        answers: What is in it.
        path: Where it lies.
        bytes: Memory of its weights: it has none.
        turns: Its students need no turns.
    """

    answers: StoredAnswers
    path: str
    bytes: int = 0
    turns: None = None

    def open(self, recipe: Any, variant: str) -> Student:
        """Opens a student that answers from the file, whatever the recipe."""
        return StoredStudent(self.answers, self.path)


class StoredStudent(_Fixed):
    """Answers as a file says.

    Args:
        answers: What is in the file.
        path: The file, for messages.
    """

    def __init__(self, answers: StoredAnswers, path: str) -> None:
        super().__init__(f"answers:{path}")
        self._answers, self._path = answers, path

    def answer(self, problems: Sequence[Problem]) -> list[str]:
        """Returns the stored answer to each problem.

        Raises:
            StudentError: If one has none.
        """
        found = [self._answers.to(problem) for problem in problems]
        missing = [problem for problem, answer in zip(problems, found, strict=True) if answer is None]
        if missing:
            first = missing[0]
            hint = (
                " A line with nothing but a prompt answers no problem that has images; name the problem's id."
                if first.images and first.prompt in self._answers.by_prompt
                else ""
            )
            raise StudentError(
                f"{self._path} has no answer to {len(missing)} of {len(problems)} problems; the first is "
                f"{first.id!r}: {first.prompt[:80]!r}.{hint}"
            )
        return [answer for answer in found if answer is not None]


def read_answers(path: str) -> StoredAnswers:
    """Reads a file of answers, JSON lines in any mixture of three forms; empty lines are skipped.

    - A record of `dgym.core.Attempt`, as `dgym evaluate --out` writes it, answers its problem.
    - `{"id": ..., "response": ...}` answers the problem of that id.
    - `{"prompt": ..., "response": ...}` answers the problem of exactly that prompt, if it has no images.

    The files of several splits can be joined into one, as an episode needs it.

    Raises:
        UsageError: If the file cannot be read, naming the first line that is wrong or contradicts an earlier one.
    """
    try:
        text = _bytes_of(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"The file of answers {path} is no text in UTF-8: {error}.") from error
    answers = StoredAnswers()
    # Not `splitlines`: an answer may hold a line separator of Unicode's, which JSON leaves as it is.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                _add(answers, json.loads(line))
            except (ValueError, RecursionError) as error:
                raise UsageError(f"{path}, line {number}: {_why(error)}.") from error
    return answers


def _add(answers: StoredAnswers, value: Any) -> None:
    """Adds what one line says.

    Raises:
        ValueError: If it is of none of the forms, or contradicts what is there.
    """
    if not isinstance(value, dict):
        raise ValueError("a line must be a JSON object")
    if "problem" in value:
        attempt = from_json(Attempt, value)
        _put(answers.by_problem, (attempt.problem.prompt, attempt.problem.images), attempt.response)
        return
    response = value.get("response")
    names = {name: value[name] for name in ("id", "prompt") if name in value}
    if not isinstance(response, str) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ValueError('it must be an attempt, or have an "id" or a "prompt" and a "response", all texts')
    response.encode()  # half of a surrogate pair could be written nowhere
    if "id" in names:
        _put(answers.by_id, names["id"], response)
    if "prompt" in names:
        _put(answers.by_prompt, names["prompt"], response)


def _put(table: dict[Any, str], key: Any, response: str) -> None:
    if table.setdefault(key, response) != response:
        raise ValueError("an earlier line has another answer to this problem")


def _why(error: Exception) -> str:
    """Says what is wrong with a line, without its end of sentence."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"field {'.'.join(str(part) for part in first['loc'])!r}: {first['msg']}"
    if isinstance(error, json.JSONDecodeError | RecursionError):
        return f"not JSON: {error}"
    return " ".join(str(error).split())


def _bytes_of(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"The file of answers {path} cannot be read: {reason}.") from error
