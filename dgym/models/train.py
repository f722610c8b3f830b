"""Fine-tuning of a language model, on answers or on preferences: one plain loop, deterministic from its seed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import torch
from torch.nn.functional import cross_entropy, logsigmoid

from dgym.errors import StudentError
from dgym.models.memory import halving, sized
from dgym.models.recipe import Recipe
from dgym.models.text import IGNORED, Encoded, pad_batch

_WINDOW = 8
"""Batches among which examples are sorted by length; less padding, still a random order."""


_TOO_LARGE: Final = (
    "Not even one training example fits into memory: set the recipe's checkpointing = true, or lower its cutoff."
)


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference in tokens: two answers to one prompt."""

    chosen: Encoded
    rejected: Encoded

    def __len__(self) -> int:
        return len(self.chosen) + len(self.rejected)

    @property
    def longest(self) -> int:
        """Tokens of the longer of the two."""
        return max(len(self.chosen), len(self.rejected))


T = TypeVar("T", Encoded, Pair)
T_contra = TypeVar("T_contra", contravariant=True)


class Objective(Protocol[T_contra]):
    """What is minimised."""

    def weight(self, items: Sequence[T_contra]) -> int:
        """How much some items count in a batch: what their mean loss is the mean of."""
        ...

    def loss(self, model: Any, items: Sequence[T_contra]) -> torch.Tensor:
        """Returns the mean loss of some items."""
        ...


@dataclass
class Likelihood:
    """Supervised fine-tuning: cross-entropy of the answers' tokens.

    Attributes:
        pad: Padding token.
    """

    pad: int

    def weight(self, items: Sequence[Encoded]) -> int:
        """Counts the tokens that bear loss."""
        return sum(len(e.answer) for e in items)

    def loss(self, model: Any, items: Sequence[Encoded]) -> torch.Tensor:
        """Returns the mean over the answers' tokens."""
        logits, targets = scored(model, items, self.pad)
        return cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


@dataclass
class Preference:
    """Direct preference optimisation (Rafailov et al. 2023, equation 7).

    The reference is the model before the training, whose log-probabilities are computed once.

    Attributes:
        pad: Padding token.
        beta: How strongly the student is held to the reference.
        margins: By pair, how much more the student prefers the chosen answer than the reference does, in nats times
            beta, as last computed.
    """

    pad: int
    beta: float
    margins: dict[int, float] = field(default_factory=dict)
    _reference: dict[int, float] = field(default_factory=dict)

    def refer(self, model: Any, pairs: Sequence[Pair], size: int) -> None:
        """Computes what the reference thinks of the pairs, in forward passes of at most `size` pairs."""
        model.eval()
        with torch.no_grad():
            for part in sized(sorted(pairs, key=len), size):
                for pair, difference in zip(part, self._differences(model, part).tolist(), strict=True):
                    self._reference[id(pair)] = difference

    def weight(self, items: Sequence[Pair]) -> int:
        """Counts the pairs."""
        return len(items)

    def loss(self, model: Any, items: Sequence[Pair]) -> torch.Tensor:
        """Returns the mean over the pairs."""
        before = torch.tensor([self._reference[id(pair)] for pair in items], device=model.device)
        margins = self.beta * (self._differences(model, items) - before)
        self.margins.update(zip(map(id, items), margins.tolist(), strict=True))
        return -logsigmoid(margins).mean()

    def _differences(self, model: Any, items: Sequence[Pair]) -> torch.Tensor:
        """Log-probability of the chosen answers minus that of the rejected ones; shape (pairs,)."""
        logits, targets = scored(model, [*(p.chosen for p in items), *(p.rejected for p in items)], self.pad)
        losses = cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
        whole = -losses.view(targets.shape).sum(1)
        return whole[: len(items)] - whole[len(items) :]


def scored(model: Any, items: Sequence[Encoded], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs a model over examples.

    Returns:
        Logits of shape (examples, positions, vocabulary) and the tokens that they should predict, of shape (examples,
        positions), `IGNORED` where no answer stands.
    """
    batch = pad_batch(items, pad).to(model.device)
    # No position before the shortest prompt's last bears loss: there the vocabulary need not be scored.
    first = min(len(e.prompt) for e in items) - 1
    kept = torch.arange(first, batch.ids.shape[1] - 1, device=model.device)
    logits = model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        use_cache=False,
        logits_to_keep=kept,
        **batch.extras,
    ).logits
    return logits, batch.labels[:, first + 1 :]


def fine_tune(
    model: Any, parameters: Sequence[torch.nn.Parameter], data: Sequence[Encoded], recipe: Recipe, pad: int, seed: int
) -> dict[str, float]:
    """Trains `parameters` of `model` on `data`, with loss on the answers only.

    AdamW, linear warm-up, cosine decay to 0, gradient norm clipped at 1. Every random choice comes from `seed`.

    Args:
        model: A transformers causal language model, perhaps wrapped by PEFT.
        parameters: What is trained.
        data: Encoded examples; longer ones than `recipe.cutoff` must have been left out.
        recipe: Epochs, batch size, learning rate.
        pad: Padding token.
        seed: Of order and dropout.

    Returns:
        `loss` (mean over the answer tokens of the last epoch), `steps`, and `tokens` (answer and prompt
        tokens that were trained on, all epochs); `micro_batch` where memory made it smaller than the batch.

    Raises:
        StudentError: If the loss is not finite, or if memory does not suffice for a single example.
    """
    return _optimise(model, parameters, data, Likelihood(pad), recipe, seed)


def prefer(
    model: Any, parameters: Sequence[torch.nn.Parameter], data: Sequence[Pair], recipe: Recipe, pad: int, seed: int
) -> dict[str, float]:
    """Trains `parameters` of `model` to prefer the chosen answers; see `Preference` and `fine_tune`.

    Returns:
        As `fine_tune`, with the mean loss over the pairs; `margin` (their mean margin in the last epoch) and
        `preferred` (share of the pairs whose margin is above 0).

    Raises:
        StudentError: See `fine_tune`.
    """
    objective = Preference(pad, recipe.beta)
    halving(
        lambda size: objective.refer(model, data, size),
        recipe.micro_batch or recipe.batch,
        model,
        _TOO_LARGE,
    )

    report = _optimise(model, parameters, data, objective, recipe, seed)
    margins = objective.margins.values()
    preferred = sum(m > 0 for m in margins) / max(1, len(margins))
    return report | {"margin": sum(margins) / max(1, len(margins)), "preferred": preferred}


def _optimise(
    model: Any,
    parameters: Sequence[torch.nn.Parameter],
    data: Sequence[T],
    objective: Objective[T],
    recipe: Recipe,
    seed: int,
) -> dict[str, float]:
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
    batches_per_epoch = math.ceil(len(data) / recipe.batch)
    total = batches_per_epoch * recipe.epochs
    warmup = math.ceil(total * recipe.warmup)
    size = min(recipe.micro_batch or recipe.batch, recipe.batch)
    step, tokens, loss_sum, loss_weight = 0, 0, 0.0, 0
    with torch.random.fork_rng(devices=_cuda_devices(model)), training(model, recipe.checkpointing):
        torch.manual_seed(seed)
        for _ in range(recipe.epochs):
            loss_sum, loss_weight = 0.0, 0
            for items in _batches(data, recipe.batch, rng):
                rate = recipe.learning_rate * _factor(step, total, warmup)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                work = partial(_gradients, optimizer, model, items, objective)
                loss, size = halving(work, size, model, _TOO_LARGE)
                if not math.isfinite(loss):
                    raise StudentError(
                        f"The training loss became {loss} at step {step} of {total}: lower the recipe's learning_rate."
                    )
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                weight = objective.weight(items)
                loss_sum += loss * weight
                loss_weight += weight
                tokens += sum(len(e) for e in items)
                step += 1
    report = {"loss": loss_sum / max(1, loss_weight), "steps": float(step), "tokens": float(tokens)}
    return report | ({"micro_batch": float(size)} if size < min(recipe.batch, len(data)) else {})


def _gradients(
    optimizer: torch.optim.Optimizer, model: Any, items: Sequence[T], objective: Objective[T], size: int
) -> float:
    """Computes a batch's gradients in parts of at most `size`, weighted as if it were one; returns its loss."""
    optimizer.zero_grad(set_to_none=True)
    total = objective.weight(items)
    out = 0.0
    for part in sized(items, size):
        loss = objective.loss(model, part)
        if len(part) < len(items):
            loss = loss * (objective.weight(part) / total)
        out += loss.item()
        if not math.isfinite(out):
            return out
        torch.autograd.backward(loss)
    return out


@contextmanager
def training(model: Any, checkpointing: bool) -> Iterator[None]:
    """Puts a model into training mode, and back."""
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        yield
    finally:
        if checkpointing:
            model.gradient_checkpointing_disable()
        model.eval()


def _factor(step: int, total: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _batches(data: Sequence[T], size: int, rng: random.Random) -> list[list[T]]:
    """Cuts shuffled data into batches of similar length, in random order."""
    shuffled = rng.sample(list(data), len(data))
    batches: list[list[T]] = []
    for first in range(0, len(shuffled), size * _WINDOW):
        window = sorted(shuffled[first : first + size * _WINDOW], key=len)
        batches += [window[i : i + size] for i in range(0, len(window), size)]
    rng.shuffle(batches)
    return batches


def _cuda_devices(model: Any) -> list[int]:
    device = model.device
    return [device.index or 0] if device.type == "cuda" else []
