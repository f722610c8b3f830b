"""Engines that write with a language model: they top up, count losses, and leave solving to a solver."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from dgym.chat.errors import LostAnswerError, SpendingStoppedError
from dgym.chat.ledger import recording
from dgym.core import Brief, Budget, Example, Observation, PlanItem
from dgym.errors import TeacherError, UsageError
from dgym.fake_chat import FakeChat
from dgym.teachers import make_teacher
from dgym.teachers.writing import FromPool, Writer

BRIEF = Brief(
    domain="fake",
    environment="open-ended",
    description="Sums.",
    answer_format="A number.",
    example_schema={},
    budget=Budget(40),
    iterations=3,
    samples=(Example("add 1 2", "3"), Example("add 3 4", "7")),
)


def counter(per_call: int | None = None, start: int = 0) -> FakeChat:
    """Writes sums that never repeat, as many as are asked for or so many."""
    numbers = iter(range(start, 10_000))

    def answer(messages, schema, seed):
        task = json.loads(messages[-1].content.rpartition("Task: ")[2])
        count = per_call if per_call is not None else task["count"]
        fields = schema["$defs"]["Draft"]["properties"]
        rows = [
            {"prompt": f"add {n} 1", "response": str(n + 1), "rejected": "0", "picture": f"p{n}"}
            for n in (next(numbers) for _ in range(count))
        ]
        return {"examples": [{k: v for k, v in row.items() if k in fields} for row in rows]}

    return FakeChat(answer)


def test_an_item_is_written_in_calls_of_moderate_size() -> None:
    chat = counter()
    examples = Writer(chat).generate(BRIEF, PlanItem(25, "sums", "add", seed=1))
    assert len({e.prompt for e in examples}) == 25
    assert {e.skill for e in examples} == {"add"}
    assert sorted(json.loads(c.messages[-1].content.rpartition("Task: ")[2])["count"] for c in chat.calls) == [
        5,
        10,
        10,
    ]
    assert len({c.seed for c in chat.calls}) == 3


def test_what_is_missing_is_asked_for_again_and_not_what_is_there() -> None:
    chat = counter(per_call=4)
    examples = Writer(chat).generate(BRIEF, PlanItem(10, seed=1))
    assert len(examples) == 10
    assert len(chat.calls) == 3
    assert json.dumps(examples[0].prompt) in chat.calls[1].messages[-1].content


def test_repeated_and_surplus_examples_do_not_count() -> None:
    same = FakeChat(lambda *_: {"examples": [{"prompt": "add 1 1", "response": "2"}] * 3})
    assert [e.prompt for e in Writer(same).generate(BRIEF, PlanItem(3, seed=1))] == ["add 1 1"]
    assert len(same.calls) == 4, "it gives up after so many rounds"
    many = counter(per_call=5)
    assert len(Writer(many).generate(BRIEF, PlanItem(3, seed=1))) == 3
    assert len(many.calls) == 1
    assert many.calls[0].schema["properties"]["examples"]["maxItems"] == 6, "a model held to the schema comes to an end"


def test_losses_are_topped_up() -> None:
    good = counter()
    turn = iter(range(100))

    def answer(messages, schema, seed):
        if next(turn) % 2 == 0:
            return LostAnswerError("prose", "no-json")
        return good.complete(messages, schema, seed)

    assert len(Writer(FakeChat(answer)).generate(BRIEF, PlanItem(10, seed=1))) == 10


def test_a_model_that_gives_nothing_gives_nothing() -> None:
    lost = FakeChat(lambda *_: LostAnswerError("no", "refused"))
    assert Writer(lost).generate(BRIEF, PlanItem(10, seed=1)) == []


@pytest.mark.parametrize("error", [SpendingStoppedError("spent"), UsageError("no key"), TeacherError("broken")])
def test_what_is_no_lost_answer_is_raised(error: Exception) -> None:
    with pytest.raises(type(error)):
        Writer(FakeChat(lambda *_: error)).generate(BRIEF, PlanItem(10, seed=1))


def test_a_solver_answers_what_it_is_shown_and_no_more() -> None:
    def solve(messages, schema, seed):
        rows = [json.loads(line) for line in messages[-1].content.split("\n") if line.startswith('{"id"')]
        assert all(set(row) == {"id", "problem"} for row in rows)
        return {"solutions": [{"id": r["id"], "response": f"solved {r['problem']}"} for r in rows[1:]]}

    author, solver = counter(), FakeChat(solve)
    examples = Writer(author, solver, rounds=1).generate(BRIEF, PlanItem(5, seed=1))
    assert len(examples) == 4, "what the solver leaves out is dropped"
    assert all(e.response == f"solved {e.prompt}" for e in examples)
    assert "response" not in author.calls[0].schema["$defs"]["Draft"]["properties"]


def test_pairs_have_a_response_to_reject() -> None:
    examples = Writer(counter(), pairs=True).generate(BRIEF, PlanItem(2, seed=1))
    assert [e.rejected for e in examples] == ["0", "0"]
    assert [e.rejected for e in Writer(counter()).generate(BRIEF, PlanItem(2, seed=1))] == [None, None]


def test_a_seeded_call_starts_from_one_problem_of_the_train_split() -> None:
    chat = counter()
    Writer(chat, seeded=True).generate(BRIEF, PlanItem(40, seed=3))
    starts = {line for c in chat.calls for line in c.messages[-1].content.split("\n") if line.startswith('{"problem"')}
    assert starts == {'{"problem": "add 1 2", "right": "3"}', '{"problem": "add 3 4", "right": "7"}'}


def test_the_engine_is_shown_what_the_student_said_only_where_it_was_wrong() -> None:
    chat = counter()
    like = (Observation("add 5 5", "11", "10", False), Observation("add 6 6", "12", "12", True))
    Writer(chat).generate(BRIEF, PlanItem(2, like=like, seed=1))
    assert '{"problem": "add 5 5", "right": "10", "student": "11"}' in chat.calls[0].messages[-1].content
    assert '{"problem": "add 6 6", "right": "12"}' in chat.calls[0].messages[-1].content


@pytest.mark.parametrize("case", ["write", "write-pairs", "solve"])
def test_prompts_are_as_they_were(case: str) -> None:
    """Golden files; after a change on purpose: `DGYM_RENEW=1 pytest tests/teachers/test_writing.py`."""
    like = (Observation("add 5 5", "11", "10", False), Observation("add 6 6", "12", "12", True))
    item = PlanItem(6, "sums that carry", "add/with carry", like, seed=3)
    author = counter(per_call=4)
    solver = FakeChat(lambda *_: {"solutions": [{"id": n, "response": "1"} for n in range(1, 7)]})
    writer = Writer(author, solver if case == "solve" else None, pairs=case == "write-pairs", seeded=True, batch=6)
    writer.generate(BRIEF, item)
    chat = solver if case == "solve" else author
    # The last call tops up, and shows what is written already.
    text = "\n\n".join(f"=== {m.role} ===\n{m.content}" for m in chat.calls[-1].messages) + "\n"
    file = Path(__file__).parent / "prompts" / f"{case}.txt"
    if os.environ.get("DGYM_RENEW"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


class Painter:
    name, version = "odd", "1"

    def paint(self, description: str, seed: int) -> bytes:
        if int(description[1:]) % 2:
            raise TeacherError("odd")
        return description.encode()


def test_pictures_are_drawn_and_those_that_cannot_be_are_counted() -> None:
    pictured = replace(BRIEF, pictures="Say p and a number.")
    with recording() as calls:
        examples = Writer(counter(), painter=Painter(), rounds=1).generate(pictured, PlanItem(4, seed=1))
    assert [e.images for e in examples] == [(b"p0",), (b"p2",)]
    assert [(c.purpose, c.model, c.outcome) for c in calls] == [("paint", "odd", "unpaintable")] * 2
    with pytest.raises(UsageError, match="painter"):
        Writer(counter()).generate(pictured, PlanItem(4, seed=1))


# The pool ----------------------------------------------------------------------------------------------------------


def pool_file(folder: Path, *rows: object) -> str:
    path = folder / "pool.jsonl"
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows))
    return str(path)


def test_a_pool_is_drawn_from_at_random_and_by_skill(tmp_path: Path) -> None:
    rows = [{"prompt": f"{s} {n} 1", "response": "1", "skill": s} for s in ("add", "larger") for n in range(20)]
    file = pool_file(tmp_path, *rows)
    engine = FromPool(file)
    adds = engine.generate(BRIEF, PlanItem(8, skill="add", seed=1))
    assert len({e.prompt for e in adds}) == 8
    assert {e.skill for e in adds} == {"add"}
    assert engine.generate(BRIEF, PlanItem(8, seed=1)) == engine.generate(BRIEF, PlanItem(8, seed=1))
    assert engine.generate(BRIEF, PlanItem(8, seed=1)) != engine.generate(BRIEF, PlanItem(8, seed=2))
    assert len(engine.generate(BRIEF, PlanItem(99, seed=1))) == 40
    before = make_teacher("pool", {"file": file}).version
    pool_file(tmp_path, *rows[1:])
    assert make_teacher("pool", {"file": file}).version != before


@pytest.mark.parametrize(
    ("rows", "message"),
    [((), "empty"), (("{",), "line 1"), (({"prompt": "x", "response": "y"}, {"prompt": 3}), "line 2")],
)
def test_a_broken_pool_is_explained(tmp_path: Path, rows: tuple[object, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FromPool(pool_file(tmp_path, *rows))
    with pytest.raises(UsageError, match="cannot be read"):
        FromPool(str(tmp_path / "none.jsonl"))
