"""Loading of models: real tiny ones from folders, a GGUF file and a hub that stands on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, CLIPTextConfig

from dgym.errors import InfrastructureError, StudentError, UsageError
from dgym.models import hub as hub_module
from dgym.models import load, weights
from dgym.models.load import (
    attention,
    load_model,
    locate,
    model_bytes,
    model_digest,
    resolve_precision,
)

WEIGHTS = Path(load.__file__).parents[1] / "students" / "weights"

pytestmark = pytest.mark.usefixtures("cache")


def said(kind: type[Exception], function, *args) -> str:
    """Calls what must fail, and returns the one line that it says."""
    with pytest.raises(kind) as caught:
        function(*args)
    assert type(caught.value) is kind
    text = str(caught.value)
    assert "\n" not in text
    return text


def failing(place: str | Path) -> str:
    return said(StudentError, lambda: load_model(locate(str(place))))


# Folders ----------------------------------------------------------------------------------------------------------


def test_a_folder(saved: Path, tiny, halved, answers) -> None:
    loaded = load_model(locate(str(saved)))
    assert answers(loaded.model, halved)
    assert (loaded.sees, loaded.precision, loaded.folder) == (False, "float32", saved)
    assert not loaded.model.training
    assert loaded.prompts.tokenizer.decode(loaded.prompts.encode("add 1 2").ids) == "add 1 2<answer>"
    assert loaded.prompts.ends == (tiny[1].eos_token_id,)


@pytest.mark.parametrize("name", ["micro-math-a", "micro-vqa-a"])
def test_students_that_ship_are_those_that_transformers_makes_by_itself(name: str) -> None:
    """Also: what is said of a model before it is loaded is what there is afterwards."""
    place = locate(str(WEIGHTS / name))
    loaded = load_model(place)
    kind = AutoModelForImageTextToText if loaded.sees else AutoModelForCausalLM
    plain = kind.from_pretrained(place.source, dtype=torch.float32)
    assert loaded.sees == (name == "micro-vqa-a")
    ours, theirs = loaded.model.state_dict(), plain.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    attentions = [
        [m.config._attn_implementation for m in x.modules() if hasattr(m, "config")] for x in (plain, loaded.model)
    ]
    assert attentions[0] == attentions[1]
    assert {*attentions[0]} == {"sdpa"}
    assert model_bytes(place, "float32") == sum(p.nbytes for p in loaded.model.parameters())
    assert model_bytes(place, "bfloat16") * 2 == model_bytes(place, "float32")


def test_weights_in_several_files(tiny, tmp_path: Path, answers) -> None:
    tiny[0].save_pretrained(tmp_path, max_shard_size="200KB")
    tiny[1].save_pretrained(tmp_path)
    place = locate(str(tmp_path))
    assert len(weights.weight_files(tmp_path)) == 2
    assert model_bytes(place, "float32") == sum(p.nbytes for p in tiny[0].parameters())
    assert answers(load_model(place).model, tiny[0])
    before = model_digest(place)
    last = weights.weight_files(tmp_path)[-1]
    save_file({k: v + 1 for k, v in load_file(last).items()}, last, metadata={"format": "pt"})
    assert model_digest(place) != before
    last.unlink()
    text = failing(tmp_path)
    assert "lacks 1 of its 2 files of weights, such as model-00002-of-00002.safetensors" in text
    (tmp_path / "model.safetensors.index.json").write_text("{")
    assert "model.safetensors.index.json' is damaged" in failing(tmp_path)


def test_weights_as_pytorch_once_saved_them(tiny, copied: Path, answers) -> None:
    (copied / "model.safetensors").unlink()
    torch.save(tiny[0].state_dict(), copied / "pytorch_model.bin")
    assert answers(load_model(locate(str(copied))).model, tiny[0])
    size = (copied / "pytorch_model.bin").stat().st_size
    assert model_bytes(locate(str(copied)), "bfloat16") == size // 2


def test_precision(saved: Path) -> None:
    loaded = load_model(locate(str(saved)), "cpu", "bfloat16")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    assert "Did you mean 'bfloat16'" in said(UsageError, load_model, locate(str(saved)), "cpu", "bfloat61")
    assert "no precision named 'auto'" in said(UsageError, model_bytes, locate(str(saved)), "auto")


def test_precision_and_attention_are_those_of_the_device(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = AutoConfig.from_pretrained(saved)
    assert resolve_precision("auto", "cpu") == "float32"
    assert resolve_precision("float16", "cpu") == "float16"
    assert attention("cpu", "float32", config) == "sdpa"
    assert "PyTorch sees no GPU" in said(UsageError, resolve_precision, "auto", "cuda:0")

    has = SimpleNamespace(bfloat16=True, flash=True, capability=(9, 0))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device", lambda d: pytest.MonkeyPatch.context())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has.bfloat16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda d: has.capability)
    monkeypatch.setattr(load, "find_spec", lambda name: has.flash or None)
    assert resolve_precision("auto", "cuda:1") == "bfloat16"
    assert attention("cuda:1", "bfloat16", config) == "flash_attention_2"
    assert attention("cuda:1", "float32", config) == "sdpa"
    assert attention("cpu", "bfloat16", config) == "sdpa"
    has.bfloat16, has.capability = False, (7, 5)
    assert resolve_precision("auto", "cuda:1") == "float16"
    assert attention("cuda:1", "float16", config) == "sdpa"
    has.capability, has.flash = (8, 0), False
    assert attention("cuda:1", "float16", config) == "sdpa"
    without = SimpleNamespace(_supports_sdpa=False)
    monkeypatch.setattr(load, "_kind", lambda config: without)
    assert attention("cuda:1", "float16", config) == attention("cpu", "float32", config) == "eager"
    assert "sees 2 GPUs" in said(UsageError, resolve_precision, "auto", "cuda:2")


def test_a_device_that_is_not_there(saved: Path) -> None:
    assert "devices are named cpu, cuda" in said(UsageError, load_model, locate(str(saved)), "gpu")


def test_a_model_that_sees_stays_one_in_another_precision() -> None:
    loaded = load_model(locate(str(WEIGHTS / "micro-vqa-a")), "cpu", "bfloat16")
    assert loaded.sees
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}


# Digests ----------------------------------------------------------------------------------------------------------


def test_the_digest_is_that_of_all_that_moves_an_answer(copied: Path) -> None:
    place = locate(str(copied))
    first = model_digest(place)
    (copied / "README.md").write_text("About it.")
    (copied / "trainer_state.json").write_text("{}")
    assert model_digest(place) == first
    seen = {first}
    for name in ("model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"):
        before = (copied / name).read_bytes()
        (copied / name).write_bytes(before[:-1] + b" ")
        seen.add(model_digest(place))
        (copied / name).write_bytes(before)
    assert len(seen) == 6
    assert model_digest(place) == first


def test_a_large_file_is_hashed_once_while_it_stays(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    real = weights._hash
    monkeypatch.setattr(weights, "_hash", lambda path: hashed.append(path.name) or real(path))
    monkeypatch.setattr(weights, "_REMEMBERED", 50_000)
    place = locate(str(copied))
    first = model_digest(place)
    assert model_digest(place) == first
    assert hashed.count("model.safetensors") == 1
    assert hashed.count("config.json") == 2
    file = copied / "model.safetensors"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert model_digest(place) == first
    assert hashed.count("model.safetensors") == 2


def test_a_cache_that_cannot_be_written_costs_only_time(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_REMEMBERED", 0)
    first = model_digest(locate(str(copied)))
    (tmp_path / "file").touch()
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "file"))
    assert model_digest(locate(str(copied))) == first


def test_names_digests_and_sizes_need_no_torch(saved: Path) -> None:
    code = (
        "import sys\nfrom dgym.models.load import *\n"
        f"place = locate({str(saved)!r})\nmodel_digest(place), model_bytes(place, 'float32')\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# GGUF -------------------------------------------------------------------------------------------------------------


def test_a_gguf_file_is_a_model_like_any_other(
    gguf_file: Path, tiny, answers, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = locate(str(gguf_file))
    assert model_bytes(place, "float32") == sum(p.nbytes for p in tiny[0].parameters())
    loaded = load_model(place)
    assert capfd.readouterr() == ("", ""), "no progress bars"
    assert answers(loaded.model, tiny[0])
    assert loaded.prompts.tokenizer.chat_template == tiny[1].chat_template
    assert loaded.prompts.tokenizer.decode(loaded.prompts.encode("add 1 2").ids) == "add 1 2<answer>"
    assert (loaded.prompts.ends, loaded.prompts.pad) == ((tiny[1].eos_token_id,), tiny[1].pad_token_id)
    loaded.model.save_pretrained(tmp_path / "out")
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    assert not [p for p in loaded.folder.parent.iterdir() if p.name.startswith(".partial")]

    monkeypatch.setattr(load, "_dequantised", lambda *a: pytest.fail("it was unpacked before"))
    assert answers(load_model(place).model, tiny[0])


def test_the_digest_of_a_gguf_file_is_that_of_its_bytes(gguf_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(gguf_file.read_bytes())
    assert model_digest(locate(str(other))) == model_digest(locate(str(gguf_file)))
    other.write_bytes(other.read_bytes()[:-1] + b"\1")
    assert model_digest(locate(str(other))) != model_digest(locate(str(gguf_file)))


def test_a_damaged_gguf_file(gguf_file: Path, tmp_path: Path, cache: Path) -> None:
    other = tmp_path / "other.gguf"
    for content in (b"nothing of the kind", b"", gguf_file.read_bytes()[:5000], gguf_file.read_bytes()[:-5000]):
        other.write_bytes(content)
        assert "is no GGUF file, or damaged" in failing(other)
    assert not list(cache.glob("models/unpacked/*"))


def test_a_gguf_file_of_another_architecture(gguf_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(gguf_file.read_bytes().replace(b"llama", b"lamma"))
    assert "does not know 'lamma'" in failing(other)


def test_part_of_a_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "m-00001-of-00003.gguf").touch()
    assert "llama-gguf-split --merge" in said(UsageError, locate, str(tmp_path / "m-00001-of-00003.gguf"))


def test_a_cache_without_room_for_what_is_unpacked(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "file"))
    text = said(InfrastructureError, load_model, locate(str(gguf_file)))
    assert "cannot be unpacked into" in text
    assert "set DGYM_CACHE to another folder" in text


# The hub ----------------------------------------------------------------------------------------------------------


def test_what_is_not_here_is_downloaded_once(saved: Path, halved, answers, hub, offline) -> None:
    more = {
        "README.md": b"x",
        "modeling_own.py": b"raise SystemExit",
        "pytorch_model.bin": b"x",
        "onnx/model.onnx": b"x",
    }
    commit = hub.add("org/tiny", saved, **more)
    place = locate("org/tiny")
    assert (place.local, place.revision) == (False, "")
    assert model_digest(place) == commit
    assert abs(model_bytes(place, "float16") - model_bytes(locate(str(saved)), "float16")) < 5000
    assert not any("/resolve/" in path for path in hub.asked), "nothing was downloaded so far"
    loaded = load_model(place)
    assert answers(loaded.model, halved)
    assert loaded.folder == hub.cache / "models--org--tiny" / "snapshots" / commit
    assert {f.name for f in loaded.folder.iterdir()} == {f.name for f in saved.iterdir()} - {"README.md"}

    offline()
    again = locate("org/tiny")
    assert again.local
    assert model_digest(again) == commit
    assert model_bytes(again, "float32") == model_bytes(locate(str(saved)), "float32")
    assert answers(load_model(again).model, loaded.model)


def test_revisions(saved: Path, copied: Path, hub, offline) -> None:
    (copied / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    commits = hub.add("org/tiny", saved), hub.add("org/tiny", copied, "v2")
    assert locate("org/tiny@v2").name == "org/tiny@v2"
    assert [model_digest(locate(n)) for n in ("org/tiny", "org/tiny@main", "org/tiny@v2")] == [commits[0], *commits]
    assert "has no branch, tag or commit 'v3'" in said(UsageError, locate, "org/tiny@v3")
    for name in ("org/tiny", "org/tiny@v2"):
        load_model(locate(name))
    offline()
    for name, commit in {
        "org/tiny": 0,
        f"org/tiny@{commits[0]}": 0,
        "org/tiny@v2": 1,
        f"org/tiny@{commits[1]}": 1,
    }.items():
        assert model_digest(locate(name)) == commits[commit]
    loaded = load_model(locate(f"org/tiny@{commits[1]}"))
    assert loaded.prompts.tokenizer.chat_template == "{{ messages[0]['content'] }}"
    assert "'org/tiny@v3' is not on this machine" in said(UsageError, locate, "org/tiny@v3")


def test_a_cache_laid_out_by_others_and_no_network(saved: Path, hub, offline) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    folder = hub.cache / "models--org--other" / "snapshots" / commit
    folder.mkdir(parents=True)
    for file in saved.iterdir():
        (folder / file.name).symlink_to(file)
    (hub.cache / "models--org--other" / "refs").mkdir()
    (hub.cache / "models--org--other" / "refs" / "main").write_text(commit)
    offline()
    assert model_digest(locate("org/other")) == commit
    assert load_model(locate("org/other")).folder == folder
    (folder / "model.safetensors").unlink()
    assert "is not on this machine" in said(UsageError, locate, "org/other")


def test_a_download_that_was_broken_off_is_not_taken_for_a_model(saved: Path, hub, offline) -> None:
    hub.add("org/tiny", saved)
    folder = load_model(locate("org/tiny")).folder
    (folder / "chat_template.jinja").unlink()
    assert not locate("org/tiny").local
    offline()
    assert "is not on this machine" in said(UsageError, locate, "org/tiny")


def test_weights_of_pytorch_are_downloaded_where_there_are_no_others(tiny, copied: Path, hub, answers) -> None:
    (copied / "model.safetensors").unlink()
    torch.save(tiny[0].state_dict(), copied / "pytorch_model.bin")
    hub.add("org/old", copied)
    assert answers(load_model(locate("org/old")).model, tiny[0])


@pytest.mark.parametrize(
    ("status", "code", "kind", "text"),
    [
        (403, "GatedRepo", UsageError, "is for those who accepted its terms: accept them on its page"),
        (401, "GatedRepo", UsageError, "then `hf auth login`"),
        (404, "RepoNotFound", UsageError, "There is no model 'org/tiny' on the Hugging Face hub"),
        (401, "", UsageError, "or it is private"),
        (500, "", InfrastructureError, "refuses 'org/tiny'"),
    ],
)
def test_what_the_hub_refuses(status: int, code: str, kind: type[Exception], text: str, hub) -> None:
    hub.refusals["org/tiny"] = (status, code)
    assert text in said(kind, locate, "org/tiny")


def test_a_hub_that_cannot_be_reached(hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "the Hugging Face hub cannot be reached" in said(UsageError, locate, "org/tiny")


def test_a_download_that_breaks_off(saved: Path, hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/tiny", saved)
    place = locate("org/tiny")

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("huggingface_hub.snapshot_download", full)
        assert "The disk is full" in said(InfrastructureError, load_model, place)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "broke off" in said(InfrastructureError, load_model, place)


def test_a_repository_without_a_model(saved: Path, tmp_path: Path, hub) -> None:
    (tmp_path / "empty").mkdir()
    hub.add("org/gguf", tmp_path / "empty", **{"m.gguf": b""})
    hub.add("org/data", tmp_path / "empty", **{"data.json": b""})
    assert "download one of its .gguf files" in said(UsageError, load_model, locate("org/gguf"))
    assert "no config.json" in said(UsageError, load_model, locate("org/data"))


def test_names_that_are_none(tmp_path: Path, hub) -> None:
    for name in (str(tmp_path / "none"), "./none", "a/b/c", "~/none"):
        assert "There is no folder" in said(UsageError, locate, name)
    assert "There is no file" in said(UsageError, locate, "none.gguf")
    assert "it is no name on the Hugging Face hub" in said(UsageError, locate, "org/a b")
    assert "no config.json" in said(UsageError, locate, str(tmp_path))


# What does not work -----------------------------------------------------------------------------------------------


def test_a_base_that_does_not_fit(saved: Path, gguf_file: Path, hub, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"n": 200_000}
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free["n"]))
    text = failing(saved)
    assert "takes about 0.3 MB in float32, and the CPU has 0.2 MB free" in text
    assert 'choose precision = "bfloat16", a smaller model, or a machine with more memory.' in text
    assert load_model(locate(str(saved)), "cpu", "bfloat16").precision == "bfloat16"
    free["n"] = 100_000
    text = said(StudentError, load_model, locate(str(saved)), "cpu", "bfloat16")
    assert "choose a smaller model, or a machine" in text
    assert "takes about" in failing(gguf_file)
    hub.add("org/tiny", saved)
    assert "takes about" in failing("org/tiny")
    assert not any("/resolve/" in path for path in hub.asked), "what does not fit is not downloaded"


def test_memory_that_is_used_up_meanwhile(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fails)
    assert "memory does not suffice; choose a smaller model" in failing(saved)


def test_damaged_weights(copied: Path) -> None:
    file = copied / "model.safetensors"
    whole = file.read_bytes()
    for content, reason in {
        whole[:-100]: "it is cut short",
        whole[:6]: "its header is longer than the file",
        b"": "its header is longer than the file",
        b"x" * 1000: "its header is longer than the file",
        whole[:8] + b"x" + whole[9:]: "JSONDecodeError",
    }.items():
        file.write_bytes(content)
        text = failing(copied)
        assert "are damaged" in text
        assert reason in text
    file.unlink()
    assert "holds no weights" in failing(copied)


def test_weights_that_lack_a_part(copied: Path) -> None:
    state = load_file(copied / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, copied / "model.safetensors", metadata={"format": "pt"})
    text = failing(copied)
    assert "lacks 1 of its weights, such as model.layers.1.mlp.up_proj.weight" in text


def test_a_folder_without_a_tokenizer(copied: Path) -> None:
    for file in copied.glob("tokenizer*"):
        file.unlink()
    assert "cannot be loaded" in failing(copied)


def changed(copied: Path, name: str = "config.json", **values: object) -> Path:
    file = copied / name
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return copied


def test_an_architecture_that_transformers_does_not_know(copied: Path) -> None:
    assert "does not know 'nonsense'" in failing(changed(copied, model_type="nonsense"))


def test_a_model_that_writes_no_text(copied: Path) -> None:
    (copied / "config.json").write_text(CLIPTextConfig().to_json_string())
    text = failing(copied)
    assert "of the kind 'clip_text_model', of which transformers has no language model" in text


@pytest.mark.parametrize("part", ["config", "tokenizer"])
def test_code_from_a_repository_is_neither_run_nor_asked_about(
    part: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *a: pytest.fail("a question at the terminal"))
    (copied / "own.py").write_text(f"open({str(copied / 'run')!r}, 'w')\nclass Own: pass\n")
    if part == "config":
        changed(copied, model_type="own", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"})
    else:
        changed(copied, "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", None]})
    text = failing(copied)
    assert "dgym runs no code from a repository" in text
    assert not (copied / "run").exists()


def test_what_the_hub_says_is_asked_once(saved: Path, hub) -> None:
    hub.add("org/tiny", saved)
    for _ in range(3):
        model_digest(locate("org/tiny"))
    assert sum(hub.asked.values()) == 1
    assert hub_module.described("org/tiny").licence == "mit"
