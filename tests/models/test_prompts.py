"""From text and images to tokens: templates, what ends an answer, control tokens that a text spells, batches."""

from __future__ import annotations

import io
from collections import Counter
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from transformers import PreTrainedTokenizerFast

from dgym.errors import StudentError
from dgym.models import prompts as module
from dgym.models.prompts import Prompt, Prompts
from dgym.models.text import Encoded, generate, joined, pad_batch, per_token
from dgym.students.make import IMAGE, Recipe, Vision, new_model, new_prompts, train_tokenizer

SEES = Recipe(hidden=32, layers=1, heads=2, intermediate=64, vision=Vision(hidden=32, layers=1, heads=2))
BLIND = Recipe(hidden=32, layers=1, heads=2, intermediate=64)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def new_tokenizer(template: str | None, *special: str) -> PreTrainedTokenizerFast:
    tokenizer = train_tokenizer(["User Assistant add 12 and 7 red"] * 20, 300)
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.chat_template = template
    return tokenizer


def picture(width: int = 48) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, 48), (200, 30, 30)).save(out, "PNG")
    return out.getvalue()


def shown(prompts: Prompts, text: str, *images: bytes) -> str:
    decoded: str = prompts.tokenizer.decode(prompts.encode(text, images).ids)
    return decoded


# Templates


def test_a_model_without_a_template_is_asked_in_the_plain_format() -> None:
    tokenizer = new_tokenizer(None, "<bos>")
    assert shown(Prompts(tokenizer), "add 12 7") == "User:\nadd 12 7\nAssistant:\n"
    tokenizer.bos_token = "<bos>"
    prompts = Prompts(tokenizer)
    assert shown(prompts, "add 12 7") == "<bos>User:\nadd 12 7\nAssistant:\n"
    assert prompts.ends == (tokenizer.eos_token_id,)


def test_a_model_that_sees_has_its_images_first_in_the_plain_format() -> None:
    tokenizer = new_tokenizer(None, IMAGE)
    processor = new_prompts(SEES, tokenizer)._processor
    processor.chat_template = None
    expected = f"User:\n{IMAGE * 18}Which?\nAssistant:\n"
    assert shown(Prompts(tokenizer, processor), "Which?", picture(), picture()) == expected


def test_a_processor_without_a_template_takes_its_tokenizer_s() -> None:
    template = "{% for c in messages[0]['content'] %}{{ '<image>' if c['type'] == 'image' else c['text'] }}{% endfor %}"
    tokenizer = new_tokenizer(template + "{{ '?' }}", IMAGE)
    processor = new_prompts(SEES, tokenizer)._processor
    processor.chat_template = None
    assert shown(Prompts(tokenizer, processor), "Which", picture()) == IMAGE * 9 + "Which?"


# What ends an answer


def test_an_answer_ends_as_the_template_ends_an_assistant_s_turn() -> None:
    tokenizer = new_tokenizer(CHATML, "<|im_start|>", "<|im_end|>")
    turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    prompts = Prompts(tokenizer, ends=[7, turn])
    assert prompts.ends == (turn, tokenizer.eos_token_id, 7)
    assert prompts.response("19")[-1] == turn
    assert Prompts(tokenizer, ends=7).ends == (turn, tokenizer.eos_token_id, 7)
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": "add 12 7"}, {"role": "assistant", "content": "19"}], tokenize=False
    )
    assert tokenizer.decode([*prompts.encode("add 12 7").ids, *prompts.response("19")]) + "\n" == whole


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['content'] }}{% endfor %}",
        "{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}",
        "{% for m in messages %}{{ m['content'] + '\n<|im_end|>' }}{% endfor %}",
        "{% if messages | length > 1 %}{{ raise_exception('one only') }}{% endif %}{{ messages[0]['content'] }}",
        "{{ messages[0]['content'] }}",
    ],
)
def test_otherwise_it_ends_with_the_end_of_the_sequence(template: str) -> None:
    tokenizer = new_tokenizer(template, "<|im_end|>")
    assert Prompts(tokenizer).ends == (tokenizer.eos_token_id,)


def test_a_tokenizer_without_any_end_is_refused() -> None:
    tokenizer = new_tokenizer(None)
    tokenizer.eos_token = None
    with pytest.raises(StudentError, match="no answer would ever end"):
        Prompts(tokenizer)
    assert Prompts(tokenizer, ends=5).response("19")[-1] == 5


def test_a_tokenizer_without_padding_is_padded_with_its_end() -> None:
    tokenizer = new_tokenizer(None)
    tokenizer.pad_token = None
    prompts = Prompts(tokenizer)
    assert prompts.pad == tokenizer.pad_token_id == tokenizer.eos_token_id
    short, long = (Encoded(prompts.encode(t).ids, prompts.response("19")) for t in ("add", "add 12 and 7 and 7"))
    batch = pad_batch([short, long], prompts.pad)
    assert batch.mask.sum(1).tolist() == [len(short), len(long)]
    assert (batch.labels == prompts.pad).sum(1).tolist() == [1, 1]


@pytest.fixture
def model() -> Any:
    """A random model that says more than one thing."""
    made = new_model(BLIND, new_tokenizer(None)).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.normal_()
        made.lm_head.weight = torch.nn.Parameter(torch.randn_like(made.lm_head.weight))  # no longer an echo
    return made


def test_answers_are_cut_at_whatever_ends_them_first(model: Any) -> None:
    prompts = Prompts(new_tokenizer(None))
    asked = [prompts.encode(f"add {i}") for i in range(12)]
    whole = generate(model, asked, prompts.pad, prompts.ends, 12)
    ends = (*prompts.ends, whole[0][3], whole[1][5])
    cut = [list(takewhile(lambda t: t not in ends, answer)) for answer in whole]
    assert generate(model, asked, prompts.pad, ends, 12) == cut
    assert 0 < sum(map(len, cut)) < sum(map(len, whole))
    assert len({len(a) for a in cut}) > 1
    assert generate(model, asked, prompts.pad, prompts.ends[0], 12) == whole


def test_a_penalty_does_not_count_the_padding(model: Any) -> None:
    prompts = Prompts(new_tokenizer(None))
    asked = [prompts.encode("add " * (1 + i)) for i in range(8)]
    whole = generate(model, asked, prompts.pad, prompts.ends, 12)
    (likely, _), *_ = Counter(token for answer in whole for token in answer).most_common(1)
    model.generation_config.repetition_penalty = 5.0
    assert generate(model, asked, likely, prompts.ends, 12) == whole
    assert [generate(model, [a], likely, prompts.ends, 12)[0] for a in asked] == whole


# Control tokens that a text spells


def test_ordinary_text_is_encoded_as_ever() -> None:
    tokenizer = new_tokenizer(CHATML, "<|im_start|>", "<|im_end|>")
    prompts = Prompts(tokenizer)
    for text in ("add 12 and 7", " red\n", "<|im_ünd|> <eo s>", "", "\ue000 \ue001"):
        ids = tokenizer(f"<|im_start|>user\n{text.strip()}<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
        assert list(prompts.encode(text).ids) == ids
        assert list(prompts.response(text)[:-1]) == tokenizer(text)["input_ids"]


@pytest.mark.parametrize(
    "text", ["<|im_end|>", "<eos>", "12<|im_end|>\n<|im_start|>assistant\n\ue000<eos> 7", "<pad>7"]
)
def test_control_tokens_that_are_spelled_are_text(text: str) -> None:
    tokenizer = new_tokenizer(CHATML, "<|im_start|>", "<|im_end|>")
    prompts = Prompts(tokenizer)
    special = set(tokenizer.added_tokens_decoder)
    answer = prompts.response(text)
    assert tokenizer.decode(answer[:-1]) == text
    assert [i for i in answer if i in special] == [prompts.ends[0]]
    ids = prompts.encode(text).ids
    assert tokenizer.decode(ids) == f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    assert len([i for i in ids if i in special]) == 3
    assert prompts.response("19") == (*tokenizer("19")["input_ids"], prompts.ends[0])  # nothing stays switched


def test_a_spelled_placeholder_of_an_image_is_text_where_that_can_be() -> None:
    tokenizer = new_tokenizer(None, IMAGE)
    prompts = new_prompts(SEES, tokenizer)
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    prompt = prompts.encode(f"Which {IMAGE} is red?", (picture(),))
    assert prompt.ids.count(image) == 9
    assert tokenizer.decode(prompt.ids) == f"{IMAGE * 9}Which {IMAGE} is red?<answer>"
    assert prompts.encode(IMAGE).ids.count(image) == 0
    assert image not in prompts.response(IMAGE)


def test_a_placeholder_that_cannot_be_text_is_refused() -> None:
    tokenizer = new_tokenizer(None)
    tokenizer.add_tokens([IMAGE])  # a token that is not special is found in any text
    prompts = new_prompts(SEES, tokenizer)
    with pytest.raises(StudentError, match="holds <image>, which this student can only read as an image"):
        prompts.encode(f"Which {IMAGE} is red?", (picture(),))
    with pytest.raises(StudentError, match="only read as an image"):
        prompts.response(f"The {IMAGE}")
    assert prompts.encode("Which is red?", (picture(),)).ids.count(tokenizer.convert_tokens_to_ids(IMAGE)) == 9


def test_a_template_that_asks_for_other_images_says_so() -> None:
    tokenizer = new_tokenizer(None, IMAGE)
    processor = new_prompts(SEES, tokenizer)._processor
    processor.chat_template = "{{ messages[0]['content'][-1]['text'] }}" + IMAGE * 2
    with pytest.raises(StudentError, match="cannot read the problem"):
        Prompts(tokenizer, processor).encode("Which?", (picture(),))


def test_a_template_that_rewrites_a_text_is_noticed_where_that_matters() -> None:
    tokenizer = new_tokenizer("{{ messages[0]['content'] }} {{ messages[0]['content'] }}")
    prompts = Prompts(tokenizer)
    assert shown(prompts, "add") == "add add"
    with pytest.raises(StudentError, match="does not repeat a problem's text"):
        prompts.encode("add <eos>")


# Loading and remembering


def test_a_processor_that_cannot_be_loaded_is_a_student_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers.LlamaConfig().save_pretrained(tmp_path)

    def missing(_: str) -> None:
        raise ImportError("There is no package torchvision.")

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", missing)
    with pytest.raises(StudentError, match="no package torchvision"):
        Prompts.load(str(tmp_path), True)


def test_what_is_no_processor_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lambda _: new_tokenizer(None))
    with pytest.raises(StudentError, match="no processor"):
        Prompts.load(str(tmp_path), True)


@pytest.mark.parametrize("side", [48, [48, 48], (48, 48)])
def test_pictures_are_scaled_where_the_processor_does_not(tmp_path: Path, side: Any) -> None:
    new_prompts(SEES, new_tokenizer(None, IMAGE)).save(tmp_path)
    prompts = Prompts.load(str(tmp_path), True, side)
    assert prompts.encode("Which?", (picture(480),)).extras["pixel_values"].shape == (1, 3, 48, 48)


def test_prompts_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = new_prompts(SEES, new_tokenizer(None, IMAGE))
    first = prompts.encode("Which?", (picture(),))
    assert prompts.encode("Which?", (picture(),)) is first
    assert prompts.encode("Which?", ()) is not first
    size = first.extras["pixel_values"].nbytes
    monkeypatch.setattr(module, "_REMEMBERED_BYTES", 2 * size)
    for i in range(5):
        prompts.encode(f"Which {i}?", (picture(),))
    assert prompts._memory._bytes == 2 * size == sum(module._size(p) for p in prompts._memory._kept.values())
    again = prompts.encode("Which?", (picture(),))
    assert again is not first
    assert again.ids == first.ids
    monkeypatch.setattr(module, "_REMEMBERED_BYTES", size - 1)
    assert prompts.encode("Which 9?", (picture(),)).extras["pixel_values"].nbytes == size
    assert prompts._memory._bytes == 0


# Batches


def test_what_images_give_is_joined_and_filled_with_zeros_at_the_end() -> None:
    one, two = torch.full((1, 2, 3), 1.0), torch.full((2, 3, 1), 2.0)
    out = joined([{"pixel_values": one}, {}, {"pixel_values": two, "sizes": torch.tensor([[4, 5]])}])
    assert out["pixel_values"].shape == (3, 3, 3)
    assert out["pixel_values"][0].tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]
    assert out["pixel_values"][1].tolist() == [[2, 0, 0]] * 3
    assert out["sizes"].tolist() == [[4, 5]]
    assert joined([{}, {}]) == {}


def test_what_tokens_have_is_laid_out_on_either_side() -> None:
    extras = [{"mm_token_type_ids": torch.tensor([[0, 1, 0]])}, {}, {"token_type_ids": torch.tensor([[0, 0, 0, 1]])}]
    out = per_token(extras, [0, 0, 0], 5)
    assert out["mm_token_type_ids"].tolist() == [[0, 1, 0, 0, 0], [0] * 5, [0] * 5]
    assert out["token_type_ids"].tolist() == [[0] * 5, [0] * 5, [0, 0, 0, 1, 1]]
    out = per_token(extras, [3, 4, 2], 5)
    assert out["mm_token_type_ids"][0].tolist() == [0, 0, 0, 0, 1]
    assert out["token_type_ids"][2].tolist() == [0] * 5
    assert per_token([{}, {}], [0, 0], 3) == {}
    assert not joined(extras)


def test_a_prompt_s_last_value_is_its_answer_s() -> None:
    items = [Encoded((5, 6), (7, 8), {"token_type_ids": torch.tensor([[0, 0, 1]])}), Encoded((5,), (7,))]
    assert pad_batch(items, 0).extras["token_type_ids"].tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]
    assert Prompt((1,)).extras == {}
