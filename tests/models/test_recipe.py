"""Recipes: presets, digests that do not move, mistakes."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from dgym.core import digest
from dgym.errors import UsageError
from dgym.models.recipe import PRESETS, Recipe


def test_fields_that_came_later_do_not_show_at_their_defaults() -> None:
    """The digests of results that are published hold what stands here."""
    assert Recipe().model_dump() == {
        "method": "lora",
        "rank": 16,
        "alpha": 32.0,
        "dropout": 0.0,
        "learning_rate": 2e-3,
        "epochs": 3,
        "batch": 16,
        "warmup": 0.1,
        "cutoff": 256,
        "max_new_tokens": 48,
    }
    for change in ({"objective": "dpo"}, {"micro_batch": 4}, {"checkpointing": True}, {"beta": 0.2}):
        changed = Recipe(**change)
        assert digest(changed.model_dump()) != digest(Recipe().model_dump())
        assert Recipe.model_validate_json(changed.model_dump_json()) == changed


def test_the_paper_s_values() -> None:
    paper = Recipe.preset("paper")
    assert (paper.rank, paper.alpha, paper.dropout, paper.learning_rate) == (16, 32, 0.05, 1e-4)
    assert (paper.epochs, paper.batch, paper.warmup, paper.cutoff) == (3, 16, 0.1, 1024)
    assert Recipe.preset("paper-vqa").learning_rate == 2e-5


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_taken_by_name_and_changed(name: str) -> None:
    assert Recipe.model_validate(name) == Recipe.preset(name)
    assert Recipe.model_validate({"preset": name, "epochs": 7}) == Recipe.preset(name, epochs=7)
    assert Recipe.preset(name, epochs=7).epochs == 7


def test_mistakes_name_what_is_near() -> None:
    with pytest.raises(UsageError, match="Did you mean 'paper'"):
        Recipe.preset("papr")
    with pytest.raises(UsageError, match="Did you mean 'paper'"):
        Recipe.model_validate("papr")
    with pytest.raises(UsageError, match="Did you mean 'epochs'"):
        Recipe.preset("paper", epoch=2)
    with pytest.raises(UsageError, match="greater than or equal to 1"):
        Recipe.preset("paper", epochs=0)
    with pytest.raises(ValidationError):
        Recipe(epochs=0)
