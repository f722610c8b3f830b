"""Models by name, as students and teachers load them: from the Hugging Face hub, a folder, or a `.gguf` file.

    org/model            on the hub, or in the hub's cache on this machine
    org/model@revision   a branch, a tag or a commit of it
    path/to/folder       with config.json, weights and tokenizer
    path/to/file.gguf    unpacked once into the cache; from then on it is a folder like any other

Every model ends up as a folder, and what is read from it is the same for base, training and answering. No code from a
repository is ever run. Finding a model, its digest and its size need no torch.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Final

from dgym.cache import cache_folder
from dgym.errors import DgymError, InfrastructureError, StudentError, UsageError, one_line, unknown_name
from dgym.models import hub
from dgym.models.hub import size_text
from dgym.models.weights import ITEM_BYTES, file_digest, folder_bytes, folder_digest, gguf_bytes

if TYPE_CHECKING:
    from dgym.models.prompts import Prompts

_PART: Final = re.compile(r"-\d{5}-of-\d{5}$")
_FLASH: Final = "flash_attention_2"
_CODE: Final = "no code from a repository; choose a model that transformers has itself"
_LONG: Final = 300  # of what transformers says
_LOADING = RLock()  # transformers sets torch's default precision while it builds a model


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model is read from.

    Attributes:
        source: A folder, or a name on the hub.
        gguf: The file in the folder that is to be read; empty for weights as transformers saves them.
        local: Whether the network is not needed.
        revision: Branch, tag or commit on the hub; empty for `main`, and for what is no name on the hub.
    """

    source: str
    gguf: str
    local: bool
    revision: str = ""

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(Path(self.source) / self.gguf) if self.gguf else hub.shown(self.source, self.revision)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready to be asked.

    Attributes:
        model: Of transformers, on its device, in evaluation mode.
        prompts: The one path from a problem to tokens.
        sees: Whether it reads images beside text.
        precision: In what it computes: `"float32"`, `"bfloat16"` or `"float16"`.
        folder: Where its files lie: config, weights and tokenizer as transformers saves them.
    """

    model: Any
    prompts: Prompts
    sees: bool
    precision: str
    folder: Path


def locate(model: str) -> Place:
    """Finds a model without reading its weights; the hub is asked only for what is not in its cache.

    Args:
        model: See the module.

    Raises:
        UsageError: If there is no such model; the message says what to do.
        InfrastructureError: If the hub answers with an error.
    """
    path = Path(model).expanduser()
    if path.suffix == ".gguf":
        return _gguf(model, path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(f"The folder {model!r} holds no language model: it has no config.json.")
        return Place(str(path), "", local=True)
    name, _, revision = model.partition("@")
    if path.is_absolute() or model.startswith((".", "~")) or name.count("/") > 1:
        raise UsageError(f"There is no folder {model!r} with a language model.")
    if hub.cached(name, revision) is not None:
        return Place(name, "", local=True, revision=revision)
    hub.described(name, revision)
    return Place(name, "", local=False, revision=revision)


def model_bytes(place: Place, precision: str) -> int:
    """Computes how much memory a model's weights take, without loading them.

    Args:
        place: From `locate`.
        precision: `"float32"`, `"bfloat16"` or `"float16"`.

    Returns:
        Bytes; an estimate where the weights are not safetensors.

    Raises:
        StudentError: If its files are incomplete or damaged.
        UsageError: If there is no such precision.
    """
    if precision not in ITEM_BYTES:
        raise unknown_name("precision", precision, ITEM_BYTES)
    if place.gguf:
        return gguf_bytes(Path(place.source) / place.gguf, precision)
    folder = _present(place)
    if folder is not None:
        return folder_bytes(folder, precision)
    remote = hub.described(place.source, place.revision)
    item = ITEM_BYTES[precision]
    # Most of what is published is stored in half precision.
    return remote.elements * item if remote.elements else remote.weight_bytes * item // 2


def model_digest(place: Place) -> str:
    """Identifies a model's weights, tokenizer and template, without loading them.

    Args:
        place: From `locate`.

    Returns:
        The commit of what comes from the hub, else a hash of the files. Large files are hashed once.

    Raises:
        StudentError: If its files are incomplete or cannot be read.
    """
    if place.gguf:
        return file_digest(Path(place.source) / place.gguf)
    folder = _present(place)
    if folder is None:
        return hub.described(place.source, place.revision).commit
    return folder_digest(folder) if Path(place.source).is_dir() else folder.name


def resolve_precision(precision: str, device: str) -> str:
    """Chooses in what a model computes.

    Args:
        precision: `"float32"`, `"bfloat16"`, `"float16"`, or `"auto"`: float32 on the CPU, and on a GPU bfloat16
            where it has that, else float16.
        device: Such as `"cpu"` or `"cuda:0"`.

    Raises:
        UsageError: If there is no such precision or device.
    """
    if precision != "auto":
        if precision not in ITEM_BYTES:
            raise unknown_name("precision", precision, (*ITEM_BYTES, "auto"))
        return precision
    if not device.startswith("cuda"):
        return "float32"
    import torch

    with torch.cuda.device(_device(device)):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def attention(device: str, precision: str, config: Any) -> str:
    """Chooses how a model computes attention.

    Args:
        device: Such as `"cpu"` or `"cuda:0"`.
        precision: As `resolve_precision` returns it.
        config: The model's config.

    Returns:
        `"flash_attention_2"` on GPUs from Ampere on where the package flash_attn is installed and the model computes in
        half precision; else `"sdpa"`, and `"eager"` for models that do not have that.

    Raises:
        StudentError: If transformers has no such model.
    """
    kind = _kind(config)
    if (
        device.startswith("cuda")
        and precision != "float32"
        and getattr(kind, "_supports_flash_attn", False)
        and find_spec("flash_attn") is not None
    ):
        import torch

        if torch.cuda.get_device_capability(_device(device)) >= (8, 0):
            return _FLASH
    return "sdpa" if getattr(kind, "_supports_sdpa", False) else "eager"


def load_model(place: Place, device: str = "cpu", precision: str = "auto") -> Loaded:
    """Loads a model and its tokenizer; what is not on this machine is downloaded.

    Args:
        place: From `locate`.
        device: Such as `"cpu"` or `"cuda:0"`.
        precision: See `resolve_precision`.

    Raises:
        UsageError: If there is no such device or precision.
        StudentError: If it does not fit into the device's memory, if transformers does not know it, if it needs code
            from its repository, or if its files are incomplete or damaged.
        InfrastructureError: If it cannot be downloaded or unpacked.
    """
    _device(device)
    precision = resolve_precision(precision, device)
    _fits(place, precision, device)
    if place.gguf:
        folder = _unpacked(place, precision)
    else:
        folder = _present(place) or hub.download(place.source, place.revision)
    with _LOADING, _explained(place), _unattended():
        return _read(place, folder, device, precision)


def _read(place: Place, folder: Path, device: str, precision: str) -> Loaded:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    from dgym.models.prompts import Prompts, sees_images

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    sees = sees_images(config)
    chosen = attention(device, precision, config)
    options: dict[str, Any] = {}
    if chosen == _FLASH or not sees:
        # The parts of a model that sees may differ in what they have; by itself transformers chooses for each.
        options["attn_implementation"] = chosen
    if device != "cpu":
        options["device_map"] = {"": device}  # straight to the device: main memory may be smaller
    model, found = (AutoModelForImageTextToText if sees else AutoModelForCausalLM).from_pretrained(
        folder, dtype=getattr(torch, precision), local_files_only=True, output_loading_info=True, **options
    )
    _complete(place, found)
    side = getattr(getattr(config, "vision_config", None), "image_size", None)
    ends = getattr(model.generation_config, "eos_token_id", None)
    prompts = Prompts.load(str(folder), sees, side, ends)
    return Loaded(model.eval(), prompts, sees, precision, folder)


def _complete(place: Place, found: Mapping[str, Any]) -> None:
    """Checks that no weights were missing, in whose place transformers puts random ones.

    Raises:
        StudentError: If there were.
    """
    missing = sorted(found["missing_keys"])
    if missing:
        raise StudentError(
            f"The model {place.name!r} lacks {len(missing)} of its weights, such as {missing[0]}: they would be random."
        )


def _gguf(model: str, path: Path) -> Place:
    if not path.is_file():
        raise UsageError(f"There is no file {model!r}.")
    if find_spec("gguf") is None:
        raise UsageError("GGUF files are read with the package gguf: pip install gguf.")
    if _PART.search(path.stem):
        raise UsageError(
            f"{model!r} is one of several parts: join them with `llama-gguf-split --merge`, and name that."
        )
    return Place(str(path.parent), path.name, local=True)


def _present(place: Place) -> Path | None:
    """Returns the folder with a model's files; `None` if it has to be downloaded."""
    folder = Path(place.source)
    return folder if folder.is_dir() else hub.cached(place.source, place.revision)


def _device(device: str) -> Any:
    """Checks that a device is there.

    Raises:
        UsageError: If not.
    """
    import torch

    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise UsageError(
            f"There is no device {device!r}; devices are named cpu, cuda, or cuda:0, cuda:1, ..."
        ) from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UsageError(f"There is no device {device!r}: PyTorch sees {count or 'no'} GPU{'s' if count > 1 else ''}.")
    return found


def _fits(place: Place, precision: str, device: str) -> None:
    """Checks that a model fits into the memory that is free just now.

    Raises:
        StudentError: If not.
    """
    needed = model_bytes(place, precision)
    free = free_bytes(device)
    if free is None or needed <= free:
        return
    other = 'precision = "bfloat16", ' if precision == "float32" else ""
    where = "the CPU" if device == "cpu" else device
    raise StudentError(
        f"The model {place.name!r} takes about {size_text(needed)} in {precision}, and {where} has {size_text(free)} "
        f"free: choose {other}a smaller model, or a machine with more memory."
    )


def free_bytes(device: str) -> int | None:
    """Returns a device's free memory, in bytes; `None` where that is not known."""
    if device == "cpu":
        import psutil

        return int(psutil.virtual_memory().available)
    if not device.startswith("cuda"):
        return None
    import torch

    return int(torch.cuda.mem_get_info(_device(device))[0])


def _kind(config: Any) -> Any:
    """Returns the class of transformers that a config is for.

    Raises:
        StudentError: If there is none that writes text.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    for known in (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING):
        if type(config) in known:
            found = known[type(config)]
            return found[0] if isinstance(found, tuple | list) else found
    way = f"dgym runs {_CODE}" if getattr(config, "auto_map", None) else "choose one that continues a text"
    raise StudentError(
        f"The model {config.name_or_path!r} is of the kind {config.model_type!r}, of which transformers has no "
        f"language model: {way}."
    )


@contextmanager
def _explained(place: Place) -> Iterator[None]:
    """Turns what goes wrong while a model is read into one line that says what to do."""
    from safetensors import SafetensorError
    from transformers import __version__ as version

    from dgym.models.memory import is_out_of_memory

    begin = f"The model {place.name!r} cannot be loaded"
    try:
        yield
    except DgymError:
        raise
    except SafetensorError as error:
        raise StudentError(f"{begin}: its weights are damaged ({one_line(error)}); fetch them again.") from error
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, MemoryError) as error:
        text = one_line(error)[:_LONG]
        if is_out_of_memory(error):
            text = "memory does not suffice; choose a smaller model, a lower precision, or a machine with more memory"
        elif "trust_remote_code" in text:
            text = f"it needs code of its own, and dgym runs {_CODE}"
        elif "does not recognize this architecture" in text or ("GGUF" in text and "not supported" in text):
            kind = re.search(r"`([^`]+)`|architecture '?([\w-]+)'?", text)
            named = repr(kind[1] or kind[2]) if kind else "this architecture"
            text = f"transformers {version} does not know {named}"
        raise StudentError(f"{begin}: {text.rstrip('.')}.") from error


@contextmanager
def _unattended() -> Iterator[None]:
    """Has transformers neither print nor ask: it would at the terminal, whether to run a repository's code."""
    from transformers import dynamic_module_utils as module
    from transformers.utils import logging

    logging.disable_progress_bar()
    verbosity, seconds = logging.get_verbosity(), module.TIME_OUT_REMOTE_CODE
    logging.set_verbosity_error()
    module.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        module.TIME_OUT_REMOTE_CODE = seconds


def _unpacked(place: Place, precision: str) -> Path:
    """Writes the model of a GGUF file as transformers saves one, dequantised, into the cache; once.

    Reading the file takes transformers twenty seconds and more, and what comes out counts as quantised: it cannot be
    saved.

    Raises:
        StudentError: If it cannot be read.
        InfrastructureError: If the cache cannot be written.
    """
    from safetensors import SafetensorError
    from transformers import __version__ as version

    parent = cache_folder() / "models" / "unpacked"
    # How the tokenizer is made from the file depends on the version.
    out = parent / f"{model_digest(place)}-{precision}-{version}"
    if (out / "config.json").is_file():
        return out
    _fits(place, precision, "cpu")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with (parent / f"{out.name}.lock").open("w") as lock, _LOADING:
            fcntl.flock(lock, fcntl.LOCK_EX)  # several hosts may want the same one
            if not (out / "config.json").is_file():
                with tempfile.TemporaryDirectory(dir=parent, prefix=".partial-") as partial:
                    with _explained(place), _unattended():
                        made = _dequantised(place, precision)
                    for part in made:
                        part.save_pretrained(Path(partial) / "model")
                    shutil.rmtree(out, ignore_errors=True)
                    (Path(partial) / "model").replace(out)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InfrastructureError(
            f"{place.name!r} cannot be unpacked into {str(parent)!r}, where it takes "
            f"{size_text(model_bytes(place, precision))}: {reason}; set DGYM_CACHE to another folder."
        ) from error
    return out


def _dequantised(place: Place, precision: str) -> tuple[Any, Any]:
    """Reads model and tokenizer of a GGUF file."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers import modeling_gguf_pytorch_utils as module

    # Newer versions would keep some weights packed; older ones never do.
    packing = getattr(transformers, "GgufConfig", None)
    options: dict[str, Any] = {"quantization_config": packing(dequantize=True)} if packing else {}
    bar, module.tqdm = module.tqdm, lambda items, **_: items  # it would show in spite of that
    try:
        source = {"gguf_file": place.gguf, "local_files_only": True}
        tokenizer = AutoTokenizer.from_pretrained(place.source, **source)
        read, found = AutoModelForCausalLM.from_pretrained(
            place.source, dtype=getattr(torch, precision), output_loading_info=True, **options, **source
        )
    finally:
        module.tqdm = bar
    _complete(place, found)
    plain = {k: v for k, v in read.config.to_dict().items() if k != "quantization_config"}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(type(read.config).from_dict(plain), dtype=read.dtype)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = read.generation_config
    return model, tokenizer
