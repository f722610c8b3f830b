"""What a plain import and `dgym --help` load: nothing heavy."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "transformers", "peft", "reasoning_gym", "pandas", "pyarrow")

HELP = """
sys.argv = ["dgym", "--help"]
from dgym.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
"""


def loaded(code):
    report = f"import sys\n{code}\nprint('loaded:', *sorted({set(HEAVY)} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return done.stdout.rpartition("loaded:")[2].split()


def test_the_probe_can_see_a_heavy_module():
    assert loaded("import pyarrow") == ["pyarrow"]


@pytest.mark.parametrize(
    "code",
    [
        "import dgym",
        "import dgym.checks, dgym.episode, dgym.gym, dgym.registry, dgym.specs",
        "from dgym import registry\n[registry.names(k) for k in registry.KINDS]",
        HELP,
    ],
    ids=["import", "modules", "registry", "help"],
)
def test_nothing_heavy_is_loaded(code):
    assert loaded(code) == []


def test_what_runs_episodes_comes_without_what_makes_frames():
    assert loaded("import dgym.bench, dgym.results") == ["pyarrow"]
    assert "pandas" in loaded("import dgym.results\ndgym.results.columns")


def test_what_results_offer_is_there_and_nothing_else():
    from dgym import results

    assert all(callable(getattr(results, name)) for name in results.__all__)
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        results.opne  # noqa: B018


def test_make_is_found_lazily_and_others_are_not():
    import dgym

    assert callable(dgym.make)
    with pytest.raises(AttributeError, match="no attribute 'mak'"):
        dgym.mak  # noqa: B018
    assert sorted(dgym.__all__, key=str.lower) == sorted(set(dgym.__all__), key=str.lower)
    assert all(hasattr(dgym, name) for name in dgym.__all__)
