"""Language-model teachers from end to end, over real HTTP: they teach, they survive faults, they are replayed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dgym import results
from dgym.bench import LocalBackend, bench
from dgym.chat.errors import LOSSES
from dgym.chat.session import Settings
from dgym.chat_server import FAULTS
from dgym.core import Budget, Rules
from dgym.errors import UsageError
from dgym.estimate import estimate
from dgym.specs import EpisodeSpec, Seeds
from tests.rows import assert_same_rows

DOMAINS = ("math", "code", "tools", "vqa")
ENVIRONMENTS = ("open-ended", "skill-list", "skill-tree")
SHORT = Rules(iterations=2, budget=Budget(24))


def fake(environment: str = "skill-list", seed: int = 1, rules: Rules = SHORT, teacher: str = "agent") -> EpisodeSpec:
    return EpisodeSpec(
        teacher=f"{teacher}@openai:stand-in",
        environment=environment,
        domain="fake",
        student="fake",
        rules=rules,
        seeds=Seeds.all(seed),
    )


def run(specs: list[EpisodeSpec], folder: Path, record: Path, **settings: Any) -> results.reader.Run:
    chat = Settings(record=str(record), **settings)
    summary = bench(specs, folder, backend=LocalBackend(), chat=chat)
    assert not summary.failed
    return results.open(folder)


# They teach --------------------------------------------------------------------------------------------------------

CELLS = [
    pytest.param(
        domain,
        environment,
        marks=[] if ENVIRONMENTS[i % 3] == environment else pytest.mark.slow,
        id=f"{domain}-{environment}",
    )
    for i, domain in enumerate(DOMAINS)
    for environment in ENVIRONMENTS
]


@pytest.mark.parametrize(("domain", "environment"), CELLS)
def test_a_language_model_teaches_a_small_student_for_real(
    serve_openai, tmp_path: Path, domain: str, environment: str
) -> None:
    server = serve_openai()
    spec = EpisodeSpec(
        teacher="openai:stand-in",
        environment=environment,
        domain=domain,
        student=f"micro-{domain}:a",
        rules=Rules(iterations=1, budget=Budget(150), share=0.2),
    )
    found = run([spec], tmp_path / "run", tmp_path / "record")
    (row,) = found.episodes.itertuples()
    assert row.last_test > row.base_test
    assert row.examples_kept > 100
    assert not row.privileged
    calls = found.calls
    assert set(calls.outcome) == {"ok"}
    assert {"write"} < set(calls.purpose)
    assert len(calls) == row.teacher_calls == server.seen.answered
    assert calls.tokens_in.sum() + calls.tokens_out.sum() == row.teacher_tokens > 1000
    assert (calls.model == "openai:stand-in").all()


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("teacher", ["agent", "agent-blind", "agent-seeded", "agent-pairs"])
def test_every_agent_enters_every_environment(serve_openai, tmp_path: Path, teacher: str, environment: str) -> None:
    serve_openai()
    found = run([fake(environment, teacher=teacher)], tmp_path / "run", tmp_path / "record")
    assert found.episodes.examples_kept.iloc[0] > 20
    assert found.examples.rejected.notna().all() == (teacher == "agent-pairs")
    assert found.examples[found.examples.kept].correct.all()


def test_a_solver_and_an_author_are_two_models(serve_openai, tmp_path: Path) -> None:
    serve_openai()
    spec = EpisodeSpec(
        teacher="agent@openai:stand-in",
        teacher_params={"solver": "stand-in"},
        domain="math",
        student="fake",
        environment="skill-list",
        rules=Rules(iterations=1, budget=Budget(20), share=0.05),
    )
    found = run([spec], tmp_path / "run", tmp_path / "record")
    assert found.examples.correct.all()
    assert found.episodes.examples_kept.iloc[0] > 10


# Faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_with_every_third_answer_faulty_the_episode_ends_and_says_what_was_lost(
    serve_openai, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: str
) -> None:
    chats = tmp_path / "chats.toml"
    server = serve_openai(faults=FAULTS, every=3, hang=2.0, retry_after=0.01)
    chats.write_text(f'[mine]\nmodel = "stand-in"\nendpoint = "{server.url}"\ntimeout = 0.5\n')
    monkeypatch.setenv("DGYM_CHATS", str(chats))
    spec = fake(environment).model_copy(update={"teacher": "agent@mine"})
    found = run([spec], tmp_path / "run", tmp_path / "record")
    (row,) = found.episodes.itertuples()
    assert sum(server.seen.faults.values()) >= 5
    losses = json.loads(row.teacher_losses)
    assert set(losses) <= set(LOSSES)
    assert losses == dict(Counter(found.calls.outcome[found.calls.outcome != "ok"]))
    assert row.examples_submitted >= 0.8 * 48, "what was lost was asked for again"


def test_nothing_but_rubbish_ends_an_episode_as_the_teachers_failure(serve_openai, tmp_path: Path) -> None:
    serve_openai(faults=("prose", "schema", "refusal"), every=1)
    summary = bench([fake()], tmp_path / "run", backend=LocalBackend(), chat=Settings(record=str(tmp_path / "record")))
    (failed,) = summary.failed
    assert failed.boundary == "teacher"
    assert "returned no examples" in failed.message
    row = results.open(tmp_path / "run").episodes.iloc[0]
    assert json.loads(row.teacher_losses).keys() == {"refused", "no-json", "invalid"}


# Replay ------------------------------------------------------------------------------------------------------------


def test_a_strict_replay_gives_the_same_rows_and_asks_nobody(serve_openai, tmp_path: Path) -> None:
    server = serve_openai()
    specs = [fake(environment, seed) for environment in ENVIRONMENTS for seed in (1, 2)]
    run(specs, tmp_path / "first", tmp_path / "record")
    server.__exit__()
    asked = server.seen.requests
    found = run(specs, tmp_path / "again", tmp_path / "record", replay="strict")
    assert server.seen.requests == asked > 20
    assert found.calls.cache_hit.all()
    assert_same_rows(tmp_path / "first", tmp_path / "again")


def test_a_strict_replay_of_what_was_not_recorded_fails_and_says_how_to_record(serve_openai, tmp_path: Path) -> None:
    serve_openai()
    chat = Settings(replay="strict", record=str(tmp_path / "record"))
    (failed,) = bench([fake()], tmp_path / "run", backend=LocalBackend(), chat=chat).failed
    assert "without --replay strict" in failed.message


# Spending ----------------------------------------------------------------------------------------------------------


def test_a_limit_on_spending_ends_episodes_with_what_they_have_and_more_money_goes_on(
    serve_openai, tmp_path: Path
) -> None:
    server = serve_openai()
    long = Rules(iterations=4, budget=Budget(24))
    specs = [fake(rules=long)]
    whole = run(specs, tmp_path / "whole", tmp_path / "elsewhere").episodes.iloc[0]
    limit = int(whole.teacher_tokens // 2)
    found = run(specs, tmp_path / "run", tmp_path / "record", max_tokens=limit)
    (row,) = found.episodes.itertuples()
    assert row.status == "ok"
    assert "--max-teacher-tokens" in row.stopped
    assert 0 < row.iterations_run < 4
    assert limit <= row.teacher_tokens < whole.teacher_tokens
    assert row.last_test is not None
    asked = server.seen.requests
    again = run(specs, tmp_path / "run", tmp_path / "record").episodes
    assert again.stopped.isna().all(), "the same command goes on"
    assert again.iterations_run.iloc[0] == 4
    assert again.best_test.iloc[0] == whole.best_test
    assert again.teacher_tokens.iloc[0] == whole.teacher_tokens
    assert server.seen.requests - asked < whole.teacher_calls, "what was recorded was not paid for twice"


def test_an_estimate_is_near_what_comes_of_it_and_asks_nobody(serve_openai, tmp_path: Path) -> None:
    server = serve_openai()
    specs = [fake(environment, seed) for environment in ENVIRONMENTS for seed in (1, 2)]
    guessed, notes = estimate(specs, tmp_path / "run")
    assert notes == []
    assert server.seen.requests == 0
    assert [e.episodes for e in guessed] == [2, 2, 2]
    found = run(specs, tmp_path / "run", tmp_path / "record")
    for e in guessed:
        mine = found.episodes[found.episodes.environment == e.environment]
        assert 0.5 * mine.teacher_calls.mean() <= e.calls <= 2 * mine.teacher_calls.mean()
        assert 0.5 * mine.teacher_tokens.mean() <= e.tokens_in + e.tokens_out <= 2.5 * mine.teacher_tokens.mean()
        assert e.cost == 0.0
    assert estimate(specs, tmp_path / "run")[0] == []
    (silent,), _ = estimate([EpisodeSpec(teacher="uniform", domain="fake", student="fake")])
    assert silent.calls == silent.gpu_hours == 0


# What a person has to mend -----------------------------------------------------------------------------------------


def test_what_cannot_be_asked_is_said_before_anything_is_run(serve_openai, tmp_path: Path, monkeypatch) -> None:
    serve_openai(key="sk-right")
    with pytest.raises(UsageError, match=r"set \$OPENAI_API_KEY to a valid key"):
        bench([fake()], tmp_path / "run", backend=LocalBackend())
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(UsageError, match="Nobody answers"):
        bench([fake()], tmp_path / "run", backend=LocalBackend())
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UsageError, match="There is no key"):
        bench([fake()], tmp_path / "run", backend=LocalBackend())
    assert not (tmp_path / "run").exists()


def test_no_key_in_any_file_that_a_run_leaves(serve_openai, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = "sk-canary-4711"
    serve_openai(key=canary, faults=FAULTS[:3], every=4)
    monkeypatch.setenv("OPENAI_API_KEY", canary)
    run([fake()], tmp_path / "run", tmp_path / "record")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert not [path for path in written if canary.encode() in path.read_bytes()]
    for table in results.schema.TABLES:
        assert canary not in results.open(tmp_path / "run").arrow(table).to_pandas().to_csv()
