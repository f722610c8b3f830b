"""Workers answer in order, within limits, and are replaced when they are lost."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from dgym.errors import InfrastructureError
from dgym.graders.worker import Workers


@pytest.fixture
def workers():
    made = Workers("builtins:eval", most=2)
    yield made
    made.close()


def values(replies):
    return [reply.value for reply in replies]


def test_replies_come_in_order(workers):
    assert values(workers.ask([f"{i} * 2" for i in range(100)], 10.0)) == [2 * i for i in range(100)]
    assert workers.ask([], 10.0) == []


def test_what_is_lost_is_said_and_the_next_is_answered(workers):
    requests = [
        "1 + 1",
        "9 ** 9 ** 9 ** 9",
        "__import__('os')._exit(3)",
        "1 / 0",
        "'a' * 10 ** 11",
        "print('noise')",
        "3",
    ]
    replies = workers.ask(requests, 0.5)
    assert [reply.lost for reply in replies] == ["", "time", "died", "error", "error", "", ""]
    assert values(replies) == [2, None, None, None, None, None, 3]
    assert "division by zero" in replies[3].error
    assert "MemoryError" in replies[4].error


def test_megabytes_go_both_ways(workers):
    assert values(workers.ask(["len('" + "a" * 2_000_000 + "')", "'b' * 3_000_000"], 10.0)) == [
        2_000_000,
        "b" * 3_000_000,
    ]


def test_any_text_arrives(workers):
    text = "\ud800 \0 \n é \U0001f600"
    assert values(Workers("builtins:repr").ask([text], 10.0)) == [repr(text)]


def test_a_function_that_does_not_exist_is_an_error():
    with pytest.raises(InfrastructureError, match="no_such_module"):
        Workers("no_such_module:function").ask([1], 1.0)


def test_all_workers_hash_alike(workers):
    again = Workers("builtins:eval")
    assert values(workers.ask(["hash('text')"], 10.0)) == values(again.ask(["hash('text')"], 10.0))


def test_threads_may_ask_at_a_time(workers):
    found: dict[int, list] = {}

    def ask(number):
        found[number] = values(workers.ask([f"{number} + {i}" for i in range(20)], 10.0))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [number + i for i in range(20)] for number in range(4)}


def _in_a_fork(workers, pipe):
    pipe.send(values(workers.ask(["__import__('os').getpid()"], 10.0)))


def test_a_fork_starts_workers_of_its_own(workers):
    mine = values(workers.ask(["__import__('os').getpid()"], 10.0))
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_in_a_fork, args=(workers, theirs))
    child.start()
    assert ours.poll(100)
    assert ours.recv() != mine
    child.join()
    assert values(workers.ask(["__import__('os').getpid()"], 10.0)) == mine
    os.kill(mine[0], 0)  # it is still there


def test_what_a_function_writes_beside_it_goes_away_with_the_worker(workers):
    (folder,) = values(workers.ask(["__import__('os').getcwd()"], 10.0))
    assert Path(folder) != Path.cwd()
    workers.ask(["open('left.txt', 'w').write('x')"], 10.0)
    assert (Path(folder) / "left.txt").exists()
    workers.close()
    assert not Path(folder).exists()
