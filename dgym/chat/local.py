"""Language models of one's own: `vllm:MODEL` behind a server that dgym starts, `hf:MODEL` in this process.

Both are what any other language model is to whoever calls them: recorded, repaired once, accounted for.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dgym.chat.client import OpenAIChat, RecordedChat, Tally, in_words
from dgym.chat.config import ChatConfig
from dgym.chat.errors import ChatSetupError, LostAnswerError
from dgym.chat.record import Reply, Request
from dgym.chat.servers import arguments, command, in_thread
from dgym.chat.session import current
from dgym.core import Chat, digest
from dgym.errors import UsageError

HF_TOKENS: Final = 1024
"""Most tokens of an answer of `hf:MODEL`, which is slow."""

_PART: Final = 65_536
# Options of vLLM that say what a server may take of a machine, each with a value, and nothing of the answers.
_RESOURCES: Final = frozenset(
    {
        "--cpu-offload-gb",
        "--gpu-memory-utilization",
        "--max-num-batched-tokens",
        "--max-num-seqs",
        "--pipeline-parallel-size",
        "--swap-space",
        "--tensor-parallel-size",
    }
)


def vllm(model: str = "") -> Chat:
    """The provider `vllm`: a model on the Hugging Face hub, or in a folder, served by vLLM on this machine.

    `$DGYM_VLLM` is the command that starts a server, `$DGYM_VLLM_ARGS` holds further arguments, and `$DGYM_VLLM_URL`
    names a server that runs already.

    Raises:
        UsageError: If no model is named.
    """
    if not model:
        raise UsageError("Name a model: vllm:MODEL, such as vllm:Qwen/Qwen3-8B, or vllm:path/to/folder.")
    return VllmChat(model)


def hf(model: str = "") -> Chat:
    """The provider `hf`: a small model on the Hugging Face hub, in a folder or in a `.gguf` file, in this process.

    Raises:
        UsageError: If no model is named.
    """
    if not model:
        raise UsageError(
            "Name a model: hf:MODEL, such as hf:HuggingFaceTB/SmolLM2-135M-Instruct, or hf:path/to/folder."
        )
    return HfChat(model)


class VllmChat(OpenAIChat):
    """A model behind a server of the session's, which is started at the first call that the record cannot answer.

    The digest names the model, the contents of a local one, and the arguments that the server is started with; it
    does not name the server's address.

    Args:
        model: As vLLM takes it.
    """

    def __init__(self, model: str) -> None:
        super().__init__(
            ChatConfig(name=f"vllm:{model}", model=model, endpoint="vllm:", key="VLLM_API_KEY", timeout=600.0)
        )
        self._pin = pin(model)

    @property
    def digest(self) -> str:
        """Identifies all that can move an answer."""
        return digest([self.config.digest, self._pin, _telling(arguments())])

    def check(self) -> None:
        """Checks that there is a command that starts a server, or that the one of `$DGYM_VLLM_URL` has the model.

        Raises:
            ChatSetupError: If not.
        """
        if _running():
            super().check()
        else:
            command()

    async def _reach(self) -> str:
        servers = current().servers
        self._endpoint = _running() or await in_thread(lambda: servers.address(self.config.model))
        return self._endpoint

    @property
    def _elsewhere(self) -> str:
        return "$DGYM_VLLM_URL"


class HfChat(RecordedChat):
    """A causal language model in this process, loaded at the first call; one call at a time.

    Args:
        model: A name on the hub, a folder, or a `.gguf` file.
        temperature: Of sampling; 0 is greedy.
        max_tokens: Most tokens of one answer.
    """

    def __init__(self, model: str, temperature: float = 0.0, max_tokens: int = HF_TOKENS) -> None:
        super().__init__(
            ChatConfig(
                name=f"hf:{model}",
                model=model,
                endpoint="hf:",
                temperature=temperature,
                max_tokens=max_tokens,
                structured="text",
            )
        )
        self._pin = pin(model)

    @property
    def digest(self) -> str:
        """Identifies all that can move an answer."""
        return digest([self.config.digest, self._pin])

    def check(self) -> None:
        """Checks that there is such a model, without loading its weights.

        Raises:
            UsageError: If not.
        """
        from dgym.models.load import locate

        locate(self.config.model)

    async def _send(self, request: Request, tally: Tally) -> Reply:
        await current().may_spend()
        tally.sent += 1
        return await in_thread(lambda: self._generate(request))

    def _generate(self, request: Request) -> Reply:
        from dgym.models.chat_model import PromptTooLongError, chat_model

        if any(message.images for message in request.messages):
            raise ChatSetupError(f"{self.model} cannot be shown pictures: set the teacher's parameter see=false.")
        config = self.config
        try:
            made = chat_model(config.model).answer(
                [(message.role, message.content) for message in in_words(request)],
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                seed=request.seed,
            )
        except PromptTooLongError as error:
            raise LostAnswerError(f"{self.model} rejected the request: {error}", "rejected") from None
        return Reply(
            made.text,
            finish="length" if made.cut else "stop",
            tokens_in=made.tokens_in,
            tokens_out=made.tokens_out,
            model=config.model,
        )


def pin(model: str) -> str:
    """Identifies the contents of a local model: names and sizes of its files, and their first and last bytes.

    Args:
        model: A folder or a file; anything else, such as a name on the hub, has no contents here.

    Returns:
        32 hexadecimal digits; empty for what is not local.
    """
    path = Path(model).expanduser()
    files = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    found = [[file.name if path.is_dir() else "", file.stat().st_size, _ends(file)] for file in files if file.is_file()]
    return digest(found) if found else ""


def _ends(path: Path) -> str:
    with path.open("rb") as file:
        first = file.read(_PART)
        file.seek(max(0, path.stat().st_size - _PART))
        return hashlib.blake2b(first + file.read(_PART), digest_size=16).hexdigest()


def _telling(words: Sequence[str]) -> list[str]:
    """Leaves out what only says how much of a machine a server may take."""
    out: list[str] = []
    dropped = False
    for word in words:
        if dropped:
            dropped = False
            continue
        name, equals, _ = word.partition("=")
        if name in _RESOURCES:
            dropped = not equals
            continue
        out.append(word)
    return out


def _running() -> str:
    """Returns the base URL of the server that `$DGYM_VLLM_URL` names; empty where it names none."""
    url = os.environ.get("DGYM_VLLM_URL", "").strip().rstrip("/")
    return url if not url or url.endswith("/v1") else f"{url}/v1"
