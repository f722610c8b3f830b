"""What `dgym doctor` finds: on this machine, on a made-up one, at a real endpoint and a real Ray; and never a key."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as real_version

import pytest
from typer.testing import CliRunner

from dgym import doctor
from dgym.chat_server import ChatServer, Manner
from dgym.cli import app
from dgym.doctor import Finding, examine, healthy, without_secrets
from dgym.students.sizing import Machine

CANARY = "sk-canary-0123456789"

AREAS = ["versions", "cpu", "memory", "gpu", "disk", "sandbox", "ray", "endpoints", "data sets", "models"]

SETTINGS = (
    "OPENAI_BASE_URL",
    "OPENAI_API_KEY",
    "DGYM_CHATS",
    "DGYM_VLLM_URL",
    "RAY_ADDRESS",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
)


@pytest.fixture(autouse=True)
def plain(monkeypatch, tmp_path):
    """An environment without settings of one's own, in an empty folder."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def levels(findings):
    return [finding.level for finding in findings]


def invoke(*args):
    done = CliRunner().invoke(app, ["doctor", *args])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def test_every_area_is_looked_at_and_what_is_not_green_has_advice():
    found = examine()
    assert list(dict.fromkeys(f.area for f in found)) == AREAS
    for finding in found:
        assert finding.found
        assert bool(finding.advice) == (finding.level != "green"), finding
        assert "\n" not in finding.found + finding.advice
    (line,) = [f.found for f in found if f.area == "versions" and f.level == "green"]
    assert f"ray {real_version('ray')}" in line


def test_the_command_prints_the_findings_and_its_status_tells_of_red_ones(monkeypatch):
    monkeypatch.setattr("dgym.doctor.examine", lambda address: [Finding("cpu", "green", "2 cores")])
    assert invoke().exit_code == 0
    bad = [Finding("cpu", "green", "2 cores"), Finding("disk", "red", "[full]", "Free some.")]
    monkeypatch.setattr("dgym.doctor.examine", lambda address: bad)
    done = invoke()
    assert done.exit_code == 1
    assert [line.split()[:2] for line in done.stdout.splitlines()[:2]] == [["green", "cpu"], ["red", "disk"]]
    assert "[full]" in done.stdout
    assert "→ Free some." in done.stdout
    assert [Finding(**row) for row in json.loads(invoke("--json").stdout)] == bad
    assert not healthy(bad)
    assert healthy([Finding("gpu", "yellow", "none", "Get one.")])


def test_what_cannot_be_looked_at_is_red_and_the_rest_is_looked_at(monkeypatch):
    monkeypatch.setattr("dgym.doctor.cpu", lambda: iter([1 / 0]))
    found = examine()
    assert [(f.area, f.level) for f in found if f.area == "cpu"] == [("cpu", "red")]
    assert list(dict.fromkeys(f.area for f in found)) == AREAS


def test_versions_outside_of_what_is_declared(monkeypatch):
    told = {"torch": "1.0", "vllm": "0.1", "gymnasium": "0.1", "dgym": "9"}

    def version(name):
        if name == "pyarrow":
            raise PackageNotFoundError(name)
        return told.get(name) or real_version(name)

    monkeypatch.setattr("dgym.doctor.version", version)
    declared = ["torch>=2.13,<2.14", "pyarrow>=20", "pandas>=2.2", 'vllm>=0.32; extra == "vllm"', "not a requirement!"]
    declared += [
        'gymnasium>=1.4; extra == "gym"',
        'nothing-like-it>=1; extra == "gym"',
        'wintime; sys_platform == "win"',
    ]
    monkeypatch.setattr("dgym.doctor.requires", lambda name: declared)
    found = {f.found: f for f in doctor.versions()}
    shown, *wrong = found
    assert shown.endswith("dgym 9, torch 1.0, vllm 0.1, pandas " + real_version("pandas"))
    assert [found[w].level for w in wrong] == ["red", "red", "red", "yellow"]
    assert wrong[0].startswith("torch 1.0 is not ")
    assert wrong[1] == "pyarrow is not installed"
    assert found[wrong[1]].advice == 'pip install "pyarrow>=20".'


def test_a_small_machine(monkeypatch, tmp_path):
    monkeypatch.setattr("dgym.students.machine.cores", lambda: 1)
    assert levels(doctor.cpu()) == ["yellow"]
    monkeypatch.setattr("dgym.students.machine.memory", lambda: 2**29)
    assert levels(doctor.memory()) == ["red"]
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "not" / "yet"))
    usage = namedtuple("usage", "free")
    for free, level in ((2**29, "red"), (2**31, "yellow"), (2**40, "green")):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: usage(free))
        assert levels(doctor.disk()) == [level, level]
    monkeypatch.setattr(os, "access", lambda *args: False)
    assert levels(doctor.disk()) == ["red", "red"]


def test_gpus_that_the_installed_torch_cannot_use(monkeypatch):
    monkeypatch.setattr("dgym.students.machine.this_machine", lambda: Machine(2, None, 2, 80 * 2**30))
    monkeypatch.setattr("dgym.doctor.version", lambda name: "2.13.0+cpu")
    (found,) = doctor.gpu()
    assert (found.level, "2, 80.0 GiB" in found.found) == ("red", True)
    monkeypatch.setattr("dgym.doctor.version", lambda name: "2.13.0+cu130")
    assert levels(doctor.gpu()) == ["green"]


@pytest.mark.parametrize(
    ("name", "level", "words"), [("unsafe", "yellow", "unsafe"), ("no-such", "red", "no sandbox named")]
)
def test_sandboxes(monkeypatch, name, level, words):
    monkeypatch.setenv("DGYM_SANDBOX", name)
    (found,) = doctor.sandbox()
    assert (found.level, words in found.found) == (level, True), found


def test_endpoints_that_answer_refuse_or_are_not_there(monkeypatch, tmp_path):
    assert levels(doctor.endpoints()) == ["yellow"]
    with ChatServer(Manner()) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        (found,) = doctor.endpoints()
        assert (found.level, found.advice) == ("red", "Set OPENAI_API_KEY; any text where none is asked for.")
        monkeypatch.setenv("OPENAI_API_KEY", CANARY)
        (found,) = doctor.endpoints()
        assert found.level == "green"
        assert found.found == f"{server.url} (openai:MODEL) answers, the key in OPENAI_API_KEY is set"
        (tmp_path / "chats.toml").write_text(f'[mine]\nmodel = "m"\nendpoint = "{server.url}"\nkey = "OTHER_KEY"\n')
        monkeypatch.setenv("DGYM_VLLM_URL", "what")
        assert levels(doctor.endpoints()) == ["green", "red", "red"]
    monkeypatch.delenv("DGYM_VLLM_URL")
    (tmp_path / "chats.toml").write_text("[mine]\nmodle = 1\n")
    broken, gone = doctor.endpoints()
    assert "Did you mean 'model'" in broken.found
    assert (gone.level, "does not answer" in gone.found) == ("red", True)


class Odd:
    """A server that refuses every key, or sends whoever asks elsewhere."""

    def __init__(self, status, location=""):
        from http.server import BaseHTTPRequestHandler, HTTPServer
        from threading import Thread

        seen = self.seen = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                seen.append((self.path, self.headers["Authorization"]))
                self.send_response(status)
                if location:
                    self.send_header("Location", location)
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.server.shutdown()
        self.server.server_close()


@pytest.mark.parametrize(("status", "level"), [(401, "red"), (500, "red"), (418, "yellow"), (404, "green")])
def test_what_an_endpoint_answers(monkeypatch, status, level):
    with Odd(status) as odd:
        monkeypatch.setenv("OPENAI_BASE_URL", odd.url)
        monkeypatch.setenv("OPENAI_API_KEY", CANARY)
        assert levels(doctor.endpoints()) == [level]
        assert odd.seen == [("/v1/models", f"Bearer {CANARY}")]


def test_a_key_goes_to_no_other_place_than_the_one_that_is_named(monkeypatch):
    with Odd(200) as thief, Odd(302, f"{thief.url}/models") as odd:
        monkeypatch.setenv("OPENAI_BASE_URL", odd.url)
        monkeypatch.setenv("OPENAI_API_KEY", CANARY)
        assert levels(doctor.endpoints()) == ["yellow"]
        assert thief.seen == []


def test_no_key_is_ever_printed(monkeypatch, tmp_path):
    (tmp_path / "chats.toml").write_text(f'[mine]\nmodel = "m"\nendpoint = "http://u:{CANARY}@127.0.0.1:9/{CANARY}"\n')
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://me:{CANARY}@127.0.0.1:9/v1?key={CANARY}")
    monkeypatch.setenv("RAY_AUTH_TOKEN", CANARY)
    monkeypatch.setenv("DGYM_SANDBOX", CANARY)
    monkeypatch.setenv("DGYM_VLLM_URL", CANARY)
    for args in ((), ("--json",), ("--address", f"127.0.0.1:{CANARY}"), ("--address", f"ray://{CANARY}@there")):
        done = invoke(*args)
        assert done.exit_code == 1
        assert "127.0.0.1:9/v1" in done.output
        assert CANARY not in done.output
    assert without_secrets(f"s3://a:b@c and {CANARY}") == "s3://…@c and …"


def ray_with(monkeypatch, *, mine, stranger):
    monkeypatch.setattr("dgym.doctor._probe", lambda address, stranger=False, both=(mine, stranger): both[stranger])
    return list(doctor.ray_cluster("10.0.0.1:6379"))


ANSWERS = {
    "error": "",
    "denied": False,
    "address": "10.0.0.1:6379",
    "ray": real_version("ray"),
    "python": sys.version.split()[0],
    "nodes": 2,
    "dashboard": "127.0.0.1:8265",
}
DENIED = {"error": "it asks for a token, and was given none or a wrong one", "denied": True}


def test_what_may_be_wrong_with_a_cluster(monkeypatch):
    found = ray_with(monkeypatch, mine=ANSWERS, stranger=DENIED)
    assert levels(found) == ["green"] * 3
    assert "2 nodes" in found[0].found
    other = ANSWERS | {"ray": "2.0.0", "dashboard": "10.0.0.1:8265"}
    found = ray_with(monkeypatch, mine=other, stranger=other)
    assert levels(found) == ["red", "red", "red"]
    for finding, words in zip(found, ("Ray 2.0.0", "without a token", "10.0.0.1:8265"), strict=True):
        assert words in finding.found
    assert levels(ray_with(monkeypatch, mine=ANSWERS | {"python": "3.2.1"}, stranger=DENIED))[0] == "red"
    (found,) = ray_with(monkeypatch, mine=DENIED, stranger=DENIED)
    assert "ray get-auth-token" in found.advice
    (found,) = ray_with(monkeypatch, mine={"error": "nobody", "denied": False}, stranger=DENIED)
    assert "Start it" in found.advice
    near = ANSWERS | {"address": "127.0.0.1:6379", "dashboard": ""}
    assert levels(ray_with(monkeypatch, mine=near, stranger=near)) == ["green", "yellow"]


def test_a_ray_of_ones_own_has_a_token_unless_that_is_switched_off(monkeypatch):
    assert levels(doctor.ray_cluster(None)) == ["green"]
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert levels(doctor.ray_cluster(None)) == ["red"]
    assert levels(doctor.ray_cluster("ray://there:10001")) == ["red"]


CLUSTER = """
import sys
import ray
ray.init(num_cpus=1, include_dashboard=False, address="local", log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def real_ray(tmp_path):
    """Starts a Ray in another process."""
    with contextlib.ExitStack() as stack:

        def start(**environment):
            process = subprocess.Popen(
                [sys.executable, "-c", CLUSTER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **environment},
            )
            stack.callback(process.wait)
            stack.callback(process.stdin.close)
            return process.stdout.readline().strip()

        yield start


def test_a_real_cluster_with_a_token(monkeypatch, real_ray):
    address = real_ray(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=CANARY * 2)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", CANARY * 2)
    found = list(doctor.ray_cluster(address))
    assert levels(found) == ["green"] * 3, found
    assert found[0].found == f"{address} answers: Ray {real_version('ray')}, 1 node"
    assert found[1].found == "it asks for a token"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another" * 6)
    (found,) = doctor.ray_cluster(address)
    assert (found.level, "RAY_AUTH_TOKEN" in found.advice) == ("red", True)


@pytest.mark.parametrize("mode", [pytest.param("token", marks=pytest.mark.slow), "disabled"])
def test_a_run_on_a_cluster_whose_token_it_does_not_have_says_what_to_set(tmp_path, real_ray, mode):
    address = real_ray(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=CANARY * 2)
    command = [sys.executable, "-m", "dgym", "bench", "--suite", "smoke", "--address", address, "--out", str(tmp_path)]
    without = {**os.environ, "RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": "another" * 6}
    done = subprocess.run(command, env=without, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"Ray at {address} asks for a token" in " ".join(done.stderr.split())
    assert "RAY_AUTH_TOKEN" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_real_cluster_without_a_token_and_none(monkeypatch, real_ray):
    address = real_ray(RAY_AUTH_MODE="disabled")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    found = list(doctor.ray_cluster(address))
    assert found[1].found == f"{address} answers without a token"
    monkeypatch.setattr("dgym.doctor.RAY_PATIENCE", 3.0)
    (found,) = doctor.ray_cluster("127.0.0.1:9")
    assert found.level == "red"
