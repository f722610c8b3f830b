"""Answers through vLLM: one server per base, every version of every student's adapter under a name of its own.

The server is started when it is first asked, watched, and ended with the engine or the process, as those of language
models are (see `dgym.chat.servers`). What several students ask at the same time meets in vLLM's own batches, so the
same problem may be answered in other company from one run to the next, and its last bits with it. A name is never used
twice: vLLM's prefix cache goes by the name and the folder of an adapter, and would take a new version for the old one.

`$DGYM_VLLM` is the command that starts a server, and `$DGYM_VLLM_STUDENT_ARGS` holds further arguments of it, which
overrule those of this module.
"""

from __future__ import annotations

import copy
import json
import os
import re
import secrets
import sys
import threading
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from itertools import count, takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, Protocol

from safetensors.torch import save_file

from dgym.chat.errors import ChatSetupError
from dgym.chat.servers import ModelServer, Serving, command
from dgym.errors import InfrastructureError, StudentError
from dgym.models.prompts import PER_TOKEN, Prompt

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig

ELSEWHERE: Final = 'choose engine = "transformers"'
"""What else to do where vLLM cannot answer."""

VARIABLE: Final = "DGYM_VLLM_STUDENT_ARGS"
"""The environment's variable with further arguments of the server."""

MAX_LORAS: Final = 8
"""Versions that are answered at the same time; more wait for a place in vLLM's batch."""

SHARE: Final = 0.5
"""Of a GPU's memory, what the server takes while it is awake: the model that is trained lies beside it."""

RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM can be started for."""

_FIRST_RANK: Final = 16
_BASE: Final = "base"
_TIMEOUT: Final = 3600.0
_TIMEOUT_PER_PROMPT: Final = 10.0  # seconds; one core takes about one for a model of 0.1 billion parameters
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # not through a proxy


@dataclass(frozen=True)
class Version:
    """What a student has learnt up to a certain training.

    Attributes:
        name: Unique among all versions that an engine is ever asked for.
        config: The adapter's configuration.
        state: Its tensors, as `peft.utils.get_peft_model_state_dict` names them. They are read when the version is
            first asked, and must not change before.
    """

    name: str
    config: LoraConfig
    state: Mapping[str, torch.Tensor]

    @property
    def rank(self) -> int:
        """The largest rank of any layer."""
        ranks: list[int] = [self.config.r, *(self.config.rank_pattern or {}).values()]
        return max(ranks)


class AnswerEngine(Protocol):
    """What answers for a base and its students in place of transformers; threads may use it at the same time."""

    def answer(self, prompts: Sequence[Prompt], version: Version | None, max_new_tokens: int) -> list[list[int]]:
        """Answers greedily.

        Args:
            prompts: What is asked.
            version: Who is asked; `None` is the untrained base.
            max_new_tokens: Longest answer.

        Returns:
            Token ids per answer in the order of `prompts`, cut before the first token that ends one.

        Raises:
            StudentError: If these prompts or this version cannot be answered.
            InfrastructureError: If what answers is not there.
        """

    def forget(self, name: str) -> None:
        """Drops a version that is not asked again; names that are not known are ignored."""

    def sleep(self) -> None:
        """Gives the device's memory to training, if it is held in the same place; the next answer takes it back."""

    def close(self) -> None:
        """Ends it."""


def vllm_engine(
    folder: str,
    device: str,
    precision: str,
    ends: Sequence[int],
    *,
    max_rank: int = 64,
    max_loras: int = MAX_LORAS,
    share: float = SHARE,
    sleeps: bool = True,
) -> AnswerEngine:
    """Makes an engine of a vLLM server, which is started at the first question.

    Args:
        folder: The base, with its tokenizer.
        device: `"cpu"`, `"cuda"` or such as `"cuda:1"`.
        precision: Such as `"float32"`.
        ends: Token ids that end an answer.
        max_rank: Largest rank of an adapter. The server is started for rank 16 and started anew for a higher one when
            a version has it: what every answer costs grows with the rank that it is started for.
        max_loras: Versions that are answered at the same time.
        share: Of the GPU's memory, what the server takes.
        sleeps: Whether it gives its memory back while a student is trained, weights to main memory. Otherwise it keeps
            its share all the time, and training has the rest.

    Raises:
        StudentError: If vLLM is not installed, or cannot do that.
    """
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise StudentError(f"vLLM runs on cpu and cuda, not on {device!r}: {ELSEWHERE}.")
    if max_rank > RANKS[-1]:
        raise StudentError(f"vLLM takes adapters up to rank {RANKS[-1]}, not {max_rank}: {ELSEWHERE}.")
    with _as_student_error():
        command(ELSEWHERE)
    return _VllmEngine(_Setup(folder, device, precision, max_rank, max_loras, share, sleeps and kind == "cuda"), ends)


@dataclass(frozen=True)
class _Setup:
    """How a server is started; see `vllm_engine`."""

    folder: str
    device: str
    precision: str
    max_rank: int
    max_loras: int
    share: float
    sleeps: bool

    @property
    def cpu(self) -> bool:
        return self.device == "cpu"

    def server(self, rank: int, key: str) -> ModelServer:
        """Returns a server for adapters of a rank, not yet started."""
        words = [
            *("--dtype", self.precision),
            *("--max-model-len", "auto"),  # the model's own, or what the memory holds
            # The generation config of a model may hold penalties and limits, which transformers is not given either.
            *("--generation-config", "vllm"),
            *("--enable-lora", "--max-lora-rank", str(rank)),
            *("--max-loras", str(self.max_loras), "--max-cpu-loras", str(2 * self.max_loras)),
            "--enable-prefix-caching",
        ]
        environment = {
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "VLLM_NO_USAGE_STATS": "1",
            # Whoever may load adapters may read files: other users of this machine may not.
            "VLLM_API_KEY": key,
        }
        if self.cpu:
            # Nothing is compiled with adapters. Short blocks, so that short prompts have a part in the prefix cache.
            # Few tokens at a time: vLLM's operations on the CPU copy the adapter for every token of a step, and short
            # steps take less time in all than its usual ones of 2,048.
            words += ["--enforce-eager", "--block-size", "32", "--max-num-batched-tokens", "256"]
            environment["VLLM_CPU_KVCACHE_SPACE"] = os.environ.get("VLLM_CPU_KVCACHE_SPACE", "2")
        else:
            words += ["--gpu-memory-utilization", f"{self.share:g}"]
            environment["CUDA_VISIBLE_DEVICES"] = _visible(self.device)
        if self.sleeps:
            words.append("--enable-sleep-mode")
            environment["VLLM_SERVER_DEV_MODE"] = "1"  # for /sleep and /wake_up
        serving = Serving(_BASE, words, VARIABLE, environment, ELSEWHERE)
        return ModelServer(self.folder, serving=serving)


@dataclass
class _Kept:
    """A version that the engine was asked for.

    Attributes:
        folder: Where it is written.
        lock: Held while it is written and loaded.
        loaded: At which address, and which start of the server there, it is loaded; `None` where it is not.
        users: Threads that wait for its answers.
        forgotten: Whether the last of them removes it.
    """

    folder: Path
    lock: threading.Lock = field(default_factory=threading.Lock)
    loaded: tuple[str, int] | None = None
    users: int = 0
    forgotten: bool = False


class _LostError(Exception):
    """The server could not be asked, or has not what it was given: it died, or is about to."""


class _Gate:
    """Lets in what may be done at the same time: any number of one kind, in the order in which the kinds came."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[tuple[str, object]] = deque()
        self._kind, self._inside = "", 0

    @contextmanager
    def within(self, kind: str) -> Iterator[None]:
        """Waits until no other kind is inside, nor waits for longer."""
        mine = (kind, object())

        def free() -> bool:
            before = takewhile(lambda other: other is not mine, self._queue)
            return (not self._inside or self._kind == kind) and all(other[0] == kind for other in before)

        with self._changed:
            self._queue.append(mine)
            self._changed.wait_for(free)
            self._queue.remove(mine)
            self._kind = kind
            self._inside += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()


class _VllmEngine:
    """See `vllm_engine`."""

    def __init__(self, setup: _Setup, ends: Sequence[int]) -> None:
        self._setup, self._ends = setup, list(dict.fromkeys(ends))
        self._key = secrets.token_hex(16)
        self._rank = _served_rank(min(_FIRST_RANK, setup.max_rank))
        self._server = setup.server(self._rank, self._key)
        self._gate = _Gate()
        self._lock = threading.Lock()
        self._waking = threading.Lock()
        self._url = ""
        self._asleep: tuple[ModelServer, int] | None = None  # the server, and at which start, that sleeps
        self._kept: dict[str, _Kept] = {}
        self._written = count()
        self._folder: TemporaryDirectory[str] | None = None
        self._closed = False

    def answer(self, prompts: Sequence[Prompt], version: Version | None, max_new_tokens: int) -> list[list[int]]:
        """See `AnswerEngine.answer`."""
        if not prompts:
            return []
        # Numbers per token are zeros where there is no image.
        if any(name not in PER_TOKEN for prompt in prompts for name in prompt.extras):
            raise StudentError(
                f"vLLM answers for students that read text only, and a problem has an image: {ELSEWHERE}."
            )
        if version is not None:
            self._fit(version)
        asked = {
            "prompt": [list(prompt.ids) for prompt in prompts],
            "max_tokens": max_new_tokens,
            "temperature": 0.0,
            # Those of the model's own configuration need not be those of its chat template.
            "ignore_eos": True,
            "stop_token_ids": self._ends,
            "return_token_ids": True,
        }
        # On the CPU, vLLM 0.32 gives requests without an adapter the adapter in its last place, when one that has one
        # is in the same batch (https://github.com/vllm-project/vllm/pull/48421): they must not meet.
        kind = "base" if version is None and self._setup.cpu else "answers"
        with self._gate.within(kind), self._used(version) as kept:
            try:
                return self._ask(asked, version, kept)
            except _LostError:
                with _as_student_error():
                    self._server.revive()
            try:
                return self._ask(asked, version, kept)
            except _LostError as error:
                raise InfrastructureError(f"vLLM was lost twice: {error} See {self._server.log}.") from error

    def forget(self, name: str) -> None:
        """See `AnswerEngine.forget`."""
        with self._lock:
            kept = self._kept.get(name)
            if kept is None:
                return
            kept.forgotten = True
            if kept.users:
                return  # vLLM would end if it looked for the files of a version that it still answers for
            del self._kept[name]
        self._remove(name, kept)

    def sleep(self) -> None:
        """See `AnswerEngine.sleep`."""
        if not self._setup.sleeps:
            return
        with self._gate.within("sleep"), self._waking:
            now = (self._server, self._server.starts)
            if not self._server.starts or self._asleep == now:
                return
            try:
                status, said = self._post(self._url, "/sleep?level=1&mode=wait", {})
            except _LostError:  # a server that is gone holds no memory
                return
            self._asleep = now  # whatever it says: the next answer had better wake it
            if status != 200:
                raise InfrastructureError(
                    f"vLLM does not give its memory back: {_reason(said)} See {self._server.log}."
                )

    def close(self) -> None:
        """See `AnswerEngine.close`."""
        with self._lock:
            self._closed = True
            server, folder, self._folder = self._server, self._folder, None
            self._kept.clear()
        server.stop()
        if folder is not None:
            folder.cleanup()

    # Asking ------------------------------------------------------------------------------------------------------

    def _ask(self, asked: Mapping[str, Any], version: Version | None, kept: _Kept | None) -> list[list[int]]:
        url, start = self._awake()
        name = _BASE
        if version is not None and kept is not None:
            name = version.name
            self._load(url, start, version, kept)
        prompts = len(asked["prompt"])
        status, said = self._post(
            url, "/v1/completions", {"model": name, **asked}, _TIMEOUT + _TIMEOUT_PER_PROMPT * prompts
        )
        if status == 404 and kept is not None:  # such as a server that was started anew at the same address
            kept.loaded = None
            raise _LostError(_reason(said))
        if status == 400:
            raise StudentError(f"vLLM does not answer this: {_reason(said)} Shorten it, or {ELSEWHERE}.")
        if status != 200:
            raise InfrastructureError(f"vLLM does not answer: {_reason(said)} See {self._server.log}.")
        try:
            choices = sorted(json.loads(said)["choices"], key=lambda choice: int(choice["index"]))
            answers = [[int(token) for token in choice["token_ids"]] for choice in choices]
        except (ValueError, KeyError, TypeError):
            answers = []
        if len(answers) != prompts:
            raise InfrastructureError(
                f"The server gives no token ids, as vLLM 0.32 does: mend $DGYM_VLLM, or {ELSEWHERE}."
            )
        return [list(takewhile(lambda token: token not in self._ends, answer)) for answer in answers]

    def _awake(self) -> tuple[str, int]:
        """Returns the address of the server, which is started or woken if need be, and which start of it that is."""
        with self._waking:
            server = self._server
            if not server.starts or self._asleep is not None:
                _give_back_memory()
            with _as_student_error():
                url = server.address().removesuffix("/v1")
            if self._asleep == (server, server.starts):
                status, said = self._post(url, "/wake_up", {})
                if status != 200:
                    raise InfrastructureError(f"vLLM does not wake up: {_reason(said)} See {server.log}.")
            self._asleep = None
            self._url = url
            return url, server.starts

    def _fit(self, version: Version) -> None:
        """Sees to a server that takes the version's rank."""
        if version.rank > self._setup.max_rank:
            raise StudentError(
                f"The adapter has rank {version.rank}, and vLLM was set up for {self._setup.max_rank} at most: "
                f"set a lower rank in the recipe, or {ELSEWHERE}."
            )
        if version.rank <= self._rank:
            return
        with self._gate.within("restart"), self._lock:
            if version.rank <= self._rank or self._closed:
                return
            self._server.stop()
            self._rank = _served_rank(version.rank)
            self._server = self._setup.server(self._rank, self._key)
            for kept in self._kept.values():
                kept.loaded = None

    # Versions ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _used(self, version: Version | None) -> Iterator[_Kept | None]:
        """Keeps a version's files in place while its answers are waited for."""
        if version is None:
            yield None
            return
        with self._lock:
            if self._closed:
                raise InfrastructureError(f"The server of {self._setup.folder!r} was stopped.")
            kept = self._kept.get(version.name)
            if kept is None:
                if self._folder is None:
                    self._folder = TemporaryDirectory(prefix="dgym-adapters-", ignore_cleanup_errors=True)
                safe = re.sub(r"[^\w.-]+", "-", version.name)[-80:]
                kept = self._kept[version.name] = _Kept(Path(self._folder.name) / f"{next(self._written)}-{safe}")
            kept.users += 1
        try:
            yield kept
        finally:
            with self._lock:
                kept.users -= 1
                gone = kept.forgotten and not kept.users and self._kept.pop(version.name, None) is not None
            if gone:
                self._remove(version.name, kept)

    def _load(self, url: str, start: int, version: Version, kept: _Kept) -> None:
        """Sees to it that the server has the version."""
        with kept.lock:
            if kept.loaded == (url, start):
                return
            if not kept.folder.exists():
                _write(version, kept.folder)
            status, said = self._post(
                url, "/v1/load_lora_adapter", {"lora_name": version.name, "lora_path": str(kept.folder)}
            )
            reason = _reason(said)
            if status != 200 and "already been loaded" not in reason:
                raise StudentError(f"vLLM cannot load the adapter {version.name}: {reason} If it must be, {ELSEWHERE}.")
            kept.loaded = (url, start)

    def _remove(self, name: str, kept: _Kept) -> None:
        with kept.lock:
            if kept.loaded is not None:
                with suppress(_LostError):  # it is gone with the server
                    self._post(kept.loaded[0], "/v1/unload_lora_adapter", {"lora_name": name}, timeout=60.0)
            for file in kept.folder.glob("*"):
                file.unlink(missing_ok=True)
            with suppress(OSError):
                kept.folder.rmdir()

    def _post(self, url: str, path: str, body: Mapping[str, Any], timeout: float = _TIMEOUT) -> tuple[int, str]:
        """Returns the status and what the server says.

        Raises:
            _LostError: If it cannot be reached, the connection breaks, or its engine is dead.
        """
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        request = urllib.request.Request(f"{url}{path}", json.dumps(body).encode(), headers)
        try:
            with _OPENER.open(request, timeout=timeout) as answer:
                return answer.status, answer.read().decode("utf-8", errors="replace")
        except urllib.error.HTTPError as error:
            with error:
                said = error.read().decode("utf-8", errors="replace")
            # The process that computes died, and the one that is asked ends soon after.
            if error.code == 503 or "EngineCore" in said or "EngineDead" in said:
                raise _LostError(_reason(said)) from error
            return error.code, said
        except (OSError, HTTPException) as error:
            raise _LostError(f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason given'}.") from error


def _write(version: Version, folder: Path) -> None:
    """Writes a version as PEFT does, naming the layers that it has: vLLM does not know "all-linear"."""
    config: Any = copy.copy(version.config)
    config.target_modules = sorted({name.partition(".lora_")[0].rpartition(".")[2] for name in version.state})
    config.inference_mode = True
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        partial.mkdir(parents=True)
        config.save_pretrained(str(partial))
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in version.state.items()}
        save_file(tensors, partial / "adapter_model.safetensors")
        partial.rename(folder)
    except OSError as error:
        raise InfrastructureError(f"The adapter {version.name} cannot be written: {error}.") from error


def _served_rank(rank: int) -> int:
    return next(served for served in RANKS if served >= rank)


def _visible(device: str) -> str:
    """Returns how another process is shown the same GPU, and only that."""
    number = int(device.partition(":")[2] or 0)
    shown = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return shown[number] if number < len(shown) else str(number)


def _give_back_memory() -> None:
    """Hands what this process keeps of a GPU's memory without using it to the server, which takes it itself."""
    if "torch" not in sys.modules:
        return
    import torch  # which waits, where another thread imports it just now

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def _reason(said: str) -> str:
    """Returns what a server says went wrong, as one sentence."""
    try:
        found = json.loads(said)
        found = found.get("error", found)
        said = str(found.get("message", found) if isinstance(found, dict) else found)
    except (ValueError, AttributeError):
        pass
    said = " ".join(said.split())[:300] or "it gave no reason"
    return said if said.endswith((".", "!", "?")) else f"{said}."


@contextmanager
def _as_student_error() -> Iterator[None]:
    """Turns what a person has to mend into the boundary at which a student failed."""
    try:
        yield
    except ChatSetupError as error:
        raise StudentError(str(error)) from error
