"""The registry: built-ins, files, and a third-party package that is really installed."""

import sys
from pathlib import Path

import pytest

from dgym import checks, registry, sandbox
from dgym.bench import bench
from dgym.chat import find_chat
from dgym.core import Budget, Rules
from dgym.errors import TeacherError, UsageError
from dgym.gym import make
from dgym.listing import listing
from dgym.sandbox import Program, SandboxError, find_sandbox, verdict
from dgym.skills.discovery import find_discovery
from dgym.specs import EpisodeSpec, identify
from dgym.teachers import make_teacher
from tests.installing import install

PLUGIN = Path(__file__).parent / "plugin"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Installs `tests/plugin` into a folder, as pip would."""
    folder = tmp_path_factory.mktemp("plugin")
    install(PLUGIN, folder / "site", folder / "build")
    return folder / "site"


@pytest.fixture
def plugin(site, monkeypatch):
    """Puts the installed plugin on the path."""
    monkeypatch.syspath_prepend(str(site))
    registry._plugins.cache_clear()
    yield
    registry._plugins.cache_clear()
    sys.modules.pop("dgym_toy", None)


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_builtin_can_be_imported(kind):
    for name in registry.BUILTIN[kind]:
        if kind != "backend":  # that would import ray
            assert callable(registry.load(kind, name))


def test_wrong_names_get_suggestions():
    with pytest.raises(UsageError, match=r"no teacher named 'uniforn'. Did you mean 'uniform'"):
        registry.load("teacher", "uniforn")
    with pytest.raises(UsageError, match=r"no kind named 'techer'. Did you mean 'teacher'"):
        registry.names("techer")
    with pytest.raises(UsageError, match="no kind named"):
        registry.load("techer", "uniform")


def test_a_file_is_loaded_and_pinned_by_its_bytes(teacher_file):
    name = teacher_file("class Mine: version = 1\n")
    mine = registry.load("teacher", name)
    assert mine.version == 1
    assert registry.load("teacher", name) is mine
    pin = registry.pin("teacher", name)
    assert registry.pin("teacher", teacher_file("class Mine: version = 1\n", name="other/place.py")) == pin
    teacher_file("class Mine: version = 2\n")
    assert registry.load("teacher", name).version == 2
    assert registry.pin("teacher", name) != pin


def test_builtins_pin_nothing_more():
    assert registry.pin("teacher", "uniform") == ""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("1/0\n", "raises ZeroDivisionError: division by zero"),
        ("def broken(:\n", "raises SyntaxError"),
        ("import sys\nsys.exit(3)\n", "raises SystemExit"),
        ("class Mime: pass\n", "Did you mean 'Mime'"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(teacher_file, body, message):
    name = teacher_file(body)
    for _ in range(2):  # a failed import leaves nothing behind
        with pytest.raises(UsageError, match=message) as caught:
            registry.load("teacher", name)
        assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line():
    for call in (registry.load, registry.pin):
        with pytest.raises(UsageError, match="nowhere"):
            call("teacher", "nowhere/at_all.py:Mine")


TOYS = {
    "teacher": "toy-parrot",
    "domain": "toy-capitals",
    "environment": "toy-score-only",
    "student": "toy-echo",
    "sandbox": "toy-cell",
    "chat": "toy-oracle",
    "backend": "toy-backwards",
}


def test_a_plugin_registers_every_kind(plugin):
    assert set(TOYS) == set(registry.KINDS)
    for kind, name in TOYS.items():
        assert name in registry.names(kind)
        assert checks.kind_of(name) == kind
        assert registry.pin(kind, name) == "dgym-toy==2.5"
        assert callable(registry.load(kind, name))
    teacher = make_teacher("toy-parrot")
    assert (teacher.name, teacher.version) == ("toy-parrot", "3")
    assert "toy-score-only" in teacher.policies
    with pytest.raises(UsageError, match="'toy-broken' cannot be imported: ModuleNotFoundError"):
        registry.load("teacher", "toy-broken")


@pytest.mark.parametrize("kind", TOYS)
def test_what_a_plugin_registers_conforms(plugin, kind):
    if kind == "sandbox":
        needs_namespaces()
    domain = "toy-capitals" if kind == "student" else "fake"
    assert [f for f in checks.check("", TOYS[kind], domain, deep=True) if not f.ok] == []


def test_what_a_plugin_registers_is_listed(plugin):
    found = listing()
    for kind in ("teacher", "environment", "domain", "student", "chat", "sandbox"):
        assert TOYS[kind] in found[registry.group(kind).removeprefix("dgym.")]
        assert TOYS[kind] in next(iter(listing(kind).values()))
    assert "ModuleNotFoundError" in found["teachers"]["toy-broken"]


def needs_namespaces():
    try:
        find_sandbox("namespaces")
    except SandboxError as error:
        pytest.skip(str(error))


def test_a_plugins_sandbox_is_used(plugin, monkeypatch):
    needs_namespaces()
    monkeypatch.setattr(sandbox, "_found", {})  # so that no other test gets it
    monkeypatch.setenv("DGYM_SANDBOX", "toy-cell")
    found = find_sandbox()
    try:
        assert found.name == "toy-cell"
        assert verdict(found.run([Program("def f(x):\n    return 2 * x", "f", ((4,),))])[0], [8])
    finally:
        found.close()


def test_a_plugins_chat_is_used(plugin, tmp_path, monkeypatch):
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path))
    assert find_chat("toy-oracle:pythia").model == "toy-oracle:pythia"
    problems = registry.load("domain", "toy-capitals")().problems("feedback")
    assert set(find_discovery("chat:toy-oracle").assign(problems)) == {p.id for p in problems}
    spec = EpisodeSpec(
        teacher="agent@toy-oracle:pythia",
        environment="open-ended",
        domain="toy-capitals",
        student="toy-echo",
        rules=Rules(1, Budget(3)),
    )
    summary = bench([spec], tmp_path / "run", backend=registry.load("backend", "toy-backwards")())
    assert len(summary.ok) == 1


def test_what_a_plugin_registers_works_together(plugin):
    gym = make("toy-score-only", "toy-capitals", "toy-echo", rules=Rules(1, Budget(5)))
    assert gym.reset().score == 0
    _, reward, done, info = gym.step([])
    assert (reward, done, info["kept"]) == (0, True, 0)


def test_a_plugins_version_is_part_of_the_digest(plugin):
    spec = EpisodeSpec(teacher="toy-parrot", environment="toy-score-only", domain="fake", student="toy-echo")
    pins = identify(spec).pins
    assert pins["teacher"] == "3 dgym-toy==2.5"
    assert pins["environment"].endswith("dgym-toy==2.5")


def test_privileged_engines_cannot_enter_a_domain_without_generators(plugin):
    from dgym.teachers.engines import generator_of

    gym = make("open-ended", "toy-capitals", "toy-echo", rules=Rules(1, Budget(5)))
    with pytest.raises(TeacherError, match="no generators"):
        generator_of(gym.brief)
