"""Tiny models with random weights, one of each family: they know nothing and run everywhere.

A suite at `--scale tiny` has them in place of its students, so that everything around a student is exercised as it is
with the real one: its family's architecture, chat template and image processor. `tiny:FAMILY` is also a student by
itself. A model is made once, from a fixed seed, and kept in the cache.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from dgym.cache import cache_folder
from dgym.errors import InfrastructureError, one_line, unknown_name
from dgym.models.load import Place, locate
from dgym.students.pretrained import Pretrained

VERSION: Final = "1"
"""Bumped whenever other models would be made."""

_TEXTS: Final = (
    "Solve the following problem step by step. How many are left? The final answer is 42. What is the value of x?",
    "Answer the question using a single word or phrase. Is the man on the left side of the picture? yes no",
    "def solve(numbers):\n    return [n for n in numbers if n > 0]\n\nfor line in lines:\n    print(len(line))\n",
    '[{"name": "get_weather", "parameters": {"type": "dict", "properties": {"city": {"type": "string"}}}}]',
)
"""What their tokenizers are trained on: texts of the kinds that they will see. Any other falls apart into bytes."""

_VOCABULARY: Final = 500


_QWEN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in c %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] | trim }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<start_of_image>{% else %}{{ c['text'] | trim }}{% endif %}{% endfor %}{% endif %}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_SMOLVLM_TEMPLATE = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}{% if m['content'][0]['type'] == 'image' %}"
    "{{ ':' }}{% else %}{{ ': ' }}{% endif %}{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}"
    "{% elif c['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


@dataclass(frozen=True)
class Corpus:
    """What the tokenizers of tiny models are trained on.

    Attributes:
        texts: The texts.
        size: Entries of the vocabulary, special ones aside.
    """

    texts: Sequence[str]
    size: int = _VOCABULARY

    def tokenizer(self, *special: str, eos: str | None = None) -> Any:
        """Trains a tokenizer without a chat template."""
        from dgym.students.make import train_tokenizer

        tokenizer = train_tokenizer(self.texts, self.size)
        tokenizer.chat_template = None
        tokenizer.model_max_length = 4096
        tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
        if eos is not None:
            tokenizer.eos_token = eos
        return tokenizer


def _text_config(kind: type[Any], tokenizer: Any, **more: Any) -> Any:
    return kind(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        initializer_range=0.1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        **more,
    )


def _write(folder: Path, model: Any, parts: Sequence[Any], processor: str, template: str | None = None) -> None:
    """Saves a model with its tokenizer and image processor, and names the processor, as hub repositories do."""
    model.save_pretrained(folder)
    for part in parts:
        part.save_pretrained(folder)
    settings = folder / "preprocessor_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"processor_class": processor}))
    if template is not None:
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))


def causal(folder: Path, corpus: Corpus, family: str = "Llama") -> None:
    """Makes a text model: Llama, Gemma2, Qwen2, Mistral, ..."""
    import transformers

    gemma = family.startswith("Gemma")
    tokenizer = corpus.tokenizer(
        *(("<bos>", "<start_of_turn>", "<end_of_turn>") if gemma else ("<|im_start|>", "<|im_end|>"))
    )
    if gemma:
        tokenizer.bos_token = "<bos>"
        tokenizer.chat_template = _GEMMA_TEMPLATE
    else:
        tokenizer.eos_token = "<|im_end|>"
        tokenizer.chat_template = _QWEN_TEMPLATE
    config = _text_config(getattr(transformers, f"{family}Config"), tokenizer, head_dim=16)
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def paligemma(folder: Path, corpus: Corpus, text: str = "Gemma") -> None:
    """Makes a PaliGemma, of the first version or the second."""
    import transformers

    tokenizer = corpus.tokenizer("<image>", "<bos>")
    tokenizer.bos_token = "<bos>"
    images = transformers.SiglipImageProcessorPil(size={"height": 16, "width": 16})
    images.image_seq_length = 4
    config = transformers.PaliGemmaConfig(
        text_config=_text_config(getattr(transformers, f"{text}Config"), tokenizer, head_dim=16),
        vision_config=transformers.SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
            vision_use_head=False,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
        vocab_size=len(tokenizer),
    )
    model = transformers.PaliGemmaForConditionalGeneration(config)
    transformers.PaliGemmaProcessor(images, tokenizer).save_pretrained(folder)
    model.save_pretrained(folder)


_EYES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}


def gemma3(folder: Path, corpus: Corpus) -> None:
    """Makes a Gemma 3: an answer ends with the turn, which is not the tokenizer's end of a sequence."""
    import transformers
    from transformers import PreTrainedTokenizerFast

    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    plain = corpus.tokenizer("<bos>", "<start_of_turn>", "<end_of_turn>", *named.values())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        extra_special_tokens=named,
    )
    config = transformers.Gemma3Config(
        text_config=_text_config(transformers.Gemma3TextConfig, tokenizer, head_dim=16).to_dict(),
        vision_config={**_EYES, "vision_use_head": False},
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
    )
    model = transformers.Gemma3ForConditionalGeneration(config)
    images = transformers.Gemma3ImageProcessorPil(size={"height": 16, "width": 16})
    processor = transformers.Gemma3Processor(images, tokenizer, chat_template=_GEMMA_TEMPLATE, image_seq_length=4)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)


def qwen_vl(folder: Path, corpus: Corpus, version: str = "2") -> None:
    """Makes a Qwen-VL of version 2, 2_5 or 3."""
    import transformers

    names = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = corpus.tokenizer(*names, eos="<|im_end|>")
    size = {"shortest_edge": 16 * 16, "longest_edge": 24 * 24}
    images = transformers.Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size=size)
    eyes: dict[str, Any] = {"depth": 1, "num_heads": 2, "patch_size": 4, "hidden_size": 32, "initializer_range": 0.1}
    if version == "2":
        eyes |= {"embed_dim": 32, "mlp_ratio": 2}
    elif version == "2_5":
        eyes |= {"intermediate_size": 64, "out_hidden_size": 32, "window_size": 16, "fullatt_block_indexes": [0]}
    else:
        eyes |= {"intermediate_size": 64, "out_hidden_size": 32, "num_position_embeddings": 64}
        eyes |= {"deepstack_visual_indexes": [0]}
    family = f"Qwen{version}_VL" if version == "2_5" else f"Qwen{version}VL"
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10_000.0}
    kind = getattr(transformers, f"{family}TextConfig")
    config = getattr(transformers, f"{family}Config")(
        text_config=_text_config(kind, tokenizer, rope_parameters=rope, head_dim=16).to_dict(),
        vision_config=eyes,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    _write(folder, model, (tokenizer, images), f"{family}Processor", _QWEN_TEMPLATE)


def smolvlm(folder: Path, corpus: Corpus, family: str = "SmolVLM") -> None:
    """Makes a SmolVLM or an Idefics3."""
    import transformers

    names = ["<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>"]
    names += [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    tokenizer = corpus.tokenizer(*names, eos="<end_of_utterance>")
    kind = getattr(transformers, f"{family}ImageProcessorPil")
    # Wide images are cut into tiles, square ones are not.
    images = kind(size={"longest_edge": 32}, max_image_size={"longest_edge": 16}, do_image_splitting=True)
    config = getattr(transformers, f"{family}Config")(
        text_config=_text_config(transformers.LlamaConfig, tokenizer),
        vision_config={**_EYES, "initializer_range": 0.1},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    _write(folder, model, (tokenizer, images), f"{family}Processor", _SMOLVLM_TEMPLATE)
    settings = {"image_seq_len": 4, "processor_class": f"{family}Processor"}
    (folder / "processor_config.json").write_text(json.dumps(settings))


FAMILIES: Final[Mapping[str, Callable[[Path, Corpus], None]]] = {
    "llama": causal,
    "gemma2": partial(causal, family="Gemma2"),
    "qwen2": partial(causal, family="Qwen2"),
    "mistral": partial(causal, family="Mistral"),
    "paligemma": paligemma,
    "paligemma2": partial(paligemma, text="Gemma2"),
    "gemma3": gemma3,
    "qwen2-vl": qwen_vl,
    "qwen2.5-vl": partial(qwen_vl, version="2_5"),
    "qwen3-vl": partial(qwen_vl, version="3"),
    "smolvlm": smolvlm,
    "idefics3": partial(smolvlm, family="Idefics3"),
}
"""How a model of each family is made."""


def family_of(student: str, *, sees: bool = False) -> str:
    """Returns the family that a student's name tells, the nearest where it tells none.

    Args:
        student: Such as `"google/gemma-2-2b-it"`.
        sees: Whether it is asked about images.
    """
    name = student.lower().replace("_", "-")
    squeezed = name.replace("-", "")
    for family in sorted(FAMILIES, key=len, reverse=True):
        if family.replace("-", "") in squeezed:
            return family
    if "gemma" in name and not sees:
        return "gemma2"
    if "qwen" in name:
        return "qwen2-vl" if sees else "qwen2"
    return "paligemma" if sees else "llama"


def tiny() -> TinyFamily:
    """Tiny random models for trying things out: `tiny:llama`, `tiny:gemma2`, `tiny:paligemma`, ..."""
    return TinyFamily()


@dataclass(frozen=True)
class TinyFamily(Pretrained):
    """Tiny models with random weights.

    Attributes:
        name: Registered name.
        variants: The families.
        recipe: Preset with which they are trained where nothing else is said.
    """

    name: str = "tiny"
    variants: tuple[str, ...] = tuple(FAMILIES)
    recipe: str = "pretrained"

    def draw(self, seed: int) -> str:
        """Draws the plainest one, whatever the seed."""
        return self.variants[0]

    def digest(self, variant: str) -> str:
        """Identifies the weights by what they are made from."""
        self.check(variant)
        return f"tiny-{variant}-{VERSION}"

    def check(self, variant: str) -> None:
        """Checks that there is such a family; nothing is made yet."""
        if variant not in FAMILIES:
            raise unknown_name("family of tiny students", variant, FAMILIES)

    def bytes(self, variant: str, precision: str) -> int:
        """Returns about how much memory the weights take: one megabyte."""
        return 1_000_000

    def locate(self, variant: str) -> Place:
        """Finds a model, and makes it first where it is not there.

        Raises:
            UsageError: If there is no such family.
            InfrastructureError: If it cannot be written.
        """
        self.check(variant)
        folder = cache_folder() / "students" / f"tiny-{variant}-{VERSION}"
        if not (folder / "config.json").is_file():
            _make(variant, folder)
        return locate(str(folder))


def _make(variant: str, folder: Path) -> None:
    import torch

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial_ = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".partial-"))
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                FAMILIES[variant](partial_, Corpus(_TEXTS))
            if not folder.exists():
                partial_.rename(folder)
        finally:
            shutil.rmtree(partial_, ignore_errors=True)
    except OSError as error:
        if folder.exists():
            return  # another process was faster
        raise InfrastructureError(
            f"The student 'tiny:{variant}' cannot be made in {folder}: {one_line(error)}."
        ) from error
