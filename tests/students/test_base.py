"""Tenants on a real, tiny Llama: training, answering, isolation, saving."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer

from dgym.core import Example, Problem
from dgym.errors import StudentError, UsageError
from dgym.fakes import FakeDomain
from dgym.models import adapters
from dgym.models.recipe import Recipe
from dgym.models.text import IGNORED, Encoded, pad_batch
from dgym.students import base as module
from dgym.students.base import Base, Tenant
from dgym.students.host import StudentConfig, StudentHost, _Lease

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


def test_a_missing_model_is_the_user_s_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no folder"):
        Base(str(tmp_path / "nothing"), digest="x")


def test_problems_may_be_none(base: Base) -> None:
    empty: list[Problem] = []
    assert base.open(RECIPE, "a").answer(empty) == []


def test_answering_with_an_adapter_leaves_the_base_bit_for_bit(base: Base) -> None:
    tenant = base.open(RECIPE, "a")
    tenant.train(examples(), seed=1, fresh=True)
    layers = [m for m in base.peft.modules() if isinstance(m, LoraLayer)]
    before = [layer.get_base_layer().weight.clone() for layer in layers]
    with adapters.merged(base.peft, module._SLOT):
        changed = [not torch.equal(a, b.get_base_layer().weight) for a, b in zip(before, layers, strict=True)]
        assert all("forward" in vars(layer) for layer in layers)
    assert any(changed)
    assert not any("forward" in vars(layer) for layer in layers)
    assert all(torch.equal(a, b.get_base_layer().weight) for a, b in zip(before, layers, strict=True))


def test_merged_or_not_the_answers_are_the_same(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = base.open(RECIPE, "a")
    tenant.train(examples(), seed=1, fresh=True)
    merged = tenant.answer(PROBLEMS)
    monkeypatch.setattr(adapters, "MERGE_LIMIT", 0)
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


# --------------------------------------------------------------------------------------------------------------
# One place for an adapter


def test_idle_students_lie_parked_and_come_back_as_they_were(base: Base, tmp_path: Path) -> None:
    tenants = [base.open(RECIPE, "a") for _ in range(3)]
    for seed, tenant in enumerate(tenants):
        tenant.train(examples(seed), seed=seed, fresh=True)
    kept = [weights(t, tmp_path / f"before-{i}") for i, t in enumerate(tenants)]
    assert len(set(kept)) == 3
    assert list(base.peft.peft_config) == [module._SLOT]  # however many there are
    for i in (1, 0, 2, 1):
        base.adapted(tenants[i], tenants[i]._config, None)
        base.rest()
        assert weights(tenants[i], tmp_path / f"again-{i}") == kept[i]
    again = base.open(RECIPE, "a")
    again.train(examples(1), seed=1, fresh=True)
    assert weights(again, tmp_path / "same") == kept[1]


def test_an_adapter_drawn_into_the_old_one_s_place_is_the_one_that_peft_makes(base: Base) -> None:
    tenant = base.open(RECIPE, "a")

    def drawn(seed: int) -> dict[str, torch.Tensor]:
        base.adapted(tenant, tenant._config, seed)
        base.rest()
        return {name: tensor.clone() for name, tensor in base.in_place(tenant).items()}

    made = drawn(5)  # by PEFT: there was none before
    assert any((tensor != 0).any() for tensor in made.values())
    tenant.train(examples(), seed=1, fresh=True)
    again = drawn(5)
    assert all(torch.equal(made[name], again[name]) for name in made)
    assert not all(torch.equal(made[name], tensor) for name, tensor in drawn(6).items())


def test_students_with_other_recipes_share_a_base(base: Base, tmp_path: Path) -> None:
    recipes = [RECIPE, RECIPE.model_copy(update={"rank": 2}), RECIPE.model_copy(update={"method": "full"})]
    alone = []
    for i, recipe in enumerate(recipes):
        tenant = base.open(recipe, "a")
        tenant.train(examples(), seed=1, fresh=True)
        alone.append((weights(tenant, tmp_path / f"alone-{i}"), tenant.answer(PROBLEMS)))
        tenant.close()
    tenants = [base.open(recipe, "a") for recipe in recipes]
    for tenant in tenants:
        tenant.train(examples(), seed=1, fresh=True)
    together = [(weights(t, tmp_path / f"{i}"), t.answer(PROBLEMS)) for i, t in enumerate(tenants)]
    assert together == alone


def test_a_student_of_another_recipe_is_not_restored(base: Base) -> None:
    one, other = base.open(RECIPE, "a"), base.open(RECIPE.model_copy(update={"rank": 2}), "a")
    one.train(examples(), seed=1, fresh=True)
    with pytest.raises(StudentError, match="another recipe"):
        other.restore(one.snapshot())
    with pytest.raises(StudentError, match="can be restored"):
        other.restore(b"rubbish")
    assert other.answer(PROBLEMS) == base.open(RECIPE, "a").answer(PROBLEMS)


def test_threads_take_turns_and_give_what_each_gives_alone(base: Base, tmp_path: Path) -> None:
    def episode(tenant: Tenant, seed: int, out: dict[int, object]) -> None:
        for fresh in (True, False):
            tenant.train(examples(seed), seed=seed, fresh=fresh)
            tenant.answer(PROBLEMS)
        out[seed] = (weights(tenant, tmp_path / f"{id(out)}-{seed}"), tenant.answer(PROBLEMS))

    alone: dict[int, object] = {}
    together: dict[int, object] = {}
    for seed in range(4):
        episode(base.open(RECIPE, "a"), seed, alone)
    threads = [threading.Thread(target=episode, args=(base.open(RECIPE, "a"), seed, together)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


# --------------------------------------------------------------------------------------------------------------
# Nothing twice


def test_a_version_of_a_student_is_asked_nothing_twice(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = module.generate

    def counting(model: object, prompts: list, *rest: object) -> list[list[int]]:
        asked.append(len(prompts))
        return original(model, prompts, *rest)

    monkeypatch.setattr(module, "generate", counting)
    tenant = base.open(RECIPE, "a")
    tenant.train(examples(), seed=1, fresh=True)
    first = tenant.answer(PROBLEMS[:10])
    assert tenant.answer([*PROBLEMS[5:15], *PROBLEMS[5:15]])[:5] == first[5:]
    assert asked == [10, 5]
    assert (tenant.asked, tenant.answered) == (30, 15)
    assert tenant.answer([Problem("another id", p.prompt, "", "") for p in PROBLEMS[:10]]) == first
    assert asked == [10, 5]
    host = StudentHost()
    host._leases["lease"] = _Lease(StudentConfig("fake", "a", RECIPE), base, tenant)
    assert (host.stats().asked, host.stats().answered) == (tenant.asked, tenant.answered) == (40, 15)
    tenant.train(examples(), seed=2, fresh=False)
    tenant.answer(PROBLEMS[:10])
    assert asked == [10, 5, 10]
    tenant.restore(tenant.snapshot())
    tenant.answer(PROBLEMS[:10])
    assert asked == [10, 5, 10, 10]


# --------------------------------------------------------------------------------------------------------------
# Preferences


DPO = RECIPE.model_copy(update={"objective": "dpo", "method": "full", "epochs": 30, "learning_rate": 5e-3, "beta": 0.5})


def test_preferences_are_learned_from_pairs_alone(base: Base) -> None:
    tenant = base.open(DPO, "a")
    before = tenant.answer(PROBLEMS)
    pairs = [Example(e.prompt, e.response, rejected=a) for e, a in zip(examples(), before, strict=True)]
    report = tenant.train([*pairs, *examples(1)], seed=1, fresh=True)
    assert report["plain"] == len(examples(1))
    assert report["preferred"] > 0.95
    after = tenant.answer([Problem("", e.prompt, "", "") for e in pairs])
    assert not any(a == p.rejected for a, p in zip(after, pairs, strict=True))


def test_without_pairs_there_is_nothing_to_prefer(base: Base) -> None:
    tenant = base.open(DPO, "a")
    with pytest.raises(StudentError, match="agent-pairs"):
        tenant.train(examples(), seed=1, fresh=True)
    assert tenant.train([], seed=1, fresh=True)["steps"] == 0


# --------------------------------------------------------------------------------------------------------------
# What cannot be read


def test_an_example_that_cannot_be_read_costs_itself_only(base: Base) -> None:
    tenant = base.open(RECIPE, "a")
    seen = Example("Which colour?", "red", images=(b"not an image",))
    assert tenant.train([*examples(), seen], seed=1, fresh=True)["unreadable"] == 1
    with pytest.raises(StudentError, match="reads text only"):
        tenant.train([seen], seed=1, fresh=True)
