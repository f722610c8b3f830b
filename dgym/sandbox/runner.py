"""The helper process of a sandbox: forks a fresh process for every program, limits it and reaps it.

Started by a provider as `python -P -s -S runner.py MODE` with a socket as standard input, where the mode is

- `namespaces`: enters its own user, mount, pid, network, IPC and UTS namespaces under a minimal read-only root,
  and gives every program a pid namespace and an empty folder of its own; serves many programs, one at a time;
- `inside`: is already inside such a place, made by bubblewrap; serves one program;
- `bare`: isolates nothing, only limits; serves one program;
- `files`: prints which files an interpreter needs, as JSON, and exits.

With a session as a second argument (`dgym.sandbox.session`), any of the first three runs one command for as long as
it likes, in a place that also holds the files that the session names.

For every program comes a message with its limits and four file descriptors: the request, standard input, and the
write ends of the pipes for standard output and for the report. The helper never reads or writes any of these:
only the program's own process does, so nothing of one program is left in the memory that the next one is forked
from, and nothing that a program writes can be mistaken for a message of the helper. How the program ended and how
much CPU time it took is told over the socket by the helper, which the program cannot reach.

This file imports the standard library only. It trusts whoever started it and nothing that a program does.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import ctypes
import errno
import fcntl
import functools
import gc
import importlib.util
import json
import math
import os
import random
import resource
import select
import signal
import socket
import struct
import sys
import sysconfig
import time
import types
from pathlib import Path
from typing import Any, Final, NoReturn

JOB: Final = struct.Struct("!ddQQQ")
"""CPU seconds, wall seconds, bytes of memory, processes, bytes per file."""

RESULT: Final = struct.Struct("!Bid")
"""Reason (one of those below), exit status as `os.waitpid` gives it, CPU seconds."""

EXITED, CPU, WALL, MEMORY, TOLD, CROWD = range(6)
"""Why a program ended: by itself, over a limit, because the provider asked, or with too many processes."""

NOT_STARTED: Final = 127
"""Exit status of a session whose command cannot be executed."""

FRAME: Final = struct.Struct(">I")
"""The length of a frame of the report, ahead of it."""

STDIN, STDOUT, STDERR, REPORT = range(4)
"""File descriptors of a program."""

MAX_ERROR: Final = 400
"""Longest error text, in characters."""

_UID = 1000
_NOBODY = 65534
_TICK = 0.01
_WARM = (
    "bisect collections collections.abc copy dataclasses datetime decimal enum fractions heapq itertools "
    "operator re statistics string textwrap threading traceback typing"
)

# --------------------------------------------------------------------------------------------------------------
# The kernel, by system call: the standard library of the supported versions has none of these.

_libc = ctypes.CDLL(None, use_errno=True)

_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _NOATIME, _NODIRATIME, _BIND, _REC, _PRIVATE, _RELATIME = (
    1, 2, 4, 8, 32, 1024, 2048, 4096, 16384, 1 << 18, 1 << 21,
)  # fmt: skip
_DETACH = 2
_CLONE_THREAD = 0x10000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 1, 4, 22, 24
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_M_ARENA_MAX = -8

_X86 = os.uname().machine == "x86_64"
# By name: the number on x86-64 and on machines with the generic table, of which only 64-bit ARM is used here.
_NUMBERS: Final[dict[str, tuple[int, int]]] = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "unshare": (272, 97), "setns": (308, 268),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "socket": (41, 198), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "execve": (59, 221), "execveat": (322, 281), "shmget": (29, 194),
    "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264), "pidfd_getfd": (438, 438), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "personality": (135, 92), "kcmp": (312, 272), "syslog": (103, 116), "acct": (163, 89),
    "fanotify_init": (300, 262), "process_madvise": (440, 440), "clone": (56, 220), "clone3": (435, 435),
    "capset": (126, 91),
}  # fmt: skip
_KNOWN_MACHINE = os.uname().machine in {"x86_64", "aarch64"}


class SetupError(Exception):
    """A step of the isolation failed."""


def _number(name: str) -> int:
    return _NUMBERS[name][0 if _X86 else 1]


def _check(result: int, step: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise SetupError(f"{step}: {os.strerror(code)} ({errno.errorcode.get(code, code)})")
    return result


def _prctl(option: int, a: int, b: int = 0, step: str = "") -> None:
    result = _libc.prctl(option, ctypes.c_ulong(a), ctypes.c_ulong(b), ctypes.c_ulong(0), ctypes.c_ulong(0))
    if step:
        _check(result, step)


def _unshare(flags: int, step: str) -> None:
    _check(_libc.unshare(flags), step)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    encoded = kind.encode() if kind else None
    options = data.encode() if data else None
    result = _libc.mount(os.fsencode(source), os.fsencode(target), encoded, ctypes.c_ulong(flags), options)
    _check(result, f"mount {kind or 'bind'} on {target}")


def _unmount(target: str) -> None:
    _check(_libc.umount2(os.fsencode(target), _DETACH), f"unmount {target}")


class _Filter(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Filter))]


@functools.cache
def _seccomp_program(forks: bool, executes: bool = False) -> _Program:
    """Builds the filter: what a program never needs fails with EPERM, and so do new processes unless `forks`.

    Programs are executed only where `executes`.

    Layout and constants: `Documentation/userspace-api/seccomp_filter.rst` of the kernel.
    """
    load, equal, at_least, bits, back = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050000, 0x80000000
    rows = [
        (load, 0, 0, 4),
        (equal, 1, 0, 0xC000003E if _X86 else 0xC00000B7),
        (back, 0, 0, kill),  # a 32-bit system call, whose numbers mean something else
        (load, 0, 0, 0),
        (equal, 0, 1, _number("clone3")),
        (back, 0, 0, refuse | errno.ENOSYS),  # its flags are out of a filter's sight; libc falls back to clone
    ]
    if _X86:
        rows += [(at_least, 0, 1, 0x40000000), (back, 0, 0, refuse | errno.EPERM)]  # the x32 numbers
    allowed = {"clone", "clone3", "capset"} | ({"execve", "execveat"} if executes else set())
    refused = [_number(name) for name in sorted(set(_NUMBERS) - allowed)]
    if _X86 and not forks:
        refused += [57, 58]  # fork and vfork, which other machines do not have
    for number in refused:
        rows += [(equal, 0, 1, number), (back, 0, 0, refuse | errno.EPERM)]
    spaces = _NEWNS | _NEWCGROUP | _NEWUTS | _NEWIPC | _NEWUSER | _NEWPID | _NEWNET
    rows += [
        (equal, 0, 4, _number("clone")),
        (load, 0, 0, 16),
        (bits, 1, 0, spaces),
        (bits, 1, int(forks), _CLONE_THREAD),  # a thread always passes, a process where forks are allowed
        (back, 0, 0, refuse | errno.EPERM),
        (back, 0, 0, allow),
    ]
    return _Program(len(rows), (_Filter * len(rows))(*(_Filter(*row) for row in rows)))


def _seccomp(forks: bool, executes: bool = False) -> None:
    result = _libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(2), ctypes.byref(_seccomp_program(forks, executes)), 0, 0)
    _check(result, "seccomp")


def landlock_abi() -> int:
    """Returns the version of Landlock that the kernel offers; 0 for none."""
    return max(0, int(_libc.syscall(444, None, ctypes.c_size_t(0), 1)))


def _landlock(paths: list[str], executes: bool = False) -> int:
    """Makes a rule set: read `paths`, use `/dev`'s few files and write below `/tmp`; -1 without Landlock.

    What may be read may be executed where `executes`.

    Bits: `Documentation/userspace-api/landlock.rst` of the kernel.
    """
    abi = landlock_abi()
    if not abi:
        return -1
    every = (1 << (13 + min(abi - 1, 2) + (abi >= 5))) - 1
    # From version 4 also TCP, from version 6 abstract Unix sockets and signals out of the sandbox.
    rules = struct.pack("=QQQ", every, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    rules = rules[: 8 if abi < 4 else 16 if abi < 6 else 24]
    handle = _check(_libc.syscall(444, rules, ctypes.c_size_t(len(rules)), 0), "landlock rule set")
    read, write, folder, device = 4, 2, 8, 1 << 6 | 1 << 9 | 1 << 11
    truncate = every & 1 << 14
    for path in [*paths, *_devices(), "/tmp"]:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        if path == "/tmp":
            allowed = every & ~(1 | device)
        elif path.startswith("/dev/"):
            allowed = read | write | truncate
        else:
            allowed = (read | folder if os.path.isdir(path) else read) | int(executes)  # noqa: PTH112
        rule = struct.pack("=Qi", allowed, fd)
        _check(_libc.syscall(445, handle, 1, rule, 0), f"landlock rule for {path}")
        os.close(fd)
    return handle


def _devices() -> list[str]:
    return ["/dev/null", "/dev/zero", "/dev/urandom"]


# --------------------------------------------------------------------------------------------------------------
# Files


def files() -> dict[str, list[str]]:
    """Lists what an interpreter needs to run and to import the whole standard library.

    Returns:
        `library`: folders and archives of the standard library; `shared`: shared libraries by the names under
        which the loader finds them; `hidden`: folders in the library that hold other people's packages;
        `program`: the interpreter and its loader.
    """
    library: list[str] = []
    for entry in sys.path:
        inside = any(entry == known or entry.startswith(known + "/") for known in library)
        if Path(entry).exists() and not inside:
            library.append(entry)
    hidden = [
        str(folder)
        for entry in {sysconfig.get_path("stdlib"), *library}
        for folder in (Path(entry, "site-packages"), Path(entry, "dist-packages"))
        if folder.is_dir()
    ]
    shared = _shared_libraries()
    loader = [name for name in shared if Path(name).name.startswith(("ld-", "ld."))]
    return {
        "library": library,
        "shared": [s for s in shared if not any(s.startswith(entry + "/") for entry in library)],
        "hidden": sorted(set(hidden)),
        "program": [os.path.realpath(sys.executable), *loader],
    }


def _shared_libraries() -> list[str]:
    """Loads every extension module in a scratch process and returns the names that the loader then knows."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            # By ctypes, not by import: only what they are linked with matters.
            for module in sorted(Path(sysconfig.get_config_var("DESTSHARED") or "/nowhere").glob("*.so")):
                if not module.name.startswith(("_tkinter", "_test", "xx", "_curses", "readline", "_xx")):
                    try:
                        ctypes.CDLL(str(module), mode=os.RTLD_LAZY)
                    except OSError:
                        continue
            os.write(theirs, json.dumps(_loaded()).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    names: list[str] = json.loads(text or "[]")
    return names


class _LoadedObject(ctypes.Structure):
    _fields_ = [("address", ctypes.c_size_t), ("name", ctypes.c_char_p)]


def _loaded() -> list[str]:
    names: list[str] = []

    def note(info: Any, _size: int, _data: int) -> int:
        name = os.fsdecode(info.contents.name or b"")
        if name.startswith("/"):
            names.append(name)
        return 0

    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_LoadedObject), ctypes.c_size_t, ctypes.c_void_p)
    _libc.dl_iterate_phdr(kind(note), None)
    return names


def _bind(old: str, path: str, shown: str = "") -> None:
    """Shows one file or folder of the old root, read-only, in the new one: under the same name or as `shown`."""
    source = old + os.path.realpath(old + path).removeprefix(old)
    path = shown or path
    target = Path(path)
    if Path(source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(source, path, None, _BIND | _REC)
    flags = os.statvfs(path).f_flag
    # What the original mount forbids is locked for a user namespace and has to be repeated.
    kept = flags & (_RDONLY | _NOSUID | _NODEV | _NOEXEC | _NOATIME | _NODIRATIME) | (_RELATIME if flags & 4096 else 0)
    device = 0 if path.startswith("/dev/") else _NODEV
    _mount("none", path, None, _BIND | _REMOUNT | _RDONLY | _NOSUID | device | kept)


# --------------------------------------------------------------------------------------------------------------
# Setting up


class Place:
    """Where programs run, and what each of them is put through before its first instruction."""

    def __init__(self, mode: str, control: socket.socket, session: dict[str, Any] | None = None) -> None:
        self.mode = mode
        self.control = control
        self.shown: dict[str, str] = dict(session["files"]) if session else {}
        self.executes = session is not None
        if mode != "bare":
            self.needed: dict[str, list[str]] = session["needed"] if session else files()
        self.spaces = mode == "namespaces"
        self.proc = -1
        self.extra = 0
        self.rules = -1
        # Root is exempt from the kernel's limit on processes: where programs have to run as root, they get one each.
        self.forks = True
        self._pristine: tuple[int, int] | None = None
        self._size = 0
        if self.spaces:
            self._enter()
        elif mode == "inside":
            _prctl(_PR_SET_DUMPABLE, 0)
            _prctl(_PR_SET_NO_NEW_PRIVS, 1, step="no_new_privs")
            self._allow(self.needed)
            self.rules = _landlock(self.library, self.executes)
            self.forks = Path("/proc/self/uid_map").read_text().split()[1] != "0"
        _seccomp_program(self.forks, self.executes)  # kept for every fork
        if not self.spaces:
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)
            self.proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)

    def describe(self) -> str:
        """Names the layers that are active."""
        layers = {"namespaces": ["user, mount, pid, net, ipc and uts namespaces"], "inside": ["bubblewrap"]}
        parts = layers.get(self.mode, ["no isolation"])
        if self.mode != "bare":
            abi = landlock_abi()
            parts.append(f"Landlock (version {abi})" if abi else "no Landlock")
            parts.append("seccomp" if _KNOWN_MACHINE else "no seccomp")
        return ", ".join(parts)

    def _enter(self) -> None:
        user, group = os.geteuid(), os.getegid()
        needed = self.needed
        self._allow(needed)
        double = user == 0
        go, going = os.pipe()
        parent = os.getpid()
        writer = os.fork() if double else 0
        if double and not writer:
            self._map_as_root(go, going, parent)
        _unshare(_NEWUSER, "new user namespace")
        os.close(going)
        os.close(go)
        if double:
            # So that the limit on processes holds, root's programs run as nobody.
            self.forks = double = os.waitpid(writer, 0)[1] == 0
        if not double:
            self._write_map("setgroups", "deny")
            self._write_map("gid_map", f"{_UID} {group} 1")
            self._write_map("uid_map", f"{_UID} {user} 1")
        else:
            os.setgroups([])
        self.extra = 0 if double else 2  # this process and its parent are counted with the program's
        _unshare(_NEWNS | _NEWNET | _NEWIPC | _NEWUTS | _NEWPID, "new mount, network and pid namespaces")
        _unshare_quietly(_NEWCGROUP)
        server = os.fork()
        if server:
            self.control.close()
            while os.waitpid(server, 0)[0] != server:
                pass
            os._exit(0)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        self._root(needed)
        socket.sethostname("sandbox")
        _prctl(_PR_SET_NO_NEW_PRIVS, 1, step="no_new_privs")
        for capability in range(64):
            _prctl(_PR_CAPBSET_DROP, capability)
        self.myself = os.pidfd_open(os.getpid())

    def _allow(self, needed: dict[str, list[str]]) -> None:
        """Notes what may be read: the interpreter's own files, and those that a session names."""
        self.library = [*needed["library"], *needed["shared"]]
        if self.executes:
            self.library += [*needed["program"], *self.shown]

    @staticmethod
    def _write_map(name: str, text: str, pid: str = "self") -> None:
        try:
            Path(f"/proc/{pid}/{name}").write_text(text)
        except OSError as error:
            raise SetupError(f"{name}: {error.strerror}") from error

    def _map_as_root(self, go: int, going: int, parent: int) -> NoReturn:
        try:
            os.close(going)
            os.read(go, 1)  # ends when the parent has left its old namespace
            for name in ("gid_map", "uid_map"):
                self._write_map(name, f"0 0 1\n{_UID} {_NOBODY} 1\n", str(parent))
        except (SetupError, OSError):
            os._exit(1)
        os._exit(0)

    def _root(self, needed: dict[str, list[str]]) -> None:
        """Replaces the root by a tmpfs that holds the standard library and nothing else of the host."""
        _mount("none", "/", None, _REC | _PRIVATE)
        _mount("tmpfs", "/tmp", "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
        Path("/tmp/.old").mkdir()
        os.chdir("/tmp")
        _check(_libc.syscall(_number("pivot_root"), b"/tmp", b"/tmp/.old"), "pivot_root")
        os.chdir("/")
        for folder in ("/tmp", "/proc", "/dev"):
            Path(folder).mkdir()
        for name in ("/lib", "/lib64"):  # the loader looks for libraries under these
            link = Path("/.old" + name)
            if link.is_symlink() and not link.readlink().is_absolute():
                Path("/", link.readlink()).mkdir(parents=True, exist_ok=True)
                Path(name).symlink_to(link.readlink())
        for path in [*needed["library"], *needed["shared"], *_devices()]:
            _bind("/.old", path)
        for path in needed["hidden"]:
            if Path(path).is_dir():
                _mount("tmpfs", path, "tmpfs", _RDONLY | _NOSUID | _NODEV, "size=4k,mode=755")
        if self.executes:
            for path in needed["program"]:
                if not Path(path).exists():
                    _bind("/.old", path)
            for shown, path in self.shown.items():
                if not Path(shown).is_file():
                    _bind("/.old", path, shown)
        try:
            # Only while the old one is in sight may a new proc be mounted. It shows the programs' processes to
            # this process, which keeps it open, and to nobody else.
            _mount("proc", "/proc", "proc", _NOSUID | _NODEV | _NOEXEC)
            self.proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
            _unmount("/proc")
        except (SetupError, OSError):
            self.proc = -1  # as in a container that masks parts of proc; limits then watch one process only
        _unmount("/.old")
        Path("/.old").rmdir()
        _mount("none", "/", None, _BIND | _REMOUNT | _RDONLY | _NOSUID | _NODEV)

    # ----------------------------------------------------------------------------------------------------------

    def prepare(self, file_bytes: int) -> None:
        """Makes an empty `/tmp` for the next program; the last one's is used again if nobody ever touched it."""
        if not self.spaces:
            return
        size = max(4 * file_bytes, 1 << 16)
        if self._pristine is not None:
            now = Path("/tmp").stat()
            if size == self._size and (now.st_dev, now.st_ctime_ns) == self._pristine:
                return
            os.chdir("/")
            _unmount("/tmp")
            if self.rules >= 0:
                os.close(self.rules)
        flags = _NOSUID | _NODEV | _NOEXEC | _NOATIME
        inodes = 4096 if self.executes else 256
        _mount("tmpfs", "/tmp", "tmpfs", flags, f"size={size},nr_inodes={inodes},mode=700,uid={_UID},gid={_UID}")
        made = Path("/tmp").stat()
        self._pristine, self._size = (made.st_dev, made.st_ctime_ns), size
        self.rules = _landlock(self.library, self.executes)

    def fork(self) -> int:
        """Forks the program's process, in a pid namespace of its own where there are namespaces."""
        if not self.spaces:
            return os.fork()
        _unshare(_NEWPID, "new pid namespace")
        pid = os.fork()
        if pid:
            # The next one is made from this namespace again.
            _check(_libc.setns(self.myself, _NEWPID), "return to the pid namespace")
        return pid

    def confine(self, processes: int) -> None:
        """Gives up every privilege; called in the program's process, after which nothing of ours is needed."""
        if self.mode == "bare":
            return
        if self.spaces:
            if not _KNOWN_MACHINE:
                _unshare(_NEWIPC, "new ipc namespace")
            os.setresgid(_UID, _UID, _UID)
            os.setresuid(_UID, _UID, _UID)
            header, nothing = struct.pack("=Ii", 0x20080522, 0), bytes(24)
            _check(_libc.syscall(_number("capset"), header, nothing), "capset")
        _prctl(_PR_SET_DUMPABLE, 1)  # or the helper may not read how much memory it uses
        resource.setrlimit(resource.RLIMIT_NPROC, (processes + self.extra, processes + self.extra))
        if self.rules >= 0:
            _check(_libc.syscall(446, self.rules, 0), "landlock")
        if _KNOWN_MACHINE:
            _seccomp(self.forks, self.executes)

    def held(self, pid: int) -> int:
        """Returns the bytes of memory that a session's processes hold; `pid` is the first."""
        if self.proc < 0:
            return 0
        hidden = {"1", str(os.getpid())}
        names = [n for n in os.listdir(self.proc) if n.isdecimal() and n not in hidden]  # noqa: PTH208
        if self.mode == "bare":
            names = [n for n in names if (fields := self._stat(n)) and (int(n) == pid or fields[3] == pid)]
        return sum(self._proportional(name) for name in names)

    def load(self, pid: int) -> tuple[float, int, int]:
        """Measures a running program.

        Args:
            pid: Its first process.

        Returns:
            CPU seconds used, bytes of memory held beyond the first process, and the number of processes.
        """
        try:
            cpu = time.clock_gettime((~pid) << 3 | 2)
        except OSError:
            cpu = 0.0
        if self.proc < 0:
            return cpu, 0, 1
        hidden = {"1", str(os.getpid()), str(pid)}
        names = os.listdir(self.proc)  # noqa: PTH208 -- a descriptor, which has no path any more
        others = [name for name in names if name.isdecimal() and name not in hidden]
        held = count = 0
        ticks = self._stat(str(pid))[13:15]
        for name in others:
            fields = self._stat(name)
            # Where the host's other processes are in sight, only those of the program's session count.
            if fields and (self.mode != "bare" or fields[3] == pid):
                count += 1
                ticks += fields[11:15]
                held += max(0, fields[21])
        if held * _PAGE > 32 << 20 and self.mode != "bare":
            held = sum(self._proportional(name) for name in [*others, str(pid)]) // _PAGE
        return cpu + sum(ticks) / _TICKS, held * _PAGE, 1 + count

    def _stat(self, name: str) -> list[int]:
        """Returns the numbers of `/proc/PID/stat` after the name, with 0 for the state, or none if it is gone."""
        try:
            text = self._read(f"{name}/stat")
        except OSError:
            return []
        fields = text.rpartition(b")")[2].split()
        return [0, *map(int, fields[1:])] if len(fields) > 21 else []

    def _proportional(self, name: str) -> int:
        """Returns a process's share of memory in bytes: pages that n processes share count for 1/n."""
        try:
            lines = self._read(f"{name}/smaps_rollup").splitlines()
        except OSError:
            return 0
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(b"Pss:"))

    def _read(self, path: str) -> bytes:
        fd = os.open(path, os.O_RDONLY, dir_fd=self.proc)
        try:
            return os.read(fd, 8192)
        finally:
            os.close(fd)

    def end(self, pid: int) -> tuple[int, float]:
        """Kills the program and whatever it left, and returns the exit status and the CPU seconds."""
        if not self.spaces:
            # Without a pid namespace: its session first, then every orphan that comes to this process.
            for kill in (os.killpg, os.kill):
                _quietly(kill, pid)
        else:
            _quietly(os.kill, pid)
        _, status, usage = os.wait4(pid, 0)
        spent = usage.ru_utime + usage.ru_stime
        if not self.spaces:
            self._reap()
        return status, spent

    def _reap(self) -> None:
        for _ in range(1000):
            if self.mode == "inside":
                _quietly(os.kill, -1)
            else:
                _quietly_children()
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(0.001)


_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


def _quietly(kill: Any, pid: int) -> None:
    with contextlib.suppress(OSError):
        kill(pid, signal.SIGKILL)


def _quietly_children() -> None:
    me = os.getpid()
    try:
        names = Path(f"/proc/{me}/task/{me}/children").read_text().split()
    except OSError:
        return
    for name in names:
        _quietly(os.kill, int(name))


def _unshare_quietly(flags: int) -> None:
    with contextlib.suppress(SetupError):
        _unshare(flags, "unshare")


# --------------------------------------------------------------------------------------------------------------
# Supervising


def serve(place: Place, plain: types.ModuleType, base: int) -> None:
    """Answers requests until the other side closes the socket."""
    while True:
        message, fds, _, _ = socket.recv_fds(place.control, 256, 8)
        if not message:
            return
        limits = JOB.unpack(message)
        place.prepare(limits[4])
        pid = place.fork()
        if not pid:
            _program(place, plain, limits, fds, base)
        for fd in fds:
            os.close(fd)
        place.control.send(RESULT.pack(*_supervise(place, pid, limits)))
        if not place.spaces:
            return


def _supervise(place: Place, pid: int, limits: tuple[Any, ...]) -> tuple[int, int, float]:
    """Watches one program until it ends or goes over a limit."""
    cpu, wall, memory, processes, _ = limits
    deadline = time.monotonic() + wall
    handle = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.register(place.control, select.POLLIN)
    reason, spent = EXITED, 0.0
    tick = _TICK if place.mode != "bare" else 5 * _TICK  # there, the whole host's processes are looked through
    try:
        while reason == EXITED:
            ready = [fd for fd, _ in poll.poll(tick * 1000)]
            if handle in ready:
                break
            if ready:
                if not place.control.recv(16):
                    place.end(pid)
                    os._exit(0)  # nobody is there any more
                reason = TOLD
                break
            spent, held, count = place.load(pid)
            if spent > cpu:
                reason = CPU
            elif time.monotonic() > deadline:
                reason = WALL
            elif held > memory + (32 << 20):
                reason = MEMORY
            elif count > processes:
                reason = CROWD  # the kernel's own limit does not hold here
        status, total = place.end(pid)
    finally:
        os.close(handle)
    # Children that were killed with it are in the first number only, the last moments only in the second.
    return reason, status, max(spent, total)


def converse(place: Place, session: dict[str, Any]) -> None:
    """Runs a session's command on the three descriptors that come over the socket, and tells how it ended."""
    message, fds, _, _ = socket.recv_fds(place.control, 16, 8)
    if not message:
        return
    limits = session["limits"]
    place.prepare(limits["file_bytes"])
    pid = place.fork()
    if not pid:
        _execute(place, session, fds)
    for fd in fds:
        os.close(fd)
    place.control.send(RESULT.pack(*_watch(place, pid, limits)))


def _watch(place: Place, pid: int, limits: dict[str, Any]) -> tuple[int, int, float]:
    """Watches a session until it ends, goes over a limit or is told to end."""
    handle = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.register(place.control, select.POLLIN)
    reason, spent = EXITED, 0.0
    try:
        while reason == EXITED:
            ready = [fd for fd, _ in poll.poll(10 * _TICK * 1000)]
            if handle in ready:
                break
            if ready:
                reason = TOLD  # or nobody is there any more
                place.control.recv(16)
                break
            spent, _, count = place.load(pid)
            if spent > limits["cpu_seconds"]:
                reason = CPU
            elif place.held(pid) > limits["memory_bytes"]:
                reason = MEMORY
            elif count > limits["processes"]:
                reason = CROWD
        status, total = place.end(pid)
    finally:
        os.close(handle)
    return reason, status, max(spent, total)


def _execute(place: Place, session: dict[str, Any], fds: list[int]) -> NoReturn:
    """Confines this process and turns it into the session's command."""
    limits = session["limits"]
    try:
        os.setsid()
        for fd, number in zip(fds, (STDIN, STDOUT, STDERR), strict=True):
            os.dup2(fd, number)
        os.chdir("/tmp" if place.mode != "bare" else session["folder"])
        # Where nothing is isolated, nothing has another name either.
        names = session["files"] if place.mode == "bare" else {shown: shown for shown in session["files"]}
        words = [_renamed(word, names) for word in session["command"]]
        place.confine(limits["processes"])
        os.closerange(STDERR + 1, 1024)
        for what, value in (
            (resource.RLIMIT_CPU, math.ceil(limits["cpu_seconds"]) + 2),
            (resource.RLIMIT_FSIZE, limits["file_bytes"]),
            (resource.RLIMIT_NOFILE, 256),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_DATA, 2 * limits["memory_bytes"]),  # until the next look at what is resident
        ):
            resource.setrlimit(what, (value, value))
        os.execve(words[0], words, session["environment"])
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(STDERR, f"{session['command'][0]} cannot be started: {error}\n".encode())
    os._exit(NOT_STARTED)


def _renamed(word: str, names: dict[str, str]) -> str:
    for shown, path in names.items():
        word = word.replace("{" + shown + "}", path)
    return word


# --------------------------------------------------------------------------------------------------------------
# In the program's own process


def _program(place: Place, plain: types.ModuleType, limits: tuple[Any, ...], fds: list[int], base: int) -> NoReturn:
    """Confines this process and runs the program; what fails before it runs is told as exit status 70."""
    try:
        cpu, _, memory, processes, file_bytes = limits
        # A session of its own: signals to "my process group" would otherwise reach the helper.
        os.setsid()
        request, *ends = fds
        null = os.open("/dev/null", os.O_WRONLY)
        for fd, number in zip([*ends[:2], null, ends[2]], (STDIN, STDOUT, STDERR, REPORT), strict=True):
            os.dup2(fd, number)
        chunks = []
        while chunk := os.read(request, 1 << 20):
            chunks.append(chunk)
        source, function, calls = plain.decode(b"".join(chunks))
        del chunks
        os.chdir("/tmp" if place.mode != "bare" else ".")
        place.confine(processes)
        os.closerange(REPORT + 1, 1024)
        for what, value in (
            (resource.RLIMIT_CPU, math.ceil(cpu) + 2),
            (resource.RLIMIT_FSIZE, file_bytes),
            (resource.RLIMIT_NOFILE, 64),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_AS, base + memory),
        ):
            resource.setrlimit(what, (value, value))
    except BaseException as error:
        try:
            _send(plain, ("end", "killed", f"the sandbox could not be set up: {error}"))
        finally:
            os._exit(70)
    status = _run(plain, source, function, calls)
    os._exit(status)


def _send(plain: types.ModuleType, frame: tuple[Any, ...]) -> None:
    content = plain.encode(frame)
    view = memoryview(FRAME.pack(len(content)) + content)
    while view:
        view = view[os.write(REPORT, view) :]


def _describe(error: BaseException) -> str:
    """Renders an exception of the program, whose methods are the program's."""
    name = type(error).__name__
    try:
        text = str(error)
    except BaseException:
        text = "(its text cannot be had)"
    return f"{name[:100]}: {text[:MAX_ERROR]}"[:MAX_ERROR] if text else name[:100]


def _run(plain: types.ModuleType, source: str, function: str, calls: list[list[Any]]) -> int:
    """Runs the program's text, then its calls; reports what happens and returns the exit status."""
    out = open(STDOUT, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    into = open(STDIN, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = out  # type: ignore[misc]
    sys.stdin = sys.__stdin__ = into  # type: ignore[misc]
    random.seed(0)
    gc.enable()
    me = os.getpid()
    full = plain.encode(("end", "memory", "MemoryError"))
    full = FRAME.pack(len(full)) + full
    module = types.ModuleType("program" if function else "__main__")
    sys.modules[module.__name__] = module
    end: tuple[str, str, str] = ("end", "done", "")
    try:
        try:
            exec(compile(source, "program.py", "exec", dont_inherit=True), module.__dict__)
            if function:
                _call(plain, module, function, calls, me)
            else:
                _finish()
        except SystemExit as error:
            if function or error.code not in (None, 0):
                end = ("end", "error", _describe(error))
            else:
                _finish()
    except MemoryError:
        if os.getpid() == me:
            os.write(REPORT, full)  # ready-made, because nothing may be left to make it from
        return 0
    except BaseException as error:
        end = ("end", "error", _describe(error))
    if os.getpid() != me:
        return 0  # a fork of the program that came back from the call
    with contextlib.suppress(BaseException):
        out.flush()
    try:
        _send(plain, end)
    except BaseException:
        return 71
    return 0


def _finish() -> None:
    """Does what the end of a script does: waits for its threads and runs what it registered."""
    sys.modules["threading"]._shutdown()
    atexit._run_exitfuncs()


def _call(plain: types.ModuleType, module: types.ModuleType, function: str, calls: list[list[Any]], me: int) -> None:
    found = module.__dict__.get(function)
    if not callable(found):
        raise NameError(f"there is no function {function!r}")
    for arguments in calls:
        frame: tuple[Any, ...]
        try:
            value = found(*arguments)
            frame = ("call", True, value)
            content = plain.encode(frame)
        except MemoryError:
            raise
        except plain.PlainError as error:
            content = plain.encode(("call", False, f"returned something else than a plain value: {error}"))
        except BaseException as error:
            content = plain.encode(("call", False, _describe(error)))
        if os.getpid() != me:
            os._exit(0)
        view = memoryview(FRAME.pack(len(content)) + content)
        while view:
            view = view[os.write(REPORT, view) :]


# --------------------------------------------------------------------------------------------------------------


def _warm() -> None:
    for name in _WARM.split():
        importlib.import_module(name)


def main() -> None:
    """Sets the place up, says so over the socket and serves."""
    mode = sys.argv[1]
    session = json.loads(sys.argv[2]) if len(sys.argv) > 2 else None
    if mode == "files":
        print(json.dumps(files()))
        return
    os.environ.clear()
    # Out of the way of the numbers that a program's descriptors take.
    control = socket.socket(fileno=fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 10))
    null = os.open("/dev/null", os.O_RDWR)
    for number in (STDIN, STDOUT, STDERR, REPORT):
        os.dup2(null, number)
    spec = importlib.util.spec_from_file_location("plain", Path(__file__).with_name("plain.py"))
    assert spec is not None
    assert spec.loader is not None
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    try:
        if session is None:
            _warm()
        sys.argv = ["program.py"]
        builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
        _libc.mallopt(_M_ARENA_MAX, 1)  # each arena reserves address space, which is what is limited
        base = int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE if Path("/proc/self").exists() else 64 << 20
        place = Place(mode, control, session)
        gc.collect()
        gc.freeze()
        gc.disable()
    except (SetupError, OSError) as error:
        control.send(f"failed {error}".encode())
        return
    control.send(f"ready {place.describe()}".encode())
    if session is None:
        serve(place, plain, base)
    else:
        converse(place, session)


if __name__ == "__main__":
    main()
