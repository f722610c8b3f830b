"""How a student is trained: one small frozen config, without torch."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

VERSION: Final = "2"
"""Of training and answering: bumped whenever the same recipe on the same weights would give other answers."""


class Recipe(BaseModel):
    """Supervised fine-tuning on the kept examples, loss on the response only.

    The defaults are those of the students that ship. `Recipe.paper()` gives the paper's.

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

    @classmethod
    def paper(cls) -> Recipe:
        """The recipe of DataEnvGym for language models (Khan et al. 2025)."""
        return cls(rank=16, alpha=32, dropout=0.05, learning_rate=1e-4, epochs=3, batch=16, warmup=0.1, cutoff=1024)
