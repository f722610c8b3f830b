"""Pictures from text: any text-to-image pipeline of diffusers, from a folder or from the Hugging Face hub.

The one place that imports diffusers, and it does so when a pipeline is first needed.
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from dgym.errors import DgymError, InfrastructureError, UsageError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image


def require() -> None:
    """Checks that diffusers is installed, without importing it.

    Raises:
        UsageError: If it is not.
    """
    if find_spec("diffusers") is None:
        raise UsageError('Pictures by a diffusion model need diffusers; install it with pip install "dgym[images]".')


class TextToImage:
    """A loaded text-to-image pipeline. Threads may share it: it draws one picture at a time.

    Args:
        model: What it was loaded from, for messages.
        pipeline: The pipeline of diffusers.
    """

    def __init__(self, model: str, pipeline: Any) -> None:
        self._model, self._pipeline = model, pipeline
        # The scheduler of a pipeline keeps where it is in a picture.
        self._lock = Lock()

    def draw(self, text: str, seed: int, *, steps: int, guidance: float, size: int) -> Image | None:
        """Draws a picture; on one machine, the same arguments give the same pixels.

        Args:
            text: What is to be seen. A model reads as much of it as its text encoder takes, often 77 tokens.
            seed: Seed of the noise that the picture is made from.
            steps: Denoising steps.
            guidance: Scale of classifier-free guidance, for pipelines that have one; up to 1 there is none.
            size: Width and height in pixels.

        Returns:
            The picture; `None` where the pipeline's own safety checker withholds it.

        Raises:
            UsageError: If the pipeline does not take these settings.
            InfrastructureError: If it fails, for example for want of memory.
        """
        import torch

        settings: dict[str, float] = {"num_inference_steps": steps, "height": size, "width": size}
        if "guidance_scale" in inspect.signature(self._pipeline.__call__).parameters:
            settings["guidance_scale"] = guidance
        # Noise from the CPU is the same whatever the model runs on.
        generator = torch.Generator("cpu").manual_seed(seed)
        with self._lock:
            try:
                made = self._pipeline(prompt=text, generator=generator, output_type="pil", **settings)
            except (TypeError, ValueError) as error:
                raise UsageError(
                    f"The image model {self._model!r} does not draw with {steps} steps, guidance {guidance} and size "
                    f"{size}: {one_line(error)}"
                ) from error
            except RuntimeError as error:
                raise InfrastructureError(f"The image model {self._model!r} failed: {one_line(error)}") from error
        withheld = getattr(made, "nsfw_content_detected", None)
        if withheld and withheld[0]:
            return None
        picture: Image = made.images[0]
        return picture


_LOADING = Lock()


def text_to_image(model: str, device: str = "auto") -> TextToImage:
    """Returns a pipeline, loaded once and kept until another is asked for.

    What is in the cache of the hub is used without asking the network, whatever is newer.

    Args:
        model: A folder that `save_pretrained` wrote, or a name on the hub.
        device: Such as `"cpu"` or `"cuda:0"`; `"auto"` takes a GPU if there is one. On a GPU it is loaded in half
            precision.

    Raises:
        UsageError: If diffusers is not installed, or if there is no such text-to-image model.
        InfrastructureError: If the model is not here and the hub cannot be reached.
    """
    with _LOADING:
        return _load(model, device)


@lru_cache(maxsize=1)
def _load(model: str, device: str) -> TextToImage:
    require()
    import torch
    from diffusers import AutoPipelineForText2Image
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = {"dtype": torch.float32 if device == "cpu" else torch.float16}
    folder = Path(model).expanduser()
    try:
        if folder.is_dir():
            pipeline = AutoPipelineForText2Image.from_pretrained(str(folder), local_files_only=True, **settings)
        elif folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
            raise UsageError(f"There is no folder {model!r} with an image model.")
        else:
            pipeline = _from_hub(model, settings)
        pipeline.to(device)
    except DgymError:
        raise
    except (OSError, ValueError, KeyError, ImportError, AssertionError) as error:
        raise UsageError(f"{model!r} cannot be loaded as a text-to-image model: {one_line(error)}") from error
    except RuntimeError as error:
        raise InfrastructureError(f"The image model {model!r} cannot be loaded: {one_line(error)}") from error
    pipeline.set_progress_bar_config(disable=True)
    return TextToImage(model, pipeline)


def _from_hub(model: str, settings: dict[str, Any]) -> Any:
    from diffusers import AutoPipelineForText2Image
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        # First without the network: where there is none, the hub would be tried for half a minute.
        return AutoPipelineForText2Image.from_pretrained(model, local_files_only=True, **settings)
    except (OSError, ValueError):
        pass  # not in the cache, or only a part of it
    try:
        return AutoPipelineForText2Image.from_pretrained(model, **settings)
    except OSError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, RepositoryNotFoundError):
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, GatedRepoError):
            raise UsageError(
                f"The image model {model!r} is for those who accepted its terms: accept them on its page on the hub, "
                "then `hf auth login`."
            ) from error
        if cause is not None:
            raise UsageError(f"There is no image model {model!r}, neither as a folder nor on the hub.") from error
        raise InfrastructureError(
            f"The image model {model!r} is not on this machine and cannot be downloaded. Where there is a network, "
            f"fetch it with `hf download {model} --local-dir FOLDER`; then name the folder: diffusers:FOLDER."
        ) from error
