"""JSON out of text, schemas out of records, prices out of tables."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest
from pydantic import BaseModel

from dgym.chat.prices import SHIPPED, price_of
from dgym.chat.prompts import Prompts
from dgym.chat.structured import ask, extract, misfit, schema_of
from dgym.core import Message
from dgym.errors import UsageError
from dgym.fake_chat import FakeChat
from dgym.teachers.answers import DataPlan, drafts


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1]}',
        '  {"a": [1]}\n',
        'Here you are:\n```json\n{"a": [1]}\n```\nGood luck!',
        'Sure. {"a": [1]} is what you want.',
        'Text {not json} and then {"a": [1]} and {"b": 2}',
    ],
)
def test_json_is_found_in_what_a_model_says(text: str) -> None:
    assert extract(text) == {"a": [1]}


@pytest.mark.parametrize("text", ["", "no", "{", '{"a": [1', "[[[[", "{" * 10_000])
def test_where_there_is_none_that_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="no JSON"):
        extract(text)


def test_schemas_are_strict_all_the_way_down() -> None:
    schema = schema_of(DataPlan)
    for node in (schema, schema["$defs"]["Specification"]):
        assert node["additionalProperties"] is False
        assert node["required"] == list(node["properties"])
    assert "title" not in schema


def test_a_field_that_is_called_like_a_keyword_stays() -> None:
    class Odd(BaseModel):
        title: str
        default: int = 3

    assert set(schema_of(Odd)["properties"]) == {"title", "default"}


def test_a_misfit_is_named_by_its_place() -> None:
    schema = schema_of(DataPlan)
    assert misfit({"specifications": [{"instruction": "x", "count": 1, "like": []}]}, schema) == ""
    wrong = misfit({"specifications": [{"instruction": "x", "count": "three", "like": []}]}, schema)
    assert wrong.startswith("at specifications/0/count")


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        ({}, ["prompt", "response"]),
        ({"pictures": True}, ["picture", "prompt", "response"]),
        ({"pairs": True}, ["prompt", "response", "rejected"]),
        ({"unsolved": True, "pairs": True}, ["prompt"]),
    ],
)
def test_drafts_have_the_fields_that_are_wanted(flags: dict[str, bool], fields: list[str]) -> None:
    assert list(schema_of(drafts(3, **flags))["$defs"]["Draft"]["properties"]) == fields


def test_a_record_comes_out_of_a_chat() -> None:
    made = ask(
        FakeChat([{"specifications": [{"instruction": "x", "count": 2, "like": [1]}]}]),
        [Message("user", "Plan.")],
        DataPlan,
        1,
    )
    assert made.specifications[0].count == 2


def test_prompts_are_rendered_strictly(tmp_path: Path) -> None:
    (tmp_path / "hello.txt").write_text("Hello {{ name }}: {{ value | json }}")
    prompts = Prompts(tmp_path)
    assert prompts.render("hello", {"name": "you", "value": {"a": "ä"}}) == 'Hello you: {"a": "ä"}'
    with pytest.raises(jinja2.UndefinedError):
        prompts.render("hello", {"name": "you"})
    before = prompts.digest
    (tmp_path / "hello.txt").write_text("Goodbye {{ name }}")
    assert Prompts(tmp_path).digest != before


def test_prices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dear = price_of("openai:gpt-4o")
    cheap = price_of("openai:gpt-4o-mini-2024-07-18")
    assert dear is not None
    assert cheap is not None
    assert cheap.of(1_000_000, 0) < dear.of(1_000_000, 0)
    assert dear.of(1_000_000, 0, 1_000_000) < dear.of(1_000_000, 0)
    assert price_of("openai:never-heard-of") is None
    assert price_of("vllm:anything/at-all").of(10, 10) == 0
    assert price_of("openai:stand-in").of(10, 10) == 0
    mine = tmp_path / "mine.toml"
    mine.write_text('["never-heard-of"]\nin = 2.0\nout = 4.0\n["gpt-4o"]\nin = 1\nout = 1\n')
    monkeypatch.setenv("DGYM_PRICES", str(mine))
    assert price_of("openai:never-heard-of").of(500_000, 250_000) == 2.0
    assert price_of("openai:gpt-4o").of(1_000_000, 0) == 1.0
    mine.write_text('["x"]\nin = "much"\n')
    monkeypatch.setenv("DGYM_PRICES", str(tmp_path / "other.toml"))
    with pytest.raises(UsageError, match="cannot be read"):
        price_of("x")
    assert SHIPPED.is_file()
