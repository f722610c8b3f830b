"""What a teacher's language model is asked for: the records that its answers must fit."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Specification(Answer):
    """Some training data to be written.

    Attributes:
        instruction: What to write.
        count: How many examples.
        like: Ids of shown problems that it is about.
    """

    instruction: str = Field(min_length=1, max_length=2000)
    count: int = Field(ge=1, le=1000)
    like: list[int] = Field(max_length=20)


class DataPlan(Answer):
    """Open-ended: a list of specifications."""

    specifications: list[Specification] = Field(min_length=1, max_length=60)


class SkillPlan(Answer):
    """Skill-list: hypotheses about a weakness, then specifications."""

    hypotheses: list[str] = Field(max_length=20)
    specifications: list[Specification] = Field(min_length=1, max_length=20)


class Choice(Answer):
    """Skill-tree: explore or exploit, with the reason first."""

    why: str = Field(max_length=1000)
    action: Literal["explore", "exploit"]


class Proposals(Answer):
    """Skill-tree: names of new subskills."""

    subskills: list[str] = Field(min_length=1, max_length=20)


class Shift(Answer):
    """Skill-tree: the change of one subskill's allocation."""

    subskill: str
    change: int = Field(ge=-10_000, le=10_000)


class Shifts(Answer):
    """Skill-tree: changes of allocations, with the reason first."""

    why: str = Field(max_length=1000)
    shifts: list[Shift] = Field(min_length=1, max_length=64)


class Solution(Answer):
    """A solver's answer to one problem."""

    id: int
    response: str = Field(min_length=1)


class Solutions(Answer):
    """A solver's answers."""

    solutions: list[Solution] = Field(min_length=1)


def drafts(count: int, *, pictures: bool = False, pairs: bool = False, unsolved: bool = False) -> type[Answer]:
    """Returns the record of a list of written examples.

    Args:
        count: How many are asked for; twice as many may be written, so that a model that is held to the schema ends.
        pictures: Whether each has a `picture`, described in words.
        pairs: Whether each has a `rejected` response.
        unsolved: Whether they come without `response`.
    """
    text: Any = (str, Field(min_length=1))
    fields: dict[str, Any] = {"picture": text} if pictures else {}
    fields["prompt"] = text
    if not unsolved:
        fields["response"] = text
        if pairs:
            fields["rejected"] = text
    draft = create_model("Draft", __base__=Answer, **fields)
    return create_model("Drafts", __base__=Answer, examples=(list[draft], Field(min_length=1, max_length=2 * count)))
