"""Which sandbox is used, and what happens across threads, forks and pickles, or where none works."""

import os
import pickle
import shutil
import subprocess
import sys
import threading

import pytest

import dgym.sandbox
from dgym.errors import DgymError, UsageError
from dgym.sandbox import Limits, Program, SandboxError, find_sandbox, tier, verdict, worker
from tests.sandbox.programs import NORMAL, command_lines, is_normal


@pytest.fixture
def nothing_found(monkeypatch):
    monkeypatch.setattr(dgym.sandbox, "_found", {})
    monkeypatch.delenv("DGYM_SANDBOX", raising=False)


def test_importing_starts_nothing():
    code = (
        "import sys, dgym.sandbox; "
        "print([m for m in ('subprocess', 'ctypes', 'torch', 'numpy', 'dgym.sandbox.worker') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_it_is_found_once():
    assert find_sandbox() is find_sandbox()
    assert find_sandbox(find_sandbox().name) is find_sandbox()
    assert tier().startswith(find_sandbox().name + ": ")


def test_the_environment_names_it(monkeypatch):
    monkeypatch.setenv("DGYM_SANDBOX", "unsafe")
    assert find_sandbox().name == "unsafe"
    assert "no isolation" in tier()
    monkeypatch.setenv("DGYM_SANDBOX", "unsave")
    with pytest.raises(UsageError, match="unsafe"):
        find_sandbox()
    assert tier().startswith("none: ")


def test_unsafe_runs_programs_and_limits_them():
    sandbox = find_sandbox("unsafe")
    marker = f"sleepy{os.getpid()}"
    daemon = f"""
import os, time, ctypes
if not os.fork():
    os.setsid()
    ctypes.CDLL(None).prctl(15, b"{marker}")
    time.sleep(60)
time.sleep(0.2)
"""
    outcomes = sandbox.run(
        [
            NORMAL,
            Program("while True: pass", limits=Limits(cpu_seconds=0.2)),
            Program("x = bytearray(1 << 40)"),
            Program("while True: print('x' * 100)"),
            Program(daemon),
            NORMAL,
        ]
    )
    assert [o.status for o in outcomes] == ["done", "time", "memory", "output", "done", "done"]
    assert is_normal(outcomes[-1])
    assert not [line for line in command_lines() if marker.encode() in line]


def test_where_nothing_works_it_refuses_and_says_how_to_proceed(nothing_found, monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise SandboxError("new user namespace: Operation not permitted (EPERM)")

    monkeypatch.setattr("dgym.sandbox.namespaces.Worker", refuse)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DgymError) as caught:
        find_sandbox()
    for part in ("EPERM", "bubblewrap is not installed", "--unsafe", "DGYM_SANDBOX=unsafe"):
        assert part in str(caught.value)
    assert tier().startswith("none: ")
    # It never falls back to no isolation by itself, and does so when told.
    monkeypatch.setenv("DGYM_SANDBOX", "unsafe")
    assert is_normal(find_sandbox().run([NORMAL])[0])


def test_the_settings_that_forbid_namespaces_are_named(monkeypatch, tmp_path):
    folder = tmp_path / "kernel"
    folder.mkdir()
    (folder / "apparmor_restrict_unprivileged_userns").write_text("1\n")
    (folder / "unprivileged_userns_clone").write_text("1\n")
    real = worker.Path
    monkeypatch.setattr(worker, "Path", lambda *parts: real(*(tmp_path if p == "/proc/sys" else p for p in parts)))
    assert "sysctl kernel.apparmor_restrict_unprivileged_userns=0" in worker.hints()
    assert "unprivileged_userns_clone" not in worker.hints()


def test_a_helper_that_cannot_isolate_is_refused(nothing_found, monkeypatch):
    # The real helper in a place where the kernel really refuses: no user namespace may be made below this one.
    code = (
        "import os; from pathlib import Path; Path('/proc/sys/user/max_user_namespaces').write_text('0');"
        "os.environ['PATH'] = '/nowhere';"  # as root, bubblewrap needs no user namespace
        "from dgym.sandbox import tier; print(tier())"
    )
    words = ["unshare", "--user", "--map-root-user", sys.executable, "-c", code]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if done.returncode:
        pytest.skip(done.stderr)
    assert done.stdout.startswith("none: ")
    assert "sysctl user.max_user_namespaces" in done.stdout
    assert "DGYM_SANDBOX=unsafe" in done.stdout


def test_a_provider_that_gives_wrong_results_is_refused(nothing_found, monkeypatch):
    class Broken:
        name = "broken"
        closed = False

        def run(self, programs):
            from dgym.sandbox import Outcome

            return [Outcome("done") for _ in programs]

        def close(self):
            Broken.closed = True

    monkeypatch.setattr(dgym.sandbox.registry, "load", lambda kind, name: Broken)
    with pytest.raises(SandboxError, match="trial program"):
        find_sandbox()
    assert Broken.closed


def test_many_threads_share_it(sandbox):
    results = {}

    def use(number):
        programs = [Program("def f(x): return x", "f", ((number * 100 + i,),)) for i in range(5)]
        outcomes = sandbox.run(programs)
        results[number] = all(verdict(o, [number * 100 + i]) for i, o in enumerate(outcomes))

    threads = [threading.Thread(target=use, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(6), True)


def test_a_fork_starts_its_own(sandbox):
    helpers = {w.pid for w in sandbox._all}
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            same_object = is_normal(sandbox.run([NORMAL])[0])
            fresh = find_sandbox(sandbox.name)
            good = same_object and is_normal(fresh.run([NORMAL])[0]) and not helpers & {w.pid for w in sandbox._all}
            fresh.close()
            sandbox.close()
            os.write(theirs, b"yes" if good else b"no")
        finally:
            os._exit(0)
    os.close(theirs)
    assert os.read(ours, 10) == b"yes"
    os.close(ours)
    os.waitpid(pid, 0)
    assert is_normal(sandbox.run([NORMAL])[0])


def test_a_pickle_finds_one(sandbox):
    assert pickle.loads(pickle.dumps(sandbox)) is sandbox
    outcome = sandbox.run([NORMAL])[0]
    assert pickle.loads(pickle.dumps((NORMAL, outcome))) == (NORMAL, outcome)


def test_it_works_again_after_close(sandbox):
    sandbox.close()
    assert is_normal(sandbox.run([NORMAL])[0])


def test_bubblewrap_works_where_it_is_installed():
    if not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed")
    outcomes = find_sandbox("bubblewrap").run([NORMAL, Program("import os; os.kill(os.getppid(), 9)"), NORMAL])
    assert [is_normal(o) for o in outcomes] == [True, False, True]
