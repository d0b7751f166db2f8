"""The page of shortcuts in Chromium: its pictures are there, it stays inside its window, and axe finds nothing."""

import pytest

from tests.findings import audited, write_shortcuts_beside

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def found(tmp_path_factory, serve):
    folder = tmp_path_factory.mktemp("shortcuts")
    audited(folder)
    write_shortcuts_beside(folder)
    return serve(folder)


def open_page(tab, server) -> None:
    tab.goto(server.url)
    tab.get_by_role("link", name="Shortcuts").click()
    tab.wait_for_selector(".carriers")
    tab.wait_for_function("[...document.querySelectorAll('.carriers img')].every(i => i.complete && i.naturalWidth)")


def test_the_images_stand_beside_their_heatmaps(tab, found):
    open_page(tab, found)
    assert tab.get_by_role("heading", name="basalt: background_texture > 0.9").is_visible()
    names = tab.locator(".carriers img[alt]:not([alt=''])").evaluate_all("images => images.map(image => image.alt)")
    assert names[:2] == ["basalt, image b2", "basalt, image b2, under its heatmap"]
    boxes = (
        tab.locator(".carriers .over")
        .first.locator("img")
        .evaluate_all(
            "images => images.map(image => { const box = image.getBoundingClientRect(); return [box.x, box.width]; })"
        )
    )
    assert boxes[0] == pytest.approx(boxes[1], abs=1)


def test_it_stays_inside_a_tablet_and_axe_finds_nothing_in_light_or_dark(tab, found):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    tab.set_viewport_size({"width": 820, "height": 720})
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        open_page(tab, found)
        assert tab.locator(".carriers").first.evaluate("e => e.scrollWidth <= e.clientWidth")
        result = axe.Axe().run(tab, context={"include": [[".carriers"]]}).response
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in result["violations"]] == []
