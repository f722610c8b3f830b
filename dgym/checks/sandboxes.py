"""Checks of a sandbox: what it promises of programs, of limits, and of what programs can reach.

The programs try what they should not be able to do, on things that are made here for it: a file, an environment
variable, a listening socket, a process. None of them goes on for ever or takes much, in case that nothing holds it.

A sandbox that says `isolates = False` is believed: what its programs reach is then a warning, not a fault.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dgym.checks.findings import Finding, Report, require
from dgym.sandbox import Limits, Outcome, Program, Sandbox, same, verdict

NORMAL: Final = Program("def add(a, b):\n    return a + b", "add", ((1, 2), ("x", "y")))
"""A program that has to be run as ever after any other."""

_VALUES: Final = (None, True, 7, -(2**70), 0.5, "\u00e9\n", b"\xff", [1, [2]], (1, "a"), {"k": (1,)}, {3, 4})

_FAILURES: Final[Mapping[str, tuple[Program, str]]] = {
    "a script that raises": (Program("1 / 0"), "error"),
    "a text that is no Python": (Program("def broken(:"), "error"),
    "a function that is missing": (Program("x = 1", "absent", ((),)), "error"),
    "a script that leaves early": (Program("import sys\nsys.exit(3)"), "error"),
    "an argument that is no plain value": (Program("def f(x): return x", "f", ((object(),),)), "error"),
}

_EQUALS_ALL: Final = """
class Any(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
def answer():
    return Any(1)
"""

_FORGE: Final = """
import os
def answer():
    for fd in range(3, 64):
        try:
            os.write(fd, b"\\x00\\x00\\x00\\x04done" * 64)
        except OSError:
            pass
    os._exit(0)
"""

# Each ends by itself after a while, or after as much as does no harm.
_LONG: Final = "import time\nend = time.monotonic() + 15\n"
_OVER: Final[Mapping[str, tuple[str, Limits, str]]] = {
    "CPU time": (_LONG + "while time.monotonic() < end: pass", Limits(cpu_seconds=0.3), "time"),
    "elapsed time": (_LONG + "time.sleep(15)", Limits(wall_seconds=0.5), "time"),
    "memory": ("kept = [b'x' * (1 << 20) for _ in range(768)]", Limits(10.0, memory_bytes=64 << 20), "memory"),
    "output": ("for _ in range(4000): print('x' * 1000)", Limits(10.0, output_bytes=10_000), "output"),
}

_PROCESSES: Final = """
import os, time
def count():
    made = 0
    while made < 40:
        try:
            if not os.fork():
                time.sleep(3)
                os._exit(0)
        except OSError:
            break
        made += 1
    return made
"""

_FILE: Final = """
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def fill():
    written = 0
    try:
        with open("filled", "wb", 0) as file:
            while written < 1 << 24:
                written += file.write(b"x" * 65536)
    except OSError:
        pass
    return written
"""

_LEAVE: Final = """
import builtins, json, os, random
builtins.note = json.note = 1
os.environ["NOTE"] = "x"
random.seed(1)
with open("note", "w") as file:
    file.write("x")
"""

_FIND: Final = """
import builtins, json, os
print(hasattr(builtins, "note"), hasattr(json, "note"), os.environ.get("NOTE"), os.path.exists("note"))
"""

_DAEMON: Final = """
import ctypes, os, signal, time
if not os.fork():
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(15, MARK, 0, 0, 0)
    time.sleep(20)
    os._exit(0)
time.sleep(0.2)
"""

_FILES: Final = """
import os
def look(file, folder):
    reached = []
    for path in (file, "/proc/self/root" + file):
        try:
            with open(path) as opened:
                reached.append("reads " + repr(opened.read(40)))
        except OSError:
            pass
    try:
        reached.append("lists " + str(os.listdir(folder)))
    except OSError:
        pass
    try:
        with open(folder + "/forged", "w") as opened:
            opened.write("x")
        reached.append("writes into the folder")
    except OSError:
        pass
    return reached
"""

_ENVIRONMENT: Final = """
import glob, os
def look(backwards):
    needle = backwards[::-1]
    reached = [name for name, value in os.environ.items() if needle in value]
    for path in glob.glob("/proc/[0-9]*/environ"):
        try:
            with open(path, "rb") as opened:
                if needle.encode() in opened.read():
                    reached.append(path)
        except OSError:
            pass
    return reached
"""

_NETWORK: Final = """
import socket
def connect(port):
    reached = []
    for family, address in ((socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET, ("0.0.0.0", port))):
        try:
            with socket.socket(family) as opened:
                opened.settimeout(2)
                opened.connect(address)
                reached.append(address[0])
        except OSError:
            pass
    return reached
"""

_OTHERS: Final = """
import glob, os, signal
def look(backwards, pid):
    needle, reached = backwards[::-1].encode(), []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as opened:
                if needle in opened.read():
                    reached.append("sees it")
        except OSError:
            pass
    try:
        if reached:
            os.kill(pid, signal.SIGKILL)
            reached.append("ends it")
    except OSError:
        pass
    return reached
"""


def check_sandbox(make: Callable[[], Sandbox]) -> list[Finding]:
    """Checks a sandbox.

    Args:
        make: Starts it; called while the environment holds what no program should see.
    """
    report = Report()
    made: list[Sandbox] = []
    with _bait() as bait:
        with report("it can be made without arguments"):
            made.append(make())
        if not made:
            return report.findings
        sandbox = made[0]
        try:
            with report("it has a name, run(programs) and close()"):
                require(isinstance(getattr(sandbox, "name", None), str) and bool(sandbox.name), "it has no name")
                for method in ("run", "close"):
                    require(callable(getattr(sandbox, method, None)), f"it has no {method}")
            if report.sound:
                _Checks(report, sandbox).all(bait)
        finally:
            if callable(getattr(sandbox, "close", None)):
                sandbox.close()
    return report.findings


@dataclass(frozen=True)
class _Bait:
    """What programs should not reach.

    Attributes:
        secret: Text that stands in the file, in the environment and in the process's command line.
        file: A file in a folder that everybody may write.
        port: Where somebody listens on this machine.
        process: A process of this machine.
        reached: Grows with every connection that was made.
    """

    secret: str
    file: Path
    port: int
    process: subprocess.Popen[bytes]
    reached: list[str]


@contextmanager
def _bait() -> Iterator[_Bait]:
    secret = f"canary-{secrets.token_hex(8)}"
    name = f"DGYM_{secrets.token_hex(4).upper()}"
    os.environ[name] = secret
    reached: list[str] = []
    server = socket.create_server(("127.0.0.1", 0))
    waiting = [sys.executable, "-S", "-E", "-c", "import time; time.sleep(120)", secret]
    process = subprocess.Popen(waiting, stdin=subprocess.DEVNULL)

    def listen() -> None:
        while True:
            try:
                opened, address = server.accept()
            except OSError:
                return
            reached.append(str(address))
            opened.close()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        with tempfile.TemporaryDirectory(prefix="dgym-check-") as folder:
            Path(folder).chmod(0o777)
            file = Path(folder, "secret.txt")
            file.write_text(secret)
            yield _Bait(secret, file, int(server.getsockname()[1]), process, reached)
    finally:
        del os.environ[name]
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        process.kill()
        process.wait()
        thread.join(5)


class _Checks:
    """The checks of one sandbox, in an order in which a fault shows first where it lies."""

    def __init__(self, report: Report, sandbox: Sandbox) -> None:
        self._report, self._sandbox = report, sandbox
        self._open = getattr(sandbox, "isolates", True) is False

    def all(self, bait: _Bait) -> None:
        self._results()
        if not self._report.sound:
            return
        self._limits()
        self._freshness()
        self._isolation(bait)
        self._use()

    def _run(self, program: Program) -> Outcome:
        """Runs a program, and a normal one after it."""
        outcome, after = self._sandbox.run([program, NORMAL])
        require(verdict(after, [3, "xy"]), f"a normal program after it ends with {after.status!r} {after.error}")
        return outcome

    def _called(self, source: str, function: str, *arguments: Any) -> Any:
        outcome = self._run(Program(source, function, (arguments,), limits=Limits(5.0, 20.0)))
        done = outcome.status == "done" and outcome.returned and outcome.returned[0].ok
        require(bool(done), f"the program that tries it ends with {outcome.status!r} {outcome.error}")
        return outcome.returned[0].value

    def _results(self) -> None:
        with self._report("a function is called with every entry of the arguments, in order"):
            self._run(NORMAL)
        with self._report("a script reads its input, and what it prints is kept"):
            outcome = self._run(Program("print(input()[::-1])", stdin="abc\n"))
            require((outcome.status, outcome.stdout) == ("done", "cba\n"), f"{outcome.status!r}, {outcome.stdout!r}")
        with self._report("programs get one outcome each, in their order"):
            many = [Program("def f(x): return x", "f", ((i,),)) for i in range(8)]
            found = [[r.value for r in outcome.returned] for outcome in self._sandbox.run(many)]
            require(found == [[i] for i in range(8)], f"the values are {found}")
            require(self._sandbox.run([]) == [], "no programs should give no outcomes")
        with self._report("plain values come back as they are, with their types"):
            program = Program("def f(x): return x", "f", tuple((value,) for value in _VALUES))
            outcome = self._run(program)
            require(verdict(outcome, list(_VALUES)), f"{[r.value for r in outcome.returned]} of {list(_VALUES)}")
        with self._report("a call that raises is told apart from those that return"):
            outcome = self._run(Program("def f(x): return 1 // x", "f", ((1,), (0,), (-1,))))
            flags = [r.ok for r in outcome.returned]
            require((outcome.status, flags) == ("done", [True, False, True]), f"{outcome.status!r}, {flags}")
        for what, (program, status) in _FAILURES.items():
            with self._report(f"{what} ends as {status!r}, and the reason is said"):
                outcome = self._run(program)
                require(outcome.status == status, f"it ends with {outcome.status!r}")
                require(bool(outcome.error.strip()), "no reason is said")
        with self._report("what a program says is data: a value that equals everything equals nothing"):
            outcome = self._run(Program(_EQUALS_ALL, "answer", ((),)))
            require(not verdict(outcome, [2]), "it is taken for the right answer")
            for returned in outcome.returned:
                require(not returned.ok or type(returned.value) is int, "a value of the program's own class came back")
        with self._report("what a program says is data: it cannot speak for the sandbox"):
            outcome = self._run(Program(_FORGE, "answer", ((),)))
            require(outcome.status != "done", "a program that forges a report and leaves counts as done")

    def _limits(self) -> None:
        for what, (source, limits, status) in _OVER.items():
            with self._report(f"{what} is limited"):
                outcome = self._run(Program(source, limits=limits))
                require(outcome.status == status, f"a program over the limit ends with {outcome.status!r}")
                require(len(outcome.stdout) <= limits.output_bytes, f"{len(outcome.stdout)} characters were kept")
        with self._report("the size of what is returned is limited"):
            program = Program("def f(): return 'x' * 100_000", "f", ((),), limits=Limits(output_bytes=10_000))
            outcome = self._run(program)
            require(outcome.status == "output", f"a program over the limit ends with {outcome.status!r}")
        # Where nothing isolates, the kernel may not hold this user to a number.
        with self._report("the number of processes is limited", warning=self._open):
            outcome = self._run(Program(_PROCESSES, "count", ((),), limits=Limits(5.0, 20.0, processes=8)))
            made = [r.value for r in outcome.returned if r.ok]
            require(not made or made[0] <= 8, f"{made} were started where 8 are allowed")
        with self._report("the size of a file is limited"):
            outcome = self._run(Program(_FILE, "fill", ((),), limits=Limits(5.0, 20.0, file_bytes=1 << 18)))
            written = [r.value for r in outcome.returned if r.ok]
            require(not written or written[0] <= 1 << 20, f"{written} bytes were written where {1 << 18} are allowed")
        with self._report("calls before a limit are kept, and are no verdict"):
            source = _LONG + "def f(x):\n    while x == 2 and time.monotonic() < end: pass\n    return x"
            outcome = self._run(Program(source, "f", ((1,), (2,), (3,)), limits=Limits(0.3)))
            require([r.value for r in outcome.returned] == [1], f"{outcome.returned} are")
            require(not verdict(outcome, [1, 2, 3]), "the program counts as right")

    def _freshness(self) -> None:
        with self._report("every program runs in a fresh process and an empty folder"):
            for _ in range(3):
                self._run(Program(_LEAVE))
                found = self._run(Program(_FIND)).stdout
                require(found == "False False None False\n", f"of an earlier program there is left: {found.strip()}")
        with self._report("what a program started ends with it"):
            mark = f"dg{secrets.token_hex(5)}"
            self._run(Program(_DAEMON.replace("MARK", repr(mark.encode()))))
            require(not _running(mark), "a process that it started goes on")

    def _isolation(self, bait: _Bait) -> None:
        backwards = bait.secret[::-1]

        @contextmanager
        def isolates(what: str) -> Iterator[None]:
            with self._report(what, warning=self._open):
                yield

        with isolates("programs reach no files of this machine"):
            reached = self._called(_FILES, "look", str(bait.file), str(bait.file.parent))
            require(not reached and not bait.file.with_name("forged").exists(), f"one {'; '.join(reached)}")
        with isolates("programs see nothing of the environment"):
            reached = self._called(_ENVIRONMENT, "look", backwards)
            require(not reached, f"one finds it in {', '.join(reached)}")
        with isolates("programs reach no network"):
            reached = self._called(_NETWORK, "connect", bait.port)
            require(not reached and not bait.reached, f"one connects to {', '.join(reached or bait.reached)}")
        with isolates("programs neither see nor end other processes"):
            reached = self._called(_OTHERS, "look", backwards, bait.process.pid)
            require(not reached and bait.process.poll() is None, f"one {' and '.join(reached)}")

    def _use(self) -> None:
        with self._report("it serves several threads at once"), ThreadPoolExecutor(4) as pool:
            asked = [Program("def f(x): return x", "f", ((i,),)) for i in range(12)]
            outcomes = list(pool.map(lambda program: self._sandbox.run([program])[0], asked))
            right = [same(o.returned[0].value, i) if o.returned else False for i, o in enumerate(outcomes)]
            require(all(right), f"{right.count(False)} of {len(right)} threads got another's answer")
        with self._report("closed, even twice, it starts again when it is asked"):
            self._sandbox.close()
            self._sandbox.close()
            self._run(NORMAL)


def _running(mark: str) -> bool:
    """Whether a process of this machine has a name; never, where the kernel does not list them."""
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if mark in path.read_text():
                return True
        except OSError:
            continue
    return False
