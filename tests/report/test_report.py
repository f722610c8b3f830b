"""The report's content: its numbers are the leaderboard's, and whatever is missing is said."""

import base64
import contextlib
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from dgym import cli_report, leaderboard, results, show
from dgym.core import Call, Rules
from dgym.errors import StudentError, UsageError
from dgym.models.recipe import Recipe
from dgym.report import samples, write
from dgym.report.data import gather
from dgym.report.frames import MEAN, OTHERS, SKILLS, UNCLAIMED
from dgym.report.page import render, vega
from dgym.report.provenance import provenance
from dgym.results.compact import compact
from dgym.results.schema import PLANNED, TABLES
from dgym.results.statistics import Bootstrap
from tests.report.conftest import EMOJI, HOSTILE, LONG, RIGHT_TO_LEFT
from tests.report.pages import Page
from tests.results.episodes import episode, identity

BOOTSTRAP = Bootstrap(200)
PUBLISHED = Path(__file__).parents[2] / "leaderboard"


def page_of(run, **options):
    return Page(render(gather(results.open(run), bootstrap=BOOTSTRAP, **options)))


@pytest.fixture(scope="module")
def fake_report(fake_run):
    return gather(results.open(fake_run), bootstrap=BOOTSTRAP)


@pytest.fixture(scope="module")
def fake_page(fake_report):
    return Page(render(fake_report))


def store(folder, teacher, seed, *, chosen=30, error=None, change=lambda step: step, **fields):
    """Stores an episode whose student solves 10 of 40 problems, then a given number."""
    writer = results.EpisodeWriter(folder, identity(teacher, seed, **fields), "made")
    steps = episode(*(np.arange(40) < solved for solved in (10, chosen, chosen)))
    for step in steps if error is None else steps[:1]:
        writer.add(change(step))
    if error is None:
        writer.finish()
    else:
        writer.fail(error)


# --------------------------------------------------------------------------------------------------------------
# Numbers


def test_the_tables_are_the_leaderboards(fake_run, fake_page):
    board = leaderboard.build(results.open(fake_run), BOOTSTRAP)
    shown = [table[1:] for table in fake_page.tables if table[0] == list(leaderboard.COLUMNS)]
    expected = [[list(leaderboard.texts(row).values()) for row in table.rows] for table in board.tables]
    assert len(expected) == 4
    assert shown == [expected[-1], *expected[:-1]]  # the overall table goes first
    for note in {note for table in board.tables for note in table.notes}:
        assert note in fake_page.text


def test_what_was_exchanged_is_the_published_table():
    page = Page(render(gather(results.open(PUBLISHED / "ablation"))))
    published = (PUBLISHED / "ablation" / "ablation.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in published.splitlines() if line.startswith("| ")]
    assert page.table(["exchange"]) == rows


def test_the_charts_are_drawn_from_the_same_numbers(fake_run, fake_report):
    run = results.open(fake_run)
    board = leaderboard.build(run, BOOTSTRAP)
    frames = fake_report.frames
    ranking = frames["ranking"].set_index(["track", "teacher"])
    rows = {(table.track, row.teacher): row for table in board.tables for row in table.rows}
    assert set(rows) == set(ranking.index)
    for key, row in rows.items():
        assert (ranking.gain[key], ranking.low[key], ranking.high[key]) == (row.gain.value, *row.gain.interval)
    keys = ["track", "teacher", "iteration"]
    curves = frames["curves"][frames["curves"].domain == MEAN].set_index(keys).sort_index()
    known = results.curves(run, bootstrap=BOOTSTRAP)
    known = known[known.domain.isna() & (known.split == "test")].set_index(keys).sort_index()
    columns = ["gain", "low", "high", "examples"]
    pd.testing.assert_frame_equal(curves[columns], known[columns])
    keys = ["track", "teacher", "skill"]
    skills = frames["skills"].set_index(keys).sort_index().gain
    pd.testing.assert_series_equal(skills, results.skills(run).set_index(keys).sort_index().gain)
    retention = frames["retention"].groupby(["track", "teacher"])["mean"].agg(["min", "max"])
    for (track, teacher), (low, high) in retention.iterrows():
        assert low == high == rows[track, teacher].retention


def test_every_pair_stands_in_both_directions(fake_run, fake_report):
    pairs = fake_report.frames["pairs"].set_index(["track", "first", "second"])
    board = leaderboard.build(results.open(fake_run), BOOTSTRAP)
    assert len(pairs) == 2 * sum(len(table.pairs) for table in board.tables) > 0
    for table in board.tables:
        for first, second, pair in table.pairs:
            one, other = pairs.loc[(table.track, first, second)], pairs.loc[(table.track, second, first)]
            assert one.text == leaderboard.pair_texts(first, second, pair)[2]
            assert one.probability == pair.improvement == 1 - other.probability
            numbers = [[float(n) for n in re.findall(r"[-+]?\d+\.\d", text)] for text in (one.text, other.text)]
            value, low, high = numbers[0]
            assert numbers[1] == [-value, -high, -low]


def test_cells_average_to_the_headline():
    run = results.open(PUBLISHED / "quick")
    report = gather(run, bootstrap=BOOTSTRAP)
    means = report.frames["cells"].groupby("teacher")["gain"].mean()
    for row in leaderboard.build(run, BOOTSTRAP).tables[0].rows:
        assert means[row.teacher] == pytest.approx(row.gain.value)
    assert report.places == ("code", "math", "tools", "vqa")


def test_shares_of_an_iteration_add_up_and_subskills_count_with_their_skill(fake_report):
    allocation = fake_report.frames["allocation"]
    sums = allocation.groupby(["track", "teacher", "iteration"]).share.sum()
    assert np.allclose(sums, 1)
    assert set(allocation.skill) == {"add", "subtract", "larger", "smaller"}


def test_skills_beyond_the_most_are_put_together(tmp_path):
    def many(step):
        skills = [f"skill {i:03d}" for i in range(SKILLS + 5)] + [None] * 2 if step.iteration else []
        verdicts = [replace(step.verdicts[0], example=replace(step.verdicts[0].example, skill=s)) for s in skills]
        return replace(step, verdicts=tuple(verdicts))

    store(tmp_path, "uniform", 1, change=many)
    allocation = gather(results.open(tmp_path), bootstrap=BOOTSTRAP).frames["allocation"]
    first = allocation[allocation.iteration == 1].set_index("skill").submitted
    assert len(first) == SKILLS + 1
    assert (first.sum(), first[OTHERS], first[UNCLAIMED]) == (SKILLS + 7, 6, 2)


def test_cost_is_money_where_a_teacher_costs_some(tmp_path):
    prices = {"cheap": 0.01, "dear": 0.5, "waste": 0.6, "unknown": None}
    gains = {"cheap": 20, "dear": 30, "waste": 25, "unknown": 30}
    for teacher, price in prices.items():
        calls = (Call("write", "model", cost=price),)
        store(
            tmp_path, teacher, 1, chosen=gains[teacher],
            change=lambda step, calls=calls: replace(step, calls=calls) if step.iteration else step,
        )  # fmt: skip
    run = results.open(tmp_path)
    report = gather(run, bootstrap=BOOTSTRAP)
    assert "USD" in report.cost.name
    assert "unknown are left out" in report.cost.note
    rows = report.frames["cost"].set_index("teacher")
    assert dict(rows.cost) == {"cheap": 0.02, "dear": 1.0, "waste": 1.2}
    assert dict(rows.front) == {"cheap": True, "dear": True, "waste": False}
    efficient = results.costs(run, bootstrap=BOOTSTRAP).set_index("teacher").efficient
    assert dict(efficient) == dict(rows.front) | {"unknown": False}


def test_trees_are_those_that_the_teacher_saw(fake_run, fake_report):
    """The state after an iteration shows the same subskills, allocations, data and accuracies."""
    assert len(fake_report.trees) == 2
    for tree in fake_report.trees:
        rows = fake_report.frames["trees"]
        rows = rows[(rows.tree == tree.id) & (rows.level == 1)]
        story = show.tell(fake_run, tree.id)
        state = story.iterations[2].state  # what was seen before the second is what stood after the first
        seen = {leaf.name: (leaf.allocation, leaf.data, leaf.accuracy) for t in state.trees for leaf in t.subskills}
        drawn = rows[(rows.iteration == 1) & rows.grown]
        names = drawn.skill + "/" + drawn.label
        values = zip(drawn.allocation, drawn["data"], drawn.accuracy.astype(object), strict=True)
        found = {n: (a, d, None if pd.isna(p) else p) for n, (a, d, p) in zip(names, values, strict=True)}
        assert found == seen
        assert len(found) > 0


def test_part_files_and_a_published_folder_give_the_same_page(fake_run, fake_page, tmp_path):
    compact(results.open(fake_run), tmp_path / fake_run.name)
    pages = [fake_page, page_of(tmp_path / fake_run.name)]
    assert pages[0].tables == pages[1].tables
    assert pages[0].data["rows"].keys() == pages[1].data["rows"].keys()
    for name, rows in pages[0].data["rows"].items():
        assert rows == pages[1].data["rows"][name], name


# --------------------------------------------------------------------------------------------------------------
# What is missing


def test_a_run_that_is_going_on_says_that_it_is_partial(fake_run, fake_page, tmp_path):
    assert "warning" not in {a.get("class") for _, a in fake_page.elements}
    run = tmp_path / "run"
    shutil.copytree(fake_run, run)
    parts = sorted((run / "episodes").rglob("*.parquet"))
    (run / PLANNED).write_text(json.dumps({"episodes": [part.stem for part in parts]}))
    for part in parts[:4]:
        part.unlink()
    page = page_of(run)
    (partial,) = results.open(run).partial
    assert partial.startswith("Partial: 4 of 21 planned episodes")
    assert page.text.count(partial) >= 1
    assert len(page.table(["teacher", "environment", "domain", "student"])) == 1 + len(parts) - 4


def test_files_that_cannot_be_read_are_named(fake_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(fake_run, run)
    part = min((run / "attempts").rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:200])
    with pytest.warns(UserWarning, match=part.name):
        page = page_of(run)
    assert "1 episode left out: the test attempts cannot be read." in page.text
    assert "1 file of the table attempts cannot be read" in page.text


@pytest.mark.parametrize("table", sorted(set(TABLES) - {"episodes"}))
def test_a_missing_table_leaves_the_rest(fake_run, tmp_path, table):
    run = tmp_path / "run"
    compact(results.open(fake_run), run)
    (run / f"{table}.parquet").unlink()
    # Nothing on the page is of the table calls.
    with contextlib.nullcontext() if table == "calls" else pytest.warns(UserWarning, match=table):
        page = page_of(run)
    assert (f"the table {table} is missing" in page.text) == (table != "calls")
    assert len(page.table(["teacher", "environment", "domain", "student"])) == 1 + 21


def test_one_environment_one_teacher_one_seed(tmp_path):
    store(tmp_path, "uniform", 1)
    report = gather(results.open(tmp_path), bootstrap=BOOTSTRAP)
    assert [board.track for board in report.boards] == ["open-ended"]
    assert report.frames["pairs"].empty
    assert "is not ranked: 1 seed" in report.boards[0].summary
    assert not report.trees
    assert len(render(report)) > len(vega())


def test_when_every_episode_failed_the_page_says_whose_fault_it_was(tmp_path):
    for seed in (1, 2):
        store(tmp_path, "uniform", seed, error=StudentError("out of <b>memory</b>"))
    page = page_of(tmp_path)
    assert "No episode has finished: all of them failed." in page.text
    assert "2 episodes failed, by who was responsible: 2 student." in page.text
    assert page.table(["teacher", "environment", "domain", "seed", "digest", "boundary"])[1][5:] == [
        "student", "–", "out of <b>memory</b>"
    ]  # fmt: skip


def test_failed_episodes_stand_beside_finished_ones(tmp_path):
    for seed in (1, 2, 3):
        store(tmp_path, "uniform", seed, error=StudentError("no") if seed == 2 else None)
    page = page_of(tmp_path)
    assert "1 episode failed" in page.text
    board = page.table(leaderboard.COLUMNS)
    assert board[1][-2:] == ["3", "1"]


def test_teachers_that_share_no_environment_have_no_overall_table(tmp_path):
    store(tmp_path, "one", 1, environment="open-ended")
    store(tmp_path, "other", 1, environment="skill-list")
    report = gather(results.open(tmp_path), bootstrap=BOOTSTRAP)
    assert [board.track for board in report.boards] == ["open-ended", "skill-list"]


def test_a_run_in_which_nothing_has_ended_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="No episode has ended"):
        gather(results.open(tmp_path))


def test_a_run_of_variations_alone_has_contrasts_but_no_leaderboard(tmp_path):
    store(tmp_path, "uniform", 1, variation="something else")
    report = gather(results.open(tmp_path), bootstrap=BOOTSTRAP)
    assert report.boards == ()
    page = Page(render(report))
    assert "Which teacher is better" not in page.text
    assert "Reproduce it" in page.text


# --------------------------------------------------------------------------------------------------------------
# Text of others


def test_text_of_others_stays_text(hostile_run):
    html = render(gather(results.open(hostile_run), command=HOSTILE, bootstrap=BOOTSTRAP))
    page = Page(html)
    kinds = [kind for kind, _ in page.scripts]
    assert kinds == ["application/json", "", ""]
    assert not [a for tag, a in page.elements if tag == "img" and not (a["src"] or "").startswith("data:")]
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    for text in (HOSTILE, RIGHT_TO_LEFT, EMOJI):
        assert text in page.text
    assert LONG not in page.text
    assert LONG[: samples.CHARACTERS] in page.text
    assert not set("<>&") & set(page.scripts[0][1])
    assert HOSTILE in json.dumps(page.data, ensure_ascii=False).replace('\\"', '"')


def test_only_the_scripts_of_the_page_may_run_and_nothing_is_loaded(fake_page):
    page = fake_page
    (policy,) = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for kind, text in page.scripts if not kind
    ]
    assert policy.startswith("default-src 'none'; script-src " + " ".join(f"'sha256-{h}'" for h in hashes))
    assert "unsafe-eval" not in policy
    loads = [a.get("src") or a.get("href") or "" for _, a in page.elements]
    assert {load[:1] for load in loads if load} <= {"#"}


def test_samples_are_few_and_short_whatever_the_size(tmp_path):
    def long(step):
        verdicts = [
            replace(
                verdict,
                example=replace(
                    verdict.example, prompt=LONG, response=f"{i} {LONG}", images=(b"\x89PNG\r\n\x1a\n" + bytes(100),)
                ),
                reason=verdict.reason and f"reason {i % 40}",
            )
            for i, verdict in enumerate(step.verdicts * 10)
        ]
        return replace(step, verdicts=tuple(verdicts))

    for teacher in range(samples.EPISODES + 4):
        store(tmp_path, f"teacher-{teacher}", 1, change=long)
    run = results.open(tmp_path)
    episodes, steps = run.episodes, run.steps
    counts = pd.DataFrame(
        [(d, r, c) for d, text in zip(steps.digest, steps.rejected, strict=True) for r, c in json.loads(text).items()],
        columns=["digest", "reason", "count"],
    )
    chosen = samples.chosen_episodes(episodes, counts)
    assert len(chosen) == samples.EPISODES
    labels = dict(zip(episodes.digest, episodes.teacher_label, strict=True))
    kept, rejected = samples.drawn(run.examples, {digest: labels[digest] for digest in chosen})
    assert len(kept) == samples.KEPT * samples.EPISODES
    assert len(rejected) == samples.PER_REASON * samples.REASONS
    every = [*kept, *rejected]
    assert max(len(s.prompt) for s in every) < samples.CHARACTERS + 40
    assert sum(len(s.images) for s in every) == samples.IMAGES
    assert len({s.teacher for s in kept}) == samples.EPISODES
    assert "more characters" in every[0].prompt


def test_every_reason_has_its_samples(tmp_path):
    store(tmp_path, "uniform", 1)
    store(tmp_path, "weakness", 1)
    report = gather(results.open(tmp_path), bootstrap=BOOTSTRAP)
    assert {s.reason for s in report.rejected} == {"duplicate"}
    assert {s.teacher for s in report.rejected} == {"uniform", "weakness"}
    table = report.rejections
    assert table.columns == ("teacher", "submitted", "kept", "kept %", "duplicate")
    assert table.rows[0] == ("uniform", "24", "20", "83.3", "4")


# --------------------------------------------------------------------------------------------------------------
# Reproducing


def test_commands_give_the_same_episodes(tmp_path):
    def rows(**changes):
        store(tmp_path / "run", "uniform", 1)
        frame = results.open(tmp_path / "run").episodes
        return pd.concat([frame.assign(**{k: v[i] for k, v in changes.items()}) for i in range(len(changes["suite"]))])

    assert provenance(rows(suite=["quick"])).commands == ("dgym bench --suite quick",)
    more = provenance(rows(suite=["quick"] * 2, seed_variant=[1, 9], teacher=["uniform", "a b.py:Mine"]))
    assert more.commands == ("dgym bench --suite quick --seeds 1,9 --teacher 'a b.py:Mine'",)
    own = provenance(rows(suite=["mine"]))
    assert own.commands == ("dgym bench --suite mine.toml  # the file that the suite was read from",)
    single = provenance(rows(suite=[""])).commands
    spec = identity("uniform", 1).spec
    assert single == (
        f"dgym run --teacher uniform --environment open-ended --domain {spec.domain} --student {spec.student} --seed 1 "
        f"--iterations {Rules().iterations} --examples {Rules().budget.examples_per_iteration}",
    )


def test_a_command_says_how_the_student_was_trained(tmp_path):
    store(tmp_path / "run", "uniform", 1)
    frame = results.open(tmp_path / "run").episodes.assign(suite="")

    def command(**changes):
        spec = json.loads(frame["spec"][0])
        for place, value in changes.items():
            *outer, field = place.split("__")
            inside = spec
            for name in outer:
                inside = inside[name]
            inside[field] = value
        return provenance(frame.assign(spec=json.dumps(spec))).commands[0].partition("--examples 100")[2]

    assert command() == ""
    assert command(recipe=Recipe.preset("paper").model_dump(mode="json")) == " --recipe paper"
    assert command(recipe__epochs=2, recipe__learning_rate=2e-4) == " --set epochs=2 --set learning_rate=0.0002"
    assert (
        command(rules__training="continue", skills="clusters:4") == "  # and in a --spec file: skills, rules.training"
    )
    assert command(rules__budget__known_checks_total=7).endswith(": rules.budget.known_checks_total")
    assert command(student="gone:a") == ""


def test_all_versions_protocols_and_digests_are_there(fake_run, fake_page):
    episodes, page = results.open(fake_run).episodes, fake_page
    for library, version in json.loads(episodes.versions[0]).items():
        assert f"{library} {version}" in page.text
    assert {row[-1] for row in page.table(["teacher", "environment", "domain", "student"])[1:]} == set(episodes.digest)
    assert set(episodes.protocol) == set(re.findall(r"Protocol ([0-9a-f]{32})", page.text))


# --------------------------------------------------------------------------------------------------------------
# Files


def test_the_command_writes_one_small_file(fake_run, tmp_path):
    app = typer.Typer()
    app.callback()(lambda: None)
    cli_report.register(app)
    run = tmp_path / "run"
    shutil.copytree(fake_run, run)
    done = CliRunner().invoke(app, ["report", str(run)], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.output.replace("\n", "") == f"{run / 'report.html'} (1.0 MB)"
    text = (run / "report.html").read_text(encoding="utf-8")
    assert f"dgym report {run}" in text
    CliRunner().invoke(app, ["report", str(run), "--out", str(tmp_path / "a" / "b.html")], catch_exceptions=False)
    assert (tmp_path / "a" / "b.html").is_file()
    with pytest.raises(UsageError, match="There is no run"):
        CliRunner().invoke(app, ["report", str(tmp_path / "none")], catch_exceptions=False)
    with pytest.raises(UsageError, match="cannot be written"):
        write(results.open(run), run / "report.html" / "below.html", bootstrap=BOOTSTRAP)


def test_the_script_is_kept_in_the_cache_if_that_can_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("vl_convert.javascript_bundle", lambda snippet: f"made for {snippet}")
    assert vega.__wrapped__() == "made for window.vegaEmbed = vegaEmbed;"
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))
    assert vega.__wrapped__().startswith("made for")
    monkeypatch.setattr("vl_convert.javascript_bundle", None)
    assert vega.__wrapped__().startswith("made for")


@pytest.mark.parametrize("name", sorted(p.parent.name for p in PUBLISHED.glob("*/episodes.parquet")))
def test_reports_of_published_runs_are_whole_and_small(name):
    html = render(gather(results.open(PUBLISHED / name), bootstrap=BOOTSTRAP))
    assert len(html.encode()) < 6_000_000
    page = Page(html)
    assert "warning" not in {a.get("class") for _, a in page.elements}
    assert f"dgym bench --suite {name}" in page.text
