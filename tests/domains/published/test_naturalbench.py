"""The domain naturalbench: groups of four, and the published scores from what a domain tells of its attempts."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dgym.data
from dgym.checks import check_domain
from dgym.core import Attempt, Example, Feedback, Problem, Rules
from dgym.data import pull
from dgym.domains import make_domain
from dgym.domains.published.naturalbench import DATA, NaturalBench
from dgym.episode import evaluate, used
from dgym.errors import DomainError, UsageError
from tests.graders.test_vqa_answers import original_extract, original_scores

FIXTURE = Path(dgym.data.__file__).parent / "fixtures" / "naturalbench"
SPLITS = ("train", "feedback", "selection", "test")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def domain():
    return NaturalBench(fixture=True)


def rows(count):
    """Rows of upstream's schema, without images for the most part."""
    out = []
    for index in range(count):
        kind, yes, no = ("yes_no", "Yes", "No") if index % 3 else ("multiple_choice", "A", "B")
        options = "" if index % 3 else " Option: A:this; B:that;"
        out.append(
            {
                "Index": index,
                "Image_0": {"bytes": b"first %d" % index, "path": None},
                "Image_1": {"bytes": b"second %d" % index, "path": None},
                "Question_0": f"Is it {index % 50}?{options}",
                "Image_0_Question_0": yes,
                "Image_1_Question_0": no,
                "Question_1": f"Is it not {index % 50}?{options}",
                "Image_0_Question_1": no,
                "Image_1_Question_1": yes,
                "Question_Type": kind,
                "Source": "Flickr30K",
            }
        )
    return out


def upstream(folder, given):
    (folder / "data").mkdir(parents=True)
    half = len(given) // 2
    for shard, some in enumerate((given[:half], given[half:])):
        pq.write_table(pa.Table.from_pylist(some), folder / "data" / f"train-0000{shard}-of-00002.parquet")
    return folder


def test_it_is_a_domain():
    assert [finding for finding in check_domain(make_domain("naturalbench:fixture")) if not finding.ok] == []


def test_a_group_is_four_problems_of_one_split(domain):
    groups: dict[str, list] = {}
    for split in SPLITS:
        for problem in domain.problems(split):
            groups.setdefault(problem.group, []).append((split, problem))
    assert len(groups) == 24
    for members in groups.values():
        assert len({split for split, _ in members}) == 1
        problems = [problem for _, problem in members]
        assert len(problems) == 4
        assert len({p.prompt for p in problems}) == len({p.images for p in problems}) == 2
        assert len({(p.prompt, p.images) for p in problems}) == 4
        # Each question has one answer for one image, the other for the other, and the two questions differ.
        assert Counter(p.reference for p in problems) == {p.reference: 2 for p in problems}


def test_problems_are_those_of_the_rows(domain):
    given = {}
    for row in map(json.loads, (FIXTURE / "train.jsonl").open()):
        suffix = {
            "yes_no": "Please answer Yes or No.",
            "multiple_choice": "Please output the letter corresponding to the correct option.",
        }[row["Question_Type"]]
        for q in (0, 1):
            for i in (0, 1):
                image = (FIXTURE / row[f"Image_{i}"]).read_bytes()
                answer = row[f"Image_{i}_Question_{q}"]
                given[f"{row[f'Question_{q}']} {suffix}", image] = (answer, row["Question_Type"], row["Source"])
    problems = [p for split in SPLITS for p in domain.problems(split)]
    assert {(p.prompt, p.images[0]): (p.reference, p.skill, p.slice) for p in problems} == given


def test_two_hundred_groups_each_and_the_rest_by_people(tmp_path):
    pull(DATA, place=upstream(tmp_path / "hub", rows(1_900)), report=lambda _: None)
    domain = NaturalBench()
    counts = {split: len(domain.problems(split)) for split in SPLITS}
    assert counts["feedback"] + counts["selection"] == counts["test"] == 800
    assert counts["feedback"] == counts["selection"]
    assert counts["train"] == 6_000
    assert len({p.id for split in SPLITS for p in domain.problems(split)}) == 7_600
    # The order of upstream changes nothing.
    pull(DATA, place=upstream(tmp_path / "again", rows(1_900)[::-1]), report=lambda _: None)
    assert NaturalBench().problems("test") == domain.problems("test")


def test_images_of_the_train_split_stay_where_they_are(tmp_path):
    pull(DATA, place=upstream(tmp_path / "hub", rows(80)), report=lambda _: None)
    domain = NaturalBench()
    read: list[str] = []
    real = domain.source.pick

    class Watched:
        digest = domain.source.digest

        def pick(self, part, columns=(), **where):
            found = real(part, columns, **where)
            read.extend(row["Index"] for row in found if "Image_0" in row)
            return found

    object.__setattr__(domain, "source", Watched())
    for split in ("feedback", "selection", "test"):
        domain.problems(split)
    assert len(set(read)) == 40
    read.clear()
    fresh = domain.fresh("yes_no", 3, 1)
    assert len(fresh) == 3
    assert len(set(read)) <= 3
    assert domain.check(Example("Is there a unicorn?", "yes", images=(b"x",))) is None
    assert len(set(read)) <= 3


def original_values(attempts):
    """What upstream's scores see of some attempts: by group, what was extracted, in its own order."""
    groups: dict[str, list] = {}
    for attempt in attempts:
        groups.setdefault(attempt.problem.group, []).append(attempt)
    out = []
    for group in groups.values():
        # The first question is the one whose answer for the first image is yes or A; any such order will do.
        prompts = list(dict.fromkeys(a.problem.prompt for a in group))
        images = list(dict.fromkeys(a.problem.images for a in group))
        found = {(a.problem.prompt, a.problem.images): a for a in group}
        if found[prompts[0], images[0]].problem.reference not in ("Yes", "A"):
            images.reverse()
        cells = [found[prompt, image] for prompt in prompts for image in images]
        assert [a.problem.reference in ("Yes", "A") for a in cells] == [True, False, False, True]
        out.append([original_extract(a.response, a.problem.skill) for a in cells])
    return out


ANSWERS = ("Yes", "No", "A", "B", "yes, I think", "no.", "Option B", "a cat", "", "neither")


@pytest.mark.parametrize("seed", range(20))
def test_the_published_scores_come_out(domain, seed):
    rng = random.Random(seed)
    problems = list(domain.problems("train"))
    rng.shuffle(problems)
    right = rng.random()
    responses = [p.reference if rng.random() < right else rng.choice(ANSWERS) for p in problems]
    graded = domain.grade_all(problems, responses)
    attempts = [
        Attempt(p, r, score, measures) for p, r, (score, measures) in zip(problems, responses, graded, strict=True)
    ]
    expected = original_scores(original_values(attempts))
    assert domain.summary(attempts) == pytest.approx(expected)
    # So do the means: of scores, and of measures.
    assert Feedback("test", tuple(attempts)).score == pytest.approx(expected["group_score"])
    for measure, name in (("right", "accuracy"), ("question_score",) * 2, ("image_score",) * 2):
        mean = sum(a.measures[measure] for a in attempts) / len(attempts)
        assert mean == pytest.approx(expected[name])
    assert [a.correct for a in attempts] == [
        domain.grade(p, r) == 1.0 for p, r in zip(problems, responses, strict=True)
    ]


def test_one_wrong_answer_costs_the_group_its_question_and_its_image(domain):
    group = [p for p in domain.problems("test") if p.group == domain.problems("test")[0].group]
    responses = [p.reference for p in group]
    responses[0] = "perhaps"
    graded = domain.grade_all(group, responses)
    assert [score for score, _ in graded] == [0.0] * 4
    assert [m["right"] for _, m in graded] == [0.0, 1.0, 1.0, 1.0]
    for name, shared in (("question_score", "prompt"), ("image_score", "images")):
        same = [getattr(p, shared) == getattr(group[0], shared) for p in group]
        assert [m[name] for _, m in graded] == [float(not s) for s in same]


def test_a_part_of_a_group_is_graded_as_far_as_it_was_asked(domain):
    group = [p for p in domain.problems("test") if p.group == domain.problems("test")[0].group][:3]
    graded = domain.grade_all(group, [p.reference for p in group])
    assert [score for score, _ in graded] == [1.0] * 3
    attempts = [Attempt(p, p.reference, 1.0, {"right": 1.0}) for p in group]
    assert domain.summary(attempts) == {
        "accuracy": 0.0,
        "question_score": 0.0,
        "image_score": 0.0,
        "group_score": 0.0,
    }


def test_smaller_evaluations_keep_groups_whole(domain):
    for rules in (Rules(share=0.3), Rules(counts={"test": 9, "feedback": 5})):
        for split in ("feedback", "test"):
            problems = used(domain, split, rules)
            assert set(Counter(p.group for p in problems).values()) == {4}


def test_a_student_is_evaluated_by_groups(domain):
    class Student:
        def answer(self, problems):
            return [p.reference if p.skill == "yes_no" else "?" for p in problems]

    problems = domain.problems("train")
    feedback = evaluate(Student(), domain, "test", problems)
    by_skill = feedback.by_skill()
    assert {a.score for a in by_skill["yes_no"]} == {1.0}
    assert {a.score for a in by_skill["multiple_choice"]} == {0.0}


def test_a_question_is_asked_in_the_words_of_its_type(domain):
    yes_no, letter = "Please answer Yes or No.", "Please output the letter corresponding to the correct option."
    assert domain.frame("Is it red?") == f"Is it red? {yes_no}"
    assert domain.frame("What is it? Option: A:red; B:blue;").endswith(f"; {letter}")
    for problem in domain.problems("feedback"):
        assert domain.frame(problem.prompt) == problem.prompt == domain.frame(domain.bare(problem.prompt))


def test_examples_by_people_are_distinct_and_correct(domain):
    with pytest.raises(UsageError, match="yes_no"):
        domain.fresh("yes-no", 1, 1)
    for skill in domain.skills():
        everything = domain.fresh(skill, 1_000, 1)
        assert len(everything) == len({(e.prompt, e.images) for e in everything})
        assert len(everything) == sum(p.skill == skill for p in domain.problems("train"))
        for example in everything[:5]:
            assert domain.check(example) is True
            assert domain.check(domain.wrong_answer(example, 1)) is False
    with pytest.raises(DomainError, match="No wrong answer"):
        domain.wrong_answer(Example("Who is it?", "Anna"), 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Question_Type": "open"}, "no pair of questions of one known type: 'open'"),
        ({"Image_0_Question_0": "left"}, "no pair of questions of one known type: 'yes_no' with .*left"),
        ({"Image_0_Question_0": "A"}, "no pair of questions of one known type"),
    ],
)
def test_groups_of_another_kind_are_an_error(tmp_path, changes, message):
    given = rows(20)
    given[1] |= changes
    pull(DATA, place=upstream(tmp_path / "hub", given), report=lambda _: None)
    with pytest.raises(DomainError, match=f"Group 1 of NaturalBench is {message}"):
        NaturalBench().problems("test")


def test_columns_that_moved_are_an_error(tmp_path):
    given = [{("Type" if k == "Question_Type" else k): v for k, v in row.items()} for row in rows(4)]
    with pytest.raises(DomainError, match="no column 'Question_Type' any more"):
        pull(DATA, place=upstream(tmp_path / "hub", given), report=lambda _: None)
    given = [{k: v for k, v in row.items() if k != "Source"} for row in rows(8)]
    pull(DATA, place=upstream(tmp_path / "hub2", given), report=lambda _: None)
    assert {p.slice for p in NaturalBench().problems("test")} == {""}


@given(st.text(max_size=200), st.sampled_from(["Yes", "No", "A", "B", "", "else"]))
def test_any_text_is_graded(response, reference):
    problem = Problem("id", "Is it?", reference, "yes_no", group="g")
    domain = NaturalBench(fixture=True)
    assert domain.grade(problem, response) in (0.0, 1.0)
    assert domain.grade_all([problem], [response])[0][0] in (0.0, 1.0)


def test_a_megabyte_is_graded(domain):
    problem = domain.problems("test")[0]
    assert domain.grade(problem, "x" * 1_000_000) == 0.0
    assert domain.grade(replace(problem, reference="Yes"), "yes " * 250_000) == 1.0
