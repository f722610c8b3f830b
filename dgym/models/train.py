"""Supervised fine-tuning of a causal language model: one plain loop, deterministic from its seed."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import torch

from dgym.errors import StudentError
from dgym.models.recipe import Recipe
from dgym.models.text import IGNORED, Encoded, pad_batch

_WINDOW = 8
"""Batches among which examples are sorted by length; less padding, still a random order."""


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
        tokens that were trained on, all epochs).

    Raises:
        StudentError: If the loss is not finite.
    """
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
    batches_per_epoch = math.ceil(len(data) / recipe.batch)
    total = batches_per_epoch * recipe.epochs
    warmup = math.ceil(total * recipe.warmup)
    step, tokens, loss_sum, loss_tokens = 0, 0, 0.0, 0
    model.train()
    with torch.random.fork_rng(devices=_cuda_devices(model)):
        torch.manual_seed(seed)
        for _ in range(recipe.epochs):
            loss_sum, loss_tokens = 0.0, 0
            for items in _batches(data, recipe.batch, rng):
                rate = recipe.learning_rate * _factor(step, total, warmup)
                for group in optimizer.param_groups:
                    group["lr"] = rate
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
                targets = batch.labels[:, first + 1 :]
                loss = torch.nn.functional.cross_entropy(
                    logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED
                )
                if not torch.isfinite(loss):
                    raise StudentError(f"The training loss became {loss.item()} at step {step} of {total}.")
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                answered = int((targets != IGNORED).sum())
                loss_sum += loss.item() * answered
                loss_tokens += answered
                tokens += sum(len(e) for e in items)
                step += 1
    model.eval()
    return {"loss": loss_sum / max(1, loss_tokens), "steps": float(step), "tokens": float(tokens)}


def _factor(step: int, total: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _batches(data: Sequence[Encoded], size: int, rng: random.Random) -> list[list[Encoded]]:
    """Cuts shuffled data into batches of similar length, in random order."""
    shuffled = rng.sample(list(data), len(data))
    batches: list[list[Encoded]] = []
    for first in range(0, len(shuffled), size * _WINDOW):
        window = sorted(shuffled[first : first + size * _WINDOW], key=len)
        batches += [window[i : i + size] for i in range(0, len(window), size)]
    rng.shuffle(batches)
    return batches


def _cuda_devices(model: Any) -> list[int]:
    device = model.device
    return [device.index or 0] if device.type == "cuda" else []
