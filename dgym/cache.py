"""Where results that take long are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Returns `$DGYM_CACHE`, else `dgym` in the user's cache folder."""
    root = os.environ.get("DGYM_CACHE")
    return Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dgym"
