"""Every provider that isolates and works here."""

import shutil

import pytest

from dgym.sandbox import Limits, Program, SandboxError, find_sandbox
from tests.sandbox.programs import NORMAL, is_normal, may_fork


@pytest.fixture(scope="session", params=["namespaces", pytest.param("bubblewrap", marks=pytest.mark.slow)])
def sandbox(request):
    if request.param == "bubblewrap" and not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed")
    try:
        return find_sandbox(request.param)
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture
def grade(sandbox):
    """Runs one hostile program and a normal one after it, which must be graded normally."""

    def run(source, function="", arguments=((),), stdin="", **limits):
        limits = {"cpu_seconds": 1.0, "wall_seconds": 5.0, **limits}
        program = Program(source, function, arguments if function else (), stdin, Limits(**limits))
        outcome, after = sandbox.run([program, NORMAL])
        assert is_normal(after)
        assert is_normal(sandbox.run([NORMAL])[0])
        return outcome

    return run


@pytest.fixture
def forks(sandbox):
    if not may_fork(sandbox):
        pytest.skip("programs may not start processes here")
