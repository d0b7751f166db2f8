"""Flags: which measure is beyond its limit, and how far."""

import pandas as pd
import pytest

from curate.thresholds import THRESHOLDS, artifact_score, flags


def test_a_flag_names_measure_value_and_limit_and_missing_values_raise_none():
    limit = THRESHOLDS["several objects"].limit
    table = pd.DataFrame(
        {"object_multiple": [0.95, limit, None], "quality_short_side": [60, 100, None]}, index=[7, 8, 9]
    )
    found = flags(table)
    assert found.to_dict() == {7: "object_multiple=0.95 (> 0.8); quality_short_side=60 (< 100)", 8: "", 9: ""}
    # 0.95 is three quarters of the way from 0.8 to 1; 60 is four fifths of the way down from 100 to 50
    assert artifact_score(table).to_dict() == pytest.approx({7: 0.8, 8: 0.0, 9: 0.0})


def test_a_picture_more_than_twice_as_long_as_wide_is_flagged():
    table = pd.DataFrame({"aspect_ratio": [1.5, 2.0, 2.75]})
    assert flags(table).tolist() == ["", "", "aspect_ratio=2.75 (> 2)"]
    assert artifact_score(table).tolist() == [0, 0, 0.5]


def test_an_image_that_does_not_open_is_flagged_with_its_cause():
    table = pd.DataFrame([{"audit_error": "none of JPEG, PNG"}, {"object_multiple": 0.1}])
    assert flags(table).tolist() == ["unreadable: none of JPEG, PNG", ""]
    assert artifact_score(table).tolist() == [1.0, 0.0]
