r"""Whether an answer in mathematics is right, by the rules of math-verify or by those of Minerva.

    from dgym.graders.math_answers import right, right_all

    assert right("math-verify", r"... so there are $\boxed{\frac12}$.", "The final answer is 0.5.")

Both modes find the final answer in the response and in the reference (`dgym.graders.math_extract`) and compare the two.

`math-verify` asks the library math-verify (0.9), each answer being handed to it as the content of a box.

`minerva` are the rules of Lewkowycz et al. 2022, which DataEnvGym uses: normal forms that are equal as texts, or whose
difference sympy simplifies to 0.

In both, equal texts are equal answers, plain integers are compared as they stand, an answer longer than
`dgym.graders.math_extract.LONGEST` is equal to its like only, and a pair on which the comparison runs out of time or
memory is not equal. Verdicts are remembered.

What this module does not know: problems, students, which mode a domain uses.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Final, get_args

from dgym.graders.math_extract import LONGEST, Mode, final_answer, reference_answer
from dgym.graders.math_minerva import normal_form
from dgym.graders.math_pool import MathPool, Pair

__all__ = ["MODES", "Mode", "final_answer", "reference_answer", "right", "right_all"]

MODES: Final[tuple[Mode, ...]] = get_args(Mode)
"""The names of the rules."""

_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]*")
_REMEMBERED: Final = 20_000

_pool: Final = MathPool()
_verdicts: OrderedDict[Pair, bool] = OrderedDict()
_lock: Final = Lock()


def right(mode: Mode, reference: str, response: str) -> bool:
    """Says whether a response ends in the reference's answer.

    Args:
        mode: Whose rules.
        reference: A text that ends in the answer, such as a solution, or the bare answer.
        response: What a student wrote.

    Returns:
        The verdict; `False` where there is no answer.

    Raises:
        InfrastructureError: If the process that compares answers cannot be started.
        ValueError: If there is no such mode.
    """
    return right_all(mode, [(reference, response)])[0]


def right_all(mode: Mode, pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Says for pairs of reference and response which are right, in their order, on all cores.

    Raises:
        InfrastructureError: If the process that compares answers cannot be started.
        ValueError: If there is no such mode.
    """
    if mode not in MODES:
        raise ValueError(f"there are no rules {mode!r}; known: {', '.join(MODES)}")
    settled = [_settle(mode, reference, response) for reference, response in pairs]
    verdicts = _compare([verdict for verdict in settled if not isinstance(verdict, bool)])
    return [verdict if isinstance(verdict, bool) else verdicts[verdict] for verdict in settled]


def _settle(mode: Mode, reference: str, response: str) -> bool | Pair:
    """Decides what needs no algebra; returns what does."""
    gold, answer = reference_answer(reference, mode), final_answer(response, mode)
    if not gold or not answer:
        return False
    if max(len(gold), len(answer)) > LONGEST:
        return gold == answer
    if mode == "minerva":
        gold, answer = normal_form(gold), normal_form(answer)
        if not gold or not answer:
            return False
    if gold == answer:
        return True
    if _INTEGER.fullmatch(gold) and _INTEGER.fullmatch(answer):
        return False
    return mode, gold, answer


def _compare(pairs: Sequence[Pair]) -> Mapping[Pair, bool]:
    with _lock:
        known = {pair: _verdicts[pair] for pair in pairs if pair in _verdicts}
    new = [pair for pair in dict.fromkeys(pairs) if pair not in known]
    found = dict(zip(new, _pool.equal_all(new), strict=True))
    with _lock:
        # What a busy machine left undecided is asked anew another time.
        _verdicts.update({pair: verdict for pair, verdict in found.items() if verdict is not None})
        for pair in known:
            if pair in _verdicts:
                _verdicts.move_to_end(pair)
        while len(_verdicts) > _REMEMBERED:
            _verdicts.popitem(last=False)
    return known | {pair: bool(verdict) for pair, verdict in found.items()}
