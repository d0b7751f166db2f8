"""What the images can be filtered by, and what a browser's wish for it means."""

import pandas as pd

from apps.facets import MANY, NOTHING, Facets, wanted
from curate.live_queue import Wanted

TABLE = pd.DataFrame(
    {
        "flags": ["a=1 (> 0); b=2 (> 1)", "b=3 (> 1)", None, "unreadable: no image"],
        "source": ["bing", "bing", "flickr", None],
        "license": ["CC0-1.0"] * 4,
    }
)


def test_the_choices_are_what_the_images_have_the_most_frequent_first():
    choices = Facets(TABLE).choices()
    assert choices["flag"][0] == "b"
    assert set(choices["flag"]) == {"a", "b", "unreadable"}
    assert choices["source"] == ["bing", "flickr", NOTHING]
    assert choices["license"] == [], "tells no images apart"
    assert "split" not in choices


def test_filters_hold_together_and_what_is_no_choice_filters_nothing():
    facets = Facets(TABLE)
    assert facets.among({}) is None
    assert facets.among({"flag": "zzz", "source": ["bing"], "license": 3}) is None
    assert facets.among({"flag": "b"}).tolist() == [True, True, False, False]
    assert facets.among({"flag": "a", "source": "bing"}).tolist() == [True, False, False, False]
    assert facets.among({"source": NOTHING}).tolist() == [False, False, False, True]


def test_a_manifest_without_an_audit_or_with_very_many_values_can_be_filtered():
    assert Facets(pd.DataFrame({"label": ["oak"]})).choices() == {"flag": []}
    many = Facets(pd.DataFrame({"source": [f"s{n}" for n in range(3 * MANY)]}))
    assert len(many.choices()["source"]) == MANY


def test_a_wish_is_taken_only_where_there_is_such_a_class_status_or_order():
    assert wanted({}, ["oak"]) == Wanted()
    asked = {"label": "oak", "status": "rejected", "order": "good", "since": 7}
    assert wanted(asked, ["oak"]) == Wanted("oak", "rejected", "good", 7)
    assert wanted({"status": "all"}, []).status is None
    assert wanted({"label": "elm", "status": ["x"], "order": "up", "since": "7"}, ["oak"]) == Wanted()
