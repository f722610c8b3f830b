"""Engines that write with a language model, and one that takes from a pool that people wrote.

A plan item is worked on in several calls at a time, and topped up until its count is met: what was lost, malformed
or repeated is asked for again, a few times. Nothing but Brief and item is known here; what the gate makes of the
examples is not.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dgym.chat.errors import LostAnswerError
from dgym.chat.ledger import concurrently, note
from dgym.core import Brief, Call, Chat, Example, PlanItem, derive_seed, from_json
from dgym.errors import TeacherError, UsageError
from dgym.skills.curriculum import chunks
from dgym.teachers.answers import Solutions, drafts
from dgym.teachers.showing import Shown, put

if TYPE_CHECKING:
    from dgym.teachers.painters import Painter

MAX_REPEATED: Final = 30
"""Most prompts written already that a model is shown, the latest."""


@dataclass(frozen=True)
class Writer:
    """Writes examples with a language model.

    Attributes:
        chat: Who writes.
        solver: Who answers what was written, in a call that sees the problems only; `None` for the author.
        painter: What draws pictures from descriptions, where problems have them.
        pairs: Whether each example also gets a response to be rejected, for preference training.
        seeded: Whether each call starts from one problem of the train split.
        batch: Most examples of one call.
        rounds: Most rounds of calls for one item.
        see: Whether the model is shown pictures.
    """

    chat: Chat
    solver: Chat | None = None
    painter: Painter | None = None
    pairs: bool = False
    seeded: bool = False
    batch: int = 10
    rounds: int = 4
    see: bool = True

    def generate(self, brief: Brief, item: PlanItem) -> Sequence[Example]:
        """Writes `item.count` examples, or as many as come of all rounds."""
        if brief.pictures and self.painter is None:
            raise UsageError(f"Problems of {brief.domain} have pictures; name what draws them: painter=scene.")
        found: dict[tuple[str, tuple[bytes, ...]], Example] = {}
        for round_ in range(self.rounds):
            parts = list(enumerate(chunks(item.count - len(found), self.batch)))
            if not parts:
                break
            written = [example.prompt for example in found.values()][-MAX_REPEATED:]
            write = partial(self._part, brief, item, written, round_)
            for part in concurrently(write, parts):
                if isinstance(part, LostAnswerError):
                    continue  # it stands in the table of calls, and is asked for again
                if isinstance(part, Exception):
                    raise part
                for example in part:
                    found.setdefault((example.prompt, example.images), example)
        return list(found.values())[: item.count]

    def _part(
        self, brief: Brief, item: PlanItem, written: Sequence[str], round_: int, one: tuple[int, int]
    ) -> list[Example]:
        index, count = one
        seed = derive_seed(item.seed, round_, index)
        shown, unsolved = Shown(self.see), self.solver is not None
        start = random.Random(seed).choice(brief.samples) if self.seeded and brief.samples else None
        values = {
            "count": count,
            "instruction": item.instruction,
            "skill": item.skill,
            "like": shown.problems(item.like),
            "seed_problem": shown.samples([start])[0] if start else None,
            "written": written,
            "unsolved": unsolved,
            "pairs": self.pairs,
            "pictures": bool(brief.pictures),
            "task": {"task": "write", "domain": brief.domain, "skill": item.skill, "count": count},
        }
        kind = drafts(count, pictures=bool(brief.pictures), pairs=self.pairs, unsolved=unsolved)
        made: Any = put(self.chat, brief, "write", values, kind, seed, shown)
        examples = []
        for number, draft in enumerate(made.examples[:count]):
            images = self._paint(draft.picture, derive_seed(seed, "paint", number)) if brief.pictures else ()
            if images is not None:
                response = getattr(draft, "response", "")
                rejected = getattr(draft, "rejected", None)
                examples.append(Example(draft.prompt, response, item.skill, images=images, rejected=rejected))
        return self._solved(brief, examples, derive_seed(seed, "solve")) if self.solver else examples

    def _paint(self, description: str, seed: int) -> tuple[bytes, ...] | None:
        """Draws a picture; `None` where it cannot be drawn, which is counted like a lost answer."""
        assert self.painter is not None
        try:
            return (self.painter.paint(description, seed),)
        except UsageError:
            raise
        except TeacherError:
            note(Call("paint", self.painter.name, "unpaintable"))
            return None

    def _solved(self, brief: Brief, examples: Sequence[Example], seed: int) -> list[Example]:
        """Has the solver answer; problems that it leaves out are dropped."""
        assert self.solver is not None
        if not examples:
            return []
        shown = Shown(self.see)
        task = {"task": "solve", "domain": brief.domain, "count": len(examples)}
        values = {"problems": shown.questions(examples), "task": task}
        made = put(self.solver, brief, "solve", values, Solutions, seed, shown)
        answers = {solution.id: solution.response for solution in made.solutions}
        return [replace(e, response=answers[n]) for n, e in enumerate(examples, 1) if n in answers]


class FromPool:
    """Takes examples at random from a pool that people wrote; each at most once an item.

    Args:
        file: The pool: JSON lines of examples, `{"prompt": ..., "response": ...}`, with `skill` where it is known.

    Attributes:
        digest: Identifies the file's bytes.

    Raises:
        UsageError: If the file cannot be read, naming the first line that is wrong.
    """

    def __init__(self, file: str) -> None:
        path = Path(file)
        try:
            content = path.read_bytes()
            lines = content.decode("utf-8").splitlines()
        except OSError as error:
            raise UsageError(f"The pool {file!r} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise UsageError(f"The pool {file!r} is not UTF-8 text.") from error
        self._examples = [_example(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]
        if not self._examples:
            raise UsageError(f"The pool {file!r} is empty.")
        self.digest = hashlib.blake2b(content, digest_size=8).hexdigest()

    def generate(self, brief: Brief, item: PlanItem) -> Sequence[Example]:
        """Draws `item.count` examples, of the item's skill where the pool knows skills and has it."""
        of_skill = [e for e in self._examples if item.skill is not None and e.skill == item.skill]
        pool = of_skill or self._examples
        chosen = random.Random(item.seed).sample(pool, min(item.count, len(pool)))
        return [replace(e, skill=item.skill or e.skill) for e in chosen]


def _example(file: str, number: int, line: str) -> Example:
    try:
        return from_json(Example, json.loads(line))
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"The pool {file!r}, line {number}: not an example: {reason}.") from error
