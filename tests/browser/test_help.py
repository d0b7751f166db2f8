"""The page that helps: another key is chosen, and does what the old one did."""

import pytest

from curate.thresholds import THRESHOLDS

pytestmark = pytest.mark.browser


def open_help(tab, server) -> None:
    tab.goto(f"{server.url}/help")
    tab.wait_for_selector('.help[data-ready="true"]')


def test_a_key_is_chosen_anew_and_acts_in_the_review(tab, server):
    open_help(tab, server)
    tab.get_by_role("button", name="Change the key of: Skip").click()
    tab.keyboard.press("a")
    assert "is the key of: Accept" in tab.locator(".said").text_content()
    tab.get_by_role("button", name="Change the key of: Skip").click()
    tab.keyboard.press("q")
    assert tab.locator("[data-action=skip] kbd").first.text_content() == "q"
    tab.goto(server.url)
    tab.wait_for_selector('.review[data-ready="true"]')
    shown = tab.locator(".review").get_attribute("data-image")
    assert tab.locator(".skip kbd").text_content() == "q"
    tab.keyboard.press("s")
    assert tab.locator(".review").get_attribute("data-pending") == "0"
    tab.keyboard.press("q")
    tab.wait_for_selector(f'.review[data-ready="true"][data-pending="0"]:not([data-image="{shown}"])')
    open_help(tab, server)
    tab.get_by_role("button", name="All as they were").click()
    assert tab.locator("[data-action=skip] kbd").first.text_content() == "s"


def test_escape_and_keys_that_browsers_need_leave_it_as_it_was(tab, server):
    open_help(tab, server)
    for key in ("Escape", "Enter"):
        tab.get_by_role("button", name="Change the key of: Undo").click()
        tab.keyboard.press(key)
        assert tab.locator("[data-action=undo] kbd").first.text_content() == "u"


def test_it_says_what_every_flag_means_and_axe_finds_nothing_in_light_or_dark(tab, server):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        open_help(tab, server)
        assert tab.locator(".flags tbody tr").count() == len(THRESHOLDS)
        result = axe.Axe().run(tab, context={"include": [[".stBidiComponent"]]}).response
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in result["violations"]] == []
