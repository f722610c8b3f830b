"""What `vllm serve` is on the command line, with dgym's test server inside.

    python stand_in_vllm.py MODEL --host HOST --port PORT --served-model-name NAME [...]

The further arguments make it misbehave, and let a test see which processes there are.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--pids", type=Path, help="a file that the process ids are appended to, a line per start")
    parser.add_argument("--wait-for", type=Path, help="a file without which it does not listen")
    parser.add_argument("--fail", help="what to print before it ends with status 1")
    parser.add_argument("--stubborn", action="store_true", help="does not end when asked to")
    parser.add_argument("--child", action="store_true", help="has a process of its own, which is stubborn too")
    args = parser.parse_args()
    if args.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pids = [os.getpid()]
    if args.child:
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        child.stdout.readline()
        pids.append(child.pid)
    if args.pids:
        with args.pids.open("a") as file:
            file.write(" ".join(map(str, pids)) + "\n")
    if args.fail:
        print(args.fail, file=sys.stderr)
        sys.exit(1)
    while args.wait_for and not args.wait_for.exists():
        time.sleep(0.02)

    from dgym.chat_server import ChatServer, Manner

    assert args.host == "127.0.0.1"
    ChatServer(Manner(model=args.served_model_name), args.port).serve()


if __name__ == "__main__":
    main()
