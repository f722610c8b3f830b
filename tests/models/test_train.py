"""The training loop: agreement with TRL, accumulation, checkpointing, memory, preferences."""

from __future__ import annotations

import copy
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from dgym.errors import StudentError
from dgym.models import train as module
from dgym.models.recipe import Recipe
from dgym.models.text import Encoded
from dgym.models.train import Pair, fine_tune, prefer

VOCABULARY, PAD, END = 64, 0, 1
STEPS, BATCH = 50, 4
RECIPE = Recipe(learning_rate=1e-3, epochs=1, batch=BATCH, warmup=0.0)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def new_model(adapted: bool = True) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, pad_token_id=PAD, eos_token_id=END, **sizes))
    if not adapted:
        return model
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
    return get_peft_model(model, config)


def examples(count: int = STEPS * BATCH) -> list[Encoded]:
    """Adds two digits; of different lengths."""
    rng = random.Random(3)
    out = []
    for _ in range(count):
        prompt = tuple(rng.randrange(4, VOCABULARY) for _ in range(rng.randrange(3, 12)))
        out.append(Encoded(prompt, (*prompt[: rng.randrange(1, 4)], END)))
    return out


def pairs(count: int = STEPS * BATCH) -> list[Pair]:
    rng = random.Random(4)
    made = []
    for example in examples(count):
        worse = tuple(rng.randrange(4, VOCABULARY) for _ in range(rng.randrange(1, 5)))
        made.append(Pair(example, Encoded(example.prompt, (*worse, END))))
    return made


def trained(model: Any) -> list[torch.nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def record_losses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    losses: list[float] = []
    original = module._gradients

    def recording(*args: Any) -> float:
        losses.append(original(*args))
        return losses[-1]

    monkeypatch.setattr(module, "_gradients", recording)
    return losses


def arguments(folder: Path, rate: float = RECIPE.learning_rate) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1,
        "learning_rate": rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "train_sampling_strategy": "sequential",
        "disable_tqdm": True,
        "max_length": None,
        "optim": "adamw_torch",
    }


class Tokenizer:
    """What TRL asks of one whose data are tokens already."""

    def __new__(cls) -> Any:
        from tokenizers import Tokenizer as Raw
        from tokenizers.models import WordLevel
        from transformers import PreTrainedTokenizerFast

        words = {"<pad>": PAD, "<end>": END, **{f"w{i}": i for i in range(2, VOCABULARY)}}
        raw = Raw(WordLevel(words, unk_token="w2"))
        return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<end>")


def logged(trainer: Any) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def in_order(data: list[Any]) -> list[Any]:
    """The data in the order in which the loop takes them at seed 7."""
    return [item for batch in module._batches(data, BATCH, random.Random(7)) for item in batch]


def test_losses_agree_with_trl_over_fifty_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    data = examples()
    rows = [
        {
            "input_ids": [*e.prompt, *e.answer],
            "completion_mask": [0] * len(e.prompt) + [1] * len(e.answer),
        }
        for e in in_order(data)
    ]
    ours, theirs = new_model(), new_model()
    config = SFTConfig(**arguments(tmp_path), completion_only_loss=True)
    trainer = SFTTrainer(model=theirs, args=config, train_dataset=Dataset.from_list(rows), processing_class=Tokenizer())
    expected = logged(trainer)
    losses = record_losses(monkeypatch)
    report = fine_tune(ours, trained(ours), data, RECIPE, PAD, seed=7)
    assert report["steps"] == STEPS == len(losses) == len(expected)
    assert max(abs(a - b) for a, b in zip(losses, expected, strict=True)) < 1e-3
    assert losses[-1] < losses[0]  # something was learned, so that agreement says something
    assert max((a - b).abs().max().item() for a, b in zip(trained(ours), trained(theirs), strict=True)) < 1e-4


def test_preference_losses_agree_with_trl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    data = pairs()
    rows = [
        {
            "prompt": [*p.chosen.prompt],
            "chosen": [*p.chosen.answer],
            "rejected": [*p.rejected.answer],
            "prompt_ids": [*p.chosen.prompt],
            "chosen_ids": [*p.chosen.answer],
            "rejected_ids": [*p.rejected.answer],
        }
        for p in in_order(data)
    ]
    monkeypatch.setattr(DPOTrainer, "_prepare_dataset", lambda self, dataset, *rest: dataset)
    ours, theirs = new_model(), new_model()
    config = DPOConfig(**arguments(tmp_path, 5e-3), beta=0.5)
    trainer = DPOTrainer(model=theirs, args=config, train_dataset=Dataset.from_list(rows), processing_class=Tokenizer())
    expected = logged(trainer)
    losses = record_losses(monkeypatch)
    recipe = RECIPE.model_copy(update={"objective": "dpo", "beta": 0.5, "learning_rate": 5e-3})
    report = prefer(ours, trained(ours), data, recipe, PAD, seed=7)
    assert len(losses) == len(expected) == STEPS
    assert losses[0] == pytest.approx(math.log(2))  # before the first step nothing differs from the reference
    assert max(abs(a - b) for a, b in zip(losses, expected, strict=True)) < 1e-3
    assert sum(losses[-10:]) < sum(losses[:10])
    assert report["preferred"] > 0.5


@pytest.mark.parametrize("change", [{"micro_batch": 3}, {"micro_batch": 1}, {"checkpointing": True}])
def test_accumulation_and_checkpointing_change_the_memory_not_the_training(change: dict[str, Any]) -> None:
    whole, parts = new_model(), new_model()
    data = examples(40)
    recipe = Recipe(learning_rate=1e-2, epochs=2, batch=8)
    expected = fine_tune(whole, trained(whole), data, recipe, PAD, seed=1)
    report = fine_tune(parts, trained(parts), data, recipe.model_copy(update=change), PAD, seed=1)
    assert report["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    for a, b in zip(trained(whole), trained(parts), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    assert not parts.training
    assert not getattr(parts.base_model.model.model, "gradient_checkpointing", False)


@pytest.mark.parametrize("learn", [fine_tune, prefer])
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_when_memory_does_not_suffice_the_batch_is_halved(learn: Any, error: Exception) -> None:
    rows = 5 if learn is fine_tune else 10  # a pair has two

    def narrow(model: Any) -> Any:
        forward = model.forward

        def limited(*args: Any, input_ids: torch.Tensor, **kwargs: Any) -> Any:
            if len(input_ids) > rows:
                raise error
            return forward(*args, input_ids=input_ids, **kwargs)

        model.forward = limited
        return model

    whole, model = new_model(), narrow(new_model())
    data: list[Any] = examples(40) if learn is fine_tune else pairs(40)
    recipe = Recipe(learning_rate=1e-2, epochs=2, batch=16, objective="sft" if learn is fine_tune else "dpo")
    expected = learn(whole, trained(whole), data, recipe, PAD, seed=1)
    report = learn(model, trained(model), data, recipe, PAD, seed=1)
    assert "micro_batch" not in expected
    assert report["micro_batch"] == 4
    assert report["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    assert report["tokens"] == expected["tokens"]
    for a, b in zip(trained(whole), trained(model), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    rows = 0
    with pytest.raises(StudentError, match="checkpointing"):
        learn(model, trained(model), data, recipe, PAD, seed=1)


def test_other_failures_are_not_taken_for_memory() -> None:
    model = new_model()

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    model.forward = broken
    with pytest.raises(RuntimeError, match="shapes"):
        fine_tune(model, trained(model), examples(4), RECIPE, PAD, seed=1)


def test_preferences_are_learned_and_the_reference_is_the_model_before() -> None:
    model = new_model(adapted=False)  # a random model has little that an adapter could bend
    before = copy.deepcopy(model)
    data = pairs(16)
    recipe = Recipe(learning_rate=5e-3, epochs=30, batch=8, objective="dpo")
    report = prefer(model, trained(model), data, recipe, PAD, seed=1)
    assert report["preferred"] == 1.0
    assert report["margin"] > 1

    def difference(m: Any) -> torch.Tensor:
        with torch.no_grad():
            return module.Preference(PAD, 0.1)._differences(m, data)

    margins = 0.1 * (difference(model) - difference(before))
    assert margins.mean().item() == pytest.approx(report["margin"], rel=0.05)
