"""Grading programs: extraction, comparison, hostile programs in the real sandbox, and pass@k."""

import json
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgym.core import Attempt, Problem
from dgym.errors import DomainError
from dgym.graders import code
from dgym.graders.code import (
    MAX_RESPONSE,
    Case,
    Job,
    are_python,
    grade_programs,
    pass_at_k,
    programs_of,
    same_output,
    same_value,
    summary,
)
from dgym.graders.code_checks import CheckTest, grade_checked, recorded
from dgym.sandbox import Limits, find_sandbox

SHORT = Limits(cpu_seconds=0.5, wall_seconds=10.0, memory_bytes=256 << 20)
HASTY = Limits(cpu_seconds=0.2, wall_seconds=1.0, memory_bytes=128 << 20)
"""For programs that are wrong whatever stops them."""

HEAD = 'from typing import List\n\n\ndef total(xs: List[int], k: int) -> int:\n    """Add xs and k."""\n'
WHOLE = "def total(xs, k):\n    return sum(xs) + k"
CASES = (Case("[1, 2]\n3", "6"), Case("[]\n0", "0"), Case("[5]\n-7", "-2"))
SCRIPT = "a, b = map(int, input().split())\nprint(a + b)"
SUMS = (Case("1 2\n", "3\n"), Case("5 -7\n", "-2\n"))

CHECK = CheckTest(
    "total",
    HEAD,
    HEAD + "    return sum(xs) + k\n",
    "def check(candidate):\n    assert candidate([1, 2], 3) == 6\n    assert candidate([], 0) == 0\n"
    "    assert candidate([5], -7) == -2\n",
)


def called(response, cases=CASES, head=HEAD, limits=SHORT):
    """Grades a response that is a function."""
    return grade_programs([Job(programs_of(response, "total", head), lambda: cases, "total", HEAD, limits)])[0]


def run(response, cases=SUMS, limits=SHORT):
    """Grades a response that is a script."""
    return grade_programs([Job(programs_of(response), lambda: cases, limits=limits)])[0]


def checked(response, limits=SHORT):
    """Grades a response by a test that is a program."""
    return grade_checked([(programs_of(response, "total", HEAD), CHECK)], limits)[0]


# Extraction -----------------------------------------------------------------------------------------------------------

FUNCTIONS = {
    "bare": WHOLE,
    "fenced": f"```python\n{WHOLE}\n```",
    "text before": f"Sure! Here it is:\n\n```python\n{WHOLE}\n```\nIt adds.",
    "text before on the fence's line": f"The answer is ```python\n{WHOLE}\n``` as asked.",
    "unnamed fence": f"```\n{WHOLE}\n```",
    "unclosed": f"Here:\n```python\n{WHOLE}",
    "closed on the line of the code": f"```python\n{WHOLE}```",
    "on one line": "Use ```python total = lambda xs, k: sum(xs) + k```.",
    "tildes": f"~~~py\n{WHOLE}\n~~~",
    "four": f"````python\n{WHOLE}\n````",
    "attributes": f'```python title="a.py"\n{WHOLE}\n```',
    "windows": f"```python\n{WHOLE}\n```".replace("\n", "\r\n"),
    "in a list": "1. Write:\n\n   ```python\n   def total(xs, k):\n       return sum(xs) + k\n   ```\n2. Done.",
    "a wrong try first": f"```python\ndef total(xs, k):\n    return 0\n```\nNo:\n```python\n{WHOLE}\n```",
    "an example after": f"```python\n{WHOLE}\n```\nFor example:\n```python\nprint(total([1], 2))\n```\n```\n3\n```",
    "an example before": f"We want\n```\ntotal([1], 2) == 3\n```\nso:\n```python\n{WHOLE}\n```",
    "code without a fence, an example with one": f"{WHOLE}\n\nFor example:\n```\n>>> total([1], 2)\n3\n```",
    "prose around": f"Here is the function.\n\n{WHOLE}\n\nIt simply adds the numbers.",
    "thoughts": f"<think>```python\ndef total(xs, k):\n    return 0\n```</think>\n```python\n{WHOLE}\n```",
    "a fence in a docstring": "```python\ndef total(xs, k):\n    '''Adds.\n\n    ```\n    total([1], 2)\n    ```\n"
    "    '''\n    return sum(xs) + k\n```",
    "a fence in a text": "```python\ndef total(xs, k):\n    mark = '```' + ''\n    return sum(xs) + k\n```",
    "from the future": f"```python\nfrom __future__ import annotations\n\n{WHOLE}\n```",
    "imports and a helper": "```python\nimport operator\nfrom functools import reduce\n\ndef add(a, b):\n"
    "    return operator.add(a, b)\n\ndef total(xs, k):\n    return reduce(add, xs, k)\n```",
    "what the head imports": "```python\ndef total(xs: List[int], k: int) -> int:\n    return sum(xs) + k\n```",
    "a class": "```python\nclass Solution:\n    def total(self, xs, k):\n        return sum(xs) + k\n```",
    "the rest": "    return sum(xs) + k\n",
    "the rest, cut": "return sum(xs) + k",
    "the rest, cut at its first line": "for x in xs:\n        k += x\n    return k",
    "the rest, without its indentation": "for x in xs:\n    k += x\nreturn k",
    "the rest, fenced": "```python\n    for x in xs:\n        k += x\n    return k\n```",
    "the rest, and then more": "    return add(xs) + k\n\n\ndef add(xs):\n    return sum(xs)\n\n\n"
    "print(total([1], 2))\nx y z\n",
    "the rest, and a fence that nothing opened": "    return sum(xs) + k\n```\n\nThis adds the numbers.",
    "the rest, cut, and a fence that nothing opened": "return sum(xs) + k\n```\n\nThis adds the numbers.",
    "prose, and the rest": "The body is:\n```\n    return sum(xs) + k\n```\nwhich adds the numbers.",
    "the rest, and then prose": "    return sum(xs) + k\n\nThis adds the numbers.",
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_found_wherever_it_stands(name):
    assert called(FUNCTIONS[name]).right


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n != "a class"])
def test_so_it_is_for_tests_that_are_programs(name):
    assert checked(FUNCTIONS[name]).right


@pytest.mark.parametrize(
    "response",
    [
        SCRIPT,
        f"Here is the code:\n```python\n{SCRIPT}\n```",
        f"It reads ```1 2``` so:\n\n```python\n{SCRIPT}\n```\nSample:\n```\n3\n```\n",
        f"```python\n{SCRIPT}\n```\nRun it:\n```bash\npython a.py\n```",
        f"```python\n{SCRIPT}\n```\nwhich is like\n```python\nprint(1 + 2)\n```",
        f"```\n{SCRIPT}\n```",
        f"```python\n{SCRIPT}",
        f"I would write this.\n\n{SCRIPT}\n\nThat is all there is to it.",
        f"def main():\n    {SCRIPT.replace(chr(10), chr(10) + '    ')}\nif __name__ == '__main__':\n    main()",
    ],
)
def test_a_script_is_found_wherever_it_stands(response):
    assert run(response).right


def test_a_body_follows_the_code_that_a_class_begins():
    head = "class Solution:\n    def total(self, xs: List[int], k: int) -> int:\n        "
    for body in (
        "        return sum(xs) + k",
        "return sum(xs) + k",
        "for x in xs:\n            k += x\n        return k",
    ):
        assert called(body, head=head).right, body


@pytest.mark.parametrize(
    "response",
    [
        "",
        " \n",
        "I cannot.",
        "```python\n```",
        "```",
        "def other(xs, k):\n    return sum(xs) + k",
        "    return 0",
        "x" * 9,
    ],
)
def test_what_is_no_answer_is_wrong(response):
    assert not called(response).right
    assert not checked(response).right


def test_a_function_that_is_missing_is_not_the_one_that_the_head_began():
    """Otherwise a test that wants `None` would be content with what the docstring alone returns."""
    test = CheckTest(
        "nothing", 'def nothing():\n    """."""\n', "def nothing(): return None", "def check(c): assert c() is None"
    )
    other = programs_of("```python\ndef other():\n    return 1\n```\n", "nothing", "")
    right = programs_of("def nothing():\n    return None", "nothing", test.before)
    assert [r.right for r in grade_checked([(other, test), (right, test)], SHORT)] == [False, True]


@given(st.text(alphabet="`~ \n\tdefxclass:()[]'\"#=pythonSolution\u00e9\x00\ud800", max_size=300))
def test_any_text_has_readings_that_are_texts(text):
    for name, head in (("", ""), ("f", ""), ("f", "def f(x):\n    "), ("f", text)):
        readings = programs_of(text, name, head)
        assert all(isinstance(r, str) and r.strip() for r in readings)


@pytest.mark.parametrize(
    "text",
    [
        "```" * 60_000,
        "``` " * 40_000,
        "```python\n" * 15_000,
        "~~~\n```\n" * 20_000,
        "a,b" * 60_000,
        "x: " * 60_000,
        "def total(\n" * 15_000,
        " " * 190_000 + "x",
        "[" * 190_000,
        "\n" * 190_000,
        "</think>" * 20_000,
    ],
    ids=range(11),
)
def test_long_texts_are_read_in_time(text):
    """Each of these takes minutes where one step is quadratic."""
    for name, head in (("", ""), ("total", HEAD)):
        programs_of(text, name, head)


def test_too_long_a_response_is_not_run():
    assert programs_of("x" * (MAX_RESPONSE + 1)) == ()
    result = called(WHOLE + "\n#" + "x" * 2_000_000)
    assert (result.right, result.compiles) == (False, False)


def test_python_is_told_from_other_text_in_the_sandbox():
    texts = ("x = 1", "x = ", "(" * 5_000, "-" * 100_000 + "1", "x" + ".x" * 50_000, "\x00", "\ud800", "")
    assert are_python([programs_of(t) for t in texts])[:2] == [True, False]
    assert are_python([]) == []
    assert are_python([()]) == [False]


# Comparison -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("printed", "wanted", "equal"),
    [
        ("3", "3\n", True),
        ("\n 3 \n\n", "3", True),
        ("1 2 \n 3", "1 2\n3", True),
        ("1  2", "1 2", True),
        ("3.0", "3", True),
        ("1e2", "100", True),
        ("0.1 2", "0.10 2.0", True),
        ("Yes", "YES", False),
        ("3.0000001", "3", False),
        ("50000000000000001", "50000000000000000", False),
        ("1\n2", "1 2", False),
        ("1\n\n2", "1\n2", False),
        ("", "0", False),
        ("nan", "NaN", False),
        ("snan", "0", False),
        ("1e999999999", "1e999999998", False),
        ("a 1.0", "a 1", False),
        ("", "\n", True),
    ],
)
def test_output_is_compared_as_livecodebench_does(printed, wanted, equal):
    assert same_output(printed, wanted) is equal
    assert same_output(wanted, printed) is equal


@pytest.mark.parametrize(
    ("returned", "wanted", "equal"),
    [
        ("[1, 2]", "[1,2]", True),
        ("1.0", "1", True),
        ("true", "1", True),
        ("[[1], []]", "[[1], []]", True),
        ('"a"', '"b"', False),
        ("0.30000000000000004", "0.3", False),
        ("null", "0", False),
        ("NaN", "NaN ", False),
        ("[" * 100_000, "[]", False),
        ("9" * 100_000, "9", False),
        ("", "[]", False),
        (5, "5", False),
        (None, "null", False),
    ],
)
def test_values_are_compared_as_python_does(returned, wanted, equal):
    assert same_value(returned, wanted) is equal


def test_a_tuple_is_a_list():
    assert called("def total(xs, k):\n    return ((1, (2,)), [])", (Case("[]\n0", "[[1, [2]], []]"),)).right
    assert not called("def total(xs, k):\n    return {1, 2}", (Case("[]\n0", "[1, 2]"),)).right


# Running --------------------------------------------------------------------------------------------------------------


def test_results_come_in_order_with_what_was_measured():
    jobs = [
        Job(programs_of(text), lambda: SUMS, limits=SHORT)
        for text in (SCRIPT, "print(3)", "print(0)", "x y", "import sys\nprint(3)\nsys.exit(1)", SCRIPT)
    ]
    results = grade_programs(jobs)
    assert [r.right for r in results] == [True, False, False, False, False, True]
    assert [r.passed for r in results] == [2, 1, 0, 0, 1, 2]
    assert [r.compiles for r in results] == [True, True, True, False, True, True]
    assert results[1].measures == {"compiles": 1.0, "tests": 0.5}
    assert results[3].measures == {"compiles": 0.0, "tests": 0.0}
    assert grade_programs([]) == []


def test_leaving_by_exit_is_a_way_to_end():
    """As in the published harness, whatever the status."""
    for text in ("print(3)\nexit()", "import sys\nprint(3)\nsys.exit(1)", "print(3)\nraise SystemExit"):
        assert run(text, SUMS[:1]).right, text
    assert not run("print(3)\nraise ValueError", SUMS[:1]).right


def test_the_first_failed_test_ends_a_function():
    result = called("def total(xs, k):\n    return 6")
    assert (result.right, result.passed, result.total) == (False, 1, 3)
    result = called("def total(xs, k):\n    return sum(xs) + k if xs else 1 / 0")
    assert (result.right, result.passed, result.error) == (False, 1, "ZeroDivisionError: division by zero")


def test_each_call_has_the_whole_time():
    """Together these calls take longer than the limit; each by itself does not."""
    busy = "    end = time.process_time() + 0.3\n    while time.process_time() < end: pass\n"
    assert called(f"import time\ndef total(xs, k):\n{busy}    return sum(xs) + k").right
    endless = "def total(xs, k):\n    while not xs: pass\n    return sum(xs) + k"
    result = called(endless)
    assert (result.right, result.passed) == (False, 1)
    assert result.error.startswith("time")


def test_a_program_that_waits_in_each_call_is_not_tried_again():
    result = called("import time\ndef total(xs, k):\n    time.sleep(0.6)\n    return sum(xs) + k", limits=HASTY)
    assert not result.right
    assert result.passed < 2


def test_many_values_are_passed():
    """More than the sandbox takes as one list of values."""
    numbers = list(range(300_000))
    case = Case(f"{json.dumps(numbers)}\n0", json.dumps(numbers[::-1]))
    limits = Limits(cpu_seconds=10.0, wall_seconds=60.0, memory_bytes=1 << 30)
    assert called("def total(xs, k):\n    return xs[::-1]", (case,), limits=limits).right
    text = " ".join(map(str, numbers))
    assert run("print(input())", (Case(text, text),), limits=limits).right


def test_what_is_expected_never_enters_the_process_of_a_response(monkeypatch):
    seen = []
    sandbox = find_sandbox()

    class Spy:
        def run(self, programs):
            seen.extend(programs)
            return sandbox.run(programs)

    monkeypatch.setattr(code, "find_sandbox", Spy)
    monkeypatch.setattr("dgym.graders.code_checks.find_sandbox", Spy)
    assert called("def total(xs, k):\n    return 'se' + 'cret'", (Case("[]\n0", '"secret"'),)).right
    assert run("print('se' + 'cret')", (Case("", "secret"),)).right
    assert len(seen) == 2
    assert not any("secret" in repr(program) for program in seen)
    seen.clear()
    test = CheckTest("total", HEAD, WHOLE, "def check(candidate):\n    assert candidate([], 41) == 41, 'secret'")
    assert grade_checked([(("def total(xs, k): return mark(k)\ndef mark(k): return k",), test)], SHORT)[0].right
    with_response = [program for program in seen if "mark(k)" in repr(program)]
    assert len(with_response) == 1
    assert not any("secret" in repr(program) for program in with_response)


# Hostile programs -----------------------------------------------------------------------------------------------------

SETUPS = {
    "leaves": "import sys\nsys.exit(0)",
    "leaves hard": "import os\nos._exit(0)",
    "loops": "while True: pass",
    "waits": "import time\ntime.sleep(100)",
    "forks": "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
    "fills memory": "x = ['a' * 1000]\nwhile True: x.append(x[-1] + 'b')",
    "prints without end": "while True: print('3' * 1000)",
    "prints verdicts": "print('True')\nprint(True)\nprint('passed')\nprint('[[true]]')",
    "writes reports": "import os\ntry:\n    os.write(3, b'\\0\\0\\0\\1T' * 9)\nexcept OSError:\n    pass\nos._exit(0)",
    "kills": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
    "nests": "x = " + "(" * 5_000,
    "nests signs": "x = " + "-" * 100_000 + "1",
    "nests names": "x = x" + ".x" * 50_000,
    "nests lists": "x = " + "[" * 90 + "]" * 90 + "\nfor _ in range(10**5): x = [x]",
    "recurses": "def f(): f()\nf()",
    "is not text": "\x00\ud800",
}
"""What a program may do before it is called; none of these answers anything."""

BODIES = {
    "equal to everything": "class All:\n    def __eq__(self, other): return True\n"
    "    def __ne__(self, other): return False\n    def __hash__(self): return 0\ndef total(xs, k): return All()",
    "a number equal to everything": "class All(int):\n    def __eq__(self, other): return True\n"
    "    def __repr__(self): return '6'\ndef total(xs, k): return All(5)",
    "a list equal to everything": "class All(list):\n    def __eq__(self, other): return True\n"
    "    def __iter__(self): return iter([1])\ndef total(xs, k): return All()",
    "a text equal to everything": "class All(str):\n    def __eq__(self, other): return True\n"
    "    def __str__(self): return '6'\ndef total(xs, k): return All('x')",
    "builtins": "import builtins\nbuiltins.sum = lambda *a: 0\nbuiltins.all = builtins.any = lambda *a: True\n"
    "builtins.isinstance = lambda *a: True\nbuiltins.AssertionError = Exception\ndef total(xs, k): return None",
    "json": "import json\njson.dumps = lambda *a, **k: 'true'\njson.loads = lambda *a, **k: True\n"
    "def total(xs, k): return 1",
    "frames": "import sys\ndef total(xs, k):\n    frame = sys._getframe()\n    while frame:\n"
    "        frame.f_globals['check'] = lambda c: None\n        frame.f_globals['replay'] = lambda *a: True\n"
    "        frame = frame.f_back\n    return 'no'",
    "exceptions on the way out": "class D:\n    def __del__(self): raise ValueError\nkept = D()\n"
    "def total(xs, k):\n    D()\n    return D()",
    "threads": "import threading, time\ndef stay(): time.sleep(30)\nthreading.Thread(target=stay).start()\n"
    "def total(xs, k): return 1",
    "leaving": "import sys\ndef total(xs, k): sys.exit(0)",
    "leaving hard": "import os\ndef total(xs, k): os._exit(0)",
    "a lambda": "def total(xs, k): return lambda: 6",
    "nothing": "def total(xs, k): pass",
    "without end": "def total(xs, k):\n    while True: yield 6",
    "nested": "def total(xs, k):\n    x = []\n    for _ in range(100000): x = [x]\n    return x",
    "in itself": "def total(xs, k):\n    x = []\n    x.append(x)\n    return x",
    "long": "def total(xs, k): return '6' * (1 << 24)",
    "not a number": "def total(xs, k): return float('nan')",
    "many digits": "def total(xs, k): return 10 ** 100000",
    "no class": "Solution = 5\ndef total(xs, k): return sum(xs) + k + 1",
}


@pytest.mark.parametrize("name", SETUPS)
def test_a_program_that_does_not_answer_is_wrong(name):
    assert not run(SETUPS[name], limits=HASTY).right
    function = f"```python\n{SETUPS[name]}\ndef total(xs, k): return 7\n```"
    assert not called(function, limits=HASTY).right
    assert not checked(function, limits=HASTY).right


@pytest.mark.parametrize("name", BODIES)
def test_a_function_that_cheats_is_wrong(name):
    assert not called(BODIES[name], limits=HASTY).right
    assert not checked(BODIES[name], limits=HASTY).right


def test_after_hostile_programs_others_are_graded_as_ever():
    texts = [*SETUPS.values(), *BODIES.values()]
    jobs = [Job(programs_of(t, "total", HEAD), lambda: CASES, "total", HEAD, HASTY) for t in texts for _ in range(2)]
    jobs[::2] = [Job((WHOLE,), lambda: CASES, "total", HEAD, Limits(wall_seconds=60.0))] * len(texts)
    assert [r.right for r in grade_programs(jobs)] == [True, False] * len(texts)


@pytest.mark.parametrize(
    "body",
    [
        "import collections\ndef total(xs, k): return collections.Counter({6: 1})",
        "import collections\ndef total(xs, k): return collections.defaultdict(int, {6: 1})",
        "import collections\ndef total(xs, k): return collections.OrderedDict({6: 1})",
        "def total(xs, k): return {True + 5: True}",
    ],
)
def test_subclasses_of_containers_are_what_they_equal(body):
    test = CheckTest("total", "", "def total(xs, k): return {6: 1}", "def check(c): assert c([], 0) == {6: 1}")
    assert grade_checked([((body,), test)], SHORT)[0].right


def test_iterators_are_passed_on_as_iterators():
    lists = CheckTest("f", "", "def f(): return (1, 2)", "def check(c): assert tuple(c()) == (1, 2)")
    exact = CheckTest("f", "", "def f(): return [1, 2]", "def check(c): assert c() == [1, 2]")
    lazy = ("def f(): return map(int, '12')",)
    assert [r.right for r in grade_checked([(lazy, lists), (lazy, exact)], SHORT)] == [True, False]


@pytest.mark.parametrize(
    ("value", "expression"),
    [
        ("Fraction(1, 2)", "c() == 0.5"),
        ("Decimal('0.50')", "c() == 0.5"),
        ("1 + 2j", "c() == 1 + 2j"),
        ("range(3)", "c() == range(3) and list(c()) == [0, 1, 2]"),
        ("frozenset({1})", "c() == {1}"),
        ("{(1, 'a'): [None, b'x', -0.0]}", "c() == {(1, 'a'): [None, b'x', 0.0]}"),
        ("float('inf')", "c() > 10 ** 300"),
        ("10 ** 50", "c() == 10 ** 50"),
    ],
)
def test_values_that_tests_compare_are_passed_on(value, expression):
    source = f"from fractions import Fraction\nfrom decimal import Decimal\ndef f(): return {value}"
    test = CheckTest("f", "", source, f"def check(c): assert {expression}")
    assert grade_checked([((source,), test)], SHORT)[0].right


def test_a_test_may_expect_an_exception():
    test = CheckTest(
        "f",
        "",
        "def f(): raise ValueError",
        "def check(c):\n    try:\n        c()\n    except Exception:\n        return\n    assert 0",
    )
    jobs = [(("def f(): raise KeyError",), test), (("def f(): return 1",), test)]
    assert [r.right for r in grade_checked(jobs, SHORT)] == [True, False]


def test_what_is_random_in_a_test_is_the_same_again():
    drawn = "    for _ in range(30):\n        x = random.random()\n        assert c(x) == x"
    text = f"def check(c):\n    import random\n{drawn}"
    test = CheckTest("f", "", "import random\ndef f(x):\n    random.random()\n    return x", text)
    jobs = [(("def f(x): return x",), test), (("def f(x): return x if x < 0.9 else 0",), test)]
    assert [r.right for r in grade_checked(jobs, SHORT)] == [True, False]
    assert len(recorded([test], SHORT)[0]) == 30


def test_a_solution_that_fails_its_own_test_is_an_error_of_the_data():
    test = CheckTest("f", "", "def f(): return 1", "def check(c): assert c() == 2")
    with pytest.raises(DomainError, match="does not pass its test"):
        grade_checked([(("def f(): return 2",), test)], SHORT)


# pass@k ---------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_choices_with_a_right_one(numbers):
    n, c, k = numbers
    exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
    assert math.isclose(pass_at_k(n, c, k), float(exact), rel_tol=1e-9, abs_tol=1e-12)


def test_pass_at_k_of_many_samples_is_finite():
    assert 0.0 < pass_at_k(100_000, 1, 50) < 0.001
    assert pass_at_k(100_000, 99_000, 50_000) == 1.0
    for wrong in ((3, 4, 1), (3, 1, 4), (3, 1, 0), (3, -1, 1)):
        with pytest.raises(ValueError, match="pass@"):
            pass_at_k(*wrong)


def test_the_summary_has_pass_at_k_as_far_as_there_are_samples():
    one, two = (Problem(name, "", "", "") for name in "ab")
    scores = [(one, 1), (one, 0), (one, 0), (two, 0), (two, 0)]
    attempts = [Attempt(problem, "", float(score)) for problem, score in scores]
    assert summary(attempts) == pytest.approx({"pass@1": 1 / 6, "pass@2": 1 / 3})
    assert summary(attempts[::3]) == {"pass@1": 0.5}
    assert summary([]) == {}
