"""Turns at a device, with real threads: who goes first, who shares, what is counted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from dgym.students.turns import Turns, turns_of
from tests.waiting import until

PATIENCE = 30  # seconds after which a test has failed; none waits that long when it passes


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Actor:
    """A thread that asks for turns and, in each, does what the test says when the test says so."""

    def __init__(self, turns: Turns, who: str, shared: bool = False) -> None:
        self.turns, self.who, self.shared = turns, who, shared
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _turn(self) -> AbstractContextManager[None]:
        return self.turns.shared(self.who) if self.shared else self.turns.alone(self.who)

    def _run(self) -> None:
        try:
            with self._turn():
                self.inside.set()
                assert self.go_on.wait(PATIENCE)
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        """Ends the turn."""
        assert self.inside.wait(PATIENCE), f"{self.who} never had a turn"
        self.go_on.set()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        assert self.error is None


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def turns(clock: Clock) -> Turns:
    return Turns(now=clock)


@pytest.fixture
def actor(turns: Turns) -> Iterator[Callable[..., Actor]]:
    """Starts threads; those that stand in the queue or in a turn when it returns."""
    started: list[Actor] = []

    def start(who: str, shared: bool = False) -> Actor:
        new = Actor(turns, who, shared)
        started.append(new)
        until(lambda: new.inside.is_set() or who in turns.waiting())
        return new

    yield start
    for one in started:
        one.go_on.set()


def served(turns: Turns, clock: Clock, **seconds: float) -> None:
    """Gives students their seconds, the one that gets the fewest first."""
    for who, amount in sorted(seconds.items(), key=lambda item: item[1]):
        with turns.alone(who):
            clock.seconds += amount - turns.served[who]


def drain(turns: Turns, actors: list[Actor]) -> list[str]:
    """Ends one turn after the other; returns whose they were, in order."""
    order = []
    left = list(actors)
    while left:
        until(lambda: any(a.inside.is_set() for a in left))
        (now,) = [a for a in left if a.inside.is_set()]
        order.append(now.who)
        left.remove(now)
        now.end()
    return order


def test_the_least_served_goes_first_and_equal_ones_in_the_order_in_which_they_came(turns, clock, actor) -> None:
    served(turns, clock, much=30, some=20, few=10, same=20)
    holder = actor("few")
    queue = [actor(who) for who in ("much", "some", "same")]
    assert turns.waiting() == ["some", "same", "much"]
    clock.seconds += 1
    holder.end()
    assert drain(turns, queue) == ["some", "same", "much"]


def test_one_with_short_calls_is_not_held_up_by_one_with_long_ones(turns, clock, actor) -> None:
    """Calls of 10 seconds and of 1: a stretch of each has the same length, not the same number of calls."""
    had = {"long": 0, "short": 0, "also short": 0}
    now = {who: actor(who) for who in had}
    for _ in range(60):
        (who,) = [w for w, a in now.items() if a.inside.is_set()]
        clock.seconds += 10 if who == "long" else 1
        had[who] += 1
        now[who].go_on.set()
        now[who].thread.join(PATIENCE)
        until(lambda: any(a.inside.is_set() for w, a in now.items() if w != who))  # noqa: B023
        now[who] = actor(who)
    assert had["long"] <= 5
    assert abs(had["short"] - had["also short"]) <= 1


def test_nobody_saves_up_what_was_not_asked_for(turns, clock, actor) -> None:
    served(turns, clock, idle=1, busy=100, other=102)
    holder, waits, back = actor("busy"), actor("other"), actor("idle")
    clock.seconds += 1
    holder.end()
    assert drain(turns, [waits, back]) == ["idle", "other"], "it stands before one that had more"
    assert turns.served["idle"] == 100, "but has no hundred seconds to itself"


def test_a_stream_of_new_students_does_not_pass_one_that_waits(turns, clock, actor) -> None:
    served(turns, clock, first=5, old=50)
    holder = actor("first")
    old = actor("old")
    new = [actor(f"new-{n}") for n in range(3)]
    assert turns.waiting() == ["old", "new-0", "new-1", "new-2"]
    clock.seconds += 1
    holder.end()
    assert drain(turns, [old, *new])[0] == "old"


def test_shared_turns_overlap_and_one_alone_waits_for_all_of_them(turns, actor) -> None:
    sharing = [actor(who, shared=True) for who in ("a", "b", "c")]
    for one in sharing:
        assert one.inside.wait(PATIENCE), "they meet inside"
    alone = actor("d")
    for one in sharing:
        assert not alone.inside.is_set()
        one.end()
    alone.end()


def test_who_shares_waits_for_one_alone_and_does_not_pass_one_that_waits(turns, clock, actor) -> None:
    served(turns, clock, a=1, b=1, c=5, d=9)
    first = actor("a", shared=True)
    alone = actor("b")
    late = [actor("c", shared=True), actor("d", shared=True)]
    assert not any(one.inside.is_set() for one in (alone, *late))
    clock.seconds += 1
    first.end()
    assert alone.inside.wait(PATIENCE)
    assert not any(one.inside.is_set() for one in late)
    clock.seconds += 1
    alone.end()
    for one in late:
        assert one.inside.wait(PATIENCE), "both go in, though one had less"
    for one in late:
        one.end()


def test_all_that_wait_to_share_go_in_together(turns, clock, actor) -> None:
    served(turns, clock, a=1, b=10, c=20, d=30)
    holder = actor("a")
    some = actor("b", shared=True), actor("d", shared=True)
    between = actor("c")
    clock.seconds += 1
    holder.end()
    for one in some:
        assert one.inside.wait(PATIENCE)
    assert turns.waiting() == ["c"]
    for one in some:
        one.end()
    between.end()


def test_a_turn_within_a_turn_of_the_same_thread(turns) -> None:
    with turns.alone("a"), turns.alone("a"), turns.shared("a"):
        pass
    with turns.shared("a"), turns.shared("a"), pytest.raises(RuntimeError, match="cannot become"), turns.alone("a"):
        raise AssertionError
    assert turns.waiting() == []


def test_a_shared_turn_within_a_shared_one_does_not_wait_for_one_that_waits_to_be_alone(turns, actor) -> None:
    passed = threading.Event()
    inside, go_on = threading.Event(), threading.Event()

    def nested() -> None:
        with turns.shared("a"):
            inside.set()
            assert go_on.wait(PATIENCE)
            with turns.shared("a"):
                passed.set()

    thread = threading.Thread(target=nested, daemon=True)
    thread.start()
    assert inside.wait(PATIENCE)
    alone = actor("b")
    go_on.set()
    assert passed.wait(PATIENCE)
    thread.join(PATIENCE)
    alone.end()


def test_an_exception_ends_the_turn_and_is_counted(turns, clock) -> None:
    def fails(turn: AbstractContextManager[None]) -> None:
        with turn:
            clock.seconds += 2
            raise ValueError("no")

    for turn in (turns.alone, turns.shared):
        with pytest.raises(ValueError, match="no"):
            fails(turn("a"))
    with turns.alone("b"):
        pass
    assert turns.served["a"] == 4
    assert turns.busy() == [(0, 2), (2, 4), (4, 4)]


@pytest.mark.parametrize("admitted", [False, True])
def test_one_that_is_interrupted_while_it_waits_holds_up_nobody(turns, actor, monkeypatch, admitted: bool) -> None:
    holder = actor("a")

    def interrupted() -> None:
        if admitted:  # in the moment in which the turn comes
            turns._changed.release()
            holder.end()
            turns._changed.acquire()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(turns._changed, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt), turns.alone("b"):
            raise AssertionError
    assert turns.waiting() == []
    other = actor("c")
    if not admitted:
        holder.end()
    other.end()


def test_time_that_is_shared_is_divided_and_the_device_is_busy_once(turns, clock, actor) -> None:
    a = actor("a", shared=True)
    clock.seconds = 4
    b = actor("b", shared=True)
    assert turns.busy() == [(0, 4)], "up to now"
    clock.seconds = 6
    a.end()
    clock.seconds = 7
    b.end()
    clock.seconds = 20
    with turns.alone("c"):
        clock.seconds = 22
    assert turns.busy() == [(0, 7), (20, 22)]
    assert turns.served["a"] == 4 + 1
    assert turns.served["b"] == 0 + 1 + 1


def test_waiting_and_what_is_not_counted_are_no_work(turns, clock, actor) -> None:
    with turns.alone("load", counted=False):
        other = actor("a")
        clock.seconds = 10
        assert not other.inside.is_set()
    other.end()
    assert turns.busy() == [(10, 10)]
    assert turns.served["load"] == turns.served["a"] == 0


def test_a_clock_that_is_set_back_takes_nothing_away(turns, clock) -> None:
    clock.seconds = 10
    with turns.alone("a"):
        clock.seconds = 3
    assert turns.served["a"] == 0


def test_one_that_is_forgotten_starts_anew(turns, clock) -> None:
    served(turns, clock, a=9)
    turns.forget("a")
    turns.forget("unknown")
    assert turns.served == {}
    with turns.alone("a"):
        clock.seconds += 1
    assert turns.served == {"a": 1}


def test_many_threads_never_meet_alone_and_all_come_through() -> None:
    turns, inside, most, done = Turns(), [0], [0], []

    def work(who: str) -> None:
        for _ in range(50):
            with turns.alone(who):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1
        done.append(who)

    threads = [threading.Thread(target=work, args=(f"s{n}",), daemon=True) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert most == [1]
    assert len(done) == 8


def test_all_models_on_a_device_share_its_turns() -> None:
    assert turns_of("cuda") is turns_of("cuda:0")
    assert turns_of("cuda:0") is not turns_of("cuda:1")
    assert turns_of("cpu") is turns_of("cpu")
