"""A tiny student, made once per session by the code that makes those that ship."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dgym.fakes import FakeDomain
from dgym.models.prompts import Prompts
from dgym.students.base import Base
from dgym.students.make import Recipe, new_model, save, train_tokenizer


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny models gain nothing from more threads, and lose much when the cores are busy."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny-student")
    domain = FakeDomain()
    texts = [f"{e.prompt} {e.response}" for s in domain.skills() for e in domain.fresh(s, 100, 0)]
    tokenizer = train_tokenizer(texts, 300)
    save(new_model(Recipe(hidden=32, layers=2, heads=2, intermediate=64), tokenizer), Prompts(tokenizer), out)
    return out


@pytest.fixture
def base(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))
    return Base(str(folder), digest="tiny")
