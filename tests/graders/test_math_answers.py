r"""Answers in mathematics: where they stand in a response, math-verify's verdicts, and answers made to do harm."""

import csv
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgym.errors import InfrastructureError
from dgym.graders import math_answers
from dgym.graders.math_answers import MODES, final_answer, reference_answer, right, right_all
from dgym.graders.math_extract import LONGEST, boxed, last_number, stated
from dgym.graders.math_pool import MathPool, PairLimits

with Path(__file__).with_name("math_pairs.tsv").open(encoding="utf-8", newline="") as lines:
    PAIRS = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))

QUICK = PairLimits(cpu_seconds=0.3)


@pytest.fixture
def quick(monkeypatch):
    """Lets a pair take a third of a second only, and forgets earlier verdicts."""
    pool = MathPool(QUICK)
    monkeypatch.setattr(math_answers, "_pool", pool)
    monkeypatch.setattr(math_answers, "_verdicts", type(math_answers._verdicts)())
    yield pool
    pool.close()


# ----------------------------------------------------------------------------------------------------------------
# Where the answer stands


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"\boxed{5}", "5"),
        (r"So $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{1}, no, \boxed{2}", "2"),
        (r"\fbox{x} then more", "x"),
        (r"\boxed{\frac{1}{2}} and \boxed{3", r"\frac{1}{2}"),
        (r"\boxed{\frac{1}{2}", None),
        (r"\boxed {7}", "7"),
        (r"$\boxed 7$, thus", "7"),
        (r"$\boxed\frac12$", r"\frac12"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\boxed{5}", "5"),
        (r"\boxed{}", None),
        (r"\boxed{4} \boxed{ }", "4"),
        (r"\boxed{a\}b}", r"a\}b"),
        (r"\boxed{\left\{1,2\right\}}", r"\left\{1,2\right\}"),
        (r"}} \boxed{4}}", "4"),
        (r"\boxedtext{4}", None),
        ("no box", None),
    ],
)
def test_the_last_closed_box_that_holds_something(text, found):
    assert boxed(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The final answer is 42.", "42"),
        ("Final Answer: The final answer is $42$. I hope it is correct.", "42"),
        ("the FINAL ANSWER IS\n42", "42"),
        ("Final answer: $$x^2$$", "x^2"),
        ("**Final Answer:** 7", "7"),
        ("**Final answer**: **42**.", "42"),
        ("Final answer = 8", "8"),
        ("The answer is $18.50.", "18.50"),
        ("the final answer is $12 per box.", "12"),
        ("The final answer is $\\$5$.", r"\$5"),
        ("The final answer is $2$ and $3$.", "2, 3"),
        ("The final answer is $x=2$, so it is.", "x=2"),
        ("final answer is\n\\[ \\frac12 \\]", r"\frac12"),
        (r"Answer: \(x=3\).", "x=3"),
        ("The final answer is (3, 4).", "(3, 4)"),
        ("The final answer is Evelyn. She won.", "Evelyn"),
        ("the answer is 3.5 meters. So", "3.5"),
        ("the answer is 1,200 dollars a year", "1,200"),
        ("the answer is 2 and 3", "2 and 3"),
        ("the answer is 2 sqrt(3)", "2 sqrt(3)"),
        ("The final answer is 41. No: the final answer is 43.", "43"),
        ("The final answer is 3! + 1.", "3! + 1"),
        ("The final answer is 3!", "3"),
        ("#### 1,200", "1,200"),
        ("the answer is obvious", None),
        ("The final answer is", None),
        ("there is an answer", None),
    ],
)
def test_what_is_said_to_be_the_answer(text, found):
    assert stated(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("She has 7 apples and 1,234 pears.", "1,234"),
        ("that is 1,234, or so", "1,234"),
        ("10-3=-7", "-7"),
        ("10-3", "3"),
        ("$-5$", "-5"),
        (r"-\frac12", r"-\frac12"),
        (r"it is \frac{3}{4}", r"\frac{3}{4}"),
        ("3/4", "3/4"),
        ("about 12.50 dollars", "12.50"),
        ("half, .5", ".5"),
        (r"36\text{ cm}^2", "36"),
        ("5^{-3}", "5"),
        (r"50\%", r"50\%"),
        ("none", None),
    ],
)
def test_the_last_number(text, found):
    assert last_number(text) == found


def test_box_then_words_then_number():
    text = r"The final answer is 3. As $\boxed{2}$ shows, 1."
    assert final_answer(text) == "2"
    assert final_answer(text.replace("boxed", "text")) == "3"
    assert final_answer("So there are 4 and then 1") == "1"
    assert final_answer("So there are 4 and then 1", marked=True) is None
    assert final_answer("nothing") is final_answer("") is None


def test_minerva_puts_its_own_sentence_first_and_knows_no_last_number():
    text = "So \\boxed{2}.\nFinal Answer: The final answer is $3$. I hope it is correct.\nFinal answer: 4"
    assert final_answer(text, "minerva") == "$3$"
    assert final_answer(text) == "2"
    assert final_answer("So there are 4.", "minerva") is None
    assert final_answer("Final Answer: The final answer is $3$", "minerva") == "$3$"
    assert final_answer("It is \\boxed{ 3. }", "minerva") == "3."


def test_a_reference_may_be_the_bare_answer():
    assert reference_answer(r"\frac{1}{2}") == r"\frac{1}{2}"
    assert reference_answer("$x + 1$.") == "x + 1"
    assert reference_answer(r"Since 3 > 2, it is \boxed{5}.") == "5"
    assert reference_answer(" ") is None


def test_only_the_end_of_a_response_is_read():
    assert final_answer(r"\boxed{3}" + " " * 1_000_000) is None
    assert final_answer("x" * 1_000_000 + r"\boxed{3}") == "3"


# ----------------------------------------------------------------------------------------------------------------
# math-verify


@pytest.fixture(scope="module")
def direct():
    """math-verify itself, here in this process."""
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)

    def verdict(reference, response):
        gold, target = (math_verify.parse(text, parsing_timeout=None) for text in (reference, response))
        return math_verify.verify(gold, target, timeout_seconds=None)

    return verdict


def test_every_recorded_verdict_holds():
    verdicts = right_all(
        "math-verify", [(rf"\boxed{{{p['reference']}}}", rf"Thus \boxed{{{p['answer']}}}") for p in PAIRS]
    )
    assert [p for p, v in zip(PAIRS, verdicts, strict=True) if v != (p["math-verify"] == "y")] == []


@pytest.mark.parametrize(("mode", "least"), [("math-verify", 0.93), ("minerva", 0.78)])
def test_verdicts_are_those_of_a_person_in_most_pairs(mode, least):
    # `same` was judged by hand, before any grader was asked.
    verdicts = right_all(mode, [(rf"\boxed{{{p['reference']}}}", rf"\boxed{{{p['answer']}}}") for p in PAIRS])
    agreed = sum(v == (p["same"] == "y") for p, v in zip(PAIRS, verdicts, strict=True))
    assert agreed / len(PAIRS) >= least
    wrongly_right = [p for p, v in zip(PAIRS, verdicts, strict=True) if v and p["same"] == "n"]
    assert len(wrongly_right) <= 0.03 * len(PAIRS)


def test_verdicts_agree_with_a_direct_call_on_the_same_answers(direct):
    responses = [rf"\boxed{{{p['answer']}}}" for p in PAIRS]
    verdicts = right_all("math-verify", [(p["reference"], r) for p, r in zip(PAIRS, responses, strict=True)])
    differing = [
        (reference, answer)
        for pair, response, verdict in zip(PAIRS, responses, verdicts, strict=True)
        for reference, answer in [(reference_answer(pair["reference"]), final_answer(response))]
        if verdict != (answer is not None and direct(rf"\boxed{{{reference}}}", rf"\boxed{{{answer}}}"))
    ]
    assert differing == []


PLACES = (
    "Adding up, we get $2+3$, so it is $\\boxed{{{}}}$.",
    "So\n\\[\\boxed{{{}}}.\\]",
    "Final Answer: The final answer is ${}$. I hope it is correct.",
    "The final answer is: ${}$",
)
# Where the library finds another answer in the whole text: an unreadable one makes it turn to an earlier formula or
# number, it keeps a full stop in a box, and takes the number out of "45°" where that stands in a formula, not in a box.
DIFFERING = {"~5", "?", r"\frac{", r"\text{}", r"\sqrt{", "5.", "45°"}


@pytest.mark.parametrize("place", PLACES)
def test_verdicts_agree_with_a_direct_call_on_whole_texts(place, direct):
    texts = [(rf"Therefore it is $\boxed{{{p['reference']}}}$.", place.format(p["answer"])) for p in PAIRS]
    verdicts = right_all("math-verify", texts)
    differing = {p["answer"] for p, text, v in zip(PAIRS, texts, verdicts, strict=True) if v != bool(direct(*text))}
    assert differing <= DIFFERING


def test_numbers_of_word_problems():
    for reference, response in [
        ("The final answer is 1200.", "She earns $1,200 in all."),
        ("The final answer is 1200.", "The final answer is $1,200.00."),
        ("The final answer is 1200.", "The answer is 1,200 dollars."),
        ("The final answer is -5.", "#### -5"),
        ("The final answer is 12.5.", "It takes 12.50 hours"),
        ("The final answer is 42.", "Final answer: 42 apples"),
        ("The final answer is 42.", r"So there are $\boxed{42\text{ apples}}$ left."),
        ("The final answer is 42.", "The final answer is **42**."),
    ]:
        assert right("math-verify", reference, response), response
    for response in ("The final answer is 120.", "The final answer is 12.00.", "-1200", "1,200,000", "", "twelve"):
        assert not right("math-verify", "The final answer is 1200.", response), response


def test_no_answer_is_never_right():
    for mode in MODES:
        assert not right(mode, "", "")
        assert not right(mode, "5", "")
        assert not right(mode, "", r"\boxed{5}")
    assert not right("minerva", r"\text{}", r"\boxed{\text{}}")


def test_there_are_two_sets_of_rules():
    with pytest.raises(ValueError, match=r"no rules 'exact'; known: math-verify, minerva"):
        right("exact", "5", "5")


def test_order_and_repetition():
    pairs = [("5", r"\boxed{2+3}"), ("5", r"\boxed{2+4}"), ("5", "5"), ("5", r"\boxed{2+3}")] * 40
    assert right_all("math-verify", pairs) == [True, False, True, True] * 40
    assert right_all("math-verify", []) == []


def test_equal_texts_and_integers_need_no_process(monkeypatch):
    monkeypatch.setattr(math_answers, "_pool", None)
    monkeypatch.setattr(math_answers, "_compare", lambda pairs: {} if not pairs else pytest.fail(f"asked {pairs}"))
    for mode in MODES:
        assert right(mode, r"\boxed{(1,2]}", r"\boxed{(1,2]}")
        assert not right(mode, r"\boxed{17}", r"\boxed{-17}")
        assert not right(mode, r"\boxed{17}", r"\boxed{171}")


def test_a_verdict_is_remembered(quick):
    assert right("math-verify", "0.5", r"\boxed{\frac{1}{2}}")
    quick.equal_all = lambda pairs: pytest.fail(f"asked {pairs}") if pairs else []
    assert right("math-verify", "0.5", r"\boxed{\frac{1}{2}}")


# ----------------------------------------------------------------------------------------------------------------
# Answers made to do harm

HARM = [
    "9**9**9**9",
    "9^{9^{9^{9^{9}}}}",
    "10000000000!",
    r"\prod_{n=1}^{10^{9}} n",
    "0.1^{10^{10^{10}}}",
    "x^{" * 80 + "}" * 80,
    r"\sqrt{" * 60 + "2" + "}" * 60,
    r"\frac{1}{1+" * 40 + "1" + "}" * 40,
    "(" * 200 + "1" + ")" * 200,
    "-" * 400 + "1",
    "1/" * 200 + "0",
    "(x+1)^{99999}(x-1)^{99999}",
    "|" * 300,
    "1" + "0" * 490,
    "\x00\ud800\ufffd\U0001f600",
    "__import__('os').system('exit')",
]


@pytest.mark.parametrize("mode", MODES)
def test_harmful_answers_are_wrong_and_leave_the_others_alone(mode, quick):
    bad = [("5", rf"\boxed{{{text}}}") for text in HARM]
    good = [("0.5", rf"\boxed{{\frac{{{n}}}{{{2 * n}}}}}") for n in range(1, len(bad) + 1)]
    verdicts = right_all(mode, [pair for pairs in zip(bad, good, strict=True) for pair in pairs])
    assert verdicts == [False, True] * len(bad)


LARGE = [
    "9" * 1_000_000,
    r"\boxed{" + "9" * 100_000 + "}",
    r"\frac" * 10_000,
    r"\boxed{" + r"\frac" * 10_000 + "}",
    "{" * 100_000 + "}" * 100_000,
    r"\boxed{" * 20_000,
    r"\boxed{" * 2_500 + "7" + "}" * 2_500 + " " * 10,
    r"\boxed " * 3_000,
    " " * 1_000_000,
    "$" * 1_000_000,
    "\\" * 1_000_000,
    "." * 1_000_000,
    "1," * 500_000,
    "111," * 250_000,
    "-" * 1_000_000,
    "#" * 1_000_000,
    "1/" * 100_000,
    "the final answer is " * 50_000,
    "Final Answer: The final answer is" + " " * 19_000,
    "Final Answer: The final answer is\n" * 30_000,
    "the answer is " + "$1$ and " * 100_000,
    "the answer is " + "! " * 9_000,
    "the answer is \\(" * 50_000,
    r"\boxed{" + "x+" * 10_000 + "1}",
]


@pytest.mark.parametrize("mode", MODES)
def test_large_answers_are_wrong_and_leave_the_others_alone(mode, quick):
    pairs = [pair for text in LARGE for pair in (("5", text), (r"\frac12", r"\boxed{0.5}"))]
    assert right_all(mode, pairs) == [False, True] * len(LARGE)


def test_an_answer_too_long_for_algebra_equals_its_like_only(quick):
    long = "+".join(["x"] * LONGEST)
    for mode in MODES:
        assert right(mode, rf"\boxed{{{long}}}", rf"\boxed{{{long}}}")
        assert not right(mode, rf"\boxed{{{long}}}", rf"\boxed{{{LONGEST}x}}")
    assert quick.pids == ()


SCRAPS = r"""
\boxed{ \fbox \frac \sqrt { } ( ) [ ] $ $$ \( \) \[ \] \left \right . , ; = < \le ^ _ ! % \% \circ \text{
+ - * / 0 1 2 7 10 x y i \pi e \infty \cup \pm and or the final answer is answer: Final Answer: ####
\begin{pmatrix} \end{pmatrix} & \\ \sum \int \log \sin ** | \cdot \times ~ \, \! cm degrees
"""
TEXT = st.one_of(
    st.text(max_size=300),
    st.lists(st.sampled_from([*SCRAPS.split(), " ", "\n"]), max_size=25).map("".join),
)


@pytest.fixture(scope="module")
def shared_pool():
    """One pool for all that hypothesis tries."""
    pool = MathPool(QUICK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(math_answers, "_pool", pool)
        yield pool
    pool.close()


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reference=TEXT, response=TEXT)
def test_any_text_has_a_verdict(mode, shared_pool, reference, response):
    pairs = [(reference, response), (r"\frac12", r"\boxed{0.5}"), ("x", rf"\boxed{{{response}"), ("2", "3")]
    verdicts = right_all(mode, pairs)
    assert all(type(verdict) is bool for verdict in verdicts)
    assert verdicts[1] is True
    assert verdicts[3] is False
    assert right_all(mode, pairs) == verdicts
    found = final_answer(response, mode)
    assert found is None or found == found.strip() != ""


# ----------------------------------------------------------------------------------------------------------------
# The processes

HALF = ("math-verify", "0.5", r"\frac{1}{2}")
EVER = ("math-verify", "5", "((100!)!)!")


@pytest.fixture
def pool():
    made = MathPool(QUICK, size=2)
    yield made
    made.close()


def test_no_process_before_it_is_needed_and_one_for_many(pool):
    assert pool.pids == ()
    assert pool.equal(HALF) is True
    first = pool.pids
    assert len(first) == 1
    for _ in range(5):
        assert pool.equal(HALF) is True
    assert pool.pids == first


def test_a_large_program_keeps_its_process_too(pool):
    """What the one that grades has in memory is not what the process takes."""
    large = b"x" * (QUICK.memory_bytes // 2)
    assert pool.equal(HALF) is True
    first = pool.pids
    del large
    assert pool.equal(HALF) is True
    assert pool.pids == first


def test_a_process_out_of_time_is_replaced(pool):
    assert pool.equal(HALF) is True
    first = pool.pids
    assert pool.equal(EVER) is False
    assert pool.pids == ()
    assert not psutil.pid_exists(first[0])
    assert pool.equal(HALF) is True


def test_a_process_out_of_memory_is_wrong_only():
    pool = MathPool(PairLimits(memory_bytes=300 << 20))
    assert pool.equal(("math-verify", "5", "2^{2^{32}}")) is False
    assert pool.equal(HALF) is True
    pool.close()


def test_a_process_that_grew_large_is_replaced():
    pool = MathPool(PairLimits(memory_bytes=256 << 20))
    assert pool.equal(HALF) is True
    (first,) = pool.pids
    # A quarter of the limit is less than sympy takes.
    assert pool.equal(HALF) is True
    (second,) = pool.pids
    assert first != second
    pool.close()


def test_a_process_that_was_killed_while_idle_is_replaced(pool):
    assert pool.equal(HALF) is True
    os.kill(pool.pids[0], signal.SIGKILL)
    assert pool.equal(HALF) is True


def test_a_process_without_work_leaves():
    pool = MathPool(PairLimits(idle_seconds=0.01))
    assert pool.equal(HALF) is True
    process = pool._idle[0]._process
    assert process.wait(timeout=60) == 0
    assert pool.equal(HALF) is True
    pool.close()


def test_a_process_that_waits_forever_is_left_undecided(pool):
    assert pool.equal(HALF) is True
    os.kill(pool.pids[0], signal.SIGSTOP)
    pool._idle[0]._limits = PairLimits(wall_seconds=0.1)
    assert pool.equal(HALF) is None
    assert pool.pids == ()


def test_an_interrupted_question_is_answered_to_nobody(monkeypatch, pool):
    assert pool.equal(HALF) is True
    first = pool.pids

    def interrupted(deadline):
        raise KeyboardInterrupt

    monkeypatch.setattr(pool._idle[0], "_line", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.equal(HALF)
    assert pool.pids == ()
    assert not psutil.pid_exists(first[0])
    assert pool.equal(("math-verify", "5", "x")) is False


def test_what_is_undecided_is_wrong_and_not_remembered(monkeypatch, quick):
    monkeypatch.setattr(quick, "equal_all", lambda pairs: [None] * len(pairs))
    assert not right("math-verify", "0.25", r"\boxed{\frac{1}{4}}")
    monkeypatch.undo()
    assert right("math-verify", "0.25", r"\boxed{\frac{1}{4}}")


def test_it_says_when_no_process_can_be_started(monkeypatch, pool):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(InfrastructureError, match="cannot be started"):
        pool.equal(HALF)
    monkeypatch.undo()
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(InfrastructureError, match="cannot be started"):
        pool.equal(HALF)


def test_many_threads_at_once(pool):
    verdicts = {}

    def work(number):
        pairs = [("math-verify", str(number + n), f"{number}+{n + n % 2}") for n in range(10)]
        verdicts[number] = pool.equal_all(pairs)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == {number: [True, False] * 5 for number in range(2, 10)}
    assert 1 <= len(pool.pids) <= 2


def test_a_fork_has_processes_of_its_own(pool):
    assert pool.equal(HALF) is True
    before = pool.pids
    child = os.fork()
    if not child:
        code = 1
        try:
            fresh = pool.pids == ()
            code = 0 if fresh and pool.equal(HALF) is True and pool.pids != before else 2
            pool.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.equal(HALF) is True
    assert pool.pids == before


SCRIPT = """
print("started", flush=True)
from dgym.graders import math_answers
print(math_answers.right("math-verify", "0.5", r"\\\\boxed{\\\\frac{1}{2}}"), *math_answers._pool.pids, flush=True)
input()
"""


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_a_script_without_a_guard_runs_once_and_leaves_no_process(tmp_path, end):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("\\\\", "\\"))
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout.readline() == "started\n"
        verdict, pid = running.stdout.readline().split()
        process = psutil.Process(int(pid))
        assert verdict == "True"
        if end == "kill":
            running.kill()
        running.communicate("\n" if end == "exit" else None)
    _, alive = psutil.wait_procs([process], timeout=60)
    assert alive == []


def test_what_a_library_prints_is_no_verdict():
    code = (
        "import builtins, sys\n"
        "from dgym.graders import math_worker\n"
        "math_worker.RULES['minerva'] = lambda gold, answer: print('true') is not None\n"
        "math_worker.main(5.0, 1 << 30, 60.0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input='["minerva", "1", "2"]\n', capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["ready", "taken", "false"]
