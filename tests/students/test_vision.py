"""Students that see: one path from problem and image to tokens, through the same base, training and answering."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from dgym.core import Example, Problem
from dgym.domains.scenes import encode
from dgym.errors import StudentError
from dgym.models.prompts import open_image
from dgym.models.recipe import Recipe as Training
from dgym.students.base import Base
from dgym.students.make import IMAGE, Recipe, Vision, new_model, new_prompts, pixels, save, train_tokenizer

RECIPE = Recipe(
    hidden=32, layers=2, heads=2, intermediate=64, vision=Vision(hidden=32, layers=1, heads=2, intermediate=64)
)
COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200)}
TRAINING = Training(epochs=3, learning_rate=1e-2, batch=8)


def picture(colour: str, place: int = 0) -> bytes:
    image = Image.new("RGB", (48, 48), (20, 20, 20))
    image.paste(COLOURS[colour], (place, 10, place + 20, 40))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def example(colour: str, place: int) -> Example:
    return Example("Which colour?", colour, images=(picture(colour, place),))


def problem(colour: str, place: int) -> Problem:
    return Problem(f"{colour}{place}", "Which colour?", colour, "colour", (picture(colour, place),))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny-eyes")
    tokenizer = train_tokenizer(["Which colour? red", "Which colour? blue"] * 20, 300)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    save(new_model(RECIPE, tokenizer), new_prompts(RECIPE, tokenizer), out)
    return out


@pytest.fixture
def base(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))
    return Base(str(folder), digest="tiny-eyes")


def test_it_learns_what_only_the_image_tells(base: Base) -> None:
    # A random model has nothing that an adapter could bend.
    student = base.open(Training(method="full", epochs=40, learning_rate=1e-2, batch=8), "a")
    examples = [example(colour, place) for colour in COLOURS for place in range(0, 28, 2)]
    report = student.train(examples, seed=1, fresh=True)
    asked = [problem(colour, place) for colour in COLOURS for place in (1, 9, 17)]
    assert report["loss"] < 0.2
    assert student.answer(asked) == [p.reference for p in asked]


def test_prompts_hold_one_token_for_every_patch(base: Base) -> None:
    prompt = base.prompts.encode("Which colour?", (picture("red"),))
    image = base.tokenizer.convert_tokens_to_ids(IMAGE)
    assert prompt.ids.count(image) == RECIPE.vision.tokens == 9
    assert prompt.extras["pixel_values"].shape == (1, 3, 48, 48)
    encoded = base.encode(example("red", 0))
    assert encoded.prompt == prompt.ids
    assert torch.equal(encoded.extras["pixel_values"], prompt.extras["pixel_values"])


def test_the_maker_sees_images_as_students_do(base: Base) -> None:
    image = picture("blue", 4)
    seen = base.prompts.encode("Which colour?", (image,)).extras["pixel_values"]
    assert torch.allclose(pixels(image).float() / 127.5 - 1, seen, atol=1e-6)


def test_answers_are_kept_by_image(base: Base) -> None:
    student = base.open(TRAINING, "a")
    one, other = (student.answer([problem(colour, 0)]) for colour in COLOURS)
    assert student.answer([problem("red", 0)]) == one
    assert len(list((Path(os.environ["DGYM_CACHE"]) / "answers").iterdir())) == 2
    assert isinstance(other[0], str)


def test_save_and_load(base: Base, tmp_path: Path) -> None:
    student, other = base.open(TRAINING, "a"), base.open(TRAINING, "a")
    student.train([example(colour, place) for colour in COLOURS for place in range(0, 28, 4)], seed=1, fresh=True)
    student.save(str(tmp_path / "student"))
    other.load(str(tmp_path / "student"))
    asked = [problem(colour, place) for colour in COLOURS for place in (3, 11)]
    assert other.answer(asked) == student.answer(asked)


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(StudentError, match="cannot be read"):
        open_image(b"no image")


def test_a_student_that_reads_text_only_says_so(tmp_path: Path) -> None:
    out = tmp_path / "blind"
    tokenizer = train_tokenizer(["Which colour? red"] * 20, 300)
    recipe = Recipe(hidden=32, layers=2, heads=2, intermediate=64)
    save(new_model(recipe, tokenizer), new_prompts(recipe, tokenizer), out)
    student = Base(str(out), digest="blind").open(TRAINING, "a")
    with pytest.raises(StudentError, match="reads text only"):
        student.answer([problem("red", 0)])


def test_a_picture_of_another_size_is_scaled(base: Base) -> None:
    """What a text-to-image model draws has hundreds of pixels a side."""
    large = encode(Image.new("RGB", (512, 384), (200, 30, 30)))
    own = encode(Image.new("RGB", (base.model.config.vision_config.image_size,) * 2, (200, 30, 30)))
    first, second = (base.prompts.encode("What colour?", (image,)).extras["pixel_values"] for image in (large, own))
    assert first.shape == second.shape
    assert (first - second).abs().max() < 0.02


def test_preferences_with_images(base: Base) -> None:
    recipe = Training(method="full", objective="dpo", epochs=30, learning_rate=5e-3, batch=8, beta=0.5)
    other = {"red": "blue", "blue": "red"}
    examples = [example(colour, place) for colour in COLOURS for place in range(0, 28, 2)]
    pairs = [replace(e, rejected=other[e.response]) for e in examples]
    report = base.open(recipe, "a").train(pairs, seed=1, fresh=True)
    assert report["preferred"] == 1.0  # the image decides which of two answers is the better one
    assert report["margin"] > 1
