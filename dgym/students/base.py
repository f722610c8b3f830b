"""A resident base model and its tenants: many students on one set of weights.

A `Base` is loaded once. Every tenant is one episode's student: a LoRA adapter on the shared base, or, for full
fine-tuning, weights of its own. The model has one place for an adapter; whose turn it is puts its own there, which
takes milliseconds, and the others' lie parked in main memory. Opening a tenant, training and answering never reload
the base.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load, save

from dgym.cache import cache_folder
from dgym.core import Example, Problem, derive_seed, digest
from dgym.errors import StudentError
from dgym.models.adapters import draw_anew, merged
from dgym.models.load import load_model, locate
from dgym.models.prompts import Prompt
from dgym.models.recipe import Recipe
from dgym.models.text import Encoded, generate
from dgym.models.train import Pair, fine_tune, prefer
from dgym.students.turns import turns_of

if TYPE_CHECKING:
    from dgym.students.vllm import AnswerEngine

_WEIGHTS = "student.safetensors"
_SLOT: Final = "student"
"""Name of the one adapter that the model has."""

_SERVED_BY: Final = ("DGYM_VLLM", "DGYM_VLLM_STUDENT_ARGS")
"""Variables of the environment that say what answers where vLLM does."""

State = dict[str, torch.Tensor]

_NUMBERS = count(1)  # of students of all bases in this process: they share devices, and take turns by name


class Base:
    """A causal language model, with or without eyes, that stays loaded.

    Threads may use it at the same time: its students take turns (see `dgym.students.turns`).

    Args:
        path: Folder with weights and tokenizer, a `.gguf` file, or a hub id.
        digest: Identifies the weights.
        device: Such as `"cpu"` or `"cuda:0"`.
        precision: Such as `"float32"`.

    Attributes:
        model: The model of transformers, without adapters until the first one is needed.
        prompts: The one path from a problem to tokens.
        folder: Where its files lie, as transformers saves them.
        turns: Who may use the device.
        engine: Answers in place of transformers, if anything does.

    Raises:
        UsageError: If there is no such model.
        StudentError: If it cannot be loaded, or does not fit into memory.
    """

    def __init__(self, path: str, digest: str, device: str = "cpu", precision: str = "float32") -> None:
        loaded = load_model(locate(path), device, precision)
        self.model: Any = loaded.model.eval().requires_grad_(False)
        self.prompts, self.folder, self.precision = loaded.prompts, loaded.folder, loaded.precision
        self.digest, self.device = digest, device
        self.turns = turns_of(device)
        self.engine: AnswerEngine | None = None
        self.peft: PeftModel | None = None
        self._config: LoraConfig | None = None
        self._live: State = {}
        self._resident: Tenant | None = None

    @property
    def bytes(self) -> int:
        """Memory of the weights, in bytes."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.prompts.tokenizer

    def encode(self, example: Example, response: str | None = None) -> Encoded:
        """Encodes a training example: the prompt as in answering, then the response and the end.

        Args:
            example: The example.
            response: Another response than its own.
        """
        prompt = self.prompts.encode(example.prompt, example.images)
        answer = self.prompts.response(example.response if response is None else response)
        return Encoded(prompt.ids, answer, prompt.extras)

    def open(self, recipe: Recipe, variant: str) -> Tenant:
        """Opens a new student on this base."""
        return Tenant(self, recipe, variant, f"tenant-{next(_NUMBERS)}")

    def untrained(self) -> Any:
        """Returns the model as it was loaded; `rest` must follow."""
        if self.peft is None:
            return self.model
        self.peft.base_model.disable_adapter_layers()
        return self.peft

    def adapted(self, tenant: Tenant, config: LoraConfig, seed: int | None) -> Any:
        """Returns the model with a student's adapter in place; `rest` must follow.

        Args:
            tenant: Whose turn it is.
            config: Its adapter's.
            seed: Of a new adapter; `None` brings back the one that the student has.
        """
        if self._resident is not tenant:
            self.park()
        if seed is not None:
            self._new_slot(config, seed)
        elif self._resident is not tenant:
            if self._config != config:
                self._new_slot(config, 0)
            tenant.bring_to(self._live)
        self._resident = tenant
        assert self.peft is not None
        return self.peft

    def park(self) -> None:
        """Moves what is in place into main memory, if its student has no copy there yet."""
        if self._resident is not None:
            self._resident.park(self._live)
            self._resident = None

    def in_place(self, tenant: Tenant) -> State:
        """Returns the adapter of the student whose adapter is in place; the tensors change with the next training."""
        assert self._resident is tenant
        return self._live

    def leave(self, tenant: Tenant) -> None:
        """Forgets a student's adapter, if it is in place."""
        if self._resident is tenant:
            self._resident = None

    def rest(self) -> None:
        """Leaves the shared model as an untrained one would be found."""
        if self.peft is not None:
            self.peft.base_model.enable_adapter_layers()
            self.peft.eval()

    def plain_copy(self) -> Any:
        """Returns a copy of the model without adapters, for a student that is fully fine-tuned."""
        if self.peft is None:
            return copy.deepcopy(self.model)
        return copy.deepcopy(self.peft).unload()

    def use_vllm(self) -> None:
        """Lets a vLLM server answer for this base's students.

        Raises:
            StudentError: If vLLM is not installed.
        """
        from dgym.students.vllm import vllm_engine

        self.engine = vllm_engine(str(self.folder), self.device, self.precision, self.prompts.ends)

    def close(self) -> None:
        """Ends what answers for it."""
        if self.engine is not None:
            self.engine.close()

    def _new_slot(self, config: LoraConfig, seed: int) -> None:
        """Puts a new adapter into its place."""
        # Adapter weights are drawn from the global generator; nobody else may notice.
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT on replacing the only adapter
            torch.manual_seed(seed)
            if self.peft is not None and self._config == config:
                draw_anew(self.peft, _SLOT)
            elif self.peft is None:
                self.peft = get_peft_model(self.model, copy.copy(config), adapter_name=_SLOT)
            else:
                self.peft.delete_adapter(_SLOT)
                self.peft.add_adapter(_SLOT, copy.copy(config))
        self.peft.set_adapter(_SLOT)
        self._config = config
        # These tensors are the adapter's own: what is copied into them is in place.
        self._live = get_peft_model_state_dict(self.peft, adapter_name=_SLOT, save_embedding_layers=False)


class Tenant:
    """One episode's student; see `dgym.core.Student`.

    Args:
        base: The shared model.
        recipe: How it is trained.
        variant: Name of the student's variant; training randomness derives from it too.
        name: Unique in this process.

    Attributes:
        asked: How many answers it was asked for.
        answered: How many of them had to be computed: what it was asked before and has not learned since is known.
    """

    def __init__(self, base: Base, recipe: Recipe, variant: str, name: str) -> None:
        self._base, self._recipe, self._variant, self._name = base, recipe, variant, name
        self._config = LoraConfig(
            task_type="CAUSAL_LM",
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules="all-linear",
        )
        self._trained = False
        self._version = 0
        self._parked: State | None = None
        self._own: Any = None  # the copy of a fully fine-tuned student
        self._answers: dict[tuple[str, tuple[bytes, ...]], str] = {}
        self.asked = self.answered = 0

    def train(self, examples: Sequence[Example], *, seed: int, fresh: bool) -> Mapping[str, float]:
        """Trains on the examples; see `dgym.core.Student.train`.

        With a recipe that learns preferences, examples without a rejected response are left out and counted as `plain`.

        Raises:
            StudentError: If the loss is not finite, if memory does not suffice, or if preferences are to be learned and
                no example has any.
        """
        base, recipe = self._base, self._recipe
        with base.turns.alone(self._name):
            seed = derive_seed(seed, self._variant, recipe.model_dump_json())
            if fresh:
                self._forget()
            data, counts = self._encoded(examples)
            if not data:
                return {"loss": 0.0, "steps": 0.0, "tokens": 0.0, **counts}
            if base.engine is not None:
                base.engine.sleep()
            self._answers.clear()
            model = self._learning(seed)
            parameters = [p for p in model.parameters() if p.requires_grad]
            try:
                learn: Any = prefer if recipe.objective == "dpo" else fine_tune
                report = learn(model, parameters, data, recipe, base.prompts.pad, seed)
            finally:
                base.rest()
            self._trained = True
            self._changed()
            return {**report, **counts}

    def answer(self, problems: Sequence[Problem]) -> list[str]:
        """Answers greedily, nothing twice between two trainings.

        The untrained student's answers to a list of problems are also kept on disk.
        """
        keys = [(p.prompt, p.images) for p in problems]
        new = {key: p for key, p in zip(keys, problems, strict=True) if key not in self._answers}
        self.asked += len(problems)
        self.answered += len(new)
        if new:
            compute = self._answer if self._trained else self._answer_untrained
            self._answers.update(zip(new, compute(list(new.values())), strict=True))
        return [self._answers[key] for key in keys]

    def snapshot(self) -> bytes:
        """Returns adapter or weights as safetensors; of an untrained student nothing but the format."""
        with self._base.turns.alone(self._name):
            data: bytes = save({k: v.detach().cpu().contiguous() for k, v in self._state().items()})
        return data

    def restore(self, data: bytes) -> None:
        """Restores what `snapshot` gave.

        Raises:
            StudentError: If it is nothing usable, or another student's.
        """
        try:
            state = load(data)
        except Exception as error:
            raise StudentError(f"No student can be restored from these {len(data)} bytes: {error}") from error
        with self._base.turns.alone(self._name):
            self._forget()
            if not state:
                return
            if self._recipe.method == "full":
                self._own = self._base.plain_copy().requires_grad_(True)
                wrong = self._own.load_state_dict(state, strict=False).unexpected_keys
            else:
                self._parked = state
                self._base.adapted(self, self._config, None)  # fails where the shapes are another's
                self._base.rest()
                wrong = []
            if wrong:
                raise StudentError(f"The saved student is another model's: it has {wrong[0]!r}.")
            self._trained = True
            self._changed(parked=self._parked)

    def save(self, path: str) -> None:
        """Writes adapter or weights as safetensors into the folder `path`."""
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / _WEIGHTS).write_bytes(self.snapshot())

    def load(self, path: str) -> None:
        """Restores what `save` wrote.

        Raises:
            StudentError: If there is nothing usable.
        """
        try:
            data = (Path(path) / _WEIGHTS).read_bytes()
            self.restore(data)
        except (OSError, StudentError) as error:
            raise StudentError(f"No student can be loaded from {path!r}: {error}") from error

    def close(self) -> None:
        """Gives back the adapter's or the copy's memory."""
        with self._base.turns.alone(self._name):
            self._forget()
        self._base.turns.forget(self._name)

    def park(self, live: State) -> None:
        """Called by the base: keeps a copy of what is in place."""
        if self._trained and self._parked is None:
            self._parked = {name: tensor.detach().to("cpu", copy=True) for name, tensor in live.items()}

    def bring_to(self, live: State) -> None:
        """Called by the base: puts the parked adapter into its place.

        Raises:
            StudentError: If it does not fit there.
        """
        parked = self._parked or {}
        if {k: v.shape for k, v in parked.items()} != {k: v.shape for k, v in live.items()}:
            raise StudentError("The saved student is another model's, or was trained with another recipe.")
        with torch.no_grad():
            for name, tensor in live.items():
                tensor.copy_(parked[name])

    def _encoded(self, examples: Sequence[Example]) -> tuple[list[Any], dict[str, float]]:
        """Returns what fits the cutoff, in tokens, and counts of what was left out."""
        base, cutoff, dpo = self._base, self._recipe.cutoff, self._recipe.objective == "dpo"
        given = [e for e in examples if e.rejected is not None] if dpo else examples
        if examples and not given:
            raise StudentError(
                "The recipe learns preferences, and not one example has a rejected response: take a teacher that "
                'writes pairs, such as agent-pairs, or objective = "sft".'
            )
        encoded: list[Any] = []
        refused: list[StudentError] = []
        for example in given:
            try:
                chosen = base.encode(example)
                encoded.append(Pair(chosen, base.encode(example, example.rejected)) if dpo else chosen)
            except StudentError as error:  # one picture that cannot be read costs one example
                refused.append(error)
        if refused and not encoded:
            raise refused[0]
        fitting = [e for e in encoded if e.longest <= cutoff]
        counts = {"cut": len(encoded) - len(fitting), "unreadable": len(refused), "plain": len(examples) - len(given)}
        return fitting, {name: float(n) for name, n in counts.items() if n or name == "cut"}

    def _answer_untrained(self, problems: Sequence[Problem]) -> list[str]:
        base = self._base
        key = digest(
            [
                "answers-3",
                base.digest,
                base.device.partition(":")[0],
                base.precision,
                torch.get_num_threads(),
                torch.__version__,
                self._recipe.max_new_tokens,
                [[p.prompt, *(hashlib.blake2b(i, digest_size=16).hexdigest() for i in p.images)] for p in problems],
                *(["vllm", *(os.environ.get(n, "") for n in _SERVED_BY)] if base.engine is not None else []),
            ]
        )
        path = cache_folder() / "answers" / f"{key}.json"
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            stored = None
        if isinstance(stored, list) and len(stored) == len(problems):
            return stored
        answers = self._answer(problems)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.tmp")
            partial.write_text(json.dumps(answers), encoding="utf-8")
            partial.replace(path)
        except OSError:
            pass  # a cache that cannot be written costs time, nothing else
        return answers

    def _answer(self, problems: Sequence[Problem]) -> list[str]:
        base = self._base
        prompts = [base.prompts.encode(p.prompt, p.images) for p in problems]
        tokens = self._by_transformers(prompts) if base.engine is None else self._by_engine(base.engine, prompts)
        texts: list[str] = base.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts

    def _by_transformers(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        base, limit = self._base, self._recipe.max_new_tokens
        with base.turns.alone(self._name):
            model = self._answering()
            adapted = self._recipe.method == "lora" and self._trained
            try:
                with merged(model, _SLOT) if adapted else nullcontext():
                    return generate(model, prompts, base.prompts.pad, base.prompts.ends, limit)
            finally:
                base.rest()

    def _by_engine(self, engine: AnswerEngine, prompts: Sequence[Prompt]) -> list[list[int]]:
        if self._recipe.method == "full" and self._trained:
            raise StudentError('vLLM answers for adapters only: set the recipe\'s method to "lora", or another engine.')
        from dgym.students.vllm import Version

        version = None
        if self._trained:
            assert self._parked is not None
            version = Version(f"{self._name}-v{self._version}", self._config, self._parked)
        # The engine batches what several students ask; it only must not be trained meanwhile.
        with self._base.turns.shared(self._name):
            answers: list[list[int]] = engine.answer(prompts, version, self._recipe.max_new_tokens)
        return answers

    def _learning(self, seed: int) -> Any:
        """Returns the model ready to be trained: new, or as it was trained before."""
        if self._recipe.method == "full":
            if self._own is None:
                self._own = self._base.plain_copy().requires_grad_(True)
            return self._own
        model = self._base.adapted(self, self._config, None if self._trained else seed)
        model.set_adapter(_SLOT, inference_mode=False)
        return model

    def _answering(self) -> Any:
        if not self._trained:
            return self._base.untrained()
        if self._recipe.method == "full":
            return self._own
        model = self._base.adapted(self, self._config, None)
        model.set_adapter(_SLOT, inference_mode=True)
        return model

    def _changed(self, parked: State | None = None) -> None:
        """Notes that this is another version of the student than before."""
        engine = self._base.engine
        if engine is not None:
            engine.forget(f"{self._name}-v{self._version}")
        self._version += 1
        self._answers.clear()
        self._parked = parked
        if engine is not None and self._recipe.method == "lora" and parked is None:
            self._base.park()  # the engine is given a copy

    def _forget(self) -> None:
        self._base.leave(self)
        self._own = None
        if self._trained:
            self._trained = False
            self._changed()
        self._parked = None

    def _state(self) -> State:
        if not self._trained:
            return {}
        if self._recipe.method == "full":
            # Tied weights are stored once.
            state = self._own.state_dict()
            return {k: v for k, v in state.items() if k not in self._own.all_tied_weights_keys}
        if self._parked is not None:
            return self._parked
        return self._base.in_place(self)
