"""LiveCodeBench, code generation: contest problems with hidden tests (Jain et al. 2024, https://arxiv.org/abs/2403.07974).

A problem is either read from standard input and answered on standard output (AtCoder, Codeforces) or is a method of a
given class (LeetCode). Public and hidden tests decide; the first that fails ends a response. As in the published
harness each test may take six seconds, here of CPU time, so that a busy machine changes no verdict, and programs find
the same modules imported. They see the standard library only, and may use 1 GiB of memory.

As in DataEnvGym, validation is what release_v2 adds to release_v1 (111 problems) and test is release_v1 (400). Later
problems come by options: `release` chooses files as upstream names them (`v5` is one file, `v4_v5` are two, and
`release_v5` is the first five), `since` and `until` are ISO dates between which, both included, a contest took place
(of `release_v6` where no release is named). Test is then what was asked for, with a release alone without the 111.
Validation stays what it is, less what the test takes, and filled up from release_v1. Each later file is a data set of
its own, fetched when it is wanted, since all of them together are 4.5 GB; to evaluate on one, no other is needed.

Upstream has neither solutions, so that references are empty, nor skills: platform and difficulty stand for them. The
question is asked in upstream's words for chat models, without a system message, as DataEnvGym's authors do.

Hidden tests are stored as they come, packed in a pickle; what is read from it are texts and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import re
import threading
import zlib
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any, ClassVar, Final

from dgym.core import Attempt, Example, Grade, Problem, Split
from dgym.data import DataSet, Kind, Part, Row, Stored, fixture, stored
from dgym.data.store import is_here
from dgym.domains.dataset import DataSetDomain, by_hash, content_id
from dgym.errors import DomainError, UsageError, unknown_name
from dgym.graders.code import Case, Job, are_python, grade_programs, programs_of, summary
from dgym.sandbox import Limits, find_sandbox

LIMITS: Final = Limits(cpu_seconds=6.0, wall_seconds=60.0, memory_bytes=1 << 30, output_bytes=4 << 20)
"""For each test."""

MAX_TESTS: Final = 1 << 30
"""Most bytes that the hidden tests of one problem may have when they are unpacked."""

_COLUMNS: Final[dict[str, Kind]] = dict.fromkeys(
    (
        "question_title",
        "question_content",
        "platform",
        "question_id",
        "contest_date",
        "starter_code",
        "difficulty",
        "public_test_cases",
        "metadata",
    ),
    "text",
)
_HIDDEN: Final[dict[str, Kind]] = {"question_id": "text", "platform": "text", "private_test_cases": "text"}

_FILES: Final = {  # rows and bytes of the files at the revision
    "v1": ("test.jsonl", 400, 1_252_609_773),
    "v2": ("test2.jsonl", 111, 713_377_060),
    "v3": ("test3.jsonl", 101, 623_360_766),
    "v4": ("test4.jsonl", 101, 1_204_644_685),
    "v5": ("test5.jsonl", 167, 557_699_297),
    "v6": ("test6.jsonl", 175, 134_303_240),
}


def _data(name: str, title: str, *releases: str) -> DataSet:
    parts = []
    for release in releases:
        file, rows, _ = _FILES[release]
        # Hidden tests lie apart: they are gigabytes, and read problem by problem.
        parts += [
            Part(release, _COLUMNS, files=(file,), rows=rows),
            Part(f"{release}-tests", _HIDDEN, files=(file,), rows=rows),
        ]
    return DataSet(
        name=name,
        title=title,
        parts=tuple(parts),
        licence="CC (the data card says no more); the problems are those of LeetCode, AtCoder and Codeforces",
        homepage="https://livecodebench.github.io",
        hub="livecodebench/code_generation_lite",
        revision="0fe84c3912ea0c4d4a78037083943e8f0c4dd505",
        bytes=sum(_FILES[release][2] for release in releases),
    )


DATA: Final = _data("livecodebench", "contest problems up to May 2024", "v1", "v2")
LATER: Final = {
    "v3": _data("livecodebench-v3", "contest problems up to July 2024", "v3"),
    "v4": _data("livecodebench-v4", "contest problems up to September 2024", "v4"),
    "v5": _data("livecodebench-v5", "contest problems up to January 2025", "v5"),
    "v6": _data("livecodebench-v6", "contest problems up to April 2025", "v6"),
}

_PAPER: Final = ("v2", "v1")


def _data_sets(*releases: str) -> tuple[DataSet, ...]:
    return tuple({data.name: data for data in (LATER.get(release, DATA) for release in releases)}.values())


_STARRED: Final = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json"
)
BEFORE: Final = (
    "".join(f"from {name} import *\n" for name in f"{_STARRED} builtins typing".split())
    + "".join(f"import {name}\n" for name in _STARRED.split())
    + "sys.setrecursionlimit(50000)\n"
)
"""What the published harness (`testing_util.py`) executes before every program."""

_READ_AND_PRINT: Final = (
    "### Format: Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on "
    "the sample inputs). Enclose your code within delimiters as follows.\n```python\n# YOUR CODE HERE\n```"
)
_COMPLETE: Final = (
    "### Format: You will use the following starter code to write the solution to the problem and enclose your code "
    "within delimiters.\n```python\n{starter}\n```"
)
_FORMAT: Final = "### Format:"


class LiveCodeBench(DataSetDomain):
    """Contest problems with hidden tests (LiveCodeBench, code generation).

    Args:
        fixture: Whether to use the small data set of dgym's own writing.
        release: Which files, as upstream names them: `"v5"`, `"v4_v5"`, `"release_v5"`.
        since: Day of the first contest, in ISO format.
        until: Day of the last.

    Raises:
        UsageError: If there is no such release or date.
    """

    base = "livecodebench"
    version = "1"
    data = DATA
    more: ClassVar[tuple[DataSet, ...]] = tuple(LATER.values())
    sizes: ClassVar[Mapping[Split, int]] = {"feedback": 56, "selection": 55, "test": 400}
    description = (
        "Problems of programming contests, from easy to hard, to be solved in Python. Most are about a program that "
        "reads from standard input and writes to standard output; where a class with a method is given, the method is "
        "to be written. Hidden tests decide, with a time limit."
    )
    answer_format = (
        "A whole Python program in one code block, fenced by ```python and ```. It reads from standard input and "
        "prints the answer, or defines the class Solution that the problem begins. The standard library may be used."
    )
    instruction: ClassVar[tuple[str, str]] = (
        "### Question:\n",
        "\n\n### Answer: (use the provided format with backticks)\n\n",
    )

    def __init__(self, *, fixture: bool = False, release: str = "", since: str = "", until: str = "") -> None:
        super().__init__(fixture=fixture)
        given = {"release": release, "since": since, "until": until}
        self.name = self.named(*(f"{key}={value}" for key, value in given.items() if value))
        self._since, self._until = _day("since", since), _day("until", until)
        self._window = bool(since or until)
        self._releases = releases_of(release) if release else tuple(_FILES) if self._window else ("v1",)
        self._loaded: dict[str, Mapping[str, Row]] = {}
        self._lock = threading.Lock()
        self._cases = lru_cache(maxsize=8)(self._read_cases)

    def prepare(self) -> None:
        """Starts the sandbox.

        Raises:
            SandboxError: If programs cannot be isolated on this machine.
        """
        find_sandbox()

    # Problems -------------------------------------------------------------------------------------------------------

    def needs(self) -> Sequence[DataSet]:
        """Returns the data sets that must be on this machine: of an episode, those of its validation too."""
        return () if self._fixture else _data_sets(*self._releases, *_PAPER)

    def _sources(self, *releases: str) -> list[Stored]:
        data = _data_sets(*releases)
        missing = [] if self._fixture else [one.name for one in data if not is_here(one)]
        if missing:
            command = f"`dgym data pull {' '.join(missing)}`"
            raise UsageError(f"{self.name} needs data that is not on this machine: fetch it with {command}.")
        return [fixture(one) if self._fixture else stored(one) for one in data]

    @property
    def contents(self) -> str:
        """The digest of the rows of all data sets that are used."""
        digests = [source.digest for source in self._sources(*self._releases, *_PAPER)]
        return digests[0] if len(digests) == 1 else content_id(*digests)

    def _of(self, release: str) -> Mapping[str, Row]:
        """Returns the rows of a release by id."""
        if release not in self._loaded:
            (source,) = self._sources(release)
            self._loaded[release] = {_id(row): row for row in source.rows(release)}
        return self._loaded[release]

    def _find(self, name: str) -> tuple[str, Row]:
        """Returns release and row of a problem."""
        for release in dict.fromkeys((*self._releases, *_PAPER)):
            if name in self._of(release):
                return release, self._of(release)[name]
        raise DomainError(f"{self.name} has no problem {name!r}.")

    @cached_property
    def _asked(self) -> Mapping[str, Row]:
        """The rows of the test split by id."""
        self._sources(*self._releases)  # what is missing is said at once
        validating = "v2" if not self._window and self._releases != ("v2",) else ""
        return {
            name: row
            for release in self._releases
            if release != validating
            for name, row in self._of(release).items()
            if self._since <= _contest(row) <= self._until
        }

    def validation(self) -> Sequence[Problem]:
        """Returns what release_v2 adds to release_v1, or what the options leave of it and of release_v1.

        Raises:
            UsageError: If the options leave nothing.
        """
        left: dict[str, Row] = {}
        for release in _PAPER:
            rows = self._of(release)
            left |= {name: rows[name] for name in by_hash(rows, str, self.base) if name not in self._asked}
        if not left:
            raise UsageError(f"{self.name} asks for all problems of release_v2, which leaves none for validation.")
        return [self._problem(row) for row in islice(left.values(), len(self._of("v2")))]

    def test(self) -> Sequence[Problem]:
        """Returns release_v1, or what the options ask for.

        Raises:
            UsageError: If there is no such problem.
        """
        if not self._asked:
            raise UsageError(f"{self.name} has no problems: no contest of its releases took place on these days.")
        return [self._problem(self._asked[name]) for name in by_hash(self._asked, str, self.base)]

    def _problem(self, row: Row) -> Problem:
        shown = row["question_content"].strip()
        if row["starter_code"].strip():
            shown = f"{shown}\n\n{_COMPLETE.format(starter=row['starter_code'])}"
        return Problem(
            id=_id(row),
            prompt=self.frame(shown),
            reference="",
            skill=f"{row['platform']} {row['difficulty']}",
            slice=row["difficulty"],
        )

    def frame(self, prompt: str) -> str:
        """Writes a problem as the student is asked it; one without any format reads and prints."""
        shown = self.bare(prompt)
        before, after = self.instruction
        return f"{before}{shown}{after}" if _FORMAT in shown else f"{before}{shown}\n\n{_READ_AND_PRINT}{after}"

    def bare(self, prompt: str) -> str:
        """Returns a question, with the code that it begins where it begins any."""
        return super().bare(prompt).removesuffix(_READ_AND_PRINT).strip()

    def fingerprints(self, prompt: str, images: tuple[bytes, ...] = ()) -> tuple[str, ...]:
        """Returns the words of the question, whatever code it begins."""
        question, _, _ = self.bare(prompt).partition(_FORMAT)
        return super().fingerprints(question.strip() or prompt, images)

    # Grading --------------------------------------------------------------------------------------------------------

    def grade(self, problem: Problem, response: str) -> float:
        """Runs all tests of a problem; 1.0 or 0.0."""
        return self.grade_all([problem], [response])[0][0]

    def grade_all(self, problems: Sequence[Problem], responses: Sequence[str]) -> Sequence[Grade]:
        """Runs programs on all cores; measures whether they are Python, and the part of tests before the first failure.

        Raises:
            DomainError: If a problem is not one of this data set, or its tests cannot be read.
        """
        jobs = [self._job(problem, response) for problem, response in zip(problems, responses, strict=True)]
        return [(float(result.right), result.measures) for result in grade_programs(jobs)]

    def _job(self, problem: Problem, response: str) -> Job:
        _, row = self._find(problem.id)
        name = _function(row)

        def cases() -> Sequence[Case]:
            with self._lock:  # unpacking holds the interpreter's lock anyway
                return self._cases(problem.id)

        return Job(programs_of(response, name, row["starter_code"]), cases, name, BEFORE, LIMITS)

    def _read_cases(self, name: str) -> tuple[Case, ...]:
        release, row = self._find(name)
        (source,) = self._sources(release)
        return cases_of(row, _hidden(source, f"{release}-tests", row))

    def check(self, example: Example) -> bool | None:
        """Grades the response to a known problem; of any other, says whether it is Python at all."""
        known = super().check(example)
        if known is not None:
            return known
        readings = programs_of(example.response, *_begun(self.bare(example.prompt)))
        return None if readings and are_python([readings])[0] else False

    def summary(self, attempts: Sequence[Attempt]) -> Mapping[str, float]:
        """Returns pass@k."""
        return summary(attempts)


def _begun(question: str) -> tuple[str, str]:
    """Returns which method a question asks for, and the code that it begins; nothing where it asks for a program."""
    _, _, shown = question.partition(_FORMAT)
    code, _, _ = shown.partition("```python\n")[2].rpartition("```")
    names = re.findall(r"\bdef[ \t]+(\w+)", code)
    return (names[-1], code) if names else ("", "")


def releases_of(name: str) -> tuple[str, ...]:
    """Returns the files of a release as upstream names it.

    Raises:
        UsageError: If there is no such release.
    """
    every = tuple(_FILES)
    known = {f"release_{last}": every[: i + 1] for i, last in enumerate(every)} | {"release_latest": every}
    known |= {f"{a}_{b}": every[i : j + 1] for i, a in enumerate(every) for j, b in enumerate(every) if i < j}
    known |= {one: (one,) for one in every}
    if name not in known:
        raise unknown_name("LiveCodeBench release", str(name), known)
    return known[name]


def _day(option: str, text: str) -> date:
    if not text:
        return date.min if option == "since" else date.max
    try:
        return date.fromisoformat(text)
    except (ValueError, TypeError):
        raise UsageError(f"{option} is {text!r}; it takes a date such as 2024-08-01.") from None


def _contest(row: Row) -> date:
    try:
        return datetime.fromisoformat(row["contest_date"]).date()
    except ValueError as error:
        raise DomainError(f"The contest date of {row['question_id']!r} is no date: {error}.") from error


def _id(row: Row) -> str:
    return content_id(row["platform"], row["question_id"], row["question_content"])


def _function(row: Row) -> str:
    """Returns the method that is called; empty for a program that reads and prints.

    Raises:
        DomainError: If that cannot be read.
    """
    try:
        name = json.loads(row["metadata"]).get("func_name")
    except (ValueError, AttributeError) as error:
        raise DomainError(f"The metadata of {row['question_id']!r} are no JSON object: {error}.") from error
    return str(name or "")


def _hidden(source: Stored, part: str, row: Row) -> str:
    """Reads the hidden tests of one problem, without those of all others."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(source.folder / f"{part}.parquet") as file:
        for group in range(file.num_row_groups):
            names = file.read_row_group(group, columns=["question_id", "platform"]).to_pylist()
            index = next((i for i, n in enumerate(names) if all(row[k] == v for k, v in n.items())), -1)
            if index < 0:
                continue
            for batch in file.iter_batches(1, row_groups=[group], columns=["private_test_cases"]):
                if index == 0:
                    return str(batch.column(0)[0].as_py())
                index -= 1
    raise DomainError(f"There are no tests of {row['question_id']!r}: fetch the data again.")


class _Texts(pickle._Unpickler):
    """Reads pickled texts, lists and dictionaries; whatever would need code is an error.

    In Python, because a few bytes can make the reader in C ask for all of the memory.
    """

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")


def unpacked(text: str) -> Any:
    """Reads tests as upstream packs them: JSON, or base64 of zlib of a pickled text of JSON.

    Nothing that a pickle names is imported or called.

    Raises:
        ValueError: If it is neither, or more than `MAX_TESTS` bytes.
    """
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        unzip = zlib.decompressobj()
        data = unzip.decompress(base64.b64decode(text), MAX_TESTS)
        if not unzip.eof:
            raise ValueError(f"cut short, or more than {MAX_TESTS:,} bytes")
        value = _Texts(io.BytesIO(data)).load()
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise
    except (binascii.Error, zlib.error, pickle.UnpicklingError) as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # a damaged pickle may end in any of them
        raise ValueError(f"a damaged pickle ({type(error).__name__}: {error})") from error


def cases_of(row: Row, hidden: str) -> tuple[Case, ...]:
    """Returns all tests of a problem, public ones first, as upstream runs them.

    Raises:
        DomainError: If they cannot be read.
    """
    what = f"The tests of {row['question_id']!r}"
    function = _function(row)
    cases = []
    try:
        for test in (*json.loads(row["public_test_cases"]), *unpacked(hidden)):
            case = Case(test["input"], test["output"])
            if not (isinstance(case.given, str) and isinstance(case.wanted, str)):
                raise TypeError("a test is no text")
            for line in (*case.given.split("\n"), case.wanted) if function else ():
                json.loads(line)
            cases.append(case)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DomainError(f"{what} cannot be read: {type(error).__name__}: {error}.") from error
    if not cases:
        raise DomainError(f"{what} are missing.")
    return tuple(cases)
