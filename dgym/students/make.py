"""Makes the small students that ship: tokenizer, common base, variants, card.

    python -m dgym.students.make math base --minutes 55
    python -m dgym.students.make math variant a

A base is trained from scratch on the train split of a domain's own generators. A variant goes on from it with
another mixture: skills that are left out are *forgotten*, skills that are kept stay *strong*, and skills that
had little of the base's time stay *hard*. What decides the mixture is a set of target accuracies: the further a
skill is below its target, the more of the next minute it gets. Accuracy is measured on a part of the train
split that is held back here; no problem of another split is ever seen.

What this module does not know: dgym's episodes, LoRA, Ray. It is no part of a benchmark run.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from dgym.core import Example, derive_seed
from dgym.domains import make_domain
from dgym.models.prompts import Prompts, open_image
from dgym.models.text import Batch, Encoded, pad_batch

SEED = 20_241_006
"""Of the order of training; data and weights derive their seeds from names (`derive_seed("make", ...)`)."""

CARD = "card.json"

IMAGE = "<image>"
"""The token that stands for one patch of an image."""

CHECK_PER_SKILL = 100
"""Problems of the train split, per skill, that are held back to measure a student."""

GLANCE_PER_SKILL = 40
"""How many of them are asked to steer the mixture."""


_PHRASES = r"[0-9]|[A-Za-z][A-Za-z\s,.:;'()/-]*[A-Za-z][:.?]?\s?|"
ONE_SYMBOL = _PHRASES + r" ?[^0-9A-Za-z\s] ?|\s"
"""What may become one token: a digit, a phrase, a symbol."""
SYMBOLS = _PHRASES + r"[^0-9A-Za-z]+"
"""The same, with runs of symbols and white space, of which programs are full."""


@dataclass(frozen=True)
class Recipe:
    """How a domain's students are made.

    Attributes:
        hidden, layers, heads, intermediate, vocabulary: The shape of the model.
        pieces: Regular expression of what may become one token.
        pool: Training problems drawn per skill.
        batch: Examples per step.
        base: Target accuracy per skill for the common base, which may learn kinds that the domain does not test.
        variants: The profiles of the variants.
        vision: The shape of the eyes, for students that see.
        every: Seconds between measurements of a variant.
        noise: Whether kinds off the domain have wrong answers in `u`: what can be learnt to the end disturbs nothing.
    """

    hidden: int = 144
    layers: int = 4
    heads: int = 4
    intermediate: int = 384
    vocabulary: int = 1024
    pieces: str = ONE_SYMBOL
    pool: int = 60_000
    batch: int = 64
    base: Mapping[str, float] = field(default_factory=dict)
    variants: Mapping[str, Variant] = field(default_factory=dict)
    vision: Vision | None = None
    every: float = 12.0
    noise: bool = False


@dataclass(frozen=True)
class Vision:
    """A small vision transformer; its patches are what the language model reads as image tokens.

    Attributes:
        size: Width and height of an image, in pixels.
        patch: Width and height of a patch, in pixels.
        hidden, layers, heads, intermediate: The shape of the model.
    """

    size: int = 48
    patch: int = 16
    hidden: int = 128
    layers: int = 2
    heads: int = 4
    intermediate: int = 256

    @property
    def tokens(self) -> int:
        """Image tokens in a prompt."""
        return (self.size // self.patch) ** 2


@dataclass(frozen=True)
class Variant:
    """A profile of strengths and weaknesses.

    Attributes:
        strong: Skills kept at a high accuracy.
        forgotten: Skills left out until their accuracy has fallen.
        hard: Skills of which the base has learnt little, and which are left out.
        half: Skills brought to the accuracy `aim`, from above or below.
        soak: Kinds off the domain that are always in the mixture, so that all others may fall.
        aim: See `half`.
        minutes: Longest time.
        rate: Learning rate, as in `Maker.run`; the higher, the faster a skill is forgotten.
        settle: Whether the rate falls to 0 over the minutes, so that accuracies stop swinging about their targets.
    """

    strong: tuple[str, ...] = ()
    forgotten: tuple[str, ...] = ()
    hard: tuple[str, ...] = ()
    half: tuple[str, ...] = ()
    soak: tuple[str, ...] = ()
    aim: float = 0.5
    minutes: float = 6.0
    rate: float = 3e-4
    settle: bool = False

    def targets(self, skills: Sequence[str]) -> dict[str, float]:
        """Returns the accuracy aimed at, per skill of the base; what has no place is left out."""
        kinds = (
            (self.strong, STRONG),
            (self.forgotten, FORGOTTEN),
            (self.hard, 0.0),
            (self.half, self.aim),
            (self.soak, ALWAYS),
        )
        return dict.fromkeys(skills, 0.0) | {name: aim for names, aim in kinds for name in names}

    def miss(self, accuracy: Mapping[str, float]) -> float:
        """How far skills together are from where the profile wants them; 0 if there.

        Half-learnt ones count only where all are to be so: beside others, they are only asked for.
        """
        if not self.strong:
            return sum(max(0.0, abs(accuracy[s] - self.aim) - 0.1) for s in self.half)
        short = sum(max(0.0, 0.85 - accuracy[s]) for s in self.strong)
        return short + sum(max(0.0, accuracy[s] - 0.42) for s in (*self.forgotten, *self.hard))


STRONG, FORGOTTEN, ALWAYS = 0.95, 0.28, 1.2

_QUICK = (
    "chain_sum",
    "decimal_chain_sum",
    "simple_equations",
    "simple_geometry",
    "gcd",
    "number_filtering",
    "leg_counting",
)
_SLOW = ("time_intervals", "count_primes", "fraction_simplification")
_OUTSIDE = ("base_conversion",)

_VQA_QUICK = ("exists", "query-colour", "query-shape", "choose", "count", "position", "logical", "verify")
_VQA_SLOW = ("compare", "relation")
_VQA_OUTSIDE = ("spelling",)

_TOOLS_QUICK = (
    "convert",
    "alarm",
    "resize",
    "tip",
    "locate+weather",
    "scan+translate",
    "transcribe+summarize",
    "hotel+convert",
    "news+summarize+mail",
    "free+schedule+invite",
    "crop+blur+share",
    "locate+find+distance",
)
_TOOLS_SLOW = (
    "read+translate+speak+save",
    "song+trim+tempo+play",
    "stock+stock+subtract+mail",
    "recipe+basket+coupon+deliver",
)
_TOOLS_OUTSIDE = ("taxi",)

_CODE_QUICK = (
    "arithmetic",
    "conditionals",
    "strings",
    "lists",
    "comprehensions",
    "aggregates",
    "dictionaries",
    "sets",
    "nested",
)
_CODE_SLOW = ("loops", "recursion", "sorting")
_CODE_OUTSIDE = ("evaluate",)

RECIPES: dict[str, Recipe] = {
    "code": Recipe(
        vocabulary=1280,
        pieces=SYMBOLS,
        pool=30_000,
        every=25.0,
        base={**dict.fromkeys(_CODE_QUICK, 1.0), **dict.fromkeys((*_CODE_SLOW, *_CODE_OUTSIDE), 0.03)},
        variants={
            "a": Variant(
                strong=("arithmetic", "conditionals", "lists", "comprehensions", "sets"),
                forgotten=("aggregates", "nested", "dictionaries"),
                hard=("loops", "recursion"),
                half=("strings", "sorting"),
            ),
            "b": Variant(
                strong=("arithmetic", "lists", "aggregates", "nested", "strings"),
                forgotten=("conditionals", "sets", "comprehensions"),
                hard=("recursion", "sorting"),
                half=("dictionaries", "loops"),
            ),
            "c": Variant(
                strong=("conditionals", "comprehensions", "aggregates", "dictionaries", "sets"),
                forgotten=("arithmetic", "lists", "nested"),
                hard=("loops", "sorting"),
                half=("strings", "recursion"),
            ),
            "u": Variant(half=_CODE_QUICK + _CODE_SLOW, soak=_CODE_OUTSIDE, minutes=6.0, settle=True),
        },
    ),
    "tools": Recipe(
        noise=True,
        vocabulary=2048,
        pieces=SYMBOLS,
        pool=15_000,
        every=20.0,
        base={**dict.fromkeys(_TOOLS_QUICK, 1.0), **dict.fromkeys((*_TOOLS_SLOW, *_TOOLS_OUTSIDE), 0.03)},
        variants={
            "a": Variant(
                strong=(
                    "convert",
                    "alarm",
                    "locate+weather",
                    "scan+translate",
                    "news+summarize+mail",
                    "crop+blur+share",
                ),
                forgotten=("resize", "hotel+convert", "free+schedule+invite", "locate+find+distance"),
                hard=("read+translate+speak+save", "song+trim+tempo+play"),
                half=("tip", "transcribe+summarize", "stock+stock+subtract+mail", "recipe+basket+coupon+deliver"),
                soak=_TOOLS_OUTSIDE,
                rate=5e-4,
                minutes=8.0,
            ),
            "b": Variant(
                strong=(
                    "resize",
                    "tip",
                    "hotel+convert",
                    "transcribe+summarize",
                    "free+schedule+invite",
                    "locate+find+distance",
                ),
                forgotten=("alarm", "scan+translate", "news+summarize+mail", "crop+blur+share"),
                hard=("stock+stock+subtract+mail", "recipe+basket+coupon+deliver"),
                half=("convert", "locate+weather", "read+translate+speak+save", "song+trim+tempo+play"),
                soak=_TOOLS_OUTSIDE,
                rate=5e-4,
                minutes=8.0,
            ),
            "c": Variant(
                strong=(
                    "convert",
                    "resize",
                    "scan+translate",
                    "hotel+convert",
                    "crop+blur+share",
                    "free+schedule+invite",
                ),
                forgotten=("tip", "locate+weather", "transcribe+summarize", "news+summarize+mail"),
                hard=("read+translate+speak+save", "recipe+basket+coupon+deliver"),
                half=("alarm", "locate+find+distance", "song+trim+tempo+play", "stock+stock+subtract+mail"),
                soak=_TOOLS_OUTSIDE,
                rate=5e-4,
                minutes=8.0,
            ),
            "u": Variant(half=_TOOLS_QUICK + _TOOLS_SLOW, soak=_TOOLS_OUTSIDE, aim=0.55, rate=8e-4, minutes=6.0),
        },
    ),
    "vqa": Recipe(
        vocabulary=512,
        pool=15_000,
        batch=96,
        vision=Vision(),
        every=20.0,
        base={**dict.fromkeys(_VQA_QUICK, 1.0), **dict.fromkeys(_VQA_SLOW, 0.55), **dict.fromkeys(_VQA_OUTSIDE, 0.03)},
        # Where half of the answers are yes, half-learnt is more than a half.
        variants={
            "a": Variant(
                strong=("exists", "verify", "logical", "count"),
                forgotten=("query-colour", "query-shape", "choose"),
                hard=("relation",),
                half=("position", "compare"),
                aim=0.65,
                rate=6e-4,
            ),
            "b": Variant(
                strong=("exists", "query-colour", "verify", "logical"),
                forgotten=("query-shape", "count"),
                hard=("compare",),
                half=("choose", "position", "relation"),
                aim=0.65,
                rate=6e-4,
            ),
            "c": Variant(
                strong=("query-colour", "query-shape", "choose", "count"),
                forgotten=("exists", "verify", "logical"),
                hard=("relation", "compare"),
                half=("position",),
                aim=0.65,
                rate=6e-4,
            ),
            "u": Variant(half=_VQA_QUICK + _VQA_SLOW, soak=_VQA_OUTSIDE, aim=0.65, minutes=8.0),
        },
    ),
    "math": Recipe(
        base={**dict.fromkeys(_QUICK, 1.0), **dict.fromkeys((*_SLOW, *_OUTSIDE), 0.25)},
        variants={
            "a": Variant(
                strong=("chain_sum", "decimal_chain_sum", "simple_equations", "time_intervals"),
                forgotten=("simple_geometry", "number_filtering", "leg_counting"),
                hard=("count_primes",),
                half=("gcd", "fraction_simplification"),
                rate=2e-4,
            ),
            "b": Variant(
                strong=("chain_sum", "decimal_chain_sum", "simple_equations", "number_filtering"),
                forgotten=("simple_geometry", "leg_counting", "time_intervals"),
                hard=("fraction_simplification",),
                half=("gcd", "count_primes"),
            ),
            "c": Variant(
                strong=("chain_sum", "decimal_chain_sum", "simple_geometry", "leg_counting"),
                forgotten=("simple_equations", "number_filtering", "time_intervals"),
                hard=("count_primes", "fraction_simplification"),
                half=("gcd",),
            ),
            "u": Variant(half=_QUICK + _SLOW, soak=_OUTSIDE, minutes=5.0, settle=True),
        },
    ),
}


def train_tokenizer(texts: Sequence[str], size: int, pieces: str = ONE_SYMBOL) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE whose merges may span words but never digits.

    The sentences of procedural problems repeat, so whole phrases become one token, while every digit stays
    alone and any other text still falls apart into bytes.
    """
    tokenizer = Tokenizer(models.BPE())
    phrases = Regex(pieces)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(phrases, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<pad>", "<eos>", "<answer>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left", model_max_length=256
    )
    # The one prompt path of every student: the problem, then the mark after which the answer stands.
    fast.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<answer>' + m['content'] + '<eos>' }}"
        "{% else %}{{ m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<answer>' }}{% endif %}"
    )
    return fast


def draw(domain: Any, skill: str, count: int) -> tuple[list[Example], list[Example]]:
    """Draws held-back and training examples of a skill from the train split; the two share no fingerprint.

    Small skills repeat a problem, in other sentences or in the other order of its operands.
    """
    held = domain.fresh(skill, CHECK_PER_SKILL, derive_seed("make", skill, "held"))
    hidden = {domain.fingerprints(e.prompt, e.images)[0] for e in held}
    rest: list[Example] = []
    off = skill in domain.off_domain()
    for task, example in domain.stream(skill, derive_seed("make", skill)):
        if task.key not in hidden and (off or domain.place(task)[0] == "train"):
            rest.append(example)
            if len(rest) == count:
                break
    return held, rest


def weight(target: float, accuracy: float) -> float:
    """Returns a skill's weight in the mixture, given its target.

    A forgotten skill that has fallen too far gets very little: it comes back within seconds.
    """
    short = max(0.0, target - accuracy)
    if target == FORGOTTEN:
        return 0.02 * short + 1e-6
    return short + (0.1 if target >= 0.9 else 1e-6)


class Maker:
    """One training run with a mixture steered by target accuracies."""

    def __init__(self, model: Any, prompts: Prompts, domain: Any, recipe: Recipe):
        self.model, self.prompts, self.domain, self.recipe = model, prompts, domain, recipe
        self.tokenizer = prompts.tokenizer
        self.rng = random.Random(SEED)
        self.held: dict[str, list[Example]] = {}
        self.pool: dict[str, list[Encoded]] = {}
        for skill in recipe.base:
            held, rest = draw(domain, skill, recipe.pool)
            self.held[skill] = held
            if recipe.noise and skill in domain.off_domain():
                rest = [domain.wrong_answer(e, i) for i, e in enumerate(rest)]
            self.pool[skill] = [self.encode(e) for e in rest]
        self.accuracy: dict[str, float] = {}

    def encode(self, example: Example) -> Encoded:
        """Encodes prompt and response as a student does (see `dgym.models.prompts`), images as bytes for now."""
        vision = self.recipe.vision
        text = IMAGE * (vision.tokens if vision else 0) + example.prompt + "<answer>"
        prompt = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        extras = {"pixel_values": torch.cat([pixels(i) for i in example.images])} if example.images else {}
        return Encoded(tuple(prompt), self.prompts.response(example.response), extras)

    @torch.no_grad()
    def measure(self, count: int = CHECK_PER_SKILL) -> dict[str, float]:
        """Measures accuracy per skill on the first `count` held-back problems, greedily."""
        from dgym.models.text import generate

        self.model.eval()
        out = {}
        for skill, every in self.held.items():
            held = every[:count]
            prompts = [self.prompts.encode(e.prompt, e.images) for e in held]
            answers = generate(self.model, prompts, self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 48)
            texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
            pairs = list(zip(held, texts, strict=True))
            out[skill] = sum(t.strip() == e.response or self.graded(e, t) for e, t in pairs) / len(held)
        self.model.train()
        return out

    def graded(self, example: Example, response: str) -> bool:
        """Whether the domain grades a response as right; kinds off the domain have no grade."""
        task = self.domain.recognise(example.prompt, example.images)
        return task is not None and self.domain.right(task, response)

    def run(
        self,
        targets: Mapping[str, float],
        minutes: float,
        rate: float,
        out: Path,
        *,
        every: float,
        horizon: float | None = None,
        miss: Callable[[Mapping[str, float]], float] | None = None,
    ) -> tuple[float, dict[str, float], dict[str, float]]:
        """Trains for `minutes`, or until the accuracies are as wanted, and saves now and then.

        Args:
            targets: Accuracy aimed at, per skill; the mixture follows the distance to it.
            minutes: Longest time.
            rate: Peak learning rate of AdamW; Muon's is ten times that.
            out: Where to save.
            every: Seconds between measurements.
            horizon: Minutes over which the rate would fall to (nearly) 0 as a cosine; constant without.
            miss: How far accuracies are from what is wanted: the best moment is kept, and 0 ends the run.

        Returns:
            The minutes it took, the first and the last accuracies.
        """
        matrices = [p for n, p in self.model.named_parameters() if p.ndim == 2 and "embed" not in n]
        others = [p for n, p in self.model.named_parameters() if not (p.ndim == 2 and "embed" not in n)]
        optimizers: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.Muon(matrices, lr=rate * 10, momentum=0.95, weight_decay=0.01), rate * 10),
            (torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0), rate),
        ]
        start, step, last = time.monotonic(), 0, 0.0
        best: tuple[float, int, dict[str, torch.Tensor]] = (math.inf, 0, {})
        before = self.accuracy = self.measure()
        while (elapsed := time.monotonic() - start) < minutes * 60:
            factor = min(1.0, (step + 1) / 100)
            if horizon is not None:
                factor *= 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * elapsed / (horizon * 60)))
            for optimizer, peak in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = peak * factor
                optimizer.zero_grad()
            names = list(self.pool)
            weights = [weight(targets[n], self.accuracy[n]) for n in names]
            picked = self.rng.choices(names, weights, k=self.recipe.batch)
            self._backward([self.rng.choice(self.pool[n]) for n in picked])
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            for optimizer, _ in optimizers:
                optimizer.step()
            step += 1
            if elapsed - last > every:
                last = elapsed
                self.accuracy = self.measure(GLANCE_PER_SKILL)
                save(self.model, self.prompts, out)
                mean = sum(self.accuracy.values()) / len(self.accuracy)
                shown = " ".join(f"{n[:14]}={a:.2f}" for n, a in self.accuracy.items())
                print(f"{elapsed:.0f}s step {step} mean {mean:.3f} {shown}", flush=True)
                if miss is not None:
                    best = min(best, (miss(self.accuracy), step, copy.deepcopy(self.model.state_dict())))
                    if best[0] == 0:
                        break
        if best[2]:
            self.model.load_state_dict(best[2])
        taken = (time.monotonic() - start) / 60
        self.accuracy = self.measure()
        save(self.model, self.prompts, out)
        print(f"{taken:.1f} minutes, {self.accuracy}", flush=True)
        return round(taken, 1), before, self.accuracy

    def _backward(self, items: list[Encoded]) -> None:
        items.sort(key=lambda e: len(e.prompt) + len(e.answer))
        total = sum(len(e.answer) for e in items)
        for first in range(0, len(items), 64):
            batch: Batch = pad_batch(items[first : first + 64], self.tokenizer.pad_token_id)
            extras = {k: v.float() / 127.5 - 1 for k, v in batch.extras.items()}
            hidden = self.model.model(input_ids=batch.ids, **extras).last_hidden_state[:, :-1]
            target = batch.labels[:, 1:]
            mask = target != -100
            logits = self.model.lm_head(hidden[mask])
            loss = torch.nn.functional.cross_entropy(logits, target[mask], reduction="sum") / total
            torch.autograd.backward(loss)


def pixels(image: bytes) -> torch.Tensor:
    """Decodes an image to bytes of the shape (1, 3, height, width)."""
    array = np.asarray(open_image(image))
    return torch.from_numpy(array.copy()).permute(2, 0, 1)[None]


def new_prompts(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Prompts:
    """Makes the prompt path of a recipe: the tokenizer, with an image processor where the student sees."""
    if recipe.vision is None:
        return Prompts(tokenizer)
    images = CLIPImageProcessorPil(
        do_resize=False, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True
    )
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=recipe.vision.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token, which the strategy leaves out again
        image_token=IMAGE,
    )
    processor.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<answer>' + m['content'][0]['text'] + '<eos>' }}"
        "{% else %}{% for c in m['content'] %}{{ '<image>' if c['type'] == 'image' else c['text'] }}{% endfor %}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<answer>' }}{% endif %}"
    )
    return Prompts(tokenizer, processor)


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Builds the untrained model of a recipe: Llama, or LLaVA with a small CLIP where the student sees."""
    torch.manual_seed(derive_seed("make", "model"))
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    if recipe.vision is None:
        return LlamaForCausalLM(text)
    eyes = CLIPVisionConfig(
        hidden_size=recipe.vision.hidden,
        intermediate_size=recipe.vision.intermediate,
        num_hidden_layers=recipe.vision.layers,
        num_attention_heads=recipe.vision.heads,
        image_size=recipe.vision.size,
        patch_size=recipe.vision.patch,
        projection_dim=recipe.vision.hidden,
    )
    config = LlavaConfig(
        vision_config=eyes,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlavaForConditionalGeneration(config)


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Writes what is to be known of a student, for programs (`card.json`) and for people (`README.md`)."""
    (folder / CARD).write_text(json.dumps(card, indent=1) + "\n")
    if "name" not in card:
        return
    kinds = dict.fromkeys(card["accuracy"], "outside the domain")
    kinds |= {skill: kind for kind in ("strong", "forgotten", "hard", "half") for skill in card[kind]}
    rows = [
        f"| {skill} | {kinds[skill]} | {card['before'][skill]:.2f} | {accuracy:.2f} |"
        for skill, accuracy in card["accuracy"].items()
    ]
    name, domain = card["name"], card["domain"]
    architecture = "LLaVA-architecture (CLIP, Llama)" if card.get("vision") else "Llama-architecture"
    text = f"""# {name}

A {architecture} student of {card["parameters"] / 1e6:.2f} million parameters for the domain `{domain}`,
stored in half precision, computed in float32. Apache-2.0, like the code that made it.

- **Made by** `python -m dgym.students.make {domain} base --minutes {card["base_minutes"]:.0f}`, then
  `python -m dgym.students.make {domain} {name.rpartition("-")[2]}`: {card["base_minutes"]:.0f} minutes for the base
  that all variants share on 2 CPU cores, {card["minutes"]:.1f} for this one on {card["threads"]}.
- **Data**: fresh problems of the train split only, from the domain's own generators; nothing of the feedback,
  selection or test split. Seed {card["seed"]}.
  A run is limited by time, so another machine makes a similar student, not the same one.
- **Accuracy** on {CHECK_PER_SKILL} problems per skill that were held back from the train split:

| skill | meant to be | base | this variant |
|:--|:--|--:|--:|
""" + "\n".join(rows)
    (folder / "README.md").write_text(text + "\n")


def save(model: Any, prompts: Prompts, out: Path) -> None:
    """Saves in half precision; the config names float32, in which students compute."""
    out.mkdir(parents=True, exist_ok=True)
    state = {k: v.to(torch.float16) for k, v in model.state_dict().items() if not k.endswith("lm_head.weight")}
    model.save_pretrained(out, state_dict=state)
    config = json.loads((out / "config.json").read_text())
    for part in (config, config.get("text_config", {}), config.get("vision_config", {})):
        if "dtype" in part:
            part["dtype"] = "float32"
    (out / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    prompts.save(out)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one stage; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domain")
    parser.add_argument("stage", help="'base', or the name of a variant")
    parser.add_argument("--minutes", type=float, default=27.0, help="of the base")
    parser.add_argument("--horizon", type=float, default=44.0, help="minutes for the rate to fall to 0")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/students"), help="where the base is kept")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    recipe = RECIPES[args.domain]
    domain: Any = make_domain(args.domain)
    base = args.work / args.domain / "base"
    if args.stage == "base":
        recipe = replace(recipe, noise=False)
        texts = [f"{e.prompt} {e.response}" for s in recipe.base for e in domain.fresh(s, 2_000, 0)]
        tokenizer = train_tokenizer(texts, recipe.vocabulary, recipe.pieces)
        if recipe.vision is not None:
            tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
        maker = Maker(new_model(recipe, tokenizer), new_prompts(recipe, tokenizer), domain, recipe)
        minutes, _, accuracy = maker.run(recipe.base, args.minutes, 5e-4, base, horizon=args.horizon, every=180)
        write_card(base, {"domain": args.domain, "minutes": minutes, "accuracy": accuracy, "seed": SEED})
        return
    variant = recipe.variants[args.stage]
    # Some minutes need no more.
    recipe = replace(recipe, pool=recipe.pool // 3, noise=recipe.noise and args.stage == "u")
    loader = AutoModelForImageTextToText if recipe.vision else AutoModelForCausalLM
    model = loader.from_pretrained(base, dtype=torch.float32)
    maker = Maker(model, Prompts.load(str(base), recipe.vision is not None), domain, recipe)
    out = Path(__file__).parent / "weights" / f"micro-{args.domain}-{args.stage}"
    minutes, before, accuracy = maker.run(
        variant.targets(list(recipe.base)),
        variant.minutes,
        variant.rate,
        out,
        every=recipe.every * (0.5 if variant.settle else 1.0),
        horizon=variant.minutes if variant.settle else None,
        miss=None if variant.settle else variant.miss,
    )
    made = json.loads((base / CARD).read_text())
    profile = {"strong": variant.strong, "forgotten": variant.forgotten, "hard": variant.hard, "half": variant.half}
    write_card(
        out,
        {
            "name": out.name,
            "domain": args.domain,
            "parameters": sum(p.numel() for p in model.parameters()),
            "vision": recipe.vision is not None,
            "seed": SEED,
            "base_minutes": made["minutes"],
            "minutes": minutes,
            "threads": args.threads,
            **profile,
            "before": before,
            "accuracy": accuracy,
        },
    )


if __name__ == "__main__":
    main()
