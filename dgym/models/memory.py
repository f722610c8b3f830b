"""Going on when memory does not suffice: the same work in smaller parts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import torch

from dgym.errors import StudentError, one_line

T = TypeVar("T")

_SAYS_SO: Final = re.compile(r"out of memory|can't allocate memory|not enough memory|cannot allocate memory", re.I)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory did not suffice, on an accelerator or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_SAYS_SO.search(str(error)))


def sized(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Cuts a sequence into parts of at most `size`."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def halving(work: Callable[[int], T], size: int, model: Any, failing: str) -> tuple[T, int]:
    """Does work in parts of at most `size`, or of half that, and so on, until memory suffices.

    Args:
        work: Given the size of its parts; what it had done is done again.
        size: At first.
        model: On whose device it runs.
        failing: What to say when parts of one do not fit: what does not, and what to do.

    Returns:
        The result, and the size that sufficed.

    Raises:
        StudentError: If memory does not suffice for parts of one.
    """
    while True:
        try:
            return work(size), size
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if size <= 1:
                raise StudentError(f"{failing} ({one_line(error)[:160]})") from None
        # Outside of the handler, which keeps the tensors of the failed attempt alive.
        size = size // 2
        if model.device.type == "cuda":
            torch.cuda.empty_cache()
