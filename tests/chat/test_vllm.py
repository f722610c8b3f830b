"""A real vLLM, started and watched by dgym, as teacher: `make vllm-teacher` sets up what this needs.

`$DGYM_VLLM` is vLLM's command, and `$DGYM_TEST_VLLM_MODEL` a folder with a small model. What such a model writes is
seldom right; that it has the form asked for is what is tested.
"""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest

from dgym import results
from dgym.bench import LocalBackend, bench
from dgym.chat import find_chat, session
from dgym.chat.errors import LOSSES
from dgym.chat.ledger import recording
from dgym.chat.session import Settings
from dgym.chat.structured import misfit
from dgym.core import Budget, Message, Rules
from dgym.specs import EpisodeSpec, Seeds
from tests.chat.test_servers import alive

pytestmark = pytest.mark.vllm

# Two cores have to do. Without the penalty a model as small as this one never ends a list that may be of any length.
SHORT = {"max_new_tokens": 384, "repetition_penalty": 1.2}
ARGS = ["--dtype", "float32", "--enforce-eager", "--override-generation-config", json.dumps(SHORT)]
NUMBER = {
    "type": "object",
    "properties": {"sum": {"type": "integer"}, "sure": {"type": "boolean"}},
    "required": ["sum", "sure"],
    "additionalProperties": False,
}
WORDS = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["noun", "verb"]},
        "words": {"type": "array", "items": {"type": "string", "maxLength": 12}, "minItems": 2, "maxItems": 3},
    },
    "required": ["kind", "words"],
    "additionalProperties": False,
}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DGYM_VLLM_ARGS", shlex.join(ARGS))
    monkeypatch.delenv("DGYM_VLLM_URL", raising=False)
    for name in ("HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS"):
        monkeypatch.setenv(name, "1")
    return os.environ["DGYM_TEST_VLLM_MODEL"]


def of_this_process() -> list[int]:
    """Returns the processes of the sessions that this process started."""
    sessions = set()
    stats = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid, parent, group = int(folder.name), int(words[1]), int(words[3])
        stats[pid] = group
        if parent == os.getpid() and group == pid:
            sessions.add(pid)
    return [pid for pid, group in stats.items() if group in sessions and alive(pid)]


def test_answers_have_the_form_of_whatever_schema_is_asked_for(model: str) -> None:
    chat = find_chat(f"vllm:{model}")
    chat.check()
    assert not of_this_process()
    with recording() as calls:
        for asked, schema in (("How much is 2 and 3?", NUMBER), ("Name some words.", WORDS)):
            value = chat.complete([Message("user", asked)], schema, 1)
            assert misfit(value, schema) == ""
            print(asked, value)
        assert chat.complete([Message("user", "Name some words.")], WORDS, 1) == value
    assert [(call.outcome, call.requests, call.cache_hit) for call in calls] == [
        ("ok", 1, False),
        ("ok", 1, False),
        ("ok", 1, True),
    ]
    assert all(call.tokens_in > 5 and call.tokens_out > 5 and call.cost == 0.0 for call in calls)
    processes = of_this_process()
    assert len(processes) >= 3, "the guard, the server and its engine"
    session.current().servers.stop()
    assert not [pid for pid in processes if alive(pid)]


def test_an_episode_runs_to_its_end(model: str, tmp_path: Path) -> None:
    spec = EpisodeSpec(
        teacher=f"agent@vllm:{model}",
        environment="open-ended",
        domain="fake",
        student="fake",
        rules=Rules(iterations=1, budget=Budget(8)),
        seeds=Seeds.all(1),
    )
    summary = bench([spec], tmp_path / "run", backend=LocalBackend(), chat=Settings(record=str(tmp_path / "record")))
    assert not of_this_process()
    found = results.open(tmp_path / "run")
    (row,) = found.episodes.itertuples()
    calls = found.calls
    print(calls[["purpose", "outcome", "returned", "tokens_in", "tokens_out", "seconds"]].to_string())
    assert not summary.failed
    assert row.status == "ok"
    assert row.last_test is not None
    assert row.examples_submitted > 0
    assert len(calls) == row.teacher_calls > 0
    assert set(calls.outcome) <= {"ok", *LOSSES}
    assert (calls.outcome == "ok").any()
    assert set(calls.model) == {f"vllm:{model}"}
    assert calls.tokens_out.sum() > 0
