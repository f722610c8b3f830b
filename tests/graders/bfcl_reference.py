"""Compares our grading of function calls with that of the leaderboard's own package.

python tests/graders/bfcl_reference.py --python .venv-bfcl/bin/python

The package stands in an environment of its own, which needs `bfcl-eval==2026.3.23` without its dependencies, and
`tree_sitter==0.21.3`, `tree-sitter-java==0.21.0`, `tree-sitter-javascript==0.21.4`, `tenacity` and `filelock`. Its
table of models, which would import every vendor's client, is replaced by one that says what all prompting models share:
names of functions stay as they are.

Compared are the verdicts on every row of all single-turn categories: the answers that we write, all published values
one by one, answers that are changed in a systematic way or at random, and garbage; further the values that Java and
JavaScript texts are converted to, and the prompts.
"""

import argparse
import ast
import contextlib
import io
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

RAISED = "raised"

# Within the package's environment ----------------------------------------------------------------------------------


def reference(given):
    """Returns the package's verdicts, converted values and prompts; `RAISED` where it raises."""
    import types

    model_config = types.ModuleType("bfcl_eval.constants.model_config")
    model_config.MODEL_CONFIG_MAPPING = {"any": types.SimpleNamespace(underscore_to_dot=False)}
    sys.modules[model_config.__name__] = model_config
    from bfcl_eval import utils
    from bfcl_eval.constants.enums import Language, ReturnFormat
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker
    from bfcl_eval.eval_checker.ast_eval.type_convertor.java_type_converter import java_type_converter
    from bfcl_eval.eval_checker.ast_eval.type_convertor.js_type_converter import js_type_converter
    from bfcl_eval.model_handler.utils import default_decode_ast_prompting, system_prompt_pre_processing_chat_model

    def verdict(category, functions, possible, response):
        if utils.is_relevance_or_irrelevance(category):
            try:
                calls = not utils.is_empty_output(default_decode_ast_prompting(response, ReturnFormat.PYTHON, False))
            except Exception:
                calls = False
            return calls != ("irrelevance" in category)
        name = "java" if utils.is_java(category) else "javascript" if utils.is_js(category) else "python"
        try:
            calls = default_decode_ast_prompting(response, ReturnFormat(name), False)
        except Exception:
            return False
        if not utils.is_function_calling_format_output(calls):
            return False
        try:
            return ast_checker(functions, calls, possible, Language(name), category, "any")["valid"]
        except Exception:
            return RAISED

    def converted(language, value, kind, items):
        try:
            return repr((java_type_converter if language == "java" else js_type_converter)(value, kind, items))
        except Exception:
            return RAISED

    rows = {}
    for category in given["categories"]:
        answered = not utils.is_relevance_or_irrelevance(category)
        possible = (
            {row["id"]: row["ground_truth"] for row in utils.load_ground_truth_entry(category)} if answered else {}
        )
        for row in utils.load_dataset_entry(category, include_language_specific_hint=False):
            rows[category, row["id"]] = (row["function"], possible.get(row["id"], []))
    prompts = {}
    for category in given["categories"]:
        for row in utils.load_dataset_entry(category):
            messages = system_prompt_pre_processing_chat_model(row["question"][0], row["function"], row["id"])
            prompts[row["id"]] = "\n\n".join(message["content"] for message in messages)
    with contextlib.redirect_stdout(io.StringIO()):  # the package reports some failures there
        verdicts = [verdict(c, *rows[c, i], response) for c, i, _, response in given["cases"]]
        values = [converted(*case) for case in given["values"]]
    return {"verdicts": verdicts, "values": values, "prompts": prompts}


# Cases -------------------------------------------------------------------------------------------------------------

GARBAGE = (
    "",
    " ",
    "[]",
    "[[]]",
    "()",
    "{}",
    "None",
    "None of the functions can be used.",
    "I cannot help with that.",
    "f",
    "f(",
    "f()",
    "[f()]",
    "[f(), g()]",
    "[f(1, 2)]",
    "[f(a=1)] [g(b=2)]",
    "[f(a=1)], [g(b=2)]",
    "[f(a=1), 3]",
    "[f(a=1) for a in b]",
    "'[f(a=1)]'",
    "f(a=1)",
    "f(a=1), g(b=2)",
    "f(a=1)]",
    "`f(a=1)`",
    "```python\n[f(a=1)]\n```",
    "```\n[f(a=1)]\n```",
    "[f(**x)]",
    "[f(*x)]",
    "[f(a=1, a=2)]",
    "[a.b.c(d=1)]",
    "[f(a=1)(b=2)]",
    "[(lambda: 1)(b=2)]",
    "[f(a=lambda: 1)]",
    "[f(a=b.c)]",
    "[f(a=b[0])]",
    "[f(a=b[0:1])]",
    "[f(a={1, 2})]",
    "[f(a={'b': {'c': [1, (2, 3)]}})]",
    "[f(a={[]: 1})]",
    "[f(a={**b})]",
    "[f(a=...)]",
    "[f(a=not True)]",
    "[f(a=+5)]",
    "[f(a=-x)]",
    "[f(a=~5)]",
    "[f(a=1 + 2 * 3 ** 2 - 4 / 2 // 1 % 3)]",
    "[f(a='b' + 'c' * 3)]",
    "[f(a=[1] + [2] * 2)]",
    "[f(a=1 / 0)]",
    "[f(a=1 << 3 | 4 & 5 ^ 6 >> 1)]",
    "[f(a=1 if b else 2)]",
    "[f(a=1 < 2)]",
    "[f(a=b and c)]",
    "[f(a=f'{b}')]",
    "[f(a=b'c')]",
    "[f(a=1j)]",
    "[f(a=1e999)]",
    "[f(a=g(1))]",
    "[f(a=g(b=1))]",
    "[f(a=g())]",
    "[f(a=-True)]",
    "[f(a=-'b')]",
    "[f(a=0x1F, b=1_000, c=0o7)]",
    "[f(a='é', b='日本')]",
    "[f(a='\\d')]",
    "\x00",
    "[f(a='\ud800')]".encode("utf-8", "replace").decode(),
    '{"name": "f", "arguments": {"a": 1}}',
    '[{"name": "f", "arguments": {"a": 1}}]',
    "<tool_call>f(a=1)</tool_call>",
    "# f(a=1)",
    "[f(a=1) # comment\n]",
    "[\n  f(\n    a=1\n  )\n]",
    "f(a=1);",
    "f(a='b');",
    "Obj.f(a=new int[]{1, 2}, b=true)",
    'f(a="b", a="c")',
    "f(a=x => x + 1)",
    "f(x, y)",
    "f(a=null)",
)


def changed_values(value, rng):
    """Yields other values, some of them the same for a lenient reader."""
    if isinstance(value, bool):
        yield from (not value, str(value), int(value))
    elif isinstance(value, int):
        yield from (value + 1, float(value), value + 0.5, str(value), bool(value))
    elif isinstance(value, float):
        yield from (value + 1, int(value), str(value), -value)
    elif isinstance(value, str):
        yield from (value.upper(), value.lower(), f" {value}. ", value.replace(" ", "-"), f"{value}x", f"'{value}'")
        yield from (value[:-1], [value], 7, value.replace(",", ""))
    elif isinstance(value, list | tuple):
        items = list(value)
        yield from (
            tuple(items),
            items[::-1],
            items[1:],
            [*items, *items[:1]],
            [],
            [str(i) for i in items],
            items[:1] * 2,
        )
        if items:
            place = rng.randrange(len(items))
            for other in list(changed_values(items[place], rng))[:6]:
                yield [*items[:place], other, *items[place + 1 :]]
    elif isinstance(value, dict):
        yield from ({**value, "extra_key": 1}, {}, dict(reversed(value.items())), str(value), [value])
        for key in value:
            yield {k: v for k, v in value.items() if k != key}
            for other in list(changed_values(value[key], rng))[:4]:
                yield {**value, key: other}
    yield from (None, "zzz", 123456, [], {})


def show(calls):
    return f"[{', '.join(f'{name}({shown(arguments)})' for name, arguments in calls)}]"


def shown(arguments):
    return ", ".join(f"{name}={value}" for name, value in arguments.items())


def split(text):
    """Reads calls that are written as Python, each argument as its text."""
    body = ast.parse(text, mode="eval").body
    return [
        (ast.unparse(c.func), {k.arg: ast.get_source_segment(text, k.value) for k in c.keywords}) for c in body.elts
    ]


def changed_calls(calls, functions, rng):
    """Yields kinds of change, and the calls with it."""
    for index, (name, arguments) in enumerate(calls):

        def other(name, arguments, index=index):
            return show([*calls[:index], (name, arguments), *calls[index + 1 :]])

        for parameter in arguments:
            yield "missing argument", other(name, {k: v for k, v in arguments.items() if k != parameter})
            yield (
                "wrong argument name",
                other(name, {f"{k}_" if k == parameter else k: v for k, v in arguments.items()}),
            )
            yield "variable", other(name, {**arguments, parameter: "some_variable"})
            yield "nested call", other(name, {**arguments, parameter: "g(x=1)"})
            try:
                value = ast.literal_eval(arguments[parameter])
            except (ValueError, SyntaxError):
                continue
            for text in map(repr, changed_values(value, rng)):
                yield "changed value", other(name, {**arguments, parameter: text})
            yield (
                "arithmetic",
                other(name, {**arguments, parameter: f"{arguments[parameter]} + {arguments[parameter]}"}),
            )
            yield "arithmetic", other(name, {**arguments, parameter: f"+{arguments[parameter]}"})
        yield "reordered arguments", other(name, dict(reversed(arguments.items())))
        yield "extra argument", other(name, {**arguments, "extra": "1"})
        properties = next((f for f in functions if f["name"] == name), functions[0])["parameters"]["properties"]
        for parameter in properties:
            for text in ("''", "1", "[]", "'x'", "True") if parameter not in arguments else ():
                yield "another argument", other(name, {**arguments, parameter: text})
        yield "wrong function", other(f"{name}_x", arguments)
        yield "wrong function", other(name.replace(".", "_"), arguments)
        for function in functions:
            yield "another function", other(function["name"], arguments)
        yield "missing call", show([*calls[:index], *calls[index + 1 :]])
        yield "call twice", show([*calls, calls[index]])
    for order in (calls[::-1], calls[1:] + calls[:1], rng.sample(calls, len(calls))):
        yield "reordered calls", show(order)
    by_position = [f"{name}({', '.join(arguments.values())})" for name, arguments in calls]
    yield "positional", f"[{', '.join(by_position)}]"


def published_values(answer, language):
    """Yields answers with every published value of every argument in turn, where these can be written as literals."""
    if language != "python":
        return
    calls = [
        (name, {k: next((v for v in vs if v != ""), None) for k, vs in arguments.items()})
        for call in answer
        for name, arguments in call.items()
    ]
    for index, call in enumerate(answer):
        for name, arguments in call.items():
            for parameter, values in arguments.items():
                for value in values:
                    changed = {**calls[index][1], parameter: value}
                    others = [*calls[:index], (name, changed), *calls[index + 1 :]]
                    yield show([(n, {k: repr(v) for k, v in a.items()}) for n, a in others])


def framed(text, rng):
    yield from (
        text.strip("[]"),
        f"```\n{text}\n```",
        f"```python\n{text}\n```",
        f"{text};",
        f"Sure! {text}",
        f"'{text}'",
    )
    yield from (
        text.replace(", ", ",\n  "),
        text.replace('"', "'"),
        text.replace("'", '"'),
        f"{text[:-1]}",
        f" {text} ",
    )
    for _ in range(6):
        place = rng.randrange(len(text))
        yield text[:place] + text[place + 1 :]
        yield text[:place] + rng.choice("()[]{}\"'=,. x1\\:;\n") + text[place:]
        end = place + rng.randrange(12)
        yield text[:place] + text[place:end] * 2 + text[end:]


FOREIGN = {
    "java": (
        *("true", "false", "1", "1L", "1.5f", "1.5", "-3", "'c'", '"text"', "name", "null", "new int[]{1, 2}", "a.b()"),
        *('new String[]{"a", "b"}', "new ArrayList<>(Arrays.asList(1, 2))", "new ArrayList<>()", "new HashMap<>()"),
        *('new HashMap<String, Integer>() {{ put("a", 1); }}', "new Point(1, 2)", "A.class", "1 + 2", "x -> x"),
        *('new ArrayList<String>() {{ add("a"); add("b"); }}', "Arrays.asList(1)", "é", '"é"', "{1, 2}", "(int) 3"),
    ),
    "javascript": (
        *("true", "false", "1", "1n", "1.5", "-3", "'text'", '"text"', "name", "null", "undefined", "[1, 2]", "[]"),
        *("{}", "[[1, 2], [3, 4]]", "['a', \"b\"]", "{a: 1, b: 'c'}", "{'a': [1, 2]}", "{a: {b: 1}}", "x => x"),
        *("new Array(1, 2)", "a.b()", "`t`", "new Map()", "/re/", "1 + 2", "function() { return 1; }", "é", '"é"'),
        "[ [1], [2] ]",
    ),
}


def foreign_calls(text, language, rng):
    """Yields answers whose arguments are replaced, by a cut at commas outside brackets and quotes."""
    head, _, rest = text[1:-1].partition("(")
    parts, depth, quote, start = [], 0, "", 0
    inner = rest[:-1]
    for i, char in enumerate(inner):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == "," and not depth:
            parts.append(inner[start:i].strip())
            start = i + 1
    parts.append(inner[start:].strip())
    for index, part in enumerate(parts):
        name, _, value = part.partition("=")

        def other(*given, index=index):
            return f"[{head}({', '.join([*parts[:index], *given, *parts[index + 1 :]])})]"

        yield "missing argument", other()
        yield "wrong argument name", other(f"{name}_={value}")
        yield "extra argument", other(part, "extra=1")
        yield "twice", other(part, part)
        yield "positional", other(value)
        yield "no quotes", other(f"{name}={value.strip(chr(34))}")
        yield "quotes", other(f'{name}="{value}"')
        for text_ in FOREIGN[language]:
            yield "changed value", other(f"{name}={text_}")
        yield "changed value", other(f"{name}={value[:-1]}x{value[-1:]}")
        yield "changed value", other(f"{name}={value.upper()}")
        yield "changed value", other(f"{name}={value.replace(',', ' ,').replace(' ', '  ')}")
    yield "reordered arguments", f"[{head}({', '.join(parts[::-1])})]"
    yield "wrong function", f"[x{head}({', '.join(parts)})]"
    yield "two calls", f"[{head}({', '.join(parts)}), {head}({', '.join(parts)})]"


def cases_of(category, row, possible, language, answer):
    """Yields kinds of case and answers for a row."""
    rng = random.Random(row["id"])
    functions = row["function"]
    for text in rng.sample(GARBAGE, 8) if possible else GARBAGE:
        yield "garbage", text
    if functions:
        yield "another function", f"[{functions[0]['name']}()]"
        yield "another function", f"{functions[0]['name']}(a=1)"
    text = answer(category, functions, possible) if possible else None
    if text is None:
        return
    yield "our answer", text
    for other in published_values(possible, language):
        yield "published value", other
    for other in framed(text, rng):
        yield "framed or broken", other
    if language == "python":
        yield from changed_calls(split(text), functions, rng)
    else:
        yield from foreign_calls(text, language, rng)


PIECES = {
    "java": (
        *("new ", "new  ", "int[]", "String[]", "ArrayList<", "ArrayList<>", "HashMap<", "HashMap<String, Object>"),
        *(">", "()", "(Arrays.asList(", ")", "))", "{", "{{", "}", "}}", "add(", 'put("', '"', '", ', ",", ", ", " "),
        *("\n", "1", "2L", "3.5f", "1e3", "true", "a", "'c'", ";"),
    ),
    "javascript": (
        *("[", "[[", "]", "]]", ", ", ",", "new Array(", "new  Array( [", ")", "])", "{", "}", ":", ": ", "a", "'b'"),
        *('"', "'", "1", "2n", "3.5", "true", " ", "\n", "{a: 1}", "[1, 2]", "-"),
    ),
}
HEADS = {
    "java": (
        *("", "new int[]{", "new ArrayList<>(Arrays.asList(", "new ArrayList<>() {{", "new HashMap<>() {{"),
        *("new HashMap<A", "new HashMap<>() {"),
    ),
    "javascript": ("", "[", "[[", "[[1, 2], [", "new Array(", "new Array([1], [", "{", "{a: ", "{'a': [1], "),
}
KINDS = {
    "java": (
        *("byte", "short", "integer", "float", "double", "long", "boolean", "char", "Array", "ArrayList", "HashMap"),
        *("String", "any"),
    ),
    "javascript": ("String", "integer", "float", "Bigint", "Boolean", "dict", "array", "any"),
}
OFTEN = {"java": ("Array", "ArrayList", "HashMap"), "javascript": ("array", "dict")}


def texts_to_convert(count):
    for language, kinds in KINDS.items():
        rng = random.Random(language)
        for _ in range(count):
            text = rng.choice(HEADS[language]) + "".join(rng.choices(PIECES[language], k=rng.randrange(1, 12)))
            yield language, text, rng.choice([*kinds, *OFTEN[language] * 4]), rng.choice([None, *kinds])


# Comparison --------------------------------------------------------------------------------------------------------


def ask(python, given):
    """Runs `reference` in the package's environment."""
    with tempfile.TemporaryDirectory() as folder:
        inside, outside = Path(folder, "given.json"), Path(folder, "found.json")
        inside.write_text(json.dumps(given))
        environment = {**os.environ, "BFCL_PROJECT_ROOT": folder, "PYTHONHASHSEED": "0"}
        command = [python, str(Path(__file__).resolve()), "--reference", str(inside), str(outside)]
        subprocess.run(command, check=True, env=environment)
        return json.loads(outside.read_text())


def rows_of(python):
    """Reads the package's tables, by the names that they have here."""
    from dgym.domains.published.bfcl import DATA

    where = "import bfcl_eval, pathlib; print(pathlib.Path(bfcl_eval.__file__).parent.parent)"
    found = subprocess.run([python, "-c", where], check=True, capture_output=True, text=True)
    place = Path(found.stdout.strip())
    files = {part.name: place / part.files[0] for part in DATA.parts}
    return {name: [json.loads(line) for line in file.read_text().splitlines()] for name, file in files.items()}


def ours(tables, every, count):
    """Returns the cases with our verdicts, texts with what we convert them to, and our prompts."""
    from dgym.domains.published.bfcl import COUNTS, Bfcl, conversation, shown
    from dgym.graders.calls import answer, language_of, right
    from dgym.graders.foreign_calls import java_value, javascript_value

    cases, verdicts, prompts, values = [], [], {}, []
    frame = Bfcl(fixture=True).frame
    for category in COUNTS:
        possible = {row["id"]: row["ground_truth"] for row in tables.get(f"{category}_answers", ())}
        for index, row in enumerate(tables[category]):
            functions = json.dumps(shown(row["function"], category), indent=4)
            prompts[row["id"]] = frame(f"{functions}\n\n\n{conversation(row)}")
            wanted = possible.get(row["id"], [])
            found = () if index % every else cases_of(category, row, wanted, language_of(category), answer)
            for kind, response in dict.fromkeys(found):
                cases.append((category, row["id"], kind, response))
                verdicts.append(right(category, response, row["function"], wanted))
    texts = list(texts_to_convert(count))
    for language, text, kind, items in texts:
        try:
            values.append(repr((java_value if language == "java" else javascript_value)(text, kind, items)))
        except ValueError:
            values.append(RAISED)
    return cases, verdicts, texts, values, prompts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=".venv-bfcl/bin/python", help="of the environment with bfcl-eval")
    parser.add_argument("--every", type=int, default=1, help="take every n-th row only")
    parser.add_argument("--reference", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reference:
        inside, outside = map(Path, options.reference)
        outside.write_text(json.dumps(reference(json.loads(inside.read_text()))))
        return
    tables = rows_of(options.python)
    categories = [name for name in tables if not name.endswith("_answers")]
    cases, verdicts, texts, values, prompts = ours(tables, options.every, 40_000 // options.every)
    theirs = ask(options.python, {"categories": categories, "cases": cases, "values": texts})

    compared = list(zip(cases, verdicts, theirs["verdicts"], strict=True))
    bad = [one for one in compared if one[1] != (one[2] is True)]
    print(f"{'category':24} {'agreed':>9} {'of':>9} {'right':>8} {'raised':>7}")
    for category in categories:
        found = [other for case, _, other in compared if case[0] == category]
        agreed = len(found) - sum(case[0] == category for case, _, _ in bad)
        print(f"{category:24} {agreed:9,} {len(found):9,} {found.count(True):8,} {found.count(RAISED):7,}")
    print(f"verdicts: {len(cases) - len(bad):,} agreed of {len(cases):,}")
    kinds = Counter(kind for _, _, kind, _ in cases)
    print("  " + ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common()))
    for (category, name, kind, response), mine, other in bad[:20]:
        print(f"  {category} {name} {kind}: ours {mine}, theirs {other}: {response[:300]!r}")
    different = [one for one in zip(texts, values, theirs["values"], strict=True) if one[1] != one[2]]
    print(f"converted values: {len(texts) - len(different):,} agreed of {len(texts):,}")
    for text, mine, other in different[:10]:
        print(f"  {text}: ours {mine}, theirs {other}")
    # The package sends what an assistant said as messages of its own.
    turns = {
        row["id"] for c in categories for row in tables[c] if "assistant" in {m["role"] for m in row["question"][0]}
    }
    unlike = [name for name, text in theirs["prompts"].items() if text.strip() != prompts[name].strip()]
    print(
        f"prompts: {len(prompts) - len(unlike):,} the same of {len(prompts):,}, {len(turns)} with an assistant's turns"
    )
    sys.exit(bool(bad or different or {*unlike} - turns))


if __name__ == "__main__":
    main()
