"""A run whose processes are killed gives the rows of a calm one: `make chaos`, made small."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from dgym import results
from tests.rows import assert_same_rows

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "chaos.py"

SUITE = """
name = "small"
threads = 1
rules = { iterations = 2, share = 0.04, budget = { examples_per_iteration = 16 } }
cells = [{ domain = "fake", student = "fake" }]
entries = [
    { teachers = ["uniform", "weakness", "random"], environments = ["open-ended", "skill-list", "skill-tree"] },
    { teachers = ["agent@model"], environments = ["skill-list"] },
]
"""


@pytest.fixture(scope="module")
def chaos():
    spec = importlib.util.spec_from_file_location("chaos", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["chaos"] = module  # where its dataclasses are looked for
    spec.loader.exec_module(module)
    yield module
    del sys.modules["chaos"]


def test_whatever_is_killed_the_rows_are_those_of_a_calm_run(chaos, tmp_path: Path) -> None:
    suite = tmp_path / "small.toml"
    suite.write_text(SUITE)
    more = ("--seeds", "1-8")
    with chaos.serving(tmp_path, 0, ()) as port:
        chaos.calm(suite, tmp_path / "calm", *more)
    with chaos.serving(tmp_path, port, chaos.FAULTS):
        run = chaos.Disturbed(suite, tmp_path / "disturbed", 1, *more, "--max-hosts", "2", "--per-host", "2")
        run.run(10, delay=0.2)
    assert run.kills.keys() == chaos.SHARES.keys()
    assert run.starts >= 2
    assert_same_rows(tmp_path / "calm", tmp_path / "disturbed")
    chaos.compare(tmp_path / "calm", tmp_path / "disturbed")


def test_runs_that_differ_are_told_apart(chaos, tmp_path: Path) -> None:
    suite = tmp_path / "small.toml"
    suite.write_text(SUITE.replace("agent@model", "bandit"))
    for name, seeds in (("one", "1"), ("other", "2")):
        chaos.calm(suite, tmp_path / name, "--seeds", seeds)
    assert len(results.open(tmp_path / "one").episodes) > 1
    with pytest.raises(SystemExit, match="differ in the table episodes"):
        chaos.compare(tmp_path / "one", tmp_path / "other")
