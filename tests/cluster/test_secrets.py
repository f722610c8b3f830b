"""A key is in no file that a run leaves: rows, tables, the record of answers, trackers, Ray's own logs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from dgym.chat_server import ChatServer, Manner

CANARY = "canary-5b1e-secret-key"

SUITE = """
name = "secret"
rules = { iterations = 1, budget = { examples_per_iteration = 8 } }
cells = [{ domain = "fake", student = "fake" }]
entries = [{ teachers = ["openai:stand-in"], environments = ["open-ended", "skill-list"] }]
"""


def test_a_key_is_in_no_file_and_on_no_screen(tmp_path: Path) -> None:
    (tmp_path / "secret.toml").write_text(SUITE)
    # Ray's sockets lie there too, and their paths must be short.
    short = Path(tempfile.mkdtemp(prefix="dgym"))
    try:
        with ChatServer(Manner(key=CANARY)) as server:
            environment = os.environ | {
                "OPENAI_BASE_URL": server.url,
                "OPENAI_API_KEY": CANARY,
                "DGYM_CACHE": str(tmp_path / "cache"),
                "RAY_TMPDIR": str(short),
            }
            command = [sys.executable, "-m", "dgym", "bench", "--suite", str(tmp_path / "secret.toml"), "-v"]
            command += ["--track", "tensorboard", "--out", str(tmp_path / "run")]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            # With another key the server refuses: what it is told is the key.
            refused = subprocess.run(
                [*command[:-1], str(tmp_path / "other")],
                capture_output=True, text=True, check=False, env=environment | {"OPENAI_API_KEY": CANARY[:-1] + "x"},
            )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert refused.returncode != 0
        written = [p for folder in (tmp_path, short) for p in folder.rglob("*") if p.is_file()]
        assert any("calls" in p.parts for p in written)
        assert any("logs" in p.parts and p.stat().st_size for p in written), "Ray's logs are looked through too"
        assert [str(p) for p in written if CANARY.encode() in p.read_bytes()] == []
        for text in (done.stdout, done.stderr, refused.stdout, refused.stderr):
            assert CANARY[:-1] not in text
    finally:
        shutil.rmtree(short, ignore_errors=True)
