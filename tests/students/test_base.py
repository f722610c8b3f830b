"""Tenants on a real, tiny Llama: training, answering, isolation, saving."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dgym.core import Example, Problem
from dgym.errors import StudentError
from dgym.fakes import FakeDomain
from dgym.models.recipe import Recipe
from dgym.models.text import IGNORED, Encoded, pad_batch
from dgym.students import base as module
from dgym.students.base import Base, Tenant

RECIPE = Recipe(rank=4, alpha=8, learning_rate=2e-2, epochs=2, batch=8, max_new_tokens=6)
PROBLEMS = FakeDomain().problems("feedback")[:24]


def examples(seed: int = 0, count: int = 24) -> list[Example]:
    return FakeDomain().fresh("add", count, seed)


def weights(tenant: Tenant, folder: Path) -> bytes:
    tenant.save(str(folder))
    return (folder / "student.safetensors").read_bytes()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_same_seed_and_data_give_the_same_bits(base: Base, tmp_path: Path, method: str) -> None:
    recipe = RECIPE.model_copy(update={"method": method, "dropout": 0.1 if method == "lora" else 0.0})
    stored = []
    for i, seed in enumerate((1, 1, 2)):
        tenant = base.open(recipe, "a")
        tenant.train(examples(), seed=seed, fresh=True)
        stored.append((weights(tenant, tmp_path / str(i)), tuple(tenant.answer(PROBLEMS))))
    assert stored[0] == stored[1]
    assert stored[0][0] != stored[2][0]


def test_the_variant_and_the_recipe_enter_the_randomness(base: Base, tmp_path: Path) -> None:
    stored = set()
    for i, (variant, alpha) in enumerate((("a", 8), ("b", 8), ("a", 16))):
        tenant = base.open(RECIPE.model_copy(update={"alpha": alpha}), variant)
        tenant.train(examples(), seed=1, fresh=True)
        stored.add(weights(tenant, tmp_path / str(i)))
    assert len(stored) == 3


@pytest.mark.parametrize("method", ["lora", "full"])
def test_tenants_do_not_notice_each_other(base: Base, tmp_path: Path, method: str) -> None:
    recipe = RECIPE.model_copy(update={"method": method})

    def alone(seed: int) -> tuple[bytes, list[str]]:
        tenant = base.open(recipe, "a")
        tenant.train(examples(seed), seed=seed, fresh=True)
        out = weights(tenant, tmp_path / f"alone-{seed}"), tenant.answer(PROBLEMS)
        tenant.close()
        return out

    expected = [alone(1), alone(2)]
    untrained = base.open(recipe, "a").answer(PROBLEMS)
    both = [base.open(recipe, "a"), base.open(recipe, "a")]
    both[0].train(examples(1), seed=1, fresh=True)
    both[1].train(examples(2), seed=2, fresh=True)
    for i, tenant in enumerate(both):
        assert (weights(tenant, tmp_path / f"both-{i}"), tenant.answer(PROBLEMS)) == expected[i]
    fresh = base.open(recipe.model_copy(update={"max_new_tokens": 7}), "a")  # another cache entry
    assert [a[:5] for a in fresh.answer(PROBLEMS)] == [a[:5] for a in untrained]


def test_training_changes_answers_and_forgetting_restores_them(base: Base) -> None:
    tenant = base.open(RECIPE.model_copy(update={"epochs": 20}), "a")
    before = tenant.answer(PROBLEMS)
    tenant.train([Example(e.prompt, "77") for e in examples()], seed=1, fresh=True)
    assert tenant.answer(PROBLEMS) == ["77"] * len(PROBLEMS) != before
    report = tenant.train([], seed=1, fresh=True)
    assert report["steps"] == 0
    assert tenant.answer(PROBLEMS) == before


def test_training_lowers_the_loss_and_continued_training_lowers_it_further(base: Base) -> None:
    tenant = base.open(RECIPE, "a")
    first = tenant.train(examples(), seed=1, fresh=True)["loss"]
    again = tenant.train(examples(), seed=1, fresh=True)["loss"]
    further = tenant.train(examples(), seed=1, fresh=False)["loss"]
    assert again == first
    assert further < first


@pytest.mark.parametrize("method", ["lora", "full"])
def test_saving_and_loading_give_the_same_answers(base: Base, tmp_path: Path, method: str) -> None:
    recipe = RECIPE.model_copy(update={"method": method})
    tenant, other = base.open(recipe, "a"), base.open(recipe, "a")
    tenant.train(examples(), seed=1, fresh=True)
    tenant.save(str(tmp_path))
    other.load(str(tmp_path))
    assert other.answer(PROBLEMS) == tenant.answer(PROBLEMS)
    with pytest.raises(StudentError, match="No student can be loaded"):
        other.load(str(tmp_path / "nowhere"))


def test_untrained_answers_are_computed_once_and_kept(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = base.open(RECIPE, "a").answer(PROBLEMS)

    def never(*_: object, **__: object) -> list[list[int]]:
        raise AssertionError("asked again")

    monkeypatch.setattr(module, "generate", never)
    assert base.open(RECIPE, "b").answer(PROBLEMS) == answers
    with pytest.raises(AssertionError, match="asked again"):
        base.open(RECIPE, "a").answer(PROBLEMS[:3])


def test_the_order_of_problems_changes_no_answer_s_place(base: Base) -> None:
    tenant = base.open(RECIPE, "a")
    tenant.train(examples(), seed=1, fresh=True)
    forward, backward = tenant.answer(PROBLEMS), tenant.answer(PROBLEMS[::-1])
    assert [a[:1] for a in forward] == [a[:1] for a in backward[::-1]]


def test_training_and_answering_share_one_prompt_path(base: Base) -> None:
    example = Example("add 12 7", "19")
    encoded = base.encode(example)
    assert encoded.prompt == base.prompts.encode(example.prompt).ids
    whole = base.tokenizer.apply_chat_template(
        [{"role": "user", "content": example.prompt}, {"role": "assistant", "content": example.response}],
        tokenize=False,
    )
    assert base.tokenizer.decode([*encoded.prompt, *encoded.answer]) == whole


def test_only_the_response_bears_loss() -> None:
    batch = pad_batch([Encoded((5, 6, 7), (8, 1)), Encoded((5,), (9, 1))], pad=0)
    assert batch.labels.tolist() == [[IGNORED] * 3 + [8, 1], [IGNORED, 9, 1, IGNORED, IGNORED]]
    assert batch.mask.tolist() == [[1] * 5, [1, 1, 1, 0, 0]]


def test_examples_beyond_the_cutoff_are_left_out_and_counted(base: Base) -> None:
    tenant = base.open(RECIPE.model_copy(update={"cutoff": 20}), "a")
    report = tenant.train([*examples(), Example("add " * 30, "1")], seed=1, fresh=True)
    assert report["cut"] == 1


def test_a_loss_that_is_not_finite_ends_the_training(base: Base) -> None:
    tenant = base.open(RECIPE.model_copy(update={"learning_rate": 1e30, "epochs": 5}), "a")
    with pytest.raises(StudentError, match="loss became"):
        tenant.train(examples(), seed=1, fresh=True)


def test_the_global_generator_is_left_alone(base: Base) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    base.open(RECIPE, "a").train(examples(), seed=1, fresh=True)
    assert torch.equal(torch.rand(1), expected)


def test_a_missing_model_is_a_student_error(tmp_path: Path) -> None:
    with pytest.raises(StudentError, match="cannot be loaded"):
        Base(str(tmp_path / "nothing"), digest="x")


def test_problems_may_be_none(base: Base) -> None:
    empty: list[Problem] = []
    assert base.open(RECIPE, "a").answer(empty) == []


def test_answering_with_an_adapter_leaves_the_base_bit_for_bit(base: Base) -> None:
    tenant = base.open(RECIPE, "a")
    tenant.train(examples(), seed=1, fresh=True)
    layers = [m for m in base.peft.modules() if isinstance(m, module.LoraLayer)]
    before = [layer.get_base_layer().weight.clone() for layer in layers]
    with module.merged(base.peft, tenant._name):
        changed = [not torch.equal(a, b.get_base_layer().weight) for a, b in zip(before, layers, strict=True)]
        assert all(layer.merged for layer in layers)
    assert any(changed)
    assert not any(layer.merged for layer in layers)
    assert all(torch.equal(a, b.get_base_layer().weight) for a, b in zip(before, layers, strict=True))


def test_merged_or_not_the_answers_are_the_same(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = base.open(RECIPE, "a")
    tenant.train(examples(), seed=1, fresh=True)
    merged = tenant.answer(PROBLEMS)
    monkeypatch.setattr(module, "MERGE_LIMIT", 0)
    assert tenant.answer(PROBLEMS) == merged


def test_the_loss_is_that_of_all_positions(base: Base) -> None:
    """Only the positions that bear loss are scored; the model's own loss over all of them is the same."""
    tenant = base.open(RECIPE.model_copy(update={"epochs": 1, "batch": 64, "learning_rate": 1e-9}), "a")
    given = examples()
    report = tenant.train(given, seed=1, fresh=True)
    batch = pad_batch([base.encode(e) for e in given], base.tokenizer.pad_token_id)
    with torch.no_grad(), base.peft.disable_adapter():
        whole = base.peft(input_ids=batch.ids, attention_mask=batch.mask, labels=batch.labels).loss.item()
    assert report["loss"] == pytest.approx(whole, abs=1e-5)
