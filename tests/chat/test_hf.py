"""Language models in this process: a tiny one, randomly initialised, that is really saved, loaded and asked."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from dgym.chat import find_chat, session
from dgym.chat.errors import LOSSES, ChatSetupError, LostAnswerError
from dgym.chat.ledger import concurrently, recording
from dgym.chat.local import HF_TOKENS, HfChat
from dgym.core import Message
from dgym.errors import UsageError
from dgym.fakes import FakeDomain
from dgym.models import chat_model as module
from dgym.models import load
from dgym.models.chat_model import PromptTooLongError, chat_model
from dgym.students.make import Recipe, new_model, train_tokenizer

KIND = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
ASKED = [Message("system", "Add."), Message("user", "add 1 2")]
SAID = [("user", "add 1 2")]
CONTEXT = 256


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers that knows nothing."""
    out = tmp_path_factory.mktemp("tiny-chat")
    domain = FakeDomain()
    tokenizer = train_tokenizer([e.prompt for s in domain.skills() for e in domain.fresh(s, 100, 0)], 300)
    torch.manual_seed(1)
    model = new_model(Recipe(hidden=32, layers=2, heads=2, intermediate=64), tokenizer)
    model.config.max_position_embeddings = CONTEXT
    # As those that are published do: what it was made to sample with must not count.
    model.generation_config.do_sample = True
    model.generation_config.temperature = 0.9
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts what is really generated."""
    counts: Counter[str] = Counter()
    answer = module.ChatModel.answer

    def counted(self, *args, **kwargs):
        counts["answers"] += 1
        return answer(self, *args, **kwargs)

    monkeypatch.setattr(module.ChatModel, "answer", counted)
    return counts


@pytest.fixture
def broken(folder: Path, tmp_path: Path):
    """Makes copies of the model with one file changed."""

    def make(name: str, change) -> str:
        out = tmp_path / "broken"
        out.mkdir()
        for file in folder.iterdir():
            (out / file.name).write_bytes(file.read_bytes())
        change(out / name)
        return str(out)

    return make


def test_a_random_models_answers_are_lost_with_a_reason_and_recorded(folder: Path, generated: Counter[str]) -> None:
    chat = HfChat(str(folder), max_tokens=12)
    with recording() as calls:
        for seed in (1, 2, 1):
            with pytest.raises(LostAnswerError) as caught:
                chat.complete(ASKED, KIND, seed)
            assert caught.value.reason in LOSSES
    assert generated["answers"] == 4, "twice with its repair; the third time the record answers"
    assert [call.cache_hit for call in calls] == [False, False, True]
    assert [call.outcome for call in calls] == [caught.value.reason] * 3
    assert {call.model for call in calls} == {f"hf:{folder}"}
    for call in calls:
        assert call.tokens_in > 20
        assert 0 < call.tokens_out <= 2 * 12
        assert call.cost == 0.0


def test_an_answer_that_fits_is_one(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module.ChatModel, "answer", lambda *a, **k: module.Answered('{"a": 3}', False, 7, 5))
    chat = HfChat(str(folder))
    with recording() as calls:
        assert chat.complete(ASKED, KIND, 1) == {"a": 3}
    assert (calls[0].tokens_in, calls[0].tokens_out, calls[0].outcome) == (7, 5, "ok")
    (file,) = (tmp_path / "record").glob("*/*.json")
    assert json.loads(file.read_text())["chat"]["model"] == str(folder)


def test_plain_text_is_asked_without_a_schema(folder: Path, generated: Counter[str]) -> None:
    chat = HfChat(str(folder), max_tokens=12)
    with recording() as calls:
        said = [chat.write(ASKED, seed) for seed in (1, 1)]
    assert said[0] == said[1]
    assert generated["answers"] == 1
    assert [call.outcome for call in calls] == ["ok", "ok"]
    assert calls[0].tokens_in < 60, "the model is shown no schema"


def test_the_schema_is_in_the_words_that_the_model_reads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        module.ChatModel,
        "answer",
        lambda self, said, **k: seen.append((said, k)) or module.Answered('{"a": 3}', False, 1, 1),
    )
    HfChat(str(folder)).complete(ASKED, KIND, 5)
    ((said, settings),) = seen
    assert [role for role, _ in said] == ["system", "user"]
    assert said[-1][1].startswith("add 1 2\n\n")
    assert json.dumps(KIND) in said[-1][1]
    assert settings == {"max_tokens": HF_TOKENS, "temperature": 0.0, "seed": 5}


def test_greedy_answers_are_those_of_the_largest_logits_whatever_the_model_says_of_sampling(folder: Path) -> None:
    model = chat_model(str(folder))
    first = model.answer(SAID, max_tokens=8, seed=1)
    assert model.answer(SAID, max_tokens=8, seed=2) == first
    # By hand: one forward pass per token.
    ids = model._encoded(SAID)["input_ids"]
    read = ids.shape[1]
    with torch.inference_mode():
        for _ in range(first.tokens_out):
            ids = torch.cat([ids, model._model(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert model._tokenizer.decode(ids[0, read:], skip_special_tokens=True) == first.text
    assert first.tokens_in == read


def test_sampling_depends_on_the_seed_and_on_nobody_elses_random_numbers(folder: Path) -> None:
    model = chat_model(str(folder))
    texts = []
    for seed in (1, 2, 1):
        torch.rand(3)
        texts.append(model.answer(SAID, max_tokens=12, temperature=1.0, seed=seed).text)
    assert texts[0] == texts[2] != texts[1]
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    model.answer(SAID, max_tokens=4, temperature=1.0, seed=1)
    assert torch.rand(1) == expected


def test_samples_follow_the_distribution_at_the_temperature() -> None:
    probabilities, temperature = [0.7, 0.2, 0.1], 2.0
    logits = torch.log(torch.tensor([probabilities]))
    noise = module._Noise(temperature, 3)
    drawn = Counter(int(noise(torch.zeros(1, 0), logits).argmax()) for _ in range(4000))
    weights = [p ** (1 / temperature) for p in probabilities]
    for n, weight in enumerate(weights):
        p = weight / sum(weights)
        assert abs(drawn[n] / 4000 - p) < 4 * math.sqrt(p * (1 - p) / 4000)


def test_an_answer_ends_with_the_limit_or_the_context(folder: Path) -> None:
    model = chat_model(str(folder))
    cut = model.answer(SAID, max_tokens=3)
    assert (cut.cut, cut.tokens_out) == (True, 3)
    long = [("user", "x" * (CONTEXT - 10))]
    assert model.answer(long, max_tokens=1000).tokens_out <= 10
    with pytest.raises(PromptTooLongError):
        model.answer([("user", "x" * CONTEXT)], max_tokens=1000)
    with pytest.raises(LostAnswerError, match=rf"the context {CONTEXT}") as caught:
        HfChat(str(folder)).complete([Message("user", "x" * CONTEXT)], KIND, 1)
    assert caught.value.reason == "rejected"


def test_an_answer_that_ends_by_itself_is_not_cut(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = chat_model(str(folder))
    monkeypatch.setattr(model, "_ends", set(range(10_000)))
    assert not model.answer(SAID, max_tokens=3).cut


def test_threads_get_what_one_after_the_other_gets(folder: Path) -> None:
    model = chat_model(str(folder))

    def one(n: int) -> str:
        return model.answer([("user", f"add {n} 2")], max_tokens=6, temperature=1.0, seed=n).text

    assert concurrently(one, list(range(6))) == [one(n) for n in range(6)]


def test_a_template_that_knows_no_system_messages_is_told_them_by_the_user(folder: Path, broken) -> None:
    def strict(file: Path) -> None:
        file.write_text(
            "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
            "{{ m['content'] }}{% endfor %}"
        )

    model = chat_model(broken("chat_template.jinja", strict))
    ids = model._encoded([("system", "Be brief."), ("user", "add 1 2")])["input_ids"]
    assert model._tokenizer.decode(ids[0]) == "Be brief.\n\nadd 1 2"


# What a person has to mend -----------------------------------------------------------------------------------------


def one_line_of(model: str) -> str:
    with pytest.raises(UsageError) as caught:
        find_chat(f"hf:{model}").complete(ASKED, KIND, 1)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_model_without_a_chat_template(broken) -> None:
    assert "tuned to follow instructions" in one_line_of(broken("chat_template.jinja", Path.unlink))


def test_a_folder_that_holds_something_else(broken, tmp_path: Path) -> None:
    assert "no config.json" in one_line_of(str(tmp_path))
    assert "does not know 'nonsense'" in one_line_of(
        broken("config.json", lambda file: file.write_text('{"model_type": "nonsense"}'))
    )


def test_a_model_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "There is no folder" in one_line_of(str(tmp_path / "none"))
    assert "There is no file" in one_line_of(str(tmp_path / "none.gguf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub.is_offline_mode", lambda: True)
    monkeypatch.setattr("socket.socket.connect", lambda *a: pytest.fail("the network was asked"))
    text = one_line_of("nobody/no-such-model")
    assert "not on this machine, and the Hugging Face hub cannot be reached" in text
    with pytest.raises(UsageError, match="not on this machine"):
        find_chat("hf:nobody/no-such-model").check()


def test_a_gguf_file_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").touch()
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    assert "pip install gguf" in one_line_of(str(tmp_path / "m.gguf"))


def test_pictures_are_not_shown_to_it(folder: Path) -> None:
    with pytest.raises(ChatSetupError, match="see=false"):
        HfChat(str(folder)).complete([Message("user", "add", (b"\x89PNG",))], KIND, 1)


def test_by_name(folder: Path, broken) -> None:
    chat = find_chat(f"hf:{folder}")
    assert isinstance(chat, HfChat)
    chat.check()
    assert (chat.config.temperature, chat.config.max_tokens) == (0.0, 1024)
    digests = {chat.digest, HfChat(str(folder), temperature=0.5).digest, HfChat(str(folder), max_tokens=9).digest}
    assert len(digests) == 3
    assert find_chat(f"hf:{folder}").digest == chat.digest
    other = broken("model.safetensors", lambda file: None)
    before = HfChat(other).digest
    (Path(other) / "model.safetensors").write_bytes(b"x")
    assert HfChat(other).digest != before
    with pytest.raises(UsageError, match="Name a model: hf:MODEL"):
        find_chat("hf")


def test_a_strict_replay_loads_nothing(folder: Path, tmp_path: Path, generated: Counter[str]) -> None:
    chat = HfChat(str(folder), max_tokens=4)
    with pytest.raises(LostAnswerError):
        chat.complete(ASKED, KIND, 1)
    asked = generated["answers"]
    with session.use(session.Session(session.Settings(replay="strict", record=str(tmp_path / "record")))):
        with pytest.raises(LostAnswerError):
            chat.complete(ASKED, KIND, 1)
        with pytest.raises(ChatSetupError, match="without --replay strict"):
            chat.complete(ASKED, KIND, 2)
    assert generated["answers"] == asked


def test_a_run_that_may_spend_nothing_more_generates_nothing(
    folder: Path, tmp_path: Path, generated: Counter[str]
) -> None:
    from dgym.chat.errors import SpendingStoppedError

    limited = session.Session(session.Settings(record=str(tmp_path / "other"), max_tokens=0))
    with session.use(limited), pytest.raises(SpendingStoppedError):
        HfChat(str(folder)).complete(ASKED, KIND, 1)
    assert generated["answers"] == 0
