"""Suites that need a GPU cluster: what they expand to, what is missing here, and all of them at tiny scale."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dgym import cli
from dgym.bench import bench
from dgym.errors import UsageError
from dgym.estimate import estimate, parameters
from dgym.requirements import missing, ready
from dgym.results import open as open_run
from dgym.scale import EXAMPLES, ITERATIONS, PROBLEMS, endpoint, tiny
from dgym.specs import load_suite
from dgym.students.sizing import Machine

BIG = ("paper", "full")


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_offline: None) -> None:
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("dgym.requirements.this_machine", partial(Machine, 2))


def groups(name: str) -> set[tuple[str, str, str, str]]:
    return {(e.domain.partition(":")[0], e.student, e.environment, e.teacher) for e in load_suite(name).episodes()}


def test_paper_is_the_papers_main_table() -> None:
    found = groups("paper")
    students = {(domain, student) for domain, student, _, _ in found}
    assert students == {
        ("hendrycks-math", "hf:google/gemma-2-2b-it"),
        ("livecodebench", "hf:meta-llama/Meta-Llama-3-8B-Instruct"),
        ("gqa", "hf:google/paligemma-3b-pt-224"),
        ("mnms", "hf:meta-llama/Meta-Llama-3-8B-Instruct"),
    }
    agents = {f"{kind}@openai:{model}" for kind in ("agent", "agent-blind") for model in ("gpt-4o", "gpt-4o-mini")}
    for domain, student in students:
        rows = {(environment, teacher) for d, s, environment, teacher in found if (d, s) == (domain, student)}
        for environment in ("open-ended", "skill-list", "skill-tree"):
            assert {teacher for e, teacher in rows if e == environment} >= agents
    for spec in load_suite("paper").episodes():
        assert spec.rules.validation == "paper"
        assert spec.rules.training == "retrain"
        assert spec.rules.iterations == 10
        assert (spec.recipe.rank, spec.recipe.alpha, spec.recipe.dropout, spec.recipe.epochs) == (16, 32, 0.05, 3)
        assert spec.recipe.learning_rate == (2e-5 if spec.domain == "gqa" else 1e-4)
        if spec.domain.startswith("hendrycks-math"):
            assert spec.domain == "hendrycks-math:grader=minerva"
            assert spec.rules.budget.examples_per_iteration == (420 if spec.environment == "skill-tree" else 120)
        if spec.domain.startswith("mnms"):
            assert spec.rules.budget.examples_per_iteration == 60
        if "gqa" in spec.domain and spec.teacher != "no-data":
            assert spec.teacher_params == {"painter": "diffusers"}


def test_full_crosses_domains_environments_and_teachers_with_five_seeds() -> None:
    suite = load_suite("full")
    assert len(suite.seeds) == 5
    found = groups("full")
    assert len({domain for domain, *_ in found}) == 4
    for domain in {d for d, *_ in found}:
        for environment in ("open-ended", "skill-list", "skill-tree"):
            assert len({t for d, _, e, t in found if (d, e) == (domain, environment)}) >= 4


@pytest.mark.parametrize("name", BIG)
def test_one_message_says_all_that_is_missing_and_what_fits(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        ready(load_suite(name))
    said = str(caught.value)
    assert "\n" not in said
    assert "`dgym data pull hendrycks-math livecodebench gqa mnms`" in said
    assert "there is no GPU" in said
    for student in ("google/gemma-2-2b-it", "meta-llama/Meta-Llama-3-8B-Instruct", "google/paligemma-3b-pt-224"):
        assert student in said
    assert "OPENAI_API_KEY" in said
    assert "--suite standard runs here" in said
    assert f"--suite {name} --scale tiny" in said


def test_on_a_cluster_its_gpus_and_models_are_not_looked_for_here() -> None:
    found = missing(load_suite("full").episodes(), nodes=True)
    assert found
    assert all("GPU" not in what and "student" not in what for what in found)


@pytest.mark.parametrize("name", ["smoke", "quick", "standard", "standard-u", "ablation"])
def test_nothing_is_missing_for_the_small_suites(name: str) -> None:
    assert missing(load_suite(name).episodes(), ask=True) == []
    ready(load_suite(name))


@pytest.mark.parametrize("name", BIG)
def test_a_dry_run_estimates_without_data_models_or_keys(name: str) -> None:
    suite = load_suite(name)
    first = suite.model_copy(update={"entries": suite.entries[:1], "seeds": (1,)})
    specs = [spec for spec in first.episodes() if spec.environment == "open-ended"]
    found, notes = estimate([spec.model_copy(update={"rules": replace(spec.rules, iterations=2)}) for spec in specs])
    assert any("fixtures" in note for note in notes)
    asking = [e for e in found if e.teacher.startswith("agent@")]
    assert all(e.calls > 0 and e.tokens_in > 1_000 and e.gpu_hours > 0 for e in asking)
    dear = sum(e.cost for e in asking if e.teacher.endswith("gpt-4o"))
    cheap = sum(e.cost for e in asking if e.teacher.endswith("gpt-4o-mini"))
    assert dear > 5 * cheap > 0


def test_gpu_hours_grow_with_model_data_and_answers() -> None:
    suite = load_suite("paper")
    spec = suite.episodes()[0]
    assert (spec.domain, spec.environment) == ("hendrycks-math:grader=minerva", "open-ended")

    def hours(**changes) -> float:
        return estimate([spec.model_copy(update=changes)])[0][0].gpu_hours

    usual = hours()
    assert 0.1 < usual < 20, "a 2B model, ten iterations"
    assert hours(student="hf:google/gemma-2-9b-it") > 3 * usual
    assert hours(recipe=spec.recipe.model_copy(update={"max_new_tokens": 700})) > 1.3 * usual
    assert hours(device="cpu") == 0


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("hf:google/gemma-2-2b-it", 2e9),
        ("hf:meta-llama/Meta-Llama-3-8B-Instruct", 8e9),
        ("hf:HuggingFaceTB/SmolLM2-135M-Instruct", 135e6),
        ("hf:Qwen/Qwen2.5-1.5B", 1.5e9),
        ("hf:someone/model", 0),
    ],
)
def test_sizes_are_read_from_names(name: str, size: float) -> None:
    assert parameters(name) == size


def test_a_tiny_suite_is_the_same_suite_on_stand_ins() -> None:
    for name in BIG:
        suite = load_suite(name)
        small = tiny(suite)
        assert len(small.cells) == len(suite.cells)
        rows = lambda s: [(e.environment, e.teacher.partition("@")[0]) for e in s.episodes()]  # noqa: E731
        assert rows(small) == rows(suite.model_copy(update={"seeds": suite.seeds[:1]}))
        for spec in small.episodes():
            assert spec.domain.endswith("fixture")
            assert spec.student.startswith("tiny:")
            assert spec.device == "cpu"
            assert spec.rules.iterations <= ITERATIONS
            assert spec.rules.budget.examples_per_iteration <= EXAMPLES
            assert spec.rules.counts == dict.fromkeys(("feedback", "selection", "test"), PROBLEMS)
            assert spec.rules.validation == suite.rules.validation
    families = {(e.domain.partition(":")[0], e.student) for e in tiny(load_suite("paper")).episodes()}
    assert families == {
        ("hendrycks-math", "tiny:gemma2"),
        ("livecodebench", "tiny:llama"),
        ("gqa", "tiny:paligemma"),
        ("mnms", "tiny:llama"),
    }


def test_the_test_server_takes_any_model_and_leaves_no_trace() -> None:
    with endpoint() as url:
        assert os.environ["OPENAI_BASE_URL"] == url
        from dgym.chat import find_chat

        find_chat("openai:gpt-4o").check()
    assert "OPENAI_BASE_URL" not in os.environ
    assert "OPENAI_API_KEY" not in os.environ


def test_tiny_stays_on_this_machine() -> None:
    done = CliRunner().invoke(cli.app, ["bench", "--suite", "full", "--scale", "tiny", "--address", "auto"])
    assert isinstance(done.exception, UsageError)
    assert "this machine alone" in str(done.exception)


@pytest.mark.parametrize("name", BIG)
def test_all_of_a_suite_runs_at_tiny_scale(name: str, tmp_path: Path) -> None:
    """Every cell, teacher and environment, from fixtures over the sandbox and HTTP to tables."""
    with endpoint():
        specs = tiny(load_suite(name)).episodes()
        summary = bench(specs, tmp_path / "run", suite=name)
    assert [p.message for p in summary.failed] == []
    assert len(summary.ok) == len({s.model_dump_json() for s in specs})
    run = open_run(tmp_path / "run")
    taught = run.episodes[~run.episodes.teacher.isin(["no-data", "off-domain"])]
    assert (taught.teacher_calls[taught.teacher.str.startswith("agent")] > 0).all()
    assert set(run.episodes.status) == {"ok"}
