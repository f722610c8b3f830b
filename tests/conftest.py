"""Fakes that the tests share: a teacher made of two functions, a student that remembers, and a short episode."""

from dataclasses import dataclass, field
from itertools import count

import pytest

from dgym import registry
from dgym.chat_server import ChatServer, Manner
from dgym.core import Budget, Example, Plan, PlanItem, Rules, Teacher
from dgym.episode import ClosedLoop, LocalPool, run_episode
from dgym.fakes import FakeDomain, FakeFamily
from dgym.sandbox import SandboxError, find_sandbox


def fill(brief, state):
    """Plans one item with all that is left."""
    return Plan((PlanItem(state.examples_left),)) if state.examples_left else Plan()


def adds(brief, item):
    """Writes correct additions of the train split, others for every seed."""
    return FakeDomain().fresh("add", item.count, item.seed)


@dataclass
class Scripted:
    """Policy and engine made of functions; keeps every Brief, State and item that it is shown."""

    planner: object = fill
    writer: object = adds
    briefs: list = field(default_factory=list)
    states: list = field(default_factory=list)
    items: list = field(default_factory=list)

    def plan(self, brief, state):
        self.briefs.append(brief)
        self.states.append(state)
        return self.planner(brief, state)

    def generate(self, brief, item):
        self.briefs.append(brief)
        self.items.append(item)
        return self.writer(brief, item)

    @property
    def teacher(self):
        return Teacher("scripted", dict.fromkeys(registry.names("environment"), self), self)


@pytest.fixture
def hub_offline(monkeypatch):
    """Tells the hub's libraries to stay off the network.

    They read HF_HUB_OFFLINE when they are first imported, and keep it. So they are imported before it is set, or
    they would stay off the network in every test that follows.
    """
    import datasets.config  # noqa: F401
    import huggingface_hub.constants  # noqa: F401

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def sandboxed():
    """Skips where programs cannot be isolated."""
    try:
        find_sandbox()
    except SandboxError as error:
        pytest.skip(str(error))


class RememberingStudent:
    """A fake student that keeps what it was trained on and asked."""

    def __init__(self, variant="a"):
        self.inner = FakeFamily().open(None, variant)
        self.trainings, self.asked = [], []

    def train(self, examples, *, seed, fresh):
        self.trainings.append((list(examples), seed, fresh))
        return self.inner.train(examples, seed=seed, fresh=fresh)

    def answer(self, problems):
        self.asked.append(list(problems))
        return self.inner.answer(problems)

    def save(self, path):
        self.inner.save(path)

    def load(self, path):
        self.inner.load(path)

    def close(self):
        self.inner.close()


@dataclass
class Played:
    """A finished episode."""

    steps: list
    student: RememberingStudent
    loop: ClosedLoop


@pytest.fixture
def scripted():
    return Scripted


@pytest.fixture
def play():
    """Plays an episode in the domain `fake`; a number for `budget` means examples per iteration."""

    def go(teacher, *, environment="open-ended", budget=10, pool=None, variant="a", unverified=False, **rules):
        teacher = getattr(teacher, "teacher", teacher)
        if isinstance(environment, str):
            environment = registry.load("environment", environment)()
        student = RememberingStudent(variant)
        budget = Budget(budget) if isinstance(budget, int) else budget
        loop = ClosedLoop(FakeDomain(), environment, student, Rules(budget=budget, **rules), unverified=unverified)
        return Played(list(run_episode(loop, teacher, pool or LocalPool(teacher))), student, loop)

    return go


@pytest.fixture
def unique():
    """Makes examples of free text that share no word."""
    numbers = count()

    def make(response="yes"):
        return Example(" ".join(f"word{next(numbers)}" for _ in range(6)), response)

    return make


@pytest.fixture
def teacher_file(tmp_path):
    """Writes a teacher's file and returns its registered name."""

    def write(body, attribute="Mine", name="mine.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)
        return f"{path}:{attribute}"

    return write


@pytest.fixture
def serve_openai(monkeypatch):
    """Starts a test server, behaving as its keywords say, and makes it the endpoint of `openai:MODEL`."""
    running = []
    monkeypatch.setattr("dgym.chat.client._BACKOFF", (0.005, 0.02))
    monkeypatch.setenv("OPENAI_API_KEY", "any")

    def start(**manner):
        server = ChatServer(Manner(**manner))
        running.append(server)
        server.__enter__()
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        return server

    yield start
    for server in running:
        server.__exit__()
