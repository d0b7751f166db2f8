"""The page Classes without a browser: counts, evenness, what is learnt, origins, and what balance would fetch."""

import time

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from apps import classes
from apps.classes import count, imbalance, origins, planned
from apps.desk import Desk, open_desk
from curate.ledger import Decision
from curate.manifest import write_manifest
from curate.recipe import ImageClass, Recipe

HOSTILE = "<img src=x onerror=alert(1)> **bold** :red[x]"
ROWS = [  # label, status, source, license, predicted
    ("basalt", "accepted", "bing", None, "basalt"),
    ("basalt", "accepted", "commons", "CC0-1.0", "granite"),
    ("basalt", "candidate", "bing", None, "basalt"),
    ("basalt", "rejected", "bing", None, "granite"),
    ("granite", "accepted", "bing", None, "granite"),
    ("granite", "duplicate", "bing", None, "basalt"),
]
RECIPE = Recipe("rocks", tuple(ImageClass(name, (name, f"{name} rock")) for name in ("basalt", "granite", "marble")))


def manifest(**columns: object) -> pd.DataFrame:
    table = pd.DataFrame(ROWS, columns=["label", "status", "source", "license", "predicted"])
    names = [f"i{n}" for n in range(len(table))]
    table = table.assign(image_id=names, file_name=[f"{name}.jpg" for name in names], suspicion=0.25)
    return table.assign(reject_probability=np.nan, **columns)


def nothing_decided() -> pd.DataFrame:
    return pd.DataFrame(columns=Decision._fields).set_index("image_id")


def test_each_class_is_counted_towards_the_target_and_one_without_images_too():
    counted = count(manifest(), nothing_decided(), 3, ["basalt", "marble"])
    assert counted.progress["accepted"].to_dict() == {"basalt": 2, "granite": 1, "marble": 0}
    assert counted.progress["target"].tolist() == [3, 3, 3]
    assert counted.came.to_dict() == {"basalt": 4, "granite": 2, "marble": 0}


def test_decisions_count_at_once():
    decided = {"verdict": "accept", "reason": None, "label": None, "reviewer": "ana", "decided_at": "2026-01-01"}
    standing = pd.DataFrame([decided], index=pd.Index(["i2"], name="image_id"))
    counted = count(manifest(), standing, 3)
    assert counted.progress.loc["basalt", "accepted"] == 3
    assert counted.came["basalt"] == 4  # before any decision


def test_what_is_learnt_leaves_out_what_was_rejected_and_copies():
    learnt = count(manifest(), nothing_decided(), 3).learnt
    assert learnt["images"].to_dict() == {"basalt": 3, "granite": 1}
    assert learnt.loc["basalt", "recall"] == pytest.approx(2 / 3)
    assert learnt.loc["basalt", "taken_for"] == "granite"
    assert learnt.loc["granite", "precision"] == pytest.approx(1 / 2)
    assert count(manifest().drop(columns="predicted"), nothing_decided(), 3).learnt is None
    assert count(manifest(predicted=None), nothing_decided(), 3).learnt is None


def test_origins_tell_how_many_of_a_source_were_accepted():
    found = origins(manifest(), "source").set_index(["class", "source"])
    assert found.loc[("basalt", "bing")].tolist() == [3, 1, pytest.approx(1 / 3)]
    assert found.loc[("basalt", "commons")].tolist() == [1, 1, 1]
    licenses = origins(manifest(), "license")
    assert licenses.loc[licenses["class"] == "granite", "license"].tolist() == ["unknown"]
    assert origins(manifest().drop(columns="source"), "source") is None


@pytest.mark.parametrize(
    ("counts", "words"),
    [({"a": 45, "b": 68}, "1.51"), ({"a": 3, "b": 0}, "none: no image of b"), ({"a": 0, "b": 0}, "no image yet")],
)
def test_imbalance_is_the_largest_class_over_the_smallest(counts, words):
    assert imbalance(pd.Series(counts)) == words


def script() -> None:
    from apps.classes import page

    page()


@pytest.fixture
def shown(tmp_path):
    """Opens a manifest for review and runs the page; returns it with its desk."""
    desks = []

    def run(table: pd.DataFrame, recipe: Recipe | None = RECIPE, accept: str = "") -> tuple[AppTest, Desk]:
        write_manifest(table, tmp_path / "audited.csv")
        where = (tmp_path / "audited.csv", tmp_path / "data", str(tmp_path / "ledger.db"))
        desk = Desk(*where, target=3, reviewer="ana", recipe=recipe)
        desks.append(desk)
        if accept:
            desk.ledger.decide([Decision(accept, "accept")])
        open_desk(desk)
        return again(), desk

    yield run
    for desk in desks:
        desk.close()


def again() -> AppTest:
    app = AppTest.from_function(script, default_timeout=30).run()
    assert not app.exception
    return app


def tables(app: AppTest) -> list[pd.DataFrame]:
    return [table.value for table in app.dataframe]


def texts(app: AppTest) -> str:
    return "\n".join(text.value for text in app.text)


def test_all_sections_are_filled_where_all_is_known(shown):
    app, _ = shown(manifest(), accept="i0")
    progress, even, learnt, sources, licenses, plan = tables(app)
    assert progress.set_index("class")["missing"].to_dict() == {"basalt": 1, "granite": 2, "marble": 3}
    assert "as they came none: no image of marble, accepted now none: no image of marble." in texts(app)
    assert even["weight then"].tolist()[:2] == [1.0, 2.0]
    assert np.isnan(even["weight then"][2])  # no image, no weight
    assert even["weight now"].tolist()[:2] == [1.0, 2.0]
    assert learnt.set_index("class")["confused with"].to_dict() == {"basalt": "granite (1)", "granite": ""}
    assert sources["images"].sum() == len(ROWS)
    assert set(licenses["license"]) == {"CC0-1.0", "unknown"}
    assert plan.set_index("class").loc["marble", "missing"] == 3
    assert plan.set_index("class").loc["marble", "from"] == "bing 'marble' from rank 1"


def test_a_new_decision_is_counted_and_without_one_nothing_is_counted_again(shown, monkeypatch):
    _, desk = shown(manifest())
    calls = []
    monkeypatch.setattr(classes, "count", lambda *words: calls.append(1) or count(*words))
    assert "0 of 3 classes have the 3" in texts(again())
    assert calls == []
    desk.ledger.decide([Decision("i2", "accept")])
    assert "1 of 3 classes have the 3" in texts(again())
    assert calls == [1]


def test_missing_columns_and_a_missing_recipe_name_the_command(shown, tmp_path):
    bare = manifest().drop(columns=["source", "license", "predicted", "suspicion", "reject_probability"])
    app, _ = shown(bare, recipe=None)
    assert [code.value for code in app.code] == [
        f"curate audit {tmp_path / 'unique.csv'} --data {tmp_path / 'data'} --ledger LEDGER",
        f"curate review {tmp_path / 'audited.csv'} --recipe manifests/igneous.toml",
    ]
    assert "no column source: `curate scrape` and `curate add` write it." in texts(app)
    app, _ = shown(bare)
    assert "`curate audit` gives it" in texts(app)


def test_before_any_decision_the_plan_says_what_it_waits_for(shown):
    app, _ = shown(manifest())
    assert "Nobody has decided anything yet." in texts(app)


def test_a_class_that_the_recipe_does_not_know_is_said(shown):
    app, _ = shown(manifest(label="gneiss"), accept="i0")
    assert "'gneiss' is no class of recipe rocks" in texts(app)


def test_the_plan_is_that_of_a_balance_and_writes_nothing(shown):
    """Granite has one of three; bing offered two granites already, one of them waits to be fetched."""
    _, desk = shown(manifest(), accept="i0")
    offers = [{"url": f"https://a.example/{n}", "rank": n} for n in (1, 2)]
    desk.ledger.add_page("granite", "bing", "granite", offers, "next", 3)
    before = desk.ledger.outcomes()
    plans = {one.label: one for one in planned(desk, RECIPE)}
    assert (plans["granite"].accepted, plans["granite"].missing, plans["granite"].pending) == (1, 2, 2)
    assert plans["granite"].next_search.next_rank == 3
    assert plans["granite"].ask >= 2
    pd.testing.assert_frame_equal(desk.ledger.outcomes(), before)


def test_a_class_of_others_is_plain_text(shown):
    app, _ = shown(manifest(label=HOSTILE, source=HOSTILE), recipe=None)
    assert all(markdown.value.startswith("#### ") for markdown in app.markdown)
    assert not any(HOSTILE in markdown.value for markdown in app.markdown)
    assert tables(app)[0]["class"].tolist() == [HOSTILE]


def test_a_hundred_thousand_rows_are_counted_within_seconds():
    rng = np.random.default_rng(0)
    labels = rng.choice([f"c{n}" for n in range(7)], 100_000)
    table = pd.DataFrame({"image_id": [f"{n:016x}" for n in range(100_000)], "label": labels, "status": "candidate"})
    table = table.assign(source="bing", license=None, predicted=rng.permutation(labels))
    decided = {"verdict": "accept", "reason": None, "label": None, "reviewer": "ana", "decided_at": "2026-01-01"}
    standing = pd.DataFrame([decided] * 50_000, index=table["image_id"][:50_000])
    start = time.process_time()
    counted = count(table, standing, 73)
    assert time.process_time() - start < 10
    assert counted.progress["accepted"].sum() == 50_000
