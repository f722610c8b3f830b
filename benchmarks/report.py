"""Says what a large report costs, stage by stage: a made-up run of 2,000 episodes with 10 million attempts.

The episodes are those of `results.py`, which measures the whole command from outside. Here each stage is timed within
one process, and the page is loaded in a headless browser, if there is a Chromium (Debian's package `chromium`) and the
Python package playwright.

    python benchmarks/report.py
    python benchmarks/report.py --keep /tmp/large     # makes the files once, and uses them again
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

WIDTH = 1200
"""Of the browser's window, in pixels."""


def timed(what: str, run: Callable[[], T]) -> T:
    """Calls a function and prints a row of the table."""
    wall, processor = time.perf_counter(), time.process_time()
    result = run()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(f"| {what} | {wall:.1f} | {processor:.1f} | {peak:.0f} |", flush=True)
    return result


def load(page: Path) -> None:
    """Loads a page in a browser until every chart stands, and prints how long that took."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        print("\nThere is no Chromium on this machine to load the page with.")
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": WIDTH, "height": 900})
        start = time.perf_counter()
        tab.goto(page.as_uri())
        tab.wait_for_selector("html[data-drawn=yes]", timeout=120_000)
        seconds = time.perf_counter() - start
        charts = tab.evaluate("document.querySelectorAll('.plot svg').length")
        print(f"\nIn the browser {charts} charts are drawn after {seconds:.1f} s")
        browser.close()


def main() -> None:
    """Makes the files, times the stages and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=10, help="fewer seeds make more teachers")
    parser.add_argument("--keep", type=Path, help="folder for the files; a temporary one by default")
    args = parser.parse_args()

    from results import make

    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.keep or Path(temporary)) / "run"
        if not (folder / "episodes").exists():
            print(f"{make(folder, args.episodes, args.seeds):,} episodes made")

        from dgym.report.data import gather
        from dgym.report.page import render, vega
        from dgym.results import open as open_run

        run = open_run(folder)
        print("| stage | seconds | processor seconds | peak MB so far |\n|:--|--:|--:|--:|")
        report = timed("all values of the page, those of the leaderboard among them", lambda: gather(run))
        timed("Vega's script, kept in the cache after the first time", vega)
        html = timed("the page", lambda: render(report))
        size = len(html.encode("utf-8", "replace"))
        print(f"\n{size / 1e6:.1f} MB, of which Vega is {len(vega()) / 1e6:.1f} MB")
        page = Path(temporary) / "report.html"
        page.write_text(html, encoding="utf-8", errors="replace")
        load(page)


if __name__ == "__main__":
    main()
