"""Generated data as a Hugging Face data set: Parquet files and a card, as `datasets.load_dataset(folder)` reads them.

What is exported is what students were trained on: the examples that the gate kept. Those that it rejected are counted
in the card, with the reasons. Nothing is uploaded.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dgym.domains import data_sets
from dgym.errors import InfrastructureError, UsageError, unknown_name
from dgym.results.place import Place
from dgym.results.reader import Run

if TYPE_CHECKING:
    import datasets

SHARD_BYTES: Final = 300_000_000
"""Largest Parquet file, in bytes of memory that its rows take."""

_COLUMNS: Final[Mapping[str, str]] = {
    "prompt": "the problem, as the student is asked it",
    "completion": "the answer to learn",
    "rejected": "of a preference pair, the response that is worse; null for a plain example",
    "images": "what the problem is about",
    "skill": "skill that the teacher claims; may be null",
    "correct": "whether the domain could compute that the answer is right; null where it cannot say",
    "teacher": "who wrote it",
    "environment": "what the teacher saw",
    "domain": "what is learned",
    "student": "for whom it was written, with the variant",
    "seed": "seed of the episode",
    "iteration": "round in which it was written, from 1",
    "episode": "digest of the episode, as in the run's tables",
}
"""Every column; `rejected` and `images` are left out where no example has any. `prompt` and `completion` are the names
that trainers of the field, such as TRL, expect."""

_OPTIONAL: Final = ("rejected", "images")

_GENERATORS: Final[Mapping[str, str]] = {
    "math": "reasoning-gym's generators (Apache-2.0)",
    "reasoning-gym": "reasoning-gym's generators (Apache-2.0)",
}

_OWN_GENERATORS: Final = "dgym's own generators (Apache-2.0)"


@dataclass(frozen=True)
class Choice:
    """Which episodes' data are exported; empty means all.

    Attributes:
        teachers: Their names, or their labels in the leaderboard.
        domains: Registered names, with options as in the run.
        environments: Registered names.
        episodes: Beginnings of digests.
    """

    teachers: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()
    episodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: Its path or URL.
        rows: How many examples.
        episodes: Of how many episodes.
        files: Every file, relative to the folder.
    """

    folder: str
    rows: int
    episodes: int
    files: tuple[str, ...]


def export(run: Run, out: str | PathLike[str] | Place, choice: Choice = Choice(), *, licence: str = "") -> Exported:
    """Writes the kept examples of some finished episodes, and a card.

    Args:
        run: The results.
        out: Path or URL of the folder, which must not exist or be empty.
        choice: Which episodes.
        licence: Identifier as the Hugging Face hub knows it, such as `"apache-2.0"`, which whoever publishes the data
            decides on; without one the card says `other` and what is known of it.

    Raises:
        UsageError: If nothing is chosen, if the chosen episodes kept no example, or if the folder cannot be written.
    """
    episodes = chosen(run, choice)
    columns = ["digest", "iteration", "kept", "reason", "skill", "correct", "prompt", "response", "rejected", "images"]
    written = run.arrow("examples", columns, where=pc.field("digest").isin(episodes["digest"].tolist()))
    kept = written.filter(pc.field("kept"))
    if not kept.num_rows:
        raise UsageError(f"The {len(episodes)} chosen episodes kept no example; `dgym show` says why.")
    reasons = Counter(reason for reason in written.column("reason").to_pylist() if reason)
    data = _table(kept, episodes)
    place = Place.of(out)
    if place.is_file() or place.sizes():
        raise UsageError(f"{place.name} is there already; name a new folder with --out.")
    wrong = data["correct"][:].count(False)
    text = card(episodes, data.column_names, written.num_rows, data.num_rows, wrong, reasons, licence)
    try:
        files = _write(data, place)
        place.write(text, "README.md")
    except InfrastructureError as error:
        raise UsageError(str(error)) from error
    return Exported(place.name, data.num_rows, len(episodes), ("README.md", *files))


def chosen(run: Run, choice: Choice) -> pd.DataFrame:
    """Returns the finished episodes of a choice, with their labels.

    Raises:
        UsageError: If a name fits none of the run's episodes; the message names the nearest that does.
    """
    episodes = run.episodes[run.episodes["status"] == "ok"]
    wanted: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
        ("teacher of the run", choice.teachers, ("teacher", "teacher_label")),
        ("domain of the run", choice.domains, ("domain",)),
        ("environment of the run", choice.environments, ("environment",)),
    )
    for kind, names, columns in wanted:
        if not names:
            continue
        fits = pd.concat([episodes[column].isin(names) for column in columns], axis=1).any(axis=1)
        for name in names:
            if not any((episodes[column] == name).any() for column in columns):
                raise unknown_name(kind, name, sorted({str(n) for c in columns for n in episodes[c]}))
        episodes = episodes[fits]
    if choice.episodes:
        for begin in choice.episodes:
            if not episodes["digest"].str.startswith(begin).any():
                raise UsageError(f"No chosen episode has a digest that begins with {begin!r}.")
        episodes = episodes[episodes["digest"].str.startswith(choice.episodes)]
    if episodes.empty:
        raise UsageError("No finished episode of the run fits the choice.")
    return episodes.sort_values(["domain", "environment", "teacher_label", "seed_variant", "digest"])


def _table(kept: pa.Table, episodes: pd.DataFrame) -> datasets.Dataset:
    """Joins examples and episodes: the columns of `_COLUMNS`, in the order of episodes and of submission."""
    import datasets

    place = {digest: i for i, digest in enumerate(episodes["digest"])}
    rows = sorted(kept.to_pylist(), key=lambda row: (place[row["digest"]], row["iteration"]))  # stable
    by_digest = episodes.set_index("digest").to_dict("index")
    of: list[Any] = [by_digest[row["digest"]] for row in rows]
    content: dict[str, list[Any]] = {
        "prompt": [row["prompt"] for row in rows],
        "completion": [row["response"] for row in rows],
        "rejected": [row["rejected"] for row in rows],
        "images": [[{"bytes": image, "path": None} for image in row["images"] or ()] for row in rows],
        "skill": [row["skill"] for row in rows],
        "correct": [row["correct"] for row in rows],
        "teacher": [episode["teacher_label"] for episode in of],
        "environment": [episode["environment"] for episode in of],
        "domain": [episode["domain"] for episode in of],
        "student": [f"{str(episode['student']).partition(':')[0]}:{episode['variant']}" for episode in of],
        "seed": [int(episode["seed_variant"]) for episode in of],
        "iteration": [row["iteration"] for row in rows],
        "episode": [row["digest"] for row in rows],
    }
    for name in _OPTIONAL:
        if not any(content[name]):
            del content[name]
    kinds: dict[str, Any] = {"correct": datasets.Value("bool")}
    kinds |= {name: datasets.Value("int64") for name in ("seed", "iteration")}
    kinds["images"] = datasets.List(datasets.Image())
    features = datasets.Features({name: kinds.get(name, datasets.Value("string")) for name in content})
    return datasets.Dataset.from_dict(content, features=features)


def _write(data: datasets.Dataset, place: Place) -> list[str]:
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shards = max(1, -(-data.data.nbytes // SHARD_BYTES))
    files = []
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    for index in range(shards):
        name = f"data/train-{index:05d}-of-{shards:05d}.parquet"
        place.build(data.shard(shards, index, contiguous=True).to_parquet, name)
        files.append(name)
    if shown:
        enable_progress_bars()
    return files


# --------------------------------------------------------------------------------------------------------------
# The card


def card(
    episodes: pd.DataFrame,
    columns: Sequence[str],
    submitted: int,
    kept: int,
    wrong: int,
    reasons: Mapping[str, int],
    licence: str,
) -> str:
    """Writes the data set's card: the header that the hub reads, then how it was made.

    Args:
        episodes: The exported episodes.
        columns: Columns of the data.
        submitted: Examples that the teachers submitted.
        kept: Examples that the gate kept.
        wrong: How many of those the domain knows to be wrong.
        reasons: How many were rejected, by reason.
        licence: As in `export`.
    """
    from huggingface_hub import DatasetCardData

    domains, teachers = _names(episodes["domain"]), _names(episodes["teacher_label"])
    title = f"{', '.join(domains)}: training data written by {', '.join(teachers)}"
    header = DatasetCardData(
        license=licence or "other",
        license_name=None if licence else "see-the-card",
        pretty_name=title,
        tags=["synthetic", "dgym"],
        task_categories=["visual-question-answering" if "images" in columns else "text-generation"],
        size_categories=[_size(kept)],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    )
    rejected = sum(reasons.values())
    lines = [
        f"# {title}",
        "",
        f"{kept:,} training examples from {len(episodes)} episodes of dgym, a testbed for agents that write training "
        "data (after [DataEnvGym](https://arxiv.org/abs/2410.06215)): a teacher saw how a student failed, wrote data, "
        "and the student was trained on it and evaluated again. Here is what the students were trained on.",
        "",
        "## How it was made",
        "",
        *_table_of(
            ("teacher", "environment", "domain", "student", "seeds", "episodes", "submitted", "kept"),
            _groups(episodes),
        ),
        "",
        *_protocols(episodes),
        "",
        f"Of {submitted:,} examples submitted, the gate kept {kept:,} and rejected {rejected:,}"
        + (":" if rejected else "."),
        "",
    ]
    if wrong:
        lines += [f"**{wrong:,} of them are known to be wrong**, and say so in the column `correct`.", ""]
    if rejected:
        counted = [(reason, f"{count:,}") for reason, count in sorted(reasons.items(), key=lambda r: (-r[1], r[0]))]
        lines += [*_table_of(("reason", "examples"), counted), ""]
    lines += [
        "`overlap-*`: copies of problems of dgym's evaluation splits, which are not to be trained on. `incorrect`: the "
        "domain could compute that the answer is wrong.",
        "",
        "## Columns",
        "",
        *_table_of(("column", "meaning"), [(name, _COLUMNS[name]) for name in columns]),
        "",
        "## Licence",
        "",
        *(f"- {line}" for line in _licences(episodes)),
        "- Whoever publishes the data decides on its licence"
        + (f"; it was given as `{licence}`." if licence else "; none was given when it was exported."),
        "",
        "## Run",
        "",
        f"Suites: {', '.join(_names(episodes['suite'])) or 'none'}. Versions: "
        + ", ".join(f"{name} {version}" for name, version in json.loads(episodes["versions"].iloc[0]).items())
        + ". The column `episode` leads to the whole of each episode in the run's tables.",
    ]
    return f"---\n{header.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n"


def _names(column: pd.Series[str]) -> list[str]:
    return [name for name in sorted({str(value) for value in column}) if name]


def _size(rows: int) -> str:
    limits = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for limit, name in limits if rows < limit), "1M<n<10M")


def _table_of(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(":--" for _ in header) + "|"]
    return lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def _groups(episodes: pd.DataFrame) -> list[tuple[str, ...]]:
    keys = ["teacher_label", "environment", "domain", "student"]
    return [
        (
            *map(str, key),
            ", ".join(map(str, sorted({int(seed) for seed in part["seed_variant"]}))),
            str(len(part)),
            f"{part['examples_submitted'].sum():,}",
            f"{part['examples_kept'].sum():,}",
        )
        for key, part in episodes.groupby(keys, sort=False)
    ]


def _protocols(episodes: pd.DataFrame) -> list[str]:
    """Says the rules, once for each that differs."""
    lines = []
    for spec in dict.fromkeys(json.dumps(json.loads(text)["rules"], sort_keys=True) for text in episodes["spec"]):
        rules = json.loads(spec)
        checked = "examples known to be wrong are rejected" if rules["verify"] else "examples are not verified"
        lines.append(
            f"{rules['iterations']} rounds of at most {rules['budget']['examples_per_iteration']} examples; {checked}"
            + ("." if rules["gate"] else "; the gate let everything else pass.")
        )
    return list(dict.fromkeys(lines))


def _licences(episodes: pd.DataFrame) -> list[str]:
    """Says what is known of whose words the examples are."""
    published = data_sets()
    lines = []
    for domain in _names(episodes["domain"]):
        base = domain.partition(":")[0]
        if base in published:
            data = published[base]
            lines.append(f"`{domain}` shows teachers problems of {data.title}: {data.licence}")
        else:
            lines.append(f"`{domain}`: its problems come from {_GENERATORS.get(base, _OWN_GENERATORS)}.")
    models = sorted({str(teacher).partition("@")[2] for teacher in episodes["teacher"]} - {""})
    lines += [f"`{model}` is a language model: its provider's terms apply to what it wrote." for model in models]
    if episodes["privileged"].any():
        who = ", ".join(_names(episodes.loc[episodes["privileged"], "teacher_label"]))
        lines.append(f"Written with the domain's own generators, by no language model: {who}.")
    return lines
