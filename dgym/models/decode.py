"""Greedy answers of a text model without work that leads nowhere.

It spares what transformers' `generate` does beside each step, a good part of the time with small models. With larger
ones two things more make it faster on a list of short problems: what all prompts begin with (a system message, say) is
read once, and a row whose answer has ended leaves the batch instead of being computed to the end of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from transformers import DynamicCache

from dgym.models.prompts import Prompt

SHARED: Final = 16
"""Fewest tokens that all prompts must begin with for these to be read apart."""

LEAVING: Final = 0.25
"""Share of a batch's rows whose answers must have ended before these rows are taken out."""


WORTH: Final = 32 * 2**20
"""Smallest weights, in bytes, for which sharing and leaving save more than they cost."""


def worth_it(model: Any) -> bool:
    """Whether a model is large enough for sharing and leaving."""
    return bool(sum(p.numel() * p.element_size() for p in model.parameters()) >= WORTH)


def plain(model: Any) -> bool:
    """Whether a model keeps nothing but keys and values of all tokens, as is taken for granted here."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    recurrent = getattr(model, "_is_stateful", False) or getattr(config, "is_encoder_decoder", False)
    return kinds == {"full_attention"} and not recurrent and getattr(config, "sliding_window", None) is None


@torch.inference_mode()
def greedy(
    model: Any, given: Sequence[Prompt], pad: int, ends: Sequence[int], max_new_tokens: int, length: int = 0
) -> list[list[int]]:
    """Answers one batch of prompts; where neither sharing nor leaving is worth it, with the bits of `generate`.

    Args:
        model: A causal language model of transformers for which `plain` holds.
        given: Prompts without images, of similar lengths.
        pad: Token id for padding.
        ends: Token ids of which any ends an answer.
        max_new_tokens: Longest answer.
        length: To how many tokens prompts are padded, if more than the longest has.

    Returns:
        Token ids per answer, without the one that ended it.
    """
    device, prompts = model.device, [p.ids for p in given]
    large = worth_it(model)
    shared = _common(prompts) if large else 0
    cache = DynamicCache(config=model.config)
    if shared:
        model(input_ids=torch.tensor([list(prompts[0][:shared])], device=device), past_key_values=cache)
        if len(prompts) > 1:
            cache.batch_repeat_interleave(len(prompts))
    length = max(length, *(len(p) for p in prompts)) - shared
    ids = torch.full((len(prompts), length), pad)
    mask = torch.zeros((len(prompts), shared + length), dtype=torch.long)
    mask[:, :shared] = 1
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) + shared :] = torch.tensor(prompt[shared:])
        mask[row, length - len(prompt) + 2 * shared :] = 1
    ids, mask = ids.to(device), mask.to(device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, shared:]
    stop = torch.tensor(list(ends), device=device)

    answers: list[list[int]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts), device=device)
    for step in range(max_new_tokens):
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
        ).logits
        tokens = logits[:, -1].float().argmax(-1)
        ended = torch.isin(tokens, stop) | (rows < 0)
        for row, token, over in zip(rows.tolist(), tokens.tolist(), ended.tolist(), strict=True):
            if not over:
                answers[row].append(token)
        left = int((~ended).sum())
        if left == 0 or step + 1 == max_new_tokens:
            break
        rows = torch.where(ended, -1, rows)
        if large and left <= (1 - LEAVING) * len(rows):
            kept = (~ended).nonzero()[:, 0]
            cache.batch_select_indices(kept)
            rows, tokens, mask, positions = rows[kept], tokens[kept], mask[kept], positions[kept]
        ids = tokens[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        positions = positions[:, -1:] + 1
    return answers


def _common(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, leaving each at least one of its own; 0 where that is too few."""
    most = min(len(p) for p in prompts) - 1
    first = prompts[0]
    shared = next((i for i in range(most) if any(p[i] != first[i] for p in prompts)), max(0, most))
    return shared if shared >= SHARED else 0
