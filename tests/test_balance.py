import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from curate.audit import audit
from curate.balance import (
    Search,
    balance,
    bar_copies,
    observed_yield,
    plan,
    shortage,
    take_surest,
    trim,
)
from curate.collected import collected
from curate.dedup import find_copies
from curate.duplicates import mark_duplicates
from curate.errors import CurateError
from curate.ledger import Decision, Ledger
from curate.manifest import check_manifest
from curate.scrape import scrape
from curate.wiring import Loop, planned, rebalance
from tests.pictures import jpeg, photos, recipe_for
from tests.web import LoopbackWeb, Photo


def images(label: str, probabilities: list[float], start: int = 0, status: str = "candidate") -> pd.DataFrame:
    ids = [f"{label}{start + i}" for i in range(len(probabilities))]
    return pd.DataFrame(
        {"image_id": ids, "label": label, "status": status, "suspicion": probabilities, "reason": pd.NA}
    )


class World:
    """A source with a stock of images of known probability, and no copies."""

    def __init__(self, held: pd.DataFrame, stock: dict[str, list[float]]) -> None:
        self.held, self.stock, self.asked = held, stock, []

    def gather(self, wanted):
        self.asked.append(dict(wanted))
        for label, n in wanted.items():
            new, self.stock[label] = self.stock[label][:n], self.stock[label][n:]
            fresh = images(label, new, start=int((self.held["label"] == label).sum()))
            self.held = pd.concat([self.held, fresh], ignore_index=True)
        return self.held


def run(world: World, standing: pd.DataFrame, labels=("oak",), **options):
    settings = {"target": 5, "unattended": True, "gather": world.gather, "enrich": lambda table: table, **options}
    return balance(world.held, standing, list(labels), **settings)


def decided(tmp_path, *decisions: Decision) -> pd.DataFrame:
    with Ledger(tmp_path / "l.db") as ledger:
        ledger.decide(decisions)
        return ledger.standing()


def test_with_enough_supply_every_class_ends_at_exactly_the_target(tmp_path):
    held = pd.concat([images("oak", [0.1] * 3 + [0.9] * 3), images("elm", [0.15] * 9)], ignore_index=True)
    world = World(held, {"oak": [0.9, 0.1] * 20, "elm": []})
    result = run(world, decided(tmp_path, Decision("oak0", "accept")), ("oak", "elm"))
    assert result.accepted == {"oak": 5, "elm": 5}
    assert not result.short
    assert all(set(asked) <= {"oak"} for asked in world.asked)
    taken = result.manifest[result.manifest["status"] == "accepted"]
    assert (taken["suspicion"] < 0.5).all()


def test_what_was_rejected_never_counts_and_nothing_is_dropped(tmp_path):
    world = World(images("oak", [0.1] * 6), {"oak": []})
    result = run(world, decided(tmp_path, Decision("oak0", "reject", "overlay"), Decision("oak1", "accept")))
    table = result.manifest.set_index("image_id")
    assert table.loc["oak0", "status"] == "rejected"
    assert result.accepted == {"oak": 5}
    assert len(table) == 6


def test_a_class_without_supply_is_short_and_ends(tmp_path):
    world = World(images("oak", [0.1] * 2), {"oak": [0.9] * 4})
    result = run(world, decided(tmp_path, Decision("oak0", "accept")))
    assert result.short == {"oak": 3}
    assert result.accepted == {"oak": 2}


def test_with_a_person_new_images_wait(tmp_path):
    world = World(images("oak", [0.1] * 3), {"oak": [0.2] * 30})
    standing = decided(tmp_path, *[Decision(f"oak{i}", "accept") for i in range(3)])
    result = run(world, standing, unattended=False)
    assert result.accepted == {"oak": 3}
    assert result.waiting["oak"] == result.fetched["oak"] > 0


def test_the_most_suspicious_surplus_becomes_spare(tmp_path):
    world = World(images("oak", [0.1, 0.6, 0.3, 0.2, 0.4, 0.5, 0.05]), {"oak": []})
    standing = decided(tmp_path, *[Decision(f"oak{i}", "accept") for i in range(7)])
    table = run(world, standing).manifest.set_index("image_id")
    assert table.index[table["reason"] == "spare"].tolist() == ["oak1", "oak5"]
    assert (table["status"] == "accepted").sum() == 5


def test_nothing_decided_and_nobody_asked_is_an_error(tmp_path):
    with pytest.raises(CurateError, match="curate review"):
        run(World(images("oak", [0.1]), {}), decided(tmp_path), unattended=False)


def test_the_deficit_is_asked_for_by_the_observed_yield():
    """4 of 8 were fit: 3 missing are asked for as 6. A yield is never taken to be above 0.9 or below 0.2."""
    half = pd.concat([images("oak", [0.1] * 4, status="accepted"), images("oak", [1.0] * 4, 4, "rejected")])
    assert observed_yield(half) == 0.5
    assert shortage(half, ["oak"], 7, True) == {"oak": 6}
    assert observed_yield(images("oak", [1.0] * 4, status="rejected")) == 0.2
    assert observed_yield(images("oak", [0.1] * 4, status="accepted")) == 0.9


def test_deeper_results_that_are_worse_are_asked_for_by_their_own_yield():
    """Half of the first 20 were fit, none of 20 newer ones: 10 of 40, and the older ones weigh as 20: a quarter."""
    older = pd.concat([images("oak", [0.1] * 10, status="accepted"), images("oak", [1.0] * 10, 10, "rejected")])
    newer = images("oak", [1.0] * 20, 20, "rejected")
    rows = pd.concat([older.assign(balance_round=0), newer.assign(balance_round=1)], ignore_index=True)
    assert observed_yield(older) == 0.5
    assert observed_yield(rows) == pytest.approx(np.clip((0 + 20 * 10 / 40) / 40, 0.2, 0.9))
    assert observed_yield(rows[rows.index < 30]) == pytest.approx((0 + 20 * 10 / 30) / 30)


def test_for_a_review_more_is_asked_so_that_one_is_enough():
    """Half are fit, 3 are missing: of 12 more than 3 are fit with 95 % (6 - 1.64 * sqrt(3) = 3.2), of 11 hardly (2.8).

    Never do more wait than the deficit over the least yield, 0.2: 15 for 3.
    """
    half = pd.concat([images("oak", [0.1] * 4, status="accepted"), images("oak", [1.0] * 4, 4, "rejected")])
    assert shortage(half, ["oak"], 7, False) == {"oak": 12}
    waiting = pd.concat([half, images("oak", [0.95] * 14, 8)], ignore_index=True)
    assert shortage(waiting, ["oak"], 7, False) == {"oak": 1}
    full = pd.concat([images("oak", [0.1] * 7, status="accepted"), images("oak", [0.9] * 9, 7)], ignore_index=True)
    assert shortage(full, ["oak"], 7, False) == {}


def test_a_class_that_brought_less_than_asked_is_not_asked_again(tmp_path):
    held = pd.concat([images("oak", [0.1]), images("elm", [0.1])], ignore_index=True)
    world = World(held, {"oak": [0.1], "elm": [0.9, 0.9, 0.1] * 20})
    result = run(world, decided(tmp_path, Decision("oak0", "accept")), ("oak", "elm"))
    assert [("oak" in asked) for asked in world.asked] == [False, True] + [False] * (len(world.asked) - 2)
    assert result.accepted == {"oak": 2, "elm": 5}
    assert result.dry == ["oak"]


def test_a_source_of_bad_images_alone_ends(tmp_path):
    world = World(images("oak", [0.1] * 2), {"oak": [0.9] * 1000})
    result = run(world, decided(tmp_path, Decision("oak0", "accept")))
    assert result.rounds == 20
    assert result.accepted == {"oak": 2}


def test_what_was_rejected_after_the_manifest_was_written_is_rejected_in_what_is_gathered(tmp_path):
    """`oak7` is in the ledger alone: fetched and rejected since; `oak8` was found to be an elm."""
    world = World(images("oak", [0.1] * 9), {"oak": [], "elm": []})
    decisions = [Decision("oak7", "reject", "overlay"), Decision("oak8", "relabel", label="elm")]
    standing = decided(tmp_path, *decisions)
    old = pd.concat([world.held.head(6), images("elm", [0.1])], ignore_index=True)
    result = balance(
        old, standing, ["oak", "elm"], target=5, unattended=True, gather=world.gather, enrich=lambda table: table
    )
    table = result.manifest.set_index("image_id")
    assert table.loc["oak7", "status"] == "rejected"
    assert table.loc["oak8", ["label", "status"]].tolist() == ["elm", "accepted"]
    assert result.accepted == {"oak": 5, "elm": 2}
    assert table["balance_round"].to_dict() == {**dict.fromkeys([*old["image_id"]], 0), "oak6": 1, "oak7": 1, "oak8": 1}


@pytest.mark.parametrize("unattended", [True, False])
def test_a_second_run_changes_nothing(tmp_path, unattended):
    """From the manifest that the first run read, as from the one that it wrote."""
    world = World(images("oak", [0.1, 0.3, 0.45, 0.6] * 3), {"oak": [0.15, 0.7] * 30})
    before = world.held
    standing = decided(
        tmp_path, *[Decision(f"oak{i}", "accept") for i in range(3)], Decision("oak3", "reject", "overlay")
    )
    first = run(world, standing, unattended=unattended, target=8).manifest
    asked = [asked for asked in world.asked if asked]
    for manifest in (before, first):
        world.held, held = manifest, world.held
        settings = {"target": 8, "unattended": unattended, "enrich": lambda table: table}
        again = balance(manifest, standing, ["oak"], gather=lambda wanted, held=held: held, **settings)
        world.held = held
        assert again.fetched == {"oak": 0}
        columns = ["image_id", "status", "reason", "reviewer", "balance_round"]
        pd.testing.assert_frame_equal(again.manifest[columns], first[columns])
    assert [asked for asked in world.asked if asked] == asked


def test_spares_are_used_before_anything_is_fetched(tmp_path):
    """Seven are accepted where five are wanted; when two that stayed are rejected, the two spares come back."""
    world = World(images("oak", [0.1, 0.6, 0.3, 0.2, 0.4, 0.5, 0.05]), {"oak": [0.1] * 9})
    accepts = [Decision(f"oak{i}", "accept") for i in range(7)]
    first = run(world, decided(tmp_path, *accepts), unattended=False)
    rejects = [Decision(f"oak{i}", "reject", "overlay") for i in (0, 6)]
    world.held = first.manifest
    second = run(world, decided(tmp_path, *rejects), unattended=False)
    assert second.accepted == {"oak": 5}
    assert not any(world.asked)
    assert not (second.manifest["reason"] == "spare").any()


def test_a_spare_of_the_screen_is_used_again_and_one_whose_decision_was_taken_back_waits(tmp_path):
    held = images("oak", [0.1] * 4).assign(status=["accepted", "candidate", "candidate", "candidate"])
    held["reviewer"], held["reason"] = ["screen", "screen", "ana", None], [None, "spare", "spare", None]
    result = run(World(held, {"oak": []}), decided(tmp_path, Decision("elm0", "accept")), target=2, unattended=False)
    assert result.manifest["status"].tolist() == ["accepted", "accepted", "candidate", "candidate"]
    assert result.waiting == {"oak": 2}


def test_what_the_screen_took_is_given_back_when_it_has_learned_better(tmp_path):
    held = images("oak", [0.7, 0.2], status="accepted").assign(reviewer="screen", reason="unattended: 0.10")
    result = run(World(held, {"oak": []}), decided(tmp_path, Decision("elm0", "accept")), unattended=False)
    assert result.manifest["status"].tolist() == ["candidate", "accepted"]
    assert result.manifest["reviewer"].isna().tolist() == [True, False]


def test_what_a_person_accepted_stays_before_what_the_screen_took():
    table = images("oak", [0.4, 0.01, 0.3, 0.02], status="accepted")
    table["reviewer"] = ["ana", "screen", "ana", "screen"]
    assert trim(table, ["oak"], 3)["status"].tolist() == ["accepted", "accepted", "accepted", "candidate"]
    assert trim(table, ["oak"], 1)["status"].tolist() == ["candidate", "candidate", "accepted", "candidate"]


def test_of_a_surplus_the_varied_ones_stay():
    """Four images of one kind and one of another, all about as little suspicious: the odd one is not trimmed."""
    table = images("oak", [0.10, 0.10, 0.10, 0.10, 0.12], status="accepted").assign(reviewer="ana")
    kinds = np.array([[9, 1, 0, 0], [9, 1, 0, 1], [9, 1, 1, 0], [9, 1, 1, 1], [0, 1, 9, 9]], float)
    kept = trim(table, ["oak"], 2, kinds)
    assert kept.index[kept["status"] == "accepted"].tolist() == [0, 4]
    assert trim(table, ["oak"], 2).index[kept["status"] == "accepted"].tolist() == [0, 4]


def test_an_image_that_lies_under_two_classes_is_never_taken_without_a_person():
    table = images("oak", [0.01, 0.3, 0.4]).assign(label_conflict=["elm5", None, None])
    taken = take_surest(table, ["oak"], 3)
    assert taken["status"].tolist() == ["candidate", "accepted", "accepted"]


def test_no_copy_of_a_decided_image_counts_under_another_class(tmp_path):
    """Undecided copies of a rejected, an accepted and a relabelled image are out; what a person decided stays."""
    standing = decided(
        tmp_path,
        Decision("bad", "reject", "background"),
        Decision("good", "accept"),
        Decision("moved", "relabel", label="elm"),
        Decision("judged", "accept"),
    )
    labels = {"bad": "oak", "good": "oak", "moved": "elm", "judged": "elm"}
    labels |= {"a": "elm", "b": "elm", "c": "oak", "taken": "oak", "free": "elm", "free2": "oak"}
    status = {"bad": "rejected", "good": "accepted", "moved": "accepted", "judged": "accepted", "taken": "accepted"}
    table = pd.DataFrame({"image_id": list(labels), "label": list(labels.values()), "reason": None})
    table["status"], table["duplicate_of"] = [status.get(i, "candidate") for i in labels], None
    pairs = [("a", "bad"), ("good", "b"), ("c", "moved"), ("taken", "bad"), ("judged", "bad"), ("free", "free2")]
    after = bar_copies(table, pd.DataFrame(pairs, columns=["first", "second"]), standing).set_index("image_id")
    out = after[after["status"] == "duplicate"]
    assert out["duplicate_of"].to_dict() == {"a": "bad", "b": "good", "c": "moved", "taken": "bad"}
    assert out.loc["a", "reason"] == "copy of bad, which was rejected under oak"
    assert out.loc["c", "reason"] == "copy of moved, which was accepted under elm"


def test_the_plan_says_what_is_missing_and_where_it_comes_from():
    """4 of 8 are fit; with a person 3 missing are asked for as 12; the elms are 2 too many."""
    oaks = pd.concat([images("oak", [0.1] * 4, status="accepted"), images("oak", [1.0] * 4, 4, "rejected")])
    table = pd.concat([oaks, images("elm", [0.1] * 9, status="accepted")], ignore_index=True)
    searches = {"oak": [Search("bing", "oak leaf", 106, True), Search("bing", "oak tree", 36, False)]}
    oak, elm = plan(table, ["oak", "elm"], target=7, unattended=False, pending={"oak": 5}, searches=searches)
    assert (oak.accepted, oak.missing, oak.observed_yield, oak.ask, oak.trimmed, oak.pending) == (4, 3, 0.5, 12, 0, 5)
    assert oak.next_search == Search("bing", "oak tree", 36, False)
    assert (elm.accepted, elm.missing, elm.ask, elm.trimmed, elm.next_search) == (9, 0, 0, 2, None)


# --- with real files, a ledger and the loopback web ------------------------------------------------------------------


class Colours:
    """Stands for a model: an image's embedding is its mean colours; it explains nothing."""

    backbone = SimpleNamespace(key="colours")

    def __init__(self, root):
        self.root = root

    def watch(self, *, heatmaps):
        """It opens the files itself."""

    def embed(self, manifest):
        """(n, 12) float32."""
        return np.stack([self._colours(self.root / name) for name in manifest["file_name"]])

    def explain(self, manifest, heads, target, *, only=None):
        """No heatmaps."""
        return iter(())

    def _colours(self, path):
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((2, 2)), np.float32).ravel()


def quietly(what: str, done: int, total: int) -> None:
    """No progress wanted."""


def recompressed(data: bytes) -> bytes:
    """The same photograph, smaller and of lower quality."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.resize((180, 144)).save(buffer, "JPEG", quality=70)
    return buffer.getvalue()


@pytest.fixture
def grove(tmp_path):
    """Oaks and elms are scraped, deduplicated and audited; later elms are copies of the first oaks, and fresh ones."""
    copies = [Photo(f"elm/copy{n}", lambda n=n: recompressed(jpeg(n))) for n in range(3)]
    served = {"oak": photos("oak", range(12)), "elm": [*photos("elm", range(100, 106)), *copies]}
    served["elm"] += photos("elm", range(110, 116))
    with LoopbackWeb(served) as web, Ledger(tmp_path / "ledger.db") as ledger:
        recipe = recipe_for(web, "oak", "elm")
        scrape(recipe, {"oak": 6, "elm": 6}, root=tmp_path, ledger=ledger)
        table = collected(ledger, recipe.labels)
        table = mark_duplicates(table, find_copies(table, tmp_path))
        model = Colours(tmp_path)
        table = audit(table, ledger.standing(), root=tmp_path, embed=model.embed, backbone="colours", jobs=1)
        yield web, ledger, recipe, check_manifest(table), model


def test_a_copy_of_a_rejected_image_never_counts_in_whatever_class(grove, tmp_path):
    """The first three oaks are rejected; their recompressed copies, offered as elms, are fetched and left out."""
    web, ledger, recipe, table, model = grove
    oaks = table.loc[table["label"] == "oak", "image_id"].tolist()
    ledger.decide([Decision(i, "reject", "background") for i in oaks[:3]] + [Decision(i, "accept") for i in oaks[3:]])
    work, settings = (tmp_path, 1, 0, quietly), {"target": 9, "unattended": True}
    told = []
    loop = Loop(table, recipe, ledger, model, *work)
    result = rebalance(loop, **settings, announce=told.extend)
    assert not loop.problems
    out = result.manifest
    barred = out[(out["label"] == "elm") & out["duplicate_of"].isin(oaks[:3])]
    assert len(barred) == 3
    assert set(barred["status"]) == {"duplicate"}
    assert not out.loc[out["image_id"].isin(oaks[:3]), "status"].eq("accepted").any()
    assert [p.label for p in told] == ["oak", "elm"]
    assert told[0].next_search.next_rank == 13  # the page of all twelve was read; six of them wait to be fetched
    assert told[0].pending == 6
    assert result.manifest["image_id"].is_unique
    asked = web.photo_requests
    assert len(asked) == len(set(asked))


@pytest.mark.slow
def test_what_was_rejected_for_another_recipe_is_known_here_too(grove, tmp_path):
    """The recipe of this balance has elms alone: the rejected oaks are no rows of it, yet their copies do not count."""
    web, ledger, _, table, model = grove
    oaks = table.loc[table["label"] == "oak", "image_id"].tolist()
    ledger.decide([Decision(i, "reject", "background") for i in oaks])
    work, settings = (tmp_path, 1, 0, quietly), {"target": 9, "unattended": True}
    elms = table[table["label"] == "elm"].reset_index(drop=True)
    result = rebalance(Loop(elms, recipe_for(web, "elm"), ledger, model, *work), **settings)
    assert set(result.manifest["label"]) == {"elm"}
    barred = result.manifest[result.manifest["duplicate_of"].isin(oaks)]
    assert barred["status"].tolist() == ["duplicate"] * 3
    check_manifest(result.manifest)


@pytest.mark.slow
def test_a_plan_fetches_and_writes_nothing(grove, tmp_path):
    web, ledger, recipe, table, model = grove
    ledger.decide([Decision(i, "accept") for i in table["image_id"].head(2)])
    work, settings = (tmp_path, 1, 0, quietly), {"target": 9, "unattended": False}
    planned(Loop(table, recipe, ledger, model, *work), **settings)
    before, asked = files(tmp_path), len(web.requests)
    plans = planned(Loop(table, recipe, ledger, model, *work), **settings)
    assert files(tmp_path) == before
    assert len(web.requests) == asked
    assert [(p.label, p.accepted, p.missing) for p in plans] == [("oak", 2, 7), ("elm", 0, 9)]
    assert all(p.ask > 0 for p in plans)


@pytest.mark.slow
def test_a_rejection_that_was_taken_back_waits_again(grove, tmp_path):
    _, ledger, recipe, table, model = grove
    oaks = table.loc[table["label"] == "oak", "image_id"].tolist()
    ledger.decide([Decision(i, "accept") for i in oaks[1:]] + [Decision(oaks[0], "reject", "overlay", decision_id="x")])
    work, settings = (tmp_path, 1, 0, quietly), {"target": 5, "unattended": False}
    first = rebalance(Loop(table, recipe, ledger, model, *work), **settings)
    assert first.manifest.set_index("image_id").loc[oaks[0], "status"] == "rejected"
    ledger.decide([Decision(oaks[0], "undo", undoes="x")])
    second = rebalance(Loop(check_manifest(first.manifest), recipe, ledger, model, *work), **settings)
    row = second.manifest.set_index("image_id").loc[oaks[0]]
    assert row["status"] == "candidate"
    assert pd.isna(row["reason"])


def files(root) -> dict[str, bytes]:
    """Everything below a folder but the database's own scratch files."""
    kept = (path for path in root.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm")))
    return {str(path.relative_to(root)): path.read_bytes() for path in kept}
