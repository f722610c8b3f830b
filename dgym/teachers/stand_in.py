"""A stand-in for a language model: it reads the prompts of dgym's own teachers and answers from the generators.

It understands what a model would: the rows of a prompt, its task line, and the schema. So the whole way of a
language-model teacher can be walked offline, in a process (`agent@stand-in`) or over HTTP (`dgym serve`), and teaches
the small students for real. It is no language model: a teacher that uses it in its own process is *privileged*, as
the engines of `dgym.teachers.engines` are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from dgym.core import Example, Generator, Message, derive_seed
from dgym.domains import make_domain
from dgym.domains.procedural import ProceduralDomain
from dgym.domains.scenes import describe, read_scene
from dgym.errors import DgymError, DomainError, TeacherError
from dgym.skills.curriculum import allocate, root

_TASK: Final = "Task: "
_EVERY: Final = ("math", "code", "tools", "vqa", "fake")
_ENOUGH: Final = 4  # subskills of a tree, after which it exploits


class StandIn:
    """Answers dgym's own prompts from the generators, without a model; see the module's text.

    Args:
        model: A name for caches and tables.
    """

    privileged = True

    def __init__(self, model: str = "stand-in") -> None:
        self.model = model

    def complete(self, messages: Sequence[Message], schema: Mapping[str, Any], seed: int) -> Any:
        """Answers as the prompt asks; see `dgym.core.Chat.complete`.

        Raises:
            TeacherError: If the prompt is none of dgym's own.
        """
        return self.answer(messages, schema, seed)

    def answer(self, messages: Sequence[Message], schema: Mapping[str, Any], seed: int, *, wrong: bool = False) -> Any:
        """Answers, on request with wrong responses in what it writes or solves.

        Raises:
            TeacherError: If the prompt is none of dgym's own.
        """
        asked = next(m for m in reversed(messages) if m.role == "user" and "Answer again" not in m.content)
        rows = _rows(asked.content)
        task = _task(asked.content)
        if task is None:
            return _discovery(rows, schema)
        try:
            return _Work(task, rows, asked, schema, seed, wrong).done()
        except DgymError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise TeacherError(f"The stand-in cannot answer this prompt: {error!r}.") from error


class _Work:
    """One prompt of a teacher's."""

    def __init__(
        self,
        task: Mapping[str, Any],
        rows: Sequence[Mapping[str, Any]],
        asked: Message,
        schema: Mapping[str, Any],
        seed: int,
        wrong: bool,
    ) -> None:
        self._task, self._rows, self._asked, self._schema = task, rows, asked, schema
        self._seed, self._wrong = derive_seed("stand-in", seed), wrong
        self._domain = _generator(str(task["domain"]))
        self._count = int(task["count"])

    def done(self) -> Any:
        made: Any = getattr(self, f"_{self._task['task']}")()
        return made

    def _plan(self) -> Any:
        failed = [row for row in self._rows if "student" in row]
        skills = [self._domain.infer_skill(str(row["problem"])) for row in failed]
        named = self._task.get("skill")
        if named is not None:
            wanted = Counter({str(named): 1})
        else:
            wanted = Counter(skill for skill in skills if skill is not None)
        rest = self._count if not wanted else 0 if named is not None else self._count // 4
        counts = allocate([float(n) for n in wanted.values()], self._count - rest)
        made = [
            {
                "instruction": f"Problems of the kind {skill}.",
                "count": count,
                "like": [row["id"] for row, s in zip(failed, skills, strict=True) if skill in (s, named)][:5],
            }
            for skill, count in zip(wanted, counts, strict=True)
            if count
        ]
        if rest:
            made.append({"instruction": "Problems of all kinds of the domain.", "count": rest, "like": []})
        hypothesis = {"hypotheses": [f"The student fails {len(failed)} of the problems shown."]}
        return (hypothesis if "hypotheses" in self._schema["properties"] else {}) | {"specifications": made}

    def _act(self) -> Any:
        grown = sum("subskill" in row for row in self._rows)
        if grown < _ENOUGH:
            return {"why": f"Only {grown} subskills have grown.", "action": "explore"}
        return {"why": "Enough subskills have grown.", "action": "exploit"}

    def _subskills(self) -> Any:
        skill = str(self._task["skill"])
        known = {json.loads(line) for line in self._asked.content.split("\n") if line.startswith('"')}
        names = [name.partition("/")[2] for name in self._domain.subskills(skill)]
        names += [f"kind {n}" for n in range(1, 100)]
        return {"subskills": [name for name in names if name not in known][: self._count]}

    def _shift(self) -> Any:
        leaves = [row for row in self._rows if "subskill" in row]
        needs = [1 - (row.get("accuracy") or 0.0) for row in leaves]
        counts = allocate(needs, self._count)
        shifts = [
            {"subskill": row["subskill"], "change": count} for row, count in zip(leaves, counts, strict=True) if count
        ]
        return {"why": "To those that the student knows worst.", "shifts": shifts}

    def _write(self) -> Any:
        kinds = self._kinds()
        turns = [kinds[i % len(kinds)] for i in range(self._count)]
        fresh = {
            k: iter(self._domain.fresh(k, turns.count(k), derive_seed(self._seed, k))) for k in dict.fromkeys(turns)
        }
        fields = _properties(self._schema, "examples")
        told = _Told(str(self._task["domain"]))
        return {
            "examples": [
                self._draft(next(fresh[kind], None) or told.again(kind, self._seed, i), i, fields)
                for i, kind in enumerate(turns)
            ]
        }

    def _kinds(self) -> Sequence[str]:
        """Returns which kinds are asked for: by name, by what they should be like, or in the instruction's words."""
        skills, named = self._domain.skills(), self._task.get("skill")
        if named is not None:
            skill = root(str(named), skills)
            if named in self._domain.subskills(skill):
                return (str(named),)
            if skill in skills:
                return (skill,)
        like = [self._domain.infer_skill(str(row["problem"])) for row in self._rows if "problem" in row]
        inferred = tuple(dict.fromkeys(skill for skill in like if skill is not None))
        said = tuple(skill for skill in skills if f"kind {skill}." in self._asked.content)
        return said or inferred or skills

    def _draft(self, example: Example, number: int, fields: Mapping[str, Any]) -> dict[str, Any]:
        try:
            bad = self._domain.wrong_answer(example, derive_seed(self._seed, "wrong", number)).response
        except DomainError:  # where few answers are known, there may be no other
            bad = "?"
        draft = {"prompt": example.prompt}
        if "response" in fields:
            draft["response"] = bad if self._wrong else example.response
        if "rejected" in fields:
            draft["rejected"] = bad
        if "picture" in fields:
            scene = read_scene(example.images[0]) if example.images else None
            draft["picture"] = f"A photograph. {example.prompt}" if scene is None else describe(scene)
        return draft

    def _solve(self) -> Any:
        domain = self._domain
        made = []
        for row in self._rows:
            images = tuple(self._asked.images[n - 1] for n in row.get("pictures", ()))
            task = domain.recognise(str(row["problem"]), images) if isinstance(domain, ProceduralDomain) else None
            if task is not None:
                made.append({"id": row["id"], "response": "?" if self._wrong else task.answer})
        return {"solutions": made or [{"id": 0, "response": "?"}]}


def _discovery(rows: Sequence[Mapping[str, Any]], schema: Mapping[str, Any]) -> Any:
    """Answers the three steps of skill discovery: the domains' own kinds are its labels."""
    asked = schema.get("properties", {})
    if "categories" in asked:
        labels = [str(row["label"]) for row in rows if "label" in row]
        return {"categories": labels[: asked["categories"].get("maxItems", 30)]}
    if "skills" not in asked:
        raise TeacherError("The stand-in only answers dgym's own prompts.")
    categories = [str(row["category"]) for row in rows if "category" in row]
    out = []
    for row in rows:
        if "problem" in row:
            kind = _kind(str(row["problem"]))
            skill = kind if not categories or kind in categories else categories[0]
            out.append({"id": row["id"], "skill": skill})
    return {"skills": out}


def _kind(problem: str) -> str:
    for name in _EVERY:
        skill = _generator(name).infer_skill(problem)
        if skill is not None:
            return skill.replace("/", "-")
    return "unknown"


@lru_cache(maxsize=16)
def _generator(name: str) -> Generator:
    domain = make_domain(name)
    return domain if isinstance(domain, Generator) else _Told(name)


class _Told:
    """What takes the place of generators where a domain has none: its feedback problems, told again.

    They teach nothing new; the gate sees that, and rejects most of them.
    """

    def __init__(self, name: str) -> None:
        self._problems = make_domain(name).problems("feedback")

    def skills(self) -> Sequence[str]:
        return sorted({p.skill for p in self._problems})

    def subskills(self, skill: str) -> Sequence[str]:
        return ()

    def infer_skill(self, prompt: str, images: tuple[bytes, ...] = ()) -> str | None:
        return next((p.skill for p in self._problems if p.prompt == prompt), None)

    def fresh(self, skill: str, count: int, seed: int) -> list[Example]:
        return [self.again(skill, seed, number) for number in range(count)]

    def again(self, skill: str, seed: int, number: int) -> Example:
        pool = [p for p in self._problems if p.skill == skill] or list(self._problems)
        chosen = pool[derive_seed(seed, number) % len(pool)]
        prompt = f"{chosen.prompt}\n(Variation {derive_seed(seed, 'variation', number) % 1_000_000}.)"
        return Example(prompt, chosen.reference or "pass", skill, images=chosen.images)

    def off_domain(self) -> Sequence[str]:
        return ()

    def wrong_answer(self, example: Example, seed: int) -> Example:
        return replace(example, response="?")


def _rows(text: str) -> list[dict[str, Any]]:
    rows = []
    for line in text.split("\n"):
        if line.startswith("{"):
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
    return rows


def _task(text: str) -> dict[str, Any] | None:
    for line in reversed(text.split("\n")):
        if line.startswith(_TASK):
            try:
                found = json.loads(line.removeprefix(_TASK))
            except ValueError:
                return None
            return found if isinstance(found, dict) and "task" in found else None
    return None


def _properties(schema: Mapping[str, Any], array: str) -> Mapping[str, Any]:
    """Returns the fields of an array's entries, which may stand behind a reference."""
    entry = schema["properties"][array]["items"]
    if "$ref" in entry:
        entry = schema["$defs"][entry["$ref"].rpartition("/")[2]]
    properties: Mapping[str, Any] = entry["properties"]
    return properties
