"""What calls cost: a table of prices by model, which a person can extend."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dgym.errors import UsageError

SHIPPED = Path(__file__).parent / "prices.toml"
"""The prices that ship. Prices change; yours win."""


class Price(BaseModel):
    """Rates of one model, in US dollars per million tokens.

    Attributes:
        read: Of tokens read (`in` in the file).
        written: Of tokens written (`out` in the file).
        cached: Of tokens that the provider had read before; the rate of `read` unless given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    read: float = Field(alias="in", ge=0)
    written: float = Field(alias="out", ge=0)
    cached: float | None = Field(default=None, ge=0)

    def of(self, tokens_in: int, tokens_out: int, tokens_cached: int = 0) -> float:
        """Returns the price of a call in US dollars; cached tokens are among those read."""
        cached = self.read if self.cached is None else self.cached
        dear = max(0, tokens_in - tokens_cached)
        return (dear * self.read + tokens_cached * cached + tokens_out * self.written) / 1e6


def price_of(model: str) -> Price | None:
    """Returns a model's price, or `None` where nobody knows it.

    Args:
        model: Its full name, such as `"openai:gpt-4o-2024-08-06"` or `"vllm:Qwen/Qwen3-8B"`.

    Raises:
        UsageError: If the file that `$DGYM_PRICES` names cannot be read or is malformed.
    """
    table = _table(os.environ.get("DGYM_PRICES", ""))
    provider, colon, bare = model.partition(":")
    for name in (model, bare if colon else model, provider + colon if colon else model):
        if name in table:
            return table[name]
    # The longest name of which this is a dated version.
    bare = bare if colon else model
    known = [name for name in table if bare.startswith(f"{name}-") and bare[len(name) + 1 :][:1].isdigit()]
    return table[max(known, key=len)] if known else None


@lru_cache(maxsize=4)
def _table(own: str) -> Mapping[str, Price]:
    table = _read(SHIPPED)
    return table | _read(Path(own)) if own else table


def _read(path: Path) -> dict[str, Price]:
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8"))
        return {name: Price.model_validate(row) for name, row in rows.items()}
    except OSError as error:
        raise UsageError(f"The price table {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f'The price table {path} is malformed; an entry is ["MODEL"] with in = and out = in US dollars per '
            f"million tokens: {reason}"
        ) from error
