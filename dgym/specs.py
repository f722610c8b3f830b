"""What is run: one episode, and suites of episodes, as frozen values with a digest.

An `EpisodeSpec` names everything that can move a score. Its digest, together with what the names stand for just
now (`pins`: weights, the bytes of a teacher's file, versions), identifies the episode: same digest and a
finished file mean that there is nothing to do. A `SuiteSpec` is read from TOML and expands to episodes.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from dgym import registry
from dgym.core import Budget, Curriculum, Rules, Teacher, digest
from dgym.domains import make_domain
from dgym.environments import make_environment
from dgym.errors import UsageError, unknown_name
from dgym.models import recipe as training
from dgym.models.recipe import Recipe
from dgym.skills.discovery import find_discovery
from dgym.students.host import StudentConfig, configured
from dgym.students.names import find_student, full_student_name
from dgym.teachers import full_name, make_teacher

M = TypeVar("M", bound=BaseModel)

FORMAT: Final = "1"
"""Version of the digest's own make-up."""


EngineName = Literal["transformers", "vllm"]
PrecisionName = Literal["auto", "float32", "bfloat16", "float16"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Seeds(_Frozen):
    """The three seeds of an episode.

    Attributes:
        variant: Draws the student's variant.
        training: Seeds all training.
        teacher: Seeds all that the teacher does.
    """

    variant: int = 1
    training: int = 1
    teacher: int = 1

    @classmethod
    def all(cls, seed: int) -> Seeds:
        """Uses one number for all three."""
        return cls(variant=seed, training=seed, teacher=seed)


class EpisodeSpec(_Frozen):
    """One episode: everything that can move its scores.

    Attributes:
        teacher: Registered name, or `path/to/file.py:Attr`.
        teacher_params: Keyword arguments of the teacher's factory.
        environment: Registered name.
        domain: Registered name.
        student: Registered name, which draws a variant by seed, or `name:variant`; a hub name, folder or `.gguf` file
            is short for `hf:` and that.
        recipe: How the student is trained.
        rules: Iterations, budget and protocol; its two seeds are set from `seeds`.
        skills: How environments with skills find them: `"gold"`, `"file:PATH"`, `"clusters:8"`, `"chat:NAME"`.
        curriculum: What the user wants taught, whatever the teacher thinks.
        variation: Name of the suite's variation that it belongs to; a label, which moves no score.
        seeds: The three seeds.
        engine: What answers for the student.
        device: Where the student lives.
        precision: In what it computes; `"auto"` is float32 on the CPU and bfloat16 on a GPU.
        threads: CPU threads of one student host; more threads can move the last bits. Unset: one for small students,
            and where the student is on a GPU or does not say how large it is; else all cores of this machine.
        tier: `"strict"` promises equal bits, `"seeded"` equal seeds only, as it always is with vLLM.
    """

    teacher: str
    teacher_params: dict[str, Any] = Field(default_factory=dict)
    environment: str = "open-ended"
    domain: str = "math"
    student: str = "micro-math"
    recipe: Recipe = Recipe()
    rules: Rules = Rules()
    skills: str = "gold"
    curriculum: Curriculum = Curriculum()
    variation: str = ""
    seeds: Seeds = Seeds()
    engine: EngineName = "transformers"
    device: str = "cpu"
    precision: PrecisionName = "auto"
    threads: int | None = Field(default=None, ge=1)
    tier: Literal["strict", "seeded"] = "strict"

    @field_validator("teacher")
    @classmethod
    def _full(cls, name: str) -> str:
        return full_name(name)

    @field_validator("student")
    @classmethod
    def _full_student(cls, name: str) -> str:
        return full_student_name(name)

    @model_validator(mode="before")
    @classmethod
    def _tier_of_engine(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("engine") == "vllm":
            if values.get("tier") == "strict":
                raise UsageError(
                    'vLLM answers in batches that change from run to run, which tier = "strict" does not allow: '
                    'leave the tier out, or set engine = "transformers".'
                )
            return {**values, "tier": "seeded"}
        return values

    def seeded_rules(self, teacher: Teacher) -> Rules:
        """Returns the rules with the seeds in place and the budget scaled by the teacher's factor."""
        budget, factor = self.rules.budget, teacher.budget_factor

        def scaled(limit: int | None) -> int | None:
            return None if limit is None else limit * factor

        return replace(
            self.rules,
            budget=replace(
                budget,
                examples_per_iteration=budget.examples_per_iteration * factor,
                examples_total=scaled(budget.examples_total),
                response_tokens_total=scaled(budget.response_tokens_total),
            ),
            training_seed=self.seeds.training,
            teacher_seed=self.seeds.teacher,
        )


class Identity(_Frozen):
    """An episode spec together with what its names stand for just now.

    Attributes:
        spec: The spec, with precision and threads resolved.
        digest: Identifies the episode; 32 hexadecimal digits.
        variant: The student's variant that the seed drew.
        pins: What the names stand for: weights, versions, bytes of files.
        privileged: Whether the teacher uses the domain's own generators.
        state_blind: Whether the teacher looks at no state; it then counts in every track.
        ranked: Whether it is ranked: controls and the ceiling are shown, not ranked.
        twin: Of a teacher that does not look at the student: the one that does and otherwise acts alike.
        waits: Whether the teacher asks language models.
    """

    spec: EpisodeSpec
    digest: str
    variant: str
    pins: dict[str, str]
    privileged: bool
    state_blind: bool
    ranked: bool
    twin: str = ""
    waits: bool = False

    @property
    def label(self) -> str:
        """A short text for people: teacher, environment, domain and seed."""
        where = "any" if self.state_blind else self.spec.environment
        label = f"{self.spec.teacher} · {where} · {self.spec.domain} · seed {self.spec.seeds.variant}"
        return f"{label} · {self.spec.variation}" if self.spec.variation else label


def student_of(spec: EpisodeSpec) -> StudentConfig:
    """Returns which student an episode opens.

    Raises:
        UsageError: If there is no such student.
    """
    return configured(
        spec.student,
        spec.seeds.variant,
        spec.recipe,
        device=spec.device,
        precision=spec.precision,
        threads=spec.threads,
        engine=spec.engine,
    )


def identify(spec: EpisodeSpec) -> Identity:
    """Resolves a spec's names and computes its digest.

    Raises:
        UsageError: If a name is unknown, or the teacher does not enter the environment.
    """
    teacher = make_teacher(spec.teacher, spec.teacher_params)
    environment = make_environment(spec.environment, spec.curriculum, None if spec.skills == "gold" else {})
    if spec.environment not in teacher.policies:
        entered = ", ".join(sorted(teacher.policies)) or "none"
        raise UsageError(f"The teacher {spec.teacher!r} does not enter {spec.environment!r}; it enters: {entered}.")
    domain = make_domain(spec.domain)
    family_name, family, variant = find_student(spec.student, spec.seeds.variant)
    student = student_of(spec)
    spec = spec.model_copy(
        update={
            "precision": student.precision,
            "threads": student.threads,
            "tier": "seeded" if spec.engine == "vllm" else spec.tier,
        }
    )
    pins = {
        "format": FORMAT,
        "weights": family.digest(variant),
        "training": training.VERSION,
        "teacher": f"{teacher.version} {registry.pin('teacher', spec.teacher)}".strip(),
        "environment": f"{environment.version} {registry.pin('environment', spec.environment)}".strip(),
        "domain": " ".join(
            filter(None, (domain.version, registry.pin("domain", spec.domain), getattr(domain, "contents", "")))
        ),
    }
    if spec.skills != "gold":
        discovery = find_discovery(spec.skills)
        pins["skills"] = f"{discovery.name} {discovery.version}"
    fields = spec.model_dump(mode="json")
    if not spec.rules.counts:
        del fields["rules"]["counts"]  # which came after results had been published
    if spec.skills.startswith("file:"):
        fields["skills"] = "file"  # its bytes are pinned
    fields["variant"] = variant
    if student.seeded_as is not None:
        # Its weights are pinned; where they lie does not matter.
        fields |= {"student": family_name, "variant": student.seeded_as}
    for kind in ("teacher", "environment", "domain", "student"):
        if registry.is_file(fields[kind]):
            # Its bytes are pinned; where it lies does not matter.
            fields[kind] = fields[kind].partition(".py:")[2]
    if spec.teacher.startswith(registry.ISOLATED):
        fields |= {"teacher": _isolated(spec.teacher), "teacher_params": _moving(spec.teacher_params)}
    del fields["variation"]
    return Identity(
        spec=spec,
        digest=digest({"spec": fields, "pins": pins}),
        variant=variant,
        pins=pins,
        privileged=teacher.privileged,
        state_blind=teacher.state_blind,
        ranked=teacher.ranked,
        twin=teacher.twin,
        waits=bool(teacher.chats),
    )


def _isolated(name: str) -> str:
    """Returns the part of an isolated teacher's name that does not say where its files lie: their bytes are pinned."""
    inner = name.removeprefix(registry.ISOLATED)
    if inner in registry.names("teacher"):
        return name
    return registry.ISOLATED + inner.partition(".py:")[2]


def _moving(params: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out where the packages of an isolated teacher lie; which they are, its files say."""
    return {key: value for key, value in params.items() if key != "packages"}


class Cell(_Frozen):
    """A domain and the student that learns it, and what differs there from the rest of the suite.

    Attributes:
        domain: Registered name, with options after a colon.
        student: As in `EpisodeSpec`.
        environments: Only these; all that teachers enter by default.
        rules: Fields of `Rules` that differ.
        recipe: Another way to train the student.
        skills: Another skill discovery; empty for the suite's.
        engine: What answers for the student, where it is not the suite's.
    """

    domain: str
    student: str
    environments: tuple[str, ...] = ()
    rules: dict[str, Any] = Field(default_factory=dict)
    recipe: Recipe | None = None
    skills: str = ""
    engine: EngineName | None = None


class Entry(_Frozen):
    """Some teachers of a suite, and the environments that they enter.

    Attributes:
        teachers: Registered names or files.
        environments: Which they enter; a state-blind teacher runs once per cell, in the first of them.
        params: Keyword arguments of the teachers' factories.
        domains: Only the cells of these domains, named with or without options; all by default.
    """

    teachers: tuple[str, ...]
    environments: tuple[str, ...] = ("open-ended", "skill-list")
    params: dict[str, Any] = Field(default_factory=dict)
    domains: tuple[str, ...] = ()

    def entered(self, name: str, cell: Cell) -> list[str]:
        """Returns in which environments of a cell a teacher runs.

        Raises:
            UsageError: If it enters none of the entry's.
        """
        if self.domains and not {cell.domain, cell.domain.partition(":")[0]} & {*self.domains}:
            return []
        teacher = make_teacher(name, self.params)
        found = [environment for environment in self.environments if environment in teacher.policies]
        if not found:
            raise UsageError(f"The teacher {name!r} enters none of: {', '.join(self.environments)}.")
        found = [environment for environment in found if not cell.environments or environment in cell.environments]
        return found[:1] if teacher.state_blind else found


class Variation(_Frozen):
    """What a suite runs once more with one thing exchanged.

    Attributes:
        name: What rows and tables call it.
        rules: Fields of `Rules` that differ.
        recipe: Fields of `Recipe` that differ.
        skills: Another skill discovery; empty for the suite's.
        params: Keyword arguments of the teachers' factories that differ.
    """

    name: str = Field(min_length=1)
    rules: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)
    skills: str = ""
    params: dict[str, Any] = Field(default_factory=dict)

    def of(self, spec: EpisodeSpec) -> EpisodeSpec:
        """Returns an episode with this exchanged.

        Raises:
            UsageError: If it names a field that does not exist.
        """
        values = spec.model_dump()
        values["rules"] |= self.rules
        values["recipe"] |= self.recipe
        values["teacher_params"] |= self.params
        values |= {"skills": self.skills or spec.skills, "variation": self.name}
        try:
            return EpisodeSpec.model_validate(values)
        except ValidationError as error:
            raise UsageError(f"The variation {self.name!r}: {explain(error, EpisodeSpec)}") from error


class SuiteSpec(_Frozen):
    """A set of episodes under one protocol, and perhaps the same again with one thing exchanged at a time.

    Attributes:
        name: What `--suite` names.
        version: Bumped whenever scores would move.
        description: One sentence for `dgym ls`.
        seeds: Each number is used for variant, training and teacher at once.
        rules: The protocol.
        recipe: How students are trained.
        skills, curriculum: As in `EpisodeSpec`.
        cells: Domains with their students.
        entries: Teachers with their environments.
        variations: What is exchanged; each is run with all teachers whose policies look at the state.
        threads, device, precision, engine: As in `EpisodeSpec`.
        gpu: What it was sized for, in words, such as `"8 GPUs of 80 GB"`; for messages.
        until: The last day on which this version takes submissions to the leaderboard; unset, there is none yet.
    """

    name: str
    version: int = 1
    description: str = ""
    seeds: tuple[int, ...] = (1,)
    rules: Rules = Rules()
    recipe: Recipe = Recipe()
    skills: str = "gold"
    curriculum: Curriculum = Curriculum()
    cells: tuple[Cell, ...]
    entries: tuple[Entry, ...]
    variations: tuple[Variation, ...] = ()
    threads: int | None = Field(default=None, ge=1)
    device: str = "cpu"
    precision: PrecisionName = "auto"
    engine: EngineName = "transformers"
    gpu: str = ""
    until: date | None = None

    def episodes(self) -> list[EpisodeSpec]:
        """Expands the suite: every entry in every cell and seed; state-blind teachers once per cell.

        A teacher runs in those of its entry's environments that it enters.

        Raises:
            UsageError: If a name in it is unknown, or if a teacher enters none of the environments.
        """
        plain = self._plain()
        self._used(plain)
        blind = {e.teacher for e in plain if make_teacher(e.teacher, e.teacher_params).state_blind}
        return [*plain, *(v.of(e) for v in self.variations for e in plain if e.teacher not in blind)]

    def _plain(self) -> list[EpisodeSpec]:
        return [
            EpisodeSpec(
                teacher=name,
                teacher_params=entry.params,
                environment=environment,
                domain=cell.domain,
                student=cell.student,
                recipe=cell.recipe or self.recipe,
                rules=self._rules_of(cell),
                skills=cell.skills or self.skills,
                curriculum=self.curriculum,
                seeds=Seeds.all(seed),
                threads=self.threads,
                device=self.device,
                precision=self.precision,
                engine=cell.engine or self.engine,
            )
            for seed in self.seeds
            for cell in self.cells
            for entry in self.entries
            for name in entry.teachers
            for environment in entry.entered(name, cell)
        ]

    def _rules_of(self, cell: Cell) -> Rules:
        if not cell.rules:
            return self.rules
        values = TypeAdapter(Rules).dump_python(self.rules, mode="json")
        try:
            return TypeAdapter(Rules).validate_python(values | cell.rules)
        except ValidationError as error:
            raise UsageError(f"The cell {cell.domain!r}: {explain(error, SuiteSpec)}") from error

    def _used(self, episodes: Sequence[EpisodeSpec]) -> None:
        """Checks that every entry has a cell that it enters."""
        for entry in self.entries:
            wanted = {*entry.domains} - {n for e in episodes for n in (e.domain, e.domain.partition(":")[0])}
            if wanted:
                known = {cell.domain.partition(":")[0] for cell in self.cells}
                raise unknown_name("domain in the suite's cells", min(wanted), known)


def suite_files() -> dict[str, Path]:
    """Returns the suites that ship, by name."""
    packed = Path(str(resources.files("dgym"))) / "suites"
    folder = packed if packed.is_dir() else Path(__file__).parent.parent / "benchmarks"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_suite(name: str) -> SuiteSpec:
    """Reads a suite by name, or from a TOML file.

    Raises:
        UsageError: If there is none, or if it is malformed; the message names the place.
    """
    known = suite_files()
    path = Path(name) if name.endswith(".toml") else known.get(name)
    if path is None:
        raise unknown_name("suite", name, known)
    return parse_model(SuiteSpec, path)


def parse_model(model: type[M], path: Path) -> M:
    """Reads a TOML file into a model.

    Raises:
        UsageError: Naming the file, the field, and the nearest valid field for a misspelt one.
    """
    values = read_toml(path)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{path}: {explain(error, model)}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a TOML file.

    Raises:
        UsageError: If it cannot be read or is malformed; the message names file and place.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}.") from error


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Says in one sentence what is wrong with a field; a misspelt one comes first, since another then seems missing."""
    import difflib

    unknown = ("extra_forbidden", "unexpected_keyword_argument")
    first = min(error.errors(), key=lambda e: e["type"] not in unknown)
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] in unknown:
        names = _field_names(model)
        near = difflib.get_close_matches(str(first["loc"][-1]), [n for n in names if n != first["loc"][-1]], n=1)
        return f"unknown field {place!r}." + (f" Did you mean {near[0]!r}?" if near else "")
    return f"field {place!r}: {first['msg']}."


def _field_names(model: type[BaseModel]) -> list[str]:
    nested: tuple[type, ...] = (Rules, Budget, Curriculum, Variation, Recipe, Seeds, Cell, Entry)
    names = [*model.model_fields, *(name for kind in nested for name in kind.__annotations__)]
    return [name for name in names if not name.startswith("_")]
