"""The review page as a person uses it: keys and clicks in Chromium, and what the ledger holds after them."""

import signal

import numpy as np
import pytest
from PIL import Image

from curate.cli import main
from curate.ledger import Ledger
from curate.manifest import read_manifest
from curate.screen import see
from curate.spaces import keep_space
from curate.words import REASONS
from tests.browser.conftest import make_data

pytestmark = pytest.mark.browser
READY = '.review[data-ready="true"]'
SAVED = '[data-pending="0"]'
DECODED = "pictures => Promise.all(pictures.map(picture => picture.decode()))"


def open_review(tab, server) -> str:
    """Load the page; the id of the image that it shows."""
    tab.goto(server.url)
    return settled(tab)


def settled(tab) -> str:
    tab.wait_for_selector(READY + SAVED)
    return tab.locator(".review").get_attribute("data-image")


def press(tab, key: str, shown: str) -> str:
    """Press a key that decides, wait until it is saved and another image is there; that image's id."""
    tab.keyboard.press(key)
    tab.wait_for_selector(f'{READY}{SAVED}:not([data-image="{shown}"])')
    return settled(tab)


def history(server) -> list[tuple]:
    with Ledger(server.ledger) as ledger:
        table = ledger.history()
    return list(table[["image_id", "verdict", "reason", "label"]].fillna("").itertuples(index=False, name=None))


def test_accept_and_every_reason_go_to_the_ledger_and_the_next_image_comes(tab, server):
    before = len(history(server))
    shown = [open_review(tab, server)]
    for key in "a1234567":
        shown.append(press(tab, key, shown[-1]))
    assert len(set(shown)) == 9
    expected = [("accept", "", ""), *[("reject", reason, "") for reason in REASONS]]
    assert history(server)[before:] == [(image, *what) for image, what in zip(shown, expected, strict=False)]
    assert tab.locator(".mark").text_content() == "✓ All saved"
    assert tab.locator(".live").text_content().startswith("Rejected ")
    assert "low quality" in tab.locator(".last").text_content()


def test_what_was_decided_stands_in_the_next_manifest(tab, own_server, tmp_path):
    first = open_review(tab, own_server)
    second = press(tab, "a", first)
    third = press(tab, "3", second)
    press(tab, "a", third)
    tab.keyboard.press("u")
    tab.wait_for_selector(f'{READY}{SAVED}[data-image="{third}"]')
    (tmp_path / "contributed").mkdir()
    classes = "".join(f'[[classes]]\nname = "{label}"\nqueries = ["rock"]\n' for label in ("basalt", "granite"))
    (tmp_path / "r.toml").write_text(f'sources = ["folder"]\nfolder = "{tmp_path / "contributed"}"\n{classes}')
    words = ["balance", tmp_path / "audited.csv", "--per-class", 2, "--recipe", tmp_path / "r.toml", "--jobs", 1]
    words += ["--data", tmp_path / "data", "--ledger", own_server.ledger, "-o", tmp_path / "balanced.csv"]
    with pytest.raises(SystemExit):
        main([*map(str, words), "--arch", "small_cnn", "--weights", "none"])
    balanced = read_manifest(tmp_path / "balanced.csv").set_index("image_id")
    assert balanced.loc[[first, second, third], "status"].tolist() == ["accepted", "rejected", "candidate"]
    assert balanced.loc[second, "reason"] == "multiple_objects"
    assert balanced.loc[first, "reviewer"] == "ana"
    assert balanced["status"].value_counts().to_dict() == {"candidate": 10, "accepted": 1, "rejected": 1}


def test_the_buttons_do_what_the_keys_do(tab, server):
    shown = open_review(tab, server)
    tab.get_by_role("button", name="illumination").click()
    tab.wait_for_selector(f'{READY}{SAVED}:not([data-image="{shown}"])')
    assert history(server)[-1] == (shown, "reject", "illumination", "")
    tab.get_by_role("button", name="Undo").click()
    tab.wait_for_selector(f'{READY}{SAVED}[data-image="{shown}"]')
    assert history(server)[-1][:2] == (shown, "undo")


def test_relabel_by_typing_decides_nothing_else(tab, server):
    """In the field `a` and `s` are letters; Escape leaves everything as it was."""
    shown = open_review(tab, server)
    before = len(history(server))
    given = tab.locator(".label").text_content()
    other = {"basalt": "granite", "granite": "basalt"}[given]
    tab.keyboard.press("l")
    tab.wait_for_selector(".chooser[open]")
    tab.keyboard.type("as")
    tab.keyboard.press("Escape")
    tab.wait_for_selector(".chooser:not([open])", state="attached")
    assert settled(tab) == shown
    assert len(history(server)) == before
    tab.keyboard.press("l")
    tab.keyboard.type(other[:3])
    press(tab, "Enter", shown)
    assert history(server)[before:] == [(shown, "relabel", "", other)]
    following = settled(tab)
    tab.keyboard.press("l")
    press(tab, "1", following)
    assert history(server)[-1][:2] == (following, "relabel")


def test_keys_in_a_text_field_of_the_page_decide_nothing(tab, server):
    shown = open_review(tab, server)
    before = len(history(server))
    tab.evaluate("document.body.append(Object.assign(document.createElement('input'), {id: 'note'}))")
    tab.focus("#note")
    tab.keyboard.type("a1su")
    assert tab.input_value("#note") == "a1su"
    assert settled(tab) == shown
    assert len(history(server)) == before


def test_a_held_key_decides_once(tab, server):
    shown = open_review(tab, server)
    before = len(history(server))
    for _ in range(6):
        tab.keyboard.down("a")  # from the second on Chromium sees a repeat
    tab.keyboard.up("a")
    tab.wait_for_selector(f'{READY}{SAVED}:not([data-image="{shown}"])')
    assert history(server)[before:] == [(shown, "accept", "", "")]


def test_no_key_decides_before_the_image_is_there(tab, server):
    held = []
    tab.route("**/img/**", lambda route: held.append(route))
    tab.goto(server.url)
    tab.wait_for_selector('.review[data-ready="false"]:not([data-image=""])')
    before = len(history(server))
    tab.keyboard.press("a")
    tab.keyboard.press("1")
    assert tab.locator(".review").get_attribute("data-pending") == "0"
    tab.route("**/img/**", lambda route: route.continue_())
    while held:
        held.pop().continue_()
    shown = settled(tab)
    assert len(history(server)) == before
    press(tab, "s", shown)
    assert history(server)[before:] == [(shown, "skip", "", "")]


def test_undo_goes_back_step_by_step(tab, server):
    first = open_review(tab, server)
    second = press(tab, "a", first)
    third = press(tab, "2", second)
    assert press(tab, "u", third) == second
    assert press(tab, "u", second) == first
    with Ledger(server.ledger) as ledger:
        assert not {first, second} & set(ledger.standing().index)
    assert press(tab, "a", first) == second


def test_what_the_web_wrote_is_shown_as_text(tab, server):
    open_review(tab, server)
    assert "<img src=x onerror='window.hacked=1'>" in tab.locator(".origin").text_content()
    assert tab.locator(".panel img:not(.last-thumb)").count() == 0
    assert tab.evaluate("window.hacked") is None
    assert "background share" in tab.locator(".flags").text_content()


def test_the_heatmap_is_toggled_and_fits_the_image(tab, server):
    open_review(tab, server)
    assert tab.locator(".photo").bounding_box() == tab.locator(".heat").bounding_box()
    assert tab.locator(".heat").evaluate("e => getComputedStyle(e).opacity") == "0.6"
    tab.keyboard.press("h")
    assert tab.locator(".heat").evaluate("e => getComputedStyle(e).opacity") == "0"
    tab.locator(".opacity").fill("90")
    assert tab.locator(".heat").evaluate("e => getComputedStyle(e).opacity") == "0.9"


def test_a_class_can_be_reviewed_alone(tab, server):
    open_review(tab, server)
    tab.locator(".class", has_text="granite").click()
    tab.wait_for_selector(".class[aria-pressed=true]:has-text('granite')")
    shown = settled(tab)
    for _ in range(3):
        assert tab.locator(".label").text_content() == "granite"
        shown = press(tab, "s", shown)


def test_all_is_in_view_at_1280_by_720_and_the_counts_are_a_second_page(tab, server):
    open_review(tab, server)
    for part in (".photo", ".accept", ".skip", ".undo", ".mark", ".classes"):
        box = tab.locator(part).bounding_box()
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= 720
        assert box["x"] + box["width"] <= 1280
    assert tab.locator(".stage").bounding_box()["width"] > 850
    tab.get_by_role("link", name="Classes").click()
    tab.wait_for_selector("[data-testid=stDataFrame]")
    tab.get_by_role("link", name="Review").click()
    settled(tab)


def test_axe_finds_nothing_in_the_page_light_or_dark(tab, server):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        open_review(tab, server)
        found = axe.Axe().run(tab, context={"include": [[".stBidiComponent"]]}).response
        assert "color-contrast" in {rule["id"] for rule in found["passes"]}
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]] == []


def test_a_killed_server_loses_nothing_and_gets_the_outbox_once(tab, own_server):
    """Killed before the first decision, three made while it is away, restarted, one more, killed: four, none twice."""
    shown = [open_review(tab, own_server)]
    own_server.stop(signal.SIGKILL)
    for n, key in enumerate("a3a", start=1):
        tab.keyboard.press(key)
        tab.wait_for_selector(f'{READY}[data-pending="{n}"]:not([data-image="{shown[-1]}"])')
        shown.append(tab.locator(".review").get_attribute("data-image"))
    tab.wait_for_selector('.review[data-saved="late"]')
    assert "3 kept in this browser" in tab.locator(".mark").text_content()
    own_server.start()
    tab.wait_for_selector('.review[data-saved="true"]', timeout=25_000)
    tab.locator(".last-thumb[src]").wait_for()
    tab.locator(".last-thumb").evaluate_all(DECODED)
    press(tab, "2", shown[-1])
    own_server.stop(signal.SIGKILL)
    verdicts = [(image, verdict) for image, verdict, *_ in history(own_server)]
    assert verdicts == list(zip(shown, ("accept", "reject", "accept", "reject"), strict=True))


def test_an_outbox_outlives_its_tab_undo_outlives_the_server_and_ctrl_c_ends_it(tab, own_server):
    first = open_review(tab, own_server)
    second = press(tab, "a", first)
    own_server.stop(signal.SIGKILL)
    tab.keyboard.press("a")
    tab.wait_for_selector('.review[data-pending="1"]')
    own_server.start()
    again = tab.context.new_page()
    tab.close()
    third = open_review(again, own_server)
    assert third not in (first, second)
    assert [(image, verdict) for image, verdict, *_ in history(own_server)] == [(first, "accept"), (second, "accept")]
    assert press(again, "u", third) == second
    assert press(again, "u", second) == first
    code, printed = own_server.stop(signal.SIGINT)  # with the page open
    assert code == 0
    assert printed == "stopped; every decision shown as saved is in the ledger.\n"


def test_the_heatmap_of_the_class_predicted_is_a_key_away(tab, own_server, tmp_path):
    """In the data the label is basalt or granite, what is predicted granite: basalt images have a second heatmap."""
    for n in range(0, 12, 2):
        Image.new("L", (56, 56), 255).save(tmp_path / f"data/cache/heatmaps/i{n:02}-predicted.png")
    open_review(tab, own_server)
    assert tab.locator(".of span").text_content() == "for basalt, the label"
    assert "/heat/i00" in tab.locator(".heat").get_attribute("src")
    tab.keyboard.press("p")
    assert tab.locator(".of span").text_content() == "for granite, predicted"
    heat = tab.locator(".heat")
    assert "/heat-predicted/i00" in heat.get_attribute("src")
    assert heat.evaluate("i => i.decode().then(() => i.naturalWidth)") == 224
    second = press(tab, "a", "i00")
    assert tab.locator(".of span").text_content() == "for granite"
    press(tab, "a", second)
    assert tab.locator(".of span").text_content() == "for granite, predicted"


def test_opacity_and_zoom_are_on_keys_and_a_decision_ends_the_zoom(tab, server):
    shown = open_review(tab, server)
    small = tab.locator(".photo").bounding_box()
    tab.keyboard.press("[")
    assert tab.locator(".opacity").input_value() == "40"
    tab.keyboard.press("]")
    tab.keyboard.press("]")
    assert tab.locator(".opacity").input_value() == "80"
    tab.keyboard.press("z")
    large = tab.locator(".photo").bounding_box()
    assert large["width"] == pytest.approx(3 * small["width"], rel=0.01)
    tab.keyboard.press("ArrowRight")
    assert tab.locator(".photo").bounding_box()["x"] < large["x"]
    press(tab, "s", shown)
    assert tab.locator(".review").get_attribute("data-zoom") == "1"
    tab.locator(".stage").click(position={"x": 300, "y": 200})
    assert tab.locator(".review").get_attribute("data-zoom") == "3"


def test_filters_and_order_choose_what_is_shown_and_stay_after_a_reload(tab, own_server):
    first = open_review(tab, own_server)
    tab.locator("select[name=order]").select_option("good")
    tab.wait_for_selector(f'{READY}{SAVED}:not([data-image="{first}"])')
    best = settled(tab)
    assert open_review(tab, own_server) == best
    tab.locator("select[name=flag]").select_option("background_share")
    tab.wait_for_selector(".filter.set:has(select[name=flag])")
    press(tab, "a", settled(tab))
    tab.get_by_role("button", name="Clear").click()
    tab.wait_for_selector(f'{READY}{SAVED}[data-image="{first}"]')


def test_each_reviewer_has_a_name_and_is_shown_other_images(tab, chromium, own_server):
    mine = open_review(tab, own_server)
    other = chromium.new_page()
    theirs = open_review(other, own_server)
    assert theirs == mine, "the same person"
    other.get_by_role("button", name="ana").click()
    other.keyboard.type("bo <b>")
    other.keyboard.press("Enter")
    other.wait_for_selector(".who:has-text('bo <b>')")
    other.wait_for_selector(f'{READY}{SAVED}:not([data-image="{mine}"])')
    theirs = settled(other)
    press(other, "1", theirs)
    press(tab, "a", mine)
    other.close()
    with Ledger(own_server.ledger) as ledger:
        said = ledger.standing()
    assert said["reviewer"].to_dict() == {mine: "ana", theirs: "bo <b>"}


def test_the_guide_is_shown_to_whoever_comes_first_and_says_the_meaning_of_flags(tab, server):
    shown = open_review(tab, server)
    assert tab.locator(".guide").is_visible()
    assert "share of the pixels outside the foreground" in tab.locator(".flags").text_content()
    press(tab, "s", shown)
    assert tab.locator(".guide").is_hidden()
    open_review(tab, server)
    assert tab.locator(".guide").is_hidden()


def test_the_queue_follows_the_screen_without_a_jump(tab, tmp_path, serve_alone):
    """Rejected is what granite looks like: the granites come first, behind the images that are shown already."""
    make_data(tmp_path, 60)
    table = read_manifest(tmp_path / "audited.csv")
    granite = (table["label"] == "granite").to_numpy()
    embeddings = np.random.default_rng(0).normal(0, 0.5, (60, 8)) + 4 * np.where(
        granite[:, None], np.eye(8)[0], np.eye(8)[1]
    )
    keep_space(tmp_path / "data", table["image_id"], see(embeddings, table))
    server = serve_alone(tmp_path)
    shown = open_review(tab, server)
    for _ in range(16):
        shown = press(tab, "1" if tab.locator(".label").text_content() == "granite" else "a", shown)
    for _ in range(10):
        if tab.locator(".why h2").is_visible():
            break
        tab.wait_for_timeout(500)  # it learns
        shown = press(tab, "s", shown)
    tab.locator(".alike img[src]").nth(2).wait_for()
    tab.locator(".alike img, .last-thumb").evaluate_all(DECODED)
    labels = []
    for _ in range(12):
        labels.append(tab.locator(".label").text_content())
        shown = press(tab, "s", shown)
    assert labels[6:] == ["granite"] * 6  # four stay in their places, and what was on its way


def test_it_stays_inside_a_tablet(tab, server):
    for width, height in ((820, 1180), (1180, 820)):
        tab.set_viewport_size({"width": width, "height": height})
        open_review(tab, server)
        assert tab.locator(".review").evaluate("e => e.scrollWidth <= e.clientWidth")
        for part in (".photo", ".accept", ".skip", ".to-grid"):
            box = tab.locator(part).bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["y"] + box["height"] <= height
