"""Why a process died, as far as Ray tells."""

from __future__ import annotations

from dgym.cluster.deaths import cause


def test_a_cause_is_named_in_a_sentence() -> None:
    assert (
        cause(RuntimeError("x The actor is dead because it was killed by `ray.kill`.\n"))
        == "it was killed by `ray.kill`."
    )
    low = "2 worker(s) were killed due to the node running low on memory. Memory on the node was 6.01GB"
    assert cause(RuntimeError(low)).startswith("out of memory; run with fewer")
    owner = "The actor is dead because its owner has died. Owner worker exit type: NODE_OUT_OF_MEMORY Worker"
    assert cause(RuntimeError(owner)).startswith("out of memory; run with fewer")
    assert cause(RuntimeError("killed by the OOM killer due to high memory usage")).startswith("probably out of memory")
