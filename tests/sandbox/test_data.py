"""What programs print and return is data: forged frames, equality tricks, awkward values, deep nesting."""

import random
import string

import pytest

from dgym.sandbox import Limits, Outcome, Program, Returned, same, scaled, verdict
from dgym.sandbox.plain import MAX_DEPTH, MAX_NODES, PlainError, decode, encode
from dgym.sandbox.runner import FRAME

NAN = float("nan")


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


VALUES = [
    None, True, False, 0, 1, -1, 255, -256, 1 << 4000, -(1 << 4000), 0.0, -0.0, 1.5, NAN, float("inf"), "", "a", "é",
    "\ud800", "\x00", "🐍", b"", b"\xff", [], [1, [2, []]], (), (1, "a"), {}, {"a": 1, 2: None}, {(1, "x"): [1.5]},
    set(), {1, "a", (2,)}, nested(MAX_DEPTH),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda v: repr(v)[:20])
def test_plain_values_survive(value):
    assert same(decode(encode(value)), value)


def test_plain_values_survive_the_way_through_a_program(sandbox):
    program = Program("def echo(x): return x", "echo", tuple((v,) for v in VALUES[:-1]))
    outcome = sandbox.run([program])[0]
    assert verdict(outcome, VALUES[:-1])


def random_value(rng, depth=0):
    kinds = ["none", "bool", "int", "float", "str", "bytes"] + ["list", "tuple", "dict", "set"] * (depth < 3)
    atoms = {
        "none": lambda: None,
        "bool": lambda: rng.random() < 0.5,
        "int": lambda: rng.randrange(-(1 << rng.randrange(1, 100)), 1 << 70),
        "float": lambda: rng.choice([rng.gauss(0, 1e6), NAN, 0.0]),
        "str": lambda: "".join(rng.choices(string.printable + "é\ud800", k=rng.randrange(5))),
        "bytes": lambda: rng.randbytes(rng.randrange(5)),
    }
    kind = rng.choice(kinds)
    if kind in atoms:
        return atoms[kind]()
    size = rng.randrange(5)
    if kind in {"list", "tuple"}:
        return (list if kind == "list" else tuple)(random_value(rng, depth + 1) for _ in range(size))
    keys = [atoms[rng.choice(["int", "str", "none", "bytes"])]() for _ in range(size)]
    return set(keys) if kind == "set" else {k: random_value(rng, depth + 1) for k in keys}


def test_random_values_survive_and_differ_from_others():
    rng = random.Random(0)
    for _ in range(1000):
        value, other = random_value(rng), random_value(rng)
        copy = decode(encode(value))
        assert same(copy, value)
        assert same(value, other) == same(other, value)
        assert not same([value], value)


def test_random_bytes_are_refused_or_read_but_never_raise_anything_else():
    rng = random.Random(1)
    for _ in range(3000):
        data = bytearray(encode(random_value(rng)))
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            decode(bytes(data))
        except PlainError:
            continue


def test_messages_are_bounded():
    bomb = [0] * 1000
    for _ in range(30):
        bomb = [bomb] * 1000
    loop = []
    loop.append(loop)
    for value in (bomb, loop, nested(MAX_DEPTH + 1), [0] * MAX_NODES, object(), int, range(3), {1: object()}):
        with pytest.raises(PlainError):
            encode(value)
    size = (MAX_NODES + 1).to_bytes(4, "big")
    colliding = [k * ((1 << 61) - 1) for k in range(1000)]
    for data in (
        b"", b"L", b"L" + size + b"N" * (MAX_NODES + 1), b"L\xff\xff\xff\xff", b"NN", b"L\0\0\0\1" * 200 + b"N",
        b"M\0\0\0\1N", b"E\0\0\0\1L\0\0\0\0", b"S\0\0\0\1\xff", b"Z\0\0\0\0", encode(set(colliding)),
    ):  # fmt: skip
        with pytest.raises(PlainError):
            decode(data)


DIFFERENT = [
    (True, 1), (1, 1.0), (0, False), (None, False), ("1", 1), ("a", b"a"), ([1], (1,)), ([1], [1, 2]), ({1}, [1]),
    ({1}, {True}), ({1: 2}, {True: 2}), ({1: 2}, {1: 2.0}), ({"a": 1}, {"a": 1, "b": 2}), (1.0, 1.0 + 1e-6),
    (NAN, 1.0), (float("inf"), float("-inf")), (1e308, float("inf")), ([[1]], [[2]]), ({1, 2}, {1, 3}),
    (10**30, 10**30 + 1),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_what_is_not_the_same(a, b):
    assert not same(a, b)
    assert not same(b, a)
    assert not same([a], [b])


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (NAN, float("nan")), (1.0, 1.0 + 1e-12), (0.0, -0.0), ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({NAN}, {float("nan")}),
        ({3, 1, "x", None, (1, 2)}, {(1, 2), None, "x", 1, 3}), ({1.0}, {1.0 + 1e-12}), (1e300 * 1e10, float("inf")),
    ],
)  # fmt: skip
def test_what_is_the_same(a, b):
    assert same(a, b)
    assert same(b, a)


class Liar:
    __class__ = int

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 1

    def __len__(self):
        raise AssertionError("asked")


class LyingInt(int):
    __eq__ = Liar.__eq__
    __hash__ = int.__hash__


class LyingDict(dict):
    __eq__ = Liar.__eq__
    __hash__ = Liar.__hash__
    __len__ = Liar.__len__


def test_same_asks_no_value_that_is_not_plain():
    loop = []
    loop.append(loop)
    for trick in (
        Liar(),
        LyingInt(1),
        LyingDict(),
        [Liar()],
        {Liar()},
        {Liar(): 1},
        {1: Liar()},
        loop,
        nested(10**5),
        int,
    ):
        for expected in (1, {}, [1], {1}, {1: 1}, loop, nested(10**5)):
            assert not same(trick, expected)


TRICKS = """
class Anything:
    __class__ = int
    def __eq__(self, other): return True
    def __hash__(self): return 42
    def __reduce__(self): return (print, ("unpickled",))
class Int(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
    def to_bytes(self, *a, **k): return b"\\x00\\x2a"
    def bit_length(self): return 6
class Dict(dict):
    def __eq__(self, other): return True
    def items(self): return [("a", 1)]
class Str(str):
    def __eq__(self, other): return True
    def encode(self, *a): return b"right"
class List(list):
    def __eq__(self, other): return True
def deep():
    x = []
    for _ in range(100_000): x = [x]
    return x
def loop():
    x = []
    x.append(x)
    return x
def wide():
    x = [0] * 1000
    for _ in range(10): x = [x] * 1000
    return x
def give(what):
    return eval(what)
"""


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("Anything()", 42), ("[Anything()]", [42]), ("{Anything(): 1}", {42: 1}), ("{1: Anything()}", {1: 42}),
        ("Int(7)", 42), ("Dict()", {"a": 1}), ("Str('wrong')", "right"), ("List()", [42]), ("float('nan')", 42),
        ("deep()", []), ("loop()", []), ("wide()", []), ("True", 1), ("42.0", 42), ("NotImplemented", 42), ("...", 42),
        ("int", 42), ("lambda: 42", 42), ("(x for x in [42])", [42]), ("__import__('unittest.mock').mock.ANY", 42),
    ],
)  # fmt: skip
def test_equality_tricks_do_not_pass(grade, what, expected):
    outcome = grade(TRICKS, "give", ((what,),))
    assert not verdict(outcome, [expected])
    assert outcome.status == "done"


FRAMES = "".join(
    f"\\x{b:02x}"
    for message in (("call", True, 42), ("end", "done", ""))
    for b in FRAME.pack(len(encode(message))) + encode(message)
)
FORGERIES = {
    "prints frames": f"def f():\n    print('{FRAMES}')\n    return 7",
    "writes to every descriptor": (
        f"import os\ndef f():\n    for fd in (0, 1, *range(4, 300)):\n        try: os.write(fd, b'{FRAMES}')\n"
        "        except OSError: pass\n    return 7"
    ),
    "noise in the report": "import os\ndef f():\n    os.write(3, b'\\0\\0\\0\\5junk!' * 100)\n    return 42",
    "huge length": "import os\ndef f():\n    os.write(3, b'\\xff' * 1000)\n    return 42",
    "exits": "import os\ndef f():\n    os._exit(0)",
    "raises SystemExit": "def f():\n    raise SystemExit(0)",
    "exits while loaded": "import sys\nsys.exit(0)\ndef f(): return 42",
    "breaks the library": (
        "import json, sys, os, builtins\njson.dumps = json.loads = lambda *a, **k: 42\n"
        "for name in ('isinstance', 'type', 'len', 'print'):\n    setattr(builtins, name, lambda *a: 42)\n"
        "def f(): return 7"
    ),
    "kills itself": "import os, signal, ctypes\ndef f():\n    ctypes.string_at(0)",
    "unpickles": "class P:\n    def __reduce__(self): return (eval, ('42',))\ndef f(): return P()",
    "changes the harness": (
        "import sys\ndef f():\n    frame = sys._getframe()\n    while frame:\n"
        "        frame.f_globals['verdict'] = frame.f_globals['same'] = lambda *a: True\n        frame = frame.f_back\n"
        "    return 7"
    ),
    "closes everything": "import os\ndef f():\n    os.closerange(0, 100)\n    return 42",
    "forks and both return": "import os\ndef f():\n    os.fork()\n    return 7",
}


@pytest.mark.parametrize("how", FORGERIES)
def test_a_passing_verdict_cannot_be_forged(grade, how):
    outcome = grade(FORGERIES[how], "f")
    assert not verdict(outcome, [42])
    assert not verdict(outcome, [])


def test_an_end_without_the_calls_is_an_error(grade):
    end = encode(("end", "done", ""))
    source = f"import os\ndef f():\n    os.write(3, {FRAME.pack(len(end)) + end!r})\n    os._exit(0)"
    assert grade(source, "f").status == "error"


def test_a_forged_report_is_no_more_than_what_it_says():
    done = Outcome("done", (Returned(True, 1),))
    assert verdict(done, [1])
    assert not verdict(done, [1, 1])
    assert not verdict(Outcome("error", (Returned(True, 1),)), [1])
    assert not verdict(Outcome("done", (Returned(False, None),)), [None])


def test_awkward_values_come_back(grade):
    cases = {
        "'\\ud800'": "\ud800",
        "10 ** 6000": 10**6000,
        "-10 ** 6000": -(10**6000),
        "b'\\x00' * 10": bytes(10),
        "float('inf')": float("inf"),
        "{(1, (2,)): {3}}": {(1, (2,)): {3}},
    }
    outcome = grade("def give(what): return eval(what)", "give", tuple((k,) for k in cases))
    assert verdict(outcome, list(cases.values()))
    assert "4300" in grade("def f(): return str(10 ** 6000)", "f").returned[0].error


def test_errors_are_text_of_bounded_length(grade):
    source = """
class Evil(Exception):
    def __str__(self): raise RuntimeError("no text")
def f(x):
    if x == 1: raise Evil
    if x == 2: raise ValueError("x" * 10**6)
    if x == 3: return 1 / 0
    if x == 4: raise KeyboardInterrupt
    if x == 5: return f(x)
    raise ValueError("\\ud800")
"""
    outcome = grade(source, "f", tuple((x,) for x in range(1, 7)))
    errors = [r.error for r in outcome.returned]
    assert outcome.status == "done"
    assert not any(r.ok for r in outcome.returned)
    assert max(map(len, errors)) <= 400
    assert [e.split(":")[0] for e in errors] == [
        "Evil", "ValueError", "ZeroDivisionError", "KeyboardInterrupt", "RecursionError", "ValueError",
    ]  # fmt: skip
    assert errors[2] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("source", "function", "error"),
    [
        ("def f(:", "f", "SyntaxError"), ("x = 1", "f", "no function 'f'"), ("f = 1", "f", "no function 'f'"),
        ("1 / 0", "", "ZeroDivisionError"), ("import sys; sys.exit(3)", "", "SystemExit: 3"), ("\x00", "", "null"),
        ("\ud800", "", "Unicode"), ("import os; os._exit(3)", "", "status 3"), ("(" * 10000, "", "parenthes"),
        ("raise BaseException('x')", "", "BaseException: x"), ("import numpy", "", "ModuleNotFoundError"),
    ],
)  # fmt: skip
def test_programs_that_fail(grade, source, function, error):
    outcome = grade(source, function)
    assert outcome.status == "error"
    assert error in outcome.error


def test_a_crash_is_a_crash(grade):
    outcome = grade("import ctypes; ctypes.string_at(0)")
    assert outcome.status == "killed"
    assert "SIGSEGV" in outcome.error


def test_scripts(grade):
    assert grade("print(input()[::-1])", stdin="abc\n").stdout == "cba\n"
    assert grade("import sys; print(sys.stdin.read().count('é'))", stdin="é" * 50_000).stdout == "50000\n"
    assert grade("if __name__ == '__main__': print('main')").stdout == "main\n"
    assert grade("def f(): return __name__", "f").returned[0].value != "__main__"
    assert grade("import sys\nprint('a')\nsys.exit()").status == "done"
    assert grade("exit(0)").status == "done"
    assert grade("print('\\ud800')").stdout == "\\ud800\n"
    assert grade("import sys; sys.stdout.buffer.write(b'\\xff')").stdout == "\ufffd"
    threaded = "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()"
    assert grade(threaded).stdout == "late\n"
    assert grade("import atexit; atexit.register(print, 'bye')").stdout == "bye\n"
    with_class = "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\ndef f(): return A(3).x"
    assert grade(with_class, "f").returned[0].value == 3


def test_outcomes_are_deterministic(grade):
    source = "import random\ndef f(): return [random.random(), hash('a'), list({'a', 'b', 'c'})]"
    outcomes = [grade(source, "f") for _ in range(3)]
    assert all(verdict(o, [outcomes[0].returned[0].value]) for o in outcomes)


def test_each_call_gets_its_own_arguments(grade):
    outcome = grade("def f(x):\n    x.append(1)\n    return x", "f", (([],), ([],)))
    assert verdict(outcome, [[1], [1]])


def test_order_is_kept(sandbox):
    count = 20 if sandbox.name == "namespaces" else 4
    programs = [Program("def f(x): return x", "f", ((i,),)) for i in range(count)]
    assert [o.returned[0].value for o in sandbox.run(programs)] == list(range(count))
    assert sandbox.run([]) == []


def test_arguments_that_are_not_plain_are_an_error(sandbox):
    (outcome,) = sandbox.run([Program("def f(x): return x", "f", ((object(),),))])
    assert outcome.status == "error"


def test_limits_scale_with_the_reference():
    assert scaled(0.0).cpu_seconds == 0.5
    assert scaled(0.3).cpu_seconds == pytest.approx(3.0)
    assert scaled(100.0).cpu_seconds == 10.0
    assert scaled(0.3).wall_seconds == pytest.approx(30.0)
    assert scaled(0.0).wall_seconds == Limits().wall_seconds
