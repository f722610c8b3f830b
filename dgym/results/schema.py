"""The five tables of a run, column by column.

Each episode writes one file per table::

    RUN/<table>/domain=<domain>/environment=<environment>/teacher=<teacher>/<digest>.parquet

Domain, environment and teacher stand in the folder names only, percent-encoded as hive partitions are, so that
pyarrow, pandas and DuckDB give back the exact names (a teacher may be `path/to/file.py:Attr`) and no column of a
file can contradict its folder. Scores are in [0, 1] here; points (100 times that) are for the leaderboard.

All columns except times (`seconds*`, `*_at`), `retries`, `deaths` and `cache_hit` are a function of the episode's
identity and steps, so that a resumed run equals an undisturbed one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, Final
from urllib.parse import quote, unquote

import pyarrow as pa

SCHEMA_VERSION: Final = "5"
"""Version of all five tables; stands in each file's metadata under `dgym.schema`."""

READABLE: Final = ("2", "3", "4", SCHEMA_VERSION)
"""Versions that are read: columns that an older one did not have yet are null."""

VERSION_KEY: Final = b"dgym.schema"

PLANNED: Final = "planned.json"
"""File of a run's folder with the digests of the episodes that the last `dgym bench` set out to have there."""

FINISHED: Final = "finished"
"""Folder of a run with a small file for each finished episode: `DIGEST.BYTES...`, the sizes of its part files in the
order of `TABLES`."""

_TEXT, _INT, _REAL, _BOOL = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_MEASURES = pa.map_(pa.string(), pa.float64())
_TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        name: Its name.
        type: Its Arrow type.
        meaning: What it says; also when it is null.
        unit: Its unit or range; empty for names, flags and text.
        since: The first version of the schema that has it.
    """

    name: str
    type: Any
    meaning: str
    unit: str = ""
    since: int = 2


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: Its name and folder.
        meaning: What a row is.
        columns: The columns of its files; `PARTITIONS` come with them when it is read.
    """

    name: str
    meaning: str
    columns: tuple[Column, ...]

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema of a file, with units, meanings and the version in its metadata."""
        return pa.schema(
            [pa.field(c.name, c.type, metadata={"unit": c.unit, "meaning": c.meaning}) for c in self.columns],
            metadata={VERSION_KEY: SCHEMA_VERSION.encode(), b"dgym.table": self.name.encode()},
        )

    @cached_property
    def read_schema(self) -> pa.Schema:
        """The Arrow schema of the table as it is read: the partitions, then the columns."""
        return pa.schema([*(pa.field(c.name, c.type) for c in PARTITIONS), *self.schema])


PARTITIONS: Final = (
    Column("domain", _TEXT, "registered name of the domain"),
    Column("environment", _TEXT, "registered name of the environment that the episode ran in"),
    Column("teacher", _TEXT, "registered name of the teacher, or path/to/file.py:Attr as it was given"),
)
"""Columns of every table that stand in the folder names."""

_DIGEST = Column("digest", _TEXT, "the episode, as in the table episodes")
_ITERATION = Column("iteration", _INT, "trainings behind the student; 0 is the untrained student", "count")
_STAGES = ("plan", "generate", "gate", "train", "answer")


def _seconds() -> tuple[Column, ...]:
    return tuple(Column(f"seconds_{stage}", _REAL, f"wall-clock time of the stage {stage}", "s") for stage in _STAGES)


EPISODES: Final = Table(
    "episodes",
    "One episode, finished or failed. Written last: a row with status ok means that all tables are complete.",
    (
        Column("digest", _TEXT, "identifies the episode: all that can move its scores"),
        Column("suite", _TEXT, "suite that it was first run for"),
        Column("variation", _TEXT, "what the suite exchanged in it; empty for nothing"),
        Column("teacher_label", _TEXT, "short name of the teacher with its parameters"),
        Column("student", _TEXT, "registered name of the student, as the spec gives it"),
        Column("variant", _TEXT, "variant of the student that the seed drew"),
        Column("seed_variant", _INT, "seed that draws the variant"),
        Column("seed_training", _INT, "seed of all training"),
        Column("seed_teacher", _INT, "seed of all that the teacher does"),
        Column("privileged", _BOOL, "whether the teacher uses the domain's own generators"),
        Column("state_blind", _BOOL, "whether the teacher looks at no state; it then counts in every track"),
        Column("ranked", _BOOL, "whether the teacher is ranked; false for controls and the ceiling"),
        Column("twin", _TEXT, "of a teacher that does not look at the student: the one that does; else null"),
        Column("status", _TEXT, "ok or failed"),
        Column(
            "stopped",
            _TEXT,
            "why the teacher's spending was stopped, which ended the episode early; else null",
            since=3,
        ),
        Column(
            "error_boundary", _TEXT, "who was responsible: usage, domain, teacher, student, infrastructure; null if ok"
        ),
        Column("error_stage", _TEXT, "stage at which it failed, where known; null if ok"),
        Column("error", _TEXT, "what happened, in one line; null if ok"),
        Column("protocol", _TEXT, "digest of rules, recipe, engine, precision and tier: equal means comparable"),
        Column("spec", _TEXT, "the whole episode spec, as JSON"),
        Column("pins", _TEXT, "what the spec's names stood for: weights, versions, bytes of files; JSON"),
        Column(
            "skills_agreement",
            _REAL,
            "adjusted Rand index between discovered skills and the domain's own; null where those were used",
            "[-1, 1]",
        ),
        Column("versions", _TEXT, "versions of Python and of the libraries installed; JSON"),
        Column("device", _TEXT, "device of the student"),
        Column("iterations_run", _INT, "trainings that were completed", "count"),
        Column("best_iteration", _INT, "iteration chosen by selection score; ties go to the earlier", "count"),
        Column("base_test", _REAL, "test score of the untrained student", "[0, 1]"),
        Column("best_test", _REAL, "test score at the chosen iteration", "[0, 1]"),
        Column("last_test", _REAL, "test score at the last iteration; null if it was not asked", "[0, 1]"),
        Column(
            "test_overlapped", _INT, "test problems that a submitted example repeated, kept or not", "count", since=4
        ),
        Column(
            "base_test_clean",
            _REAL,
            "test score of the untrained student on the problems that no submitted example repeated; null if there is "
            "none",
            "[0, 1]",
            since=4,
        ),
        Column("best_test_clean", _REAL, "the same at the chosen iteration", "[0, 1]", since=4),
        Column(
            "base_test_new",
            _REAL,
            "test score of the untrained student on the slice new-combination; null if there is none",
            "[0, 1]",
        ),
        Column("best_test_new", _REAL, "the same at the chosen iteration", "[0, 1]"),
        Column("base_selection", _REAL, "selection score of the untrained student", "[0, 1]"),
        Column("best_selection", _REAL, "selection score at the chosen iteration", "[0, 1]"),
        Column(
            "retention",
            _REAL,
            "mean change of test accuracy from the untrained student to the chosen iteration over the skills of "
            "`retention_skills`; null if there is none",
            "[-1, 1]",
        ),
        Column("retention_last", _REAL, "the same to the last iteration", "[-1, 1]"),
        Column("retention_skills", _INT, "skills whose test accuracy was above 0.5 before any training", "count"),
        Column("examples_submitted", _INT, "examples that counted against the budget", "count"),
        Column("examples_kept", _INT, "examples that the student was trained on", "count"),
        Column("response_tokens", _INT, "response tokens that counted against the budget", "tokens"),
        Column("teacher_calls", _INT, "calls of the teacher's language models", "count", since=3),
        Column("teacher_losses", _TEXT, "calls that gave no usable answer by reason, as counts; JSON", since=3),
        Column("teacher_tokens", _INT, "tokens read and written by the teacher's language models", "tokens"),
        Column("cost", _REAL, "price of the teacher's calls, recorded ones included; null if unknown", "USD"),
        Column("seconds_student", _REAL, "wall-clock time of training and answering", "s"),
        Column("seconds_total", _REAL, "wall-clock time of all stages", "s"),
        Column(
            "deaths",
            _TEXT,
            "processes that died under the episode and were replaced, as counts: episode (it began anew), host (its "
            "student was brought back), worker (its items were written again); JSON, null if none",
            since=5,
        ),
        Column("started_at", _TIME, "when this process began the episode", "UTC"),
        Column("finished_at", _TIME, "when this row was written", "UTC"),
    ),
)

STEPS: Final = Table(
    "steps",
    "One iteration of an episode.",
    (
        _DIGEST,
        _ITERATION,
        Column("feedback", _REAL, "score on the split that the teacher sees", "[0, 1]"),
        Column("selection", _REAL, "score on the split that chooses the iteration", "[0, 1]"),
        Column("test", _REAL, "score on the test split; null where it was not asked", "[0, 1]"),
        Column("best", _BOOL, "whether it is the best on selection so far"),
        Column("examples_submitted", _INT, "examples of this iteration that counted against the budget", "count"),
        Column("examples_kept", _INT, "examples of this iteration that passed the gate", "count"),
        Column("examples_total", _INT, "examples that the student of this iteration was trained on", "count"),
        Column("rejected", _TEXT, "rejections of this iteration by reason, as counts; JSON"),
        Column("response_tokens", _INT, "response tokens of this iteration against the budget", "tokens"),
        Column("plans", _TEXT, "the teacher's plans of this iteration: actions and items, without examples; JSON"),
        Column("probes", _TEXT, "accuracy on the data taught so far by claimed skill, where measured; JSON"),
        Column("known_asked", _INT, "examples that the student was asked before training, on request", "count"),
        Column("train_loss", _REAL, "mean loss of the last epoch; null if nothing was trained", "nats"),
        Column("train_steps", _INT, "optimizer steps; null if not reported", "count"),
        Column("train_tokens", _INT, "tokens trained on; null if not reported", "tokens"),
        Column("cost", _REAL, "price of the teacher's calls", "USD"),
        *_seconds(),
    ),
)

ATTEMPTS: Final = Table(
    "attempts",
    "One problem that a student answered. The response comes last: readers of scores skip it.",
    (
        _DIGEST,
        _ITERATION,
        Column("split", _TEXT, "feedback, selection or test"),
        Column("problem", _TEXT, "the problem's id"),
        Column("skill", _TEXT, "the problem's gold skill"),
        Column("slice", _TEXT, "part of the split that is also reported by itself; null if none"),
        Column("score", _REAL, "the grade", "[0, 1]"),
        Column("measures", _MEASURES, "what the domain measures beside the grade; null if nothing", "[0, 1]"),
        Column("response", _TEXT, "what the student wrote"),
    ),
)

EXAMPLES: Final = Table(
    "examples",
    "One submitted example, kept or not, in the order of submission.",
    (
        _DIGEST,
        _ITERATION,
        Column("item", _INT, "index of the plan item that it was written for", "count"),
        Column("skill", _TEXT, "skill that the teacher claims; may be null"),
        Column("kept", _BOOL, "whether the student was trained on it"),
        Column("reason", _TEXT, "why not; null when kept"),
        Column("correct", _BOOL, "whether the response is right; null where the domain cannot say"),
        Column(
            "overlaps",
            pa.list_(_TEXT),
            "ids of the evaluation problems that it repeats, hidden from teachers; null if none",
            since=4,
        ),
        Column("tokens", _INT, "response tokens that it counted against the budget", "tokens"),
        Column("known", _BOOL, "whether the student knew the answer before; null where it was not asked"),
        Column("prompt", _TEXT, "the problem"),
        Column("response", _TEXT, "the answer to learn"),
        Column("rejected", _TEXT, "of a preference pair, the response that is worse; else null", since=3),
        Column("images", pa.list_(pa.binary()), "what the problem is about, as encoded files; null if none"),
    ),
)

CALLS: Final = Table(
    "calls",
    "One call of a language model, or, for an engine without one, of the engine itself for one plan item.",
    (
        _DIGEST,
        _ITERATION,
        Column("generation", _INT, "data generation within the iteration", "count"),
        Column(
            "purpose", _TEXT, "what it was for, such as plan, write, solve; null for engines without a model", since=3
        ),
        Column("item", _INT, "index of the plan item; null for a policy's call", "count"),
        Column("asked", _INT, "examples that the plan item asked for; null for a policy's call", "count"),
        Column(
            "returned",
            _INT,
            "examples submitted for the plan item; null for a policy's call, and with several generations",
            "count",
        ),
        Column("model", _TEXT, "language model; null for engines without one"),
        Column("outcome", _TEXT, "ok, or why the answer was lost; null for engines without a model", since=3),
        Column("tokens_in", _INT, "tokens read", "tokens"),
        Column("tokens_out", _INT, "tokens written", "tokens"),
        Column("tokens_cached", _INT, "tokens read from the provider's cache", "tokens"),
        Column("retries", _INT, "requests after the first, repairs among them", "count"),
        Column("cache_hit", _BOOL, "whether all of it came from the record, and nothing was sent"),
        Column("cost", _REAL, "price, recorded or not; null if unknown", "USD"),
        Column("seconds", _REAL, "latency", "s"),
    ),
)

TABLES: Final = {table.name: table for table in (STEPS, ATTEMPTS, EXAMPLES, CALLS, EPISODES)}
"""Every table by name, in the order in which an episode writes them."""


def part_path(table: str, partitions: dict[str, str], digest: str) -> Path:
    """Returns an episode's file in a table, relative to the run.

    Args:
        table: The table's name.
        partitions: Values of `PARTITIONS` by name.
        digest: The episode's digest.
    """
    folders = [f"{c.name}={quote(partitions[c.name], safe='')}" for c in PARTITIONS]
    return Path(table, *folders, f"{digest}.parquet")


def partitions_of(part: PurePath) -> dict[str, str]:
    """Reads the partition values from a part's path: the inverse of `part_path`."""
    pairs = (folder.partition("=") for folder in part.parts[:-1])
    return {name: unquote(value) for name, equals, value in pairs if equals}
