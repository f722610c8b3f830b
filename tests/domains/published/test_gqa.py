"""The domain gqa: our fixture, upstream's layout, and which questions and images are stored."""

from __future__ import annotations

import json
import runpy
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import dgym.data
from dgym.checks import check_domain
from dgym.core import Example, Problem, Rules
from dgym.data import pull
from dgym.domains import make_domain
from dgym.domains.published import gqa
from dgym.domains.published.gqa import DATA, Gqa
from dgym.episode import used
from dgym.errors import DomainError, UsageError

FIXTURES = Path(dgym.data.__file__).parent / "fixtures"
SPLITS = ("feedback", "selection", "test")
LAYOUT = {
    "val": "val_balanced_instructions/val-00000-of-00001.parquet",
    "testdev": "testdev_balanced_instructions/testdev-00000-of-00001.parquet",
    "testdev-images": "testdev_balanced_images/testdev-00000-of-00001.parquet",
    "val-images": "val_balanced_images/val-0000{shard}-of-00003.parquet",
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGYM_CACHE", str(tmp_path_factory.mktemp("cache")))
        made = Gqa(fixture=True)
        for split in SPLITS:
            made.problems(split)
        yield made


def questions(part, types, per_type, images):
    """Rows of upstream's schema, more of each type than are stored, and columns that are not used."""
    return [
        {
            "id": f"{part}{name}{number}",
            "imageId": f"{part}-{(7 * number + len(name)) % images}",
            "question": f"What is it, {name} {number}?",
            "answer": f"{name} {number % 3}",
            "fullAnswer": "It is that.",
            "isBalanced": True,
            "groups": {"global": None, "local": "1"},
            "types": {"structural": "query", "semantic": "obj", "detailed": name},
            "semantic": [{"operation": "select", "argument": "it", "dependencies": [0]}],
        }
        for name in types
        for number in range(per_type)
    ]


def upstream(folder, **changes):
    """Writes small tables as the hub has them."""
    tables = {
        "val": questions("v", ("exist", "relS"), 30, 40),
        "testdev": questions("t", ("exist", "relS", "rare"), 3, 9),
        "testdev-images": [{"id": f"t-{i}", "image": {"bytes": b"PNG t%d" % i, "path": None}} for i in range(9)],
        "val-images": [{"id": f"v-{i}", "image": {"bytes": b"PNG v%d" % i, "path": None}} for i in range(45)],
    } | changes
    for part, rows in tables.items():
        shards = [rows] if "{shard}" not in LAYOUT[part] else [rows[0::3], rows[1::3], rows[2::3]]
        for shard, some in enumerate(shards):
            file = folder / LAYOUT[part].format(shard=shard)
            file.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(some), file)
    return folder


def test_it_is_a_domain():
    assert [finding for finding in check_domain(make_domain("gqa:fixture")) if not finding.ok] == []


def test_the_fixture_is_what_the_script_draws(tmp_path):
    runpy.run_path(str(FIXTURES / "draw.py"))["main"](tmp_path)
    for name in ("gqa", "naturalbench"):
        files = sorted(file.name for file in (FIXTURES / name).iterdir())
        assert files == sorted(file.name for file in (tmp_path / name).iterdir())
        for file in files:
            mine, drawn = FIXTURES / name / file, tmp_path / name / file
            if file.endswith(".jsonl"):
                assert mine.read_text() == drawn.read_text()
            else:  # another zlib may write other bytes
                assert Image.open(mine).tobytes() == Image.open(drawn).tobytes()


def test_a_problem_is_a_question_about_one_image(domain):
    rows = {row["question"]: row for row in map(json.loads, (FIXTURES / "gqa/testdev.jsonl").open())}
    for problem in domain.problems("test"):
        row = rows[domain.bare(problem.prompt)]
        assert problem.prompt == f"{domain.bare(problem.prompt)}\nAnswer the question using a single word or phrase."
        assert domain.frame(problem.prompt) == problem.prompt == domain.frame(domain.bare(problem.prompt))
        assert len(problem.images) == 1
        assert problem.images[0].startswith(b"\x89PNG")
        assert problem.skill == row["types"]["detailed"]
        assert problem.slice == row["types"]["structural"]


def test_the_answers_fit_the_images(domain):
    """Sky and ground as drawn: an image is that of its question."""
    for problem in (p for split in SPLITS for p in domain.problems(split) if p.skill == "weather"):
        import io

        sky = Image.open(io.BytesIO(problem.images[0])).getpixel((1, 1))
        assert problem.reference == ("sunny" if sum(sky) > 400 else "dark")


def test_validation_and_test_are_five_of_each_type(tmp_path):
    val = questions("v", ("exist", "relS"), 30, 40)
    pull(DATA, place=upstream(tmp_path / "hub", val=val), report=lambda _: None)
    domain = Gqa()
    counts = {split: Counter(p.skill for p in domain.problems(split)) for split in SPLITS}
    assert counts["feedback"] + counts["selection"] == {"exist": 5, "relS": 5}
    assert counts["test"] == {"exist": 3, "relS": 3, "rare": 3}
    assert domain.problems("train") == ()
    paper = used(domain, "feedback", Rules(validation="paper"))
    assert Counter(p.skill for p in paper) == {"exist": 5, "relS": 5}


def test_what_is_stored_is_what_can_be_asked(tmp_path):
    found = pull(DATA, place=upstream(tmp_path / "hub"), report=lambda _: None)
    assert found.counts["val"] == 40
    asked = {row["imageId"] for row in found.rows("val")}
    assert {row["id"] for row in found.rows("val-images")} == asked
    assert len(asked) < 45
    few, many = Gqa(), Gqa(per_type="20")
    assert many.name == "gqa:per_type=20"
    for split in ("feedback", "selection"):
        assert len(many.problems(split)) == 20
    # Those of fewer are among those of more, whatever half they are in.
    ids = {p.id for split in SPLITS for p in many.problems(split)}
    assert {p.id for split in SPLITS for p in few.problems(split)} <= ids
    for problem in many.problems("feedback"):
        name, number = domain_words(problem.prompt)
        assert problem.images == (b"PNG v%d" % ((7 * number + len(name)) % 40),)
        assert problem.reference == f"{name} {number % 3}"


def domain_words(prompt):
    name, number = prompt.partition("?")[0].split()[-2:]
    return name, int(number)


def test_the_order_of_upstream_changes_nothing(tmp_path):
    val = questions("v", ("exist", "relS"), 30, 40)
    problems = []
    for number, rows in enumerate((val, val[::-1])):
        pull(DATA, place=upstream(tmp_path / f"hub{number}", val=rows), report=lambda _: None)
        problems.append([Gqa().problems(split) for split in SPLITS])
    assert problems[0] == problems[1]


def test_the_choice_is_the_same_whatever_is_read_at_a_time(tmp_path):
    """More rows than are looked at together."""
    many = questions("v", ("exist", "relS", "a", "b"), 5_500, 40)
    chosen = list(gqa.some_of_each_type(iter(many), {}))
    assert Counter(row["types"]["detailed"] for row in chosen) == dict.fromkeys(("exist", "relS", "a", "b"), 20)
    assert chosen == list(gqa.some_of_each_type(iter(many[::-1]), {}))


def test_a_missing_image_is_an_error_when_it_is_fetched(tmp_path):
    images = [{"id": f"t-{i}", "image": {"bytes": b"PNG", "path": None}} for i in range(2)]
    with pytest.raises(DomainError, match=r"images of GQA that 'testdev' asks about are missing"):
        pull(DATA, place=upstream(tmp_path / "hub", **{"testdev-images": images}), report=lambda _: None)


def test_types_that_moved_are_an_error(tmp_path):
    flat = [row | {"types": "exist"} for row in questions("v", ("exist",), 5, 5)]
    with pytest.raises(DomainError, match="no detailed and structural type, but 'exist'"):
        pull(DATA, place=upstream(tmp_path / "hub", val=flat), report=lambda _: None)
    unnamed = [{k: v for k, v in row.items() if k != "types"} for row in flat]
    with pytest.raises(DomainError, match="no column 'types' any more"):
        pull(DATA, place=upstream(tmp_path / "hub2", val=unnamed), report=lambda _: None)


@pytest.mark.parametrize("given", ["0", "21", "many", True, "2.5", "-1"])
def test_per_type_is_a_number_of_what_is_stored(given):
    with pytest.raises(UsageError, match="per_type of the domain gqa must be a whole number from 1 to 20"):
        Gqa(fixture=True, per_type=given)


def test_names_say_what_is_not_usual():
    assert make_domain("gqa:fixture").name == "gqa:fixture"
    assert make_domain("gqa:fixture,per_type=2").name == "gqa:fixture,per_type=2"
    assert make_domain("gqa:per_type=5").name == "gqa"
    with pytest.raises(UsageError, match="per_type"):
        make_domain("gqa:per_tipe=2")


def test_the_parts_are_those_of_the_hub():
    assert {part.name: (part.config, part.split, part.rows) for part in DATA.parts} == {
        "val": ("val_balanced_instructions", "val", 132_062),
        "testdev": ("testdev_balanced_instructions", "testdev", 12_578),
        "val-images": ("val_balanced_images", "val", 10_234),
        "testdev-images": ("testdev_balanced_images", "testdev", 398),
    }


def test_a_known_question_is_checked_and_another_is_not(domain):
    problem = domain.problems("feedback")[0]
    known = Example(problem.prompt, problem.reference, images=problem.images)
    assert domain.check(known) is True
    assert domain.check(replace(known, response="something else")) is False
    assert domain.check(replace(known, images=(b"another",))) is None
    assert domain.check(Example("What is it?", "it")) is None


@given(st.text(max_size=200))
def test_any_text_is_graded(response):
    problem = Problem("id", "Is it?", "yes", "exist")
    assert Gqa(fixture=True).grade(problem, response) in (0.0, 1.0)


def test_a_megabyte_is_wrong():
    assert Gqa(fixture=True).grade(Problem("id", "Is it?", "yes", "exist"), "yes " * 250_000) == 0.0
