"""Greedy decoding of one's own gives what transformers gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from dgym.errors import StudentError
from dgym.models import decode, text
from dgym.models.prompts import Prompt

PAD, END, OTHER_END = 0, 1, 2
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(5)
    config = LlamaConfig(vocab_size=40, pad_token_id=PAD, eos_token_id=END, initializer_range=0.6, **SIZES)
    return LlamaForCausalLM(config).eval()


def prompts(shared: int, count: int = 13) -> list[Prompt]:
    generator = torch.Generator().manual_seed(1)

    def draw(n: int) -> list[int]:
        return torch.randint(3, 40, (n,), generator=generator).tolist()

    begin = draw(shared)
    return [Prompt((*begin, *draw(3 + i % 5))) for i in range(count)]


@pytest.mark.parametrize("shared", [0, 5, 20])
@pytest.mark.parametrize("batch", [1, 4, 64])
def test_answers_are_those_of_transformers(
    model: Any, shared: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = prompts(shared)
    with monkeypatch.context() as patch:
        patch.setattr(text, "plain", lambda model: False)
        expected = text.generate(model, asked, PAD, (END, OTHER_END), 12, batch)
    assert len({len(a) for a in expected}) > 1  # some end early, so that rows leave
    calls = []
    original = decode.greedy
    monkeypatch.setattr(text, "greedy", lambda *args: calls.append(1) or original(*args))
    for worth in (10**12, 0):
        monkeypatch.setattr(decode, "WORTH", worth)
        assert text.generate(model, asked, PAD, (END, OTHER_END), 12, batch) == expected
    assert calls


def test_a_shared_beginning_is_read_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "WORTH", 0)
    rows: list[tuple[int, int]] = []
    forward = model.forward

    def counting(*args: Any, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        rows.append(tuple(input_ids.shape))
        return forward(*args, input_ids=input_ids, **kwargs)

    model.forward = counting
    asked = prompts(20)
    decode.greedy(model, asked, PAD, range(1, 12), 12)
    assert rows[0] == (1, 20)
    assert rows[1][0] == len(asked)
    assert rows[1][1] <= 8
    assert rows[-1][0] < len(asked)  # rows whose answers ended have left


def test_with_an_adapter_too(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    asked = prompts(20)
    with monkeypatch.context() as patch:
        patch.setattr(text, "plain", lambda model: False)
        expected = text.generate(adapted, asked, PAD, END, 12)
    for worth in (10**12, 0):
        monkeypatch.setattr(decode, "WORTH", worth)
        assert text.generate(adapted, asked, PAD, END, 12) == expected


def test_models_that_forget_are_left_to_transformers(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not decode.worth_it(model)
    monkeypatch.setattr(decode, "WORTH", 0)
    assert decode.worth_it(model)
    assert decode.plain(model)
    sliding = Gemma2ForCausalLM(Gemma2Config(vocab_size=40, head_dim=8, num_key_value_heads=4, **SIZES))
    assert not decode.plain(sliding)


def test_a_small_model_computes_few_rows_at_a_time_padded_as_one_batch(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, seen = prompts(5), []
    forward = model.forward

    def noting(*args: Any, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        seen.append(tuple(input_ids.shape))
        return forward(*args, input_ids=input_ids, **kwargs)

    model.forward = noting
    whole = text.generate(model, asked, PAD, 41, 1)
    longest = max(len(p.ids) for p in asked)
    assert seen == [(13, longest)]
    seen.clear()
    monkeypatch.setattr(text, "SMALL_ROWS", 6)
    assert text.generate(model, asked, PAD, 41, 1) == whole
    assert seen == [(5, longest), (5, longest), (3, longest)]


def test_prompts_may_be_equal(model: Any) -> None:
    asked = [Prompt(tuple(range(3, 30)))] * 3
    first, *others = decode.greedy(model, asked, PAD, [END], 6)
    assert others == [first] * 2


@pytest.mark.parametrize("worth", [0, 10**12])
def test_when_memory_does_not_suffice_smaller_batches_are_asked(
    model: Any, worth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = prompts(20)
    expected = text.generate(model, asked, PAD, END, 12)
    monkeypatch.setattr(decode, "WORTH", worth)
    forward, rows = model.forward, []

    def narrow(*args: Any, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        rows.append(len(input_ids))
        if len(input_ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(*args, input_ids=input_ids, **kwargs)

    model.forward = narrow
    most = 4
    assert text.generate(model, asked, PAD, END, 12) == expected
    assert max(rows) == len(asked)
    most = 0
    with pytest.raises(StudentError, match="fits into memory"):
        text.generate(model, asked, PAD, END, 12)
