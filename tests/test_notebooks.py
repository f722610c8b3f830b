"""The notebooks run as they stand, and what they show is what running them gives."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "leaderboard"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))
LARGEST = 150_000
"""Of a notebook with its outputs, in bytes."""

nbclient = pytest.importorskip("nbclient", reason="nbclient, which runs notebooks, is not installed")
pytest.importorskip("ipykernel", reason="ipykernel, in which notebooks run, is not installed")
import nbformat  # noqa: E402 (comes with nbclient)


def shown(notebook) -> list[str]:
    """Returns the texts that each cell shows; pictures and warnings are left out."""
    texts = []
    for cell in notebook.cells:
        text = ""
        # What is printed comes in pieces, cut where time cuts it.
        for output in cell.get("outputs", ()):
            if output.output_type == "stream" and output.name == "stdout":
                text += output.text
            else:
                text += output.get("data", {}).get("text/plain", "")
        texts.append(text)
    return texts


def test_there_are_notebooks() -> None:
    assert "analysis.ipynb" in NOTEBOOKS


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_shows_what_is_stored(name: str) -> None:
    path = FOLDER / name
    assert path.stat().st_size < LARGEST
    stored = nbformat.read(path, as_version=4)
    run = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(run, timeout=300, kernel_name="python3", resources={"metadata": {"path": FOLDER}}).execute()
    assert shown(run) == shown(stored)
