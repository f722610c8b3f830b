"""Files of a model, without torch: which are read, what identifies them, how much memory they will take."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

from dgym.cache import cache_folder
from dgym.errors import StudentError, one_line

ITEM_BYTES: Final[Mapping[str, int]] = {"float32": 4, "bfloat16": 2, "float16": 2}
"""The precisions that models compute in, with the bytes of one number."""

# In the order in which transformers looks for them.
_WEIGHTS: Final = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_TELLING: Final = (
    "config.json",
    "generation_config.json",
    "*token*.json",
    "*processor_config.json",
    "chat_template.json",
    "*.jinja",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
)
_TOKENIZERS: Final = ("tokenizer.*", "*.model", "vocab.*", "*.tiktoken")
_REMEMBERED: Final = 2**20
"""What is known of files of at least so many bytes is kept in the cache."""


def weight_files(folder: Path) -> list[Path]:
    """Returns the files that hold a folder's weights.

    Raises:
        StudentError: If there are none, or if one of several is missing.
    """
    index = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if index is None:
        raise StudentError(f"{str(folder)!r} holds no weights: neither model.safetensors nor pytorch_model.bin.")
    if index.suffix != ".json":
        return [index]
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudentError(f"{str(index)!r} is damaged: {one_line(error)}") from error
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise StudentError(
            f"{str(folder)!r} lacks {len(missing)} of its {len(shards)} files of weights, such as {missing[0]}: "
            "fetch it again."
        )
    return [folder / name for name in shards]


def is_whole(folder: Path) -> bool:
    """Whether a folder holds config, weights and tokenizer."""
    try:
        weight_files(folder)
    except StudentError:
        return False
    return (folder / "config.json").is_file() and any(any(folder.glob(name)) for name in _TOKENIZERS)


def folder_digest(folder: Path) -> str:
    """Identifies what a folder's model says: its weights, config, tokenizer, chat template and processor.

    Raises:
        StudentError: If there are no weights, or if a file cannot be read.
    """
    files = {*weight_files(folder), *(f for f in folder.iterdir() if any(fnmatch(f.name, p) for p in _TELLING))}
    total = hashlib.blake2b(digest_size=16)
    for file in sorted(files):
        if file.is_file():
            total.update(f"{file.name}\0{file_digest(file)}\0".encode())
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """Hashes a file; a large one only once, as long as its size and time stay.

    Raises:
        StudentError: If it cannot be read.
    """
    return _remembered(path, "blake2b", _hash)


def file_sha256(path: Path) -> str:
    """Computes a file's SHA-256, as `file_digest` does its hash."""
    return _remembered(path, "sha256", _sha256)


def folder_bytes(folder: Path, precision: str) -> int:
    """Computes how much memory a folder's weights take.

    Args:
        folder: With weights as transformers saves them.
        precision: One of `ITEM_BYTES`.

    Returns:
        Bytes; an estimate where the weights are not safetensors.

    Raises:
        StudentError: If there are no weights, or if they are damaged.
    """
    item = ITEM_BYTES[precision]
    total = 0
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            total += sum(n * item if floating else n * width for n, width, floating in _tensors(file))
        else:
            total += file.stat().st_size * item // ITEM_BYTES.get(_stored_precision(folder), 4)
    return total


def gguf_bytes(path: Path, precision: str) -> int:
    """Computes how much memory the weights of a GGUF file take once they are unpacked.

    Raises:
        StudentError: If it is no GGUF file, or damaged.
    """
    return int(_remembered(path, "elements", _gguf_elements)) * ITEM_BYTES[precision]


def _tensors(path: Path) -> list[tuple[int, int, bool]]:
    """Reads the header of a safetensors file: elements, bytes of each and whether they are floats, by tensor."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= size - 8:
                raise ValueError("its header is longer than the file")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        spans = [(*tensor["data_offsets"], str(tensor["dtype"]), tensor["shape"]) for tensor in header.values()]
        if 8 + length + max((end for _, end, *_ in spans), default=0) != size:
            raise ValueError("it is cut short")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = error if type(error) is ValueError else one_line(error)
        raise StudentError(f"The weights in {str(path)!r} are damaged ({said}): fetch them again.") from error
    found = []
    for start, end, kind, shape in spans:
        elements = 1
        for n in shape:
            elements *= n
        found.append((elements, (end - start) // max(elements, 1), kind.startswith(("F", "BF"))))
    return found


def _stored_precision(folder: Path) -> str:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "float32"
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def _gguf_elements(path: Path) -> str:
    from gguf import GGUFReader

    try:
        return str(sum(int(tensor.n_elements) for tensor in GGUFReader(path).tensors))
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise StudentError(f"{str(path)!r} is no GGUF file, or damaged: {one_line(error)}") from error


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remembered(path: Path, what: str, compute: Callable[[Path], str]) -> str:
    """Computes something of a file that takes long, and keeps it as long as the file stays as it is."""
    try:
        stat = path.stat()
        if stat.st_size < _REMEMBERED:
            return compute(path)
        named = json.dumps([str(path.resolve()), stat.st_size, stat.st_mtime_ns, what])
        kept = cache_folder() / "files" / hashlib.blake2b(named.encode(), digest_size=16).hexdigest()
        if kept.is_file():
            return kept.read_text(encoding="utf-8")
        value = compute(path)
    except OSError as error:
        raise StudentError(f"{str(path)!r} cannot be read: {error.strerror or one_line(error)}.") from error
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}.tmp")
        partial.write_text(value, encoding="utf-8")
        partial.replace(kept)
    except OSError:
        pass  # a cache that cannot be written costs time, nothing else
    return value
