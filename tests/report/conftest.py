"""Runs to report on, and a headless browser."""

import shutil
from dataclasses import replace

import pytest

from dgym.bench import LocalBackend, bench
from dgym.core import Action, Budget, Example, Plan, PlanItem, Rules, Verdict
from dgym.errors import TeacherError
from dgym.results import EpisodeWriter
from dgym.specs import EpisodeSpec, Seeds
from tests.results.episodes import episode
from tests.results.episodes import identity as of

RULES = Rules(iterations=2, budget=Budget(24), test_every_iteration=True)
TEACHERS = {
    "weakness": ("open-ended", "skill-list", "skill-tree"),
    "random-tree": ("skill-tree",),
    "uniform": ("open-ended",),
    "no-data": ("open-ended",),
    "wrong-answers": ("open-ended",),
}


@pytest.fixture(scope="session")
def fake_run(tmp_path_factory):
    """Three environments, three teachers and two controls, three seeds; a fake student learns additions."""
    specs = [
        EpisodeSpec(
            teacher=teacher, environment=environment, domain="fake", student="fake", rules=RULES, seeds=Seeds.all(seed)
        )
        for teacher, environments in TEACHERS.items()
        for environment in environments
        for seed in (1, 2, 3)
    ]
    folder = tmp_path_factory.mktemp("runs") / "made"
    assert not bench(specs, folder, suite="made", backend=LocalBackend()).failed
    return folder


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium of the system; nothing is downloaded for it."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium on this machine, such as Debian's package chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


HOSTILE = "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>"
RIGHT_TO_LEFT = "שלום עולם مرحبا بالعالم"
EMOJI = "👩‍🔬🧪 naïve ﷽ \u202etxet\u202c"
LONG = "long" * 5000


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory):
    """A teacher with an evil name writes evil texts on evil skills, in an environment that nobody registered."""
    folder = tmp_path_factory.mktemp("runs") / "hostile"
    texts = (HOSTILE, RIGHT_TO_LEFT, EMOJI, LONG, "{{ 7 * 7 }} {% raw %}", "\x00\x1b[31m\u2028", "")
    actions = [Action(HOSTILE, "explore", (f"{HOSTILE}/{LONG[:150]}", f"{HOSTILE}/{RIGHT_TO_LEFT}"), 3, why=HOSTILE)]
    verdicts = [
        Verdict(Example(text, text[::-1], skill, 0, images=(text.encode(),)), kept, reason, tokens=3)
        for text in texts
        for skill, kept, reason in (
            (HOSTILE, True, ""),
            (None, False, f"incorrect {HOSTILE}"),
            (f"{RIGHT_TO_LEFT}/{EMOJI}", False, "duplicate"),
        )
    ]
    for seed in (1, 2):
        identity = of(HOSTILE, seed, "skill-tree", domain=f"evil {HOSTILE}", pin=HOSTILE)
        writer = EpisodeWriter(folder, identity, HOSTILE)
        for made in episode([1, 0], [1, 1], [0, 0]):
            plans = (Plan((PlanItem(9, HOSTILE, HOSTILE),), actions=tuple(actions)),) if made.iteration else ()
            writer.add(replace(made, verdicts=tuple(verdicts) if made.iteration else (), plans=plans))
        writer.finish()
    writer = EpisodeWriter(folder, of(EMOJI, 1, "open-ended", domain=f"evil {HOSTILE}"), HOSTILE)
    writer.add(episode([1, 0], [1, 1], [0, 0])[0])
    writer.fail(TeacherError(f"{HOSTILE} {LONG}"), HOSTILE)
    return folder
