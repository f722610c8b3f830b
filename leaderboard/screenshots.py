"""Makes the README's pictures of a report: `python leaderboard/screenshots.py`.

The report of `standard` is opened in a headless browser, on a desk in the light and on a phone in the dark. It needs a
Chromium, such as Debian's package `chromium`, and the Python package playwright.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from dgym.report import write
from dgym.results import open as open_run

HERE = Path(__file__).parent
OUT = HERE / "images"
DESK = {"width": 1100, "height": 900}
PHONE = {"width": 390, "height": 800}
SECTIONS = ("ranking", "skills", "tree")
"""What the phone shows, side by side."""


def main() -> None:
    """Writes the pictures."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("There is no Chromium on this machine, such as Debian's package chromium.")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = Path(folder) / "report.html"
        write(open_run(HERE / "standard"), page, command="dgym report leaderboard/standard")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        desk = _open(browser, page, DESK, "light")
        _save(_shot(desk), OUT / "report.png")
        phone = _open(browser, page, PHONE, "dark")
        shots = []
        for section in SECTIONS:
            phone.evaluate(f"document.getElementById('{section}').scrollIntoView()")
            shots.append(_shot(phone))
        browser.close()
    gap = 16
    wide = Image.new("RGB", (sum(s.width + gap for s in shots) - gap, shots[0].height), "white")
    for i, shot in enumerate(shots):
        wide.paste(shot, (i * (shot.width + gap), 0))
    _save(wide, OUT / "report-phone.png")


def _open(browser: Any, page: Path, size: dict[str, int], scheme: str) -> Any:
    tab = browser.new_page(viewport=size, color_scheme=scheme)
    tab.goto(page.as_uri())
    tab.wait_for_selector("html[data-drawn=yes]", timeout=120_000)
    return tab


def _shot(tab: Any) -> Image.Image:
    return Image.open(io.BytesIO(tab.screenshot())).convert("RGB")


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    image.save(path, optimize=True)
    print(f"{path.relative_to(HERE.parent)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
