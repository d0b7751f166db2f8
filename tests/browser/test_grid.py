"""The grid as a person uses it: selecting, deciding in one step, taking that back; and what the ledger holds then."""

import pytest

from curate.ledger import Ledger

pytestmark = pytest.mark.browser
READY = '.grid[data-ready="true"]'
SAVED = '[data-pending="0"]'


def open_grid(tab, server) -> list[str]:
    """Load the page; the ids that it shows."""
    tab.goto(f"{server.url}/grid")
    settled(tab)
    return tab.locator(".tile").evaluate_all("tiles => tiles.map(tile => tile.dataset.id)")


def settled(tab) -> None:
    tab.wait_for_selector(READY + SAVED)


def selected(tab, number: int) -> None:
    tab.wait_for_selector(f'.grid[data-selected="{number}"]')


def standing(server) -> dict[str, str]:
    with Ledger(server.ledger) as ledger:
        return ledger.standing()["verdict"].to_dict()


def said(tab, number: int):
    """Wait until so many tiles carry a decision that is saved."""
    tab.wait_for_selector(READY + SAVED)
    tiles = tab.locator('.tile[data-said]:not([data-said=""])')
    tiles.nth(number - 1).wait_for() if number else tiles.first.wait_for(state="detached")
    assert tiles.count() == number
    return tiles


def test_a_range_is_rejected_in_one_step_and_one_undo_takes_it_back(tab, own_server):
    ids = open_grid(tab, own_server)
    tab.locator(".tile").nth(1).click()
    tab.locator(".tile").nth(4).click(modifiers=["Shift"])
    selected(tab, 4)
    tab.keyboard.press("4")
    assert tab.locator(".question").text_content() == "Reject 4 images: background?"
    tab.keyboard.press("Enter")
    said(tab, 4)
    assert standing(own_server) == dict.fromkeys(ids[1:5], "reject")
    assert tab.locator(".tile").evaluate_all("tiles => tiles.map(tile => tile.dataset.id)") == ids, "they stay in place"
    assert tab.locator(".last").text_content() == "Rejected: background, 4 images"
    assert tab.locator(".ribbon").nth(1).text_content() == "rejected: background"
    tab.keyboard.press("u")
    said(tab, 0)
    assert standing(own_server) == {}


def test_the_undo_of_a_step_works_in_the_single_view_after_a_restart(tab, own_server):
    ids = open_grid(tab, own_server)
    tab.keyboard.press("Control+a")
    selected(tab, 12)
    tab.keyboard.press("a")
    tab.get_by_role("button", name="Yes").click()
    said(tab, 12)
    assert standing(own_server) == dict.fromkeys(ids, "accept")
    own_server.stop()
    own_server.start()
    tab.goto(own_server.url)
    tab.wait_for_selector('.review[data-saved="true"] .undo:has-text("Undo")')
    tab.get_by_text("Accepted, 12 images").wait_for()
    tab.keyboard.press("u")
    tab.wait_for_selector('.review[data-ready="true"][data-pending="0"]')
    tab.get_by_text("12 waiting").wait_for()
    assert standing(own_server) == {}


def test_no_leaves_all_as_it_was_and_a_held_key_decides_once(tab, own_server):
    open_grid(tab, own_server)
    tab.get_by_role("button", name="Select the page").click()
    selected(tab, 12)
    tab.keyboard.press("1")
    tab.keyboard.press("Escape")
    tab.wait_for_selector(".confirm:not([open])", state="attached")
    assert standing(own_server) == {}
    tab.get_by_role("button", name="Select none").click()
    selected(tab, 0)
    tab.locator(".tile").first.focus()
    for _ in range(5):
        tab.keyboard.down("a")
    tab.keyboard.up("a")
    said(tab, 1)
    assert list(standing(own_server).values()) == ["accept"]


def test_without_a_selection_keys_judge_the_image_in_focus_and_go_on(tab, own_server):
    ids = open_grid(tab, own_server)
    tab.locator(".tile").first.focus()
    for key in ("a", "7", "ArrowRight", "a"):
        tab.keyboard.press(key)
    said(tab, 3)
    assert standing(own_server) == {ids[0]: "accept", ids[1]: "reject", ids[3]: "accept"}
    tab.keyboard.press("x")
    selected(tab, 1)
    tab.keyboard.press("l")
    tab.keyboard.type("gran")
    tab.keyboard.press("Enter")
    said(tab, 4)
    assert standing(own_server)[ids[4]] == "relabel"


def test_images_with_a_flag_are_selected_and_all_that_match(tab, own_server):
    ids = open_grid(tab, own_server)
    tab.locator(".pick-flag").select_option("background_share")
    selected(tab, 12)
    tab.locator(".class", has_text="granite").click()
    tab.wait_for_selector('.grid[data-selected="0"][data-ready="true"] .class[aria-pressed="true"]:has-text("granite")')
    assert tab.locator(".tile").evaluate_all("tiles => tiles.map(tile => tile.dataset.id)") == ids[1::2]
    tab.locator(".picking .pick-page").click()
    selected(tab, 6)


def test_filters_are_shared_with_the_single_view(tab, own_server):
    ids = open_grid(tab, own_server)
    tab.locator(".tile").first.focus()
    tab.keyboard.press("6")
    said(tab, 1)
    tab.locator("select[name=status]").select_option("rejected")
    tab.locator(".tile").nth(1).wait_for(state="detached")
    assert tab.locator(".tile").get_attribute("data-id") == ids[0]
    assert tab.locator(".ribbon").text_content() == "rejected: overlay"
    tab.keyboard.press("g")
    tab.wait_for_selector(f'.review[data-ready="true"][data-image="{ids[0]}"]')
    assert tab.locator(".place").text_content() == "1 rejected"
    tab.keyboard.press("a")
    tab.wait_for_selector('.review[data-pending="0"][data-image=""]')
    assert standing(own_server) == {ids[0]: "accept"}
    tab.get_by_role("button", name="Clear").click()
    tab.get_by_text("11 waiting").wait_for()


def test_one_image_is_shown_large_and_keys_still_judge_it(tab, own_server):
    ids = open_grid(tab, own_server)
    tab.locator(".tile").first.focus()
    tab.keyboard.press("Enter")
    large = tab.locator(".large img").first
    large.wait_for()
    assert large.evaluate("i => i.decode().then(() => i.naturalWidth)") == 160
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("3")
    tab.keyboard.press("Escape")
    said(tab, 1)
    assert standing(own_server) == {ids[1]: "reject"}


def test_the_outbox_of_a_step_outlives_the_server(tab, own_server):
    open_grid(tab, own_server)
    tab.keyboard.press("Control+a")
    own_server.stop()
    tab.keyboard.press("2")
    tab.keyboard.press("Enter")
    tab.wait_for_selector('.grid[data-saved="late"][data-pending="12"]')
    own_server.start()
    tab.wait_for_selector('.grid[data-saved="true"]', timeout=25_000)
    assert list(standing(own_server).values()) == ["reject"] * 12


def test_it_stays_inside_its_window_and_axe_finds_nothing_in_light_or_dark(tab, own_server):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    for width in (820, 1280):
        tab.set_viewport_size({"width": width, "height": 720})
        open_grid(tab, own_server)
        assert tab.locator(".grid").evaluate("e => e.scrollWidth <= e.clientWidth")
    for part in (".accept", ".undo", ".mark", ".classes", ".to-single"):
        box = tab.locator(part).bounding_box()
        assert box["y"] + box["height"] <= 720
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        open_grid(tab, own_server)
        tab.locator(".tile").nth(2).click()
        result = axe.Axe().run(tab, context={"include": [[".stBidiComponent"]]}).response
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in result["violations"]] == []
