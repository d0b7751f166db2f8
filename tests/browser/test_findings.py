"""The page of findings in Chromium, from the file itself: alone, readable, inside its window, in light and dark."""

import pytest

from curate.findings import find
from curate.findings_page import write_findings
from curate.manifest import read_manifest
from tests.findings import audited, masked, write_shortcuts_beside

pytestmark = pytest.mark.browser
HOSTILE = "<img src=x onerror='window.hacked=1'>" + "x" * 120


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("findings")
    table = audited(folder, {"basalt": HOSTILE})
    table["reject_probability"] = [0.05, 0.5, 0.95, 0.99, 0.97, 0.3, 0.3]
    write_shortcuts_beside(folder, label=HOSTILE, masked=masked(HOSTILE))
    found = find(read_manifest(folder / "audited.csv"), folder / "audited.csv", folder / "data", 3)
    write_findings(found, folder / "page.html")
    return folder / "page.html"


def test_it_asks_for_nothing_and_runs_nothing(tab, page):
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
    assert tab.evaluate("window.hacked") is None
    assert tab.evaluate("document.title") == "Findings: audited.csv"


def test_every_picture_is_shown(tab, page):
    tab.goto(page.as_uri())
    tab.evaluate("document.querySelectorAll('details').forEach(folded => folded.open = true)")
    for picture in tab.locator("img").all():
        picture.scroll_into_view_if_needed()
    tab.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_nothing_sticks_out_of_a_small_window_or_a_tablet(tab, page):
    for width in (820, 600, 1280):
        tab.set_viewport_size({"width": width, "height": 720})
        tab.goto(page.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_axe_finds_nothing_in_light_or_dark(tab, page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        tab.goto(page.as_uri())
        tab.add_style_tag(content=".block { content-visibility: visible !important; }")
        found = axe.Axe().run(tab).response
        assert "color-contrast" in {rule["id"] for rule in found["passes"]}
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]] == []
