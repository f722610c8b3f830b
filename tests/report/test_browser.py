"""The report in a real browser: everything is drawn, nothing is loaded, on a phone and in the dark."""

from pathlib import Path

import pytest

from dgym import results
from dgym.report import write
from dgym.results.statistics import Bootstrap
from tests.report.conftest import HOSTILE
from tests.results.episodes import episode, identity

PUBLISHED = Path(__file__).parents[2] / "leaderboard"
WIDE, PHONE = 1200, 390


class Tab:
    """A page in the browser, with all that it said and asked for."""

    def __init__(self, browser, path, width=WIDE, scheme="light"):
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page.set_default_timeout(120_000)
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self.said.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.settled()

    def settled(self):
        """Opens what is folded away, waits until all charts are drawn, and returns itself."""
        self.page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        self.page.wait_for_function(
            """() => document.documentElement.dataset.drawn === "yes" &&
              [...document.querySelectorAll("figure[data-chart]")].every(figure =>
                figure.closest("[hidden]") || figure.querySelector(".plot svg, .plot .empty"))"""
        )
        return self

    def figures(self):
        """Returns name, number of marks and note of every figure that is to be seen."""
        return self.page.evaluate(
            """() => [...document.querySelectorAll("figure[data-chart]")]
              .filter(figure => !figure.closest("[hidden]"))
              .map(figure => ({
                name: figure.dataset.chart,
                marks: figure.querySelectorAll(".plot svg [role=graphics-symbol]").length,
                width: figure.querySelector(".plot svg")?.getBoundingClientRect().width ?? 0,
                note: figure.querySelector(".empty")?.textContent ?? "",
              }))"""
        )

    def value(self, script):
        return self.page.evaluate(script)


@pytest.fixture(scope="module")
def pages(fake_run, hostile_run, tmp_path_factory):
    """The reports of some runs, by name."""
    folder = tmp_path_factory.mktemp("pages")
    failed = folder / "failed"
    writer = results.EpisodeWriter(failed, identity("uniform", 1), "made")
    writer.add(episode([1, 0], [1, 1], [0, 0])[0])
    writer.fail(ValueError("nothing went well"))
    runs = {"fake": fake_run, "hostile": hostile_run, "failed": failed, "quick": PUBLISHED / "quick"}
    return {
        name: Path(write(results.open(run), folder / f"{name}.html", bootstrap=Bootstrap(200)))
        for name, run in runs.items()
    }


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        ("fake", WIDE, "light"),
        ("fake", PHONE, "dark"),
        ("quick", PHONE, "light"),
        ("quick", WIDE, "dark"),
        ("hostile", PHONE, "light"),
        ("failed", PHONE, "dark"),
    ],
)
def test_every_chart_is_drawn_without_a_word_and_offline(browser, pages, name, width, scheme):
    tab = Tab(browser, pages[name], width, scheme)
    assert tab.said == []
    assert tab.asked == [pages[name].as_uri()]
    assert tab.value("document.documentElement.scrollWidth") <= width
    found = tab.figures()
    assert len(found) > 5
    for figure in found:
        assert (figure["marks"] > 0) != bool(figure["note"]), figure
        assert figure["width"] <= width
    drawn = {figure["name"] for figure in found if figure["marks"]}
    if name == "fake":
        assert drawn == {
            "ranking", "curves_examples", "curves_cost", "skills", "allocation", "tree", "cost", "pairs", "retention"
        }  # fmt: skip
    tab.page.close()


def test_the_page_follows_the_scheme_while_it_is_open(browser, pages):
    tab = Tab(browser, pages["fake"])
    background = "getComputedStyle(document.body).backgroundColor"
    text = "document.querySelector('.plot svg text')?.getAttribute('fill')"
    assert (tab.value(background), tab.value(text)) == ("rgb(255, 255, 255)", "#1b1f24")
    tab.page.emulate_media(color_scheme="dark")
    tab.page.wait_for_function(f"() => {text} === '#e7eaee'")
    assert tab.value(background) == "rgb(20, 23, 27)"
    assert tab.said == []
    tab.page.close()


def test_choices_choose(browser, pages):
    tab = Tab(browser, pages["fake"])
    lines = "document.querySelectorAll('figure[data-chart=curves_examples] .mark-line path').length"
    shown = "[...document.querySelectorAll('.lead')].filter(p => !p.closest('[hidden]')).map(p => p.textContent)"
    (overall,) = tab.value(shown)
    assert "over all environments" in overall
    before = tab.value(lines)
    tab.page.click(".chip[data-teacher=uniform]")
    assert tab.settled().value(lines) == before - 3
    assert tab.value("document.querySelector('.chip[data-teacher=uniform]').getAttribute('aria-pressed')") == "false"
    tab.page.select_option("#choose-track", "skill-tree")
    (skill_tree,) = tab.settled().value(shown)
    assert "in skill-tree" in skill_tree
    assert {figure["name"] for figure in tab.figures() if not figure["marks"]} == set()
    assert [f["name"] for f in tab.figures()].count("curves_examples") == 1
    tab.page.close()


def test_the_tree_grows_with_the_slider_and_another_can_be_chosen(browser, pages):
    tab = Tab(browser, pages["fake"])
    figure = "figure[data-chart=tree]"
    found = f"{figure} .mark-rect.role-mark path[aria-label]"
    bars = f"[...document.querySelectorAll('{found}')].map(bar => bar.getAttribute('aria-label'))"
    last = tab.value(bars)
    assert all("after iteration: 2" in bar for bar in last)
    tab.page.locator(f"{figure} input[type=range]").fill("1")
    tab.page.wait_for_function(f"() => {bars}.every(bar => bar.includes('after iteration: 1'))")
    assert 0 < len(tab.value(bars)) <= len(last)
    options = tab.value("[...document.querySelectorAll('#choose-tree option')].map(o => o.value)")
    tab.page.select_option("#choose-tree", options[1])
    assert tab.settled().value(bars) != last
    assert tab.said == []
    tab.page.close()


def test_a_tooltip_shows_numbers_and_names_as_text(browser, pages):
    tab = Tab(browser, pages["hostile"])
    tab.page.locator("figure[data-chart=tree] .mark-rect.role-mark path[aria-label]").first.hover(force=True)
    tab.page.wait_for_selector("#vg-tooltip-element.visible")
    assert HOSTILE in tab.value("document.getElementById('vg-tooltip-element').textContent")
    assert tab.value("window.pwned") is None
    assert tab.value("[...document.images].every(image => image.src.startsWith('data:'))")
    assert tab.said == []
    tab.page.close()


def test_charts_follow_the_width_of_the_window(browser, pages):
    tab = Tab(browser, pages["fake"])
    assert tab.figures()[0]["width"] > 2 * PHONE
    tab.page.select_option("#choose-track", "open-ended")
    tab.settled()
    tab.page.set_viewport_size({"width": PHONE, "height": 800})
    narrow = """() => [...document.querySelectorAll("figure[data-chart] .plot")].every(plot => {
      const width = plot.querySelector("svg")?.getBoundingClientRect().width ?? plot.clientWidth;
      return plot.closest("[hidden]") || Math.abs(width - plot.clientWidth) < 10;
    })"""
    tab.page.wait_for_function(narrow)
    # What was hidden meanwhile follows when it is shown again.
    tab.page.select_option("#choose-track", "overall")
    tab.settled().page.wait_for_function(narrow)
    assert tab.value("document.documentElement.scrollWidth") <= PHONE
    tab.page.close()
