"""Skill discovery: which skill each problem needs, without looking at the gold one.

Every way of finding skills is a `Discovery`: gold skills, a file, clusters of sentence embeddings, or a language
model in three steps. It is given the problems of the feedback split, which a teacher may see, and nothing else.

What takes long, clusters and the language model, is kept on disk under a key made of all that the result
depends on: the discovery's name, version and parameters, the model, the prompt files and the problems.

What this module does not know: students, attempts, environments, and whose language model it asks.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from dgym import registry
from dgym.cache import cache_folder
from dgym.chat import digest_of, find_chat
from dgym.chat.errors import SpendingStoppedError
from dgym.chat.ledger import concurrently, purpose
from dgym.chat.prompts import Prompts
from dgym.core import Chat, Message, Problem, derive_seed, digest, from_json, to_json
from dgym.errors import TeacherError, UsageError, one_line, unknown_name

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

OTHER: Final = "other"
"""The skill of problems that got none."""

PROMPTS: Final = Path(__file__).parent / "prompts"
"""The prompt files of `Labelled`: Jinja templates, one per step, in which an undefined name is an error."""

STEPS: Final = ("label", "merge", "assign")
"""The steps of `Labelled`, each with its prompt file."""

MAX_CLUSTERS: Final = 20
"""Most clusters tried where their number is free."""

MAX_CATEGORIES: Final = 30
"""Most categories of a language model where their number is free."""

MAX_LABELS: Final = 500
"""Most labels shown to a language model to be merged, the most frequent ones first."""

LOW_BATCH: Final = 60
"""Problems per call in low-token mode."""

LOW_TEXT: Final = 300
"""Characters of a problem that are shown in low-token mode."""

MAX_NAME: Final = 80
"""Longest name of a skill, in characters, that is taken from a language model."""

FORMS: Final = (
    "gold",
    "file:PATH",
    "clusters",
    "clusters:8",
    "chat:NAME",
    "chat:NAME:8",
    "chat:NAME:8:low",
    "FILE.py:ATTR",
)
"""What `find_discovery` understands."""


@runtime_checkable
class Discovery(Protocol):
    """Groups problems by the skill that they need.

    Attributes:
        name: Which discovery, with what a person chose about it, such as `"clusters:8"`.
        version: Bumped whenever skills would change.
    """

    name: str
    version: str

    def assign(self, problems: Sequence[Problem]) -> Mapping[str, str]:
        """Returns a skill's name for every problem, by problem id."""
        ...


class Embedder(Protocol):
    """Turns texts into vectors whose nearness is nearness of meaning.

    Attributes:
        name: Identifies the weights, for caches.
    """

    name: str

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Returns unit vectors, of the shape (texts, dimensions)."""
        ...


# --------------------------------------------------------------------------------------------------------------
# Skills that are there already


class Gold:
    """The domain's own skills; for tool use, that is the tuple of tools."""

    name = "gold"
    version = "1"

    def assign(self, problems: Sequence[Problem]) -> Mapping[str, str]:
        """Returns every problem's gold skill."""
        return {p.id: p.skill or OTHER for p in problems}


class FromFile:
    """Skills that somebody wrote down, by problem id or by prompt.

    Args:
        path: A JSON object (`.json`), or a table of two columns without or with a header of `id` or `prompt`,
            and `skill` (`.csv`); UTF-8. It is read at once. A JSON object may also be what DataEnvGym's skill
            discovery writes, as in the authors' `codezakh/dataenvbench-discovered-skills` on the hub: problems are
            then looked up by their text, and a skill is a category's name.

    Raises:
        UsageError: If the file cannot be read as such.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self._path = path
        try:
            content = path.read_bytes()
            text = content.decode("utf-8-sig")
        except OSError as error:
            raise UsageError(f"The skill file {str(path)!r} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise UsageError(f"The skill file {str(path)!r} is not UTF-8 text.") from error
        self._skills = _read_json(path, text) if path.suffix.lower() == ".json" else _read_csv(path, text)
        self.name = f"file:{path.name}"
        self.version = hashlib.blake2b(content, digest_size=8).hexdigest()

    def assign(self, problems: Sequence[Problem]) -> Mapping[str, str]:
        """Looks every problem up by its id, else by its prompt.

        Raises:
            UsageError: If the file leaves problems out.
        """
        skills = self._skills
        found = {p.id: skills.get(p.id) or skills.get(p.prompt.strip()) for p in problems}
        missing = [name for name, skill in found.items() if skill is None]
        if missing:
            raise UsageError(
                f"The skill file {str(self._path)!r} has no skill for {len(missing)} of {len(problems)} problems, "
                f"such as {missing[0]!r}."
            )
        return {name: skill for name, skill in found.items() if skill is not None}


def _read_json(path: Path, text: str) -> dict[str, str]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"The skill file {str(path)!r} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise UsageError(f"The skill file {str(path)!r} must hold a JSON object: problem id or prompt to skill.")
    if {"labeled_instructions", "instance_id_to_skill_category"} <= value.keys():
        return _checked(path, _categories(path, value))
    return _checked(path, value.items())


def _categories(path: Path, value: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Reads DataEnvGym's own form: instances with their texts, and the category of each instance."""
    try:
        names = {key: str(c["descriptive_name"]) for key, c in value["instance_id_to_skill_category"].items()}
        texts = {str(i["instance_id"]): str(i["instruction"]) for i in value["labeled_instructions"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"The skill file {str(path)!r} is not what DataEnvGym writes: {one_line(error)}.") from error
    # Texts that several instances share may be of several categories: the last counts, as in a dictionary.
    return list({texts[key]: name for key, name in names.items() if key in texts}.items())


def _read_csv(path: Path, text: str) -> dict[str, str]:
    if path.suffix.lower() != ".csv":
        raise UsageError(f"The skill file {str(path)!r} must end in .json or .csv.")
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except csv.Error as error:
        raise UsageError(f"The skill file {str(path)!r} is not a table: {error}.") from error
    for row in rows:
        if len(row) != 2:
            raise UsageError(f"The skill file {str(path)!r} must have two columns; {row[0]!r} has {len(row)}.")
    if rows and rows[0][0].strip().lower() in ("id", "prompt") and rows[0][1].strip().lower() == "skill":
        del rows[0]
    return _checked(path, ((key, skill) for key, skill in rows))


def _checked(path: Path, items: Iterable[tuple[str, Any]]) -> dict[str, str]:
    skills: dict[str, str] = {}
    for key, skill in items:
        if not isinstance(skill, str) or not skill.strip():
            raise UsageError(f"The skill file {str(path)!r} has no usable skill for {key!r}: {skill!r}.")
        if skills.setdefault(key.strip(), skill.strip()) != skill.strip():
            raise UsageError(f"The skill file {str(path)!r} has two skills for {key!r}.")
    return skills


# --------------------------------------------------------------------------------------------------------------
# Clusters of sentence embeddings


class Clusters:
    """Clusters of prompts by k-means on sentence embeddings; images are not looked at.

    Clusters are numbered from the largest, and named by the words that tell them from the others.

    Args:
        count: How many; `None` for the number, up to `MAX_CLUSTERS`, with the best mean silhouette. There are
            never more clusters than different embeddings.
        seed: Of the first centres.
        embedder: What embeds the prompts; all-MiniLM-L6-v2 unless given.

    Raises:
        UsageError: If `count` is below 1.
    """

    version = "1"

    def __init__(self, count: int | None = None, seed: int = 0, embedder: Embedder | None = None) -> None:
        if count is not None and count < 1:
            raise UsageError(f"The number of clusters must be at least 1, not {count}.")
        self.name = "clusters" if count is None else f"clusters:{count}"
        self._count, self._seed, self._embedder = count, seed, embedder

    def assign(self, problems: Sequence[Problem]) -> Mapping[str, str]:
        """Returns every problem's cluster.

        Raises:
            UsageError: If the extra `skills` is not installed.
        """
        if not problems:
            return {}
        embedder = self._embedder or _minilm()
        key = _key(self, [self._count, self._seed, embedder.name], problems)
        stored = _load(key, problems)
        if stored is None:
            vectors = embedder.embed([p.prompt for p in problems])
            groups = _by_size(_k_means(vectors, self._count, self._seed))
            names = _characteristic([p.prompt for p in problems], groups)
            stored = _Stored({p.id: names[g] for p, g in zip(problems, groups, strict=True)})
            _save(key, stored)
        return stored.skills


def _minilm() -> Embedder:
    from dgym.models.embeddings import MiniLM

    return MiniLM()


def _no_scikit_learn(error: ImportError) -> UsageError:
    return UsageError(
        f'Clusters of problems need scikit-learn; install it with pip install "dgym[skills]" ({one_line(error)}).'
    )


def _k_means(vectors: npt.NDArray[np.float32], count: int | None, seed: int) -> list[int]:
    """Clusters the rows; one label per row."""
    import numpy as np

    try:
        from sklearn.cluster import KMeans
        from sklearn.metrics import silhouette_score
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise _no_scikit_learn(error) from error
    distinct = len(np.unique(vectors, axis=0))
    # The silhouette is defined for 2 to n - 1 clusters.
    most = min(MAX_CLUSTERS, distinct, len(vectors) - 1)
    tried = range(2, most + 1) if count is None else (min(count, distinct),)
    best, labels = -2.0, [0] * len(vectors)
    # Several threads would add up in another order, and so might split near ties elsewhere.
    with threadpool_limits(limits=1):
        for k in tried:
            fit = KMeans(k, n_init=10, random_state=derive_seed("clusters", seed) % 2**32).fit(vectors)
            score = float(silhouette_score(vectors, fit.labels_)) if count is None else 0.0
            if score > best:
                best, labels = score, [int(label) for label in fit.labels_]
    return labels


def _by_size(labels: Sequence[int]) -> list[int]:
    """Renumbers groups from the largest; ties go to the group that comes first."""
    sizes = Counter(labels)  # in the order of first appearance, which sorting keeps
    number = {label: i for i, label in enumerate(sorted(sizes, key=lambda label: -sizes[label]))}
    return [number[label] for label in labels]


def _characteristic(texts: Sequence[str], groups: Sequence[int]) -> list[str]:
    """Names groups by the three words with the greatest tf-idf, each group being one document."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise _no_scikit_learn(error) from error
    documents = [""] * (max(groups) + 1)
    for text, group in zip(texts, groups, strict=True):
        documents[group] += text + "\n"
    vectorizer = TfidfVectorizer(stop_words="english", token_pattern=r"(?u)\b[^\W\d_]{3,}\b")
    try:
        weights = vectorizer.fit_transform(documents).toarray()
    except ValueError:  # no words at all
        return [f"cluster ({i + 1})" for i in range(len(documents))]
    words = vectorizer.get_feature_names_out()
    names = []
    for i, row in enumerate(weights):
        top = sorted((-float(w), str(word)) for w, word in zip(row, words, strict=True) if w > 0)[:3]
        names.append(f"{', '.join(word for _, word in top) or 'cluster'} ({i + 1})")
    return names


# --------------------------------------------------------------------------------------------------------------
# A language model in three steps


@dataclass(frozen=True, slots=True)
class Report:
    """How a language model's skills came about.

    Attributes:
        calls: How often the model was asked.
        errors: How many of these calls gave no answer.
        unusable: How many answers were not of the form asked for.
        invalid: Single entries of other answers that were dropped: unknown id or category, no usable name.
        unlabelled: Problems without a label after all retries.
        unmerged: Whether no list of categories was usable, so that the most frequent labels stand for it.
        unassigned: Problems without a category after all retries; their skill is `OTHER`.
        cached: Whether all this happened earlier and the result was found on disk.
    """

    calls: int = 0
    errors: int = 0
    unusable: int = 0
    invalid: int = 0
    unlabelled: int = 0
    unmerged: bool = False
    unassigned: int = 0
    cached: bool = False


class Labelled:
    """Skills that a language model names, in the three steps of DataEnvGym (arXiv 2410.06215).

    It labels each problem with the skill that it needs, merges the labels into categories, and assigns each
    problem one category. Whatever the model answers, every problem gets a skill: problems that it leaves out
    are asked again, `retries` times at most, and are then `OTHER`. A result that is incomplete because calls
    failed is not kept on disk.

    Args:
        chat: The language model.
        categories: How many, if there are so many labels; `None` leaves it to the model, up to `MAX_CATEGORIES`.
        seed: All seeds given to the model derive from it.
        batch: Problems per call, at least 1.
        retries: How often what is missing is asked for again.
        low: Low-token mode: more problems a call, cut to their beginning and without their images, and categories
            assigned to labels rather than to problems.

    Attributes:
        report: On the latest call of `assign`.

    Raises:
        UsageError: If `categories` is below 1.
    """

    def __init__(
        self,
        chat: Chat,
        categories: int | None = None,
        *,
        seed: int = 0,
        batch: int = 20,
        retries: int = 3,
        low: bool = False,
    ) -> None:
        if categories is not None and categories < 1:
            raise UsageError(f"The number of skill categories must be at least 1, not {categories}.")
        self._chat, self._categories = chat, categories
        self._seed, self._batch, self._retries = seed, LOW_BATCH if low else batch, retries
        self._low, self._prompts = low, Prompts(PROMPTS)
        self.name = ":".join(["chat", chat.model, *([] if categories is None else [str(categories)]), *["low"] * low])
        self.version = f"2-{digest([self._prompts.digest, digest_of(chat)])[:8]}"
        self.report = Report()

    def assign(self, problems: Sequence[Problem]) -> Mapping[str, str]:
        """Returns the category of every problem, or `OTHER`."""
        if not problems:
            self.report = Report()
            return {}
        key = _key(self, [self._categories, self._seed, self._batch, self._retries, self._low], problems)
        stored = _load(key, problems)
        if stored is not None and stored.report is not None:
            self.report = replace(stored.report, cached=True)
            return stored.skills
        tally: Counter[str] = Counter()
        labels = self._each("label", problems, lambda text: text, tally)
        categories, merged = self._merge(labels, tally)
        known = {c.casefold(): c for c in categories}
        found = {}
        if categories and self._low:
            # The labels are assigned, which are fewer and shorter than the problems.
            distinct = list(dict.fromkeys(labels.values()))
            asked = [Problem(label, label, "", "") for label in distinct]
            chosen = self._each("assign", asked, lambda text: known.get(text.casefold()), tally, categories)
            found = {name: chosen[label] for name, label in labels.items() if label in chosen}
        elif categories:
            found = self._each("assign", problems, lambda text: known.get(text.casefold()), tally, categories)
        self.report = Report(
            calls=tally["calls"],
            errors=tally["errors"],
            unusable=tally["unusable"],
            invalid=tally["invalid"],
            unlabelled=len(problems) - len(labels),
            unmerged=not merged,
            unassigned=len(problems) - len(found),
        )
        skills = {p.id: found.get(p.id, OTHER) for p in problems}
        complete = merged and len(labels) == len(found) == len(problems)
        if complete or not tally["errors"]:
            _save(key, _Stored(skills, self.report))
        return skills

    def _each(
        self,
        step: str,
        problems: Sequence[Problem],
        accept: Callable[[str], str | None],
        tally: Counter[str],
        categories: Sequence[str] = (),
    ) -> dict[str, str]:
        """Asks for one name per problem, in batches, and again for those that are missing."""
        kind: dict[str, Any] = {"type": "string", "enum": list(categories)} if categories else {"type": "string"}
        entry = _object({"id": {"type": "integer"}, "skill": kind})
        schema = _object({"skills": {"type": "array", "items": entry}})

        def one(first: int) -> tuple[dict[str, str], Counter[str]]:
            found: dict[str, str] = {}
            mine: Counter[str] = Counter()
            missing = list(problems[first : first + self._batch])
            for attempt in range(1 + self._retries):
                rows, images = _rows(missing, seen=not self._low)
                values: dict[str, Any] = {"problems": rows, "pictured": bool(images), "again": attempt > 0}
                if categories:
                    values["categories"] = [{"category": c} for c in categories]
                message = Message("user", self._prompts.render(step, values), images)
                answer = self._ask(message, schema, (step, first, attempt), mine)
                for number, text in _entries(answer, mine):
                    skill = accept(text) if 1 <= number <= len(missing) else None
                    if skill is None:
                        mine["invalid"] += 1
                    else:
                        found.setdefault(missing[number - 1].id, skill)
                missing = [p for p in missing if p.id not in found]
                if not missing:
                    break
            return found, mine

        together: dict[str, str] = {}
        for ended in concurrently(one, range(0, len(problems), self._batch)):
            if isinstance(ended, Exception):
                raise ended
            together |= ended[0]
            tally += ended[1]
        return together

    def _merge(self, labels: Mapping[str, str], tally: Counter[str]) -> tuple[list[str], bool]:
        """Returns the categories, and whether the model named them."""
        sizes = Counter(label.casefold() for label in labels.values())
        spelling: dict[str, str] = {}
        for label in labels.values():
            spelling.setdefault(label.casefold(), label)
        ranked = sorted(sizes, key=lambda label: (-sizes[label], label))[:MAX_LABELS]
        if not ranked:
            return [], False
        # There is nothing to merge into more categories than labels.
        most = min(self._categories or MAX_CATEGORIES, len(ranked))
        least = 1 if self._categories is None else most
        items = {"type": "array", "items": {"type": "string"}, "minItems": least, "maxItems": most}
        schema = _object({"categories": items})
        best: list[str] = []
        for attempt in range(1 + self._retries):
            values = {
                "labels": [{"label": spelling[label], "count": sizes[label]} for label in ranked],
                "count": None if self._categories is None else most,
                "most": most,
                "again": attempt > 0,
            }
            message = Message("user", self._prompts.render("merge", values))
            named = _names(self._ask(message, schema, ("merge", attempt), tally), tally)
            best = max(best, named[:most], key=len)
            if least <= len(named) <= most:
                return named, True
        # A list of nearly the right length is better than none.
        return best or [spelling[label] for label in ranked[:most]], bool(best)

    def _ask(self, message: Message, schema: Mapping[str, Any], place: tuple[object, ...], tally: Counter[str]) -> Any:
        """Asks the model once; `None` where it gives no answer."""
        tally["calls"] += 1
        try:
            with purpose("discover"):
                return self._chat.complete([message], schema, derive_seed("discovery", self._seed, *place))
        except SpendingStoppedError:
            raise  # there is no use in asking on
        except TeacherError:
            tally["errors"] += 1
            return None


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Builds a JSON schema that strict structured output accepts: all fields required, no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _rows(problems: Sequence[Problem], *, seen: bool) -> tuple[list[dict[str, Any]], tuple[bytes, ...]]:
    """Returns one row per problem, numbered from 1, and their images, numbered through, if they are to be seen."""
    rows: list[dict[str, Any]] = []
    images: list[bytes] = []
    for number, problem in enumerate(problems, 1):
        row: dict[str, Any] = {"id": number, "problem": problem.prompt if seen else problem.prompt[:LOW_TEXT]}
        if problem.images and seen:
            row["images"] = list(range(len(images) + 1, len(images) + len(problem.images) + 1))
            images += problem.images
        rows.append(row)
    return rows, tuple(images)


def _list(answer: Any, key: str, tally: Counter[str]) -> list[Any]:
    found = answer.get(key) if isinstance(answer, dict) else None
    if isinstance(found, list):
        return found
    if answer is not None:
        tally["unusable"] += 1
    return []


def _entries(answer: Any, tally: Counter[str]) -> Iterator[tuple[int, str]]:
    """Yields number and name of each entry that has both."""
    for entry in _list(answer, "skills", tally):
        number, name = (entry.get("id"), _clean(entry.get("skill"))) if isinstance(entry, dict) else (None, None)
        if type(number) is int and name:
            yield number, name
        else:
            tally["invalid"] += 1


def _names(answer: Any, tally: Counter[str]) -> list[str]:
    """Returns the distinct names in a list of categories."""
    names: dict[str, str] = {}
    for entry in _list(answer, "categories", tally):
        name = _clean(entry)
        if name:
            names.setdefault(name.casefold(), name)
        else:
            tally["invalid"] += 1
    return list(names.values())


def _clean(name: Any) -> str | None:
    """Returns a name on one line, or `None` where it cannot be the name of a skill."""
    if not isinstance(name, str):
        return None
    # A slash sets a subskill apart from its skill.
    text = " ".join(name.split()).replace("/", "-")
    return text if 0 < len(text) <= MAX_NAME and text.casefold() != OTHER else None


# --------------------------------------------------------------------------------------------------------------
# The cache


@dataclass(frozen=True, slots=True)
class _Stored:
    skills: dict[str, str]
    report: Report | None = None


def _key(discovery: Discovery, parameters: Sequence[Any], problems: Sequence[Problem]) -> str:
    content = [
        [p.id, p.prompt, [hashlib.blake2b(image, digest_size=16).hexdigest() for image in p.images]] for p in problems
    ]
    return digest(["skills-1", discovery.name, discovery.version, list(parameters), content])


def _path(key: str) -> Path:
    return cache_folder() / "skills" / f"{key}.json"


def _load(key: str, problems: Sequence[Problem]) -> _Stored | None:
    """Returns what is stored; `None` where there is nothing, or nothing usable."""
    try:
        stored = from_json(_Stored, json.loads(_path(key).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    return stored if stored.skills.keys() == {p.id for p in problems} and all(stored.skills.values()) else None


def _save(key: str, stored: _Stored) -> None:
    path = _path(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.tmp")
        partial.write_text(json.dumps(to_json(stored)), encoding="utf-8")
        partial.replace(path)
    except OSError:
        pass  # a cache that cannot be written costs time, nothing else


# --------------------------------------------------------------------------------------------------------------
# By name


def find_discovery(spec: str) -> Discovery:
    """Makes a skill discovery from the words for it.

    Args:
        spec: One of
            `gold`;
            `file:PATH`, see `FromFile`;
            `clusters` or `clusters:8`, with a number of clusters;
            `chat:NAME` or `chat:NAME:8`, where the name is that of a language model as `dgym.chat.find_chat` takes
            it, with a number of categories, and with `:low` behind it for the low-token mode;
            `path/to/file.py:Attr` for a class of one's own.

    Raises:
        UsageError: If there is no such discovery, or if it cannot be made.
    """
    kind, _, rest = spec.partition(":")
    if spec == "gold":
        return Gold()
    if kind == "file" and rest:
        return FromFile(rest)
    if spec == "clusters":
        return Clusters()
    if kind == "clusters" and rest.isdecimal():
        return Clusters(int(rest))
    if kind == "chat" and rest:
        low = rest.endswith(":low")
        rest = rest.removesuffix(":low")
        name, _, count = rest.rpartition(":")
        if name and count.isdecimal():
            return Labelled(find_chat(name), int(count), low=low)
        return Labelled(find_chat(rest), low=low)
    if registry.is_file(spec):
        discovery: Discovery = registry.make("discovery", spec, Discovery)
        return discovery
    raise unknown_name("skill discovery", spec, FORMS)
