"""Painters: what they draw, what they refuse, and a real (tiny) diffusion pipeline where diffusers is installed."""

import io
import json
import pickle
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dgym.domains.scenes import SIDE, describe, draw_scene, read_description, read_scene, render
from dgym.domains.vqa import VqaDomain
from dgym.errors import InfrastructureError, TeacherError, UsageError
from dgym.models import images
from dgym.teachers.painters import DEFAULT_MODEL, Diffusers, Noise, Painter, SceneRenderer, find_painter

SCENE = "a large red circle at the top left; a small blue square in the middle"


def opened(png):
    return Image.open(io.BytesIO(png))


# --------------------------------------------------------------------------------------------------------------
# Scenes and noise


@settings(deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 2**63 - 1))
def test_a_described_scene_is_drawn_exactly(rng, seed):
    scene = draw_scene(rng)
    png = SceneRenderer().paint(describe(scene), seed)
    assert png == render(scene)
    assert read_scene(png) == scene


def test_what_cannot_be_drawn_as_it_was_said_is_refused():
    with pytest.raises(TeacherError, match="a dog"):
        SceneRenderer().paint(f"{SCENE}; a dog", 1)


def test_the_domain_tells_teachers_how_to_describe_a_picture():
    [example] = re.findall(r"For example: '(.*?)'", VqaDomain.pictures)
    scene = read_description(example)
    assert scene is not None
    assert describe(scene) == example
    # All that may be said is named.
    words = set(re.findall(r"\w+", VqaDomain.pictures))
    rng = random.Random(1)
    said = {word for _ in range(100) for word in draw_scene(rng).text.replace(",", "").split() if word.isalpha()}
    assert said <= words
    assert {"top", "middle", "bottom", "left", "right"} <= words


def test_noise_depends_on_the_seed_alone():
    one = Noise().paint(SCENE, 1)
    assert (opened(one).format, opened(one).mode, opened(one).size) == ("PNG", "RGB", (SIDE, SIDE))
    assert Noise().paint("", 1) == one
    assert Noise().paint(SCENE, 2) != one
    assert len(set(opened(one).get_flattened_data())) > SIDE * SIDE // 2
    assert read_scene(one) is None


# --------------------------------------------------------------------------------------------------------------
# Names


def test_painters_are_found_by_name(monkeypatch):
    monkeypatch.setattr(images, "require", lambda: None)
    assert find_painter("scene") == SceneRenderer()
    assert find_painter("noise") == Noise()
    assert find_painter("diffusers") == Diffusers(DEFAULT_MODEL)
    assert find_painter("diffusers:a/model") == Diffusers("a/model")
    assert find_painter("diffusers:/a/folder:x").model == "/a/folder:x"
    for name in ("scene", "noise", "diffusers", "diffusers:a/model"):
        painter = find_painter(name)
        assert isinstance(painter, Painter)
        assert painter.name == name
        assert pickle.loads(pickle.dumps(painter)) == painter


@pytest.mark.parametrize("name", ["scenes", "", "diffusers:", "scene:x", "noise.py"])
def test_an_unknown_painter_is_told(name):
    with pytest.raises(UsageError, match="There is no painter named") as raised:
        find_painter(name)
    assert "Known: diffusers, diffusers:MODEL, noise, scene." in str(raised.value)
    assert ("Did you mean 'scene'?" in str(raised.value)) == name.startswith("scene")


PAINTER = """
class Grey:
    name, version = "grey", "3"
    def paint(self, description, seed):
        return b"grey"
grey = Grey()
def make():
    return Grey()
def broken():
    raise RuntimeError("no paint")
number = 7
class Wordless:
    pass
"""


@pytest.mark.parametrize("attribute", ["Grey", "grey", "make"])
def test_a_painter_comes_from_a_file(teacher_file, attribute):
    painter = find_painter(teacher_file(PAINTER, attribute))
    assert (painter.name, painter.version, painter.paint("x", 1)) == ("grey", "3", b"grey")


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("broken", "RuntimeError: no paint"),
        ("number", "cannot be made"),
        ("Wordless", "must have name, version and paint"),
        ("Gray", "Did you mean 'Grey'"),
    ],
)
def test_a_bad_painter_in_a_file_is_told(teacher_file, attribute, message):
    with pytest.raises(UsageError, match=message):
        find_painter(teacher_file(PAINTER, attribute))


# --------------------------------------------------------------------------------------------------------------
# Diffusion models


def test_without_diffusers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    painter = find_painter("diffusers")
    for use in (painter.check, partial(painter.paint, "a dog", 1)):
        with pytest.raises(UsageError, match=r'pip install "dgym\[images\]"') as raised:
            use()
        assert "\n" not in str(raised.value)


def test_nothing_heavy_is_loaded_before_the_first_picture():
    code = (
        "import sys\n"
        "from dgym.models import images\n"
        "from dgym.teachers.painters import find_painter\n"
        "print(*[find_painter(n).version for n in ('scene', 'noise', 'diffusers', 'diffusers:x')])\n"
        "print(*sorted({'torch', 'diffusers', 'transformers', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == [""]


def test_settings_are_checked_and_told_by_the_version(monkeypatch):
    monkeypatch.setattr(images, "require", lambda: None)
    for wrong in ({"steps": 0}, {"size": 100}, {"size": 0}, {"guidance": -1.0}):
        with pytest.raises(UsageError, match="an image model needs"):
            Diffusers(**wrong)
    changed = [Diffusers(), Diffusers(steps=2), Diffusers(guidance=2.0), Diffusers(size=64)]
    assert len({painter.version for painter in changed}) == len(changed)
    assert Diffusers(device="cpu").version == Diffusers().version


class Output:
    def __init__(self, *pictures, flagged=None):
        self.images, self.nsfw_content_detected = pictures, flagged


def pipeline_that(act):
    """Makes a pipeline that acts on its keyword arguments; only for what the tiny model cannot be made to do."""

    class Pipeline:
        def __call__(self, prompt, num_inference_steps, height, width, generator, output_type):
            return act()

    return images.TextToImage("m", Pipeline())


def failing(error):
    def act():
        raise error

    return act


def test_a_picture_that_the_safety_checker_withholds_is_refused(monkeypatch):
    pytest.importorskip("torch")
    black = Image.new("RGB", (8, 8))
    monkeypatch.setattr(images, "require", lambda: None)
    for flagged, kept in (([True], False), ([False], True), (None, True)):
        loaded = pipeline_that(lambda flagged=flagged: Output(black, flagged=flagged))
        monkeypatch.setattr(images, "text_to_image", lambda model, device, loaded=loaded: loaded)
        if kept:
            assert opened(Diffusers("m", size=8).paint("x", 1)).size == (8, 8)
        else:
            with pytest.raises(TeacherError, match="safety checker withheld"):
                Diffusers("m", size=8).paint("x", 1)


def test_failures_of_a_pipeline_are_told_apart():
    for error, kind, message in (
        (RuntimeError("out of\nmemory"), InfrastructureError, "'m' failed: RuntimeError: out of memory"),
        (ValueError("`height` must be divisible by 16"), UsageError, "size 8: ValueError: `height` must"),
    ):
        with pytest.raises(kind, match=message):
            pipeline_that(failing(error)).draw("x", 1, steps=1, guidance=0.0, size=8)


VOCABULARY = [
    "<|startoftext|>",
    "<|endoftext|>",
    *(f"{c}{end}" for end in ("", "</w>") for c in map(chr, range(97, 123))),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a randomly initialised Stable Diffusion of about 50 000 parameters."""
    diffusers = pytest.importorskip("diffusers", reason="the extra `images` is not installed")
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    words, folder = tmp_path_factory.mktemp("words"), tmp_path_factory.mktemp("tiny")
    (words / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(VOCABULARY)}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine, threads cost more than a model of this size saves
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(VOCABULARY),
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=77,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        )
        unet = diffusers.UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
        )
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=4,
            latent_channels=4,
        )
    diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(words, model_max_length=77),
        unet=unet,
        scheduler=diffusers.EulerAncestralDiscreteScheduler(),  # it keeps its step, as that of sdxl-turbo does
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture
def painter(tiny):
    return Diffusers(str(tiny), steps=2, size=64, device="cpu")


def test_a_model_draws_by_seed_and_description(painter):
    one = painter.paint("a red circle", 1)
    assert (opened(one).format, opened(one).mode, opened(one).size) == ("PNG", "RGB", (64, 64))
    assert painter.paint("a red circle", 1) == one
    assert painter.paint("a red circle", 2) != one
    assert painter.paint("a blue square", 1) != one
    assert painter.paint("a red circle", 2**63 - 1) != one


def test_steps_guidance_and_size_reach_the_model(tiny, painter):
    made = {painter.paint("a red circle", 1)}
    for changed in ({"steps": 3}, {"guidance": 7.5}, {"size": 32}):
        settings = {"steps": 2, "size": 64, "device": "cpu", **changed}
        made.add(Diffusers(str(tiny), **settings).paint("a red circle", 1))
    assert len(made) == 4


def test_threads_share_a_model(tiny):
    images._load.cache_clear()
    painters = [Diffusers(str(tiny), steps=3, size=32, device="cpu") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda n: painters[n % 4].paint("a red circle", n), range(12)))
    assert images._load.cache_info().misses == 1
    assert together == [painters[0].paint("a red circle", n) for n in range(12)]


def test_nothing_global_is_touched(painter):
    import torch

    images._load.cache_clear()
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    painter.paint("a red circle", 1)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_empty_description_is_refused(painter):
    with pytest.raises(TeacherError, match="empty"):
        painter.paint(" \n", 1)


def test_a_name_finds_the_model_in_a_folder(tiny):
    assert find_painter(f"diffusers:{tiny}").name == f"diffusers:{tiny}"


def test_what_is_no_model_is_told(tiny, tmp_path):
    for model, message in (
        (str(tmp_path / "none"), "There is no folder"),
        ("./none", "There is no folder"),
        (str(tmp_path), "cannot be loaded as a text-to-image model"),
    ):
        with pytest.raises(UsageError, match=message) as raised:
            Diffusers(model).paint("x", 1)
        assert "\n" not in str(raised.value)
    config = json.loads((tiny / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**config, "_class_name": "DDPMPipeline"}))
    with pytest.raises(UsageError, match="DDPMPipeline"):
        Diffusers(str(tmp_path)).paint("x", 1)


def test_a_model_that_is_not_here_is_told_offline(monkeypatch, tmp_path):
    pytest.importorskip("diffusers", reason="the extra `images` is not installed")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        InfrastructureError, match=r"hf download a/model --local-dir FOLDER.*diffusers:FOLDER"
    ) as raised:
        Diffusers("a/model").paint("x", 1)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("gated", [True, False])
def test_a_model_that_the_hub_does_not_give_is_told(monkeypatch, gated):
    diffusers = pytest.importorskip("diffusers", reason="the extra `images` is not installed")
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    kind = GatedRepoError if gated else RepositoryNotFoundError

    def from_pretrained(model, **settings):
        if settings.get("local_files_only"):
            raise OSError("not in the cache")
        try:
            raise kind.__new__(kind)
        except kind:
            # As diffusers does it, without `from`.
            raise OSError("is not a valid model identifier")  # noqa: B904

    monkeypatch.setattr(diffusers.AutoPipelineForText2Image, "from_pretrained", from_pretrained)
    with pytest.raises(UsageError, match="accepted its terms" if gated else "neither as a folder nor on the hub"):
        Diffusers("a/model").paint("x", 1)
