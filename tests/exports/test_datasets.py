"""Data sets as `datasets.load_dataset` reads them, and what their cards say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from dgym import results
from dgym.cli_export import register
from dgym.errors import UsageError
from dgym.exports.datasets import Choice, export

QUICK = Path(__file__).parents[2] / "leaderboard" / "quick"


@pytest.fixture(scope="module")
def run():
    return results.open(QUICK)


@pytest.fixture
def load(tmp_path, hub_offline):
    """Loads an exported folder as anybody would, with a cache of its own."""
    import datasets

    return lambda folder: datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))


def header(folder: Path) -> dict:
    _, text, _ = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(text)


def test_what_the_students_were_trained_on_is_what_is_loaded(run, tmp_path, load) -> None:
    done = export(run, tmp_path / "out", Choice(teachers=("weakness",), domains=("math",)))
    data = load(tmp_path / "out")
    rows = run.examples
    rows = rows[(rows.teacher == "weakness") & (rows.domain == "math") & rows.kept]
    assert len(data) == done.rows == len(rows) > 0
    assert sorted(zip(data["prompt"], data["completion"], strict=True)) == sorted(
        zip(rows.prompt, rows.response, strict=True)
    )
    assert set(data["episode"]) == set(rows.digest)
    assert set(data["student"]) == {"micro-math:a", "micro-math:b", "micro-math:c"}
    assert "images" not in data.column_names
    assert data.features["seed"].dtype == "int64"


def test_images_are_loaded_as_images(run, tmp_path, load) -> None:
    (digest,) = run.episodes.query("teacher == 'uniform' and domain == 'vqa' and seed_variant == 1").digest
    export(run, tmp_path / "out", Choice(episodes=(digest[:10],)))
    row = load(tmp_path / "out")[0]
    (image,) = row["images"]
    stored = run.examples[run.examples.digest == digest].iloc[0]
    assert image.size[0] > 8
    assert (row["prompt"], row["completion"]) == (stored.prompt, stored.response)
    assert header(tmp_path / "out")["task_categories"] == ["visual-question-answering"]


def test_the_card_has_a_header_counts_reasons_and_a_licence(run, tmp_path) -> None:
    out = tmp_path / "out"
    export(run, out, Choice(teachers=("uniform", "wrong-answers"), domains=("code",)))
    rows = run.examples
    rows = rows[rows.teacher.isin(["uniform", "wrong-answers"]) & (rows.domain == "code")]
    text = (out / "README.md").read_text()
    found = header(out)
    assert (found["license"], found["license_name"]) == ("other", "see-the-card")
    assert found["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}
    ]
    assert f"Of {len(rows):,} examples submitted, the gate kept {rows.kept.sum():,}" in text
    for reason, count in rows.reason.value_counts().items():
        assert f"| {reason} | {count} |" in text
    wrong = int((rows.kept & (rows.correct == False)).sum())  # noqa: E712 (it may be null)
    assert wrong > 500
    assert f"**{wrong:,} of them are known to be wrong**" in text
    assert "| completion | the answer to learn |" in text
    assert "dgym's own generators" in text


def test_a_licence_that_was_given_stands_in_the_header(run, tmp_path) -> None:
    out = tmp_path / "out"
    export(run, out, Choice(teachers=("uniform",), domains=("math",)), licence="cc-by-4.0")
    assert header(out)["license"] == "cc-by-4.0"
    assert "license_name" not in header(out)
    text = (out / "README.md").read_text()
    assert "it was given as `cc-by-4.0`" in text
    assert "of them are known to be wrong" not in text
    assert "reasoning-gym's generators" in text


def test_large_data_are_cut_into_files_that_load_as_one(run, tmp_path, load, monkeypatch) -> None:
    monkeypatch.setattr("dgym.exports.datasets.SHARD_BYTES", 50_000)
    done = export(run, tmp_path / "out", Choice(teachers=("uniform",), domains=("math",)))
    assert len(done.files) > 3
    assert len(load(tmp_path / "out")) == done.rows


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(teachers=("weaknes",)), "no teacher of the run named 'weaknes'. Did you mean 'weakness'"),
        (Choice(domains=("mat",)), "Did you mean 'math'"),
        (Choice(environments=("skill-tree",)), "Did you mean 'skill-list'"),
        (Choice(episodes=("zz",)), "begins with 'zz'"),
        (Choice(teachers=("no-data",)), "kept no example"),
    ],
)
def test_a_choice_that_fits_nothing_is_one_line(run, tmp_path, choice, message) -> None:
    with pytest.raises(UsageError, match=message):
        export(run, tmp_path / "out", choice)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(run, tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        export(run, tmp_path, Choice(teachers=("uniform",), domains=("math",)))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_the_command_writes_it(tmp_path) -> None:
    app = typer.Typer()
    register(app)
    out = tmp_path / "out"
    options = ["dataset", str(QUICK), "--out", str(out), "-t", "uniform", "-d", "tools", "--json"]
    result = CliRunner().invoke(app, ["export", *options])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["episodes"] == 3
    assert (out / "README.md").is_file()
