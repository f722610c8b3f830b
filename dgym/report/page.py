"""The page: a report's values and charts in one HTML file that needs no network.

Text goes into the template escaped, data as JSON that cannot end its element, and charts as Vega-Lite specifications
(the files in `charts/`) that the page draws itself. A content security policy forbids everything else: no request
leaves the page, and no script runs but the two that stand in it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import os
from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

import dgym
from dgym.cache import cache_folder
from dgym.leaderboard import MEANINGS
from dgym.report.data import Report
from dgym.report.frames import MEAN
from dgym.results.statistics import LEVEL
from dgym.results.writer import RETAINED

SIGNIFICANT: Final = 6
"""Digits of numbers that are only drawn."""

_SECTIONS: Final = {
    "ranking": "Ranking",
    "curves": "Curves",
    "skills": "Skills",
    "data": "Data",
    "tree": "Trees",
    "cost": "Cost",
    "pairs": "Pairs",
    "retention": "Retention",
    "exchanged": "Exchanged",
    "samples": "Samples",
    "failures": "Failures",
    "reproduce": "Reproduce",
}


def render(report: Report) -> str:
    """Renders a report as one HTML page."""
    library, script = vega(), _file("page.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["json"] = json.dumps
    shown = environment.from_string(_file("page.html.j2")).render(
        report=report,
        sections=[(id_, name) for id_, name in _SECTIONS.items() if _has(report, id_)],
        css=Markup(_file("page.css")),
        library=Markup(library),
        script=Markup(script),
        payload=Markup(_for_script(_payload(report))),
        policy=_policy(library, script),
        version=dgym.__version__,
        level=f"{100 * LEVEL:.0f} %",
        mean=MEAN,
        meanings=MEANINGS,
        retained=RETAINED,
    )
    return shown + "\n"


@cache
def vega() -> str:
    """Returns Vega, Vega-Lite and Vega-Embed as one script, made once per version and kept in dgym's cache."""
    import vl_convert

    path = cache_folder() / f"vega-{version('vl-convert-python')}.js"
    try:
        found = path.read_text(encoding="utf-8")
    except OSError:
        found = ""
    if not found:
        found = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
        _keep(path, found)
    # It stands in a script element, which these would end or change.
    if any(mark in found.lower() for mark in ("</script", "<script", "<!--", "\r")):
        raise AssertionError("Vega's script cannot stand in a page.")
    return found


def _keep(path: Path, text: str) -> None:
    """Writes a file of the cache, if it can be written."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


def _file(name: str) -> str:
    return resources.files("dgym.report").joinpath(name).read_text(encoding="utf-8")


def _has(report: Report, section: str) -> bool:
    if section == "exchanged":
        return bool(report.contrasts)
    return bool(report.boards) or section in ("samples", "failures", "reproduce")


def _charts(report: Report) -> dict[str, Any]:
    folder = resources.files("dgym.report").joinpath("charts")
    found = {path.name.removesuffix(".json"): path.read_text(encoding="utf-8") for path in folder.iterdir()}
    titles = {
        "COST": report.cost.name,
        "COST SO FAR": report.cost.name_so_far,
        "GAIN": f"gain on {report.split}, points",
    }
    return {name: _titled(json.loads(text), titles) for name, text in sorted(found.items())}


def _titled(value: Any, titles: Mapping[str, str]) -> Any:
    """Puts a run's own words where a specification has their names in capitals."""
    if isinstance(value, str):
        return titles.get(value, value)
    if isinstance(value, list):
        return [_titled(inner, titles) for inner in value]
    if isinstance(value, dict):
        return {key: _titled(inner, titles) for key, inner in value.items()}
    return value


def _payload(report: Report) -> dict[str, Any]:
    return {
        "charts": _charts(report),
        "rows": {name: _columns(frame) for name, frame in report.frames.items()},
        "tracks": [board.track for board in report.boards],
        "teachers": {name: {"order": t.order, "control": t.control} for name, t in report.teachers.items()},
        "shown": [name for name, teacher in report.teachers.items() if teacher.shown],
        "within": list(report.tracks),
        "mean": MEAN,
        "trees": [tree.id for tree in report.trees],
    }


def _columns(frame: pd.DataFrame) -> dict[str, Any]:
    """Turns a frame into columns as `page.js` reads them: names as codes, numbers in the digits that are drawn."""
    out: dict[str, Any] = {}
    for name in frame.columns:
        column = frame[name]
        if pd.api.types.is_numeric_dtype(column):
            out[str(name)] = [_number(value) for value in column.tolist()]
        else:
            codes, values = pd.factorize(column)
            out[str(name)] = {"values": [str(value) for value in values], "codes": codes.tolist()}
    return out


def _number(value: Any) -> Any:
    if isinstance(value, bool | int):
        return value
    if value is None or pd.isna(value) or math.isinf(value):
        return None
    return float(f"{value:.{SIGNIFICANT}g}")


def _for_script(value: Any) -> str:
    """Renders JSON for a script element, which no text in it can end."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(*scripts: str) -> str:
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
