"""What the page of second opinions sends to a browser and takes from it, without a browser."""

import json
import uuid
from collections import Counter

import pytest

from apps.blind import KEPT, RECENT, read_choice
from apps.desk import Desk
from apps.opinions import LISTED, WINDOW, Opinions, opinions_of
from curate.agreement import agreement, compare
from curate.ledger import Decision, Ledger
from curate.manifest import read_manifest
from tests.test_apps import make_manifest

ALL = {"part": "judge", "share": 1, "seed": 0, "own": False, "drawn": 1}
AGREEMENT = {**ALL, "part": "agreement", "opened": 1}
IMAGES = 24


@pytest.fixture
def desk(tmp_path):
    """24 images, basalt and granite in turn: bo judged the even ones, cy the first odd ones, nobody the last four."""
    images = {f"i{n:02}": (("basalt", "granite")[n % 2], n / IMAGES) for n in range(IMAGES)}
    manifest = make_manifest(tmp_path, images)
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.decide(first(n) for n in range(IMAGES - 4))
    desk = Desk(manifest, tmp_path / "data", str(tmp_path / "ledger.db"), target=3, reviewer="ana")
    yield desk
    desk.close()


def first(n: int) -> Decision:
    """Every third is rejected."""
    who, verdict = ("bo", "cy")[n % 2], ("reject", "accept", "accept")[n % 3]
    reason = "illumination" if verdict == "reject" else None
    return Decision(f"i{n:02}", verdict, reason, reviewer=who, decision_id=f"first-{n}")


@pytest.fixture
def opinions(desk) -> Opinions:
    return opinions_of(desk)


def event(image: str, verdict: str, kind: str = "opinion", **more) -> dict:
    return {"id": str(uuid.uuid4()), "at": 1, "kind": kind, "image_id": image, "verdict": verdict, **more}


def say(opinions: Opinions, *events: dict, who: str = "ana") -> None:
    answer = opinions.take(list(events), who)
    assert answer == {"acked": [e["id"] for e in events], "refused": [], "error": ""}


def window(opinions: Opinions, who: str = "ana", **asked) -> list[str]:
    return [item["id"] for item in opinions.view({**ALL, **asked}, who)["window"]]


def counts(opinions: Opinions, who: str = "ana", **asked) -> dict[str, int]:
    return opinions.view({**ALL, **asked}, who)["counts"]


# --- the sample -------------------------------------------------------------------------------------------------------
def test_a_reviewer_is_asked_for_what_others_judged_and_only_with_own_for_the_rest(opinions):
    assert counts(opinions) == {"judged": 20, "others": 20, "sample": 20, "mine": 20, "done": 0, "left": 20}
    assert counts(opinions, "bo") == {"judged": 20, "others": 10, "sample": 20, "mine": 10, "done": 0, "left": 10}
    assert set(window(opinions, "bo")) == {f"i{n:02}" for n in range(1, 20, 2)}
    assert counts(opinions, "bo", own=True)["mine"] == 20


def test_two_reviewers_are_shown_the_same_images_in_the_same_order(opinions):
    bo, ana = window(opinions, "bo"), window(opinions, "ana")
    assert len(ana) == WINDOW
    assert [image for image in ana if image in bo] == [image for image in bo if image in ana]
    assert window(opinions, "ana", seed=1) != ana


def test_a_tenth_is_asked_for_where_the_browser_says_something_odd(opinions):
    usual = read_choice({})
    assert usual == (0.1, None, 0, False)
    for odd in (
        {"share": 7},
        {"share": True},
        {"share": "1"},
        {"number": 0},
        {"number": 1.5},
        {"seed": "x"},
        {"own": 1},
    ):
        assert read_choice(odd) == usual
    assert read_choice({"share": 0.5, "number": 30, "seed": -4, "own": True}) == (None, 30, -4, True)
    assert opinions.view({"part": ["judge"], "drawn": {}, "share": None}, "ana")["part"] == "choose"


def test_what_is_judged_meanwhile_is_read_when_the_sample_is_drawn_again(opinions, desk):
    assert counts(opinions)["judged"] == 20
    desk.ledger.decide([Decision("i22", "accept", reviewer="bo")])
    assert counts(opinions)["judged"] == 20
    assert counts(opinions, drawn=2)["judged"] == 21
    assert counts(opinions, drawn=1)["judged"] == 21  # another tab of the same person reads nothing anew


def test_a_key_reads_no_history(opinions, desk, monkeypatch):
    opinions.view(ALL, "ana")
    for name in ("history", "opinions", "standing", "standing_opinions"):
        monkeypatch.setattr(desk.ledger, name, lambda name=name: pytest.fail(f"{name} was read"))
    say(opinions, event("i00", "accept"))
    assert "i00" not in window(opinions)


def test_the_samples_kept_do_not_grow_without_end(opinions):
    for seed in range(3 * KEPT):
        opinions.view({**ALL, "seed": seed}, "ana")
    assert len(opinions._judged._samples) == len(opinions._seat("ana").blind._mine_of) == KEPT


def test_reviewers_share_what_was_judged_until_something_is_decided(opinions, desk):
    for who in ("ana", "dee"):
        opinions.view(ALL, who)
    shared = opinions._seat("ana").blind._judged
    assert opinions._seat("dee").blind._judged is shared
    desk.ledger.decide([Decision("i22", "accept", reviewer="bo")])
    opinions.view({**ALL, "drawn": 2}, "dee")
    assert opinions._seat("dee").blind._judged is not shared


# --- blind ------------------------------------------------------------------------------------------------------------
def test_nothing_of_the_first_verdict_of_the_model_or_of_the_source_is_sent(opinions):
    say(opinions, event("i00", "accept"))
    for part in ("choose", "judge"):
        view = opinions.view({**ALL, "part": part, "opened": 1}, "ana")
        assert view["agreed"] is None
        for item in [*view["window"], *(said["item"] for said in view["recent"])]:
            assert set(item) == {"id", "label", "width", "height", "img", "thumb"}
        assert [said["verdict"] for said in view["recent"]] == ["accept"]  # one's own
        sent = json.dumps({name: value for name, value in view.items() if name != "reasons"})
        for secret in ("bo", "cy", "first-", "reject", "illumination", "onerror", "suspicion", "flags", "heat"):
            assert f'"{secret}' not in sent


def test_the_order_does_not_follow_the_verdicts(opinions):
    shown = [first(int(image[1:])).verdict for image in window(opinions)]
    assert sorted(shown) != shown != sorted(shown, reverse=True)


def test_disagreements_that_one_has_still_to_judge_blind_are_counted_and_not_shown(opinions):
    say(opinions, event("i00", "accept"), event("i01", "reject", reason="overlay"), who="dee")
    agreed = opinions.view(AGREEMENT, "ana")["agreed"]
    assert (agreed["hidden"], agreed["total"], agreed["disputes"]) == (2, 0, [])
    say(opinions, event("i00", "accept"))
    agreed = opinions.view({**AGREEMENT, "opened": 2}, "ana")["agreed"]
    assert (agreed["hidden"], [dispute["image_id"] for dispute in agreed["disputes"]]) == (1, ["i00"])


# --- opinions ---------------------------------------------------------------------------------------------------------
def test_an_opinion_is_kept_apart_from_the_decisions_and_names_the_one_it_answers(opinions, desk):
    before = desk.ledger.history()
    say(opinions, event("i00", "accept"), event("i01", "reject", reason="overlay"))
    say(opinions, event("i02", "relabel", label="granite"), event("i03", "skip"))
    said = desk.ledger.opinions().fillna("")
    assert said[["image_id", "verdict", "reason", "label", "other", "reviewer"]].to_numpy().tolist() == [
        ["i00", "accept", "", "", "first-0", "ana"],
        ["i01", "reject", "overlay", "", "first-1", "ana"],
        ["i02", "relabel", "", "granite", "first-2", "ana"],
        ["i03", "skip", "", "", "first-3", "ana"],
    ]
    assert desk.ledger.history().equals(before)
    assert counts(opinions) == {"judged": 20, "others": 20, "sample": 20, "mine": 20, "done": 3, "left": 17}


def test_what_was_skipped_comes_again_at_the_end_the_longest_skipped_first(opinions):
    order = window(opinions)
    say(opinions, event(order[0], "skip"), event(order[1], "skip"))
    for image in window(opinions)[:-2]:
        say(opinions, event(image, "accept"))
    rest = window(opinions)
    while len(rest) > 2:
        say(opinions, event(rest[0], "accept"))
        rest = window(opinions)
    assert rest == order[:2]
    say(opinions, event(order[0], "skip"))
    assert window(opinions) == [order[1], order[0]]


def test_an_undo_takes_one_s_own_opinion_back_and_the_image_waits_again(opinions, desk):
    said = event("i00", "accept")
    say(opinions, said)
    assert "i00" not in window(opinions, number=20)
    say(opinions, event("i00", "undo", undoes=said["id"]))
    assert counts(opinions)["left"] == 20
    assert desk.ledger.standing_opinions().empty
    assert opinions.view(ALL, "ana")["recent"] == []


def test_the_last_opinions_can_be_taken_back_also_by_a_server_that_was_started_again(opinions, desk):
    events = [event(f"i{n:02}", "accept") for n in range(RECENT + 2)]
    say(opinions, *events)
    recent = Opinions(desk).view(ALL, "ana")["recent"]
    assert [said["id"] for said in recent] == [e["id"] for e in events[:1:-1]]
    again = Opinions(desk)
    say(again, event(recent[0]["image_id"], "undo", undoes=recent[0]["id"]))
    assert recent[0]["image_id"] in again._seat("ana").blind.waiting(read_choice(ALL))


def test_an_outbox_that_comes_twice_is_written_once_and_acknowledged_twice(opinions, desk):
    said = event("i00", "accept")
    outbox = [said, event("i00", "undo", undoes=said["id"]), event("i01", "skip")]
    say(opinions, *outbox)
    say(Opinions(desk), *outbox)
    say(opinions, *outbox)
    assert Counter(desk.ledger.opinions()["verdict"]) == {"accept": 1, "undo": 1, "skip": 1}


def test_an_opinion_sent_again_after_a_settlement_still_answers_what_it_answered(opinions, desk):
    said = event("i00", "accept")
    say(opinions, said)
    desk.ledger.decide([Decision("i00", "accept", reviewer="cy")])
    say(Opinions(desk), said)
    assert desk.ledger.opinions()["other"].tolist() == ["first-0"]


def test_an_image_whose_decision_was_taken_back_and_made_anew_is_asked_for_again(opinions, desk):
    say(opinions, event("i00", "accept"))
    desk.ledger.decide(
        [Decision("i00", "undo", undoes="first-0", reviewer="bo"), Decision("i00", "accept", reviewer="bo")]
    )
    assert counts(opinions, drawn=2)["left"] == 20


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (event("i00", "reject", reason="ugly"), "none of off_topic"),
        (event("i00", "relabel", label="<b>"), "none of basalt, granite"),
        (event("i00", "same", other="i01"), "no second opinion"),
        (event("i99", "accept"), "not in audited.csv"),
        (event("i23", "accept"), "nobody has judged"),
        (event("i00", "undo", undoes="first-0"), "no decision 'first-0' of ana"),
        ({**event("i00", "accept"), "id": "7"}, "no UUID"),
        ({**event("i00", "accept"), "image_id": ["i00"]}, "not a decision"),
        (event("i00", "undo", batch=str(uuid.uuid4())), "no step"),
        (event("i00", "undo", kind="decision", undoes="first-0"), "no decision 'first-0' of ana"),
    ],
)
def test_what_no_ledger_takes_is_refused_with_the_reason_and_the_rest_is_taken(wrong, why, opinions, desk):
    good = event("i01", "accept")
    answer = opinions.take([wrong, good], "ana")
    assert answer["acked"] == [good["id"]]
    assert [refused["id"] for refused in answer["refused"]] == [wrong["id"]]
    assert why in answer["refused"][0]["why"]
    assert desk.ledger.opinions()["image_id"].tolist() == ["i01"]


def test_nobody_takes_back_the_opinion_of_another(opinions):
    said = event("i00", "accept")
    say(opinions, said, who="dee")
    answer = opinions.take([event("i00", "undo", undoes=said["id"])], "ana")
    assert "no decision" in answer["refused"][0]["why"]


def test_rubbish_in_an_outbox_is_refused_and_harms_nothing(opinions):
    answer = opinions.take([None, 7, [], {"kind": "opinion"}, event("i00", "accept")], "ana")
    assert len(answer["acked"]) == 1
    assert len(answer["refused"]) == 4


def test_a_ledger_that_cannot_be_written_keeps_the_outbox_in_the_browser(opinions, desk, monkeypatch):
    def full(new):
        from curate.errors import CurateError

        raise CurateError("the disk is full")

    monkeypatch.setattr(desk.ledger, "opine", full)
    answer = opinions.take([event("i00", "accept")], "ana")
    assert answer["acked"] == []
    assert "the disk is full" in answer["error"]
    assert counts(opinions)["left"] == 20


# --- agreement and settling -------------------------------------------------------------------------------------------
def test_the_agreement_shown_is_the_agreement_computed(opinions, desk):
    say(opinions, *(event(f"i{n:02}", "accept" if n % 4 else "reject", reason="overlay") for n in range(20)))
    shown = opinions.view(AGREEMENT, "ana")["agreed"]["rows"]
    labels = read_manifest(desk.path).set_index("image_id")["label"].to_dict()
    computed = agreement(compare(desk.ledger.history(), desk.ledger.standing_opinions(), labels)).to_dict("records")
    assert len(shown) == len(computed) == 3 * (1 + 2 + 2)
    for line, expected in zip(shown, computed, strict=True):
        assert line == {name: value if value == value else None for name, value in expected.items()}
    json.dumps(shown, allow_nan=False)


def test_it_is_computed_when_it_is_asked_for_and_not_at_every_key(opinions):
    say(opinions, event("i00", "accept"))
    assert opinions.view(AGREEMENT, "ana")["agreed"]["rows"][0]["n"] == 1
    say(opinions, event("i01", "accept"))
    assert opinions.view(AGREEMENT, "ana")["agreed"]["rows"][0]["n"] == 1
    assert opinions.view({**AGREEMENT, "opened": 2}, "ana")["agreed"]["rows"][0]["n"] == 2


def test_disagreements_say_who_said_what_those_of_keep_against_reject_first(opinions):
    say(opinions, event("i01", "relabel", label="basalt"), event("i03", "accept"), event("i02", "accept"))
    say(opinions, event("i06", "reject", reason="overlay"))  # only the reason is another one: nothing to settle
    disputes = opinions.view(AGREEMENT, "ana")["agreed"]["disputes"]
    assert [dispute["image_id"] for dispute in disputes] == ["i03", "i01"]
    assert disputes[0]["said"] == [
        {"side": "first", "by": "cy", "mine": False, "verdict": "reject", "reason": "illumination", "label": None},
        {"side": "second", "by": "ana", "mine": True, "verdict": "accept", "reason": None, "label": None},
    ]
    assert disputes[0]["item"]["thumb"] == "/thumb/i03"


def test_a_disagreement_is_settled_by_a_decision_and_leaves_the_list_when_it_is_made_anew(opinions, desk):
    say(opinions, event("i00", "accept"), event("i03", "accept"))
    assert len(opinions.view(AGREEMENT, "ana")["agreed"]["disputes"]) == 2
    rows = opinions.view(AGREEMENT, "ana")["agreed"]["rows"]
    settled = event("i00", "accept", kind="decision")
    say(opinions, settled)
    assert desk.ledger.standing().loc["i00", ["verdict", "reviewer"]].tolist() == ["accept", "ana"]
    disputes = opinions.view(AGREEMENT, "ana")["agreed"]["disputes"]
    assert [d["settled"] and d["settled"]["id"] for d in disputes] == [settled["id"], None]
    assert disputes[0]["settled"]["mine"]
    anew = opinions.view({**AGREEMENT, "opened": 2}, "ana")["agreed"]
    assert [d["image_id"] for d in anew["disputes"]] == ["i03"]
    assert anew["rows"] == rows  # a settlement is no agreement
    say(opinions, event("i00", "undo", kind="decision", undoes=settled["id"]))
    assert [d["settled"] for d in opinions.view(AGREEMENT, "ana")["agreed"]["disputes"]] == [None, None]
    assert len(opinions.view({**AGREEMENT, "opened": 3}, "ana")["agreed"]["disputes"]) == 2
    assert desk.ledger.standing().loc["i00", "reviewer"] == "bo"


def test_what_another_settles_meanwhile_is_seen(opinions, desk):
    say(opinions, event("i00", "accept"))
    opinions.view(AGREEMENT, "ana")
    desk.ledger.decide([Decision("i00", "reject", "overlay", reviewer="cy")])
    settled = opinions.view(AGREEMENT, "ana")["agreed"]["disputes"][0]["settled"]
    assert (settled["by"], settled["mine"], settled["reason"]) == ("cy", False, "overlay")


def test_a_long_list_is_sent_in_parts(opinions, desk, monkeypatch):
    monkeypatch.setattr("apps.opinions.LISTED", 2)
    assert LISTED > 2
    say(opinions, *(event(f"i{n:02}", "accept") for n in range(0, 20, 3)))
    agreed = opinions.view(AGREEMENT, "ana")["agreed"]
    assert (agreed["total"], len(agreed["disputes"])) == (7, 2)
    assert len(opinions.view({**AGREEMENT, "listed": 5}, "ana")["agreed"]["disputes"]) == 5


def test_one_desk_has_one_set_of_opinions(desk):
    assert opinions_of(desk) is opinions_of(desk)


def test_where_nothing_is_judged_the_page_has_nothing_to_show(tmp_path):
    manifest = make_manifest(tmp_path, {"a": ("basalt", None)})
    desk = Desk(manifest, tmp_path / "data", str(tmp_path / "ledger.db"), target=3, reviewer="ana")
    view = Opinions(desk).view(AGREEMENT, "ana")
    assert view["counts"]["judged"] == view["counts"]["sample"] == 0
    assert view["agreed"]["disputes"] == []
    assert view["agreed"]["rows"][0]["note"] == "no image"
    desk.close()
