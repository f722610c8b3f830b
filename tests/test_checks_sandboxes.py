"""The conformance checks of sandboxes: ours pass, `unsafe` is seen for what it is, and every kind of fault is found."""

import os
from dataclasses import replace

import pytest

from dgym import checks
from dgym.checks import sandboxes
from dgym.checks.sandboxes import check_sandbox
from dgym.sandbox import Returned, SandboxError
from dgym.sandbox.namespaces import Namespaces
from dgym.sandbox.unsafe import Unsafe

REACHED = {
    "programs reach no files of this machine",
    "programs see nothing of the environment",
    "programs reach no network",
    "programs neither see nor end other processes",
}


def failed(findings, *, warning=False):
    return [f"{f.name} | {f.detail}" for f in findings if not f.ok and f.warning == warning]


@pytest.fixture(scope="module")
def real():
    """Returns a provider that keeps outcomes, so that the same harmless program is run once only."""
    try:
        Namespaces().close()
    except SandboxError as error:
        pytest.skip(str(error))
    kept = {}

    class Kept(Namespaces):
        isolates = True

        def run(self, programs):
            new = [p for p in programs if repr(p) not in kept]
            for program, outcome in zip(new, super().run(new), strict=True):
                kept[repr(program)] = outcome
            return [self.tampered(p, kept[repr(p)]) for p in programs]

        def tampered(self, program, outcome):
            return outcome

    return Kept


@pytest.mark.parametrize("name", ["namespaces", pytest.param("bubblewrap", marks=pytest.mark.slow)])
def test_a_sandbox_that_ships_conforms(name):
    findings = checks.check("sandbox", name)
    if not findings[0].ok:
        pytest.skip(findings[0].detail)
    assert [f for f in findings if not f.ok] == []
    assert len(findings) > 25
    assert not [name for name, value in os.environ.items() if "canary" in value]


def test_without_isolation_it_is_said_what_programs_reach_and_who_pretends_fails():
    findings = checks.check("sandbox", "unsafe")
    assert failed(findings) == []
    warned = {f.name for f in findings if not f.ok}
    assert warned - {"the number of processes is limited"} == REACHED
    assert {f.name for f in findings if f.warning} >= REACHED

    class Pretending(Unsafe):
        isolates = True

    report = sandboxes.Report()
    with sandboxes._bait() as bait:
        sandboxes._Checks(report, Pretending())._isolation(bait)
    assert {f.name for f in report.findings if not f.ok and not f.warning} == REACHED


def test_what_cannot_be_started_is_a_finding():
    def broken():
        raise SandboxError("no namespaces here")

    (finding,) = check_sandbox(broken)
    assert (finding.ok, finding.detail) == (False, "no namespaces here")


def test_what_is_no_sandbox_is_a_finding():
    assert failed(check_sandbox(object))[0].startswith("it has a name")


TAMPERED = {
    "the arguments, in order": lambda p, o: replace(o, returned=o.returned[::-1]),
    "reads its input": lambda p, o: replace(o, stdout=""),
    "plain values": lambda p, o: replace(
        o, returned=tuple(Returned(r.ok, list(r.value)) if type(r.value) is tuple else r for r in o.returned)
    ),
    "a call that raises": lambda p, o: replace(o, returned=tuple(replace(r, ok=True) for r in o.returned)),
    "leaves early": lambda p, o: replace(o, status="done") if "exit(3)" in p.source else o,
    "the reason is said": lambda p, o: replace(o, error="") if o.status == "error" else o,
    "equals everything": lambda p, o: (
        replace(o, status="done", returned=(Returned(True, 2),)) if "__eq__" in p.source else o
    ),
    "cannot speak": lambda p, o: replace(o, status="done") if "done" in p.source and "_exit" in p.source else o,
    "elapsed time": lambda p, o: replace(o, status="killed") if "sleep(15)" in p.source else o,
    "memory": lambda p, o: replace(o, status="error") if "768" in p.source else o,
    "output": lambda p, o: replace(o, stdout=o.stdout * 100) if "4000" in p.source else o,
    "what is returned": lambda p, o: replace(o, status="done") if "100_000" in p.source else o,
    "number of processes": lambda p, o: (
        replace(o, status="done", returned=(Returned(True, 40),)) if "count" in p.function else o
    ),
    "size of a file": lambda p, o: (
        replace(o, status="done", returned=(Returned(True, 1 << 24),)) if "fill" in p.function else o
    ),
    "before a limit are kept": lambda p, o: replace(o, returned=()) if o.status == "time" else o,
    "a fresh process": lambda p, o: replace(o, stdout=o.stdout.replace("None", "x")),
    "reach no network": lambda p, o: (
        replace(o, returned=(Returned(True, ["127.0.0.1"]),)) if "connect" in p.function else o
    ),
}


@pytest.mark.parametrize("fault", TAMPERED)
def test_a_fault_in_what_comes_back_is_found(real, fault):
    kind = type("Broken", (real,), {"tampered": lambda self, p, o: TAMPERED[fault](p, o)})
    faults = failed(check_sandbox(kind))
    assert any(fault in f for f in faults), faults


def test_outcomes_in_another_order_are_found(real):
    class Sorted(real):
        def run(self, programs):
            return sorted(super().run(programs), key=str)[::-1]

    faults = failed(check_sandbox(Sorted))
    assert any("in their order" in f for f in faults), faults


def test_a_program_that_spoils_the_next_one_is_found(real):
    class Spoilt(real):
        spoilt = False

        def tampered(self, program, outcome):
            self.spoilt = self.spoilt or "sleep(15)" in program.source
            return replace(outcome, status="killed") if self.spoilt else outcome

    faults = failed(check_sandbox(Spoilt))
    assert any("elapsed time" in f and "a normal program after it ends with 'killed'" in f for f in faults), faults


def test_outcomes_that_threads_exchange_are_found(real):
    class Mixed(real):
        late = None

        def run(self, programs):
            found = super().run(programs)
            if len(programs) == 1 and "def f(x)" in programs[0].source:
                found, self.late = self.late or found, found
            return found

    assert any("serves several threads" in f for f in failed(check_sandbox(Mixed)))


def test_what_cannot_be_used_again_is_found(real):
    class Once(real):
        closed = False

        def run(self, programs):
            assert not self.closed
            return super().run(programs)

        def close(self):
            self.closed = True
            super().close()

    assert [f.partition(" |")[0] for f in failed(check_sandbox(Once))] == [
        "closed, even twice, it starts again when it is asked"
    ]
