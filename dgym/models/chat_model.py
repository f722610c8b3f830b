"""A causal language model that answers messages: from a folder, a `.gguf` file, or the Hugging Face hub.

It is for small models; large ones belong on a server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

import torch

from dgym.errors import InfrastructureError, StudentError, UsageError, one_line
from dgym.models.load import load_model, locate


class PromptTooLongError(Exception):
    """The messages leave no room for an answer."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a model wrote.

    Attributes:
        text: Without special tokens.
        cut: Whether it was cut at the token limit.
        tokens_in: Tokens read.
        tokens_out: Tokens written.
    """

    text: str
    cut: bool
    tokens_in: int
    tokens_out: int


class ChatModel:
    """A loaded model. Threads may share it: it answers one call at a time.

    Args:
        name: What it was loaded from, for messages.
        tokenizer: Its tokenizer, which has a chat template.
        model: The model of transformers.

    Raises:
        UsageError: If the tokenizer has no chat template.
    """

    def __init__(self, name: str, tokenizer: Any, model: Any) -> None:
        from transformers import GenerationConfig

        if not tokenizer.chat_template:
            raise UsageError(f"{name!r} has no chat template: name a model that was tuned to follow instructions.")
        self._name, self._tokenizer, self._model, self._lock = name, tokenizer, model.eval(), Lock()
        own = model.generation_config
        end = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
        self._ends = set(end if isinstance(end, list) else [end]) - {None}
        # The model's own settings would win over what is passed: temperature, penalties, sampling.
        model.generation_config = GenerationConfig(
            bos_token_id=own.bos_token_id,
            eos_token_id=sorted(self._ends) or None,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else max(self._ends, default=0),
        )

    @torch.inference_mode()
    def answer(
        self, messages: Sequence[tuple[str, str]], *, max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> Answered:
        """Answers; on one machine, the same arguments give the same text.

        Args:
            messages: Role and text of each.
            max_tokens: Most tokens to write; fewer where the model's context ends sooner.
            temperature: Of sampling; 0 is greedy.
            seed: Seed of the sampling.

        Raises:
            PromptTooLongError: If the messages fill the context.
            UsageError: If the chat template does not take them.
            InfrastructureError: If the model fails, for example for want of memory.
        """
        prompt = self._encoded(messages)
        read = prompt["input_ids"].shape[1]
        context = int(getattr(self._model.config, "max_position_embeddings", 0) or 0)
        room = min(max_tokens, context - read) if context else max_tokens
        if room < 1:
            raise PromptTooLongError(f"it has {read} tokens, and the context {context}.")
        with self._lock:
            try:
                out = self._model.generate(
                    **{key: value.to(self._model.device) for key, value in prompt.items()},
                    max_new_tokens=room,
                    do_sample=False,
                    logits_processor=[_Noise(temperature, seed)] if temperature else [],
                )
            except RuntimeError as error:
                raise InfrastructureError(f"The language model {self._name!r} failed: {one_line(error)}") from error
        written = out[0, read:].tolist()
        text = str(self._tokenizer.decode(written, skip_special_tokens=True))
        return Answered(text, not self._ends & set(written[-1:]), read, len(written))

    def _encoded(self, messages: Sequence[tuple[str, str]]) -> dict[str, torch.Tensor]:
        from jinja2 import TemplateError

        said = [{"role": role, "content": content} for role, content in messages]
        for form in (said, _without_system(said)):
            try:
                made = self._tokenizer.apply_chat_template(
                    form, add_generation_prompt=True, return_tensors="pt", return_dict=True
                )
                return {key: made[key] for key in ("input_ids", "attention_mask")}
            except TemplateError as error:  # some templates know no system messages
                refused = error
        raise UsageError(f"The chat template of {self._name!r} does not take the messages: {one_line(refused)}")


class _Noise:
    """Adds Gumbel noise to the logits, whose largest then is a sample at the temperature.

    Unlike the sampling of transformers it does not draw from torch's global generator, which students in the same
    process use at the same time.
    """

    def __init__(self, temperature: float, seed: int) -> None:
        self._temperature = temperature
        # On the CPU the numbers are the same whatever the model runs on.
        self._generator = torch.Generator("cpu").manual_seed(seed % 2**63)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        uniform = torch.rand(scores.shape, generator=self._generator, dtype=torch.float64)
        noise = -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))
        return scores.double() / self._temperature + noise.to(scores.device)


def _without_system(messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Puts what the system says in front of the message after it."""
    out: list[dict[str, str]] = []
    waiting = ""
    for message in messages:
        if message["role"] == "system":
            waiting += f"{message['content']}\n\n"
        else:
            out.append({**message, "content": waiting + message["content"]})
            waiting = ""
    return out


_LOADING = Lock()


def chat_model(model: str) -> ChatModel:
    """Returns a model, loaded once and kept until two others were asked for.

    It is put on a GPU where there is one.

    Args:
        model: See `dgym.models.load`.

    Raises:
        UsageError: If there is no such model, if it cannot be loaded, or if it cannot answer messages.
        InfrastructureError: If it cannot be downloaded or unpacked.
    """
    with _LOADING:
        return _load(model)


@lru_cache(maxsize=2)
def _load(model: str) -> ChatModel:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        loaded = load_model(locate(model), device)
    except StudentError as error:
        raise UsageError(str(error)) from error  # a person named it as a teacher
    return ChatModel(model, loaded.prompts.tokenizer, loaded.model)
