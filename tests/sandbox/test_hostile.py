"""Hostile programs: each is contained, and the next program is graded normally (`grade` checks that)."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dgym.sandbox import Limits, Program, find_sandbox, same, verdict
from dgym.sandbox.namespaces import Namespaces
from tests.sandbox.programs import NORMAL, command_lines, is_normal

BOMBS = {
    "loop": "import os\nwhile True:\n    os.fork()",
    "patient": "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
    "threads": (
        "import threading, time\ndef stay():\n    time.sleep(60)\n"
        "for _ in range(10000):\n    threading.Thread(target=stay, daemon=True).start()"
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_fork_bomb_ends(grade, bomb):
    outcome = grade(BOMBS[bomb], cpu_seconds=0.5)
    assert outcome.status in {"error", "time", "killed"}


def test_the_number_of_processes_is_limited(grade, forks):
    source = """
import os, time
def count():
    made = 0
    while made < 200:
        try:
            if not os.fork():
                time.sleep(60)
        except OSError:
            break
        made += 1
    return made
"""
    outcome = grade(source, "count", processes=8)
    assert outcome.status == "done"
    assert outcome.returned[0].value <= 7


def test_memory_is_limited(grade):
    for body in (
        "x = bytearray(1 << 40)",
        "x = [0] * (1 << 26)",
        "x = ['a' * 1000]\nwhile True: x.append(x[-1] + 'b')",
    ):
        outcome = grade(body, memory_bytes=64 << 20)
        assert outcome.status == "memory", body
    # One that catches the error and goes on is still held to the limit.
    outcome = grade("try:\n    x = bytearray(1 << 30)\nexcept MemoryError:\n    print('no')", memory_bytes=64 << 20)
    assert (outcome.status, outcome.stdout) == ("done", "no\n")


def test_memory_of_many_processes_is_limited_together(grade, forks):
    source = """
import os, time
for _ in range(8):
    if not os.fork():
        x = bytearray(b"x") * (20 << 20)
        time.sleep(60)
time.sleep(60)
"""
    assert grade(source, memory_bytes=64 << 20, cpu_seconds=20.0).status == "memory"


def test_files_are_limited(grade):
    source = """
import os
def fill():
    written = 0
    for i in range(100):
        try:
            with open(f"/tmp/{i}", "wb", 0) as file:
                while True:
                    written += file.write(b"x" * 65536)
        except OSError:
            continue
    return written
"""
    outcome = grade(source, "fill", file_bytes=1 << 18)
    assert outcome.status == "done"
    assert 0 < outcome.returned[0].value <= 4 << 20


def test_an_endless_loop_ends(grade):
    for body in ("while True: pass", "try:\n    while True: pass\nfinally:\n    while True: pass", "9 ** 9 ** 9"):
        outcome = grade(body, cpu_seconds=0.2, wall_seconds=30.0)
        assert outcome.status == "time", body
        assert outcome.error.startswith("took more than 0.2 s")
        assert 0.2 < outcome.cpu_seconds < 1.0


def test_cpu_time_of_children_counts(grade, forks):
    source = "import os\nfor _ in range(3):\n    if not os.fork():\n        while True: pass\nwhile True: os.wait()"
    outcome = grade(source, cpu_seconds=0.3, wall_seconds=30.0)
    assert outcome.status == "time"
    assert outcome.error.startswith("took more than 0.3 s")


def test_sleeping_ends_at_the_wall_limit(grade):
    outcome = grade("import time; time.sleep(60)", wall_seconds=0.3)
    assert outcome.status == "time"
    assert "ran for more" in outcome.error


def test_calls_before_the_limit_are_kept(grade):
    outcome = grade("def f(x):\n    while x == 2: pass\n    return x", "f", ((1,), (2,), (3,)), cpu_seconds=0.2)
    assert outcome.status == "time"
    assert [r.value for r in outcome.returned] == [1]
    assert not verdict(outcome, [1])


def test_endless_output_ends(grade):
    for body in ("while True: print('x' * 100)", "import os\nwhile True: os.write(3, b'x' * 1000)"):
        outcome = grade(body, output_bytes=10_000, cpu_seconds=5.0)
        assert outcome.status == "output"
        assert len(outcome.stdout) <= 10_000


def test_a_large_result_is_output_too(grade):
    assert grade("def f(): return 'x' * 100_000", "f", output_bytes=10_000).status == "output"
    assert grade("def f(): return 'x' * 100_000", "f").returned[0].value == "x" * 100_000


def test_the_home_folder_and_the_environment_are_out_of_sight(tmp_path, monkeypatch):
    canary = "canary-7f3a91"
    home = tmp_path / "home"
    home.mkdir()
    (home / "secret.txt").write_text(canary)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DGYM_TEST_SECRET", canary)
    source = """
import os
def look(paths):
    seen = [dict(os.environ)]
    for path in paths:
        for step in (lambda: open(path, "rb").read(10000), lambda: os.listdir(path)):
            try:
                seen.append(repr(step()))
            except OSError as error:
                seen.append(type(error).__name__)
    return seen
"""
    paths = [
        str(home / "secret.txt"),
        str(home),
        "/home",
        "/root",
        "/etc/passwd",
        "/proc/self/environ",
        "/proc/1/environ",
    ]
    paths += [
        "/proc",
        str(Path(__file__).parents[2]),
        str(tmp_path),
        "/var",
        "/sys",
        "/dev/shm",
        "/proc/self/root/etc/passwd",
    ]
    fresh = Namespaces()
    try:
        outcome = fresh.run([Program(source, "look", ((paths,),))])[0]
    finally:
        fresh.close()
    environment, *seen = outcome.returned[0].value
    assert environment == {}
    assert canary not in str(outcome)
    assert set(seen) <= {"FileNotFoundError", "PermissionError", "NotADirectoryError", "[]"}


def test_only_the_standard_library_is_in_sight(grade):
    source = """
import os, sys
def walk():
    found = []
    for top, folders, files in os.walk("/"):
        found += [os.path.join(top, name) for name in files]
    return found[:1000], [p for p in sys.path if "site-packages" in p]
def third():
    import numpy
def first():
    import json.tool, sqlite3, ssl, ctypes, lzma, hashlib, decimal, asyncio, unittest
    return hashlib.sha256(b"").hexdigest()[:4]
"""
    assert same(grade(source, "first").returned[0].value, "e3b0")
    assert grade(source, "third").returned[0].error.startswith("ModuleNotFoundError")
    files, extra = grade(source, "walk").returned[0].value
    assert files == []  # the root cannot even be listed where Landlock is active
    assert extra == []


def test_nothing_outside_can_be_written_or_executed(grade, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    (results / "row.json").write_text("{}")
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in results.iterdir()}
    source = """
import os, sys, subprocess
def attack(folder):
    done = []
    library = os.path.dirname(os.__file__)
    for target in (folder + "/row.json", folder + "/new", os.__file__, "/x", library + "/x.py", "/dev/x"):
        try:
            with open(target, "w") as file:
                file.write("forged")
            done.append(target)
        except OSError:
            pass
    for words in ([sys.executable, "-c", ""], ["/bin/sh", "-c", ":"], [folder]):
        try:
            subprocess.run(words)
            done.append(words)
        except OSError:
            pass
    for call in (lambda: os.mkdir("/new"), lambda: os.chmod(os.__file__, 0o777), lambda: os.chroot("/tmp")):
        try:
            call()
            done.append(repr(call))
        except OSError:
            pass
    return done
"""
    outcome = grade(source, "attack", ((str(results),),))
    assert outcome.status == "done"
    assert outcome.returned[0].value == []
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in results.iterdir()} == before


def test_there_is_no_network(grade):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        source = """
import socket
def connect(port):
    errors = []
    for family, address in ((socket.AF_INET, ("127.0.0.1", port)), (socket.AF_UNIX, chr(0) + "dgym")):
        try:
            socket.socket(family).connect(address)
            errors.append("")
        except OSError as error:
            errors.append(type(error).__name__)
    try:
        socket.getaddrinfo("example.org", 80)
        errors.append("")
    except OSError:
        errors.append("no name")
    return errors
"""
        outcome = grade(source, "connect", ((port,),))
        assert outcome.returned[0].value == ["PermissionError", "PermissionError", "no name"]


def test_kernel_interfaces_are_closed(grade):
    source = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def tried():
    calls = {
        "unshare": lambda: libc.unshare(0x10000000),
        "mount": lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None),
        "ptrace": lambda: libc.ptrace(16, os.getppid(), 0, 0),
        "setuid": lambda: libc.setuid(0),
        "memfd": lambda: libc.memfd_create(b"x", 0),
        "keyring": lambda: libc.syscall(250, 0, -3, 0),
        "shared": lambda: libc.shmget(1, 4096, 0o1600),
        "hostname": lambda: libc.sethostname(b"x", 1),
        "clone": lambda: libc.syscall(56, 0x10000011, 0, 0, 0, 0),
    }
    return sorted(name for name, call in calls.items() if call() >= 0)
"""
    allowed = grade(source, "tried").returned[0].value
    assert set(allowed) <= {"setuid"} if os.geteuid() == 0 else allowed == []


def test_the_parent_cannot_be_killed(grade):
    source = """
import os, signal
def attack():
    for target in (os.getppid(), 0, -1):
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            try:
                if number != signal.SIGTERM and target == 0 and os.getpid() != 1:
                    continue  # that would be itself
                os.kill(target, number)
            except OSError:
                pass
    return "alive"
"""
    outcome = grade(source, "attack")
    assert outcome.status in {"done", "killed"}
    assert outcome.status == "killed" or outcome.returned[0].value == "alive"


def test_the_helper_survives_a_hostile_program():
    sandbox = find_sandbox("namespaces")
    helpers = {worker.pid for worker in sandbox._all}
    source = "import os\nfor p in (0, -1, 1, os.getppid()):\n    try: os.kill(p, 9)\n    except OSError: pass"
    assert [o.status for o in sandbox.run([Program(source)] * 4)] == ["done"] * 4
    assert helpers <= {worker.pid for worker in sandbox._all}


def test_a_daemon_does_not_outlive_its_program(grade, forks):
    marker = f"dgymdaemon{os.getpid() % 10000}"
    source = f"""
import ctypes, os, signal, time
for _ in range(3):
    if not os.fork():
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if os.fork():
            os._exit(0)
        ctypes.CDLL(None).prctl(15, b"{marker}", 0, 0, 0)
        while True:
            time.sleep(1)
time.sleep(0.2)
print("left")
"""
    outcome = grade(source)
    assert outcome.stdout == "left\n"
    assert not [line for line in command_lines() if marker[:15].encode() in line]


def test_programs_leave_nothing_for_each_other(grade):
    leave = "import os, random\nopen('/tmp/note', 'w').write('x'); os.environ['NOTE'] = 'x'; import json; json.note = 1"
    find = "import os, json\nprint(os.listdir('/tmp'), os.environ.get('NOTE'), hasattr(json, 'note'))"
    for _ in range(4):
        assert grade(leave).status == "done"
        assert grade(find).stdout == "[] None False\n"


def test_programs_cannot_see_each_other_in_memory(grade):
    grade("secret = 'kept-to-itself-' + '94151'\nprint(secret * 1000)")
    source = """
import gc
def look(backwards):
    needle = backwards[::-1]
    seen = str(gc.get_objects())
    return needle in seen, "look" in seen
"""
    outcome = grade(source, "look", (("15149-flesti-ot-tpek",),), cpu_seconds=5.0)
    assert outcome.returned[0].value == (False, True)


@pytest.mark.parametrize("how", ["helper", "server"])
def test_a_killed_helper_costs_only_the_program_it_ran(how):
    sandbox = Namespaces()
    try:
        pid = next(iter(sandbox._all)).pid
        if how == "server":
            pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        outcomes = []
        program = Program("import time\ntime.sleep(60)", limits=Limits(wall_seconds=20.0))
        thread = threading.Thread(target=lambda: outcomes.extend(sandbox.run([program])))
        thread.start()
        time.sleep(0.3)
        os.kill(pid, 9)
        thread.join(20)
        assert [o.status for o in outcomes] == ["killed"]
        assert is_normal(sandbox.run([NORMAL])[0])
        # One that dies between two programs costs none.
        os.kill(next(iter(sandbox._all)).pid, 9)
        time.sleep(0.2)
        assert is_normal(sandbox.run([NORMAL])[0])
    finally:
        sandbox.close()


def test_helpers_end_with_the_process_that_started_them():
    # A fork that lives on must not keep them alive.
    code = """
import os, time
from dgym.sandbox import find_sandbox
sandbox = find_sandbox("namespaces")
child = os.fork()
if not child:
    os.closerange(0, 3)
    time.sleep(60)
print(*[worker.pid for worker in sandbox._all], child, flush=True)
time.sleep(0.2)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -9
    pid, child = done.stdout.split()
    try:
        for _ in range(200):
            stat = Path("/proc", pid, "stat")
            if not stat.exists() or ") Z " in stat.read_text():
                break
            time.sleep(0.02)
        else:
            pytest.fail("the helper is still there")
    finally:
        os.kill(int(child), 9)
