"""Students that are only asked: a model behind a real HTTP server, and files that `dgym evaluate` wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgym import registry, results
from dgym.bench import episode
from dgym.chat import session
from dgym.chat.errors import ChatSetupError
from dgym.core import Attempt, Budget, Example, Problem, Rules, Student, StudentFamily
from dgym.errors import StudentError, UsageError
from dgym.fakes import FakeDomain, FakeFamily
from dgym.models.recipe import Recipe
from dgym.specs import EpisodeSpec, identify
from dgym.stages import evaluate_stage, train_stage, write_lines
from dgym.students.fixed import endpoint, read_answers, stored
from dgym.students.host import StudentConfig, StudentHost, local_student
from dgym.students.names import find_student

PROBLEMS = FakeDomain().problems("feedback")
RIGHT = [p.reference for p in PROBLEMS]


@pytest.fixture(autouse=True)
def _own_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DGYM_CHATS", raising=False)


def opened(variant: str = "stand-in", family: str = "openai", **recipe: int) -> Student:
    """Opens a student as an episode does, on a host."""
    return local_student(StudentHost(), StudentConfig(family, variant, Recipe(**recipe)), "lease")


def dgym(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dgym", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def one_line_of(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("dgym: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture
def chats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes the file of language models, with one entry `mine` at a server's address."""

    def write(server, **fields: object) -> None:
        entry = {"model": "stand-in", "endpoint": server.url, **fields}
        file = tmp_path / "mine.toml"
        file.write_text("[mine]\n" + "".join(f"{name} = {_toml(value)}\n" for name, value in entry.items()))
        monkeypatch.setenv("DGYM_CHATS", str(file))

    return write


def _toml(value: object) -> str:
    return "{ top_k = 1 }" if isinstance(value, dict) else json.dumps(value)


# Families ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("made", "name"), [(endpoint(), "openai"), (stored(), "answers")])
def test_a_family_takes_any_text_and_draws_none(made, name: str) -> None:
    assert isinstance(made, StudentFamily)
    assert (made.name, made.variants, made.open) == (name, (), True)
    assert made.bytes("any", "float32") == 0
    with pytest.raises(UsageError, match=f"{name}:"):
        made.draw(1)


def test_names_reach_their_families() -> None:
    assert find_student("openai:ft:gpt-4o:org", 1)[::2] == ("openai", "ft:gpt-4o:org")
    assert find_student("answers:some/file.jsonl", 1)[::2] == ("answers", "some/file.jsonl")
    with pytest.raises(UsageError, match="openai:MODEL"):
        find_student("openai", 1)
    with pytest.raises(UsageError, match="answers:PATH"):
        find_student("answers", 1)


def evaluate_only(student: Student, tmp_path: Path) -> None:
    assert isinstance(student, Student)
    example = Example(PROBLEMS[0].prompt, "1")
    for fresh in (True, False):
        with pytest.raises(StudentError) as caught:
            student.train([example], seed=1, fresh=fresh)
        assert "is evaluate-only: it cannot be trained; use it with `dgym evaluate`, or with the teacher no-data." in (
            str(caught.value)
        )
        assert student.train([], seed=1, fresh=fresh) == {"loss": 0.0, "steps": 0.0, "tokens": 0.0}
    with pytest.raises(StudentError, match="evaluate-only"):
        student.save(str(tmp_path / "saved"))
    with pytest.raises(StudentError, match="evaluate-only"):
        student.load(str(tmp_path))
    assert not (tmp_path / "saved").exists()
    student.close()
    student.close()


# A model behind an endpoint ----------------------------------------------------------------------------------------


def test_a_model_is_asked_the_bare_problems_many_at_a_time_and_greedily(serve_openai) -> None:
    server = serve_openai(latency=0.05)
    student = opened(max_new_tokens=30)
    assert student.answer([]) == []
    assert student.answer(PROBLEMS) == RIGHT
    assert server.seen.answered == len(PROBLEMS)
    assert server.seen.most > 10
    body = server.seen.bodies[-1]
    assert [m["role"] for m in body["messages"]] == ["user"]
    assert body["messages"][0]["content"] in {p.prompt for p in PROBLEMS}
    assert (body["temperature"], body["max_completion_tokens"]) == (0.0, 30)
    assert "response_format" not in body


def test_students_on_one_host_wait_for_an_endpoint_at_the_same_time(serve_openai) -> None:
    server = serve_openai(latency=0.3)
    host = StudentHost()
    students = [local_student(host, StudentConfig("openai", "stand-in", Recipe()), f"lease-{i}") for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda i: students[i].answer(PROBLEMS[i : i + 1]), range(4)))
    assert said == [[answer] for answer in RIGHT[:4]]
    assert server.seen.most > 1


def test_it_cannot_be_trained(serve_openai, tmp_path: Path) -> None:
    serve_openai()
    evaluate_only(opened(), tmp_path)
    examples = [Example(PROBLEMS[0].prompt, "1")]
    spec = EpisodeSpec(teacher="no-data", domain="fake", student="openai:stand-in")
    with pytest.raises(StudentError, match="openai:stand-in is evaluate-only"):
        train_stage(spec, examples, tmp_path / "out")


def test_nobody_is_asked_twice_by_one_student_whatever_the_record(serve_openai) -> None:
    server = serve_openai()
    with session.use(session.Session(session.Settings(replay="off"))):
        student = opened()
        assert student.answer([*PROBLEMS[:5], *PROBLEMS[:5]]) == [*RIGHT[:5], *RIGHT[:5]]
        assert student.answer(PROBLEMS[3:8]) == RIGHT[3:8]
    assert server.seen.requests == 8


def test_what_is_recorded_needs_no_endpoint(serve_openai, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve_openai()
    assert opened().answer(PROBLEMS) == RIGHT
    server.__exit__()
    monkeypatch.delenv("OPENAI_API_KEY")
    assert opened().answer(PROBLEMS) == RIGHT
    with session.use(session.Session(session.Settings(replay="strict"))):
        assert opened().answer(PROBLEMS) == RIGHT
        with pytest.raises(ChatSetupError, match="without --replay strict"):
            opened(max_new_tokens=7).answer(PROBLEMS)


def test_pictures_are_shown(serve_openai) -> None:
    server = serve_openai()
    problems = registry.load("domain", "vqa")().problems("feedback")[:20]
    assert opened().answer(problems) == [p.reference for p in problems]
    parts = server.seen.bodies[-1]["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["text", "image_url"]
    assert parts[1]["image_url"]["url"].startswith("data:image/png;base64,")


def test_an_answer_ends_at_the_recipes_limit(serve_openai) -> None:
    serve_openai()
    problems = registry.load("domain", "tools")().problems("feedback")[:3]
    assert opened(max_new_tokens=2).answer(problems) == [p.reference[:8] for p in problems]


def test_a_refusal_is_an_answer_and_a_wrong_one(serve_openai) -> None:
    serve_openai(faults=("refusal",), every=4)
    said = opened().answer(PROBLEMS)
    assert said.count("I cannot help with that.") == len(PROBLEMS) // 4
    assert sum(map(str.__eq__, said, RIGHT)) == len(PROBLEMS) * 3 // 4


def test_a_model_that_thinks_through_all_its_tokens_is_no_weak_student(serve_openai) -> None:
    serve_openai(faults=("truncated",), every=1)
    counting = [p for p in registry.load("domain", "vqa")().problems("feedback") if len(p.reference) == 1][:3]
    with pytest.raises(StudentError, match="more than 5 tokens: raise max_new_tokens"):
        opened(max_new_tokens=5).answer(counting)


@pytest.mark.parametrize(
    "rejects",
    [("max_completion_tokens",), ("seed",), ("temperature",), ("seed", "temperature", "max_completion_tokens")],
)
def test_endpoints_that_take_less_are_asked_otherwise(serve_openai, rejects: tuple[str, ...]) -> None:
    server = serve_openai(rejects=rejects, latency=0.02)
    assert opened().answer(PROBLEMS) == RIGHT
    assert not set(rejects) & set(server.seen.bodies[-1])
    assert server.seen.answered == len(PROBLEMS)


def test_faults_now_and_then_cost_requests_and_no_answer(serve_openai) -> None:
    faults = ("429", "500", "429-retry-after", "cut")
    server = serve_openai(faults=faults, every=3, retry_after=0.01)
    assert opened().answer(PROBLEMS) == RIGHT
    assert set(server.seen.faults) == set(faults)


def test_an_endpoint_that_breaks_is_the_students_failure_and_what_it_said_is_kept(serve_openai, chats) -> None:
    problems = [p for split in ("feedback", "selection", "test") for p in FakeDomain().problems(split)]
    server = serve_openai(faults=("500",), every=60)
    chats(server, retries=0, concurrency=4)
    with pytest.raises(StudentError) as caught:
        opened("mine").answer(problems)
    text = str(caught.value)
    assert text.startswith("openai:mine answered ")
    assert f"of {len(problems)} problems, which are recorded, and failed at " in text
    assert "failed 1 times: status 500" in text
    before = server.seen.answered
    assert 59 <= before < 200, "the rest of the problems need not be asked"
    chats(server)
    assert opened("mine").answer(problems) == [p.reference for p in problems]
    assert server.seen.answered == len(problems)


def test_an_exhausted_quota_is_said(serve_openai) -> None:
    serve_openai(quota=5)
    with pytest.raises(ChatSetupError, match="add credit"):
        opened().answer(PROBLEMS)


def test_the_runs_purse_pays_for_the_student_too(serve_openai) -> None:
    server = serve_openai()
    limited = session.Session(session.Settings(max_tokens=50))
    with session.use(limited), pytest.raises(StudentError, match="max-teacher-tokens"):
        opened().answer(PROBLEMS)
    assert server.seen.requests < len(PROBLEMS)


def test_an_entry_of_the_file_of_language_models(serve_openai, chats, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve_openai(key="sk-mine")
    monkeypatch.setenv("MY_KEY", "sk-mine")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    chats(server, key="MY_KEY", temperature=0.7, structured="schema", extra={"top_k": 1})
    assert opened("mine").answer(PROBLEMS) == RIGHT
    body = server.seen.bodies[-1]
    assert (body["temperature"], body["top_k"]) == (0.0, 1)


def test_a_digest_names_model_and_endpoint_and_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def at(url: str, model: str = "m", key: str = "") -> str:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        monkeypatch.setenv("OPENAI_API_KEY", key)
        return endpoint().digest(model)

    plain = at("https://host.example/v1")
    assert plain == at("https://host.example/v1", key="sk-1")
    assert plain == at("https://HOST.example:443/v1/")
    assert plain == at("https://user:secret@host.example/v1?key=secret")
    assert plain not in (
        at("https://host.example/v1", "n"),
        at("https://other.example/v1"),
        at("https://host.example/v2"),
    )
    assert at("http://localhost:8000/v1") == at("http://127.0.0.1:8000/v1") != at("http://127.0.0.1:8001/v1")
    file = tmp_path / "mine.toml"
    file.write_text("[m]\nmodel = 'm'\nendpoint = 'https://host.example/v1'\nextra = { top_k = 1 }\n")
    monkeypatch.setenv("DGYM_CHATS", str(file))
    assert endpoint().digest("m") != plain
    monkeypatch.delenv("DGYM_CHATS")
    with pytest.raises(UsageError, match="is no URL"):
        at("http://host:port/v1")


@pytest.mark.parametrize(
    ("model", "manner", "key", "said"),
    [
        ("stand-in", {"key": "sk-good"}, "sk-bad-canary", "set $OPENAI_API_KEY to a valid key"),
        ("stand-on", {}, "any", "Did you mean 'stand-in'?"),
        ("stand-in", None, "any", "Nobody answers at http://127.0.0.1:9/v1"),
    ],
    ids=["refused", "no-such-model", "unreachable"],
)
def test_what_cannot_work_is_one_line(
    serve_openai, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str, manner: dict | None, key: str, said: str
) -> None:
    if manner is None:
        monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    else:
        serve_openai(**manner)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    out = tmp_path / "attempts.jsonl"
    text = one_line_of(dgym("evaluate", "--domain", "fake", "--student", f"openai:{model}", "--out", out))
    assert said in text
    assert "canary" not in text
    assert not out.exists()


# Stored answers ----------------------------------------------------------------------------------------------------


def written(path: Path, *lines: object) -> str:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return str(path)


def test_what_evaluate_wrote_answers_again_to_the_byte(tmp_path: Path) -> None:
    first, again = tmp_path / "first.jsonl", tmp_path / "again.jsonl"
    assert dgym("evaluate", "--domain", "fake", "--student", "fake:a", "--out", first).returncode == 0
    done = dgym("evaluate", "--domain", "fake", "--student", f"answers:{first}", "--out", again, "--json")
    assert done.returncode == 0
    assert 0 < json.loads(done.stdout)["score"] < 1
    assert again.read_bytes() == first.read_bytes()


def test_attempts_at_problems_with_pictures(serve_openai, tmp_path: Path) -> None:
    serve_openai(faults=("wrong",), every=3)
    rules = Rules(share=0.1)
    spec = EpisodeSpec(teacher="no-data", domain="vqa", student="openai:stand-in", rules=rules)
    attempts = evaluate_stage(spec, ("feedback",), None)[0].attempts
    assert 0 < sum(a.score for a in attempts) < len(attempts)
    write_lines(tmp_path / "attempts.jsonl", attempts)
    spec = spec.model_copy(update={"student": f"answers:{tmp_path / 'attempts.jsonl'}"})
    assert evaluate_stage(spec, ("feedback",), None)[0].attempts == attempts


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(TEXT, TEXT), unique_by=lambda pair: pair[0]))
def test_any_answer_survives_the_file(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("answers") / "attempts.jsonl"
    problems = [Problem(f"p{i}", prompt, "", "s", (prompt.encode(),)) for i, (prompt, _) in enumerate(pairs)]
    write_lines(path, [Attempt(p, said, 0.0) for p, (_, said) in zip(problems, pairs, strict=True)])
    answers = read_answers(str(path))
    assert [answers.to(p) for p in problems] == [said for _, said in pairs]


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0c", "\r\n"])
def test_marks_that_end_a_line_elsewhere_end_no_answer(tmp_path: Path, mark: str) -> None:
    said = f"one{mark}two"
    write_lines(tmp_path / "a.jsonl", [Attempt(PROBLEMS[0], said, 0.0)])
    assert opened(str(tmp_path / "a.jsonl"), "answers").answer(PROBLEMS[:1]) == [said]


def test_lines_by_id_and_by_prompt_in_any_mixture(tmp_path: Path) -> None:
    one, two, three = PROBLEMS[:3]
    path = written(
        tmp_path / "a.jsonl",
        {"id": one.id, "response": "by id"},
        "",
        {"prompt": two.prompt, "response": "by prompt", "model": "whatever"},
        {"prompt": two.prompt, "response": "by prompt"},
        {"problem": {"id": "x", "prompt": three.prompt, "reference": "", "skill": ""}, "response": "tried", "score": 0},
        {"id": three.id, "response": "less telling"},
    )
    assert opened(path, "answers").answer(PROBLEMS[:3]) == ["by id", "by prompt", "tried"]
    evaluate_only(opened(path, "answers"), tmp_path)


def test_a_prompt_alone_answers_no_problem_with_pictures(tmp_path: Path) -> None:
    shown = Problem("p", "What colour is it?", "red", "colour", (b"png",))
    path = written(tmp_path / "a.jsonl", {"prompt": shown.prompt, "response": "red"})
    with pytest.raises(StudentError, match=r"1 of 1 problems; .* name the problem's id"):
        opened(path, "answers").answer([shown])
    path = written(tmp_path / "b.jsonl", {"id": "p", "response": "red"})
    assert opened(path, "answers").answer([shown]) == ["red"]


def test_missing_answers_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", *({"id": p.id, "response": "1"} for p in (*PROBLEMS[:2], *PROBLEMS[5:])))
    with pytest.raises(StudentError) as caught:
        opened(path, "answers").answer(PROBLEMS)
    first = PROBLEMS[2]
    said = f"{path} has no answer to 3 of 80 problems; the first is {first.id!r}: {first.prompt!r}."
    assert str(caught.value) == said
    text = one_line_of(dgym("evaluate", "--domain", "fake", "--student", f"answers:{path}", "--out", tmp_path / "x"))
    assert said in text


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("7", "a JSON object"),
        ({"id": "p"}, '"id" or a "prompt"'),
        ({"response": "1"}, '"id" or a "prompt"'),
        ({"id": 7, "response": "1"}, "all texts"),
        ({"id": "p", "response": None}, "all texts"),
        ('{"id": "p", "response": "\\ud800"}', "surrogates"),
        ({"id": "good", "response": "another"}, "another answer"),
        ({"problem": {"id": "p"}, "response": "1", "score": 0}, "field 'problem.prompt'"),
        ({"problem": None, "response": "1", "score": 0}, "field 'problem'"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: object, why: str) -> None:
    path = written(tmp_path / "a.jsonl", {"id": "good", "response": "1"}, "", line)
    with pytest.raises(UsageError) as caught:
        stored().load(path, "cpu", "float32", 1)
    text = str(caught.value)
    assert text.startswith(f"{path}, line 3: ")
    assert why in text
    assert "\n" not in text


def test_a_file_that_cannot_be_read_is_one_line_before_anything_runs(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere.jsonl"
    args = ("run", "--teacher", "no-data", "--domain", "fake", "--student", f"answers:{missing}")
    assert f"{missing} cannot be read: No such file" in one_line_of(dgym(*args, "--out", tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    for bad in (tmp_path, "a\0b"):
        with pytest.raises(UsageError, match="cannot be read"):
            stored().digest(str(bad))
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "p", "response": "\xe9"}')
    with pytest.raises(UsageError, match="no text in UTF-8"):
        stored().load(str(tmp_path / "latin.jsonl"), "cpu", "float32", 1)


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    one = written(tmp_path / "a.jsonl", {"id": "p", "response": "1"})
    two = written(tmp_path / "b.jsonl", {"id": "p", "response": "1"})
    before = stored().digest(one)
    assert before == stored().digest(two)
    written(tmp_path / "a.jsonl", {"id": "p", "response": "2"})
    assert stored().digest(one) != before


# Whole episodes ----------------------------------------------------------------------------------------------------


def run(student: str, folder: Path, environment: str = "open-ended", teacher: str = "no-data", **rules: object):
    spec = EpisodeSpec(
        teacher=teacher,
        environment=environment,
        domain="fake",
        student=student,
        rules=Rules(iterations=2, budget=Budget(10), test_every_iteration=True, **rules),
    )
    steps = []
    last = episode(identify(spec), folder, steps.append, session.Settings(replay="off"))
    return last, steps


@pytest.mark.parametrize("training", ["retrain", "continue"])
@pytest.mark.parametrize("environment", ["open-ended", "skill-list", "skill-tree"])
def test_an_episode_without_data_runs_to_its_end(serve_openai, tmp_path: Path, environment: str, training: str) -> None:
    server = serve_openai(faults=("wrong",), every=4)
    last, steps = run("openai:stand-in", tmp_path / "run", environment, training=training)
    assert (last.status, len(steps)) == ("ok", 3)
    assert server.seen.requests == 80 + 80 + 160, "each problem once"
    assert 0.7 < steps[0].test.score < 0.8
    assert len({step.test.score for step in steps}) == 1
    (row,) = results.open(tmp_path / "run").episodes.itertuples()
    assert (row.student, row.variant, row.examples_kept) == ("openai:stand-in", "stand-in", 0)
    assert row.best_test == row.base_test


def test_stored_answers_to_all_splits_play_an_episode_as_the_student_that_gave_them(tmp_path: Path) -> None:
    student = FakeFamily().open(None, "b")
    attempts = [
        Attempt(p, said, 0.0)
        for split in ("feedback", "selection", "test")
        for p, said in zip(FakeDomain().problems(split), student.answer(FakeDomain().problems(split)), strict=True)
    ]
    write_lines(tmp_path / "all.jsonl", attempts)
    (last, steps), (_, expected) = (
        run(name, tmp_path / name[:4]) for name in (f"answers:{tmp_path / 'all.jsonl'}", "fake:b")
    )
    assert last.status == "ok"
    assert [(s.selection, s.test) for s in steps] == [(s.selection, s.test) for s in expected]


def test_a_teacher_with_data_fails_at_the_student(serve_openai, tmp_path: Path) -> None:
    serve_openai()
    last, steps = run("openai:stand-in", tmp_path / "run", teacher="uniform")
    assert (last.status, last.boundary, len(steps)) == ("failed", "student", 1)
    assert "evaluate-only" in last.message
