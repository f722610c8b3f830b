"""The simulation of `benchmarks/capacity.py` against what can be worked out by hand."""

from __future__ import annotations

import importlib.util
import itertools
import json
import shlex
import sys
from pathlib import Path

import pytest
import simpy

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "capacity.py"


@pytest.fixture(scope="module")
def capacity():
    spec = importlib.util.spec_from_file_location("capacity", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["capacity"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["capacity"]


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ({}, 4.0),  # 8 calls of 4 s side by side
        ({"in_flight": 2}, 16.0),
        ({"calls": 40}, 8.0),  # a worker has 16 of its 20 in hand
        ({"calls": 40, "workers": 3}, 4.0),
        ({"calls": 1}, 4.0),
        ({"requests_per_minute": 50}, 4.0),  # what was left over while the student learned is there for the next batch
        ({"latency": 0.0, "compute": 0.5}, 2.0),  # 4 items for each of two workers
    ],
)
def test_one_episode_at_a_time_takes_the_sum_of_its_parts(capacity, given, written):
    world = capacity.World(train=3.0, answer=1.0, driver=0.25, spread=0.0, **given)
    cell = capacity.simulate(world, reports=40)
    seconds = 4 * (1.0 + 0.25) + 3 * (world.latency + written + 3.0)
    assert cell.episodes == pytest.approx(3600 / seconds, rel=1e-9)
    assert cell.use["GPU"] == pytest.approx((4 * 1.0 + 3 * 3.0) / seconds, rel=1e-9)
    assert cell.use["driver"] == pytest.approx(4 * 0.25 / seconds, rel=1e-9)
    assert cell.use["limiter"] == pytest.approx(
        3 * (1 + world.calls) * world.latency / world.in_flight / seconds, rel=1e-9
    )
    assert cell.bottleneck == ("limiter" if cell.use["limiter"] >= 0.9 else "waiting")


@pytest.mark.parametrize(
    ("name", "given", "seconds"),
    [
        # Seconds of an episode with 3 iterations that the scarce resource alone takes.
        ("GPU", {"gpus": 2, "tenants": 8, "latency": 1.0}, (3 * 3.0 + 4 * 1.0) / 2),
        ("GPU", {"gpus": 4, "tenants": 2, "latency": 0.0}, (3 * 3.0 + 4 * 1.0) / 4),
        ("limiter", {"gpus": 16, "tenants": 8}, 3 * 9 * 4.0 / 64),
        ("limiter", {"gpus": 4, "tenants": 8, "in_flight": 8, "latency": 1.0}, 3 * 9 * 1.0 / 8),
        ("rate", {"gpus": 8, "tenants": 8, "requests_per_minute": 300}, 3 * 9 / 5),
        ("rate", {"gpus": 8, "tenants": 8, "tokens_per_minute": 150_000, "tokens": 500}, 3 * 9 / 5),
        ("driver", {"gpus": 64, "tenants": 2, "latency": 0.0, "driver": 0.2}, 4 * 0.2),
        ("workers", {"gpus": 64, "tenants": 8, "in_flight": 512, "workers": 1, "spread": 0.0}, 3 * 4.0 / 32),
        ("workers", {"gpus": 32, "tenants": 2, "latency": 0.0, "compute": 0.1}, 3 * 8 * 0.1 / 2),
    ],
)
def test_what_is_scarce_is_used_up_and_named(capacity, name, given, seconds):
    cell = capacity.simulate(capacity.World(**{"train": 3.0, "answer": 1.0, "driver": 0.001} | given))
    assert cell.bottleneck == name
    assert cell.bound == pytest.approx(3600 / seconds)
    assert 0.95 < cell.episodes / cell.bound < 1.02


def test_the_outcome_does_not_depend_on_the_beginning(capacity):
    # GPUs and limiter are about equally scarce here, so that it takes long until neither gains on the other.
    world = capacity.World(gpus=8, tenants=32, train=3.015, answer=1.02, workers=32)
    short, long = (capacity.simulate(world, reports).episodes for reports in (1000, 6000))
    assert short == pytest.approx(long, rel=0.05)


def test_no_world_does_more_than_its_bound(capacity):
    # Random times are not just at their mean: 2 % above are none.
    parts = []
    for latency, gpus, tenants in itertools.product((0.0, 1.0, 15.0), (1, 3, 16), (1, 4, 8)):
        cell = capacity.simulate(capacity.World(gpus=gpus, tenants=tenants, latency=latency), reports=1000)
        parts.append(cell.episodes / cell.bound)
        assert max(cell.use.values()) < 1.02
    assert 0.7 < min(parts) < 0.9  # where waiting for others and scarcity come together, the bound is not reached
    assert max(parts) < 1.02


def test_the_seed_decides_all(capacity):
    world = capacity.World(gpus=2, tenants=4, latency=1.0, requests_per_minute=1000)
    assert capacity.simulate(world, 200) == capacity.simulate(world, 200)
    assert capacity.simulate(world, 200).episodes != capacity.simulate(world, 200, seed=1).episodes


@pytest.mark.parametrize(
    ("students", "expected"),
    [
        # "short" overtakes "long", which had more; "new" stands behind all that wait, though it had nothing.
        (
            [("long", 0, 10, 10), ("short", 1, 1, 1), ("other", 2, 5), ("new", 12, 1)],
            [("long", 10), ("short", 11), ("other", 16), ("short", 17), ("long", 27), ("new", 28)],
        ),
        # Who waits is let in when a turn ends, before the same student can ask again.
        ([("long", 0, 5, 5), ("short", 1, 1, 1)], [("long", 5), ("short", 6), ("long", 11), ("short", 12)]),
        # What "late" did not ask for is not saved up: it is taken as served as much as the last one let in.
        (
            [("early", 0, 4, 4, 4, 4), ("other", 0.5, 4.5, 4.5, 4.5), ("late", 0.7, 1), ("late", 19, 6, 6)],
            [
                *[("early", 4), ("other", 8.5), ("late", 9.5), ("early", 13.5), ("other", 18), ("early", 22)],
                *[("late", 28), ("other", 32.5), ("early", 36.5), ("late", 42.5)],
            ],
        ),
    ],
)
def test_who_had_the_device_least_goes_first(capacity, students, expected):
    env, order = simpy.Environment(), []
    host = capacity.Host(env, capacity.Meter(env, 1))

    def student(who, at, *turns):
        yield env.timeout(at)
        for seconds in turns:
            yield from host.turn(who, seconds)
            order.append((who, env.now))

    for one in students:
        env.process(student(*one))
    env.run()
    assert order == expected


def test_the_command_prints_tables_or_json_and_draws(capacity, monkeypatch, capsys, tmp_path):
    options = shlex.split("--gpus 1 2 --tenants 1 2 --latency 0 4 --train 40 --answer 20 --speedup 20 --reports 20")
    picture = tmp_path / "capacity.svg"
    monkeypatch.setattr(sys, "argv", ["capacity.py", *options, "--plot", str(picture)])
    capacity.main()
    printed = capsys.readouterr().out
    assert "Training 2 s and answering 1 s" in printed
    assert "| teachers compute; GPUs | 1 tenant | 2 tenants |" in printed
    assert "| calls of 4 s; GPUs | 1 tenant | 2 tenants |" in printed
    assert printed.count("| 2 | ") == 2
    assert picture.read_text().startswith("<svg")

    monkeypatch.setattr(sys, "argv", ["capacity.py", *options, "--in-flight", "3", "--json"])
    capacity.main()
    cells = json.loads(capsys.readouterr().out)
    assert [(c["world"]["latency"], c["world"]["gpus"], c["world"]["tenants"]) for c in cells] == [
        *itertools.product((0, 4), (1, 2), (1, 2))
    ]
    assert cells[0]["world"]["in_flight"] == 3
    assert cells[0]["bottleneck"] == "GPU"
    assert f"| {cells[0]['episodes']:.0f} of {cells[0]['bound']:.0f} (" in printed
