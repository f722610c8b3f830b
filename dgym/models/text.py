"""Token batches for language models, with or without images: padding, loss labels, greedy generation.

Everything that trains or asks a text model goes through here, so that the base, training and answering can
never see a prompt in two different shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dgym.models.prompts import Prompt

IGNORED = -100
"""The label that PyTorch's cross-entropy leaves out."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One training example in tokens.

    Attributes:
        prompt: Token ids that are read only, up to and including the mark after which the answer stands.
        answer: Token ids that bear loss, ending with the end-of-sequence token.
        extras: What the model takes beside tokens; see `dgym.models.prompts.Prompt`.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    extras: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True, slots=True)
class Batch:
    """A right-padded training batch; ids, mask and labels have the shape (examples, longest length)."""

    ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor
    extras: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> Batch:
        """Moves the batch to a device."""
        extras = {k: v.to(device) for k, v in self.extras.items()}
        return Batch(self.ids.to(device), self.mask.to(device), self.labels.to(device), extras)


def pad_batch(items: Sequence[Encoded], pad: int) -> Batch:
    """Pads examples on the right; only answers bear a label."""
    length = max(len(e) for e in items)
    ids = torch.full((len(items), length), pad, dtype=torch.long)
    mask = torch.zeros((len(items), length), dtype=torch.long)
    labels = torch.full((len(items), length), IGNORED, dtype=torch.long)
    for row, item in enumerate(items):
        end = len(item)
        ids[row, :end] = torch.tensor((*item.prompt, *item.answer))
        mask[row, :end] = 1
        labels[row, len(item.prompt) : end] = torch.tensor(item.answer)
    return Batch(ids, mask, labels, joined([e.extras for e in items]))


def joined(extras: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Joins what several prompts give beside tokens, along the first dimension, in their order."""
    names = dict.fromkeys(name for e in extras for name in e)
    return {name: torch.cat([e[name] for e in extras if name in e]) for name in names}


@torch.inference_mode()
def generate(
    model: Any, prompts: Sequence[Prompt], pad: int, eos: int, max_new_tokens: int, batch_size: int = 128
) -> list[list[int]]:
    """Answers prompts greedily, in batches of similar length.

    The order of work depends on the prompts alone, so that the same list gives the same bits.

    Args:
        model: A transformers causal language model, on any device.
        prompts: What is asked.
        pad: Token id for padding, on the left.
        eos: Token id that ends an answer.
        max_new_tokens: Longest answer.
        batch_size: Prompts per batch.

    Returns:
        Token ids per answer in the order of `prompts`, cut before the first end-of-sequence token.
    """
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i].ids), i))
    answers: list[list[int]] = [[] for _ in prompts]
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        length = max(len(prompts[i].ids) for i in chosen)
        ids = torch.full((len(chosen), length), pad, dtype=torch.long)
        mask = torch.zeros((len(chosen), length), dtype=torch.long)
        for row, i in enumerate(chosen):
            ids[row, length - len(prompts[i].ids) :] = torch.tensor(prompts[i].ids)
            mask[row, length - len(prompts[i].ids) :] = 1
        extras = {k: v.to(model.device) for k, v in joined([prompts[i].extras for i in chosen]).items()}
        out = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=eos,
            **extras,
        )
        for row, i in enumerate(chosen):
            tokens = out[row, length:].tolist()
            answers[i] = tokens[: tokens.index(eos)] if eos in tokens else tokens
    return answers
