"""Training tokens per second (padding not counted): dgym's loop against TRL's SFTTrainer, and packing against buckets.

    python benchmarks/training.py [--student smollm2-135m] [--device cuda]

The same examples, LoRA, batch size and epochs in every way. TRL is measured with batches in random order and grouped by
length, and the faster counts (its own packing needs flash attention). dgym's loop is measured as it is (batches of
similar length), and with its batches packed into one row each, without attention between examples. Ways take turns
within each round; medians. Peak memory is that of a process of its own for each way. The rate of matrix products is
measured in the same run, by multiplying square matrices of 2,048 rows.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time

from common import arguments, examples, load, medians, recipe_of, synchronised, threads_of

ROUNDS = 3
SIZES = {"micro-math": 400, "smollm2-135m": 24, "gemma-2-2b": 128}
TRL_WAYS = {
    "trl": {},
    "trl grouped by length": {"train_sampling_strategy": "group_by_length"},
}
WAYS = ("dgym", "dgym packed", *TRL_WAYS)


def adapted(base, recipe):
    """Puts a fresh adapter on the base and returns the model and what is trained."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="CAUSAL_LM", r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear")
    model = get_peft_model(base.model, config)
    return model, [p for p in model.parameters() if p.requires_grad]


def packed_loss(self, model, items):
    """The loss of a batch as one row: positions begin anew with each example, which keeps attention within it."""
    import torch
    from torch.nn.functional import cross_entropy

    ids = torch.tensor([[t for e in items for t in (*e.prompt, *e.answer)]], device=model.device)
    positions = torch.tensor([[i for e in items for i in range(len(e))]], device=model.device)
    kept, targets, start = [], [], 0
    for e in items:
        first = start + len(e.prompt) - 1
        kept += range(first, first + len(e.answer))
        targets += e.answer
        start += len(e)
    logits = model(
        input_ids=ids,
        position_ids=positions,
        use_cache=False,
        logits_to_keep=torch.tensor(kept, device=model.device),
    ).logits
    return cross_entropy(logits[0].float(), torch.tensor(targets, device=model.device))


def dgym(base, data, recipe, *, packed: bool) -> tuple[float, float]:
    """Trains with dgym's loop; returns seconds and the loss of the last epoch."""
    from dgym.models import train

    model, parameters = adapted(base, recipe)
    usual = train.Likelihood.loss
    if packed:
        train.Likelihood.loss = packed_loss
    try:
        start = time.perf_counter()
        report = train.fine_tune(model, parameters, data, recipe, base.prompts.pad, seed=1)
        synchronised(base.device)
        return time.perf_counter() - start, report["loss"]
    finally:
        train.Likelihood.loss = usual
        base.model = model.unload()


def trl(base, data, recipe, settings) -> tuple[float, float]:
    """Trains with TRL; returns seconds and the mean loss."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [
        {"input_ids": [*e.prompt, *e.answer], "completion_mask": [0] * len(e.prompt) + [1] * len(e.answer)}
        for e in data
    ]
    model, _ = adapted(base, recipe)
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=recipe.batch,
            num_train_epochs=recipe.epochs,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=recipe.warmup,
            max_grad_norm=1.0,
            completion_only_loss=True,
            max_length=None,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=base.device == "cpu",
            bf16=False,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            optim="adamw_torch",
            **settings,
        )
        trainer = SFTTrainer(
            model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=base.tokenizer
        )
        start = time.perf_counter()
        result = trainer.train()
        synchronised(base.device)
        seconds = time.perf_counter() - start
    base.model = model.unload()
    return seconds, result.training_loss


def train_once(base, data, recipe, way: str) -> tuple[float, float]:
    """Trains one way."""
    if way.startswith("dgym"):
        return dgym(base, data, recipe, packed=way.endswith("packed"))
    return trl(base, data, recipe, TRL_WAYS[way])


def matrix_rate(device: str) -> float:
    """Floating-point operations per second of products of square matrices, in the precision of the device."""
    import torch

    from dgym.models.load import resolve_precision

    kind = getattr(torch, resolve_precision("auto", device))
    a = torch.randn(2048, 2048, device=device, dtype=kind)
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        a @ a
        synchronised(device)
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best


def operations(base, data, epochs: int) -> float:
    """Floating-point operations of the products with frozen weights: forward, and backward to the activations."""
    model = base.model
    head = model.get_output_embeddings().weight.numel()
    body = sum(m.weight.numel() for n, m in model.named_modules() if hasattr(m, "in_features") and "lm_head" not in n)
    tokens = sum(len(e) for e in data) * epochs
    answers = sum(len(e.answer) for e in data) * epochs
    return 4.0 * (body * tokens + head * answers)


def peak_bytes(device: str) -> int:
    """Peak memory of this process: resident on the CPU, allocated on a GPU."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated())
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Measures all ways side by side."""
    parser = arguments(__doc__)
    parser.add_argument("--alone", choices=WAYS, help="train one way once and print the peak memory, in bytes")
    args = parser.parse_args()
    import torch

    threads = threads_of(args)
    torch.set_num_threads(threads)
    base = load(args.student, args.device, threads)
    recipe = recipe_of(args.student)
    data = [base.encode(e) for e in examples(SIZES[args.student])]
    if args.alone:
        # TRL's own imports are no part of what is compared.
        import datasets  # noqa: F401
        import trl as _trl  # noqa: F401

        before = peak_bytes(args.device)
        train_once(base, data, recipe, args.alone)
        print(json.dumps({"peak": peak_bytes(args.device), "before": before}))
        return

    tokens = sum(len(e) for e in data) * recipe.epochs
    print(f"{len(data)} examples, {tokens} tokens in {recipe.epochs} epochs, {threads} threads, {args.device}")
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    rates = []
    for _ in range(ROUNDS):
        rates.append(matrix_rate(args.device))
        for way in WAYS:
            seconds, loss = train_once(base, data, recipe, way)
            times[way].append(seconds)
            print(f"  {way}: {tokens / seconds:.0f} tokens/s, loss {loss:.3f}", flush=True)
    middle = medians(times)
    memory = {}
    for way in ("dgym", *TRL_WAYS):
        options = ["--student", args.student, "--device", args.device, "--threads", str(threads), "--alone", way]
        done = subprocess.run([sys.executable, __file__, *options], check=True, capture_output=True, text=True)
        memory[way] = json.loads(done.stdout.splitlines()[-1])
    best = min(TRL_WAYS, key=lambda way: middle[way])
    rate = sorted(rates)[len(rates) // 2]
    print("median tokens/s: " + ", ".join(f"{way} {tokens / middle[way]:.0f}" for way in WAYS))
    print(f"dgym / TRL at its best ({best}): {middle[best] / middle['dgym']:.2f}")
    print(f"buckets / packed: {middle['dgym packed'] / middle['dgym']:.2f}")
    print("peak memory, MB: " + ", ".join(f"{way} {m['peak'] / 1e6:.0f}" for way, m in memory.items()))
    share = operations(base, data, recipe.epochs) / middle["dgym"] / rate
    print(f"matrix products: {rate / 1e9:.0f} GFLOP/s measured; training reaches {share:.0%} of that")


if __name__ == "__main__":
    main()
