"""How a student is trained: one small frozen config, without torch."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dgym.errors import UsageError, unknown_name

VERSION: Final = "2"
"""Of training and answering: bumped whenever the same recipe on the same weights would give other answers."""


def _later(default: Any, **limits: Any) -> Any:
    """A field that came after results had been published: at its default it does not show in a digest."""
    return Field(default=default, exclude_if=lambda value: value == default, **limits)


class Recipe(BaseModel):
    """How a student learns from the kept examples, loss on the response only.

    The defaults are those of the students that ship. `Recipe.preset("paper")` gives the paper's; where a recipe is read
    from a file, `recipe = "paper"` or `recipe = { preset = "paper", epochs = 2 }` does.

    Attributes:
        method: `"lora"` trains low-rank adapters on all linear layers, `"full"` all weights.
        rank: LoRA rank.
        alpha: LoRA scale, divided by the rank.
        dropout: LoRA dropout, in [0, 1).
        learning_rate: Peak learning rate of AdamW.
        epochs: Passes over the data.
        batch: Examples per optimizer step.
        warmup: Share of the steps in which the rate rises linearly; it then falls as a cosine to 0.
        cutoff: Longest example, in tokens; longer ones are left out and counted.
        max_new_tokens: Longest answer, in tokens.
        objective: `"sft"` learns the responses; `"dpo"` learns to prefer an example's response to its rejected one
            (direct preference optimisation, Rafailov et al. 2023), and leaves plain examples out.
        beta: DPO: how strongly the student is held to what it was before the training.
        micro_batch: Examples per forward pass; gradients add up to those of a whole batch. Unset: the batch, and half
            of it, and so on, when memory does not suffice.
        checkpointing: Whether activations are computed again in the backward pass instead of being kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["lora", "full"] = "lora"
    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    epochs: int = Field(default=3, ge=1)
    batch: int = Field(default=16, ge=1)
    warmup: float = Field(default=0.1, ge=0, le=1)
    cutoff: int = Field(default=256, ge=2)
    max_new_tokens: int = Field(default=48, ge=1)
    objective: Literal["sft", "dpo"] = _later("sft")
    beta: float = _later(0.1, gt=0)
    micro_batch: int | None = _later(None, ge=1)
    checkpointing: bool = _later(False)

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, values: Any) -> Any:
        """Takes a preset's name, or fields with a `preset` that they change."""
        given = {"preset": values} if isinstance(values, str) else values
        if not isinstance(given, dict) or "preset" not in given:
            return values
        name = str(given["preset"])
        if name not in PRESETS:
            raise unknown_name("recipe", name, PRESETS)
        return {**PRESETS[name], **{k: v for k, v in given.items() if k != "preset"}}

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Recipe:
        """Returns a recipe by name, with some fields changed.

        Args:
            name: One of `PRESETS`.
            changes: Fields that differ from it.

        Raises:
            UsageError: If there is no such preset, or if a field does not exist or is out of range.
        """
        try:
            return cls.model_validate({"preset": name, **changes})
        except ValidationError as error:
            first = error.errors()[0]
            field = str(first["loc"][0])
            if first["type"] == "extra_forbidden":
                raise unknown_name("field of a recipe", field, cls.model_fields) from error
            raise UsageError(f"The recipe's field {field!r}: {first['msg']}.") from error


_PAPER: Final[dict[str, Any]] = {"dropout": 0.05, "learning_rate": 1e-4, "cutoff": 1024, "max_new_tokens": 512}

PRESETS: Final[dict[str, dict[str, Any]]] = {
    "default": {},
    "paper": _PAPER,
    "paper-vqa": {**_PAPER, "learning_rate": 2e-5, "max_new_tokens": 32},
    "paper-dpo": {**_PAPER, "learning_rate": 2e-5, "max_new_tokens": 32, "objective": "dpo"},
    "pretrained": {"learning_rate": 1e-3, "epochs": 2, "cutoff": 512, "max_new_tokens": 24},
}
"""Recipes by name, as what differs from the defaults.

`paper` and `paper-vqa` are those of DataEnvGym (Khan et al. 2025): LoRA of rank 16 and alpha 32 on all linear layers,
dropout 0.05, learning rate 1e-4 (vision 2e-5), cosine with a tenth of warm-up, 3 epochs, batches of 16, cutoff 1024.
`paper-dpo` has the same with preference pairs; of the paper's own variant only its existence is known. `pretrained` is
for small pretrained students and short answers.
"""
