"""A tiny Llama in a folder and in a GGUF file, and a server that speaks enough of the hub's protocol to hold it."""

from __future__ import annotations

import copy
import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from dgym.fakes import FakeDomain
from dgym.models import hub as hub_module
from dgym.models.prompts import Prompts
from dgym.students.make import Recipe, new_model, save, train_tokenizer


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of one's own."""
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def tiny() -> tuple[Any, Any]:
    """A Llama of two layers that knows nothing, and its tokenizer."""
    domain = FakeDomain()
    tokenizer = train_tokenizer([e.prompt for s in domain.skills() for e in domain.fresh(s, 100, 0)], 300)
    return new_model(Recipe(hidden=64, layers=2, heads=2, intermediate=64), tokenizer).eval(), tokenizer


@pytest.fixture(scope="session")
def saved(tiny: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That Llama as the students that ship are saved: half precision on disk."""
    out = tmp_path_factory.mktemp("tiny") / "model"
    save(tiny[0], Prompts(tiny[1]), out)
    return out


@pytest.fixture(scope="session")
def halved(tiny: tuple[Any, Any]) -> Any:
    """That Llama as it comes back from half precision."""
    model = copy.deepcopy(tiny[0])
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    return model


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    """A copy that may be spoiled."""
    out = tmp_path / "copy"
    out.mkdir()
    for file in saved.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    return out


@pytest.fixture(scope="session")
def gguf_file(tiny: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same Llama as llama.cpp's converter writes it: other names, rows of queries and keys in another order."""
    gguf = pytest.importorskip("gguf")
    model, tokenizer = tiny
    config = model.config
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    out = gguf.GGUFWriter(str(path), "llama")
    out.add_name("tiny")
    out.add_context_length(256)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_dimension_count(config.head_dim)
    out.add_rope_freq_base(10000.0)
    out.add_vocab_size(config.vocab_size)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    ids = backend["model"]["vocab"]
    special = {token["content"] for token in backend["added_tokens"]}
    out.add_tokenizer_model("gpt2")
    out.add_token_list(sorted(ids, key=ids.get))
    out.add_token_types([3 if token in special else 1 for token in sorted(ids, key=ids.get)])
    out.add_token_merges([" ".join(merge) for merge in backend["model"]["merges"]])
    out.add_eos_token_id(tokenizer.eos_token_id)
    out.add_pad_token_id(tokenizer.pad_token_id)
    out.add_chat_template(tokenizer.chat_template)
    blocks = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"} | {
        f"model.layers.{layer}.{here}": f"blk.{layer}.{there}"
        for layer in range(config.num_hidden_layers)
        for here, there in blocks.items()
    }
    state = model.state_dict()
    heads = config.num_attention_heads
    for here, there in names.items():
        weight = state[f"{here}.weight"]
        if there.endswith(("attn_q", "attn_k")):
            weight = weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)
        out.add_tensor(f"{there}.weight", weight.contiguous().numpy())
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


@dataclass
class FakeHub:
    """A hub with the repositories that it is given.

    Attributes:
        repositories: Files of each, by name and revision; every other answer is a refusal.
        refusals: Status and error code by repository.
        asked: Paths that were asked for.
        cache: The client's cache on this machine.
    """

    cache: Path
    repositories: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, folder: Path, revision: str = "main", **files: bytes) -> str:
        """Publishes a folder, with further files; returns the commit."""
        held = {file.name: file.read_bytes() for file in folder.iterdir()} | files
        self.repositories[name, revision] = held
        commit = self.commit(name, revision)
        self.repositories[name, commit] = held
        return commit

    def commit(self, name: str, revision: str) -> str:
        """Returns the commit of a revision."""
        held = self.repositories[name, revision]
        return sha1(b"".join(key.encode() + held[key] for key in sorted(held))).hexdigest()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Answers one request with status, headers and body."""
        self.asked[path] += 1
        parts = path.partition("?")[0].strip("/").split("/")
        kind = "api" if parts[0] == "api" else "resolve"
        name = "/".join(parts[2:4] if kind == "api" else parts[:2])
        if name in self.refusals:
            status, code = self.refusals[name]
            return status, {"X-Error-Code": code, "X-Error-Message": code}, b""
        rest = parts[4:] if kind == "api" else parts[2:]
        revision = rest[1] if len(rest) > 1 else "main"
        held = self.repositories.get((name, revision))
        if held is None:
            known = any(n == name for n, _ in self.repositories)
            return 404, {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"}, b""
        if kind == "resolve":
            body = held["/".join(rest[2:])]
            return 200, {"X-Repo-Commit": self.commit(name, revision), "ETag": f'"{sha1(body).hexdigest()}"'}, body
        if rest[:1] == ["tree"]:
            rows = [{"type": "file", "path": k, "size": len(v), "oid": sha1(v).hexdigest()} for k, v in held.items()]
            return 200, {}, json.dumps(rows).encode()
        said = {
            "id": name,
            "modelId": name,
            "sha": self.commit(name, revision),
            "siblings": [{"rfilename": k, "size": len(v)} for k, v in held.items()],
            "cardData": {"license": "mit"},
            "tags": [],
        }
        return 200, {}, json.dumps(said).encode()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Starts a hub of one's own and makes it the client's, with an empty cache."""
    from huggingface_hub import constants

    fake = FakeHub(tmp_path / "hub-cache")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = fake.answer(self.path)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(fake.cache))
    hub_module.described.cache_clear()
    yield fake
    hub_module.described.cache_clear()
    server.shutdown()
    server.server_close()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch):
    """Takes the network away."""

    def go() -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("socket.socket.connect", lambda *a: pytest.fail("the network was asked"))
        hub_module.described.cache_clear()

    return go


@pytest.fixture
def answers():
    """Compares what a loaded model makes of a text with what the tiny one does."""

    def same(model: Any, other: Any) -> bool:
        ids = torch.tensor([[5, 70, 223, 19, 223, 20, 2]])
        with torch.inference_mode():
            return torch.equal(model(ids).logits, other(ids).logits)

    return same
