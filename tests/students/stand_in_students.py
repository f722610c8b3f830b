"""What `vllm serve --enable-lora` is to dgym's engine, without a model: answers follow from prompt and adapter file.

    python stand_in_students.py FOLDER --host HOST --port PORT --served-model-name NAME [...]

It refuses what vLLM 0.32 refuses, in its words, and like vLLM on the CPU gives a request without an adapter the one in
the last place, if one with an adapter is answered meanwhile. The further arguments make it misbehave, and let a test
see what it was asked.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

VOCABULARY = 1000


def said(prompt: Sequence[int], adapter: Path | None, count: int) -> list[int]:
    """The tokens that a prompt is answered with, by whoever an adapter's files make of the model."""
    who = 0.0
    if adapter is not None:
        config = json.loads((adapter / "adapter_config.json").read_text())
        tensors = load_file(adapter / "adapter_model.safetensors")
        layers = {name.split(".lora_")[0].rpartition(".")[2] for name in tensors}
        assert isinstance(config["target_modules"], list), "vLLM does not take all-linear"
        assert layers == set(config["target_modules"])
        who = sum(float(np.abs(t).sum()) for t in tensors.values()) * config["lora_alpha"] / config["r"]
    seed = [*prompt, int(who * 1000) % 2**31]
    return [int(t) for t in np.random.default_rng(seed).integers(0, VOCABULARY, count)]


class RefusalError(Exception):
    def __init__(self, status: int, message: str, kind: str = "BadRequestError") -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": None, "code": status}}


class StandIn:
    """The state of the server; the handler below only reads and writes HTTP."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.lock = threading.Condition()
        self.loaded: dict[str, Path] = {}
        self.last: Path | None = None  # in the last place
        self.inside: list[str] = []  # models of the requests that are answered now
        self.asleep = False

    def note(self, what: str, **more: Any) -> None:
        if self.args.journal:
            with self.lock, self.args.journal.open("a") as file:
                file.write(json.dumps({"what": what, "pid": os.getpid(), **more}) + "\n")

    def load(self, name: str, path: str) -> str:
        self.note("load", name=name, path=path)
        if self.asleep:
            self.die()  # the memory is not mapped
        if name in self.loaded:
            raise RefusalError(
                400, f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in .."
            )
        folder = Path(path)
        if not (folder / "adapter_config.json").exists():
            raise RefusalError(404, f"Loading lora {name} failed: No adapter found for {path}", "NotFoundError")
        config = json.loads((folder / "adapter_config.json").read_text())
        if config["use_dora"]:
            raise RefusalError(500, "vLLM does not yet support DoRA.", "InternalServerError")
        if config["r"] > self.args.max_lora_rank:
            text = f"LoRA rank {config['r']} is greater than max_lora_rank {self.args.max_lora_rank}."
            raise RefusalError(500, text, "InternalServerError")
        self.loaded[name] = self.last = folder
        return f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, name: str) -> str:
        self.note("unload", name=name)
        if name not in self.loaded:
            raise RefusalError(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError")
        del self.loaded[name]
        return f"Success: LoRA adapter '{name}' removed successfully."

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        model, prompts = body["model"], body["prompt"]
        self.note("complete", model=model, prompts=len(prompts))
        if self.asleep:
            self.die()
        if model != self.args.served_model_name and model not in self.loaded:
            raise RefusalError(404, f"The model `{model}` does not exist.", "NotFoundError")
        if max(map(len, prompts)) > self.args.context:
            raise RefusalError(400, f"Input length exceeds model's maximum context length ({self.args.context}).")
        adapter = self.loaded.get(model)
        assert body["temperature"] == 0
        assert body["ignore_eos"]
        with self.lock:
            self.inside.append(model)
            self.lock.notify_all()
            if self.args.meet > 1:  # answers wait for company
                self.lock.wait_for(lambda: len(self.inside) >= self.args.meet, timeout=30)
        if self.args.hold:
            deadline = time.monotonic() + 30
            while not self.args.hold.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
        with self.lock:
            company = sorted(self.inside)
            if adapter is None and "cpu" in self.args.flaws and any(m in self.loaded for m in company):
                adapter = self.last
        self.note("answer", model=model, company=company)
        choices = []
        for index, prompt in enumerate(prompts):
            tokens = said(prompt, adapter, body["max_tokens"])
            ends = [n for n, token in enumerate(tokens) if token in body["stop_token_ids"]]
            tokens = tokens[: ends[0] + 1] if ends else tokens
            choices.append({"index": index, "text": "", "token_ids": tokens if body["return_token_ids"] else None})
        with self.lock:
            if self.args.meet <= 1:
                self.inside.remove(model)
        if "no-ids" in self.args.flaws:
            choices = [{**choice, "token_ids": None} for choice in choices]
        return {"object": "text_completion", "model": model, "choices": choices[::-1]}

    def sleep(self) -> dict[str, Any]:
        self.note("sleep", inside=len(self.inside))
        self.asleep = True
        return {"status": "sleeping"}

    def wake_up(self) -> dict[str, Any]:
        self.note("wake")
        self.asleep = False
        return {"status": "awake"}

    def die(self) -> None:
        self.note("died")
        os.kill(os.getpid(), signal.SIGKILL)


def handler(state: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.reply(200 if self.path == "/health" else 404, {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
            path, _, query = self.path.partition("?")
            try:
                self.reply(200, self.act(path, query, body))
            except RefusalError as refusal:
                self.reply(refusal.status, refusal.body)

        def act(self, path: str, query: str, body: dict[str, Any]) -> object:
            key = os.environ.get("VLLM_API_KEY")
            if path.startswith("/v1") and self.headers["Authorization"] != f"Bearer {key}":
                raise RefusalError(401, "Unauthorized")
            if path == "/v1/completions":
                return state.complete(body)
            if os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") == "1" and state.args.enable_lora:
                if path == "/v1/load_lora_adapter":
                    return state.load(body["lora_name"], body["lora_path"])
                if path == "/v1/unload_lora_adapter":
                    return state.unload(body["lora_name"])
            if os.environ.get("VLLM_SERVER_DEV_MODE") == "1" and state.args.enable_sleep_mode:
                if path == "/sleep" and "level=1" in query:
                    return state.sleep()
                if path == "/wake_up":
                    return state.wake_up()
            raise RefusalError(404, "Not Found")

        def reply(self, status: int, body: object) -> None:
            text = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--enable-lora", action="store_true")
    parser.add_argument("--enable-sleep-mode", action="store_true")
    parser.add_argument("--max-lora-rank", type=int, required=True)
    parser.add_argument("--journal", type=Path, help="a file that a line is appended to for all that happens")
    parser.add_argument("--context", type=int, default=50, help="longest prompt")
    parser.add_argument("--meet", type=int, default=1, help="requests that wait for each other")
    parser.add_argument("--hold", type=Path, help="a file without which nothing is answered")
    parser.add_argument("--flaws", nargs="*", default=["cpu"], help="cpu: see above; no-ids: no token ids")
    args, others = parser.parse_known_args()
    state = StandIn(args)
    seen = ("VLLM_CPU_KVCACHE_SPACE", "CUDA_VISIBLE_DEVICES", "VLLM_SERVER_DEV_MODE")
    state.note("start", words=others, rank=args.max_lora_rank, environment={n: os.environ.get(n) for n in seen})
    assert Path(args.model).is_dir()
    ThreadingHTTPServer((args.host, args.port), handler(state)).serve_forever()


if __name__ == "__main__":
    main()
