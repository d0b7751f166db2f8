"""The page of copies as a person uses it: clicks and keys in Chromium, and what the ledger holds after them."""

import re
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest

from curate.decide import apply_decisions
from curate.dedup import find_copies
from curate.duplicates import mark_duplicates
from curate.images import inspect
from curate.ledger import Decision, Ledger
from curate.manifest import read_manifest, write_manifest
from tests.pictures import jpeg

pytestmark = pytest.mark.browser
READY = '.duplicates[data-ready="true"]'
SAVED = '[data-pending="0"]'
HOSTILE = "<img src=x onerror='window.hacked=1'>"
PAGE = 20  # groups


def write_copies(folder: Path, more: int) -> None:
    """After `curate dedup`: `here` and `there` in conflict, `large` with two copies; then so many pairs of one size."""
    root = folder / "data"
    photos = [("here", "granite", 2, 400), ("there", "basalt", 2, 380), ("large", HOSTILE, 1, 400)]
    photos += [("small", HOSTILE, 1, 200), ("middle", HOSTILE, 1, 300)]
    photos += [(f"p{n}{ab}", "gabbro", 10 + n, 120) for n in range(more) for ab in "ab"]
    rows = []
    for name, label, seed, width in photos:
        data = jpeg(seed, width, width * 3 // 4)
        picture = inspect(data)
        file_name = f"images/{name}{HOSTILE if name == 'small' else ''}.jpg"
        (root / file_name).parent.mkdir(parents=True, exist_ok=True)
        (root / file_name).write_bytes(data)
        row = {"image_id": name, "file_name": file_name, "label": label, "sha256": picture.sha256, "bytes": len(data)}
        rows.append({**row, "width": picture.width, "height": picture.height, "title": HOSTILE, "suspicion": 0.5})
    manifest = pd.DataFrame(rows).assign(status="candidate")
    write_manifest(mark_duplicates(manifest, find_copies(manifest, root)), folder / "audited.csv")


@pytest.fixture(scope="module")
def copies(tmp_path_factory, serve):
    folder = tmp_path_factory.mktemp("copies")
    write_copies(folder, PAGE)
    return serve(folder)


@pytest.fixture
def own_copies(tmp_path, serve_alone):
    """For a test that kills it."""
    write_copies(tmp_path, 0)
    return serve_alone(tmp_path)


def open_page(tab, server) -> None:
    tab.goto(f"{server.url}/duplicates")
    settled(tab)


def settled(tab) -> None:
    tab.wait_for_selector(READY + SAVED)


def pair(tab, first: str, second: str):
    """The line of two images, whichever comes first."""
    either = f'.pair[data-pair=\'["{first}","{second}"]\'], .pair[data-pair=\'["{second}","{first}"]\']'
    return tab.locator(either)


def said(line, words: str) -> None:
    """Wait until a line says it."""
    line.locator(".said", has_text=words).wait_for()


def judgements(server) -> list[tuple]:
    with Ledger(server.ledger) as ledger:
        rows = ledger.history()[["verdict", "image_id", "other", "reviewer"]].fillna("")
    return [(verdict, frozenset((one, other)) - {""}, who) for verdict, one, other, who in rows.itertuples(index=False)]


def both(*names: str) -> frozenset:
    return frozenset(names)


def test_the_groups_are_there_conflicts_first_with_what_the_check_saw(tab, copies):
    open_page(tab, copies)
    groups = tab.locator(".group")
    assert groups.count() == PAGE
    assert groups.nth(0).locator("h2").text_content() == "Which class is it: granite or basalt?2 images"
    assert groups.nth(0).locator(".label").all_text_contents() == ["granite", "basalt"]
    assert groups.nth(1).locator("code").all_text_contents() == ["large", "small", "middle"]
    assert groups.nth(1).locator(".image b").all_text_contents() == ["Kept", "Copy", "Copy"]
    line = pair(tab, "large", "small")
    assert re.search(r"1 and 2\d+ bits apart1 is 2\.0 times finer", line.text_content())
    assert "matched points" in line.text_content()
    assert "the one with more pixels of it (400x300) stays" in groups.nth(1).text_content()
    assert tab.locator(".kinds button").all_text_contents()[:2] == ["All 22", "Label conflicts 1"]


def test_every_thumbnail_is_served_by_the_app_and_by_id(tab, copies):
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    open_page(tab, copies)
    thumb = tab.locator(".group").first.locator(".thumb img").first
    assert thumb.evaluate("i => i.decode().then(() => [i.naturalWidth, i.naturalHeight])") == [256, 192]
    assert f"{copies.url}/thumb/here" in asked
    assert all(url.startswith((copies.url, "data:", "blob:")) for url in asked)


def test_not_the_same_is_saved_and_undone(tab, copies):
    open_page(tab, copies)
    before = len(judgements(copies))
    line = pair(tab, "large", "small")
    line.get_by_role("button", name="Not the same").click()
    said(line, "saved: not the same, by you")
    assert tab.locator(".mark").text_content() == "✓ All saved"
    assert judgements(copies)[before:] == [("different", both("large", "small"), "ana")]
    assert line.get_by_role("button", name="Not the same").get_attribute("aria-pressed") == "true"
    line.get_by_role("button", name="Undo").click()
    said(line, "taken back")
    settled(tab)
    assert [verdict for verdict, *_ in judgements(copies)[before:]] == ["different", "undo"]
    assert line.get_by_role("button", name="Undo").count() == 0
    with Ledger(copies.ledger) as ledger:
        assert ledger.judged_pairs().empty


def test_a_second_word_on_a_pair_counts_and_undo_brings_the_first_one_back(tab, copies):
    open_page(tab, copies)
    line = pair(tab, "large", "middle")
    line.get_by_role("button", name="Same", exact=False).first.click()
    said(line, "saved: same photograph")
    line.get_by_role("button", name="Not the same").click()
    said(line, "saved: not the same")
    line.get_by_role("button", name="Undo").click()
    said(line, "saved: same photograph")
    line.get_by_role("button", name="Undo").click()
    said(line, "taken back")


def test_the_same_button_twice_is_one_decision(tab, copies):
    open_page(tab, copies)
    before = len(judgements(copies))
    line = pair(tab, "p0a", "p0b")
    line.get_by_role("button", name="Not the same").dblclick()
    said(line, "saved: not the same")
    settled(tab)
    assert judgements(copies)[before:] == [("different", both("p0a", "p0b"), "ana")]
    line.get_by_role("button", name="Undo").click()
    said(line, "taken back")


def test_a_judgement_of_another_person_is_shown_and_not_for_me_to_undo(tab, copies):
    with Ledger(copies.ledger) as ledger:
        ledger.decide([Decision("p1a", "same", other="p1b", reviewer=HOSTILE, decision_id="by-bo")])
    open_page(tab, copies)
    line = pair(tab, "p1a", "p1b")
    said(line, f"saved: same photograph, by {HOSTILE}")
    assert line.get_by_role("button", name="Undo").count() == 0
    with Ledger(copies.ledger) as ledger:
        ledger.decide([Decision("p1a", "undo", undoes="by-bo", reviewer=HOSTILE, decision_id="undo-bo")])


def test_what_the_web_wrote_is_shown_as_text(tab, copies):
    open_page(tab, copies)
    group = tab.locator(".group", has_text="large")
    assert group.locator("h2 bdi").text_content() == HOSTILE
    assert f"images/small{HOSTILE}.jpg" in group.text_content()
    group.locator(".thumb img").first.wait_for()
    sources = tab.locator(".duplicates img").evaluate_all("all => all.map((i) => new URL(i.src).pathname)")
    assert all(source.startswith("/thumb/") for source in sources)
    pair(tab, "large", "small").get_by_role("button", name="Compare").click()
    tab.locator(".compare img").first.wait_for()
    assert tab.evaluate("window.hacked") is None


def test_the_keys_go_from_pair_to_pair_and_judge_the_one_in_focus(tab, copies):
    open_page(tab, copies)
    before = len(judgements(copies))
    tab.keyboard.press("d")  # nothing has the focus: nothing is judged
    tab.keyboard.press("j")
    tab.keyboard.press("j")
    focused = (
        "() => { let e = document.activeElement; while (e.shadowRoot?.activeElement) e = e.shadowRoot.activeElement;"
    )
    assert "large" in tab.evaluate(focused + " return e.closest('.pair').dataset.pair; }")
    assert tab.evaluate(focused + " return getComputedStyle(e).outlineStyle; }") == "solid"
    line = tab.locator(".pair", has=tab.locator("button:focus"))
    judged = line.get_attribute("data-pair")
    line = tab.locator(f".pair[data-pair='{judged}']")
    tab.keyboard.press("d")
    said(line, "saved: not the same")
    assert "large" in tab.evaluate(focused + " return e.closest('.pair').dataset.pair; }")
    tab.keyboard.press("u")
    said(line, "taken back")
    tab.keyboard.press("s")
    said(line, "saved: same photograph")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    assert tab.evaluate(focused + " return e.textContent; }") == "uUndo"
    tab.keyboard.press("Enter")
    said(line, "taken back")
    assert tab.evaluate(focused + " return e.value; }") == "same"  # not lost with the button that is gone
    settled(tab)
    assert [verdict for verdict, *_ in judgements(copies)[before:]] == ["different", "undo", "same", "undo"]


def test_two_images_are_compared_at_full_size_and_judged_there(tab, copies):
    open_page(tab, copies)
    line = pair(tab, "p2a", "p2b")
    line.get_by_role("button", name="Compare").focus()
    tab.keyboard.press("c")
    dialog = tab.locator(".compare[open]")
    dialog.wait_for()
    sources = dialog.locator("img").evaluate_all("all => all.map((i) => new URL(i.src).pathname)")
    assert sorted(sources) == ["/img/p2a", "/img/p2b"]
    turned = "e => getComputedStyle(e).transform"
    assert dialog.locator("img").last.evaluate(turned) == "none"
    tab.keyboard.press("m")
    assert dialog.locator("img").last.evaluate(turned) == "matrix(-1, 0, 0, 1, 0, 0)"
    tab.keyboard.press("d")
    said(dialog, "saved: not the same")
    said(line, "saved: not the same")
    dialog.get_by_role("button", name="Undo").click()
    said(dialog, "taken back")
    tab.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert line.get_by_role("button", name="Compare").evaluate("e => e.matches(':focus')")


def test_a_conflict_is_settled_by_accepting_one_of_its_images(tab, copies):
    open_page(tab, copies)
    card = tab.locator(".image", has_text="there")
    card.get_by_role("button", name="Accept as basalt").click()
    said(card, "saved: accepted, by you")
    with Ledger(copies.ledger) as ledger:
        assert ledger.standing().loc["there", "verdict"] == "accept"
    card.get_by_role("button", name="Undo").click()
    said(card, "taken back")
    settled(tab)
    with Ledger(copies.ledger) as ledger:
        assert ledger.standing().empty


def test_pages_and_kinds_and_what_is_judged_stays_until_one_moves_on(tab, copies):
    open_page(tab, copies)
    tab.get_by_role("button", name="Next").click()
    tab.wait_for_selector(f'{READY}[data-page="all 1"]')
    assert tab.locator(".group").count() == 2
    assert tab.locator(".where").text_content() == "Page 2 of 2"
    tab.get_by_role("button", name="Not judged").click()
    tab.wait_for_selector(f'{READY}[data-page="open 0"]')
    line = pair(tab, "p3a", "p3b")
    line.get_by_role("button", name="Not the same").click()
    said(line, "saved: not the same")
    settled(tab)
    assert line.is_visible()
    tab.locator(".kinds button", has_text="Judged 1").click()
    tab.wait_for_selector(f'{READY}[data-page="judged 0"]')
    assert tab.locator(".group").count() == 1
    line.get_by_role("button", name="Undo").click()
    said(line, "taken back")
    tab.locator(".kinds button", has_text="Label conflicts").click()
    tab.wait_for_selector(f'{READY}[data-page="conflict 0"]')
    assert tab.locator(".group").count() == 1


def test_another_copy_is_kept_and_the_next_search_for_copies_follows(tab, own_copies, tmp_path):
    """`small` of `large`, `small`, `middle` is to stay, though it has the fewest pixels."""
    open_page(tab, own_copies)
    card = tab.locator(".image", has=tab.locator("code", has_text="small"))
    card.get_by_role("button", name="Keep this one").click()
    said(card, "saved: accepted, by you")
    settled(tab)
    manifest = read_manifest(tmp_path / "audited.csv")
    with Ledger(own_copies.ledger) as ledger:
        decided = apply_decisions(manifest, ledger.standing())
    again = mark_duplicates(decided, find_copies(decided, tmp_path / "data")).set_index("image_id")
    assert again.loc[["small", "large", "middle"], "status"].tolist() == ["accepted", "duplicate", "duplicate"]


def test_the_page_is_reached_from_the_review_and_keeps_its_place(tab, copies):
    tab.goto(copies.url)
    tab.wait_for_selector(".review")
    tab.get_by_role("link", name="Duplicates").click()
    settled(tab)
    tab.get_by_role("button", name="Next").click()
    tab.wait_for_selector(f'{READY}[data-page="all 1"]')
    tab.get_by_role("link", name="Review").click()
    tab.wait_for_selector('.review[data-ready="true"]')
    tab.get_by_role("link", name="Duplicates").click()
    tab.wait_for_selector(f'{READY}[data-page="all 1"]')


def test_all_stays_inside_a_tablet_and_a_small_window(tab, copies):
    for width in (820, 600, 1280):
        tab.set_viewport_size({"width": width, "height": 720})
        open_page(tab, copies)
        assert tab.locator(".duplicates").evaluate("e => e.scrollWidth <= e.clientWidth")


def test_axe_finds_nothing_in_the_page_light_or_dark(tab, copies):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        open_page(tab, copies)
        line = pair(tab, "large", "small")
        line.get_by_role("button", name="Not the same").click()
        said(line, "saved: not the same")
        found = axe.Axe().run(tab, context={"include": [[".stBidiComponent"]]}).response
        assert "color-contrast" in {rule["id"] for rule in found["passes"]}
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]] == []
        line.get_by_role("button", name="Undo").click()
        said(line, "taken back")


def test_judgements_outlive_the_server(tab, own_copies):
    """One is made before it is killed, one while it is away; both are there after it came back, none twice."""
    open_page(tab, own_copies)
    pair(tab, "here", "there").get_by_role("button", name="Not the same").click()
    said(pair(tab, "here", "there"), "saved: not the same")
    own_copies.stop(signal.SIGKILL)
    pair(tab, "large", "small").get_by_role("button", name="Not the same").click()
    said(pair(tab, "large", "small"), "saving")
    tab.wait_for_selector('.duplicates[data-saved="late"]')
    assert "1 kept in this browser" in tab.locator(".mark").text_content()
    own_copies.start()
    tab.wait_for_selector('.duplicates[data-saved="true"]', timeout=25_000)
    said(pair(tab, "large", "small"), "saved: not the same, by you")
    again = tab.context.new_page()
    open_page(again, own_copies)
    said(pair(again, "here", "there"), "saved: not the same, by you")
    pair(again, "here", "there").get_by_role("button", name="Undo").click()
    said(pair(again, "here", "there"), "taken back")
    settled(again)
    made = [("different", both("here", "there")), ("different", both("large", "small"))]
    assert [row[:2] for row in judgements(own_copies)][:2] == made
    assert [verdict for verdict, *_ in judgements(own_copies)] == ["different", "different", "undo"]


def test_a_missing_picture_says_so_and_a_lost_cache_leaves_what_the_manifest_names(tab, own_copies, tmp_path):
    shutil.rmtree(tmp_path / "data/cache")
    (tmp_path / "data/images/here.jpg").unlink()
    open_page(tab, own_copies)
    assert tab.locator(".group").count() == 2
    tab.locator(".image", has_text="here").locator(".broken", has_text="cannot be shown").wait_for()
    assert "matched points" in pair(tab, "large", "small").text_content()


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ((), "No copies were found in audited.csv"),
        (("duplicate_of", "label_conflict", "reason"), '"curate dedup" finds'),
    ],
)
def test_where_nothing_was_found_the_page_names_the_command(gone, words, tab, serve_alone, tmp_path):
    data = jpeg(1)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.jpg").write_bytes(data)
    row = {"image_id": "a", "file_name": "a.jpg", "label": "granite", "status": "candidate"}
    row |= {"duplicate_of": None, "label_conflict": None, "reason": None}
    write_manifest(pd.DataFrame([row]).drop(columns=list(gone)), tmp_path / "audited.csv")
    open_page(tab, serve_alone(tmp_path))
    assert words in tab.locator(".notice").text_content()
    assert "curate dedup" in tab.locator(".notice").text_content()
    assert tab.locator(".pager").is_hidden()
