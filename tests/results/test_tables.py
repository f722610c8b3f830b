"""Writer, schema and reader, on real Parquet files."""

import json
import shutil
import warnings
from dataclasses import replace

import duckdb
import fsspec
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgym import leaderboard, results
from dgym.core import Example, Verdict
from dgym.errors import InfrastructureError, TeacherError, UsageError
from dgym.results import writer as writing
from dgym.results.reader import read_part
from dgym.results.schema import PARTITIONS, TABLES, part_path, partitions_of
from tests.results.episodes import episode, identity, step

STEPS = episode([1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0])


def write(folder, who, steps=STEPS, error=None):
    writer = results.EpisodeWriter(folder, who, "quick")
    for one in steps:
        writer.add(one)
    if error is None:
        writer.finish()
    else:
        writer.fail(error, "generate")
    partitions = {"domain": who.spec.domain, "environment": who.spec.environment, "teacher": who.spec.teacher}
    return part_path("episodes", partitions, who.digest)


def test_an_episode_becomes_five_tables(tmp_path):
    who = identity("weakness", teacher_params={"replay": 0.5})
    part = write(tmp_path, who)
    assert part.as_posix() == f"episodes/domain=math/environment=open-ended/teacher=weakness/{who.digest}.parquet"
    run = results.open(tmp_path)
    row = run.episodes.iloc[0]
    assert (row["status"], row["teacher"], row["teacher_label"]) == ("ok", "weakness", "weakness(replay=0.5)")
    assert (row["iterations_run"], row["best_iteration"]) == (2, 1)
    assert (row["base_test"], row["best_test"], row["last_test"]) == (0.5, 0.75, 0.0)
    # Only the first skill was there: from 1.0 to 0.5 at the chosen iteration, to 0 at the last.
    assert (row["retention_skills"], row["retention"], row["retention_last"]) == (1, -0.5, -1.0)
    assert (row["examples_submitted"], row["examples_kept"], row["response_tokens"]) == (24, 20, 48)
    assert (row["seconds_student"], row["seconds_total"]) == (6.0, 6.75)
    assert json.loads(row["spec"])["teacher_params"] == {"replay": 0.5}
    assert "python" in json.loads(row["versions"])
    assert run.steps["iteration"].tolist() == [0, 1, 2]
    assert json.loads(run.steps["rejected"][1]) == {"duplicate": 2}
    assert run.steps["train_loss"].isna().tolist() == [True, False, False]
    assert len(run.attempts) == 3 * (2 + 2 + 4)
    assert run.examples["reason"].value_counts().to_dict() == {"duplicate": 4}
    assert run.calls[["asked", "returned"]].to_numpy().tolist() == [[6, 7], [6, 5]] * 2
    for name in TABLES:
        assert (getattr(run, name)["digest"] == who.digest).all()


def test_scores_come_with_and_without_the_problems_that_examples_repeated(tmp_path):
    steps = list(STEPS)
    copies = (
        Verdict(Example("What is 0?", "0"), False, "overlap-test", True, 1, overlaps=("p0",)),
        Verdict(Example("What are 1 and 0?", "1, 0"), True, overlaps=("p1", "p0", "elsewhere")),
    )
    steps[2] = replace(steps[2], verdicts=copies)
    write(tmp_path / "some", identity(), steps)
    run = results.open(tmp_path / "some")
    row = run.episodes.iloc[0]
    assert (row["test_overlapped"], row["base_test"], row["best_test"]) == (2, 0.5, 0.75)
    assert (row["base_test_clean"], row["best_test_clean"]) == (0.0, 1.0)
    assert [list(ids) for ids in run.examples["overlaps"].dropna()] == [["p0"], ["p1", "p0", "elsewhere"]]
    write(tmp_path / "none", identity())
    row = results.open(tmp_path / "none").episodes.iloc[0]
    assert (row["test_overlapped"], row["base_test_clean"], row["best_test_clean"]) == (0, 0.5, 0.75)
    steps[2] = replace(steps[2], verdicts=(replace(copies[1], overlaps=("p0", "p1", "p2", "p3")),))
    write(tmp_path / "all", identity(), steps)
    row = results.open(tmp_path / "all").episodes.iloc[0]
    assert row["test_overlapped"] == 4
    assert pd.isna(row["base_test_clean"])
    assert pd.isna(row["best_test_clean"])


def test_files_carry_schema_version_and_documented_columns(tmp_path):
    write(tmp_path, identity())
    for name, table in TABLES.items():
        path = next((tmp_path / name).rglob("*.parquet"))
        schema = pq.read_schema(path)
        assert schema == table.schema
        # Arrow's own comparison of metadata stumbles over maps.
        assert [f.metadata for f in schema] == [f.metadata for f in table.schema]
        assert schema.metadata[b"dgym.schema"] == b"5"
        assert all(column.meaning for column in table.columns)
        assert not {column.name for column in PARTITIONS} & set(schema.names)


@given(st.text(min_size=1, max_size=30).filter(lambda t: t.isprintable()))
def test_partitions_keep_any_name(name):
    values = {"domain": "math", "environment": "open-ended", "teacher": name}
    part = part_path("steps", values, "0" * 32)
    assert len(part.parts) == 5
    assert partitions_of(part) == values


@pytest.mark.parametrize("teacher", ["weakness", "my dir/x=y 50%.py:Best"])
def test_pandas_and_pyarrow_read_the_folders_directly(tmp_path, teacher):
    write(tmp_path, identity(teacher))
    write(tmp_path, identity("other", environment="skill-list"))
    for name in TABLES:
        frame = pd.read_parquet(tmp_path / name)
        assert set(frame["teacher"]) <= {teacher, "other"}
        assert frame["teacher"].astype(str).nunique() == 2
        mine = ds.dataset(tmp_path / name, partitioning="hive").to_table(filter=ds.field("teacher") == teacher)
        assert set(mine.column("environment").to_pylist()) == {"open-ended"}
    assert set(results.open(tmp_path).episodes["teacher"]) == {teacher, "other"}


def test_ties_go_to_the_earlier_iteration(tmp_path):
    write(tmp_path, identity(), [step(0, [1, 0], [0, 0]), step(1, [0, 1], None), step(2, [0, 0], [1, 1])])
    row = results.open(tmp_path).episodes.iloc[0]
    assert (row["best_iteration"], row["best_test"], row["last_test"]) == (0, 0.0, 1.0)


def test_a_failed_episode_leaves_a_row_and_its_steps_and_success_replaces_it(tmp_path):
    who = identity()
    write(tmp_path, who, STEPS[:2], TeacherError("no\n good"))
    run = results.open(tmp_path)
    row = run.episodes.iloc[0]
    assert row[["status", "error_boundary", "error_stage", "error"]].tolist() == [
        "failed", "teacher", "generate", "no good"
    ]  # fmt: skip
    assert len(run.steps) == 2
    assert results.finished(tmp_path) == set()
    write(tmp_path, who)
    run = results.open(tmp_path)
    assert run.episodes["status"].tolist() == ["ok"]
    assert run.episodes["error"].isna().all()
    assert len(run.steps) == 3
    assert results.finished(tmp_path) == {who.digest}


def test_an_episode_that_failed_before_its_first_step_has_a_row(tmp_path):
    write(tmp_path, identity(), [], MemoryError())
    row = results.open(tmp_path).episodes.iloc[0]
    assert (row["error_boundary"], row["error"]) == ("infrastructure", "MemoryError")
    assert pd.isna(row["best_test"])


def test_success_in_another_folder_wins_over_failure_and_is_counted_once(tmp_path):
    failed, moved = identity("a/t.py:T"), identity("b/t.py:T")
    moved = moved.model_copy(update={"digest": failed.digest})
    write(tmp_path, moved)
    write(tmp_path, failed, STEPS[:1], TeacherError("no"))
    run = results.open(tmp_path)
    assert run.episodes["teacher"].tolist() == ["b/t.py:T"]
    assert len(run.steps) == 3


def test_equal_steps_give_equal_columns_but_times(tmp_path):
    who = identity()
    write(tmp_path / "straight", who)
    # As after a resume: some steps are added again.
    write(tmp_path / "resumed", who, [*STEPS[:2], *STEPS])
    one, two = results.open(tmp_path / "straight"), results.open(tmp_path / "resumed")
    for name in TABLES:
        columns = [c for c in getattr(one, name) if not c.startswith("seconds") and not c.endswith("_at")]
        pd.testing.assert_frame_equal(getattr(one, name)[columns], getattr(two, name)[columns])


def test_missing_steps_are_not_finished(tmp_path):
    with pytest.raises(InfrastructureError, match="without all of its steps"):
        write(tmp_path, identity(), [STEPS[0], STEPS[2]])
    assert results.finished(tmp_path) == set()


@pytest.mark.parametrize("name", TABLES)
def test_a_truncated_file_is_left_out_and_run_again(tmp_path, name):
    broken, whole = identity(seed=1), identity(seed=2)
    part = write(tmp_path, broken)
    write(tmp_path, whole)
    path = tmp_path / name / part.relative_to("episodes")
    path.write_bytes(path.read_bytes()[:-20])
    assert results.finished(tmp_path) == {whole.digest}
    with pytest.warns(UserWarning, match="is left out"):
        frame = getattr(results.open(tmp_path), name)
    assert set(frame["digest"]) == {whole.digest}


def test_a_flipped_bit_never_gives_a_wrong_number(tmp_path):
    part = write(tmp_path, identity()).relative_to("episodes")
    path = tmp_path / "steps" / part
    names = TABLES["steps"].schema.names
    data, whole, refused = path.read_bytes(), read_part(tmp_path / "steps", part, names), 0
    for place in range(0, len(data), 40):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            assert read_part(tmp_path / "steps", part, names).equals(whole)
        except ValueError:
            refused += 1
    assert refused > 10


def test_another_schema_version_is_left_out_by_name(tmp_path):
    path = tmp_path / write(tmp_path, identity())
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.replace_schema_metadata({b"dgym.schema": b"0"}), path)
    with pytest.warns(UserWarning, match="version 0, this dgym reads 2"):
        assert results.open(tmp_path).episodes.empty


def test_what_a_killed_process_leaves_is_not_read(tmp_path, monkeypatch):
    who = identity()

    def killed(self, target):
        if "episodes" in str(target):
            raise KeyboardInterrupt
        return original(self, target)

    original = writing.Path.replace
    with monkeypatch.context() as patch:
        patch.setattr(writing.Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, who)
    (tmp_path / "episodes/domain=math/environment=open-ended/teacher=uniform/.half.1.tmp").write_bytes(b"PAR1")
    run = results.open(tmp_path)
    assert results.finished(tmp_path) == set()
    assert all(getattr(run, name).empty for name in TABLES)
    assert list(pd.read_parquet(tmp_path / "steps")["iteration"]) == [0, 1, 2]


def test_a_run_without_tables_reads_as_empty_ones(tmp_path):
    run = results.open(tmp_path)
    for name, table in TABLES.items():
        frame = getattr(run, name)
        assert frame.empty
        assert list(frame.columns) == table.read_schema.names


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "steps").write_text("in the way")
    with pytest.raises(InfrastructureError, match=r"Results cannot be written to .*steps"):
        write(tmp_path, identity())


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(table, file, **options):
        file.write(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.pq, "write_table", full)
    with pytest.raises(InfrastructureError, match="No space left on device"):
        write(tmp_path, identity())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_unknown_run_and_table_are_named(tmp_path):
    with pytest.raises(UsageError, match="no run in"):
        results.open(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="Did you mean 'steps'"):
        results.open(tmp_path).arrow("step")


def test_text_that_is_no_utf8_is_stored(tmp_path):
    odd = Verdict(Example("\ud800", "x\x00y"), False, "malformed")
    write(tmp_path, identity(), [STEPS[0], STEPS[1].__class__(1, *(STEPS[1].feedback,) * 3, (), (odd,))])
    assert results.open(tmp_path).examples["prompt"].tolist() == ["?"]


def test_columns_and_rows_can_be_chosen(tmp_path):
    write(tmp_path, identity())
    table = results.open(tmp_path).arrow("attempts", ["score", "split", "teacher"], where=ds.field("split") == "test")
    assert table.column_names == ["score", "split", "teacher"]
    assert table.num_rows == 12


def test_what_an_older_version_did_not_have_yet_is_null_and_what_it_lost_is_an_error(tmp_path):
    part = write(tmp_path, identity()).relative_to("episodes")
    path = tmp_path / "episodes" / part
    table = pq.read_table(path, partitioning=None)
    new = [c.name for c in TABLES["episodes"].columns if c.since == 3]
    assert new
    old = table.drop_columns(new).replace_schema_metadata({**table.schema.metadata, b"dgym.schema": b"2"})
    pq.write_table(old, path)
    row = read_part(tmp_path / "episodes", part, ["digest", "status", *new]).to_pylist()[0]
    assert row["status"] == "ok"
    assert [row[name] for name in new] == [None] * len(new)
    newest = [c.name for c in TABLES["episodes"].columns if c.since == 4]
    third = table.drop_columns(newest).replace_schema_metadata({**table.schema.metadata, b"dgym.schema": b"3"})
    pq.write_table(third, path)
    row = read_part(tmp_path / "episodes", part, ["teacher_calls", *newest]).to_pylist()[0]
    assert row == {"teacher_calls": 0, **dict.fromkeys(newest)}
    pq.write_table(old.drop_columns(["suite"]), path)
    with pytest.raises(ValueError, match="is left out"):
        read_part(tmp_path / "episodes", part, ["suite"])
    pq.write_table(old.replace_schema_metadata({b"dgym.schema": b"3"}), path)
    with pytest.raises(ValueError, match="is left out"):
        read_part(tmp_path / "episodes", part, new)


# --------------------------------------------------------------------------------------------------------------
# Lazily: only what is asked for


def test_rows_are_chosen_by_columns_that_are_not_read_and_lists_do_as_well(tmp_path):
    write(tmp_path, identity())
    run = results.open(tmp_path)
    frame = run.frame("attempts", ["score"], where=[("split", "==", "test"), ("iteration", ">", 0)])
    assert list(frame.columns) == ["score"]
    assert len(frame) == 8
    either = run.arrow("attempts", ["iteration"], where=[[("split", "==", "feedback")], [("problem", "==", "p3")]])
    assert either.num_rows == 3 * 2 + 3
    assert run.arrow("attempts", [], where=[("split", "==", "test")]).num_columns == 0


@pytest.mark.parametrize("table", TABLES)
def test_encoded_text_is_the_same_text(tmp_path, table):
    write(tmp_path, identity())
    write(tmp_path, identity("other"))
    run = results.open(tmp_path)
    plain, encoded = run.arrow(table), run.arrow(table, encoded=True)
    assert encoded.schema.field("teacher").type.value_type == plain.schema.field("teacher").type
    assert encoded.cast(plain.schema).to_pylist() == plain.to_pylist()


@pytest.mark.parametrize(
    ("columns", "where", "said"),
    [
        (["scores"], None, "Did you mean 'score'"),
        (None, [("splits", "==", "test")], "Did you mean 'split'"),
        (None, ds.field("skil") == "first", "Did you mean 'skill'"),
        (None, ds.field("score") == "high", "cannot be chosen"),
        (None, "score > 1", "cannot be chosen"),
    ],
)
def test_a_wrong_column_or_filter_is_one_line_that_helps(tmp_path, columns, where, said):
    write(tmp_path, identity())
    with pytest.raises(UsageError, match=said) as raised:
        results.open(tmp_path).arrow("attempts", columns, where)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "where", [[("digest", "==", None)], [("teacher", "==", "whole")], [("environment", "in", ["skill-list"])]]
)
def test_parts_of_other_episodes_are_not_opened(tmp_path, where):
    whole = identity("whole", environment="skill-list")
    write(tmp_path, whole)
    broken = write(tmp_path, identity("broken")).relative_to("episodes")
    (tmp_path / "steps" / broken).write_bytes(b"PAR1")
    where = [(name, operator, value or whole.digest) for name, operator, value in where]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(results.open(tmp_path).frame("steps", where=where)) == 3
    with pytest.warns(UserWarning, match="is left out"):
        assert len(results.open(tmp_path).frame("steps", where=[("iteration", ">=", 0)])) == 3


# --------------------------------------------------------------------------------------------------------------
# Other places


def in_memory(folder, name):
    """Copies a folder into fsspec's file system in memory, and returns its URL."""
    memory = fsspec.filesystem("memory")
    for path in folder.rglob("*"):
        if path.is_file():
            memory.pipe(f"/{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return f"memory://{name}"


@pytest.mark.parametrize("teacher", ["weakness", "my dir/x=y 50%.py:Best"])
def test_a_run_at_a_url_reads_as_on_this_machine(tmp_path, teacher):
    write(tmp_path, identity(teacher))
    write(tmp_path, identity(teacher, 2), STEPS[:1], TeacherError("no"))
    (tmp_path / "episodes/.half.1.tmp").write_bytes(b"PAR1")
    here = results.open(tmp_path)
    for url in (f"file://{tmp_path}", in_memory(tmp_path, f"runs-{tmp_path.name}")):
        there = results.open(url)
        assert there.name == url
        for name in TABLES:
            assert there.arrow(name).equals(here.arrow(name))
        chosen = there.frame("attempts", ["score"], where=[("split", "==", "test"), ("teacher", "==", teacher)])
        assert len(chosen) == 3 * 4 + 4
        assert there.partial == ()


def test_a_truncated_part_at_a_url_is_left_out(tmp_path):
    write(tmp_path, identity())
    part = write(tmp_path, identity(seed=2)).relative_to("episodes")
    (tmp_path / "steps" / part).write_bytes((tmp_path / "steps" / part).read_bytes()[:-20])
    run = results.open(in_memory(tmp_path, f"broken-{tmp_path.name}"))
    with pytest.warns(UserWarning, match="is left out"):
        assert len(run.steps) == 3


def test_a_url_that_leads_nowhere_is_one_line():
    with pytest.raises(UsageError, match=r"no file system for nowhere://"):
        results.open("nowhere://bucket/run")
    with pytest.raises(UsageError, match=r"no run in 'memory://not/there'"):
        results.open("memory://not/there")


@pytest.mark.parametrize("teacher", ["weakness", "my dir/x=y 50%.py:Best"])
def test_duckdb_reads_the_part_files_as_they_are(tmp_path, teacher):
    write(tmp_path, identity(teacher))
    write(tmp_path, identity("other", environment="skill-list"))
    parts = f"{tmp_path}/attempts/*/*/*/*.parquet"
    rows = f"read_parquet('{parts}', hive_partitioning=true)"
    rows = f"read_parquet('{parts}', hive_partitioning=true)"
    query = f"select avg(score), count(*) from {rows} where teacher = ? and split = 'test'"
    mean, count = duckdb.execute(query, [teacher]).fetchone()
    ours = results.open(tmp_path).frame(
        "attempts", ["score"], where=[("teacher", "==", teacher), ("split", "==", "test")]
    )
    assert (mean, count) == (pytest.approx(ours.score.mean()), len(ours))
    names = duckdb.execute(f"select distinct environment from '{parts}' order by 1").fetchall()
    assert names == [("open-ended",), ("skill-list",)]


# --------------------------------------------------------------------------------------------------------------
# What is not there


def test_a_missing_table_is_said_once_and_leaves_the_others(tmp_path):
    for seed in (1, 2, 3):
        write(tmp_path, identity(seed=seed))
    shutil.rmtree(tmp_path / "attempts")
    run = results.open(tmp_path)
    assert run.partial == ()
    with pytest.warns(UserWarning, match="has no table attempts") as warned:
        assert run.attempts.empty
    assert len(warned) == 1
    assert run.partial == ("Partial: the table attempts is missing.",)
    assert len(run.steps) == 9
    assert leaderboard.build(run).notes[0] == "3 episodes left out: the test attempts cannot be read."


def test_what_cannot_be_read_is_said_once(tmp_path):
    for seed in (1, 2, 3):
        part = write(tmp_path, identity(seed=seed)).relative_to("episodes")
        if seed > 1:
            (tmp_path / "steps" / part).write_bytes(b"PAR1")
    run = results.open(tmp_path)
    with pytest.warns(UserWarning, match=r"left out: .* \(and 1 more\)") as warned:
        assert len(run.steps) == len(run.frame("steps", ["iteration"])) == 3
    assert len(warned) == 1
    assert run.partial == ("Partial: 2 files of the table steps cannot be read.",)


def test_files_of_a_newer_dgym_are_left_out_by_that_name(tmp_path):
    write(tmp_path, identity())
    path = tmp_path / write(tmp_path, identity(seed=2))
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.replace_schema_metadata({b"dgym.schema": b"6"}), path)
    run = results.open(tmp_path)
    with pytest.warns(UserWarning, match="version 6, this dgym reads 2, 3, 4, 5; a newer dgym wrote it"):
        assert len(run.episodes) == 1
    assert run.partial == ("Partial: 1 file of the table episodes cannot be read.",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert len(run.steps) == 3
    assert leaderboard.build(run).notes == run.partial


def test_a_run_that_is_going_on_says_so(tmp_path):
    first, second = identity(seed=1), identity(seed=2)
    write(tmp_path, first)
    writing.announce(tmp_path, [first.digest, second.digest])
    run = results.open(tmp_path)
    assert run.outstanding == 1
    (line,) = run.partial
    assert "1 of 2 planned episodes have no result yet" in line
    assert leaderboard.build(run).notes == (line,)
    write(tmp_path, second, STEPS[:1], TeacherError("no"))
    assert results.open(tmp_path).partial == ()


def test_a_note_of_what_was_planned_that_cannot_be_read_is_none(tmp_path):
    write(tmp_path, identity())
    (tmp_path / "planned.json").write_text("[")
    assert results.open(tmp_path).outstanding == 0
    (tmp_path / "planned.json").unlink()
    (tmp_path / "planned.json").mkdir()
    with pytest.raises(InfrastructureError, match="cannot be written"):
        writing.announce(tmp_path, ["1"])


def test_an_unknown_documented_table_is_named(tmp_path):
    run = results.open(tmp_path)
    assert list(run.columns("steps")["name"])[:4] == ["domain", "environment", "teacher", "digest"]
    with pytest.raises(UsageError, match="Did you mean 'steps'"):
        run.columns("step")
