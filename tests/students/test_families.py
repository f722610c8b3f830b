"""Students of the families PaliGemma, Gemma 3, Qwen-VL and SmolVLM train and answer on the one path, images or none.

Every family has a tiny model with random weights, saved as its hub repositories are, and loaded from there.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from dgym.core import Example, Problem
from dgym.errors import StudentError
from dgym.models.prompts import Prompts, sees_images
from dgym.models.recipe import Recipe
from dgym.models.text import IGNORED, Encoded, generate, pad_batch
from dgym.students import tiny
from dgym.students.base import Base, Tenant

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 200, 30)}
FULL = Recipe(method="full", epochs=50, learning_rate=5e-3, batch=8, max_new_tokens=6, cutoff=256)
LORA = Recipe(method="lora", epochs=6, learning_rate=2e-2, batch=8, max_new_tokens=6, cutoff=256, rank=4, alpha=8)

CORPUS = tiny.Corpus([" ".join(["Which colour? Which colours? Say yes. User Assistant yes", *COLOURS])] * 20, 300)


@dataclass(frozen=True)
class Family:
    """The tiny model's family, and the token of which each image has several."""

    name: str
    image: str

    def make(self, folder: Path) -> None:
        tiny.FAMILIES[self.name](folder, CORPUS)


FAMILIES = {
    family.name: family
    for family in (
        Family("paligemma", "<image>"),
        Family("paligemma2", "<image>"),
        Family("qwen2-vl", "<|image_pad|>"),
        Family("qwen2.5-vl", "<|image_pad|>"),
        Family("qwen3-vl", "<|image_pad|>"),
        Family("gemma3", "<image_soft_token>"),
        Family("smolvlm", "<image>"),
        Family("idefics3", "<image>"),
    )
}


def picture(colour: str, width: int = 32) -> bytes:
    """Draws a picture; wide ones take other numbers of patches or tiles than square ones."""
    image = Image.new("RGB", (width, 32), (20, 20, 20))
    image.paste(COLOURS[colour], (4, 4, 28, 28))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


EXAMPLES = [
    Example("Say yes.", "yes"),
    *(Example("Which colour?", c, images=(picture(c, width),)) for c in COLOURS for width in (32, 64)),
    *(
        Example("Which colours?", f"{a} {b}", images=(picture(a), picture(b, 64)))
        for a in COLOURS
        for b in COLOURS
        if a != b
    ),
]
PROBLEMS = [Problem(f"p{i}", e.prompt, e.response, "colour", e.images) for i, e in enumerate(EXAMPLES)]
ANSWERS = [e.response for e in EXAMPLES]


@dataclass(frozen=True)
class Taught:
    """A base, a fully trained student on it, and that student's losses after one epoch and after all."""

    family: Family
    base: Base
    student: Tenant
    first: float
    last: float

    @property
    def image(self) -> int:
        token: int = self.base.tokenizer.convert_tokens_to_ids(self.family.image)
        return token


@pytest.fixture(scope="module", params=FAMILIES)
def taught(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Taught]:
    folder = tmp_path_factory.mktemp("family")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setenv("DGYM_CACHE", str(folder / "cache"))
        torch.manual_seed(0)
        FAMILIES[request.param].make(folder)
        base = Base(str(folder), digest=f"tiny-{request.param}")
        first = base.open(FULL.model_copy(update={"epochs": 1}), "a").train(EXAMPLES, seed=1, fresh=True)
        student = base.open(FULL, "a")
        last = student.train(EXAMPLES, seed=1, fresh=True)
        yield Taught(FAMILIES[request.param], base, student, first["loss"], last["loss"])


def logits(model: Any, items: Sequence[Encoded], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns what a padded batch predicts, and the labels that it should."""
    batch = pad_batch(items, pad)
    with torch.no_grad():
        out = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False, **batch.extras).logits
    return out[:, :-1], batch.labels[:, 1:]


def loss(model: Any, items: Sequence[Encoded], pad: int) -> tuple[float, int]:
    """Returns the summed loss of a padded batch and the number of tokens that bear it."""
    out, labels = logits(model, items, pad)
    summed = torch.nn.functional.cross_entropy(
        out.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return summed.item(), int((labels != IGNORED).sum())


def test_it_learns_what_only_the_images_tell(taught: Taught) -> None:
    assert taught.last < 0.1 * taught.first
    assert taught.student.answer(PROBLEMS) == ANSWERS


def test_a_batch_answers_as_each_problem_alone(taught: Taught) -> None:
    assert taught.student.answer(PROBLEMS) == [taught.student.answer([p])[0] for p in PROBLEMS]
    # What hardly learnt and random models answer hangs by a thread.
    hardly = taught.base.open(FULL.model_copy(update={"epochs": 10, "max_new_tokens": 10}), "a")
    hardly.train(EXAMPLES, seed=1, fresh=True)
    answers = hardly.answer(PROBLEMS)
    assert answers == [hardly.answer([p])[0] for p in PROBLEMS]
    assert len(set(answers)) > 1
    assert answers != ANSWERS
    prompts = [taught.base.prompts.encode(p.prompt, p.images) for p in PROBLEMS]
    settings = taught.base.tokenizer.pad_token_id, taught.base.prompts.ends, 8
    batch = generate(taught.base.model, prompts, *settings)
    assert batch == [generate(taught.base.model, [p], *settings)[0] for p in prompts]


def test_a_padded_batch_has_the_mean_loss_of_its_examples(taught: Taught) -> None:
    base = taught.base
    encoded = [base.encode(e) for e in EXAMPLES]
    assert len({len(e) for e in encoded}) > 3
    alone = [loss(base.model, [e], base.tokenizer.pad_token_id) for e in encoded]
    together, tokens = loss(base.model, encoded, base.tokenizer.pad_token_id)
    assert tokens == sum(count for _, count in alone)
    assert together == pytest.approx(sum(each for each, _ in alone), rel=1e-4)
    report = base.open(FULL.model_copy(update={"epochs": 1, "batch": 64, "learning_rate": 1e-12}), "a").train(
        EXAMPLES, seed=1, fresh=True
    )
    assert report["loss"] == pytest.approx(together / tokens, rel=1e-4)


def test_training_sees_what_answering_sees(taught: Taught) -> None:
    """What a model says token by token is what it finds likeliest when it reads the whole at once."""
    base = taught.base
    prompts = [base.prompts.encode(p.prompt, p.images) for p in PROBLEMS]
    said = generate(base.model, prompts, base.tokenizer.pad_token_id, base.prompts.ends, 6)
    items = [Encoded(p.ids, tuple(ids), p.extras) for p, ids in zip(prompts, said, strict=True)]
    out, labels = logits(base.model, items, base.tokenizer.pad_token_id)
    bearing = labels != IGNORED
    assert bearing.sum() > len(items)
    assert torch.equal(out.argmax(-1)[bearing], labels[bearing])


def test_prompts_hold_the_tokens_of_every_image(taught: Taught) -> None:
    counts = []
    for count in range(3):
        prompt = taught.base.prompts.encode("Which colours?", (picture("red"),) * count)
        counts.append(prompt.ids.count(taught.image))
        assert ("pixel_values" in prompt.extras) == (count > 0)
    assert counts == [0, counts[1], 2 * counts[1]]
    assert counts[1] >= 4


def test_an_adapter_is_trained_saved_and_loaded(taught: Taught, tmp_path: Path) -> None:
    base = taught.base
    before = base.open(LORA, "a").answer(PROBLEMS)
    student, other = base.open(LORA, "a"), base.open(LORA, "a")
    first = base.open(LORA.model_copy(update={"epochs": 1}), "a").train(EXAMPLES, seed=1, fresh=True)
    last = student.train(EXAMPLES, seed=1, fresh=True)
    assert last["loss"] < 0.8 * first["loss"]
    student.save(str(tmp_path))
    state = load_file(next(tmp_path.glob("*.safetensors")))
    assert any("lora_B" in name and value.abs().max() > 0 for name, value in state.items())
    other.load(str(tmp_path))
    answers = student.answer(PROBLEMS)
    assert other.answer(PROBLEMS) == answers != before
    for tenant in (student, other):
        tenant.close()


def test_a_whole_student_is_saved_and_loaded(taught: Taught, tmp_path: Path) -> None:
    taught.student.save(str(tmp_path))
    other = taught.base.open(FULL, "a")
    other.load(str(tmp_path))
    assert other.answer(PROBLEMS) == taught.student.answer(PROBLEMS) == ANSWERS
    resting = taught.base.open(FULL.model_copy(update={"epochs": 1, "learning_rate": 1e-12}), "a")
    resting.load(str(tmp_path))
    assert resting.train(EXAMPLES, seed=1, fresh=False)["loss"] <= 1.1 * taught.last


def test_control_tokens_that_a_text_spells_are_text(taught: Taught) -> None:
    base = taught.base
    spelled = f"{taught.family.image} and {base.tokenizer.eos_token}"
    images = (picture("red"),)
    encoded = base.encode(Example(f"Which {spelled}?", f"red {spelled}", images=images))
    assert encoded.prompt.count(taught.image) == base.prompts.encode("Which?", images).ids.count(taught.image)
    assert f"Which {spelled}?" in base.tokenizer.decode(encoded.prompt)
    assert base.tokenizer.decode(encoded.answer[:-1]) == f"red {spelled}"
    assert taught.image not in encoded.answer
    assert [i for i in encoded.answer if i in base.prompts.ends] == [encoded.answer[-1]]
    out, labels = logits(base.model, [encoded, base.encode(EXAMPLES[0])], base.tokenizer.pad_token_id)
    assert torch.isfinite(out[labels != IGNORED]).all()
    generate(base.model, [base.prompts.encode(spelled)], base.tokenizer.pad_token_id, base.prompts.ends, 2)


def test_prompts_are_saved_and_loaded(taught: Taught, tmp_path: Path) -> None:
    taught.base.prompts.save(tmp_path)
    (tmp_path / "config.json").write_text(taught.base.model.config.to_json_string())
    again = Prompts.load(str(tmp_path), True)
    for p in PROBLEMS:
        one, other = (prompts.encode(p.prompt, p.images) for prompts in (taught.base.prompts, again))
        assert one.ids == other.ids
        assert one.extras.keys() == other.extras.keys()
        assert all(torch.equal(one.extras[k], other.extras[k]) for k in one.extras)
    assert again.ends == taught.base.prompts.ends


def test_paligemma_is_asked_as_its_processor_asks(tmp_path: Path) -> None:
    tiny.paligemma(tmp_path, CORPUS)
    prompts = Prompts.load(str(tmp_path), True)
    processor = transformers.AutoProcessor.from_pretrained(tmp_path)
    shown = Image.open(io.BytesIO(picture("red")))
    for count in (1, 2):
        made = processor(text="<image>" * count + "Which colour?", images=[shown] * count, return_tensors="pt")
        prompt = prompts.encode("Which colour?", (picture("red"),) * count)
        assert list(prompt.ids) == made["input_ids"][0].tolist()
        assert torch.equal(prompt.extras["pixel_values"], made["pixel_values"])
    assert prompts.tokenizer.decode(prompts.encode("Which colour?").ids) == "<bos>Which colour?\n"
    batch = pad_batch([Encoded(prompt.ids, prompts.response("red"), prompt.extras)], 0)
    assert batch.extras["token_type_ids"][0].tolist() == [0] * len(prompt.ids) + [1] * (
        len(batch.ids[0]) - len(prompt.ids)
    )


def test_smolvlm_s_tiles_are_written_as_its_processor_writes_them(tmp_path: Path) -> None:
    tiny.smolvlm(tmp_path, CORPUS)
    prompts = Prompts.load(str(tmp_path), True)
    names = ("<fake_token_around_image>", "<image>", "<global-img>")
    for width, rows in ((32, 2), (64, 1)):
        prompt = prompts.encode("Which colour?", (picture("red", width),))
        expected = f"<|im_start|>User:{get_image_prompt_string(rows, 2, 4, *names)}Which colour?<end_of_utterance>\n"
        assert prompts.tokenizer.decode(prompt.ids) == expected + "Assistant:"
        assert prompt.extras["pixel_values"].shape[1] == rows * 2 + 1


def test_qwen_s_images_stand_between_their_marks_without_a_template_too(tmp_path: Path) -> None:
    tiny.qwen_vl(tmp_path, CORPUS)
    (tmp_path / "chat_template.json").unlink()
    prompts = Prompts.load(str(tmp_path), True)
    prompt = prompts.encode("Which colours?", (picture("red"), picture("blue")))
    image = "<|vision_start|>" + "<|image_pad|>" * 9 + "<|vision_end|>"
    assert prompts.tokenizer.decode(prompt.ids) == f"User:\n{image * 2}Which colours?\nAssistant:\n"
    assert prompt.extras["image_grid_thw"].shape == (2, 3)


def test_models_that_see_are_known_by_their_config() -> None:
    configs = (transformers.Qwen2VLConfig, transformers.PaliGemmaConfig, transformers.SmolVLMConfig)
    assert all(sees_images(config()) for config in (*configs, transformers.LlavaConfig))
    assert not sees_images(transformers.LlamaConfig())
    assert not hasattr(transformers.Qwen2VLConfig().vision_config, "image_size")


def test_a_folder_without_a_processor_says_so(tmp_path: Path) -> None:
    tiny.qwen_vl(tmp_path, CORPUS)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(StudentError):
        Base(str(tmp_path), digest="x")
