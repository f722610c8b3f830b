"""How Ray tells that a process died, and why it did."""

from __future__ import annotations

from typing import Final

import ray

# Ray tells of a dead process in several ways, depending on where it notices. A result that was lost with it counts too:
# asking again is harmless, as training and answers are deterministic.
DIED: Final = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.ActorUnschedulableError,
)

FEWER: Final = "run with fewer --per-host or --hosts."
"""What helps where memory does not suffice."""


def out_of_memory(text: str) -> bool:
    """Whether Ray says of a process that it, or the one that had started it, was killed to free memory."""
    return "running low on memory" in text or "NODE_OUT_OF_MEMORY" in text


def cause(error: Exception) -> str:
    """Says in a sentence why a process died, as far as Ray tells, and what may help."""
    text = " ".join(str(error).split())
    if "creation task" in text and "InfrastructureError: " in text:
        return text.rpartition("InfrastructureError: ")[2]  # it refused to start, and says why
    if out_of_memory(text):
        return f"out of memory; {FEWER}"
    if "memory" in text:  # also in the list of common causes that Ray writes where it saw none
        return f"probably out of memory; {FEWER}"
    reason = text.partition("The actor is dead because ")[2] or text
    return f"{reason[:200].rstrip('.')}."
