"""Token batches for language models, with or without images: padding, loss labels, greedy generation.

Everything that trains or asks a text model goes through here, so that the base, training and answering can
never see a prompt in two different shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Final

import torch

from dgym.models.decode import greedy, plain, worth_it
from dgym.models.memory import halving, sized
from dgym.models.prompts import PER_TOKEN, Prompt

_TOO_LARGE = 'Not even one problem fits into memory: take a smaller model, or precision = "bfloat16".'

IGNORED = -100
"""The label that PyTorch's cross-entropy leaves out."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One training example in tokens.

    Attributes:
        prompt: Token ids that are read only, up to and including the mark after which the answer stands.
        answer: Token ids that bear loss, ending with the token that ends an answer.
        extras: What the model takes beside tokens; see `dgym.models.prompts.Prompt`.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    extras: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)

    @property
    def longest(self) -> int:
        """Its length; of several answers to a prompt, that of the longest."""
        return len(self)


@dataclass(frozen=True, slots=True)
class Batch:
    """A right-padded training batch.

    Attributes:
        ids, mask, labels: Of the shape (examples, longest length).
        extras: What the model takes beside them; see `joined` and `per_token`.
    """

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
    extras = [e.extras for e in items]
    return Batch(ids, mask, labels, joined(extras) | per_token(extras, [0] * len(items), length))


def joined(extras: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Joins what several prompts give for their images, along the first dimension, in their order.

    A prompt that shows no image gives nothing. Where sizes differ in another dimension, such as the number of tiles
    into which an image is cut, zeros fill the end, as in the processors themselves when they are given all at once.
    """
    names = dict.fromkeys(name for e in extras for name in e if name not in PER_TOKEN)
    return {name: _concatenated([e[name] for e in extras if name in e]) for name in names}


def per_token(
    extras: Sequence[Mapping[str, torch.Tensor]], starts: Sequence[int], length: int
) -> dict[str, torch.Tensor]:
    """Lays out the extras that have a value for every token; see `dgym.models.prompts.Prompt`.

    Args:
        extras: One mapping per row of a batch; where one lacks a name that another has, it is 0.
        starts: Where each row's prompt begins.
        length: Tokens per row.

    Returns:
        Tensors of the shape (rows, length), which the prompt's values fill from `starts`, then the answer's.
    """
    out: dict[str, torch.Tensor] = {}
    for row, (given, start) in enumerate(zip(extras, starts, strict=True)):
        for name in PER_TOKEN:
            if name not in given:
                continue
            values = given[name][0]
            whole = out.setdefault(name, values.new_zeros(len(extras), length))
            end = start + len(values) - 1
            whole[row, start:end] = values[:-1]
            whole[row, end:] = values[-1]
    return out


def _concatenated(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    shape = [max(sizes) for sizes in zip(*(t.shape[1:] for t in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        missing = [n - m for n, m in zip(shape, tensor.shape[1:], strict=True)]
        # The last dimension comes first.
        padded.append(torch.nn.functional.pad(tensor, [n for m in reversed(missing) for n in (0, m)]))
    return torch.cat(padded)


SMALL_ROWS: Final = 64
"""Rows of a batch that a small model computes at a time on a CPU, whose caches hold no more."""


@torch.inference_mode()
def generate(
    model: Any,
    prompts: Sequence[Prompt],
    pad: int,
    eos: int | Sequence[int],
    max_new_tokens: int,
    batch_size: int = 128,
) -> list[list[int]]:
    """Answers prompts greedily, in batches of similar length.

    The order of work depends on the prompts alone, so that the same list gives the same bits. No penalty that the
    model's own settings name is applied: it would count the padding as said before.

    Args:
        model: A transformers causal language model, on any device.
        prompts: What is asked.
        pad: Token id for padding, on the left.
        eos: Token id, or ids, of which any ends an answer.
        max_new_tokens: Longest answer.
        batch_size: Prompts per batch.

    Returns:
        Token ids per answer in the order of `prompts`, cut before the first token that ends it.
    """
    ends = [eos] if isinstance(eos, int) else list(eos)
    # Images, and models that forget, are transformers' own business.
    one_batch = greedy if plain(model) and not any(p.extras for p in prompts) else _by_transformers
    small = one_batch is greedy and not worth_it(model) and str(model.device) == "cpu"
    rows = SMALL_ROWS if small else batch_size
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i].ids), i))
    answers: list[list[int]] = [[] for _ in prompts]
    for chosen in sized(order, batch_size):

        def attempt(size: int, chosen: Sequence[int] = chosen) -> list[list[int]]:
            made: list[list[int]] = []
            for part in sized([prompts[i] for i in chosen], size):
                # Padded as one batch, so that rows have the same bits when fewer of them are computed at a time.
                length = max(len(p.ids) for p in part)
                # In even parts: a few rows at the end would be another kernel's, with other bits.
                for some in sized(part, -(-len(part) // -(-len(part) // rows))):
                    made += one_batch(model, some, pad, ends, max_new_tokens, length)
            return made

        made, batch_size = halving(attempt, min(batch_size, len(chosen)), model, _TOO_LARGE)
        for i, answer in zip(chosen, made, strict=True):
            answers[i] = answer
    return answers


def _by_transformers(
    model: Any, prompts: Sequence[Prompt], pad: int, ends: Sequence[int], max_new_tokens: int, length: int = 0
) -> list[list[int]]:
    lengths = [len(p.ids) for p in prompts]
    length = max(length, *lengths)
    ids = torch.full((len(prompts), length), pad, dtype=torch.long)
    mask = torch.zeros((len(prompts), length), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, length - lengths[row] :] = torch.tensor(prompt.ids)
        mask[row, length - lengths[row] :] = 1
    extras = [p.extras for p in prompts]
    beside = joined(extras) | per_token(extras, [length - n for n in lengths], length)
    out = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=pad,
        eos_token_id=list(ends),
        repetition_penalty=1.0,
        **{k: v.to(model.device) for k, v in beside.items()},
    )
    return [list(takewhile(lambda t: t not in ends, row)) for row in out[:, length:].tolist()]
