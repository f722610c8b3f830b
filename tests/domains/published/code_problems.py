"""The problems of the fixtures `humaneval` and `livecodebench`, of our own writing, and what writes them down.

`python -m tests.domains.published.code_problems` writes the files anew; a test compares them with what this gives.
Each function is its head, its body and its test; each contest problem has a solution, which computes the outputs.
"""

# ruff: noqa: E501 -- questions and solutions are texts

from __future__ import annotations

import base64
import contextlib
import io
import json
import pickle
import zlib
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

FIXTURES = Path(__file__).parents[3] / "dgym" / "data" / "fixtures"

# HumanEval ------------------------------------------------------------------------------------------------------------

FUNCTIONS = '''
def digits_between(low: int, high: int) -> int:
    """ Count the digits that are written when all numbers from low to high are written down, both included.
    >>> digits_between(8, 11)
    6
    """
----
    return sum(len(str(n)) for n in range(low, high + 1))
----
    assert candidate(8, 11) == 6
    assert candidate(1, 1) == 1
    assert candidate(95, 105) == 10 + 18
    assert candidate(7, 3) == 0
====
def nearest_multiple(n: int, step: int) -> int:
    """ Return the multiple of step that is nearest to n; of two that are equally near, the larger.
    >>> nearest_multiple(14, 5)
    15
    >>> nearest_multiple(5, 10)
    10
    """
----
    low = n - n % step
    high = low + step
    return low if n - low < high - n else high
----
    assert candidate(14, 5) == 15
    assert candidate(5, 10) == 10
    assert candidate(12, 5) == 10
    assert candidate(-3, 4) == -4
====


def compound(amount: float, rate: float, years: int) -> float:
    """ What an amount is worth after some years, when every year adds a part of it.
    >>> compound(100.0, 0.5, 2)
    225.0
    """
----
    for _ in range(years):
        amount += amount * rate
    return amount
----
    assert abs(candidate(100.0, 0.5, 2) - 225.0) < 1e-6
    assert abs(candidate(10.0, 0.01, 10) - 11.046221254112044) < 1e-6
    assert candidate(3.5, 0.2, 0) == 3.5
====
def collapse(n: int) -> int:
    """ Add up the digits of n again and again, until one digit is left.
    >>> collapse(987)
    6
    """
----
    while n > 9:
        n = sum(map(int, str(n)))
    return n
----
    assert candidate(987) == 6
    assert candidate(0) == 0
    assert candidate(10) == 1
    assert candidate(999999999999) == 9
====
import math


def lattice_points(radius: int) -> int:
    """ Count the points with integer coordinates that are at most radius away from the origin.
    >>> lattice_points(1)
    5
    """
----
    return sum(2 * math.isqrt(radius * radius - x * x) + 1 for x in range(-radius, radius + 1))
----
    assert candidate(1) == 5
    assert candidate(0) == 1
    assert candidate(2) == 13
    assert candidate(5) == 81
====
def is_staircase(n: int) -> bool:
    """ Say whether each digit of n is one more than the digit before it.
    >>> is_staircase(345)
    True
    """
----
    text = str(n)
    return all(int(b) - int(a) == 1 for a, b in zip(text, text[1:]))
----
    assert candidate(345) == True
    assert candidate(344) == False
    assert candidate(7) == True
    assert candidate(890) == False
====
def cents(x):
    """ Write x, a number of euros, as whole cents, the half rounded up.
    >>> cents(1.005)
    101
    """
----
    from decimal import ROUND_HALF_UP, Decimal
    return int((Decimal(str(x)) * 100).quantize(Decimal(1), ROUND_HALF_UP))
----
    assert candidate(1.005) == 101
    assert candidate(2) == 200
    assert candidate(0.004) == 0
====
def meeting(a: int, b: int):
    """ Two lamps blink every a and every b seconds, for the first time together. After how many seconds do they
    blink together again? Return None if a or b is 0.
    >>> meeting(4, 6)
    12
    """
----
    if not a or not b:
        return None
    x, y = a, b
    while y:
        x, y = y, x % y
    return a * b // x
----
    assert candidate(4, 6) == 12
    assert candidate(5, 7) == 35
    assert candidate(3, 3) == 3
    assert candidate(0, 3) is None
====
def halvings(n: int):
    """ Return the numbers that come of halving n, rounding down, as long as something is left.
    >>> halvings(10)
    (10, 5, 2, 1)
    """
----
    out = []
    while n:
        out.append(n)
        n //= 2
    return tuple(out)
----
    assert candidate(10) == (10, 5, 2, 1)
    assert candidate(1) == (1,)
    assert candidate(0) == ()
    assert len(candidate(10 ** 30)) == 100
====
def total(x: int, y: int):
    """ Add two numbers, but never give more than 1000.
    """
----
    return min(x + y, 1000)
----
    import random

    assert candidate(2, 3) == 5
    for i in range(50):
        x, y = random.randint(0, 800), random.randint(0, 800)
        assert candidate(x, y) == min(x + y, 1000)
====
def initials(name: str) -> str:
    """ Return the first letters of all words as capitals, each with a full stop.
    >>> initials("ada king lovelace")
    'A.K.L.'
    """
----
    return "".join(word[0].upper() + "." for word in name.split())
----
    assert candidate("ada king lovelace") == "A.K.L."
    assert candidate("") == ""
    assert candidate("  x  y ") == "X.Y."
====
def longest_run(text: str) -> int:
    """ Length of the longest stretch of one letter.
    >>> longest_run("aabbbc")
    3
    """
----
    best = run = 0
    last = None
    for letter in text:
        run = run + 1 if letter == last else 1
        last = letter
        best = max(best, run)
    return best
----
    assert candidate("aabbbc") == 3
    assert candidate("") == 0
    assert candidate("abc") == 1
    assert candidate("zzzz") == 4
====
def encode_pairs(s: str):
    """
    exchanges the letters of each pair, from the left.
    """
    pairs = [s[i:i + 2] for i in range(0, len(s), 2)]
    return "".join(pair[::-1] for pair in pairs)


def decode_pairs(s: str):
    """
    takes a text that was encoded with encode_pairs and returns the original.
    """
----
    return encode_pairs(s)
----
    from random import choice, randint
    import string

    letters = string.ascii_lowercase
    for _ in range(40):
        text = "".join(choice(letters) for i in range(randint(0, 15)))
        assert candidate(encode_pairs(text)) == text
====
def vowel_ends(text: str) -> int:
    """ Count the words that begin and end with a vowel, in any case.
    >>> vowel_ends("Apple one two")
    2
    """
----
    return sum(word[0] in "aeiou" and word[-1] in "aeiou" for word in text.lower().split())
----
    assert candidate("Apple one two") == 2
    assert candidate("") == 0
    assert candidate("A i x") == 2
====
def bracket_depth(text):
    """ Deepest nesting of round brackets in text; -1 if they do not match.
    """
----
    depth = best = 0
    for letter in text:
        if letter == "(":
            depth += 1
            best = max(best, depth)
        elif letter == ")":
            depth -= 1
            if depth < 0:
                return -1
    return best if depth == 0 else -1
----
    assert candidate("(a(b)c)") == 2
    assert candidate("") == 0
    assert candidate(")(") == -1
    assert candidate("(()") == -1
====
def letter_counts(text: str):
    """ How often each letter occurs, as a dictionary; spaces do not count.
    >>> letter_counts("a ba")
    {'a': 2, 'b': 1}
    """
----
    counts = {}
    for letter in text:
        if letter != " ":
            counts[letter] = counts.get(letter, 0) + 1
    return counts
----
    assert candidate("a ba") == {"a": 2, "b": 1}
    assert candidate("") == {}
    assert candidate("zz") == {"z": 2}
====
def mirror_half(text: str) -> str:
    """ Make a palindrome of the first half of text, the middle letter included.
    >>> mirror_half("abcde")
    'abcba'
    """
----
    half = text[: (len(text) + 1) // 2]
    return half + half[::-1][len(text) % 2:]
----
    assert candidate("abcde") == "abcba"
    assert candidate("abcd") == "abba"
    assert candidate("") == ""
    assert candidate("x") == "x"
====
def common_letters(a: str, b: str):
    """ The set of letters that are in both texts.
    """
----
    return set(a) & set(b)
----
    assert candidate("abc", "bcd") == {"b", "c"}
    assert candidate("", "x") == set()
    assert len(candidate("hello", "world")) == 2
====
def title_case(text: str, small: str) -> str:
    """ Begin each word with a capital, except words in small, which is a list separated by commas; the first word
    always begins with one.
    >>> title_case("the end of time", "of,the")
    'The End of Time'
    """
----
    words = text.split(" ")
    kept = small.split(",")
    return " ".join(w.capitalize() if not i or w not in kept else w for i, w in enumerate(words))
----
    assert candidate("the end of time", "of,the") == "The End of Time"
    assert candidate("a b", "") == "A B"
    assert candidate("of of", "of") == "Of of"
====
def checksum(text: str) -> int:
    """ Add the code of each letter times its position, counted from 1, and keep the remainder by 97.
    """
----
    return sum(i * ord(letter) for i, letter in enumerate(text, 1)) % 97
----
    assert candidate("") == 0
    assert candidate("a") == 0
    assert candidate("ab") == 2
    assert candidate("ba") == 1
====
from typing import List


def rises(numbers: List[int]) -> int:
    """ How often a number is larger than the one before it.
    >>> rises([1, 3, 2, 5])
    2
    """
----
    return sum(b > a for a, b in zip(numbers, numbers[1:]))
----
    assert candidate([1, 3, 2, 5]) == 2
    assert candidate([]) == 0
    assert candidate([4, 4, 4]) == 0
    assert candidate([1, 2, 3]) == 2
====
from typing import List


def sorted_evens(l: List[int]):
    """ Return a list like l in which the even numbers stand sorted on the places where even numbers are.
    >>> sorted_evens([4, 1, 2])
    [2, 1, 4]
    """
----
    evens = iter(sorted(x for x in l if x % 2 == 0))
    return [x if x % 2 else next(evens) for x in l]
----
    assert tuple(candidate([4, 1, 2])) == tuple([2, 1, 4])
    assert tuple(candidate([3, 1])) == tuple(sorted_evens([3, 1]))
    assert tuple(candidate([])) == ()
    assert tuple(candidate([8, 6, 5, 2])) == (2, 6, 5, 8)
====
from typing import List, Optional


def second(values: List[float]) -> Optional[float]:
    """ The second largest of the different values, None if there is none.
    >>> second([1.0, 3.0, 3.0])
    1.0
    """
----
    different = sorted(set(values))
    return different[-2] if len(different) > 1 else None
----
    assert candidate([1.0, 3.0, 3.0]) == 1.0
    assert candidate([2.0]) == None
    assert candidate([]) is None
    assert candidate([1.5, 2.5, -1.0]) == 1.5
====
from typing import List


def moving_mean(xs: List[float], n: int) -> List[float]:
    """ The mean of every n values that follow each other.
    >>> moving_mean([1.0, 2.0, 4.0], 2)
    [1.5, 3.0]
    """
----
    return [sum(xs[i:i + n]) / n for i in range(len(xs) - n + 1)]
----
    import math

    assert candidate([1.0, 2.0, 4.0], 2) == [1.5, 3.0]
    assert all(math.fabs(a - b) < 1e-9 for a, b in zip(candidate([0.1, 0.2, 0.4], 3), [0.7 / 3]))
    assert candidate([1.0], 2) == []
====
def remove_first(l: list, x):
    """ Return l without the first x; l itself stays as it is.
    """
----
    kept = list(l)
    if x in kept:
        kept.remove(x)
    return kept
----
    given = [1, 2, 1]
    assert candidate(given, 1) == [2, 1]
    assert candidate(given, 3) == [1, 2, 1]
    assert given == [1, 2, 1]
====
def transpose(rows: list):
    """ Exchange rows and columns.
    >>> transpose([[1, 2], [3, 4]])
    [[1, 3], [2, 4]]
    """
----
    return [list(column) for column in zip(*rows)]
----
    assert candidate([[1, 2], [3, 4]]) == [[1, 3], [2, 4]]
    assert candidate([[5]]) == [[5]]
    assert candidate([]) == []
====
def deepest(x: list) -> int:
    """ How deep lists are nested in a list; 1 for a list without lists.
    """
----
    return 1 + max((deepest(item) for item in x if isinstance(item, list)), default=0)
----
    assert candidate([]) == 1
    assert candidate([1, [2, [3]]]) == 3
    assert candidate([[], [[]]]) == 3
====
def invert(d: dict) -> dict:
    """ From each value to the sorted list of its keys.
    >>> invert({"a": 1, "b": 1})
    {1: ['a', 'b']}
    """
----
    out = {}
    for key in sorted(d):
        out.setdefault(d[key], []).append(key)
    return out
----
    assert candidate({"a": 1, "b": 1}) == {1: ["a", "b"]}
    assert candidate({}) == {}
    assert candidate({"x": 2, "c": 3}) == {2: ["x"], 3: ["c"]}
====
def balance(l: list):
    """ The first place at which the numbers before it and those after it have the same sum; -1 if there is none.
    """
----
    for i in range(len(l)):
        if sum(l[:i]) == sum(l[i + 1:]):
            return i
    return -1
----
    assert candidate([1, 7, 1]) == 1
    assert candidate([0]) == 0
    assert candidate([1, 2]) == -1
    assert candidate([]) == -1
====
def chunks(l: list, n: int):
    """ Divide l into lists of n; the last may be shorter.
    >>> chunks([1, 2, 3], 2)
    [[1, 2], [3]]
    """
----
    return [l[i:i + n] for i in range(0, len(l), n)]
----
    assert candidate([1, 2, 3], 2) == [[1, 2], [3]]
    assert candidate([], 3) == []
    assert candidate([1, 2], 5) == [[1, 2]]
'''


def functions() -> list[dict[str, str]]:
    """Gives rows as HumanEval has them."""
    rows = []
    for number, text in enumerate(FUNCTIONS.split("====\n")):
        head, body, test = (part.removeprefix("\n") for part in text.split("----\n"))
        rows.append(
            {
                "task_id": f"Own/{number}",
                "prompt": head,
                "entry_point": head.rpartition("\ndef ")[2].removeprefix("def ").partition("(")[0],
                "canonical_solution": body,
                "test": f"\n\nMETADATA = {{}}\n\n\ndef check(candidate):\n{test}\n",
            }
        )
    return rows


# LiveCodeBench --------------------------------------------------------------------------------------------------------


@dataclass
class Contest:
    """One problem, its solution, and what the tests give: texts to read, or lists of arguments."""

    release: str
    platform: str
    difficulty: str
    date: str
    title: str
    content: str
    solution: str
    given: list
    starter: str = ""


def leetcode(release, difficulty, date, title, content, signature, body, *given):
    """Gives a problem that is a method of a class."""
    starter = f"class Solution:\n    def {signature}:\n        "
    return Contest(
        release, "leetcode", difficulty, date, title, content, starter.rstrip() + "\n" + body, given, starter
    )


CONTESTS = [
    # release_v1 -----------------------------------------------------------------------------------------------------
    Contest(
        "v1", "codeforces", "easy", "2023-06-04", "A. Shelves",
        "There are $n$ books and each shelf holds $k$ of them. How many shelves are needed?\n\n"
        "Input\n\nThe first line has the number of cases $t$. Each case is a line with $n$ and $k$.\n\n"
        "Output\n\nFor each case print the number of shelves.\n\nSample Input 1:\n2\n7 3\n6 3\n\nSample Output 1:\n3\n2",
        "for _ in range(int(input())):\n    n, k = map(int, input().split())\n    print((n + k - 1) // k)",
        ["2\n7 3\n6 3\n", "3\n1 1\n0 5\n1000000000 7\n", "1\n999 1000\n"],
    ),
    Contest(
        "v1", "codeforces", "medium", "2023-07-02", "C. Two Queues",
        "People stand in two queues and each is given by a number, the time that serving them takes. At every moment the "
        "queue that would be done later is left as it is, and a new person joins the other one (the first one if both "
        "are done at the same time). Given the $n$ new persons in order, print when each of them is done.\n\n"
        "Input\n\nThe first line has $n$, the second $n$ times.\n\nOutput\n\nOne line with $n$ numbers.",
        "n = int(input())\nqueues = [0, 0]\ndone = []\nfor t in map(int, input().split()):\n"
        "    i = 0 if queues[0] <= queues[1] else 1\n    queues[i] += t\n    done.append(queues[i])\nprint(*done)",
        ["3\n5 1 1\n", "1\n7\n", "6\n1 2 3 4 5 6\n", "5\n10 1 1 1 1\n"],
    ),
    Contest(
        "v1", "codeforces", "hard", "2023-09-17", "F. Cheap Removal",
        "Remove numbers from a list until no two neighbours are equal. Removing a number costs its value. Print the "
        "least cost.\n\nInput\n\nThe first line has $n$, the second $n$ numbers of at least 1.\n\nOutput\n\nThe cost.",
        "import sys\n\n\ndef main():\n    n, *xs = map(int, sys.stdin.read().split())\n    best = {}\n    low = [0]\n"
        "    kept = {}\n    top = 0\n    for x in xs:\n"
        "        other = max((v for k, v in kept.items() if k != x), default=0)\n"
        "        kept[x] = max(kept.get(x, 0), other + x)\n        top = max(top, kept[x])\n    print(sum(xs) - top)\n\n\nmain()",
        ["4\n1 1 2 2\n", "3\n5 5 5\n", "5\n1 2 1 2 1\n", "7\n3 3 1 3 3 2 2\n"],
    ),
    Contest(
        "v1", "atcoder", "easy", "2023-05-20", "Same Ends",
        "You are given a string S. Print Yes if its first and last letter are the same, otherwise No.\n\nInput\n\nS\n\n"
        "Output\n\nYes or No.\n\nSample Input 1\n\nabca\n\nSample Output 1\n\nYes",
        's = input()\nprint("Yes" if s[0] == s[-1] else "No")',
        ["abca\n", "x\n", "ab\n", "aab\n"],
    ),
    Contest(
        "v1", "atcoder", "easy", "2023-06-10", "Average Speed",
        "A runner covers D metres in T seconds. Print the average speed in metres per second.\n\nInput\n\nD T\n\n"
        "Output\n\nThe speed.",
        "d, t = map(int, input().split())\nprint(d / t)",
        ["10 4\n", "9 3\n", "1 8\n"],
    ),
    Contest(
        "v1", "atcoder", "medium", "2023-08-12", "Lantern Walk",
        "N lanterns stand in a row at X_1 < X_2 < ... < X_N. From a lantern you may walk to any lantern at most K away. "
        "Print how many lanterns you pass at least on the way from the first to the last, both included, or -1 if there "
        "is no way.\n\nInput\n\nN K\nX_1 ... X_N\n\nOutput\n\nThe number.",
        "n, k = map(int, input().split())\nx = list(map(int, input().split()))\nat, used = 0, 1\nwhile at < n - 1:\n"
        "    to = at\n    while to + 1 < n and x[to + 1] - x[at] <= k:\n        to += 1\n    if to == at:\n"
        "        used = -1\n        break\n    at = to\n    used += 1\nprint(used)",
        ["4 3\n1 2 4 7\n", "1 1\n5\n", "3 1\n1 2 9\n", "5 10\n1 2 3 4 5\n"],
    ),
    Contest(
        "v1", "atcoder", "hard", "2023-10-07", "Paint the Board",
        "A board has H rows and W columns, each cell is # or a dot. Choose rows and columns, at most K together, so that "
        "every # is in a chosen row or column. Print Yes if that is possible, otherwise No.\n\n"
        "Input\n\nH W K\nH lines\n\nOutput\n\nYes or No.",
        "h, w, k = map(int, input().split())\nrows = [input() for _ in range(h)]\nmatch = [-1] * w\n\n\n"
        "def tries(r, seen):\n    for c in range(w):\n        if rows[r][c] == '#' and c not in seen:\n"
        "            seen.add(c)\n            if match[c] < 0 or tries(match[c], seen):\n                match[c] = r\n"
        "                return True\n    return False\n\n\n"
        "print('Yes' if sum(tries(r, set()) for r in range(h)) <= k else 'No')",
        ["2 2 1\n##\n..\n", "2 2 1\n#.\n.#\n", "3 3 2\n###\n#..\n#..\n", "1 1 0\n.\n"],
    ),
    leetcode(
        "v1", "easy", "2023-05-14", "Count Long Words",
        "You are given a list of strings words and an integer k. Return how many words have at least k letters.\n\n"
        "Example 1:\n\nInput: words = [\"a\",\"abc\"], k = 2\nOutput: 1",
        "countLong(self, words: List[str], k: int) -> int",
        "        return sum(len(word) >= k for word in words)",
        [["a", "abc"], 2], [[], 1], [["", "x", "yy"], 0], [["same", "size"], 4],
    ),
    leetcode(
        "v1", "easy", "2023-07-09", "Even Sum",
        "Given an integer array nums, return true if the sum of its elements is even.",
        "evenSum(self, nums: List[int]) -> bool",
        "        return sum(nums) % 2 == 0",
        [[1, 2, 3]], [[]], [[7]], [[-1, -1]],
    ),
    leetcode(
        "v1", "medium", "2023-08-20", "Pairs in Order",
        "Given an integer array nums, return all pairs [nums[i], nums[j]] with i < j and nums[i] + nums[j] equal to "
        "target, in the order of i and then of j.",
        "orderedPairs(self, nums: List[int], target: int) -> List[List[int]]",
        "        n = len(nums)\n        return [[nums[i], nums[j]] for i in range(n) for j in range(i + 1, n) "
        "if nums[i] + nums[j] == target]",
        [[1, 2, 3, 0], 3], [[], 0], [[2, 2, 2], 4], [[5], 5],
    ),
    leetcode(
        "v1", "medium", "2023-12-03", "Half Way",
        "Return the mean of the smallest and the largest element of nums.",
        "halfWay(self, nums: List[int]) -> float",
        "        return (min(nums) + max(nums)) / 2",
        [[1, 2]], [[4, 4, 4]], [[-3, 10, 2]],
    ),
    leetcode(
        "v1", "hard", "2024-02-11", "Cut the Rope",
        "Cut a rope of length n into pieces of positive integer length so that the product of the lengths is largest; "
        "return it modulo 10^9 + 7. It may stay whole.",
        "cutRope(self, n: int) -> int",
        "        best = 1\n        while n > 4:\n            best *= 3\n            n -= 3\n        return best * n % (10**9 + 7)",
        [1], [2], [4], [10], [1000],
    ),
    Contest(
        "v1", "codeforces", "easy", "2023-05-28", "A. Two Sticks",
        "Two sticks have the lengths $a$ and $b$. In one move you cut one unit off the longer one. After how many moves "
        "are they equally long?\n\nInput\n\nThe first line has the number of cases $t$. Each case is a line with $a$ and "
        "$b$.\n\nOutput\n\nA line for each case.",
        "for _ in range(int(input())):\n    a, b = map(int, input().split())\n    print(abs(a - b))",
        ["2\n1 4\n4 1\n", "1\n5 5\n", "2\n0 1000000000000\n7 3\n"],
    ),
    Contest(
        "v1", "codeforces", "medium", "2023-11-05", "D. Nearest Taller",
        "Towers stand in a row. For each one print the place, counted from $1$, of the nearest taller one to its left, or "
        "$0$ if there is none.\n\nInput\n\nThe first line has $n$, the second $n$ heights.\n\nOutput\n\nOne line with "
        "$n$ numbers.",
        "n = int(input())\nh = list(map(int, input().split()))\nstack, out = [], []\nfor i, x in enumerate(h):\n"
        "    while stack and h[stack[-1]] <= x:\n        stack.pop()\n    out.append(stack[-1] + 1 if stack else 0)\n"
        "    stack.append(i)\nprint(*out)",
        ["4\n3 1 2 4\n", "1\n9\n", "5\n5 4 3 2 1\n", "4\n2 2 1 2\n"],
    ),
    Contest(
        "v1", "codeforces", "hard", "2024-01-21", "E. Reachable Sums",
        "Each of $n$ numbers gets a plus or a minus sign. How many different sums are there?\n\nInput\n\nThe first line "
        "has $n$, the second $n$ numbers from $0$ to $100$.\n\nOutput\n\nThe number of sums.",
        "input()\nsums = {0}\nfor x in map(int, input().split()):\n    sums = {s + d for s in sums for d in (x, -x)}\nprint(len(sums))",
        ["2\n1 2\n", "1\n0\n", "5\n1 1 1 1 1\n", "6\n3 5 8 13 21 34\n"],
    ),
    Contest(
        "v1", "atcoder", "medium", "2023-09-30", "Ring of Cards",
        "N cards lie in a ring and card i shows A_i. You may begin anywhere and take K neighbouring cards. Print the "
        "largest sum that they can show.\n\nInput\n\nN K\nA_1 ... A_N\n\nOutput\n\nThe sum.",
        "n, k = map(int, input().split())\na = list(map(int, input().split()))\nb = a + a\ntotal = best = sum(b[:k])\n"
        "for i in range(n):\n    total += b[i + k] - b[i] if i + k < 2 * n else 0\n    best = max(best, total)\nprint(best)",
        ["5 2\n3 1 1 1 4\n", "1 1\n-5\n", "4 4\n1 2 3 4\n", "3 1\n-1 -2 -3\n"],
    ),
    Contest(
        "v1", "atcoder", "hard", "2024-02-24", "Toll Roads",
        "N towns are joined by M roads; using road i between A_i and B_i costs C_i. Once, one road is free. Print the least "
        "cost from town 1 to town N, or -1 if there is no way.\n\nInput\n\nN M\nM lines with A_i B_i C_i\n\nOutput\n\n"
        "The cost.",
        "import heapq\nn, m = map(int, input().split())\nroads = [[] for _ in range(n + 1)]\nfor _ in range(m):\n"
        "    a, b, c = map(int, input().split())\n    roads[a].append((b, c))\n    roads[b].append((a, c))\n"
        "done, heap, answer = set(), [(0, 1, 0)], -1\nwhile heap:\n    cost, at, used = heapq.heappop(heap)\n"
        "    if (at, used) in done:\n        continue\n    done.add((at, used))\n    if at == n:\n        answer = cost\n"
        "        break\n    for to, c in roads[at]:\n        heapq.heappush(heap, (cost + c, to, used))\n"
        "        if not used:\n            heapq.heappush(heap, (cost, to, 1))\nprint(answer)",
        ["3 2\n1 2 5\n2 3 7\n", "1 0\n", "3 1\n1 2 4\n", "4 4\n1 2 1\n2 4 9\n1 3 5\n3 4 6\n"],
    ),
    leetcode(
        "v1", "hard", "2023-10-15", "Merge the Intervals",
        "Given a list of closed intervals [start, end], return how many integers lie in exactly one of them.",
        "onlyOnce(self, intervals: List[List[int]]) -> int",
        "        changes = sorted([(a, 1) for a, b in intervals] + [(b + 1, -1) for a, b in intervals])\n"
        "        total = depth = last = 0\n        for at, change in changes:\n            total += (at - last) * (depth == 1)\n"
        "            depth += change\n            last = at\n        return total",
        [[[1, 3], [3, 5]]], [[]], [[[0, 9], [2, 4], [4, 6]]], [[[7, 7]]],
    ),
    # what release_v2 adds -------------------------------------------------------------------------------------------
    Contest(
        "v2", "codeforces", "easy", "2024-04-06", "A. Rounded Up",
        "Print the smallest number that ends in $0$ and is at least $n$.\n\nInput\n\nThe first line has the number of "
        "cases $t$, each of the next lines a number $n$.\n\nOutput\n\nA line for each case.",
        "for _ in range(int(input())):\n    print(-(-int(input()) // 10) * 10)",
        ["2\n1\n10\n", "1\n0\n", "3\n99\n101\n123456789\n"],
    ),
    Contest(
        "v2", "codeforces", "medium", "2024-05-05", "B. Loud Neighbours",
        "A number in a list is quiet if it is smaller than the sum of its neighbours. Print how many are quiet; who has "
        "one neighbour only is compared with that one.\n\nInput\n\nThe first line has $n$ of at least $2$, the second "
        "$n$ numbers.\n\nOutput\n\nThe number.",
        "n = int(input())\nx = [0, *map(int, input().split()), 0]\nprint(sum(x[i] < x[i - 1] + x[i + 1] for i in range(1, n + 1)))",
        ["3\n1 2 3\n", "2\n5 5\n", "4\n9 1 1 9\n"],
    ),
    Contest(
        "v2", "codeforces", "hard", "2024-05-19", "E. Subset Below",
        "How many non-empty subsets of $n$ numbers have a sum of at most $s$? Numbers are told apart by their place.\n\n"
        "Input\n\nThe first line has $n$ and $s$, the second $n$ numbers of at least 1.\n\nOutput\n\nThe number.",
        "n, s = map(int, input().split())\nways = [1] + [0] * s\nfor x in map(int, input().split()):\n"
        "    for t in range(s, x - 1, -1):\n        ways[t] += ways[t - x]\nprint(sum(ways) - 1)",
        ["3 3\n1 2 3\n", "1 0\n1\n", "5 100\n10 20 30 40 50\n"],
    ),
    Contest(
        "v2", "atcoder", "easy", "2024-04-13", "Print It Twice",
        "Print the string S twice, on two lines.\n\nInput\n\nS\n\nOutput\n\nTwo lines.",
        "s = input()\nprint(s)\nprint(s)",
        ["abc\n", "x\n"],
    ),
    Contest(
        "v2", "atcoder", "medium", "2024-04-20", "Largest Gap",
        "Print the largest difference of two neighbours in the sorted order of N numbers.\n\nInput\n\nN\nA_1 ... A_N\n\n"
        "Output\n\nThe difference; 0 for N = 1.",
        "n = int(input())\na = sorted(map(int, input().split()))\nprint(max((y - x for x, y in zip(a, a[1:])), default=0))",
        ["3\n1 5 2\n", "1\n4\n", "4\n7 7 7 7\n"],
    ),
    Contest(
        "v2", "atcoder", "hard", "2024-05-11", "Cheapest Way Down",
        "On a board of H rows and W columns with a cost in each cell you walk from the top left to the bottom right cell, "
        "in each step one cell to the right or down. Print the least sum of costs, both ends included.\n\n"
        "Input\n\nH W\nH lines with W numbers\n\nOutput\n\nThe sum.",
        "h, w = map(int, input().split())\nbest = [float('inf')] * (w + 1)\nbest[1] = 0\nfor _ in range(h):\n"
        "    for j, c in enumerate(map(int, input().split()), 1):\n        best[j] = min(best[j], best[j - 1]) + c\n"
        "    best[0] = float('inf')\nprint(best[w])",
        ["2 2\n1 9\n1 1\n", "1 1\n5\n", "2 3\n1 1 1\n9 9 1\n"],
    ),
    leetcode(
        "v2", "easy", "2024-04-07", "Join with Dashes",
        "Return the words joined by dashes.",
        "joinWords(self, words: List[str]) -> str",
        '        return "-".join(words)',
        [["a", "b"]], [["x"]], [[]],
    ),
    leetcode(
        "v2", "medium", "2024-04-28", "Ring Rotation",
        "Return nums rotated by k places to the right.",
        "rotateRing(self, nums: List[int], k: int) -> List[int]",
        "        k %= max(1, len(nums))\n        return nums[len(nums) - k:] + nums[:len(nums) - k]",
        [[1, 2, 3], 1], [[1, 2, 3], 5], [[], 2], [[4], 0],
    ),
    leetcode(
        "v2", "hard", "2024-05-12", "Longest Even Stretch",
        "Return the length of the longest contiguous part of nums whose sum is even.",
        "longestEven(self, nums: List[int]) -> int",
        "        first, total, best = {0: -1}, 0, 0\n        for i, x in enumerate(nums):\n            total = (total + x) % 2\n"
        "            first.setdefault(total, i)\n            best = max(best, i - first[total])\n        return best",
        [[1, 2, 3]], [[1]], [[2, 2, 1, 2]], [[]],
    ),
    # later releases -------------------------------------------------------------------------------------------------
    Contest(
        "v3", "atcoder", "easy", "2024-06-15", "Twice as Much",
        "Print 2N.\n\nInput\n\nN\n\nOutput\n\nThe number.", "print(2 * int(input()))", ["3\n", "0\n", "-7\n"],
    ),
    leetcode(
        "v3", "medium", "2024-07-07", "Without Repeats",
        "Return nums without elements that occurred before.",
        "withoutRepeats(self, nums: List[int]) -> List[int]", "        return list(dict.fromkeys(nums))",
        [[1, 2, 1]], [[]], [[3, 3]],
    ),
    Contest(
        "v4", "codeforces", "medium", "2024-08-11", "B. Odd Products",
        "How many pairs $i < j$ have an odd product?\n\nInput\n\nThe first line has $n$, the second $n$ numbers.\n\n"
        "Output\n\nThe number.",
        "input()\nodd = sum(int(x) % 2 for x in input().split())\nprint(odd * (odd - 1) // 2)",
        ["3\n1 2 3\n", "1\n1\n", "4\n1 1 1 1\n"],
    ),
    leetcode(
        "v4", "easy", "2024-09-08", "Third Letter",
        "Return the third letter of s, or an empty string if there is none.",
        "thirdLetter(self, s: str) -> str", "        return s[2:3]", ["abc"], ["ab"], [""],
    ),
    Contest(
        "v5", "atcoder", "hard", "2024-11-16", "Climbing",
        "In how many ways can you climb N stairs with steps of one, two or three stairs?\n\nInput\n\nN\n\nOutput\n\nThe number.",
        "a, b, c = 0, 0, 1\nfor _ in range(int(input())):\n    a, b, c = b, c, a + b + c\nprint(c)", ["1\n", "4\n", "30\n"],
    ),
    leetcode(
        "v5", "easy", "2025-01-12", "Smaller Half",
        "Return the elements of nums that are less than their mean, in order.",
        "smallerHalf(self, nums: List[int]) -> List[int]",
        "        return [x for x in nums if x * len(nums) < sum(nums)]", [[1, 2, 3]], [[]], [[5, 5]], [[9, 1]],
    ),
    Contest(
        "v6", "atcoder", "medium", "2025-02-15", "Alternating",
        "Print Yes if no two neighbours in S are the same letter, otherwise No.\n\nInput\n\nS\n\nOutput\n\nYes or No.",
        's = input()\nprint("No" if any(a == b for a, b in zip(s, s[1:])) else "Yes")', ["aba\n", "aab\n", "z\n"],
    ),
    leetcode(
        "v6", "hard", "2025-04-06", "Nested Sum",
        "Return the sum of all elements of all lists in groups, each multiplied by the length of its list.",
        "nestedSum(self, groups: List[List[int]]) -> int",
        "        return sum(len(group) * sum(group) for group in groups)", [[[1, 2], [3]]], [[]], [[[]]],
    ),
]  # fmt: skip


def packed(text: str) -> str:
    """Packs hidden tests as upstream packs most of them."""
    return base64.b64encode(zlib.compress(pickle.dumps(text, 4))).decode()


def output_of(contest: Contest, given) -> str:
    """Runs a solution of ours, as a script or as a method."""
    names: dict = {"__name__": "__main__"}
    if contest.starter:
        exec("from typing import *\n" + contest.solution, names)
        return json.dumps(getattr(names["Solution"](), function_name(contest))(*given))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), patch("sys.stdin", io.StringIO(given)):
        exec(contest.solution, names)
    return printed.getvalue()


def function_name(contest: Contest) -> str:
    """Returns the method that is called."""
    return contest.starter.partition("def ")[2].partition("(")[0]


def contests(release: str) -> list[dict[str, str]]:
    """Gives rows as LiveCodeBench has them."""
    rows = []
    for number, contest in enumerate(c for c in CONTESTS if c.release == release):
        kind = "functional" if contest.starter else "stdin"
        tests = [
            {
                "input": "\n".join(map(json.dumps, given)) if contest.starter else given,
                "output": output_of(contest, given),
                "testtype": kind,
            }
            for given in contest.given
        ]
        hidden = json.dumps(tests[1:])
        rows.append(
            {
                "question_title": contest.title,
                "question_content": contest.content,
                "platform": contest.platform,
                "question_id": f"own_{release}_{number}",
                "contest_id": f"own_{release}",
                "contest_date": f"{contest.date}T00:00:00",
                "starter_code": contest.starter,
                "difficulty": contest.difficulty,
                "public_test_cases": json.dumps(tests[:1]),
                "private_test_cases": packed(hidden) if number % 3 else hidden,
                "metadata": json.dumps({"func_name": function_name(contest)} if contest.starter else {}),
            }
        )
    return rows


def files() -> dict[Path, str]:
    """Gives what each file of the fixtures holds."""
    rows = {FIXTURES / "humaneval" / "test.jsonl": functions()}
    for release, folder, file in (
        ("v1", "livecodebench", "test"),
        ("v2", "livecodebench", "test2"),
        *((f"v{n}", f"livecodebench-v{n}", f"test{n}") for n in range(3, 7)),
    ):
        rows[FIXTURES / folder / f"{file}.jsonl"] = contests(release)
    return {path: "".join(json.dumps(row) + "\n" for row in given) for path, given in rows.items()}


if __name__ == "__main__":
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
