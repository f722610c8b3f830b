"""Kills what a run is made of, at random, until it is done all the same, and compares the results with a calm run.

    make chaos, or python benchmarks/chaos.py [--kills 110] [--seed 1]

The suite is `standard` cut to some minutes, with a language-model teacher in addition. It runs twice: in process on a
machine where nothing happens, asking a test server that answers well; and on a Ray cluster of two real raylets on this
machine, asking one whose every third response is faulty (429, 500, no answer, a connection cut in the middle), while
student hosts, teacher workers, episodes' processes, the run's own actors, one of the raylets and the driver are killed
with SIGKILL. A driver that is gone, or that ended with failed episodes, is started again with the same command.

The two runs must have the same rows in all tables, but for times, retries, and what died. Printed are the kills, the
starts of the driver, what the episodes say died under them, and the longest time that each run took.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from dgym import results
from dgym.chat_server import ChatServer, Manner
from dgym.cluster import quiet

STANDARD = Path(__file__).with_name("standard.toml")
FAULTS = ("429", "429-retry-after", "500", "hang", "cut")
MAY_DIFFER = ("retries", "cache_hit", "deaths", "started_at", "finished_at")
TABLES = ("episodes", "steps", "attempts", "examples", "calls")

TITLES: Mapping[str, tuple[str, ...]] = {
    "host": ("ray::HostActor",),
    "worker": ("ray::TeacherWorker",),
    "episode": ("ray::EpisodeTrial", "ray::ResourceTrainable"),
    "actor": ("ray::HostManager", "ray::ChatDesk"),
}
"""What Ray calls the processes, by kind."""

SHARES: Mapping[str, float] = {
    "host": 0.4,
    "worker": 0.22,
    "episode": 0.26,
    "actor": 0.04,
    "raylet": 0.04,
    "driver": 0.04,
}
"""Which part of the kills is of which kind; of each at least one."""

LAST = 0.85
"""The last kill comes when about so much of the run is done."""

MOST_STARTS = 40


def suite(folder: Path) -> Path:
    """Writes `standard`, cut to some minutes, with a language-model teacher."""
    kept = tomllib.loads(STANDARD.read_text())
    rules = "iterations = 2\nshare = 0.03\nbudget = { examples_per_iteration = 24 }"
    cells = "".join(f'[[cells]]\ndomain = "{c["domain"]}"\nstudent = "{c["student"]}"\n' for c in kept["cells"])
    agent = {"teachers": ["agent@model"], "environments": ["open-ended", "skill-list", "skill-tree"]}
    entries = "".join(
        f"[[entries]]\nteachers = {json.dumps(e['teachers'])}\nenvironments = {json.dumps(e['environments'])}\n"
        for e in [*kept["entries"], agent]
    )
    path = folder / "chaos.toml"
    path.write_text(f'name = "chaos"\nseeds = [1]\nthreads = 1\n[rules]\n{rules}\n{cells}{entries}')
    return path


@contextmanager
def serving(folder: Path, port: int, faults: tuple[str, ...]) -> Iterator[int]:
    """Starts the test server and names it to all processes that are started meanwhile; yields its port.

    The endpoint is part of an episode's digest: both runs ask the same address.
    """
    with ChatServer(Manner(faults=faults, every=3, hang=3.0), port) as server:
        chats = folder / "chats.toml"
        chats.write_text(f'[model]\nmodel = "stand-in"\nendpoint = "{server.url}"\ntimeout = 1.0\nretries = 12\n')
        before = os.environ.get("DGYM_CHATS")
        os.environ["DGYM_CHATS"] = str(chats)
        try:
            yield int(server.url.rpartition(":")[2].partition("/")[0])
        finally:
            if before is None:
                del os.environ["DGYM_CHATS"]
            else:
                os.environ["DGYM_CHATS"] = before


def command(what: Path, out: Path, *more: str) -> list[str]:
    """Returns the command that a person would type."""
    record = str(out.with_name(out.name + "-record"))
    words = ["bench", "--suite", str(what), "--out", str(out), "--record", record, "--json", *more]
    return [sys.executable, "-m", "dgym", *words]


def calm(what: Path, out: Path, *more: str) -> float:
    """Runs a suite in process; returns seconds."""
    start = time.perf_counter()
    with out.with_name(f"{out.name}.log").open("w") as log:
        subprocess.run(command(what, out, "--backend", "local", *more), check=True, stdout=log, stderr=log)
    return time.perf_counter() - start


class Disturbed:
    """A run on two raylets whose processes are killed.

    Args:
        what: The suite.
        out: The results folder.
        seed: Draws what is killed, and when.
        more: Options of `dgym bench`.
        say: Takes a line for every kill and start.
    """

    def __init__(
        self, what: Path, out: Path, seed: int, *more: str, say: Callable[[str], None] = lambda line: None
    ) -> None:
        quiet(verbose=False)  # raylets inherit it
        self._what, self._out, self._more, self._say = what, out, more, say
        self._random = random.Random(seed)
        self.kills: Counter[str] = Counter()
        """What was killed, by kind."""
        self.starts = 0
        """How often the driver was started."""
        self.report: Mapping[str, Any] = {}
        """What the last driver said."""

    def run(self, kills: int, delay: float) -> float:
        """Runs the suite to its end; returns seconds.

        Args:
            kills: How many kills there are. Each is due when a part of the run that is drawn evenly is done.
            delay: Mean seconds, exponentially distributed, between when a kill is due and when it is done.

        Raises:
            SystemExit: If the run ended before all kills, or does not end.
        """
        from ray.cluster_utils import Cluster

        todo = [kind for kind, share in SHARES.items() for _ in range(max(1, round(share * kills)))]
        self._random.shuffle(todo)
        due = sorted(self._random.uniform(0, LAST) for _ in todo)
        start = time.perf_counter()
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        self._second = self._joined()
        self._driver = self._started()
        try:
            while self._going(bool(todo)):
                if not todo or self._done() < due[-len(todo)]:
                    time.sleep(0.05)
                    continue
                time.sleep(self._random.expovariate(1 / delay))
                if self._driver.poll() is None and self._kill(todo[-1]):
                    self._say(f"{self.kills.total():4d} {todo.pop()}")
                else:
                    self._random.shuffle(todo)  # there is none of that kind just now
        finally:
            self._driver.kill()
            self._driver.wait()
            self._cluster.shutdown()
        return time.perf_counter() - start

    def _done(self) -> float:
        """Returns which part of the episodes has finished."""
        with suppress(OSError, ValueError):
            planned = len(json.loads((self._out / "planned.json").read_text())["episodes"])
            return len(list((self._out / "finished").iterdir())) / planned
        return 0.0

    def _going(self, more: bool) -> bool:
        """Looks after the driver; returns whether the run goes on."""
        ended = self._driver.poll()
        if ended is None:
            return True
        if ended == 0:
            self.report = json.loads(self._file("json").read_text())
            if more:
                raise SystemExit(f"The run ended after {self.kills.total()} kills: choose a shorter --delay.")
            return False
        if self.starts >= MOST_STARTS:
            raise SystemExit(f"The driver was started {self.starts} times; see {self._file('log')}.")
        self._driver = self._started()
        return True

    def _started(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        self._say(f"     start {self.starts} of the driver")
        words = command(self._what, self._out, "--address", self._cluster.address, *self._more)
        with self._file("json").open("w") as said, self._file("log").open("w") as log:
            return subprocess.Popen(words, stdout=said, stderr=log)

    def _file(self, kind: str) -> Path:
        return self._out.with_name(f"{self._out.name}-{self.starts}.{kind}")

    def _joined(self) -> Any:
        # An address of its own: a driver takes the raylet of its machine's address for the local one.
        return self._cluster.add_node(num_cpus=2, node_ip_address="127.0.0.2")

    def _kill(self, kind: str) -> bool:
        """Kills one of a kind; returns whether there was one."""
        if kind == "driver":
            self._driver.kill()
            self._driver.wait()
        elif kind == "raylet":
            self._cluster.remove_node(self._second, allow_graceful=False)
            self._second = self._joined()
        else:
            found = list(self._processes(TITLES[kind]))
            if not found:
                return False
            with suppress(ProcessLookupError):
                os.kill(self._random.choice(found), signal.SIGKILL)
        self.kills[kind] += 1
        return True

    def _processes(self, titles: tuple[str, ...]) -> Iterator[int]:
        for node in (self._cluster.head_node, self._second):
            for raylet in node.all_processes.get("raylet", ()):
                with suppress(psutil.Error):
                    for process in psutil.Process(raylet.process.pid).children(recursive=True):
                        with suppress(psutil.Error, IndexError):
                            if process.cmdline()[0].startswith(titles):
                                yield process.pid


def rows(folder: Path) -> dict[str, pd.DataFrame]:
    """Returns all tables of a run, in a fixed order of rows, without what may differ between runs."""
    run = results.open(folder)
    out = {}
    for table in TABLES:
        frame = getattr(run, table)
        frame = frame[[c for c in frame if not c.startswith("seconds") and c not in MAY_DIFFER]]
        keys = [c for c in ("digest", "iteration", "generation", "split", "problem", "item", "prompt") if c in frame]
        out[table] = frame.sort_values(keys, kind="stable").reset_index(drop=True)
    return out


def compare(calm_run: Path, disturbed_run: Path) -> dict[str, int]:
    """Compares two runs; returns how many rows each table has.

    Raises:
        SystemExit: If they differ.
    """
    left, right = rows(calm_run), rows(disturbed_run)
    for table in TABLES:
        try:
            pd.testing.assert_frame_equal(left[table], right[table])
        except AssertionError as error:
            raise SystemExit(f"The runs differ in the table {table}: {error}") from None
    return {table: len(left[table]) for table in TABLES}


def died(run: Path) -> Counter[str]:
    """Sums up what a run's episodes say died under them."""
    found: Counter[str] = Counter()
    for text in results.open(run).episodes["deaths"].dropna():
        found.update(json.loads(text))
    return found


def main() -> None:
    """Runs both and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=110)
    parser.add_argument("--delay", type=float, default=1.0, help="mean seconds between when a kill is due and done")
    parser.add_argument("--seed", type=int, default=1, help="draws what is killed, and when")
    parser.add_argument("--keep", type=Path, help="a new folder for both runs and the drivers' messages")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        what = suite(folder)
        with serving(folder, 0, ()) as port:
            quiet = calm(what, folder / "calm")
        print(f"undisturbed: {quiet:.0f} s", flush=True)
        with serving(folder, port, FAULTS):
            few = ("--hosts", "2", "--per-host", "2")  # two cores, whatever two raylets say
            run = Disturbed(what, folder / "disturbed", args.seed, *few, say=lambda line: print(line, flush=True))
            seconds = run.run(args.kills, args.delay)
        counts = compare(folder / "calm", folder / "disturbed")
        shown = ", ".join(f"{count} {kind}s" for kind, count in sorted(run.kills.items()))
        print(f"disturbed: {seconds:.0f} s, {run.kills.total()} kills ({shown}), {run.starts} starts of the driver")
        print(f"died under episodes that ended well: {dict(died(folder / 'disturbed')) or 'nothing'}")
        print(f"all rows are the same: {', '.join(f'{count} {table}' for table, count in counts.items())}")


if __name__ == "__main__":
    main()
