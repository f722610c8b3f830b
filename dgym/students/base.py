"""A resident base model and its tenants: many students on one set of weights.

A `Base` is loaded once. Every tenant is one episode's student: a LoRA adapter on the shared base, or, for full
fine-tuning, a copy of its own. Opening a tenant, training and answering never reload the base.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.utils import logging as transformers_logging

from dgym.cache import cache_folder
from dgym.core import Example, Problem, derive_seed, digest
from dgym.errors import StudentError
from dgym.models.prompts import Prompts
from dgym.models.recipe import Recipe
from dgym.models.text import Encoded, generate
from dgym.models.train import fine_tune

_WEIGHTS = "student.safetensors"

MERGE_LIMIT: Final = 2**30
"""Largest base, in bytes of adapted weights, of which a merged copy is held while answering."""


class Base:
    """A causal language model, with or without eyes, that stays loaded.

    Not thread-safe by itself: a tenant holds the base's lock while it trains or answers.

    Args:
        path: Folder with weights and tokenizer, or a hub id.
        digest: Identifies the weights.
        device: Such as `"cpu"` or `"cuda:0"`.
        precision: Such as `"float32"`.

    Raises:
        StudentError: If the model cannot be loaded.
    """

    def __init__(self, path: str, digest: str, device: str = "cpu", precision: str = "float32") -> None:
        transformers_logging.disable_progress_bar()
        try:
            vision = getattr(AutoConfig.from_pretrained(path), "vision_config", None)
            sees = vision is not None
            self.prompts = Prompts.load(path, sees, getattr(vision, "image_size", None))
            kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
            model = kind.from_pretrained(path, dtype=getattr(torch, precision))
        except (OSError, ValueError) as error:
            raise StudentError(f"The student {path!r} cannot be loaded: {error}") from error
        self.model: Any = model.to(device).eval()
        self.model.requires_grad_(False)
        self.digest, self.device, self.precision = digest, device, precision
        self.lock = threading.RLock()
        self.peft: PeftModel | None = None
        self.opened = 0

    @property
    def bytes(self) -> int:
        """Memory of the weights, in bytes."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.prompts.tokenizer

    def encode(self, example: Example) -> Encoded:
        """Encodes a training example: the prompt as in answering, then the response and the end."""
        prompt = self.prompts.encode(example.prompt, example.images)
        return Encoded(prompt.ids, self.prompts.response(example.response), prompt.extras)

    def open(self, recipe: Recipe, variant: str) -> Tenant:
        """Opens a new student on this base."""
        with self.lock:
            self.opened += 1
            return Tenant(self, recipe, variant, f"tenant-{self.opened}")


class Tenant:
    """One episode's student; see `dgym.core.Student`.

    Args:
        base: The shared model.
        recipe: How it is trained.
        variant: Name of the student's variant; training randomness derives from it too.
        name: Unique among the base's tenants.
    """

    def __init__(self, base: Base, recipe: Recipe, variant: str, name: str) -> None:
        self._base, self._recipe, self._variant, self._name = base, recipe, variant, name
        self._trained = False
        self._own: Any = None  # the copy of a fully fine-tuned student

    def train(self, examples: Sequence[Example], *, seed: int, fresh: bool) -> Mapping[str, float]:
        """Trains on the examples; see `dgym.core.Student.train`."""
        base, recipe = self._base, self._recipe
        with base.lock:
            seed = derive_seed(seed, self._variant, recipe.model_dump_json())
            if fresh:
                self._forget()
            encoded = [base.encode(e) for e in examples]
            fitting = [e for e in encoded if len(e) <= recipe.cutoff]
            cut = float(len(encoded) - len(fitting))
            if not fitting:
                return {"loss": 0.0, "steps": 0.0, "tokens": 0.0, "cut": cut}
            model = self._ready(seed)
            parameters = [p for p in model.parameters() if p.requires_grad]
            try:
                report = fine_tune(model, parameters, fitting, recipe, base.tokenizer.pad_token_id, seed)
            finally:
                self._rest()
            self._trained = True
            return {**report, "cut": cut}

    def answer(self, problems: Sequence[Problem]) -> list[str]:
        """Answers greedily; the untrained student's answers are computed once and kept on disk."""
        if not problems:
            return []
        if self._trained:
            return self._answer(problems)
        base = self._base
        key = digest(
            [
                "answers-2",
                base.digest,
                base.device.partition(":")[0],
                base.precision,
                torch.get_num_threads(),
                torch.__version__,
                self._recipe.max_new_tokens,
                [[p.prompt, *(hashlib.blake2b(i, digest_size=16).hexdigest() for i in p.images)] for p in problems],
            ]
        )
        path = cache_folder() / "answers" / f"{key}.json"
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            stored = None
        if isinstance(stored, list) and len(stored) == len(problems):
            return stored
        answers = self._answer(problems)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}.tmp")
            partial.write_text(json.dumps(answers), encoding="utf-8")
            partial.replace(path)
        except OSError:
            pass  # a cache that cannot be written costs time, nothing else
        return answers

    def save(self, path: str) -> None:
        """Writes adapter or weights as safetensors into the folder `path`."""
        Path(path).mkdir(parents=True, exist_ok=True)
        with self._base.lock:
            state = self._state()
            save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, Path(path) / _WEIGHTS)

    def load(self, path: str) -> None:
        """Restores what `save` wrote.

        Raises:
            StudentError: If there is nothing usable.
        """
        try:
            state = load_file(Path(path) / _WEIGHTS)
        except Exception as error:
            raise StudentError(f"No student can be loaded from {path!r}: {error}") from error
        with self._base.lock:
            self._forget()
            if not state:
                return
            model = self._ready(0)
            if self._recipe.method == "full":
                model.load_state_dict(state, strict=False)
            else:
                set_peft_model_state_dict(model, state, adapter_name=self._name)
            self._rest()
            self._trained = True

    def close(self) -> None:
        """Gives back the adapter's or the copy's memory."""
        with self._base.lock:
            self._forget()

    def _answer(self, problems: Sequence[Problem]) -> list[str]:
        base = self._base
        with base.lock:
            model = self._ready(None)
            tokenizer = base.tokenizer
            prompts = [base.prompts.encode(p.prompt, p.images) for p in problems]
            limit = self._recipe.max_new_tokens
            adapted = self._recipe.method == "lora" and self._trained
            try:
                with merged(model, self._name) if adapted else nullcontext():
                    out = generate(model, prompts, tokenizer.pad_token_id, tokenizer.eos_token_id, limit)
            finally:
                self._rest()
            texts: list[str] = tokenizer.batch_decode(out, skip_special_tokens=True)
            return texts

    def _ready(self, seed: int | None) -> Any:
        """Returns the model as this tenant sees it; with a seed, ready to be trained."""
        base = self._base
        if self._recipe.method == "full":
            if self._own is None and seed is not None:
                self._own = copy.deepcopy(_plain(base)).requires_grad_(True)
            return self._own if self._own is not None else self._untrained()
        if base.peft is not None and self._name in base.peft.peft_config:
            base.peft.set_adapter(self._name, inference_mode=seed is None)
            return base.peft
        if seed is None:
            return self._untrained()
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=self._recipe.rank,
            lora_alpha=self._recipe.alpha,
            lora_dropout=self._recipe.dropout,
            target_modules="all-linear",
        )
        # Adapter weights are drawn from the global generator; nobody else may notice.
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if base.peft is None:
                base.peft = get_peft_model(base.model, config, adapter_name=self._name)
            else:
                base.peft.add_adapter(self._name, config)
        base.peft.set_adapter(self._name)
        return base.peft

    def _untrained(self) -> Any:
        if self._base.peft is not None:
            self._base.peft.base_model.disable_adapter_layers()
            return self._base.peft
        return self._base.model

    def _rest(self) -> None:
        """Leaves the shared model as an untrained one would be found."""
        if self._base.peft is not None:
            self._base.peft.base_model.enable_adapter_layers()
            self._base.peft.eval()

    def _forget(self) -> None:
        self._own = None
        self._trained = False
        peft = self._base.peft
        if peft is not None and self._name in peft.peft_config:
            if len(peft.peft_config) == 1:
                # PEFT cannot be left without an adapter.
                self._base.model = peft.unload()
                self._base.peft = None
            else:
                peft.delete_adapter(self._name)

    def _state(self) -> dict[str, torch.Tensor]:
        if not self._trained:
            return {}
        if self._recipe.method == "full":
            # Tied weights are stored once.
            state = self._own.state_dict()
            return {k: v for k, v in state.items() if k not in set(getattr(self._own, "_tied_weights_keys", ()) or ())}
        adapter: dict[str, torch.Tensor] = get_peft_model_state_dict(self._base.peft, adapter_name=self._name)
        return adapter


@contextmanager
def merged(model: PeftModel, adapter: str) -> Iterator[None]:
    """Answers with an adapter's product added to the weights, which takes one multiplication a layer instead of three.

    The base's own weights are set aside and put back: subtracting the product again would not give the same bits.

    Args:
        model: The shared model with its adapters.
        adapter: Which one; it must be active.
    """
    layers = [m for m in model.modules() if isinstance(m, LoraLayer) and adapter in m.lora_A]
    if sum(layer.get_base_layer().weight.nbytes for layer in layers) > MERGE_LIMIT:
        yield
        return
    originals = [layer.get_base_layer().weight.data for layer in layers]
    try:
        for layer in layers:
            layer.merge(safe_merge=True, adapter_names=[adapter])  # into a copy
        yield
    finally:
        for layer, original in zip(layers, originals, strict=True):
            layer.get_base_layer().weight.data = original
            layer.merged_adapters.clear()


def _plain(base: Base) -> Any:
    """Returns the base without adapters, to be copied."""
    if base.peft is None:
        return base.model
    plain = copy.deepcopy(base.peft)
    return plain.unload()
