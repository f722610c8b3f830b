"""Records against the schema of Every Eval Ever (its own files, in `schemas/`), and against the leaderboard."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest

from dgym import leaderboard, results
from dgym.core import Budget, Rules
from dgym.errors import UsageError
from dgym.exports.every_eval_ever import SCHEMA_VERSION, export
from dgym.specs import EpisodeSpec, Seeds

HERE = Path(__file__).parent
QUICK = HERE.parents[1] / "leaderboard" / "quick"
NAMES = ("eval.schema.json", "instance_level_eval.schema.json")


def schema(name: str) -> jsonschema.Draft7Validator:
    found = json.loads((HERE / "schemas" / name).read_text())
    jsonschema.Draft7Validator.check_schema(found)
    assert found["version"] == SCHEMA_VERSION
    return jsonschema.Draft7Validator(found)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("quick")
    return export(results.open(QUICK), out, organization="A lab")


def records(exported) -> dict[str, dict]:
    found = [json.loads(Path(exported.folder, path).read_text()) for path in exported.records]
    return {record["model_info"]["name"]: record for record in found}


def scores(exported, teacher: str) -> dict[str, dict]:
    return {r["evaluation_result_id"]: r["score_details"] for r in records(exported)[teacher]["evaluation_results"]}


def test_every_teacher_has_a_record_that_fits_the_schema(quick) -> None:
    validator = schema(NAMES[0])
    found = records(quick)
    assert set(found) == {"uniform", "weakness", "no-data", "wrong-answers"}
    for record in found.values():
        validator.validate(record)
        assert record["source_metadata"]["source_organization_name"] == "A lab"
        ids = [result["evaluation_result_id"] for result in record["evaluation_results"]]
        assert len(set(ids)) == len(ids)


def test_the_schema_is_not_met_by_just_anything(quick) -> None:
    record = records(quick)["weakness"]
    del record["evaluation_results"][0]["metric_config"]["max_score"]
    with pytest.raises(jsonschema.ValidationError, match="max_score"):
        schema(NAMES[0]).validate(record)


def test_gains_and_intervals_are_the_leaderboards(quick) -> None:
    (table,) = leaderboard.build(results.open(QUICK)).tables
    for row in table.rows:
        by_id = scores(quick, row.teacher)
        gain = by_id["skill-list/gain"]
        interval = gain["uncertainty"]["confidence_interval"]
        assert gain["score"] == row.gain.value
        assert (interval["lower"], interval["upper"]) == row.gain.interval
        assert by_id["skill-list/last_gain"]["score"] == row.last.value
        assert by_id["skill-list/retention"]["score"] == pytest.approx(row.retention)
    found = results.compare(results.open(QUICK), "weakness", "uniform").set_index("domain").loc["math"]
    by_id = scores(quick, "weakness")
    assert by_id["skill-list/math/micro-math/gain"]["score"] == pytest.approx(found.first_gain)
    assert by_id["skill-list/math/micro-math/gain"]["uncertainty"]["num_samples"] == 3


def test_records_lie_where_the_datastore_has_them_and_stay_there(quick, tmp_path) -> None:
    for path in quick.records:
        data, collection, developer, _, file = path.split("/")
        assert (data, collection, developer) == ("data", "dgym-quick", "dgym")
        assert file[14] == "4", "a version 4 UUID"
    assert export(results.open(QUICK), tmp_path, organization="B").records == quick.records


def test_a_run_without_a_finished_episode_is_one_line(tmp_path) -> None:
    with pytest.raises(UsageError, match="no finished episode"):
        export(results.open(tmp_path), tmp_path / "out", organization="A lab")


def test_answers_are_lines_that_fit_the_schema_and_give_the_score(tmp_path) -> None:
    from dgym.bench import bench

    rules = Rules(iterations=2, budget=Budget(20))
    where = {"domain": "fake", "student": "fake", "environment": "skill-list", "rules": rules}
    specs = [EpisodeSpec(teacher="weakness", seeds=Seeds.all(seed), **where) for seed in (1, 2)]
    bench(specs, tmp_path / "run", suite="mine")
    done = export(results.open(tmp_path / "run"), tmp_path / "out", organization="A lab", samples=True)
    (record,) = records(done).values()
    schema(NAMES[0]).validate(record)
    companion = record["detailed_evaluation_results"]
    text = Path(done.folder, companion["file_path"]).read_text()
    assert companion["file_path"] == done.records[0].removesuffix(".json") + "_samples.jsonl"
    assert companion["checksum"] == hashlib.sha256(text.encode()).hexdigest()
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) == companion["total_rows"] == done.samples == 2 * 160
    validator = schema(NAMES[1])
    for line in lines:
        validator.validate(line)
        assert line["evaluation_id"] == record["evaluation_id"]
        assert line["input"]["raw"].split()[0] == line["metadata"]["skill"]
        assert line["evaluation"]["is_correct"] == (line["output"]["raw"] == line["input"]["reference"])
    (result,) = [r for r in record["evaluation_results"] if r["evaluation_result_id"].endswith("test_score")]
    assert {line["evaluation_result_id"] for line in lines} == {result["evaluation_result_id"]}
    mean = sum(line["evaluation"]["score"] for line in lines) / len(lines)
    assert result["score_details"]["score"] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("teacher", "identity"),
    [
        ("weakness", "dgym/weakness"),
        ("path/to/mine.py:Sums", "dgym/mine.py-Sums"),
        ("agent@openai:gpt-4o-mini", "openai/gpt-4o-mini"),
        ("agent@hf:org/model", "org/model"),
        ("agent@openai:org/model", "openai/org/model"),
    ],
)
def test_a_teacher_is_named_by_its_language_model_where_it_has_one(teacher, identity, tmp_path) -> None:
    from dgym.results.writer import EpisodeWriter
    from tests.results.episodes import episode
    from tests.results.episodes import identity as identified

    run = tmp_path / "run"
    writer = EpisodeWriter(run, identified(teacher, domain="fake", student="fake"), "mine")
    for step in episode([0, 1], [1, 1], [1, 0]):
        writer.add(step)
    writer.finish()
    done = export(results.open(run), tmp_path / "out", organization="A lab")
    (record,) = records(done).values()
    schema(NAMES[0]).validate(record)
    assert record["model_info"]["id"] == identity
    assert done.records[0].split("/")[2] == identity.split("/")[0]


@pytest.mark.skipif(find_spec("every_eval_ever") is None, reason="every-eval-ever is not installed (Python 3.12)")
@pytest.mark.parametrize("name", NAMES)
def test_the_schemas_here_are_those_of_the_package(name: str) -> None:
    theirs = resources.files("every_eval_ever").joinpath("schemas", name).read_text()
    assert json.loads((HERE / "schemas" / name).read_text()) == json.loads(theirs)
