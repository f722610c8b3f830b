"""Errors by boundary."""

import pytest

from dgym import errors


def test_the_nearest_name_is_suggested():
    text = str(errors.unknown_name("teacher", "weekness", ["uniform", "weakness"]))
    assert text == "There is no teacher named 'weekness'. Did you mean 'weakness'? Known: uniform, weakness."


def test_a_name_unlike_any_gets_no_suggestion():
    assert "Did you mean" not in str(errors.unknown_name("teacher", "zzz", ["uniform"]))
    assert str(errors.unknown_name("suite", "x", [])).endswith("Known: none.")


@pytest.mark.parametrize(
    ("error", "boundary"),
    [
        (errors.UsageError(), "usage"),
        (errors.DomainError(), "domain"),
        (errors.TeacherError(), "teacher"),
        (errors.StudentError(), "student"),
        (errors.InfrastructureError(), "infrastructure"),
        (MemoryError(), "infrastructure"),
    ],
)
def test_every_error_has_a_boundary(error, boundary):
    assert errors.boundary_of(error) == boundary


def test_one_line_names_foreign_types_only():
    assert errors.one_line(errors.TeacherError("two\n  lines")) == "two lines"
    assert errors.one_line(ValueError("two\nlines")) == "ValueError: two lines"
    assert errors.one_line(KeyError()) == "KeyError"
