"""A run's leaderboard in the schema of Every Eval Ever, a shared form for evaluation results (arXiv 2606.14516).

What dgym evaluates is teachers, so that a record is a teacher's: its gains per track, with the intervals of the
leaderboard, and the test scores of the students that it taught. With `samples`, each of these students' answers on the
test split is a line of the companion file. Records lie as in the schema's datastore, where its validator finds them:
`python -m every_eval_ever validate 'OUT/data/*/*/*/*.json*'` (Python 3.12). Nothing is uploaded.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Final

import pandas as pd
import pyarrow.compute as pc

from dgym import __version__, leaderboard
from dgym.core import Problem, digest
from dgym.domains import make_domain
from dgym.errors import UsageError
from dgym.leaderboard import Leaderboard, Row
from dgym.results.gains import OVERALL, Entrant, tracks_of
from dgym.results.place import Place, write_files
from dgym.results.reader import Run
from dgym.results.statistics import LEVEL, Bootstrap, Estimate, estimate
from dgym.teachers import split_name

SCHEMA_VERSION: Final = "0.3.0"
"""Version of the schema that is written."""

_ARXIV: Final = "https://arxiv.org/abs/2410.06215"

_GAIN: Final = "Gain in test score over the untrained student, at the iteration chosen on selection"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: Its path or URL.
        records: One file a teacher, relative to the folder.
        samples: Lines of the companion files.
    """

    folder: str
    records: tuple[str, ...]
    samples: int


def export(run: Run, out: str | PathLike[str] | Place, *, organization: str, samples: bool = False) -> Exported:
    """Writes one record for every teacher of a run.

    Args:
        run: The results.
        out: Path or URL of the folder; files of the same run are replaced.
        organization: Who ran the evaluation.
        samples: Whether the students' answers go with it.

    Raises:
        UsageError: If there is nothing to export, or if it cannot be written.
    """
    place, bootstrap = Place.of(out), Bootstrap()
    built = leaderboard.build(run, bootstrap)
    tracks = tracks_of(run).entrants
    records, lines = [], 0
    for label in sorted({entrant.label for entrants in tracks.values() for entrant in entrants}):
        entered = {track: e for track, entrants in tracks.items() for e in entrants if e.label == label}
        own = _finished(run, label, entered)
        if own.empty:
            continue
        record = _record(built, own, entered, organization, bootstrap)
        path = _path(record, own)
        answers = list(_samples(run, own, record)) if samples else []
        files = {}
        if answers:
            text = "".join(json.dumps(answer, ensure_ascii=False, allow_nan=False) + "\n" for answer in answers)
            companion = path.removesuffix(".json") + "_samples.jsonl"
            files[companion] = text
            record["detailed_evaluation_results"] = {
                "format": "jsonl",
                "file_path": companion,
                "hash_algorithm": "sha256",
                "checksum": hashlib.sha256(text.encode()).hexdigest(),
                "total_rows": len(answers),
            }
        files[path] = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_files(place, files)
        records.append(path)
        lines += len(answers)
    if not records:
        raise UsageError("The run has no finished episode to export.")
    return Exported(place.name, tuple(records), lines)


def _finished(run: Run, label: str, entered: Mapping[str, Entrant]) -> pd.DataFrame:
    """The finished episodes of a teacher that the leaderboard compares."""
    digests = {digest for entrant in entered.values() for digest in entrant.episodes["digest"]}
    episodes = run.episodes[run.episodes["digest"].isin(digests) & (run.episodes["status"] == "ok")]
    return episodes.assign(teacher_label=label).sort_values(["environment", "domain", "student", "digest"])


def _record(
    built: Leaderboard,
    episodes: pd.DataFrame,
    entered: Mapping[str, Entrant],
    organization: str,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Makes a teacher's record, without its companion."""
    first = episodes.iloc[0]
    suite = str(first["suite"]) or "dgym"
    now = f"{time.time():.0f}"
    label, model = str(first["teacher_label"]), _model(first)
    rows = [(table.track, row) for table in built.tables for row in table.rows if row.teacher == label]
    results = [r for track, row in rows for r in _of_track(suite, track, row, episodes, bootstrap.resamples)]
    for track, entrant in entered.items():
        if track != OVERALL:
            results += _of_cells(suite, track, entrant, episodes, bootstrap)
    results += _of_students(suite, episodes)
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"dgym-{suite}/{label}/{model['id']}/{now}",
        "evaluation_timestamp": episodes["finished_at"].max().isoformat(),
        "retrieved_timestamp": now,
        "source_metadata": {
            "source_name": f"dgym, suite {suite}",
            "source_type": "evaluation_run",
            "source_organization_name": organization,
            "evaluator_relationship": "other",
        },
        "eval_library": {
            "name": "dgym",
            "version": __version__,
            "additional_details": {k: str(v) for k, v in json.loads(first["versions"]).items() if k != "dgym"},
        },
        "model_info": model,
        "evaluation_results": results,
    }


def _model(episode: pd.Series[Any]) -> dict[str, Any]:
    """Describes a teacher; its identity is that of its language model, where it has one."""
    _, chat = split_name(str(episode["teacher"]))
    provider, _, name = chat.partition(":")
    if chat:
        # A model of the hub stands under its own name there, whoever serves it here.
        identity = name if "/" in name and provider in ("hf", "vllm") else f"{provider}/{name or 'default'}"
    else:
        identity = f"dgym/{episode['teacher_label']}"
    served = {"hf": "self_deployed", "vllm": "self_deployed", "openai": "unknown"}
    details = {
        "deployment_type": served.get(provider, "self_deployed"),
        "model_availability": "open_weights" if provider in ("hf", "vllm") else "unknown",
        "teacher": str(episode["teacher"]),
        "teacher_params": json.dumps(json.loads(episode["spec"])["teacher_params"], sort_keys=True),
        "teacher_version": str(json.loads(episode["pins"]).get("teacher", "")),
        "privileged": str(bool(episode["privileged"])).lower(),
        "state_blind": str(bool(episode["state_blind"])).lower(),
        "ranked": str(bool(episode["ranked"])).lower(),
    }
    if chat:
        details["language_model"] = chat
    return {"name": str(episode["teacher_label"]), "id": _clean(identity), "additional_details": details}


def _of_track(suite: str, track: str, row: Row, episodes: pd.DataFrame, resamples: int) -> Iterator[dict[str, Any]]:
    """A teacher's line of one table of the leaderboard."""
    counted = episodes if track == OVERALL else episodes[(episodes["environment"] == track) | episodes["state_blind"]]
    details = {
        "seeds_in_the_smallest_cell": str(row.seeds),
        "failed_episodes": str(row.failures),
        "examples_per_episode": _number(row.examples),
        "usd_per_episode": _number(row.cost),
        "unranked": row.unranked,
    }
    if row.rank is not None:
        details |= {"rank_best": str(row.rank[0]), "rank_worst": str(row.rank[1])}
    measured: tuple[tuple[str, str, Estimate | None], ...] = (
        ("gain", _GAIN, row.gain),
        ("last_gain", "Gain in test score over the untrained student, at the last iteration", row.last),
        ("retention", "Mean change on the skills that the student had", _plain(row.retention)),
        ("new_gain", "Gain on combinations that no training data shows", _plain(row.new)),
    )
    for name, text, found in measured:
        if found is not None:
            place = {"track": track}
            yield _in_points(suite, name, f"{text}; mean over domains", place, found, counted, resamples, details)


def _of_cells(
    suite: str, track: str, entrant: Entrant, episodes: pd.DataFrame, bootstrap: Bootstrap
) -> Iterator[dict[str, Any]]:
    """A teacher's gain in each domain and student of a track."""
    for cell in entrant.chosen:
        counted = episodes[(episodes["domain"] == cell.domain) & (episodes["student"] == cell.student)]
        counted = counted[(counted["environment"] == track) | counted["state_blind"]]
        if not counted.empty:
            place = {"track": track, "domain": cell.domain, "student": cell.student}
            found = estimate([cell], bootstrap)
            yield _in_points(suite, "gain", _GAIN, place, found, counted, bootstrap.resamples, {})


def _in_points(
    suite: str,
    name: str,
    text: str,
    place: Mapping[str, str],
    found: Estimate,
    episodes: pd.DataFrame,
    resamples: int,
    details: Mapping[str, str],
) -> dict[str, Any]:
    """A result that is a difference of test scores."""
    return {
        "evaluation_result_id": "/".join([*place.values(), name]),
        "evaluation_name": f"dgym {suite}, {', '.join(place.values())}: {name}",
        "source_data": _source(suite, episodes),
        "metric_config": {
            "evaluation_description": f"{text}, in points (100 times a difference of scores).",
            "metric_id": f"dgym.{name}",
            "metric_name": name.replace("_", " "),
            "metric_kind": "score_difference",
            "metric_unit": "points",
            "lower_is_better": False,
            "score_type": "continuous",
            "min_score": -100,
            "max_score": 100,
            "additional_details": dict(place),
        },
        "score_details": {"score": found.value, "details": dict(details)}
        | _uncertainty(found, len(episodes), resamples),
        "generation_config": _generation(episodes),
    }


def _of_students(suite: str, episodes: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The test scores of the students that a teacher taught, for each environment, domain and student."""
    for (environment, domain, student), part in episodes.groupby(["environment", "domain", "student"]):
        scores = part["best_test"]
        uncertainty: dict[str, Any] = {"num_samples": len(scores)}
        if len(scores) > 1:
            error = float(scores.std(ddof=1)) / math.sqrt(len(scores))
            uncertainty["standard_error"] = {"value": error, "method": "over episodes, which differ by their seeds"}
        before = f"{part['base_test'].mean():.6f}"
        yield {
            "evaluation_result_id": _cell_id(part.iloc[0]),
            "evaluation_name": f"dgym {suite}, {environment}: {domain}, {student}",
            "source_data": _source(suite, part),
            "metric_config": {
                "evaluation_description": f"Test score of {student} in {domain} after it was taught, at the iteration "
                "chosen on selection; mean over episodes.",
                "metric_id": "dgym.test_score",
                "metric_name": "test score of the taught student",
                "metric_kind": "accuracy",
                "metric_unit": "proportion",
                "lower_is_better": False,
                "score_type": "continuous",
                "min_score": 0,
                "max_score": 1,
                "additional_details": {"environment": str(environment), "domain": str(domain), "student": str(student)},
            },
            "score_details": {
                "score": float(scores.mean()),
                "details": {"untrained_student": before},
                "uncertainty": uncertainty,
            },
            "generation_config": _generation(part),
        }


def _samples(run: Run, episodes: pd.DataFrame, record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The answers of a teacher's students on the test split, at the iteration that was chosen."""
    problems: dict[str, dict[str, Problem]] = {}
    for name in episodes["domain"].unique():
        problems[name] = {problem.id: problem for problem in make_domain(name).problems("test")}
    by_digest = {str(episode["digest"]): episode for _, episode in episodes.iterrows()}
    names = {result["evaluation_result_id"]: result["evaluation_name"] for result in record["evaluation_results"]}
    columns = ["digest", "iteration", "split", "problem", "skill", "slice", "score", "response"]
    where = pc.field("digest").isin(list(by_digest)) & (pc.field("split") == "test")
    for row in run.arrow("attempts", columns, where=where).to_pylist():
        episode = by_digest[row["digest"]]
        problem = problems[episode["domain"]].get(row["problem"])
        if row["iteration"] != episode["best_iteration"]:
            continue
        if problem is None:
            raise UsageError(f"The domain {episode['domain']!r} has no test problem {row['problem']!r} any more.")
        reference = [problem.reference] if problem.reference else []
        about = {"episode": row["digest"], "seed": str(episode["seed_variant"]), "skill": row["skill"]}
        if row["slice"]:
            about["slice"] = row["slice"]
        if problem.images:
            about["images"] = str(len(problem.images))
        yield {
            "schema_version": SCHEMA_VERSION,
            "evaluation_id": record["evaluation_id"],
            "model_id": record["model_info"]["id"],
            "evaluation_name": names[_cell_id(episode)],
            "evaluation_result_id": _cell_id(episode),
            "sample_id": row["problem"],
            "sample_hash": hashlib.sha256("".join([problem.prompt, *reference]).encode()).hexdigest(),
            "interaction_type": "single_turn",
            "input": {"raw": problem.prompt, "reference": reference},
            "output": {"raw": [row["response"]]},
            "answer_attribution": [
                {
                    "turn_idx": 0,
                    "source": "output.raw",
                    "extracted_value": row["response"].strip(),
                    "extraction_method": "the domain's grader",
                    "is_terminal": True,
                }
            ],
            "evaluation": {"score": row["score"], "is_correct": row["score"] >= 1},
            "metadata": about,
        }


def _path(record: Mapping[str, Any], episodes: pd.DataFrame) -> str:
    """Returns where a record lies: named by its episodes, so that the same run gives the same file."""
    developer, _, model = record["model_info"]["id"].partition("/")
    collection = _clean(f"dgym-{episodes['suite'].iloc[0] or 'run'}")
    named = digest([record["model_info"]["name"], sorted(episodes["digest"])])
    return f"data/{collection}/{developer}/{model.replace('/', '_')}/{uuid.UUID(hex=named, version=4)}.json"


def _cell_id(episode: pd.Series[Any]) -> str:
    return f"{episode['environment']}/{episode['domain']}/{episode['student']}/test_score"


def _source(suite: str, episodes: pd.DataFrame) -> dict[str, Any]:
    domains = ", ".join(sorted({str(domain) for domain in episodes["domain"]}))
    details = {"domains": domains, "split": "test", "suite": suite, "described_in": _ARXIV}
    return {"dataset_name": domains, "source_type": "other", "additional_details": details}


def _generation(episodes: pd.DataFrame) -> dict[str, Any]:
    """How the students answered, which is greedily; and the rules, as they stand in the spec."""
    spec = json.loads(episodes["spec"].iloc[0])
    args: dict[str, Any] = {"temperature": 0.0}
    tokens = {json.loads(text)["recipe"].get("max_new_tokens") for text in episodes["spec"]}
    if len(tokens) == 1 and isinstance(value := tokens.pop(), int) and value >= 1:
        args["max_tokens"] = value
    rules = {key: value for key, value in spec["rules"].items() if not key.endswith("_seed")}
    return {"generation_args": args, "additional_details": {"rules": json.dumps(rules, sort_keys=True)}}


def _plain(value: float) -> Estimate | None:
    return None if math.isnan(value) else Estimate(value)


def _uncertainty(found: Estimate, episodes: int, resamples: int) -> dict[str, Any]:
    if found.interval is None or found.error is None:
        return {}
    method = "bootstrap of seeds and problems, corrected for few seeds (dgym.results.statistics)"
    return {
        "uncertainty": {
            "standard_error": {"value": found.error, "method": "bootstrap"},
            "confidence_interval": {
                "lower": found.interval[0],
                "upper": found.interval[1],
                "confidence_level": LEVEL,
                "method": method,
            },
            "num_samples": episodes,
            "num_bootstrap_samples": resamples,
        }
    }


def _number(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:g}"


def _clean(name: str) -> str:
    """Leaves out what no path may have; slashes stay."""
    parts: Sequence[str] = [re.sub(r"[^\w.@+=,() -]", "-", part).strip(" .") for part in name.split("/")]
    return "/".join(part or "unnamed" for part in parts)
