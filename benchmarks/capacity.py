"""How many episodes an hour some GPUs teach, and what holds them up: a simulation with given service times.

    python benchmarks/capacity.py [--latency 4] [--student smollm2-135m --speedup 20] [--plot capacity.svg]

What takes part, as in `dgym.cluster`: on each GPU one student host, on which some episodes (tenants) take turns; a
limiter that all share, with so many calls in flight and so many a minute; teacher workers, each with some places; and
the driver, which takes the report of each iteration on one core. An episode evaluates its student and reports; then,
iteration after iteration, it plans (calls one after the other), writes (calls side by side), trains, evaluates and
reports. Then the next one begins. Calls take lognormal times. With `--latency 0` teachers compute, each worker on one
core.

Beside each result stands its bound: the least of what each resource allows by itself, and of what so many episodes do
that never wait for each other. Not simulated: failures and retries, how the limiter finds what the endpoint allows,
loading and moving of models, grading, and the work of the process that holds the limiters.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import simpy

from dgym.cluster import MOST_WORKERS
from dgym.cluster.pool import EPISODES_PER_WORKER
from dgym.teachers.chatting import CONCURRENCY

SECONDS = {"micro-math": (0.53, 0.31), "smollm2-135m": (60.3, 20.4)}
"""Of training and of answering an iteration, on the CPU: the small student's from `--measure`; SmolLM2's are the 80.7 s
of `resident.py`, in the proportion that `--measure` gives."""

FULL = 0.9
"""Part of its time from which on a resource counts as what holds up the others."""


def option(default: float, what: str) -> Any:
    """A field of `World` that the command line sets."""
    return field(default=default, metadata={"help": what})


@dataclass(frozen=True)
class World:
    """What is simulated; times in seconds."""

    gpus: int = 1
    tenants: int = 1
    latency: float = 4.0
    train: float = SECONDS["micro-math"][0]
    answer: float = SECONDS["micro-math"][1]
    spread: float = option(0.5, "standard deviation of a call's seconds, over their mean")
    iterations: int = option(3, "of an episode")
    plans: int = option(1, "calls of an iteration that are made one after the other")
    calls: int = option(8, "calls of an iteration that are made side by side; items, where teachers compute")
    in_flight: int = option(64, "calls at a time that the endpoint allows")
    requests_per_minute: float = option(0.0, "that the endpoint allows; 0: any number")
    tokens_per_minute: float = option(0.0, "that the endpoint allows; 0: any number")
    tokens: float = option(1000.0, "of a call")
    workers: int = option(2, "teacher workers; by default as many as GPUs, from 2 to 32, as on Ray")
    compute: float = option(0.0001, "seconds of an item, where teachers compute")
    driver: float = option(0.003, "the driver's CPU seconds a report; see scale.py")

    @cached_property
    def calls_per_minute(self) -> float:
        """What the limits of the endpoint allow."""
        of_tokens = self.tokens_per_minute / self.tokens
        return min((rate for rate in (self.requests_per_minute, of_tokens) if rate), default=math.inf)

    @cached_property
    def parts(self) -> list[int]:
        """Calls of an iteration that each worker is given; see `dgym.cluster.pool.RayPool`."""
        return [len(range(first, self.calls, self.workers)) for first in range(min(self.workers, self.calls))]

    @property
    def places(self) -> int:
        """Of a worker: parts that it has in hand at a time; one where it computes."""
        return EPISODES_PER_WORKER if self.latency else 1

    @cached_property
    def sigma(self) -> float:
        """Standard deviation of the logarithm of a call's seconds."""
        return math.sqrt(math.log(1 + self.spread**2))

    @cached_property
    def mu(self) -> float:
        """Mean of the logarithm of a call's seconds."""
        return math.log(self.latency) - self.sigma**2 / 2


@dataclass(frozen=True)
class Cell:
    """Outcome of a simulation: episodes an hour, their bound, and the part of its time that each resource works."""

    world: World
    episodes: float
    bound: float
    use: dict[str, float]

    @property
    def bottleneck(self) -> str:
        """What works most, or "waiting" where nothing works nearly all the time."""
        most = max(self.use, key=lambda name: self.use[name])
        return most if self.use[most] >= FULL else "waiting"


class Meter:
    """How much of a resource works, in the mean since the last reset; whoever is inside works."""

    def __init__(self, env: simpy.Environment, capacity: int) -> None:
        self._env, self._capacity, self._working, self._area, self._at, self._since = env, capacity, 0, 0.0, 0.0, 0.0

    def __enter__(self) -> None:
        self._add(1)

    def __exit__(self, *error: object) -> None:
        self._add(-1)

    def reset(self) -> None:
        """Begins anew."""
        self._area, self._at, self._since = 0.0, self._env.now, self._env.now

    def share(self) -> float:
        """Returns the part of the resource that worked."""
        self._add(0)
        return self._area / (self._capacity * (self._env.now - self._since))

    def _add(self, working: int) -> None:
        self._area += self._working * (self._env.now - self._at)
        self._at, self._working = self._env.now, self._working + working


class Host:
    """A device that students have in turns, whoever had it least first; see `dgym.students.turns`."""

    def __init__(self, env: simpy.Environment, meter: Meter) -> None:
        self._env, self._meter, self._device, self._level = env, meter, simpy.PriorityResource(env), 0.0
        self.served: dict[int, float] = {}

    def turn(self, who: int, seconds: float) -> Iterator[Any]:
        """Waits for a turn and takes it."""
        newest = max([self._level, *(waiting.priority for waiting in self._device.queue)])
        had = max(self.served.get(who, newest), self._level)
        with self._device.request(priority=had) as turn:
            yield turn
            self._level = max(self._level, had)
            with self._meter:
                yield self._env.timeout(seconds)
        self.served[who] = had + seconds
        yield self._env.timeout(0)  # who waits is let in before the same student can come back


class Simulation:
    """All episodes of a world; `run` gives the outcome."""

    def __init__(self, world: World, seed: int) -> None:
        self._world, self._random, self._env = world, random.Random(seed), simpy.Environment()
        env, capacities = self._env, {"GPU": world.gpus, "limiter": world.in_flight, "driver": 1}
        self._meters = {name: Meter(env, capacity) for name, capacity in capacities.items()}
        self._hosts = [Host(env, self._meters["GPU"]) for _ in range(world.gpus)]
        self._limiter, self._driver = simpy.Resource(env, world.in_flight), simpy.Resource(env)
        self._workers = [simpy.Resource(env, world.places) for _ in range(world.workers)]
        self._empty = 0.0  # when the bucket of calls a minute was empty, had it filled ever since
        self._reports = 0

    def run(self, reports: int) -> Cell:
        """Simulates until all is in motion, and then so many reports at least, a whole number of each episode's."""
        world, env, most = self._world, self._env, bounds(self._world)
        episodes, each = world.gpus * world.tenants, world.iterations + 1
        for number in range(episodes):
            env.process(self._episodes(number, 3600 * episodes / (min(most.values()) * each)))
        self._until(6 * episodes + each)
        start = env.now
        for meter in self._meters.values():
            meter.reset()
        counted = episodes * -(-reports // (episodes * each))
        self._until(self._reports + counted * each)
        rate = 3600 * counted / (env.now - start)
        use = {name: meter.share() for name, meter in self._meters.items()}
        use |= {name: rate / most[name] for name in ("rate", "workers") if name in most}
        return Cell(world, rate, min(most.values()), use)

    def _until(self, reports: int) -> None:
        while self._reports < reports:
            self._env.step()

    def _episodes(self, number: int, apart: float) -> Iterator[Any]:
        """One episode after the other; the first one begins anywhere, so that they are not all at the same point."""
        world, host = self._world, self._hosts[number % self._world.gpus]
        first = (number + number // world.gpus) % (world.iterations + 1)
        yield self._env.timeout(self._random.uniform(0, apart))
        while True:
            for iteration in range(first, world.iterations + 1):
                if iteration:
                    yield from self._teach()
                    yield from host.turn(number, world.train)
                yield from host.turn(number, world.answer)
                with self._driver.request() as turn:
                    yield turn
                    with self._meters["driver"]:
                        yield self._env.timeout(world.driver)
                self._reports += 1
            del host.served[number]
            first = 0

    def _teach(self) -> Iterator[Any]:
        world, env, shift = self._world, self._env, self._random.randrange(self._world.workers)
        for _ in range(world.plans if world.latency else 0):
            yield from self._calls(iter([0]))
        workers = [self._workers[(n + shift) % world.workers] for n in range(len(world.parts))]
        yield env.all_of([env.process(self._part(*part)) for part in zip(workers, world.parts, strict=True)])

    def _part(self, worker: simpy.Resource, count: int) -> Iterator[Any]:
        env, left = self._env, iter(range(count))
        with worker.request() as place:
            yield place
            if self._world.latency:
                yield env.all_of([env.process(self._calls(left)) for _ in range(min(CONCURRENCY, count))])
            else:
                yield env.timeout(count * self._world.compute)

    def _calls(self, left: Iterator[int]) -> Iterator[Any]:
        world, env = self._world, self._env
        for _ in left:
            with self._limiter.request() as permit:
                yield permit
                if world.calls_per_minute < math.inf:
                    # Who waits here keeps nobody out: those behind come later in the bucket too.
                    self._empty = max(self._empty, env.now - 60) + 60 / world.calls_per_minute
                    yield env.timeout(max(0.0, self._empty - env.now))
                with self._meters["limiter"]:
                    yield env.timeout(self._random.lognormvariate(world.mu, world.sigma))


@cache
def writing(world: World) -> tuple[float, float]:
    """Returns the least seconds of writing a batch: of all workers' places together, and from begin to end."""
    if not world.latency:
        parts = np.array([world.parts]) * world.compute
    else:
        shape = (20_000, sum(world.parts))
        calls = world.latency * np.random.default_rng(0).lognormal(-(world.sigma**2) / 2, world.sigma, shape)
        of_parts = np.split(calls, np.cumsum(world.parts)[:-1], axis=1)
        parts = np.stack([np.maximum(c.max(axis=1), c.sum(axis=1) / CONCURRENCY) for c in of_parts], axis=1)
    return float(parts.sum(axis=1).mean()), float(parts.max(axis=1).mean())


def bounds(world: World) -> dict[str, float]:
    """Returns the episodes an hour that each resource allows, and ("waiting") that come of never waiting for others.

    No closed network does more than the least of them (Denning and Buzen 1978).
    """
    rounds, reports = world.iterations, world.iterations + 1
    calls = rounds * (world.plans + world.calls) if world.latency else 0
    places, written = writing(replace(world, gpus=1, tenants=1))
    alone = rounds * (world.plans * world.latency + written + world.train) + reports * (world.answer + world.driver)
    seconds = {
        "GPU": (rounds * world.train + reports * world.answer) / world.gpus,
        "limiter": calls * world.latency / world.in_flight,
        "rate": calls * 60 / world.calls_per_minute,
        "workers": rounds * places / (world.workers * world.places),
        "driver": reports * world.driver,
        "waiting": alone / (world.gpus * world.tenants),
    }
    return {name: 3600 / of_one for name, of_one in seconds.items() if of_one > 0}


def simulate(world: World, reports: int = 2000, seed: int = 0) -> Cell:
    """Simulates a world; the same arguments give the same outcome."""
    return Simulation(world, seed).run(reports)


def measure(student: str, device: str, threads: int) -> tuple[float, float]:
    """Returns the median seconds that a student trains and answers an iteration here, as `resident.py` has it."""
    import time

    import torch
    from common import examples, load, medians, problems, recipe_of
    from resident import ITERATIONS, SIZES

    torch.set_num_threads(threads)
    taught, asked = SIZES[student]
    tenant, given = load(student, device, threads).open(recipe_of(student), "a"), problems(asked)
    tenant.train(examples(16), seed=0, fresh=True)
    times: dict[str, list[float]] = {"train": [], "answer": []}
    for iteration in range(1, ITERATIONS[student] + 1):
        data, start = examples(taught, iteration), time.perf_counter()
        tenant.train(data, seed=iteration, fresh=True)
        between = time.perf_counter()
        tenant.answer(given)
        times["train"].append(between - start)
        times["answer"].append(time.perf_counter() - between)
    middle = medians(times)
    return middle["train"], middle["answer"]


def tables(cells: list[Cell]) -> str:
    """Renders a Markdown table for each latency."""
    out = []
    for latency in dict.fromkeys(c.world.latency for c in cells):
        some = [c for c in cells if c.world.latency == latency]
        tenants = dict.fromkeys(c.world.tenants for c in some)
        name = f"calls of {latency:g} s" if latency else "teachers compute"
        out += [f"\n| {name}; GPUs | " + " | ".join(f"{n} tenant{'s' * (n > 1)}" for n in tenants) + " |"]
        out += ["|--:|" + "--:|" * len(tenants)]
        for gpus in dict.fromkeys(c.world.gpus for c in some):
            row = [rendered(c) for c in some if c.world.gpus == gpus]
            out += [f"| {gpus} | {' | '.join(row)} |"]
    return "\n".join(out)


def rendered(cell: Cell) -> str:
    """Renders a cell of the table."""
    use = ", ".join(f"{100 * cell.use[name]:.0f}" for name in ("GPU", "limiter", "driver"))
    return f"{cell.episodes:.0f} of {cell.bound:.0f} ({use}) {cell.bottleneck}"


def draw(cells: list[Cell], file: Path) -> None:
    """Draws episodes an hour over GPUs, and the bounds dashed; a panel for each latency."""
    import altair as alt
    import pandas as pd

    names = {
        c.world.latency: f"calls of {c.world.latency:g} s" if c.world.latency else "teachers compute" for c in cells
    }
    frame = pd.DataFrame(
        (names[c.world.latency], c.world.gpus, c.world.tenants, line, episodes)
        for c in cells
        for line, episodes in (("simulated", c.episodes), ("bound", c.bound))
    )
    frame.columns = pd.Index(["calls", "GPUs", "tenants", "line", "episodes an hour"])
    chart = alt.Chart(frame, width=300, height=240).mark_line()
    chart = chart.encode(
        alt.X("GPUs:Q", scale=alt.Scale(type="log", base=2)),
        alt.Y("episodes an hour:Q", scale=alt.Scale(type="log")),
        alt.Color("tenants:O", scale=alt.Scale(scheme="viridis")),
        alt.StrokeDash("line:N", sort=["simulated", "bound"], title=None),
    )
    chart.facet(alt.Facet("calls:N", sort=list(names.values()), title=None), columns=2).save(str(file))


def workers_of(gpus: int) -> int:
    """Returns how many teacher workers a run takes by itself; see `dgym.cluster.RayBackend`."""
    return min(max(2, gpus), MOST_WORKERS)


def main() -> None:
    """Simulates all cells and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--gpus", type=int, nargs="+", default=[2**n for n in range(9)])
    add("--tenants", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="episodes at a time on each GPU")
    add("--latency", type=float, nargs="+", default=[0, 1, 4, 15], help="mean seconds of a call; 0: teachers compute")
    add("--student", choices=list(SECONDS), default="micro-math", help="whose seconds on the CPU are taken")
    add("--measure", action="store_true", help="measure them here")
    add("--device", default="cpu", help="where to measure")
    add("--threads", type=int, default=1, help="with which to measure")
    add("--train", type=float, help="seconds of training an iteration, instead")
    add("--answer", type=float, help="seconds of answering an iteration, instead")
    add("--speedup", type=float, default=1.0, help="how many times faster a GPU is")
    options = [f for f in fields(World) if f.metadata]
    for f in options:
        kind, what = type(f.default), f"{f.metadata['help']} ({f.default:g})"
        add(f"--{f.name.replace('_', '-')}", type=kind, default=f.default, help=what)
    parser.set_defaults(workers=0)
    add("--reports", type=int, default=2000, help="least reports of iterations that a cell's outcome comes from")
    add("--seed", type=int, default=0)
    add("--json", action="store_true")
    add("--plot", type=Path, metavar="FILE", help="SVG or PNG")
    args = parser.parse_args()
    seconds = measure(args.student, args.device, args.threads) if args.measure else SECONDS[args.student]
    train = (seconds[0] if args.train is None else args.train) / args.speedup
    answer = (seconds[1] if args.answer is None else args.answer) / args.speedup
    given = World(train=train, answer=answer, **{f.name: getattr(args, f.name) for f in options})
    kinds = itertools.product(args.latency, args.gpus, args.tenants)
    worlds = [
        replace(given, latency=latency, gpus=gpus, tenants=tenants, workers=given.workers or workers_of(gpus))
        for latency, gpus, tenants in kinds
    ]
    cells = [simulate(world, args.reports, args.seed) for world in worlds]
    if args.json:
        print(json.dumps([asdict(cell) | {"bottleneck": cell.bottleneck} for cell in cells], indent=2))
    else:
        parts = [cell.episodes / cell.bound for cell in cells]
        print(f"Training {train:.3g} s and answering {answer:.3g} s an iteration; {given.in_flight} calls in flight.")
        print("Episodes an hour of their bound (per cent that GPUs, limiter and driver work) and bottleneck:")
        print(tables(cells))
        print(f"\nBetween {min(parts):.1%} and {max(parts):.1%} of the bounds.")
    if args.plot:
        draw(cells, args.plot)


if __name__ == "__main__":
    main()
