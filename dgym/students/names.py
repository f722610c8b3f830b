"""What a student's name stands for.

A name is `family`, which draws a variant by seed, or `family:variant`. Some families take any text as variant: a model
on the hub (`hf:org/model@revision`), a folder or a file. A bare path or hub name is short for that: `org/model`,
`./folder` and `model.gguf` are `hf:org/model`, `hf:./folder` and `hf:model.gguf`.
"""

from __future__ import annotations

from dgym import registry
from dgym.core import StudentFamily
from dgym.errors import UsageError, unknown_name

PRETRAINED = "hf"
"""The family of everything that transformers can load."""


def full_student_name(name: str) -> str:
    """Writes out what a bare path or hub name is short for."""
    if registry.is_file(name) or name.partition(":")[0] in registry.names("student"):
        return name
    if "/" in name or name.endswith(".gguf"):
        return f"{PRETRAINED}:{name}"
    return name


def own_recipe(name: str) -> str:
    """Returns the preset with which a student is trained where nothing else is said.

    Raises:
        UsageError: If there is no such student.
    """
    family_name = find_family(name)[0]
    return str(getattr(registry.load("student", family_name)(), "recipe", "default"))


def find_family(name: str) -> tuple[str, str]:
    """Splits a student's name into the family's registered name and the variant, which may be empty."""
    file, dot, rest = full_student_name(name).rpartition(".py:")
    attribute, _, variant = rest.partition(":")
    return f"{file}{dot}{attribute}", variant


def find_student(name: str, seed: int) -> tuple[str, StudentFamily, str]:
    """Resolves a student's name; a family may also be `file.py:Attr`.

    Args:
        name: See the module.
        seed: Draws a variant where the name has none.

    Returns:
        The family's registered name, the family, and the variant.

    Raises:
        UsageError: If there is no such family or variant.
    """
    family_name, variant = find_family(name)
    family: StudentFamily = registry.load("student", family_name)()
    takes_any = getattr(family, "open", False) is True  # a method of that name is something else
    if variant and not takes_any and variant not in family.variants:
        raise unknown_name(f"variant of {family_name}", variant, family.variants)
    if not variant:
        variant = family.draw(seed)
        if not variant:
            raise UsageError(f"The student {family_name!r} needs a variant: write {family_name}:VARIANT.")
    return family_name, family, variant
