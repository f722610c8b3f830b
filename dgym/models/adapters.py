"""What PEFT does with a LoRA adapter, sooner and bit for bit: merging it for a while, and drawing a new one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

MERGE_LIMIT: Final = 2**30
"""Largest base, in bytes of adapted weights, of which a merged copy is held while answering."""


@contextmanager
def merged(model: PeftModel, adapter: str) -> Iterator[None]:
    """Answers with an adapter's product added to the weights, which takes one multiplication a layer instead of three.

    The base's own weights are set aside and put back: subtracting the product again would not give the same bits.

    Args:
        model: The shared model with its adapters.
        adapter: Which one; it must be active.
    """
    layers = _layers(model, adapter)
    if sum(layer.get_base_layer().weight.nbytes for layer in layers) > MERGE_LIMIT:
        yield
        return
    originals = [layer.get_base_layer().weight.data for layer in layers]
    try:
        with torch.no_grad():
            for layer, original in zip(layers, originals, strict=True):
                plain = layer.get_base_layer()
                plain.weight.data = original + layer.get_delta_weight(adapter).to(original.dtype)
                layer.forward = plain.forward  # past PEFT's own, which would add the product once more
        yield
    finally:
        for layer, original in zip(layers, originals, strict=True):
            layer.__dict__.pop("forward", None)
            layer.get_base_layer().weight.data = original


def draw_anew(model: PeftModel, adapter: str) -> None:
    """Draws a new adapter into the place of the old one: the same numbers as PEFT gives a new one, a good deal sooner.

    PEFT makes two linear layers, each of which draws its weights, and then draws A again and sets B to 0. All is drawn
    from torch's global generator.

    Args:
        model: The shared model with its adapters.
        adapter: Which one.
    """
    with torch.no_grad():
        for layer in _layers(model, adapter):
            a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
            drawn = torch.empty(a.shape)  # on the CPU, as PEFT does, whatever the device
            for new in (drawn, torch.empty(b.shape), drawn):
                torch.nn.init.kaiming_uniform_(new, a=math.sqrt(5))
            a.copy_(drawn)
            b.zero_()
            a.grad = b.grad = None


def _layers(model: PeftModel, adapter: str) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, LoraLayer) and adapter in m.lora_A]
