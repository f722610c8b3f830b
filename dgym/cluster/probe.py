"""Looks at a Ray cluster from outside, without joining it: `python -m dgym.cluster.probe ADDRESS` prints JSON.

It runs in a process of its own, which whoever asks can end: Ray's client tries for long, and prints as it likes. With
`RAY_AUTH_MODE=disabled` it asks as somebody without a token would.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import ray
from ray._common.usage.usage_lib import get_cluster_metadata
from ray._private import ray_constants, services
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from dgym.errors import one_line


def look(address: str) -> dict[str, Any]:
    """Returns what a cluster tells of itself.

    Args:
        address: `host:port`, or `"auto"` for what Ray itself would find.

    Returns:
        `error`, which is empty where it answered, and `denied`, whether a token was missing or wrong; and, as far as
        they are known, `address`, `ray` and `python` (versions), `nodes`, and `dashboard`, where that listens.
    """
    found: dict[str, Any] = {"error": "", "denied": False}
    try:
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)  # as `ray.init` does
        found["address"] = services.canonicalize_bootstrap_address(address)
        if not found["address"]:
            raise ConnectionError("no Ray was found on this machine, and $RAY_ADDRESS names none")
        client = GcsClient(address=found["address"])
        about = get_cluster_metadata(client)
        found |= {"ray": about["ray_version"], "python": about["python_version"]}
        found["nodes"] = sum(info.state == 0 for info in client.get_all_node_info().values())
        place = client.internal_kv_get(
            ray_constants.DASHBOARD_ADDRESS.encode(), namespace=ray_constants.KV_NAMESPACE_DASHBOARD
        )
        found["dashboard"] = place.decode() if place else ""
    except ray.exceptions.AuthenticationError:
        found |= {"error": "it asks for a token, and was given none or a wrong one", "denied": True}
    except Exception as error:
        found["error"] = one_line(error)[:300]
    return found


if __name__ == "__main__":
    seen = json.dumps(look(sys.argv[1]))
    sys.stdout.write(f"\n{seen}\n")
    sys.stdout.flush()
    os._exit(0)  # not held up by Ray's threads
