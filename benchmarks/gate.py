"""Does the search for copies of evaluation problems let honest examples pass, find disguised copies, and keep up?

    python benchmarks/gate.py [--count 10000] [--only honest speed disguises] [--minhash]

Four tables in Markdown: the share of fresh honest examples of every built-in domain that are taken for copies, by the
search that decides and by words and looks alone; examples a second on one core; the share of disguised copies that is
found; and, with `--minhash` (needs `pip install datasketch rensa`), how the exact search for near-duplicates compares
with MinHash. "Control" marks what is another problem, and should not be found.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import inspect
import io
import keyword
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from dgym.core import Budget, Distinctive, Domain, Example, Frames, Problem, Split, derive_seed
from dgym.domains import make_domain
from dgym.episode import overlap_index
from dgym.gate import Gate
from dgym.overlap import OverlapIndex, words_of

DOMAINS = ("math", "code", "tools", "tools-all", "vqa")
UNRECOGNISED = ("text|",)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a table in Markdown."""
    print("\n" + "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)) + "\n")


# --------------------------------------------------------------------------------------------------------------
# Honest examples


def fresh(domain: Any, count: int) -> list[Example]:
    """Draws honest examples from all skills alike, in portions that every skill has."""
    skills, out, turn = domain.skills(), [], 0
    while len(out) < count:
        for skill in skills:
            out += domain.fresh(skill, min(50, count), derive_seed("gate", turn))
        turn += 1
    return out[:count]


def honest(count: int) -> None:
    """How many honest examples are taken for copies."""
    rows = []
    for name in DOMAINS:
        domain = make_domain(name)
        index, examples = overlap_index(domain), fresh(domain, count)
        found: Counter[str] = Counter()
        alone: Counter[str] = Counter()
        for example in examples:
            overlap = index.find(example, domain.fingerprints(example.prompt, example.images))
            found[f"overlap-{overlap.split}" if overlap else ""] += 1
            overlap = index.find(example, UNRECOGNISED)
            alone[overlap.search if overlap else ""] += 1
        rows.append((name, len(examples), _shares(found), _shares(alone)))
    rows += _functions()
    table(("honest examples", "count", "taken for copies", "by words and looks alone"), rows)


def _shares(counts: Counter[str]) -> str:
    total = counts.total()
    parts = [f"{name} {n / total:.2%}" for name, n in counts.most_common() if name]
    return f"{1 - counts[''] / total:.2%}" + (f" ({', '.join(parts)})" if parts else "")


def _functions() -> list[Sequence[object]]:
    """Functions of the standard library, asked for by the first line of their documentation, against HumanEval."""
    index, counts = overlap_index(make_domain("humaneval")), Counter[str]()
    for source, what in functions():
        overlap = index.find(Example(what, source), UNRECOGNISED)
        counts[overlap.search if overlap else ""] += 1
    return [("functions of Python's library, `humaneval`", counts.total(), _shares(counts), "the same")]


def functions() -> list[tuple[str, str]]:
    """Returns functions of the standard library with what they do."""
    names = (
        "argparse ast base64 bisect calendar copy csv datetime difflib email.utils fractions functools heapq inspect "
    )
    names += "ipaddress json.encoder mailbox os random shlex shutil smtplib statistics tarfile tempfile textwrap"
    out = {}
    for module in map(importlib.import_module, names.split()):
        held = list(vars(module).values())
        for one in [*held, *(member for kind in held if inspect.isclass(kind) for member in vars(kind).values())]:
            if inspect.isfunction(one) and one.__module__ == module.__name__:
                says = (one.__doc__ or f"Write the function {one.__name__}.").strip().partition("\n")[0]
                with contextlib.suppress(OSError):  # made by the library as it runs
                    out[inspect.getsource(one)] = says
    return list(out.items())


# --------------------------------------------------------------------------------------------------------------
# Speed


def texts(count: int, length: int, seed: int) -> list[str]:
    """Writes texts whose words are as frequent as those of a language (Zipf), one in ten sentences a common one."""
    rng = random.Random(seed)
    syllables = [consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiou"]
    vocabulary = ["".join(parts) for parts in product(syllables, repeat=3)][::12]
    random.Random(0).shuffle(vocabulary)
    weights = [1 / (rank + 1) for rank in range(len(vocabulary))]
    common = [" ".join(random.Random(i).choices(vocabulary, weights, k=10)) for i in range(20)]
    out = []
    for _ in range(count):
        words: list[str] = []
        while len(words) < length:
            words += rng.choice(common).split() if rng.random() < 0.1 else rng.choices(vocabulary, weights, k=10)
        out.append(" ".join(words[:length]).capitalize() + ".")
    return out


def rate(work: Callable[[], object], count: int, repeats: int = 3) -> float:
    """Returns how many are done in a second of processor time, the best of some tries."""
    best = 0.0
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = max(best, count / (time.process_time() - start))
    return best


def speed(count: int = 3_000) -> None:
    """Examples a second."""
    domain = make_domain("gsm8k:fixture")
    prompts, long = texts(count, 60, 1), texts(count, 60, 2)
    short = [Example(prompt, "The answer is 42.") for prompt in prompts]
    both = [replace(example, response=response) for example, response in zip(short, long, strict=True)]
    rows = []
    for size in (1_000, 5_000, 20_000):
        problems = [Problem(str(i), text, "", "") for i, text in enumerate(texts(size, 60, 3))]
        start = time.process_time()
        index = OverlapIndex(domain, {"test": problems})
        built = time.process_time() - start

        def search(examples: Sequence[Example], index: OverlapIndex = index) -> None:
            for example in examples:
                index.find(example, UNRECOGNISED)

        def judge(examples: Sequence[Example], index: OverlapIndex = index) -> None:
            Gate(domain, index, Budget(len(examples)), verify=True).submit(examples)

        done = (rate(lambda w=work, e=examples: w(e), count) for work in (search, judge) for examples in (short, both))
        rows.append((f"{size:,}", f"{built:.1f}", *(f"{each:,.0f}" for each in done)))
    head = ("problems of 60 words", "seconds to build", "search", "search, response of 60 words too")
    table((*head, "whole gate", "whole gate, response of 60 words too"), rows)


# --------------------------------------------------------------------------------------------------------------
# Disguises

Disguise = Callable[[str, random.Random], str]


def _every(text: str, step: int, change: Callable[[str], str]) -> str:
    words = text.split(" ")
    return " ".join(change(w) if i % step == step // 2 and w.isalpha() else w for i, w in enumerate(words))


def _some(text: str, count: int, rng: random.Random) -> str:
    words = text.split(" ")
    plain = [i for i, word in enumerate(words) if word.isalpha()]
    for i in rng.sample(plain, min(count, len(plain))):
        words[i] = f"other{words[i]}"
    return " ".join(words)


def _last_sentence(text: str, rng: random.Random) -> str:
    head, _, _ = text.rstrip().rpartition(". ")
    return f"{head}. Work out what was asked for here, please!" if head else text


BEFORE = "I found this somewhere, and would like to see how one goes about it in a clean manner. "
AFTER = " Please explain every one of your steps, as you would to somebody who has never seen such a thing."

WORDS: Mapping[str, Disguise] = {
    "as it is": lambda t, r: t,
    "capitals": lambda t, r: t.upper(),
    "other punctuation": lambda t, r: re.sub(r"[.,;:?!]", " —", t).replace(" ", ", "),
    "line breaks, tabs, no-break spaces": lambda t, r: re.sub(" ", lambda m: r.choice("\n\t\u00a0\u2009"), t),
    "underscores for spaces": lambda t, r: t.replace(" ", "_"),
    "zero-width characters": lambda t, r: re.sub(r"(?<=\w)(?=\w)", "\u200b", t),
    "Cyrillic look-alikes": lambda t, r: t.translate(
        str.maketrans("aeopcxy", "\u0430\u0435\u043e\u0440\u0441\u0445\u0443")
    ),
    "full-width letters": lambda t, r: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in t),
    "accents": lambda t, r: re.sub("([aeiou])", "\\1\u0301", t),
    "other sentences around it": lambda t, r: BEFORE + t + AFTER,
    "last sentence rewritten": _last_sentence,
    "3 words replaced": lambda t, r: _some(t, 3, r),
    "every 10th word replaced": lambda t, r: _every(t, 10, lambda w: f"other{w}"),
    "every 5th word replaced": lambda t, r: _every(t, 5, lambda w: f"other{w}"),
    "in the response to another prompt": lambda t, r: t,
    "control: other numbers": lambda t, r: re.sub(r"\d+", lambda m: str(int(m[0]) + r.randint(3, 9)), t),
}


def renamed(code: str, rng: random.Random) -> str:
    """Renames what a piece of Python defines, as far as a regular expression knows."""
    names = set(re.findall(r"\b([a-zA-Z_]\w*)[ \t]*(?==[^=]|,|\)|:| in\b)", code)) - {*keyword.kwlist}
    names -= (
        {*dir(importlib.import_module("builtins"))} | {*re.findall(r"\.(\w+)", code)} | {*re.findall(r"(\w+)=", code)}
    )
    new = {name: f"z{rng.randrange(10**6)}" for name in sorted(names)}
    return re.sub(r"(?<![.\w])[a-zA-Z_]\w*", lambda m: new.get(m[0], m[0]), code)


def commented(code: str, rng: random.Random) -> str:
    """Puts a comment behind every line."""
    return "\n".join(f"{line}  # {rng.randrange(10**6)}" if line.strip() else line for line in code.split("\n"))


CODE: Mapping[str, Disguise] = {
    "as it is": lambda t, r: t,
    "names changed": renamed,
    "comments added": commented,
    "names changed, comments, a function before it": lambda t, r: (
        "def helper(value):\n    return [value] * 3\n\n" + commented(renamed(t, r), r)
    ),
}


def _jpeg(image: Any, quality: int = 75) -> bytes:
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG", quality=quality)
    return out.getvalue()


def _png(image: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _pictures() -> Mapping[str, Callable[[Any], bytes]]:
    from PIL import ImageDraw, ImageEnhance, ImageOps

    def dotted(image: Any) -> bytes:
        ImageDraw.Draw(image).rectangle((0, 0, image.width // 16, image.height // 16), fill=(255, 255, 255))
        return _png(image)

    return {
        "JPEG": _jpeg,
        "JPEG of quality 30": lambda i: _jpeg(i, 30),
        "twice as large": lambda i: _png(i.resize((2 * i.width, 2 * i.height))),
        "half as large, JPEG": lambda i: _jpeg(i.resize((i.width // 2, i.height // 2))),
        "5 % brighter": lambda i: _png(ImageEnhance.Brightness(i).enhance(1.05)),
        "a mark in the corner": dotted,
        "a margin of 4 % cut off": lambda i: _png(ImageOps.crop(i, max(1, i.width // 25))),
        "mirrored": lambda i: _png(ImageOps.mirror(i)),
    }


def _of_all(domain: Domain) -> list[tuple[Problem, str]]:
    """Returns all evaluation problems, with what of them is their own."""
    splits: tuple[Split, ...] = ("feedback", "selection", "test")
    problems = [problem for split in splits for problem in domain.problems(split)]
    if isinstance(domain, Distinctive):
        return [(problem, domain.distinctive(problem.prompt).strip()) for problem in problems]
    return [
        (problem, domain.bare(problem.prompt) if isinstance(domain, Frames) else problem.prompt) for problem in problems
    ]


def _found(index: OverlapIndex, example: Example, problem: Problem) -> bool:
    overlap = index.find(example, UNRECOGNISED)
    return overlap is not None and problem.id in overlap.problems


def _found_of(asked: Sequence[tuple[OverlapIndex, Problem, str]], name: str, rng: random.Random) -> str:
    """Returns the share of texts that are found in a disguise, of those that it changes at all."""
    hits = []
    for index, problem, text in asked:
        copy = WORDS[name](text, rng)
        if name.startswith("in the response"):
            response = f"Gladly. Here is one: {copy} It is {problem.reference}."
            hits.append(_found(index, Example("Tell me something nice.", response), problem))
        elif copy != text or name == "as it is":
            hits.append(_found(index, Example(copy, problem.reference or "?"), problem))
    return f"{sum(hits) / len(hits):.0%}" if hits else "–"


def disguises() -> None:
    """Disguised copies that are found, by words, code and looks alone."""
    rng = random.Random(1)
    asked: dict[str, list[tuple[OverlapIndex, Problem, str]]] = {"8 to 19 words": [], "20 words and more": []}
    for name in ("gsm8k:fixture", "hendrycks-math:fixture", "bfcl:fixture"):
        domain = make_domain(name)
        index = overlap_index(domain)
        for problem, text in _of_all(domain):
            length = len(words_of(text))
            if length >= 8:
                asked["8 to 19 words" if length < 20 else "20 words and more"].append((index, problem, text))
    plain = [Problem(str(i), text, "", "") for i, text in enumerate(texts(5_000, 60, 3))]
    index = OverlapIndex(make_domain("gsm8k:fixture"), {"test": plain})
    asked["60 made-up words without numbers"] = [(index, problem, problem.prompt) for problem in plain[:500]]
    rows = [[name, *(_found_of(asked[kind], name, rng) for kind in asked)] for name in WORDS]
    table(("copy of a text", *(f"found of {len(known)} of {kind}" for kind, known in asked.items())), rows)
    rows = []
    domain = make_domain("humaneval")
    index = overlap_index(domain)
    long = [p for p, _ in _of_all(domain) if len(p.reference.split()) >= 30]
    for name, disguise in CODE.items():
        hits = [_found(index, Example("Write this function.", disguise(p.reference, rng)), p) for p in long]
        rows.append(
            (f"a reference of 30 words or more under another prompt: {name}", len(hits), f"{sum(hits) / len(hits):.0%}")
        )
    rows += _looks()
    table(("copy of code or a picture", "count", "found"), rows)


def _looks() -> list[Sequence[object]]:
    from PIL import Image

    rows = []
    for name, count in (("vqa", 300), ("gqa:fixture", 300), ("naturalbench:fixture", 300)):
        domain = make_domain(name)
        index, problems = overlap_index(domain), _of_all(domain)[:count]
        for what, change in _pictures().items():
            hits = []
            for problem, text in problems:
                copy = tuple(change(Image.open(io.BytesIO(i)).convert("RGB")) for i in problem.images)
                hits.append(_found(index, Example(text, problem.reference, images=copy), problem))
            rows.append((f"pictures of `{name}`: {what}", len(hits), f"{sum(hits) / len(hits):.0%}"))
        turned = list(zip(problems, problems[1:] + problems[:1], strict=True))
        hits = [
            _found(index, Example(text, "?", images=other.images), problem)
            for (problem, text), (other, _) in turned
            if other.images != problem.images
        ]
        rows.append((f"pictures of `{name}`: control: another picture", len(hits), f"{sum(hits) / len(hits):.0%}"))
    return rows


# --------------------------------------------------------------------------------------------------------------
# MinHash


def minhash(count: int = 3_000, size: int = 5_000) -> None:
    """The exact search for near-duplicates beside MinHash with 128 permutations."""
    import datasketch
    import rensa

    rng = random.Random(1)
    hidden = texts(size, 60, 3)
    index = OverlapIndex(
        make_domain("gsm8k:fixture"), {"test": [Problem(str(i), t, "", "") for i, t in enumerate(hidden)]}
    )
    short = index._short  # the search by itself, without the others

    def shingles(words: Sequence[str]) -> set[str]:
        return {" ".join(words[i : i + 3]) for i in range(len(words) - 2)} - short.template

    def of_rensa(words: Sequence[str]) -> Any:
        made = rensa.RMinHash(128, 1)
        made.update(list(shingles(words)))
        return made

    def of_datasketch(words: Sequence[str]) -> Any:
        made = datasketch.MinHash(128)
        made.update_batch([gram.encode() for gram in shingles(words)])
        return made

    one, two = rensa.RMinHashLSH(0.8, 128, 16), datasketch.MinHashLSH(0.8, 128)
    for i, text in enumerate(hidden):
        one.insert(i, of_rensa(words_of(text)))
        two.insert(i, of_datasketch(words_of(text)))
    searches: Mapping[str, Callable[[Sequence[str]], Iterable[int]]] = {
        "exact (Jaccard over a list of holders)": index._near,
        f"rensa {importlib.metadata.version('rensa')}, 16 bands": lambda words: one.query(of_rensa(words)),
        f"datasketch {importlib.metadata.version('datasketch')}": lambda words: two.query(of_datasketch(words)),
    }
    asked = [words_of(text) for text in texts(count, 60, 1)]
    copies = []
    for i, text in enumerate(hidden[:count]):
        words = words_of(text)
        cut = rng.randint(1, 6)
        copy = [f"x{rng.randrange(10**6)}" for _ in range(rng.randint(0, 6))] + words[cut:]
        mine, theirs = shingles(copy), shingles(words)
        if len(mine & theirs) >= 0.8 * len(mine | theirs):
            copies.append((i, copy))
    rows = []
    for name, search in searches.items():
        speed = rate(lambda s=search: [list(s(words)) for words in asked], count)
        rows.append((name, f"{speed:,.0f}", f"{sum(i in set(search(copy)) for i, copy in copies) / len(copies):.2%}"))
    table(("search", "texts a second", f"found of {len(copies):,} pairs of similarity 0.8 to 1"), rows)


def main() -> None:
    """Measures what is asked for."""
    parts: dict[str, Callable[[], None]] = {"speed": speed, "disguises": disguises}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="honest examples of each domain")
    parser.add_argument("--only", nargs="+", choices=("honest", *parts), default=("honest", *parts))
    parser.add_argument("--minhash", action="store_true", help="compare with datasketch and rensa")
    args = parser.parse_args()
    parts["honest"] = lambda: honest(args.count)
    for name in args.only:
        parts[name]()
    if args.minhash:
        minhash()


if __name__ == "__main__":
    main()
