"""Answers through vLLM: against a stand-in server, and, with the marker `vllm`, through a real one.

`make vllm-student` sets up what the latter needs: `$DGYM_VLLM` is vLLM's command, and `$DGYM_TEST_VLLM_MODEL` a folder
with SmolLM2-135M. It holds vLLM to transformers and PEFT, in float32 on the CPU.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict

from dgym.chat.servers import ModelServer, Serving, _free_port
from dgym.errors import DgymError, InfrastructureError, StudentError
from dgym.models.prompts import Prompt, Prompts
from dgym.models.text import Encoded, generate, pad_batch
from dgym.students.vllm import AnswerEngine, Version, vllm_engine
from tests.students.stand_in_students import said
from tests.waiting import SOON, alive, until

SCRIPT = Path(__file__).with_name("stand_in_students.py")
ENDS = tuple(range(0, 1000, 20))
PROMPTS = [Prompt((n, n + 1, n + 2)) for n in range(40)]


def version(name: str, seed: int = 0, rank: int = 8, **config: Any) -> Version:
    """An adapter as PEFT would give it."""
    made = torch.Generator().manual_seed(seed)
    state = {
        f"base_model.model.model.layers.{layer}.{module}.lora_{side}.weight": torch.rand(shape, generator=made)
        for layer in range(2)
        for module in ("self_attn.q_proj", "mlp.down_proj")
        for side, shape in (("A", (rank, 4)), ("B", (4, rank)))
    }
    return Version(name, LoraConfig(r=rank, lora_alpha=16, target_modules="all-linear", **config), state)


class Server:
    """What the stand-in wrote down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hold = folder / "hold"

    def did(self, *what: str) -> list[dict[str, Any]]:
        file = self.folder / "journal"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [line for line in lines if not what or line["what"] in what]

    def loads(self) -> list[str]:
        return [line["name"] for line in self.did("load")]

    def kill(self) -> None:
        os.kill(self.did("start")[-1]["pid"], signal.SIGKILL)


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes engines whose server is the stand-in; whatever a test leaves behind is an error."""
    seen = Server(tmp_path)
    engines: list[AnswerEngine] = []
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DGYM_VLLM", shlex.join([sys.executable, str(SCRIPT)]))
    monkeypatch.setenv("DGYM_VLLM_ARGS", "--meant-for-teachers")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def start(*args: object, device: str = "cpu", **more: Any) -> tuple[AnswerEngine, Server]:
        words = ["--journal", tmp_path / "journal", *args]
        monkeypatch.setenv("DGYM_VLLM_STUDENT_ARGS", shlex.join(map(str, words)))
        engines.append(vllm_engine(str(tmp_path), device, "float32", ENDS, **more))
        return engines[-1], seen

    yield start
    for engine in engines:
        engine.close()
    assert not [line["pid"] for line in seen.did("start") if alive(line["pid"])]
    assert not list(tmp_path.glob("dgym-adapters-*"))


def right(answers: Sequence[Sequence[int]], adapter: Path | None, prompts: Sequence[Prompt] = PROMPTS) -> bool:
    """Whether these are the stand-in's answers with an adapter's files, in order, each cut before its end."""
    expected = []
    for prompt in prompts:
        tokens = said(prompt.ids, adapter, 12)
        ends = [n for n, token in enumerate(tokens) if token in ENDS]
        expected.append(tokens[: ends[0]] if ends else tokens)
    return answers == expected


# Answering -----------------------------------------------------------------------------------------------------------


def test_base_and_versions_answer_in_order_and_without_the_end(serve) -> None:
    engine, seen = serve()
    assert not seen.did()
    assert engine.answer([], None, 12) == []
    assert not seen.did(), "nothing was asked yet"
    assert right(engine.answer(PROMPTS, None, 12), None)
    answers = engine.answer(PROMPTS, version("t-1-v1"), 12)
    (load,) = seen.did("load")
    assert right(answers, Path(load["path"]))
    assert any(len(answer) < 12 for answer in answers), "some met an end"
    assert engine.answer(PROMPTS, version("t-1-v1"), 12) == answers
    assert right(engine.answer(PROMPTS, None, 12), None)
    assert seen.loads() == ["t-1-v1"], "a version is written and loaded once"
    assert len(seen.did("start")) == 1
    assert [line["prompts"] for line in seen.did("complete")] == [40] * 4, "one request a call"


def test_every_version_has_a_name_of_its_own_and_leaves_nothing_behind(serve) -> None:
    engine, seen = serve()
    answers = []
    for number in range(3):
        answers.append(engine.answer(PROMPTS, version(f"t-1-v{number}", number), 12))
        engine.forget(f"t-1-v{number - 1}")
    assert len({str(a) for a in answers}) == 3
    assert seen.loads() == ["t-1-v0", "t-1-v1", "t-1-v2"]
    assert len({line["path"] for line in seen.did("load")}) == 3
    assert [line["name"] for line in seen.did("unload")] == ["t-1-v0", "t-1-v1"]
    assert [Path(line["path"]).exists() for line in seen.did("load")] == [False, False, True]
    engine.forget("t-1-v0")
    engine.forget("never heard of")
    assert len(seen.did("unload")) == 2
    assert engine.answer(PROMPTS, version("t-1-v2", 2), 12) == answers[2]


def test_a_version_whose_answers_are_waited_for_is_forgotten_after_them(serve, tmp_path: Path) -> None:
    engine, seen = serve("--hold", tmp_path / "hold")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(engine.answer, PROMPTS, version("v"), 12)
        until(lambda: seen.did("complete"))
        engine.forget("v")
        assert Path(seen.did("load")[0]["path"]).exists()
        assert not seen.did("unload")
        seen.hold.touch()
        waiting.result(SOON)
    assert not Path(seen.did("load")[0]["path"]).exists()
    assert len(seen.did("unload")) == 1


def test_what_several_students_ask_meets_in_one_batch(serve) -> None:
    engine, seen = serve("--meet", 4)
    versions = [version(f"t-{n}-v1", n) for n in range(3)] + [version("t-0-v1")]
    with ThreadPoolExecutor(4) as pool:  # each request waits until all four are there
        together = [f.result(SOON) for f in [pool.submit(engine.answer, PROMPTS, v, 12) for v in versions]]
    assert together[0] == together[3]
    assert len({str(answers) for answers in together}) == 3
    assert sorted(seen.loads()) == ["t-0-v1", "t-1-v1", "t-2-v1"], "two threads that need a version load it once"
    assert together == [engine.answer(PROMPTS, v, 12) for v in versions]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_on_the_cpu_the_base_is_not_in_a_batch_with_versions(serve, tmp_path: Path, device: str) -> None:
    flaws = ["--flaws", "cpu"] if device == "cpu" else ["--flaws", "none"]
    engine, seen = serve("--hold", tmp_path / "hold", *flaws, device=device)
    with ThreadPoolExecutor(3) as pool:
        learnt = [pool.submit(engine.answer, PROMPTS, version("v"), 12)]
        until(lambda: seen.did("complete"))
        base = pool.submit(engine.answer, PROMPTS, None, 12)
        if device == "cuda":
            until(lambda: len(seen.did("complete")) == 2)
        else:
            time.sleep(0.5)
            assert len(seen.did("complete")) == 1
            learnt.append(pool.submit(engine.answer, PROMPTS, version("w", 1), 12))
            time.sleep(0.2)
            assert len(seen.did("complete")) == 1, "what came after the base waits for it"
        seen.hold.touch()
        assert right(base.result(SOON), None)
        for answers in learnt:
            answers.result(SOON)


def test_a_higher_rank_starts_the_server_anew(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, seen = serve(max_rank=64)
    port = _free_port("127.0.0.1")
    monkeypatch.setattr("dgym.chat.servers._free_port", lambda host: port)  # at the same address, of all
    small, large = version("small", rank=8), version("large", rank=33)
    first = engine.answer(PROMPTS, small, 12)
    assert engine.answer(PROMPTS, large, 12) != first
    assert engine.answer(PROMPTS, small, 12) == first
    assert [line["rank"] for line in seen.did("start")] == [16, 64]
    assert seen.loads() == ["small", "large", "small"]
    with pytest.raises(StudentError, match=r"rank 65, and vLLM was set up for 64 .* lower rank in the recipe"):
        engine.answer(PROMPTS, version("huge", rank=65), 12)
    patterned = version("patterned", rank=8, rank_pattern={"down_proj": 128})
    with pytest.raises(StudentError, match="rank 128"):
        engine.answer(PROMPTS, patterned, 12)
    assert len(seen.did("start")) == 2


# Dying ---------------------------------------------------------------------------------------------------------------


def test_a_server_that_died_is_started_again_and_given_the_versions_once(serve) -> None:
    engine, seen = serve()
    versions = [version(f"t-{n}", n) for n in range(3)]
    before = [engine.answer(PROMPTS, v, 12) for v in versions]
    seen.kill()
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda v: engine.answer(PROMPTS, v, 12), versions)) == before
    assert len(seen.did("start")) == 2
    assert sorted(seen.loads()[3:]) == ["t-0", "t-1", "t-2"]
    seen.kill()
    with pytest.raises(InfrastructureError, match="died twice") as caught:
        engine.answer(PROMPTS, None, 12)
    assert "\n" not in str(caught.value)
    assert 'choose engine = "transformers"' in str(caught.value)
    assert "$DGYM_VLLM_STUDENT_ARGS" in str(caught.value)
    engine.forget("t-0")
    engine.sleep()


def test_a_version_that_the_server_lost_is_loaded_again(serve) -> None:
    engine, seen = serve()
    before = engine.answer(PROMPTS, version("v"), 12)
    assert engine._post(engine._url, "/v1/unload_lora_adapter", {"lora_name": "v"})[0] == 200
    assert engine.answer(PROMPTS, version("v"), 12) == before
    assert seen.loads() == ["v", "v"]
    assert len(seen.did("start")) == 1


def test_answers_that_are_waited_for_survive_the_server(serve, tmp_path: Path) -> None:
    engine, seen = serve("--hold", tmp_path / "hold")
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(engine.answer, PROMPTS, version(name, n), 12) for n, name in enumerate("vw")]
        until(lambda: len(seen.did("complete")) == 2)
        seen.kill()
        seen.hold.touch()
        paths = {line["name"]: Path(line["path"]) for line in seen.did("load")}
        assert [right(f.result(SOON), paths[name]) for f, name in zip(waiting, "vw", strict=True)] == [True, True]
    assert len(seen.did("start")) == 2


def test_closing_ends_those_who_wait(serve, tmp_path: Path) -> None:
    engine, seen = serve("--hold", tmp_path / "hold")
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(engine.answer, PROMPTS, version("v"), 12)]
        until(lambda: seen.did("complete"))
        waiting.append(pool.submit(engine.answer, PROMPTS, None, 12))
        engine.close()
        for one in waiting:
            with pytest.raises(InfrastructureError, match="was stopped"):
                one.result(SOON)
    for who in (version("v"), version("x"), version("y", rank=64), None):
        with pytest.raises(InfrastructureError, match="was stopped"):
            engine.answer(PROMPTS, who, 12)
    engine.close()


def test_a_server_that_lives_without_answering_is_given_up(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    _, seen = serve()
    server = ModelServer(str(seen.folder), serving=Serving("base", ["--max-lora-rank", "8"], "DGYM_VLLM_STUDENT_ARGS"))
    try:
        assert server.address() == server.revive()
        monkeypatch.setattr("dgym.chat.servers._healthy", lambda url: False)
        monkeypatch.setattr("dgym.chat.servers._SILENCE", 0.1)
        with pytest.raises(InfrastructureError, match="does not answer"):
            server.revive()
    finally:
        server.stop()
    with pytest.raises(InfrastructureError, match="was stopped"):
        server.revive()


# Memory --------------------------------------------------------------------------------------------------------------


def test_a_gpu_is_given_back_for_training_and_taken_again(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    engine, seen = serve("--flaws", device="cuda:1", share=0.3)
    engine.sleep()
    assert not seen.did(), "what was never started holds nothing"
    before = engine.answer(PROMPTS, version("v1"), 12)
    (start,) = seen.did("start")
    assert start["environment"] == {
        "CUDA_VISIBLE_DEVICES": "7",
        "VLLM_CPU_KVCACHE_SPACE": None,
        "VLLM_SERVER_DEV_MODE": "1",
    }
    words = " ".join(start["words"])
    assert "--gpu-memory-utilization 0.3" in words
    assert "--enforce-eager" not in words
    engine.sleep()
    engine.sleep()
    engine.forget("v1")
    assert [line["what"] for line in seen.did("sleep", "wake")] == ["sleep"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: engine.answer(PROMPTS, version(f"v{n}", n), 12), range(2, 6)))
    assert [line["what"] for line in seen.did("sleep", "wake")] == ["sleep", "wake"]
    assert engine.answer(PROMPTS, version("v1 again"), 12) == before
    engine.sleep()
    seen.kill()
    assert right(engine.answer(PROMPTS, None, 12), None)
    assert not seen.did("died")
    assert len(seen.did("start")) == 2


def test_it_falls_asleep_when_all_answers_are_there(serve, tmp_path: Path) -> None:
    engine, seen = serve("--hold", tmp_path / "hold", "--flaws", device="cuda")
    with ThreadPoolExecutor(3) as pool:
        early = pool.submit(engine.answer, PROMPTS, version("v"), 12)
        until(lambda: seen.did("complete"))
        asleep = pool.submit(engine.sleep)
        time.sleep(0.2)
        late = pool.submit(engine.answer, PROMPTS, None, 12)
        time.sleep(0.2)
        assert not asleep.done()
        seen.hold.touch()
        early.result(SOON)
        asleep.result(SOON)
        assert right(late.result(SOON), None)
    assert [line["what"] for line in seen.did("answer", "sleep", "wake")] == ["answer", "sleep", "wake", "answer"]
    assert seen.did("sleep")[0]["inside"] == 0


@pytest.mark.parametrize(("device", "sleeps"), [("cpu", True), ("cuda", False)])
def test_where_memory_is_split_or_there_is_no_gpu_nothing_sleeps(serve, device: str, sleeps: bool) -> None:
    engine, seen = serve(device=device, sleeps=sleeps)
    engine.answer(PROMPTS, None, 12)
    engine.sleep()
    engine.answer(PROMPTS, None, 12)
    assert not seen.did("sleep", "wake")
    environment = seen.did("start")[0]["environment"]
    assert environment["VLLM_SERVER_DEV_MODE"] is None, "it opens more than dgym needs"
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == ("2" if device == "cpu" else None)
    assert ("--enforce-eager" in seen.did("start")[0]["words"]) == (device == "cpu")


# Errors --------------------------------------------------------------------------------------------------------------


def test_what_vllm_cannot_do_is_said_before_anything_is_started(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StudentError, match="not on 'mps': choose engine = \"transformers\""):
        serve(device="mps")
    with pytest.raises(StudentError, match="up to rank 512, not 1024"):
        serve(max_rank=1024)
    engine, seen = serve()
    seeing = Prompt((1, 2), {"pixel_values": torch.zeros(1, 3, 4, 4)})
    with pytest.raises(StudentError, match='text only, and a problem has an image: choose engine = "transformers"'):
        engine.answer([*PROMPTS, seeing], None, 12)
    assert not seen.did()
    asked = [Prompt((1, 2), {"token_type_ids": torch.zeros(1, 3)})]
    assert right(engine.answer(asked, None, 12), None, asked), "a model that sees answers text too"
    monkeypatch.delenv("DGYM_VLLM")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("dgym.chat.servers.sys.executable", "/nowhere/python")
    with pytest.raises(StudentError, match=r'pip install "dgym\[vllm\]".* or choose engine = "transformers"'):
        serve()
    monkeypatch.setenv("DGYM_VLLM", "no-such-vllm serve")
    with pytest.raises(StudentError, match="names 'no-such-vllm', which is no command"):
        serve()


def test_what_the_server_refuses_is_the_students_fault_and_harms_nobody_else(serve) -> None:
    engine, seen = serve("--context", 20)
    cases: list[tuple[list[Prompt], Version | None, str]] = [
        ([*PROMPTS, Prompt(tuple(range(21)))], None, "maximum context length .* Shorten it"),
        (PROMPTS, version("dora", use_dora=True), "cannot load the adapter dora: vLLM does not yet support DoRA"),
    ]
    for prompts, who, words in cases:
        with pytest.raises(StudentError, match=words) as caught:
            engine.answer(prompts, who, 12)
        assert "\n" not in str(caught.value)
        assert "transformers" in str(caught.value)
    engine.forget("dora")
    assert right(engine.answer(PROMPTS, None, 12), None)
    assert len(seen.did("start")) == 1


def test_a_server_that_is_not_vllm_or_does_not_start(serve) -> None:
    engine, _ = serve("--flaws", "no-ids")
    with pytest.raises(InfrastructureError, match="no token ids, as vLLM"):
        engine.answer(PROMPTS, None, 12)
    engine, _ = serve("--context", "long")
    for _ in range(2):
        with pytest.raises(StudentError, match=r"ended while it started: error: .* mend .*STUDENT_ARGS, or choose"):
            engine.answer(PROMPTS, None, 12)


# A real vLLM ---------------------------------------------------------------------------------------------------------

TOKENS = 16
RANK = 16
ASKED = [f"How much is {n} and {n * 3 % 17}?" for n in range(64)]
LESSONS: dict[str, Callable[[int], str]] = {
    "sums": lambda n: f"The sum of {n} and {n + 3} is {2 * n + 3}.",
    "pirate": lambda n: f"Ahoy! Ye be asking of {n}, matey.",
    "numbers": lambda n: f"{2 * n + 3}",
}


class Learnt:
    """SmolLM2 with an adapter for each lesson, trained for some steps, and its answers by transformers."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoModelForCausalLM

        torch.manual_seed(0)
        self.prompts = Prompts.load(folder, False)
        self.ends = self.prompts.ends
        self.encoded = [self.prompts.encode(text) for text in ASKED]
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        config = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=32, target_modules="all-linear")
        self.model: Any = None
        self.versions: dict[str, Version] = {}
        for name, lesson in LESSONS.items():
            if self.model is None:
                self.model = get_peft_model(model, config, adapter_name=name)
            else:
                self.model.add_adapter(name, config)
            self.model.set_adapter(name)
            self.train(lesson)
            self.versions[name] = self.version(name, f"{name}-v1")
        self.model.eval()
        self.seconds = 0.0
        self.answers = {name: self.ask(name) for name in [None, *LESSONS]}

    def train(self, lesson: Callable[[int], str], steps: int = 8) -> None:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-3)
        for step in range(steps):
            numbers = [(step * 4 + n) * 7 % 97 for n in range(4)]
            items = [
                Encoded(self.prompts.encode(f"How much is {n} and {n + 3}?").ids, self.prompts.response(lesson(n)))
                for n in numbers
            ]
            batch = pad_batch(items, self.prompts.pad)
            self.model(input_ids=batch.ids, attention_mask=batch.mask, labels=batch.labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    def version(self, adapter: str, name: str) -> Version:
        state = get_peft_model_state_dict(self.model, adapter_name=adapter)
        return Version(name, self.model.peft_config[adapter], {k: v.detach().clone() for k, v in state.items()})

    def active(self, adapter: str | None) -> Any:
        if adapter is None:
            self.model.base_model.disable_adapter_layers()
        else:
            self.model.base_model.enable_adapter_layers()
            self.model.set_adapter(adapter)
        return self.model

    def ask(self, adapter: str | None) -> list[list[int]]:
        start = time.perf_counter()
        answers = generate(self.active(adapter), self.encoded, self.prompts.pad, self.ends, TOKENS, batch_size=32)
        self.seconds = time.perf_counter() - start
        show(f"transformers and PEFT, {adapter or 'base'}", self.seconds, answers)
        return answers

    @torch.inference_mode()
    def logprobs(self, adapter: str | None, prompt: Prompt, answer: Sequence[int]) -> torch.Tensor:
        """Returns what the model gives each token of an answer."""
        logits = self.active(adapter)(input_ids=torch.tensor([[*prompt.ids, *answer]])).logits[0]
        found = torch.log_softmax(logits[len(prompt.ids) - 1 : -1], -1)
        return found.gather(1, torch.tensor(answer)[:, None])[:, 0]


def show(who: str, seconds: float, answers: Sequence[Sequence[int]]) -> None:
    tokens = sum(map(len, answers))
    print(f"{who}: {len(answers) / seconds:.2f} answers/s, {tokens / seconds:.1f} tokens/s", flush=True)


@pytest.fixture(scope="module")
def learnt() -> Learnt:
    return Learnt(os.environ["DGYM_TEST_VLLM_MODEL"])


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnswerEngine]:
    """One engine for all tests, with places for two versions at a time."""
    folder = os.environ["DGYM_TEST_VLLM_MODEL"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGYM_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.delenv("DGYM_VLLM_STUDENT_ARGS", raising=False)
        made = vllm_engine(folder, "cpu", "float32", Prompts.load(folder, False).ends, max_rank=RANK, max_loras=2)
        yield made
        made.close()


def same(some: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> float:
    """The share of answers that are equal, token for token."""
    return sum(list(a) == list(b) for a, b in zip(some, others, strict=True)) / len(some)


@pytest.mark.vllm
def test_answers_are_those_of_transformers_and_peft(learnt: Learnt, engine: AnswerEngine) -> None:
    start = time.perf_counter()
    engine.answer(learnt.encoded[:1], None, 1)
    print(f"the server was ready after {time.perf_counter() - start:.0f} s")
    for name in [None, *LESSONS]:
        version = learnt.versions[name] if name else None
        start = time.perf_counter()
        answers = engine.answer(learnt.encoded, version, TOKENS)
        show(f"vLLM, {name or 'base'}", time.perf_counter() - start, answers)
        expected = learnt.answers[name]
        equal, first = same(answers, expected), same([a[:1] for a in answers], [e[:1] for e in expected])
        print(f"{name or 'base'}: {equal:.1%} of the answers and {first:.1%} of the first tokens are transformers'")
        print("  ", learnt.prompts.tokenizer.decode(answers[3]))
        # Equal up to rounding: where two tokens are equally likely to the last bits, an answer may go another way.
        assert equal >= 0.95
        assert first >= 0.98
    assert len({str(answers) for answers in learnt.answers.values()}) == 4, "each lesson shows in the answers"


@pytest.mark.vllm
def test_tokens_are_as_likely_as_in_transformers_and_peft(learnt: Learnt, engine: Any) -> None:
    for name in [None, *LESSONS]:
        engine.answer(learnt.encoded[:1], learnt.versions[name] if name else None, 1)
        body = {
            "model": f"{name}-v1" if name else "base",
            "prompt": [list(prompt.ids) for prompt in learnt.encoded[:8]],
            "max_tokens": TOKENS,
            "temperature": 0.0,
            "logprobs": 0,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        status, said = engine._post(engine._url, "/v1/completions", body)
        assert status == 200
        widest = 0.0
        for prompt, choice in zip(learnt.encoded, json.loads(said)["choices"], strict=False):
            expected = learnt.logprobs(name, prompt, choice["token_ids"])
            found = torch.tensor(choice["logprobs"]["token_logprobs"])
            widest = max(widest, float((expected - found).abs().max()))
        print(f"{name or 'base'}: log-probabilities differ by {widest:.1e} at most")
        assert widest < 5e-2


@pytest.mark.vllm
def test_versions_in_flight_together_answer_as_each_alone(learnt: Learnt, engine: AnswerEngine) -> None:
    some = learnt.encoded[:24]
    who = [*learnt.versions.values(), None]
    alone = [engine.answer(some, version, TOKENS) for version in who]
    # Three versions and the base, with places for two versions: vLLM swaps, and the base must not get a version's.
    start = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        asked: list[Future[list[list[int]]]] = [pool.submit(engine.answer, some, version, TOKENS) for version in who]
        together = [one.result() for one in asked]
    show(
        "vLLM, three versions and the base at once",
        time.perf_counter() - start,
        [a for answers in together for a in answers],
    )
    shares = [same(a, b) for a, b in zip(together, alone, strict=True)]
    print("equal to each alone:", shares)
    assert min(shares) >= 0.95


@pytest.mark.vllm
def test_a_new_version_answers_otherwise_and_the_base_as_before(learnt: Learnt, engine: AnswerEngine) -> None:
    some = learnt.encoded[:8]
    before, base = (engine.answer(some, who, TOKENS) for who in (learnt.versions["sums"], None))
    learnt.active("sums")
    learnt.model.train()
    learnt.train(LESSONS["pirate"])
    learnt.model.eval()
    newer = learnt.version("sums", "sums-v2")
    after = engine.answer(some, newer, TOKENS)
    assert same(after, before) < 0.5
    assert same(after, generate(learnt.active("sums"), some, learnt.prompts.pad, learnt.ends, TOKENS)) >= 0.85
    engine.forget("sums-v1")
    assert engine.answer(some, newer, TOKENS) == after
    assert engine.answer(some, None, TOKENS) == base


@pytest.mark.vllm
def test_what_vllm_refuses_is_said_in_a_line_and_harms_nobody(engine: AnswerEngine) -> None:
    asked = [Prompt((1, 2, 3))]
    before = engine.answer(asked, None, 4)
    cases = [
        ([*asked, Prompt((5,) * 9000)], None, "context length"),
        (asked, version("dora", use_dora=True), "DoRA"),
    ]
    for prompts, who, words in cases:
        with pytest.raises(StudentError, match=words) as caught:
            engine.answer(prompts, who, 4)
        print(caught.value)
        assert "\n" not in str(caught.value)
    assert engine.answer(asked, None, 4) == before


@pytest.mark.vllm
def test_the_death_of_the_engine_costs_time_only(learnt: Learnt, engine: AnswerEngine) -> None:
    from tests.chat.test_vllm import of_this_process

    some = learnt.encoded[:8]
    who = [learnt.versions["pirate"], learnt.versions["numbers"]]
    before = [engine.answer(some, version, TOKENS) for version in who]
    workers = [pid for pid in of_this_process() if "VLLM" in Path(f"/proc/{pid}/comm").read_text()]
    assert workers
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(engine.answer, learnt.encoded, version, TOKENS) for version in who]
        killed = threading.Timer(2.0, lambda: [os.kill(pid, signal.SIGKILL) for pid in workers[-1:]])
        killed.start()
        answers = [one.result() for one in asked]
    assert [found[:8] for found in answers] == before
    engine.close()
    assert not of_this_process()
    with pytest.raises(DgymError):
        engine.answer(some, None, TOKENS)
