"""Specs: what a TOML file may say, and what moves a digest."""

import dataclasses

import pytest

from dgym.core import Budget, Curriculum, Rules
from dgym.errors import TeacherError, UsageError
from dgym.fakes import FakeFamily
from dgym.models.recipe import Recipe
from dgym.specs import EpisodeSpec, Seeds, SuiteSpec, identify, load_suite, parse_model, student_of, suite_files
from dgym.teachers import make_teacher

MINIMAL = """
name = "tiny"
seeds = [1, 2]

[rules]
iterations = 2
budget = { examples_per_iteration = 30 }

[[cells]]
domain = "fake"
student = "fake"

[[entries]]
teachers = ["weakness", "uniform"]
"""
MINE = """
class Mine:
    def plan(self, brief, state): ...
    def generate(self, brief, item): ...
"""
BASE = EpisodeSpec(teacher="weakness", domain="fake", student="fake")


@pytest.fixture
def suite(tmp_path):
    def write(text):
        path = tmp_path / "tiny.toml"
        path.write_text(text)
        return parse_model(SuiteSpec, path)

    return write


def test_a_suite_expands_to_episodes(suite):
    specs = suite(MINIMAL).episodes()
    cells = [(s.teacher, s.environment, s.seeds.variant, s.seeds.training, s.seeds.teacher) for s in specs]
    assert cells == [
        (teacher, environment, seed, seed, seed)
        for seed in (1, 2)
        # The state-blind teacher runs once.
        for teacher, environment in (("weakness", "open-ended"), ("weakness", "skill-list"), ("uniform", "open-ended"))
    ]
    assert specs[0].rules == Rules(2, Budget(30))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds =", "seedz =", r"unknown field 'seedz'\. Did you mean 'seeds'\?"),
        ("iterations =", "iteration =", r"unknown field 'rules\.iteration'\. Did you mean 'iterations'\?"),
        ("examples_per_iteration", "example_per_iteration", r"Did you mean 'examples_per_iteration'\?"),
        ("teachers", "teacher", r"Did you mean 'teachers'\?|'entries\.0\.teachers': Field required"),
        ("iterations = 2", 'iterations = "two"', r"field 'rules\.iterations': .*integer"),
        ("iterations = 2", "iterations = -2", "iterations must be at least 0"),
        ('name = "tiny"', "", "field 'name': Field required"),
        ("[1, 2]", "[1, 2", "is not valid TOML"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_place(suite, old, new, message):
    with pytest.raises(UsageError, match=message) as caught:
        suite(MINIMAL.replace(old, new))
    assert "tiny.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        load_suite(str(tmp_path / "none.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not valid TOML"):
        load_suite(str(tmp_path / "binary.toml"))
    with pytest.raises(UsageError, match=r"no suite named 'quik'. Did you mean 'quick'"):
        load_suite("quik")


@pytest.mark.parametrize("name", sorted(suite_files()))
def test_the_suites_that_ship_expand(name):
    suite = load_suite(name)
    assert suite.name == name
    assert suite.description
    assert len({s.model_dump_json() for s in suite.episodes()}) == len(suite.episodes()) > 0


def test_quick_and_smoke_ship():
    assert {"quick", "smoke"} <= set(suite_files())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"teacher": "weekness"}, "Did you mean 'weakness'"),
        ({"environment": "open-endd"}, "Did you mean 'open-ended'"),
        ({"domain": "maht"}, "Did you mean 'math'"),
        ({"student": "fake:z"}, "no variant of fake named 'z'"),
        ({"teacher_params": {"replai": 1}}, "cannot be made: TypeError"),
    ],
)
def test_unknown_names_are_found_before_anything_runs(fields, message):
    with pytest.raises(UsageError, match=message):
        identify(BASE.model_copy(update=fields))


def test_a_teacher_must_enter_the_environment(teacher_file):
    name = teacher_file(f"{MINE}    environments = ('skill-list',)\n")
    with pytest.raises(UsageError, match="does not enter 'open-ended'; it enters: skill-list"):
        identify(BASE.model_copy(update={"teacher": name}))


def test_a_digest_is_the_same_in_every_process():
    assert identify(BASE).digest == identify(EpisodeSpec.model_validate_json(BASE.model_dump_json())).digest
    assert len(identify(BASE).digest) == 32


CHANGES = [
    {"teacher": "uniform"},
    {"teacher_params": {"replay": 0.5}},
    {"environment": "skill-list"},
    {"environment": "skill-list", "curriculum": Curriculum(exclude=("add",))},
    {"environment": "skill-list", "skills": "clusters:4"},
    {"domain": "math"},
    {"student": "fake:b"},
    {"device": "cuda:0"},
    {"precision": "bfloat16"},
    {"threads": 2},
    {"tier": "seeded"},
    {"engine": "vllm"},
    {"seeds": Seeds(variant=2)},
    {"seeds": Seeds(training=2)},
    {"seeds": Seeds(teacher=2)},
    *({"recipe": Recipe(**{k: v})} for k, v in (
        ("method", "full"), ("rank", 8), ("alpha", 8), ("dropout", 0.1), ("learning_rate", 1e-4), ("epochs", 1),
        ("batch", 8), ("warmup", 0.2), ("cutoff", 99), ("max_new_tokens", 9), ("objective", "dpo"), ("beta", 0.2),
        ("micro_batch", 8), ("checkpointing", True),
    )),
    *({"rules": Rules(**{k: v})} for k, v in (
        ("iterations", 2), ("budget", Budget(50)), ("budget", Budget(100, 150)), ("budget", Budget(100, None, 9)),
        ("training", "continue"), ("generations", 2), ("validation", "paper"), ("verify", False),
        ("gate", False), ("test_every_iteration", True), ("share", 0.5), ("budget", Budget(known_checks_total=5)),
        ("counts", {"test": 9}),
    )),
]  # fmt: skip


def test_every_field_that_can_move_a_score_moves_the_digest():
    digests = [identify(BASE.model_copy(update=change)).digest for change in ({}, *CHANGES)]
    assert len(set(digests)) == len(digests)
    tried = {name for change in CHANGES for name in change}
    assert set(EpisodeSpec.model_fields) - tried <= {"variation"}, "fields that this test does not change"
    for kind, field in ((Recipe, "recipe"), (Rules, "rules")):
        default = getattr(BASE, field)
        names = Recipe.model_fields if kind is Recipe else [f.name for f in dataclasses.fields(Rules)]
        moved = {n for c in CHANGES if field in c for n in names if getattr(c[field], n) != getattr(default, n)}
        assert set(names) - moved <= {"training_seed", "teacher_seed"}


def test_threads_and_precision_are_resolved_before_they_count(monkeypatch):
    monkeypatch.setattr("dgym.students.host.cores", lambda: 6)
    found = identify(BASE)
    assert (found.spec.threads, found.spec.precision, found.spec.tier) == (1, "float32", "strict")
    assert found.digest == identify(BASE.model_copy(update={"threads": 1, "precision": "float32"})).digest
    assert identify(found.spec).digest == found.digest

    def resolved(size=None, **fields):
        with monkeypatch.context() as patch:
            if size is not None:
                patch.setattr(FakeFamily, "bytes", lambda self, variant, precision: size)
            spec = identify(BASE.model_copy(update=fields)).spec
        return spec.threads, spec.precision

    assert resolved(size=49_000_000) == (1, "float32"), "a small one has one thread"
    assert resolved(size=51_000_000) == (6, "float32"), "a larger one all cores"
    assert resolved(size=51_000_000, threads=2) == (2, "float32")
    assert resolved(size=51_000_000, device="cuda:1") == (1, "bfloat16")
    assert resolved(device="cuda", precision="float16", threads=3) == (3, "float16")
    assert resolved(device="mps") == (1, "float32")


def test_the_students_that_ship_have_one_thread():
    for name in ("micro-math", "micro-code", "micro-tools", "micro-vqa"):
        spec = EpisodeSpec(teacher="uniform", student=name)
        assert identify(spec).spec.threads == 1
        assert identify(spec).digest == identify(spec.model_copy(update={"threads": 1})).digest


def test_vllm_promises_equal_seeds_only(suite):
    assert EpisodeSpec(teacher="uniform", engine="vllm").tier == "seeded"
    assert identify(BASE.model_copy(update={"engine": "vllm"})).spec.tier == "seeded"
    with pytest.raises(UsageError, match=r'vLLM .* tier = "strict" does not allow: leave the tier out'):
        EpisodeSpec(teacher="uniform", engine="vllm", tier="strict")
    (first, *_) = suite('engine = "vllm"\nprecision = "float32"\nthreads = 3\n' + MINIMAL).episodes()
    assert (first.engine, first.tier, first.precision, first.threads) == ("vllm", "seeded", "float32", 3)
    (first, *_) = suite(MINIMAL).episodes()
    assert (first.engine, first.tier, first.precision, first.threads) == ("transformers", "strict", "auto", None)
    again = EpisodeSpec.model_validate(identify(first.model_copy(update={"engine": "vllm"})).spec.model_dump())
    assert again.tier == "seeded"


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("org/model@main", "hf:org/model@main"),
        ("./folder", "hf:./folder"),
        ("model.gguf", "hf:model.gguf"),
        ("hf:org/model", "hf:org/model"),
        ("micro-math:a", "micro-math:a"),
        ("some/file.py:Mine", "some/file.py:Mine"),
    ],
)
def test_a_bare_path_or_hub_name_is_written_out(given, full):
    assert EpisodeSpec(teacher="uniform", student=given).student == full


OPEN = """
from pathlib import Path
from dgym.fakes import FakeFamily

class Family(FakeFamily):
    variants = ()
    open = True
    def draw(self, seed):
        return ""
    def digest(self, variant):
        return Path(variant).read_text() if Path(variant).exists() else variant
"""


def test_where_the_weights_lie_does_not_move_the_digest(tmp_path, monkeypatch):
    (tmp_path / "family.py").write_text(OPEN)
    for place, weights in (("here", "same"), ("elsewhere", "same"), ("other", "other")):
        (tmp_path / place).write_text(weights)
    monkeypatch.chdir(tmp_path)

    def of(variant):
        return identify(BASE.model_copy(update={"student": f"family.py:Family:{variant}"}))

    assert of("here").digest == of(tmp_path / "elsewhere").digest == of("./here").digest != of("other").digest
    assert of("here").variant == "here"
    assert student_of(of("here").spec).seeded_as == "", "nor does it the training"
    assert of("org/model").digest != of("org/another").digest, "a name is no place"
    assert student_of(of("org/model").spec).seeded_as is None
    (tmp_path / "a").touch()
    assert student_of(BASE.model_copy(update={"student": "fake:a"})).seeded_as is None, "nor is a variant by name"
    with pytest.raises(UsageError, match="needs a variant"):
        identify(BASE.model_copy(update={"student": "family.py:Family"}))


def test_versions_and_weights_move_the_digest(monkeypatch):
    from dgym.environments.open_ended import OpenEnded
    from dgym.fakes import FakeDomain, FakeFamily

    before = identify(BASE).digest
    for kind, attribute, value in (
        (OpenEnded, "version", "99"),
        (FakeDomain, "version", "99"),
        (FakeFamily, "digest", lambda self, variant: "other weights"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(kind, attribute, value)
            assert identify(BASE).digest != before
    assert identify(BASE).digest == before


def test_the_bytes_of_a_teachers_file_move_the_digest_and_its_path_does_not(teacher_file):
    def of(name):
        return identify(BASE.model_copy(update={"teacher": name})).digest

    here = of(teacher_file(MINE))
    assert of(teacher_file(MINE, name="elsewhere/other.py")) == here
    assert of(teacher_file(MINE + "# a comment\n")) != here
    assert of(teacher_file(MINE + "Other = Mine\n")) != of(teacher_file(MINE + "Other = Mine\n", "Other"))


def test_the_seed_draws_the_variant():
    assert [identify(BASE.model_copy(update={"seeds": Seeds.all(s)})).variant for s in (1, 2, 5)] == ["a", "b", "a"]
    assert identify(BASE.model_copy(update={"student": "fake:c"})).variant == "c"


def test_rules_get_the_seeds_and_the_teachers_budget():
    rules = Rules(5, Budget(10, 20, 30), "continue", 2, "paper", False, False, True, 0.5, counts={"test": 9})
    spec = BASE.model_copy(update={"rules": rules, "seeds": Seeds(variant=1, training=7, teacher=8)})
    seeded = spec.seeded_rules(make_teacher("ceiling"))
    assert seeded == Rules(5, Budget(100, 200, 300), "continue", 2, "paper", False, False, True, 0.5, 7, 8, {"test": 9})
    assert spec.seeded_rules(make_teacher("uniform")).budget == Budget(10, 20, 30)
    open_budget = BASE.model_copy(update={"rules": Rules(budget=Budget(10))}).seeded_rules(make_teacher("ceiling"))
    assert open_budget.budget == Budget(100)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("Mine = 3\n", "is a int; it must be a dgym.Teacher, or have the methods"),
        ("class Mine:\n    def plan(self, brief, state): ...\n", "is a Mine; it must be"),
        ("class Mine:\n    def __init__(self): 1 / 0\n", "cannot be made: ZeroDivisionError"),
    ],
)
def test_what_is_no_teacher_is_refused(teacher_file, body, message):
    with pytest.raises(UsageError, match=message):
        make_teacher(teacher_file(body))


def test_a_class_is_a_teacher_and_keeps_its_marks(teacher_file):
    teacher = make_teacher(teacher_file(f"{MINE}    version = 7\n    privileged = True\n"))
    assert set(teacher.policies) >= {"open-ended", "skill-list"}
    assert (teacher.version, teacher.privileged, teacher.ranked, teacher.unverified) == ("7", True, True, False)
    with pytest.raises(TeacherError, match="mine"):
        make_teacher(teacher_file("from dgym import TeacherError\ndef Mine(): raise TeacherError('mine')\n"))
