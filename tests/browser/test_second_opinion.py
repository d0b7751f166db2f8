"""The page of second opinions as a person uses it: sample, judge blind, compare, settle; in Chromium and the ledger."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from curate.agreement import agreement, compare
from curate.ledger import Decision, Ledger
from curate.manifest import read_manifest, write_manifest
from curate.words import REASONS
from tests.browser.conftest import make_data

pytestmark = pytest.mark.browser
PAGE = ".second"
READY = '[data-ready="true"]'
SAVED = '[data-pending="0"]'
HOSTILE = "<img src=x onerror='window.hacked=1'>"
ZOE = f"zoe{HOSTILE}"
IMAGES, JUDGED = 44, 40
FOCUSED = "() => { let e = document.activeElement; while (e.shadowRoot?.activeElement) e = e.shadowRoot.activeElement; "


def make_judged(folder, judged: int, images: int) -> None:
    """Images as in `make_data`, a third class in hostile words; the first so many were judged by zoe, i00 by ana."""
    make_data(folder, images)
    manifest = read_manifest(folder / "audited.csv")
    manifest.loc[manifest.index % 5 == 4, "label"] = HOSTILE
    write_manifest(manifest, folder / "audited.csv")
    with Ledger(folder / "ledger.db") as ledger:
        ledger.decide(first(n) for n in range(judged))


def first(n: int) -> Decision:
    """Every third image is rejected."""
    who, verdict = (ZOE if n else "ana"), ("reject", "accept", "accept")[n % 3]
    reason = "illumination" if verdict == "reject" else None
    return Decision(f"i{n:02}", verdict, reason, reviewer=who, decision_id=f"decided-first-{n}")


@pytest.fixture(scope="module")
def judged(tmp_path_factory, serve):
    folder = tmp_path_factory.mktemp("judged")
    make_judged(folder, JUDGED, IMAGES)
    return serve(folder)


@pytest.fixture
def own_judged(tmp_path, serve_alone):
    """Nine images, eight judged, seven of them by another person: for a test that kills the server or counts."""
    make_judged(tmp_path, 8, 9)
    return serve_alone(tmp_path)


def open_page(tab, server) -> None:
    tab.goto(f"{server.url}/second-opinion")
    settled(tab)


def settled(tab, also: str = "") -> None:
    tab.wait_for_selector(PAGE + READY + SAVED + also)


def turn_to(tab, part: str) -> None:
    number = ("choose", "judge", "agreement").index(part)
    tab.locator(".parts button").nth(number).click()
    settled(tab, f'[data-part="{part}"]')


def choose(tab, amount: str) -> None:
    tab.get_by_label(amount, exact=True).check()
    settled(tab)


def judge_all(tab, server) -> str:
    """Go to the first image of all that others judged; its id."""
    open_page(tab, server)
    choose(tab, "All")
    turn_to(tab, "judge")
    return shown(tab)


def shown(tab) -> str:
    settled(tab, ':not([data-image=""])')
    return tab.locator(PAGE).get_attribute("data-image")


def press(tab, key: str, before: str) -> str:
    """Press a key that judges, wait until it is saved and another image is there; that image's id."""
    tab.keyboard.press(key)
    settled(tab, f':not([data-image="{before}"]):not([data-image=""])')
    return shown(tab)


def said(server) -> list[tuple]:
    with Ledger(server.ledger) as ledger:
        table = ledger.opinions()
    return list(table[["image_id", "verdict", "reason", "label"]].fillna("").itertuples(index=False, name=None))


def decided(server) -> list[tuple]:
    with Ledger(server.ledger) as ledger:
        table = ledger.history()
    table = table[~table["decision_id"].str.startswith("decided-first")]
    return list(table[["image_id", "verdict", "reason", "label"]].fillna("").itertuples(index=False, name=None))


def opine(server, *opinions: Decision) -> None:
    with Ledger(server.ledger) as ledger:
        ledger.opine(opinions)


def dispute(tab, image: str):
    return tab.locator(f'.dispute[data-image="{image}"]')


def heard(box, words: str) -> None:
    """Wait until a disagreement says it."""
    box.locator(".said", has_text=words).wait_for()


@contextmanager
def wires(tab) -> Iterator[list[str]]:
    """What the server sends, over the WebSocket and as answers to messages, as text."""
    frames: list[str] = []

    def note(payload: str | bytes) -> None:
        frames.append(payload if isinstance(payload, str) else payload.decode("utf-8", "replace"))

    tab.on("websocket", lambda socket: socket.on("framereceived", note))
    tab.on("response", lambda response: "/exchange/" in response.url and frames.append(response.text()))
    yield frames


# --- choose -----------------------------------------------------------------------------------------------------------
def test_the_sample_is_chosen_by_share_number_seed_and_whether_my_own_are_in(tab, judged):
    open_page(tab, judged)
    sizes = tab.locator(".sizes")
    assert "40 images of audited.csv are judged, 39 by others." in sizes.text_content()
    choose(tab, "All")
    assert "The sample holds 40, 39 of them for you: 0 judged, 39 left." in sizes.text_content()
    tab.get_by_label("Also those that I judged myself", exact=False).check()
    settled(tab)
    assert "40 of them for you" in sizes.text_content()
    tab.get_by_label("Number of images").fill("12")
    tab.keyboard.press("Enter")
    settled(tab)
    assert "The sample holds 12, 12 of them" in sizes.text_content()
    turn_to(tab, "judge")
    image = shown(tab)
    turn_to(tab, "choose")
    tab.locator(".seed").fill("7")
    tab.keyboard.press("Tab")
    settled(tab)
    turn_to(tab, "judge")
    assert shown(tab) != image


def test_what_was_chosen_is_there_after_a_reload(tab, judged):
    open_page(tab, judged)
    choose(tab, "25 %")
    tab.locator(".seed").fill("3")
    tab.keyboard.press("Tab")
    settled(tab)
    tab.locator(".begin").click()
    image = shown(tab)
    tab.reload()
    assert shown(tab) == image
    turn_to(tab, "choose")
    assert tab.get_by_label("25 %", exact=True).is_checked()
    assert tab.locator(".seed").input_value() == "3"


def test_what_is_judged_meanwhile_counts_after_looking_again(tab, own_judged):
    open_page(tab, own_judged)
    with Ledger(own_judged.ledger) as ledger:
        ledger.decide([Decision("i08", "accept", reviewer=ZOE)])
    tab.get_by_role("button", name="Look again").click()
    tab.locator(".sizes", has_text="9 images of audited.csv are judged").wait_for()


# --- judge blind ------------------------------------------------------------------------------------------------------
def test_accept_every_reason_and_skip_become_opinions_and_decide_nothing(tab, judged):
    before, images = len(said(judged)), [judge_all(tab, judged)]
    for key in "a1234567s":
        images.append(press(tab, key, images[-1]))
    assert len(set(images)) == 10
    assert "i00" not in images  # ana judged it herself
    expected = [("accept", "", ""), *[("reject", reason, "") for reason in REASONS], ("skip", "", "")]
    assert said(judged)[before:] == [(image, *what) for image, what in zip(images, expected, strict=False)]
    assert decided(judged) == []
    assert tab.locator(".mark").text_content() == "✓ All saved"
    assert "Skipped" in tab.locator(".said-aloud").text_content()


def test_nothing_of_the_first_verdict_reaches_the_page_or_the_wire_until_the_agreement_is_shown(tab, judged):
    requests = []
    tab.on("request", lambda request: requests.append(request.url))
    with wires(tab) as frames:
        image = judge_all(tab, judged)
        press(tab, "a", image)
        page = tab.locator(PAGE).evaluate("e => e.outerHTML")
        for secret in (
            "zoe",
            "decided-first",
            "background_share",
            "onerror='window",
            "suspicion",
            "reject_probability",
        ):
            there = [frame for frame in frames if secret in frame.replace(HOSTILE, "").replace("&#39;", "'")]
            assert there == []
            assert secret not in page.replace("&lt;", "<").replace("&gt;", ">").replace(HOSTILE, "")
        assert not any("/heat" in url or "/thumb" in url for url in requests)
        turn_to(tab, "agreement")
        assert any("zoe" in frame for frame in frames)  # so it would have been found


def test_undo_goes_back_step_by_step_and_over_a_reload(tab, judged):
    first_image = judge_all(tab, judged)
    second = press(tab, "a", first_image)
    third = press(tab, "2", second)
    assert press(tab, "u", third) == second
    tab.reload()
    assert shown(tab) == second
    assert press(tab, "u", second) == first_image
    with Ledger(judged.ledger) as ledger:
        assert not {first_image, second} & set(ledger.standing_opinions()["image_id"])


def test_the_buttons_do_what_the_keys_do(tab, judged):
    image = judge_all(tab, judged)
    for name, expected in (("polished product", "reject"), ("Accept", "accept"), ("Skip", "skip")):
        tab.locator(".judge").get_by_role("button", name=name).click()
        settled(tab, f':not([data-image="{image}"])')
        assert said(judged)[-1][:2] == (image, expected)
        image = shown(tab)
    tab.locator(".judge").get_by_role("button", name="Undo").click()
    settled(tab, f':not([data-image="{image}"])')
    assert said(judged)[-1][1] == "undo"


def test_a_held_key_is_one_opinion(tab, judged):
    image = judge_all(tab, judged)
    before = len(said(judged))
    for _ in range(6):
        tab.keyboard.down("a")
    tab.keyboard.up("a")
    settled(tab, f':not([data-image="{image}"])')
    assert said(judged)[before:] == [(image, "accept", "", "")]


def test_no_key_judges_before_the_image_is_there_or_in_another_part(tab, judged):
    open_page(tab, judged)
    choose(tab, "All")
    before = len(said(judged))
    tab.keyboard.press("a")
    tab.get_by_label("Number of images").focus()
    tab.keyboard.type("1")
    held = []
    tab.route("**/img/**", lambda route: held.append(route))
    tab.locator(".parts button").nth(1).click()
    tab.wait_for_selector('.second[data-ready="false"]:not([data-image=""])')
    tab.keyboard.press("a")
    tab.keyboard.press("1")
    tab.keyboard.press("l")
    assert tab.locator(PAGE).get_attribute("data-pending") == "0"
    assert tab.locator(".chooser[open]").count() == 0
    tab.route("**/img/**", lambda route: route.continue_())
    while held:
        held.pop().continue_()
    image = shown(tab)
    assert len(said(judged)) == before
    press(tab, "s", image)
    assert said(judged)[before:] == [(image, "skip", "", "")]


def test_relabel_by_number_and_by_typing(tab, judged):
    image = judge_all(tab, judged)
    label = tab.locator(".judge .label").text_content()
    classes = sorted({"basalt", "granite", HOSTILE} - {label})
    tab.keyboard.press("l")
    tab.locator(".chooser[open]").wait_for()
    assert [text[1:] for text in tab.locator(".choices button").all_text_contents()] == classes
    second = press(tab, "1", image)
    assert said(judged)[-1] == (image, "relabel", "", classes[0])
    other = {"basalt": "granite"}.get(tab.locator(".judge .label").text_content(), "basalt")
    tab.keyboard.press("l")
    tab.locator(".chooser[open]").wait_for()
    tab.keyboard.type(other[:3])
    press(tab, "Enter", second)
    assert said(judged)[-1] == (second, "relabel", "", other)


def test_the_pictures_of_the_next_images_are_loaded_beforehand(tab, judged):
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    image = judge_all(tab, judged)
    tab.wait_for_load_state("networkidle")
    known = [url for url in asked if "/img/" in url]
    assert len(known) >= 5
    following = press(tab, "s", image)
    assert f"{judged.url}/img/{following}" in known


def test_a_picture_that_is_gone_can_be_rejected_and_the_sample_goes_on(tab, own_judged, tmp_path):
    for picture in (tmp_path / "data/images").glob("*/*"):
        picture.unlink()
    tab.goto(f"{own_judged.url}/second-opinion")
    settled(tab)
    choose(tab, "All")
    tab.locator(".parts button").nth(1).click()
    tab.locator(".judge .notice", has_text="This image cannot be shown.").wait_for()
    image = tab.locator(PAGE).get_attribute("data-image")
    tab.keyboard.press("a")
    assert tab.locator(PAGE).get_attribute("data-pending") == "0"
    tab.keyboard.press("7")
    tab.wait_for_selector(f'{PAGE}{SAVED}:not([data-image="{image}"])')
    assert said(own_judged) == [(image, "reject", "low_quality", "")]


def test_at_the_end_of_a_sample_the_page_says_so_and_undo_still_works(tab, own_judged):
    image = judge_all(tab, own_judged)
    for _ in range(6):
        image = press(tab, "a", image)
    tab.keyboard.press("a")
    tab.locator(".judge .notice", has_text="You have judged all of this sample.").wait_for()
    settled(tab)
    assert len(said(own_judged)) == 7
    tab.keyboard.press("u")
    settled(tab, f'[data-image="{image}"]')


def test_opinions_are_stored_under_the_name_that_was_given_in_this_browser(tab, own_judged):
    open_page(tab, own_judged)
    tab.evaluate("localStorage.setItem('deeprock/look/reviewer', 'dee')")
    image = judge_all(tab, own_judged)
    assert tab.locator(".place").text_content() == "8 left of 8"  # dee judged none of them before
    press(tab, "a", image)
    with Ledger(own_judged.ledger) as ledger:
        assert ledger.opinions()[["image_id", "reviewer"]].to_numpy().tolist() == [[image, "dee"]]


def test_opinions_outlive_the_server(tab, own_judged):
    """One is given before it is killed, two and an undo while it is away; all are there afterwards, none twice."""
    images = [judge_all(tab, own_judged)]
    images.append(press(tab, "a", images[0]))
    own_judged.stop(signal.SIGKILL)
    for key in "12":
        tab.keyboard.press(key)
        tab.wait_for_selector(f'{PAGE}{READY}:not([data-image="{images[-1]}"])')
        images.append(tab.locator(PAGE).get_attribute("data-image"))
    tab.keyboard.press("u")
    tab.wait_for_selector('.second[data-saved="late"]')
    assert "3 kept in this browser" in tab.locator(".mark").text_content()
    own_judged.start()
    tab.wait_for_selector('.second[data-saved="true"]', timeout=25_000)
    assert [row[:2] for row in said(own_judged)] == [
        (images[0], "accept"),
        (images[1], "reject"),
        (images[2], "reject"),
        (images[2], "undo"),
    ]
    settled(tab, f'[data-image="{images[2]}"]')
    press(tab, "a", images[2])
    assert len(said(own_judged)) == 5


# --- agreement and settling -------------------------------------------------------------------------------------------
def second(n: int, verdict: str, **more) -> Decision:
    return Decision(f"i{n:02}", verdict, other=f"decided-first-{n}", **{"reviewer": "ana", **more})


def disagreeing(server, tab) -> None:
    """ana accepts i03 and i06, which zoe rejected, moves i01, and says of i02 as zoe; then looks at the agreement."""
    opine(server, second(3, "accept"), second(6, "accept"), second(2, "accept"))
    opine(server, second(1, "relabel", label="basalt"))
    open_page(tab, server)
    turn_to(tab, "agreement")


def test_the_agreement_shown_is_the_agreement_computed(tab, own_judged, tmp_path):
    disagreeing(own_judged, tab)
    labels = read_manifest(tmp_path / "audited.csv").set_index("image_id")["label"].to_dict()
    with Ledger(own_judged.ledger) as ledger:
        table = agreement(compare(ledger.history(), ledger.standing_opinions(), labels))
    for question, button in (
        ("keep", "Keep or reject"),
        ("verdict", "Accept, reject or relabel"),
        ("reason", "Reason"),
    ):
        tab.get_by_role("button", name=button).click()
        tab.locator("caption", has_text=button).wait_for(state="attached")
        lines = tab.locator("tbody tr:not(.heading)").all()
        expected = table[table["question"] == question]
        assert len(lines) == len(expected)
        for line, row in zip(lines, expected.itertuples(), strict=True):
            cells = line.locator("th, td").all_text_contents()
            number = "–" if row.kappa != row.kappa else f"{row.kappa:.2f}".replace("-", "−")
            share = "–" if row.agreed != row.agreed else f"{round(row.agreed * 100)} %"
            assert cells[0].lower() == row.name.lower()
            assert cells[1:4] == [str(row.n), share, number]
            assert cells[5] == row.note
    assert f"ana and {ZOE}" in tab.locator("tbody").last.text_content()


def test_a_disagreement_is_settled_undone_and_settled_by_another_verdict(tab, own_judged):
    disagreeing(own_judged, tab)
    assert tab.locator(".task").text_content().startswith("3 of 3 disagreements are open.")
    box = dispute(tab, "i03")
    statements = box.locator(".statements li").all_text_contents()
    assert statements == [f"{ZOE}, first: Rejected: illumination", "you, blind: Accepted"]
    box.get_by_role("button", name="Accept").click()
    heard(box, "saved: Accepted, by you")
    with Ledger(own_judged.ledger) as ledger:
        assert ledger.standing().loc["i03", ["verdict", "reviewer"]].tolist() == ["accept", "ana"]
    assert box.get_attribute("data-settled") == "true"
    assert tab.locator(".task").text_content().startswith("2 of 3 disagreements are open.")
    box.get_by_role("button", name="Undo").click()
    heard(box, "taken back")
    settled(tab)
    box.get_by_role("button", name="Reject").click()
    tab.get_by_role("dialog").get_by_role("button", name="multiple objects").click()
    heard(box, "saved: Rejected: multiple objects, by you")
    assert decided(own_judged) == [
        ("i03", "accept", "", ""),
        ("i03", "undo", "", ""),
        ("i03", "reject", "multiple_objects", ""),
    ]
    with Ledger(own_judged.ledger) as ledger:
        assert len(ledger.opinions()) == 4  # as they were


def test_what_is_settled_leaves_the_list_when_it_is_made_anew_and_the_agreement_stays(tab, own_judged):
    disagreeing(own_judged, tab)
    numbers = tab.locator("tbody").all_text_contents()
    dispute(tab, "i06").get_by_role("button", name="Accept").click()
    heard(dispute(tab, "i06"), "saved")
    assert dispute(tab, "i06").is_visible()
    tab.get_by_role("button", name="Compute again").click()
    dispute(tab, "i06").wait_for(state="detached")
    settled(tab)
    assert [box.get_attribute("data-image") for box in tab.locator(".dispute").all()] == ["i03", "i01"]
    assert tab.locator("tbody").all_text_contents() == numbers


def test_the_keys_go_from_one_disagreement_to_the_next_and_settle_the_one_in_focus(tab, own_judged):
    disagreeing(own_judged, tab)
    tab.keyboard.press("a")  # none has the focus: nothing is settled
    tab.keyboard.press("j")
    box = dispute(tab, tab.evaluate(FOCUSED + "return e.closest('.dispute').dataset.image }"))
    assert tab.evaluate(FOCUSED + "return getComputedStyle(e).outlineStyle }") == "solid"
    tab.keyboard.press("1")
    heard(box, "saved: Rejected: off topic")
    tab.keyboard.press("r")
    tab.locator(".chooser[open]").wait_for()
    tab.keyboard.press("3")
    heard(box, "saved: Rejected: multiple objects")
    assert tab.evaluate(FOCUSED + "return e.closest('.dispute')?.dataset.image }") == box.get_attribute("data-image")
    tab.keyboard.press("u")
    heard(box, "saved: Rejected: off topic")
    tab.keyboard.press("u")
    heard(box, "taken back")
    tab.keyboard.press("l")
    tab.locator(".chooser[open]").wait_for()
    tab.keyboard.press("Escape")
    tab.keyboard.press("k")
    tab.keyboard.press("j")
    tab.keyboard.press("j")
    following = tab.evaluate(FOCUSED + "return e.closest('.dispute').dataset.image }")
    assert following != box.get_attribute("data-image")
    settled(tab)
    assert [verdict for _, verdict, *_ in decided(own_judged)] == ["reject", "reject", "undo", "undo"]


def test_a_settlement_made_while_the_server_is_away_arrives(tab, own_judged):
    disagreeing(own_judged, tab)
    own_judged.stop(signal.SIGKILL)
    dispute(tab, "i03").get_by_role("button", name="Accept").click()
    heard(dispute(tab, "i03"), "saving")
    own_judged.start()
    tab.wait_for_selector('.second[data-saved="true"]', timeout=25_000)
    assert decided(own_judged) == [("i03", "accept", "", "")]


def test_images_that_i_have_still_to_judge_are_not_shown_among_the_disagreements(tab, own_judged):
    opine(own_judged, second(3, "accept", reviewer="cy"))
    open_page(tab, own_judged)
    choose(tab, "All")
    turn_to(tab, "agreement")
    assert "1 more image waits for your own opinion first." in tab.locator(".task").text_content()
    assert tab.locator(".dispute").count() == 0


def test_what_others_said_is_gone_from_the_page_when_one_goes_on_judging(tab, own_judged):
    disagreeing(own_judged, tab)
    assert "zoe" in tab.locator(PAGE).evaluate("e => e.outerHTML")
    turn_to(tab, "judge")
    assert "zoe" not in tab.locator(PAGE).evaluate("e => e.outerHTML")


# --- safe, accessible, of any size ------------------------------------------------------------------------------------
def test_hostile_words_are_shown_as_text(tab, own_judged):
    opine(own_judged, second(4, "reject", reason="overlay"))
    disagreeing(own_judged, tab)
    assert dispute(tab, "i04").locator("h3").text_content() == HOSTILE
    assert HOSTILE in tab.locator("table").text_content()
    dispute(tab, "i04").locator("img").wait_for()
    sources = tab.locator(".second img").evaluate_all("all => all.map((i) => new URL(i.src).pathname)")
    assert all(source.startswith("/thumb/") for source in sources)
    assert tab.evaluate("window.hacked") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_any_part(scheme, tab, own_judged):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    tab.emulate_media(color_scheme=scheme)
    disagreeing(own_judged, tab)
    dispute(tab, "i03").get_by_role("button", name="Accept").click()
    heard(dispute(tab, "i03"), "saved")
    for part in ("agreement", "choose", "judge"):
        turn_to(tab, part)
        looked_at(tab, axe)
    tab.keyboard.press("l")
    tab.locator(".chooser[open]").wait_for()
    looked_at(tab, axe)


def looked_at(tab, axe) -> None:
    found = axe.Axe().run(tab, context={"include": [[".stBidiComponent"]]}).response
    assert "color-contrast" in {rule["id"] for rule in found["passes"]}
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]] == []


def test_all_stays_inside_a_tablet_and_a_small_window(tab, own_judged):
    disagreeing(own_judged, tab)
    for width in (1280, 820, 600):
        tab.set_viewport_size({"width": width, "height": 720})
        for part in ("choose", "judge", "agreement"):
            turn_to(tab, part)
            assert tab.locator(PAGE).evaluate("e => e.scrollWidth <= e.clientWidth"), (width, part)
    tab.set_viewport_size({"width": 1280, "height": 720})
    turn_to(tab, "judge")
    lowest = tab.locator(".judge .actions").bounding_box()
    assert lowest["y"] + lowest["height"] <= 720


def test_nothing_judged_says_so(tab, serve_alone, tmp_path):
    make_judged(tmp_path, 0, 2)
    open_page(tab, serve_alone(tmp_path))
    assert tab.locator(".sizes").text_content() == "Nothing is judged yet: there is nothing to look at again."
    turn_to(tab, "agreement")
    assert tab.locator("tbody").first.text_content() == "All0––no image"
    assert "no disagreement" in tab.locator(".task").text_content()
