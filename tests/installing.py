"""Installing a package as pip would, without pip and without a network: its wheel is built and unpacked."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path


def install(package: Path, site: Path, build: Path) -> None:
    """Builds the wheel of a package, from a copy so that nothing is left in it, and unpacks it into a folder.

    Args:
        package: The folder with `pyproject.toml`, which names hatchling as its build system.
        site: The folder that stands for site-packages.
        build: A folder for the copy, which must not exist.
    """
    shutil.copytree(package, build, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "out"]
    subprocess.run(words, cwd=build, check=True, capture_output=True)
    (wheel,) = (build / "out").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
