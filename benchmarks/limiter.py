"""Do 32 episodes at a time share an endpoint that allows 8 requests in flight and answers 429 beyond?

    python benchmarks/limiter.py [--episodes 32] [--capacity 8] [--latency 0.5]

The test server runs in a process of its own. First as many plain workers as it allows ask it without a limiter or a
teacher, which is the throughput it has. Then the episodes ask it all at once, through the limiter that they share, and
the same is counted once it has settled: from the first quarter of the answers to the last tenth, when some episodes
have ended and there is no more to ask.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from dgym.bench import open_loop, student_config
from dgym.chat import session
from dgym.chat.client import OpenAIChat
from dgym.chat.config import ChatConfig
from dgym.chat_server import ChatServer, Manner
from dgym.core import Budget, Message, Rules
from dgym.episode import LocalPool, run_episode
from dgym.specs import EpisodeSpec, Seeds, identify
from dgym.students.host import StudentHost, local_student

ASKED = [Message("user", '{"label": "adding"}\n{"label": "counting"}')]
KIND = {
    "type": "object",
    "properties": {"categories": {"type": "array", "items": {"type": "string"}, "maxItems": 2}},
    "required": ["categories"],
    "additionalProperties": False,
}


def serve(capacity: int, latency: float, pipe: Any) -> None:
    """Runs the server, and answers every message with what it has seen."""
    with ChatServer(Manner(capacity=capacity, latency=latency)) as server:
        pipe.send(server.url)
        while pipe.recv():
            with server.lock:
                seen = server.seen
                pipe.send((seen.requests, seen.answered, seen.faults["full"], time.perf_counter()))


def throughput(url: str, workers: int, seconds: float) -> float:
    """Returns the answers a second of so many plain workers, each asking one thing after the other."""
    chat = OpenAIChat(ChatConfig(model="stand-in", endpoint=url))
    end, counts = time.perf_counter() + seconds, [0] * workers

    def work(index: int) -> None:
        while time.perf_counter() < end:
            chat.complete(ASKED, KIND, index * 100_000 + counts[index])
            counts[index] += 1

    start = time.perf_counter()
    threads = [threading.Thread(target=work, args=(n,)) for n in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def run(seed: int, ends: list[float], calls: list[int]) -> None:
    """Runs one episode on the fakes."""
    spec = EpisodeSpec(
        teacher="agent@openai:stand-in",
        environment="skill-list",
        domain="fake",
        student="fake",
        rules=Rules(iterations=3, budget=Budget(80)),
        seeds=Seeds.all(seed),
    )
    identity = identify(spec)
    student = local_student(StudentHost(), student_config(identity), identity.digest)
    loop, teacher = open_loop(identity, student)
    calls[seed] = sum(len(step.calls) for step in run_episode(loop, teacher, LocalPool(teacher)))
    ends[seed] = time.perf_counter()


def main() -> None:
    """Measures both in one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--capacity", type=int, default=8)
    parser.add_argument("--latency", type=float, default=0.5)
    args = parser.parse_args()
    near, far = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=serve, args=(args.capacity, args.latency, far), daemon=True
    )
    process.start()
    url = near.recv()
    os.environ |= {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "any"}

    def look() -> tuple[int, int, int, float]:
        near.send(True)
        seen: tuple[int, int, int, float] = near.recv()
        return seen

    with tempfile.TemporaryDirectory() as record:
        settings = session.Settings(record=str(Path(record)))
        # A limiter that starts at the capacity, and so is never refused.
        with session.use(session.Session(settings)):
            session.current().limiters.of(
                ChatConfig(model="stand-in", endpoint=url).place, session.Rates(start=args.capacity)
            )
            own = throughput(url, args.capacity, 8.0)
        with session.use(session.Session(settings)):
            before, start = look(), time.perf_counter()
            ends, calls = [0.0] * args.episodes, [0] * args.episodes
            threads = [threading.Thread(target=run, args=(n, ends, calls)) for n in range(args.episodes)]
            for thread in threads:
                thread.start()
            seen = [before]
            while any(thread.is_alive() for thread in threads):
                time.sleep(0.25)
                seen.append(look())
    total = seen[-1][1] - before[1]
    settled = [s for s in seen if 0.25 * total <= s[1] - before[1] <= 0.9 * total]
    (requests, answered, full, at), (requests2, answered2, full2, at2) = settled[0], settled[-1]
    rate = (answered2 - answered) / (at2 - at)
    refused = (full2 - full) / (requests2 - requests)
    took = [end - start for end in ends]
    most = args.capacity / args.latency
    print(f"the server allows {most:.1f} answers/s; {args.capacity} plain workers get {own:.1f}")
    print(f"{args.episodes} episodes, {sum(calls)} calls, settled: {rate:.1f} answers/s, ratio {rate / most:.2f}")
    print(f"refused once settled: {refused:.1%} of {requests2 - requests} requests; in all {seen[-1][2] - before[2]}")
    print(f"episodes took {min(took):.1f} to {max(took):.1f} s, ratio {max(took) / min(took):.2f}")
    near.send(False)


if __name__ == "__main__":
    main()
