"""What a search for shortcuts found: compared, written and read again."""

import pytest

from curate.errors import CurateError
from curate.shortcuts import find_shortcuts
from curate.shortcuts_found import compare, read_shortcuts, write_shortcuts
from tests.test_shortcuts import darkened, noise


def test_before_and_after_are_compared_artifact_by_artifact():
    white = noise()["label"] == "c"
    chromatic = noise().assign(background_chroma=noise()["background_chroma"].mask(white, 80.0))
    before = find_shortcuts(darkened(chromatic, "b", 0.5), seed=0)
    after = find_shortcuts(darkened(chromatic, "a", 0.5), seed=0)
    fates = {(label, kind): fate for label, kind, _, _, fate in compare(before, after)}
    assert fates["b", "illumination"] == "gone"
    assert fates["c", "background"] == "left"
    assert fates["a", "illumination"] == "new"


def test_what_was_found_is_written_and_read_again(tmp_path):
    found = find_shortcuts(darkened(noise(), "b", 0.5), seed=0)
    write_shortcuts(found, tmp_path / "found.json")
    assert read_shortcuts(tmp_path / "found.json") == found
    (tmp_path / "found.json").write_text('{"findings": []}')
    with pytest.raises(CurateError, match="Run it again"):
        read_shortcuts(tmp_path / "found.json")
    with pytest.raises(CurateError, match="`curate shortcuts` writes it"):
        read_shortcuts(tmp_path / "none.json")
