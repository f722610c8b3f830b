"""Models on the Hugging Face hub: what its cache on this machine holds, what the hub says of one, and downloads.

What the cache holds is used as it is, without asking the hub: a branch such as `main` stays where it was when the model
was downloaded, until it is pulled again.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from dgym.errors import DgymError, InfrastructureError, UsageError, one_line
from dgym.models.weights import is_whole

_WANTED: Final = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.tiktoken")
# Other formats of the same weights stand in folders of their own, or are named so.
_UNWANTED: Final = ("*/*", "consolidated*")
_TIMEOUT: Final = 10.0
"""Seconds until the hub counts as out of reach."""


@dataclass(frozen=True, slots=True)
class Remote:
    """What the hub says of a model.

    Attributes:
        commit: The commit that the revision stands for.
        files: Names and sizes in bytes.
        elements: Numbers in its weights; 0 where the hub does not know.
        licence: As its authors state it; empty where they do not.
    """

    commit: str
    files: tuple[tuple[str, int], ...]
    elements: int
    licence: str

    @property
    def patterns(self) -> list[str]:
        """Which files are wanted: weights as safetensors, others only where there are none."""
        safe = any(name.endswith(".safetensors") and "/" not in name for name, _ in self.files)
        return [*_WANTED, *(() if safe else ("*.bin",))]

    @property
    def weight_bytes(self) -> int:
        """Size of the files that hold the weights."""
        ends = ".safetensors" if "*.bin" not in self.patterns else ".bin"
        return sum(size for name, size in self.files if name.endswith(ends) and "/" not in name)


def shown(name: str, revision: str = "") -> str:
    """Writes a model's name with its revision, as a person does."""
    return f"{name}@{revision}" if revision else name


def cached(name: str, revision: str = "") -> Path | None:
    """Returns the folder of a model that the cache holds as a whole; `None` where it does not.

    Args:
        name: Such as `org/model`.
        revision: Branch, tag or commit; `main` when empty.
    """
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    try:
        config = try_to_load_from_cache(name, "config.json", revision=revision or None)
        if not isinstance(config, str) or not is_whole(Path(config).parent):
            return None
        # This one also knows which files the hub listed when the download began.
        return Path(
            snapshot_download(
                name,
                revision=revision or None,
                local_files_only=True,
                allow_patterns=list(_WANTED),
                ignore_patterns=list(_UNWANTED),
            )
        )
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=64)
def described(name: str, revision: str = "") -> Remote:
    """Asks the hub about a model.

    Raises:
        UsageError: If there is no such model or revision, if it is gated, or if the hub cannot be reached.
        InfrastructureError: If the hub answers with another error.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    try:
        info = HfApi().model_info(name, revision=revision or None, files_metadata=True, timeout=_TIMEOUT)
    except (HTTPError, OSError, ValueError) as error:
        raise _explained(name, revision, error) from error
    said = info.card_data.get("license") if info.card_data else None
    return Remote(
        commit=info.sha or "",
        files=tuple((file.rfilename, file.size or 0) for file in info.siblings or ()),
        elements=info.safetensors.total if info.safetensors else 0,
        licence=said if isinstance(said, str) else "",
    )


def download(name: str, revision: str = "", *, quiet: bool = True) -> Path:
    """Downloads config, weights, tokenizer, chat template and processor of a model into the hub's cache; no code.

    Args:
        name: Such as `org/model`.
        revision: Branch, tag or commit; `main` when empty.
        quiet: Whether progress bars are not shown.

    Returns:
        The folder in the cache.

    Raises:
        UsageError: As `described`, or if it is no model that transformers reads.
        InfrastructureError: If the download fails on the way.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    remote = described(name, revision)
    names = [file for file, _ in remote.files]
    if "config.json" not in names:
        only = any(file.endswith(".gguf") for file in names)
        way = "download one of its .gguf files, and name that file" if only else "name another model"
        raise UsageError(f"{shown(name, revision)!r} holds no model that transformers reads (no config.json): {way}.")
    try:
        with _bars(not quiet):
            folder = snapshot_download(
                name,
                revision=revision or None,
                allow_patterns=remote.patterns,
                ignore_patterns=list(_UNWANTED),
            )
    except (HTTPError, OSError, ValueError) as error:
        explained = _explained(name, revision, error)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            explained = InfrastructureError(
                f"The disk is full: {shown(name, revision)!r} takes {size_text(remote.weight_bytes)} in the hub's "
                "cache; make room, or set HF_HOME to a folder elsewhere."
            )
        elif "cannot be reached" in str(explained):
            explained = InfrastructureError(
                f"The download of {shown(name, revision)!r} broke off ({one_line(error)}); the same again continues it."
            )
        raise explained from error
    return Path(folder)


def size_text(count: int) -> str:
    """Writes a number of bytes as a person reads it."""
    return (
        f"{count / 1e9:.1f} GB"
        if count >= 1e9
        else f"{count / 1e6:.0f} MB"
        if count >= 1e7
        else f"{count / 1e6:.1f} MB"
    )


def _explained(name: str, revision: str, error: Exception) -> DgymError:
    """Says what to do about an error of the hub's client."""
    from huggingface_hub import errors

    whole = shown(name, revision)
    if isinstance(error, errors.GatedRepoError):
        return UsageError(
            f"The model {whole!r} is for those who accepted its terms: accept them on its page on the hub, then "
            "`hf auth login`."
        )
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return UsageError(
            f"There is no model {name!r} on the Hugging Face hub, or it is private: then log in with `hf auth login`."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UsageError(f"The model {name!r} on the Hugging Face hub has no branch, tag or commit {revision!r}.")
    if isinstance(error, errors.HFValidationError):
        return UsageError(f"There is no folder {name!r}, and it is no name on the Hugging Face hub.")
    if isinstance(error, errors.HfHubHTTPError):
        return InfrastructureError(f"The Hugging Face hub refuses {whole!r}: {one_line(error)}")
    return UsageError(
        f"The model {whole!r} is not on this machine, and the Hugging Face hub cannot be reached: download it where "
        "there is a network, or name a folder or a .gguf file."
    )


@contextmanager
def _bars(show: bool) -> Iterator[None]:
    """Shows or hides the hub's progress bars."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hidden = are_progress_bars_disabled()
    if not show:
        disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            enable_progress_bars()
