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
import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dgym import registry
from dgym.core import Example, derive_seed
from dgym.models.text import Batch, Encoded, pad_batch

SEED = 20_241_006
"""Of the order of training; data and weights derive their seeds from names (`derive_seed("make", ...)`)."""

CARD = "card.json"

CHECK_PER_SKILL = 100
"""Problems of the train split, per skill, that are held back to measure progress."""


@dataclass(frozen=True)
class Recipe:
    """How a domain's students are made.

    Attributes:
        hidden, layers, heads, intermediate, vocabulary: The shape of the model.
        pool: Training problems drawn per skill.
        batch: Examples per step.
        base: Target accuracy per skill for the common base, which may learn kinds that the domain does not test.
        variants: The profiles of the variants.
    """

    hidden: int = 144
    layers: int = 4
    heads: int = 4
    intermediate: int = 384
    vocabulary: int = 1024
    pool: int = 60_000
    batch: int = 64
    base: Mapping[str, float] = field(default_factory=dict)
    variants: Mapping[str, Variant] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """A profile of strengths and weaknesses.

    Attributes:
        strong: Skills kept at a high accuracy.
        forgotten: Skills left out until their accuracy has fallen.
        hard: Skills of which the base has learnt little, and which are left out.
        half: Skills brought to half accuracy, from above or below.
        minutes: Longest time.
        rate: Learning rate, as in `Maker.run`; the higher, the faster a skill is forgotten.
        settle: Whether the rate falls to 0 over the minutes, so that accuracies stop swinging about their targets.
    """

    strong: tuple[str, ...] = ()
    forgotten: tuple[str, ...] = ()
    hard: tuple[str, ...] = ()
    half: tuple[str, ...] = ()
    minutes: float = 6.0
    rate: float = 3e-4
    settle: bool = False

    def targets(self, skills: Sequence[str]) -> dict[str, float]:
        """Returns the accuracy aimed at, per skill of the base; what has no place is left out."""
        kinds = ((self.strong, STRONG), (self.forgotten, FORGOTTEN), (self.hard, 0.0), (self.half, 0.5))
        return dict.fromkeys(skills, 0.0) | {name: aim for names, aim in kinds for name in names}

    def reached(self, accuracy: Mapping[str, float]) -> bool:
        """Whether every skill is where the profile wants it."""
        return (
            all(accuracy[s] >= 0.85 for s in self.strong)
            and all(0.15 <= accuracy[s] <= 0.42 for s in self.forgotten)
            and all(0.4 <= accuracy[s] <= 0.65 for s in self.half)
        )


STRONG, FORGOTTEN = 0.95, 0.28

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

RECIPES: dict[str, Recipe] = {
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
            "u": Variant(half=_QUICK + _SLOW + _OUTSIDE, minutes=5.0, settle=True),
        },
    ),
}


def train_tokenizer(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE whose merges may span words but never digits.

    The sentences of procedural problems repeat, so whole phrases become one token, while every digit stays
    alone and any other text still falls apart into bytes.
    """
    tokenizer = Tokenizer(models.BPE())
    phrases = Regex(r"[0-9]|[A-Za-z][A-Za-z\s,.:;'()/-]*[A-Za-z][:.?]?\s?| ?[^0-9A-Za-z\s] ?|\s")
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
    """Draws held-back and training examples of a skill; the two share no fingerprint.

    Small skills repeat a problem, in other sentences or in the other order of its operands.
    """
    batch = 2_000
    held = domain.fresh(skill, CHECK_PER_SKILL, derive_seed("make", skill, "held"))
    hidden = {domain.fingerprints(e.prompt)[0] for e in held}
    rest: list[Example] = []
    for part in range(count // batch):
        rest += domain.fresh(skill, batch, derive_seed("make", skill, part))
    return held, [e for e in rest if domain.fingerprints(e.prompt)[0] not in hidden]


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

    def __init__(self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, domain: Any, recipe: Recipe):
        self.model, self.tokenizer, self.domain, self.recipe = model, tokenizer, domain, recipe
        self.rng = random.Random(SEED)
        self.held: dict[str, list[Example]] = {}
        self.pool: dict[str, list[Encoded]] = {}
        for skill in recipe.base:
            held, rest = draw(domain, skill, recipe.pool)
            self.held[skill] = held
            self.pool[skill] = [self.encode(e) for e in rest]
        self.accuracy: dict[str, float] = {}

    def encode(self, example: Example) -> Encoded:
        """Encodes prompt and response exactly as a student does (see `dgym.models.text`)."""
        prompt = self.tokenizer(example.prompt + "<answer>", add_special_tokens=False)["input_ids"]
        answer = self.tokenizer(example.response, add_special_tokens=False)["input_ids"]
        return Encoded(tuple(prompt), (*answer, self.tokenizer.eos_token_id))

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Measures accuracy per skill on the held-back problems, greedily."""
        from dgym.models.text import generate

        self.model.eval()
        out = {}
        for skill, held in self.held.items():
            prompts = [list(self.encode(e).prompt) for e in held]
            answers = generate(self.model, prompts, self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 40)
            texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
            pairs = list(zip(held, texts, strict=True))
            right = [t.strip() == e.response or self.domain.check(Example(e.prompt, t)) is True for e, t in pairs]
            out[skill] = sum(right) / len(held)
        self.model.train()
        return out

    def run(
        self,
        targets: Mapping[str, float],
        minutes: float,
        rate: float,
        out: Path,
        *,
        every: float,
        horizon: float | None = None,
        until: Callable[[Mapping[str, float]], bool] = lambda _: False,
    ) -> tuple[float, dict[str, float], dict[str, float]]:
        """Trains for `minutes`, or until the accuracies are as wanted, and saves now and then.

        Args:
            targets: Accuracy aimed at, per skill; the mixture follows the distance to it.
            minutes: Longest time.
            rate: Peak learning rate of AdamW; Muon's is ten times that.
            out: Where to save.
            every: Seconds between measurements.
            horizon: Minutes over which the rate would fall to (nearly) 0 as a cosine; constant without.
            until: Whether accuracies are as wanted.

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
                self.accuracy = self.measure()
                save(self.model, self.tokenizer, out)
                mean = sum(self.accuracy.values()) / len(self.accuracy)
                shown = " ".join(f"{n[:14]}={a:.2f}" for n, a in self.accuracy.items())
                print(f"{elapsed:.0f}s step {step} mean {mean:.3f} {shown}", flush=True)
                if until(self.accuracy):
                    break
        taken = (time.monotonic() - start) / 60
        self.accuracy = self.measure()
        save(self.model, self.tokenizer, out)
        print(f"{taken:.1f} minutes, {self.accuracy}", flush=True)
        return round(taken, 1), before, self.accuracy

    def _backward(self, items: list[Encoded]) -> None:
        items.sort(key=lambda e: len(e.prompt) + len(e.answer))
        total = sum(len(e.answer) for e in items)
        for first in range(0, len(items), 64):
            batch: Batch = pad_batch(items[first : first + 64], self.tokenizer.pad_token_id)
            hidden = self.model.model(input_ids=batch.ids).last_hidden_state[:, :-1]
            target = batch.labels[:, 1:]
            mask = target != -100
            logits = self.model.lm_head(hidden[mask])
            loss = torch.nn.functional.cross_entropy(logits, target[mask], reduction="sum") / total
            torch.autograd.backward(loss)


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Builds the untrained model of a recipe."""
    torch.manual_seed(derive_seed("make", "model"))
    return LlamaForCausalLM(
        LlamaConfig(
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
    )


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
    text = f"""# {name}

A Llama-architecture student of {card["parameters"] / 1e6:.2f} million parameters for the domain `{domain}`,
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


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Saves in half precision (at most 3 MB); the config names float32, in which students compute."""
    out.mkdir(parents=True, exist_ok=True)
    state = {k: v.to(torch.float16) for k, v in model.state_dict().items() if k != "lm_head.weight"}
    model.save_pretrained(out, state_dict=state)
    config = json.loads((out / "config.json").read_text())
    config["dtype"] = "float32"
    (out / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    tokenizer.save_pretrained(out)


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
    domain = registry.load("domain", args.domain)()
    base = args.work / args.domain / "base"
    if args.stage == "base":
        texts = [f"{e.prompt} {e.response}" for s in recipe.base for e in domain.fresh(s, 2_000, 0)]
        tokenizer = train_tokenizer(texts, recipe.vocabulary)
        maker = Maker(new_model(recipe, tokenizer), tokenizer, domain, recipe)
        minutes, _, accuracy = maker.run(recipe.base, args.minutes, 5e-4, base, horizon=args.horizon, every=180)
        write_card(base, {"domain": args.domain, "minutes": minutes, "accuracy": accuracy, "seed": SEED})
        return
    variant = recipe.variants[args.stage]
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    maker = Maker(model, PreTrainedTokenizerFast.from_pretrained(base), domain, recipe)
    out = Path(__file__).parent / "weights" / f"micro-{args.domain}-{args.stage}"
    minutes, before, accuracy = maker.run(
        variant.targets(list(recipe.base)),
        variant.minutes,
        variant.rate,
        out,
        every=12 - 6 * variant.settle,
        horizon=variant.minutes if variant.settle else None,
        until=(lambda _: False) if variant.settle else variant.reached,
    )
    made = json.loads((base / CARD).read_text())
    profile = {"strong": variant.strong, "forgotten": variant.forgotten, "hard": variant.hard, "half": variant.half}
    write_card(
        out,
        {
            "name": out.name,
            "domain": args.domain,
            "parameters": sum(p.numel() for p in model.parameters()),
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
