"""Answers per second: a tenant with its adapter, harness included, against bare `generate` at its best batch size.

    python benchmarks/answering.py [--student smollm2-135m] [--device cuda] [--vllm]

Bare `generate` is transformers' own on a model that the adapter was merged into for good, with prompts tokenised and
sorted by length beforehand; it is tried at several batch sizes, and the fastest counts. dgym's side is what an episode
pays: merging the adapter in and out, generation, decoding. With `--vllm` a vLLM server answers the same problems with
the same adapter (`$DGYM_VLLM` names the command where vLLM stands in another environment). Every round asks other
problems, so that none is known already.
"""

from __future__ import annotations

import copy
import time

from common import arguments, examples, load, medians, problems, recipe_of, synchronised, threads_of

ROUNDS = 3
SIZES = {"micro-math": 500, "smollm2-135m": 96, "gemma-2-2b": 96}
BATCHES = (8, 32, 64, 128, 256)


def bare(model, prompts, pad, ends, limit, size):
    """Answers with nothing but `generate`, on sorted prompts."""
    import torch

    out = []
    for first in range(0, len(prompts), size):
        part = prompts[first : first + size]
        length = max(map(len, part))
        ids = torch.tensor([[pad] * (length - len(p)) + list(p) for p in part], device=model.device)
        mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in part], device=model.device)
        with torch.inference_mode():
            done = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=limit,
                do_sample=False,
                pad_token_id=pad,
                eos_token_id=list(ends),
            )
        out += done[:, length:].tolist()
    return out


def main() -> None:
    """Measures the ways side by side."""
    parser = arguments(__doc__)
    parser.add_argument("--vllm", action="store_true", help="ask a vLLM server too")
    args = parser.parse_args()
    import torch

    threads = threads_of(args)
    torch.set_num_threads(threads)
    base, recipe = load(args.student, args.device, threads), recipe_of(args.student)
    count = SIZES[args.student]
    rounds = [problems(count * ROUNDS)[i::ROUNDS] for i in range(ROUNDS)]
    tenant = base.open(recipe, "a")
    tenant.train(examples(64), seed=1, fresh=True)
    merged = copy.deepcopy(base.peft).merge_and_unload()
    pad, ends, limit = base.prompts.pad, base.prompts.ends, recipe.max_new_tokens
    ways = {"dgym": lambda asked, prompts: tenant.answer(asked)}
    for size in BATCHES:
        if size <= 2 * count:
            ways[f"generate, batches of {size}"] = lambda asked, prompts, size=size: bare(
                merged, prompts, pad, ends, limit, size
            )
    if args.vllm:
        other = load(args.student, args.device, threads)
        other.use_vllm()
        served = other.open(recipe, "a")
        served.restore(tenant.snapshot())
        served.answer(problems(count * ROUNDS + 1)[-1:])  # starts the server
        ways["vllm"] = lambda asked, prompts: served.answer(asked)
    times: dict[str, list[float]] = {way: [] for way in ways}
    same = 0
    for asked in rounds:
        # An episode encodes its problems once, in its first iteration.
        prompts = sorted((base.prompts.encode(p.prompt).ids for p in asked), key=len)
        for way, work in ways.items():
            start = time.perf_counter()
            work(asked, prompts)
            synchronised(args.device)
            times[way].append(time.perf_counter() - start)
        if args.vllm:
            same += sum(a == b for a, b in zip(served.answer(asked), tenant.answer(asked), strict=True))
    middle = medians(times)
    for way, seconds in middle.items():
        print(f"{way}: {count / seconds:.2f} answers/s")
    best = min((way for way in middle if way.startswith("generate")), key=lambda way: middle[way])
    print(f"dgym / bare generate at its best ({best}): {middle[best] / middle['dgym']:.2f}")
    if args.vllm:
        print(f"dgym / vLLM: {middle['vllm'] / middle['dgym']:.2f}; {same} of {count * ROUNDS} answers are the same")


if __name__ == "__main__":
    main()
