"""The teachers that are language models: the paper's agents, and what it compares them with.

`agent` is the paper's, with a policy for each environment; `agent-blind` is its no-state twin. `agent-seeded` starts
every call from one problem of the train split and sees nothing else, `agent-pairs` writes preference pairs, and
`pool` draws from examples that people wrote. `NAME@CHAT` is `NAME` with a language model, `CHAT` alone is `agent`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from dgym import registry
from dgym.chat import digest_of, find_chat
from dgym.core import Chat, Policy, Teacher, digest
from dgym.errors import UsageError
from dgym.teachers.agents import OpenEndedAgent, SkillListAgent, SkillTreeAgent
from dgym.teachers.painters import find_painter
from dgym.teachers.policies import Blind
from dgym.teachers.showing import PROMPTS
from dgym.teachers.writing import FromPool, Writer

VERSION = "1"
"""Of the agents' code; prompts and models have digests of their own."""

CONCURRENCY = 16
"""Plan items that one worker has in hand at a time; the limiter decides what is sent."""

SIZE = 40
"""Examples that an agent without a plan of its own asks for at a time."""


def agent(
    chat: str | Chat = "",
    solver: str | Chat = "",
    painter: str = "scene",
    proposals: Literal["model", "list"] = "model",
    see: bool = True,
) -> Teacher:
    """The paper's agents: a language model plans from the student's errors, and writes.

    Args:
        chat: The language model, such as `"openai:gpt-4o-mini"`.
        solver: Another that answers the problems, where their author should not.
        painter: What draws pictures, where problems have them: `"scene"`, `"diffusers:MODEL"`, `"noise"`.
        proposals: Skill-tree: whether the model names new subskills, or they come from the domain's `list`.
        see: Whether the models are shown pictures.
    """
    return _agent("agent", chat, solver, painter, proposals, see, state=True)


def agent_blind(
    chat: str | Chat = "",
    solver: str | Chat = "",
    painter: str = "scene",
    proposals: Literal["model", "list"] = "model",
    see: bool = True,
) -> Teacher:
    """The no-state twin of `agent`: the same questions, without anything that the student did.

    Args:
        chat: The language model.
        solver: Another that answers the problems.
        painter: What draws pictures.
        proposals: Skill-tree: who names new subskills.
        see: Whether the models are shown pictures.
    """
    return _agent("agent-blind", chat, solver, painter, proposals, see, state=False)


def agent_seeded(chat: str | Chat = "", solver: str | Chat = "", painter: str = "scene", see: bool = True) -> Teacher:
    """A language model that starts from one problem of the train split in every call, and sees nothing else.

    Args:
        chat: The language model.
        solver: Another that answers the problems.
        painter: What draws pictures.
        see: Whether the models are shown pictures.
    """
    return _blind("agent-seeded", _writer("agent-seeded", chat, solver, painter, see, seeded=True), painter)


def agent_pairs(chat: str | Chat = "", painter: str = "scene", see: bool = True) -> Teacher:
    """`agent`, writing a response to be rejected beside each right one, for preference training.

    Args:
        chat: The language model.
        painter: What draws pictures.
        see: Whether the models are shown pictures.
    """
    writer = _writer("agent-pairs", chat, "", painter, see, pairs=True)
    return _teacher("agent-pairs", _policies(writer.chat, "model", see, state=True), writer, painter)


def pool(file: str = "") -> Teacher:
    """Draws at random from a pool that people wrote.

    Args:
        file: JSON lines of examples.
    """
    if not file:
        raise UsageError("The teacher 'pool' needs a file of examples: --param file=PATH (JSON lines).")
    engine = FromPool(file)
    policies = dict.fromkeys(registry.names("environment"), Blind("Draw from the pool.", SIZE))
    return Teacher("pool", policies, engine, version=f"{VERSION} {engine.digest}", state_blind=True)


def _agent(
    name: str,
    chat: str | Chat,
    solver: str | Chat,
    painter: str,
    proposals: Literal["model", "list"],
    see: bool,
    *,
    state: bool,
) -> Teacher:
    if proposals not in ("model", "list"):
        raise UsageError(f"proposals is {proposals!r}; it must be 'model' or 'list'.")
    writer = _writer(name, chat, solver, painter, see)
    return _teacher(name, _policies(writer.chat, proposals, see, state), writer, painter, twin="" if state else "agent")


def _writer(
    name: str,
    chat: str | Chat,
    solver: str | Chat,
    painter: str,
    see: bool,
    *,
    seeded: bool = False,
    pairs: bool = False,
) -> Writer:
    if not chat:
        raise UsageError(f"The teacher {name!r} needs a language model: {name}@openai:MODEL, or chat=... as parameter.")
    return Writer(
        chat=_chat(chat),
        solver=_chat(solver) if solver else None,
        painter=find_painter(painter),
        pairs=pairs,
        seeded=seeded,
        see=see,
    )


def _policies(chat: Chat, proposals: Literal["model", "list"], see: bool, state: bool) -> Mapping[str, Policy]:
    return {
        "open-ended": OpenEndedAgent(chat, state, see=see),
        "skill-list": SkillListAgent(chat, state, see=see),
        "skill-tree": SkillTreeAgent(chat, state, proposals, see=see),
    }


def _teacher(name: str, policies: Mapping[str, Policy], writer: Writer, painter: str, twin: str = "") -> Teacher:
    chats = (writer.chat,) if writer.solver is None else (writer.chat, writer.solver)
    drawn = f"{writer.painter.version} {registry.pin('painter', painter)}" if writer.painter else ""
    return Teacher(
        name=name,
        policies=policies,
        engine=writer,
        version=f"{VERSION} {digest([PROMPTS.digest, [digest_of(c) for c in chats], painter, drawn])}",
        privileged=any(getattr(chat, "privileged", False) for chat in chats),
        chats=chats,
        concurrency=CONCURRENCY,
        twin=twin,
    )


def _blind(name: str, writer: Writer, painter: str) -> Teacher:
    policies = dict.fromkeys(registry.names("environment"), Blind("", SIZE))
    return replace(_teacher(name, policies, writer, painter), state_blind=True)


def _chat(chat: str | Chat) -> Chat:
    return find_chat(chat) if isinstance(chat, str) else chat
