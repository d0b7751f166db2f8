"""The page of copies without a browser: which groups it shows, what it takes in; tests/browser has the clicks."""

import shutil
import uuid

import numpy as np
import pandas as pd
import pytest

from apps.copies import GROUPS, PART, Copies, in_parts
from apps.desk import Desk
from apps.judged import JudgedPairs
from curate.copy_groups import groups
from curate.dedup import PAIR_COLUMNS, find_copies
from curate.duplicates import mark_duplicates
from curate.images import inspect
from curate.ledger import Decision, Ledger
from curate.manifest import write_manifest
from curate.store import store
from tests.pictures import jpeg

NOTHING_JUDGED = pd.DataFrame(columns=["first", "second", "verdict", "reviewer", "decision_id"])


def write_rocks(folder):
    """A data root after `curate dedup`: `small` is a copy of `large`, `here` and `there` are one under two classes."""
    rows = []
    photos = [("large", "granite", 1, 400), ("small", "granite", 1, 200), ("lonely", "granite", 3, 300)]
    for name, label, seed, width in [*photos, ("here", "granite", 2, 400), ("there", "basalt", 2, 380)]:
        data = jpeg(seed, width, width * 3 // 4)
        picture = inspect(data)
        row = {"image_id": name, "file_name": store(folder / "data", data, picture), "label": label, "bytes": len(data)}
        rows.append({**row, "sha256": picture.sha256, "width": picture.width, "height": picture.height})
    manifest = pd.DataFrame(rows).assign(status="candidate")
    marked = mark_duplicates(manifest, find_copies(manifest, folder / "data"))
    write_manifest(marked, folder / "unique.csv")
    return marked


def open_desk(folder, reviewer="ana", manifest="unique.csv"):
    return Desk(folder / manifest, folder / "data", str(folder / "ledger.db"), target=3, reviewer=reviewer)


@pytest.fixture
def desk(tmp_path):
    write_rocks(tmp_path)
    desk = open_desk(tmp_path)
    yield desk
    desk.close()


def said(image_id: str, verdict: str, **more: str) -> dict[str, str]:
    return {"id": str(uuid.uuid4()), "image_id": image_id, "verdict": verdict, **more}


def shown(view: dict) -> list[list[str]]:
    return [[image["image_id"] for image in group["images"]] for group in view["groups"]]


def judgements(view: dict) -> dict[frozenset, tuple | None]:
    pairs = [pair for group in view["groups"] for pair in group["pairs"]]
    told = {frozenset((p["first"], p["second"])): p["said"] for p in pairs}
    return {pair: s and (s["verdict"], s["by"], s["mine"]) for pair, s in told.items()}


def test_the_groups_come_from_the_cache_with_what_the_check_saw(desk):
    view = desk.copies({})
    assert shown(view) == [["here", "there"], ["large", "small"]]
    assert [group["kind"] for group in view["groups"]] == ["conflict", "copies"]
    pair = view["groups"][1]["pairs"][0]
    assert pair["distance"] in range(7)
    assert "matched points" in pair["check"]
    assert pair["places"] == [1, 2]
    assert [image["mark"] for image in view["groups"][1]["images"]] == ["kept", "copy"]
    assert view["counts"] == {"all": 2, "conflict": 1, "open": 2, "judged": 0}


def test_without_a_cache_the_manifest_still_names_them(desk, tmp_path):
    shutil.rmtree(tmp_path / "data/cache")
    view = desk.copies({})
    assert shown(view) == [["here", "there"], ["large", "small"]]
    assert [group["pairs"][0]["distance"] for group in view["groups"]] == [None, None]
    assert "matched points" in view["groups"][1]["pairs"][0]["check"]


def test_a_manifest_that_dedup_has_not_seen_has_no_groups_and_says_so(desk, tmp_path):
    shutil.rmtree(tmp_path / "data/cache")
    bare = desk.manifest.drop(columns=["reason", "duplicate_of", "label_conflict"]).assign(status="candidate")
    write_manifest(bare, tmp_path / "scraped.csv")
    fresh = open_desk(tmp_path, manifest="scraped.csv")
    view = fresh.copies({})
    assert view["groups"] == []
    assert view["pages"] == 0
    assert not view["compared"]
    fresh.close()


def test_a_hash_that_is_none_is_said_and_the_rest_is_shown(tmp_path):
    marked = write_rocks(tmp_path)
    write_manifest(marked.assign(phash="granite"), tmp_path / "unique.csv")
    desk = open_desk(tmp_path)
    view = desk.copies({})
    assert "column phash: 'granite'" in view["problem"]
    assert shown(view) == [["here", "there"], ["large", "small"]]
    desk.close()


def test_a_judgement_is_in_the_ledger_when_it_is_acknowledged_and_outlives_the_server(desk, tmp_path):
    desk.copies({})
    event = said("large", "different", other="small")
    assert desk.take([event, event]) == {"acked": [event["id"]], "refused": [], "error": ""}
    rows = desk.ledger.judged_pairs()
    assert rows[["first", "second", "verdict", "reviewer"]].to_numpy().tolist() == [
        ["large", "small", "different", "ana"]
    ]
    later = open_desk(tmp_path)
    for view in (desk.copies({}), later.copies({})):
        assert judgements(view)[frozenset(("large", "small"))] == ("different", "ana", True)
        assert view["counts"]["judged"] == 1
    later.close()


def test_a_judgement_is_no_decision_on_an_image(desk):
    waiting = [item["id"] for item in desk.view({})["window"]]
    event = said("large", "same", other="lonely")
    desk.take([event, said("large", "undo", undoes=event["id"])])
    assert [item["id"] for item in desk.view({})["window"]] == waiting
    assert desk.view({})["recent"] == []


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"image_id": "stranger"}, "not in unique.csv"),
        ({"other": "stranger"}, "not another one"),
        ({"other": "large"}, "not another one"),
        ({"other": None}, "not another one"),
        ({"other": ["small"]}, "not a decision"),
        ({"verdict": "alike"}, "unknown"),
        ({"verdict": "undo", "undoes": "nothing"}, "no decision 'nothing' of ana"),
    ],
)
def test_what_no_ledger_takes_is_refused_alone(desk, bad, why):
    good = said("here", "same", other="there")
    outcome = desk.take([{**said("large", "same", other="small"), **bad}, good])
    assert outcome["acked"] == [good["id"]]
    assert why in outcome["refused"][0]["why"]
    assert len(desk.ledger.history()) == 1


def test_undo_takes_back_an_own_judgement_and_the_one_before_stands_again(desk, tmp_path):
    pair = frozenset(("large", "small"))
    bo = open_desk(tmp_path, "bo")
    theirs = said("small", "same", other="large")
    bo.take([theirs])
    mine = said("large", "different", other="small")
    desk.take([mine])
    assert judgements(desk.copies({}))[pair] == ("different", "ana", True)
    assert desk.take([said("small", "undo", undoes=theirs["id"])])["acked"] == []
    desk.take([said("large", "undo", undoes=mine["id"])])
    assert judgements(desk.copies({}))[pair] == ("same", "bo", False)
    assert judgements(bo.copies({}))[pair] == ("same", "bo", True)
    assert desk.ledger.judged_pairs()["verdict"].tolist() == ["same"]
    bo.close()


def test_a_pair_that_only_a_person_named_is_shown_so_that_it_can_be_taken_back(desk, tmp_path):
    desk.take([said("large", "same", other="lonely"), said("here", "different", other="there")])
    later = open_desk(tmp_path)
    view = later.copies({})
    assert shown(view) == [["large", "small", "lonely"], ["here", "there"]]
    assert [group["kind"] for group in view["groups"]] == [
        "copies",
        "apart",
    ]  # what was called different is no conflict
    later.close()


def test_an_accepted_image_settles_a_conflict(desk):
    event = said("there", "accept")
    desk.copies({})
    desk.take([event])
    view = desk.copies({"kind": "judged"})
    assert shown(view) == [["here", "there"]]
    assert [image["said"] and image["said"]["verdict"] for image in view["groups"][0]["images"]] == [None, "accept"]


def test_folding_judgements_one_by_one_agrees_with_the_ledger(tmp_path):
    """200 random judgements and undos by two reviewers on 5 images, compared after each 10."""
    rng = np.random.default_rng(3)
    folded, made = JudgedPairs(), []
    with Ledger(tmp_path / "ledger.db") as ledger:
        for n in range(200):
            taken_back = made[rng.integers(len(made))] if made and rng.random() < 0.4 else None
            first, second = rng.choice(list("abcde"), 2, replace=False)
            decision = Decision(
                image_id=taken_back.image_id if taken_back else str(first),
                verdict="undo" if taken_back else str(rng.choice(["same", "different"])),
                other=None if taken_back else str(second),
                undoes=taken_back.decision_id if taken_back else None,
                reviewer=str(rng.choice(["ana", "bo"])),
                decision_id=str(uuid.uuid4()),
            )
            if not taken_back:
                made.append(decision)
            ledger.decide([decision])
            for at, stored in ledger.since(n - 5):  # some are read again
                assert folded.add(at, stored)
            if n % 10 == 0:
                expected = ledger.judged_pairs()
                pairs = [frozenset(pair) for pair in expected[["first", "second"]].to_numpy()]
                assert set(folded.pairs()) == set(pairs)
                assert [folded.standing(pair).decision_id for pair in pairs] == expected["decision_id"].tolist()


# --- pages -----------------------------------------------------------------------------------------------------------


def many(sizes: list[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Groups of so many granites, every image of a group a pair with every other one."""
    ids = [[f"g{n:03}i{i:03}" for i in range(size)] for n, size in enumerate(sizes)]
    manifest = pd.DataFrame({"image_id": [i for group in ids for i in group]})
    manifest = manifest.assign(file_name=manifest["image_id"], label="granite", status="candidate")
    found = [(a, b, 4, "seen", False) for group in ids for n, a in enumerate(group) for b in group[n + 1 :]]
    pairs = pd.DataFrame(found, columns=list(PAIR_COLUMNS)[:5]).reindex(columns=list(PAIR_COLUMNS)).astype(PAIR_COLUMNS)
    return mark_duplicates(manifest, pairs), pairs


def test_pages_hold_every_group_once(tmp_path):
    manifest, _ = many([2] * (2 * GROUPS + 3))
    copies = Copies(manifest, tmp_path, NOTHING_JUDGED)
    pages = [copies.page({"page": number}, set()) for number in range(3)]
    assert [len(page.parts) for page in pages] == [GROUPS, GROUPS, 3]
    assert len({part.key for page in pages for part in page.parts}) == 2 * GROUPS + 3
    assert copies.page({"page": 99}, set()).number == 2


@pytest.mark.parametrize("asked", [{"page": -1}, {"page": "2"}, {"kind": "<b>"}, {"keys": "abc"}, {"keys": [None, 7]}])
def test_a_page_that_is_none_is_the_first_one(asked, tmp_path):
    copies = Copies(many([2] * 50)[0], tmp_path, NOTHING_JUDGED)
    assert copies.page(asked, set()) == copies.page({}, set())


def test_what_is_judged_keeps_its_place_until_another_page_is_asked_for(tmp_path):
    copies = Copies(many([2, 2, 2])[0], tmp_path, NOTHING_JUDGED)
    keys = [part.key for part in copies.parts]
    judged = copies.judged([frozenset(("g001i000", "g001i001"))], lambda _: None)
    assert [p.key for p in copies.page({"kind": "open", "keys": keys}, judged).parts] == keys
    assert [p.key for p in copies.page({"kind": "open"}, judged).parts] == [keys[0], keys[2]]
    assert [p.key for p in copies.page({"kind": "judged"}, judged).parts] == [keys[1]]
    assert copies.counts(judged) == {"all": 3, "conflict": 0, "open": 2, "judged": 1}


def test_a_large_group_comes_in_parts_that_hold_every_image_and_every_pair_once():
    manifest, pairs = many([2 * PART])
    (group,) = groups(manifest, pairs)
    parts = list(in_parts(group))
    assert [len(part.images) for part in parts] == [PART, PART, 2]
    assert {part.images[0] for part in parts} == {(1, group.images[0])}
    rest = [place for part in parts for place, _ in part.images[1:]]
    assert rest == list(range(2, 2 * PART + 1))
    assert sorted(pair for part in parts for pair in part.pairs) == sorted(group.pairs)
