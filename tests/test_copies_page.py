"""The page of copies opens offline, shows what was found and why, and runs nothing that the web wrote."""

import re
from pathlib import Path

import pandas as pd
import pytest

from curate.copies_page import SIDE, write_copies
from curate.dedup import PAIR_COLUMNS, find_copies
from curate.duplicates import mark_duplicates
from curate.errors import CurateError
from tests.html_page import Page
from tests.pictures import jpeg

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>\u202e`rm`"


def shelf(root: Path, *images: tuple[str, str, int, int]) -> pd.DataFrame:
    """A manifest of (image_id, label, photograph, width) with a JPEG of each under root."""
    rows = []
    for name, label, photo, width in images:
        data = jpeg(photo, width, width * 3 // 4)
        (root / f"{name}.jpg").write_bytes(data)
        rows.append({"image_id": name, "file_name": f"{name}.jpg", "label": label, "width": width, "bytes": len(data)})
    table = pd.DataFrame(rows)
    return table.assign(height=table["width"] * 3 // 4, status="candidate")


def pairs_of(*pairs: tuple[str, str | None], check: str = "61 matched points") -> pd.DataFrame:
    rows = [(a, b, 4 if b else None, check, False, 1.0, 0.5, 1.0) for a, b in pairs]
    return pd.DataFrame(rows, columns=list(PAIR_COLUMNS)[:8]).reindex(columns=list(PAIR_COLUMNS)).astype(PAIR_COLUMNS)


def written(manifest: pd.DataFrame, pairs: pd.DataFrame, root: Path) -> str:
    write_copies(mark_duplicates(manifest, pairs), pairs, root, root / "copies.html")
    return (root / "copies.html").read_text(encoding="utf-8")


@pytest.fixture
def rocks(tmp_path):
    """Photograph 1 as a large and a small granite, photograph 2 as granite and as basalt, photograph 3 alone."""
    return shelf(
        tmp_path,
        *[("small", "granite", 1, 120), ("large", "granite", 1, 320), ("other", "granite", 3, 200)],
        *[("here", "granite", 2, 240), ("there", "basalt", 2, 240)],
    )


PAIRS = pairs_of(("small", "large"), ("here", "there"))


def test_conflicts_come_first_and_the_kept_image_before_its_copy(rocks, tmp_path):
    html = written(rocks, PAIRS, tmp_path)
    marked = re.findall(r"class='mark'>(\w+)<.*?<code><bdi>(\w+)</bdi>", html, re.DOTALL)
    assert marked == [("stays", "here"), ("stays", "there"), ("kept", "large"), ("copy", "small")]
    assert html.index("<h2>Label conflicts (1)</h2>") < html.index("<h2>Copies (1)</h2>")
    assert "a person must decide" in html
    assert "<bdi>granite</bdi> and <bdi>basalt</bdi>" in html


def test_each_pair_says_what_was_seen_and_which_one_is_finer(rocks, tmp_path):
    text = Page(written(rocks, PAIRS.assign(finer=[0.4, 1.01], flipped=[True, False]), tmp_path)).text
    assert "1 and 2smalllarge" not in text
    assert "1 and 2largesmall4 bits61 matched pointsyes50 % of 1, 100 % of 21 (× 2.5)" in text
    assert "1 and 2herethere4 bits61 matched pointsno100 % of 1, 50 % of 2alike" in text
    assert "5images1copies, not used2groups1label conflicts0pairs that both stay0not compared" in text
    assert "(320x240) stays" in text


def test_what_nobody_measured_is_a_question_mark(rocks, tmp_path):
    said = pd.DataFrame([{"first": "small", "second": "large", "check": "ana says so", "flipped": False}])
    html = written(rocks, said.reindex(columns=list(PAIR_COLUMNS)).astype(PAIR_COLUMNS), tmp_path)
    assert "1 and 2largesmall?ana says sono??" in Page(html).text


def test_pictures_are_inside_small_with_their_size_and_an_alt_text(rocks, tmp_path):
    pictures = Page(written(rocks, PAIRS, tmp_path)).all("img")
    assert [picture["alt"] for picture in pictures] == [
        "granite, image here, stays",
        "basalt, image there, stays",
        "granite, image large, kept",
        "granite, image small, copy",
    ]
    assert [picture["width"] for picture in pictures] == [*[str(SIDE)] * 3, "120"]
    assert all(p["src"].startswith("data:image/jpeg;base64,") and p["loading"] == "lazy" for p in pictures)


def test_the_page_refers_to_nothing_outside_and_may_not(rocks, tmp_path):
    page = Page(written(rocks.assign(source="bing", url="https://rocks.example/1.jpg"), PAIRS, tmp_path))
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base", "form", "source"} == set()
    assert {a["href"] for a in page.all("a")} == {"#conflict", "#copies"}
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.split("; ")[:3] == ["default-src 'none'", "img-src data:", "style-src 'unsafe-inline'"]
    assert "https://rocks.example/1.jpg" in page.text


def test_text_of_the_web_is_shown_and_never_run(rocks, tmp_path):
    """In every cell that others can fill, and as what the check saw."""
    hostile = rocks.assign(label=HOSTILE, source=HOSTILE, url=HOSTILE)
    hostile["file_name"] = rocks["file_name"].where(rocks["image_id"] != "other", HOSTILE)
    hostile["image_id"] = HOSTILE + hostile["image_id"]
    pairs = pairs_of((HOSTILE + "small", HOSTILE + "large"), (HOSTILE + "other", None), check=HOSTILE)
    page = Page(written(hostile, pairs, tmp_path))
    assert page.all("script") == []
    assert all(set(img) == {"alt", "width", "height", "loading", "src"} for img in page.all("img"))
    assert len(page.all("img")) == 2
    assert page.text.count(HOSTILE) >= 2 * 5 + 4
    assert [attributes for tag, attributes in page.tags if tag not in ("meta", "img") and "onerror" in attributes] == []
    assert page.all("code") == [{}] * len(page.all("code"))


def test_an_image_that_does_not_open_shows_its_cause_instead(rocks, tmp_path):
    (tmp_path / "small.jpg").unlink()
    (tmp_path / "here.jpg").write_bytes(b"\xff\xd8\xff no picture")
    html = written(rocks, PAIRS, tmp_path)
    assert len(Page(html).all("img")) == 2
    assert "Cannot be shown: small.jpg: no such image" in html
    assert "Cannot be shown: none of JPEG" in html


def test_no_image_outside_the_data_root_gets_in(rocks, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "small.jpg").symlink_to(tmp_path / "small.jpg")
    html = written(rocks.assign(file_name=["small.jpg", *["../large.jpg"] * 4]), PAIRS, root)
    assert Page(html).all("img") == []
    assert html.count("outside the data root") == 4


def test_images_that_were_not_compared_stand_at_the_end_with_their_class_and_the_cause(rocks, tmp_path):
    (tmp_path / "other.jpg").write_bytes(b"no picture")
    found = find_copies(rocks, tmp_path)
    text = Page(written(rocks, found, tmp_path)).text
    assert "Not compared (1)" in text
    assert re.search(r"othergraniteother\.jpgnot compared: none of JPEG", text)


def test_an_image_of_another_manifest_is_named_as_such(rocks, tmp_path):
    marked = mark_duplicates(rocks, PAIRS).assign(duplicate_of="elsewhere")
    write_copies(marked[marked["status"] == "duplicate"], PAIRS.iloc[:0], tmp_path, tmp_path / "copies.html")
    assert "not in this manifest" in Page((tmp_path / "copies.html").read_text()).text


def test_long_groups_fold_their_lines_away(tmp_path):
    names = [f"i{n}" for n in range(6)]
    manifest = shelf(tmp_path, *[(name, "granite", 1, 100 + n) for n, name in enumerate(names)])
    pairs = pairs_of(*[(a, b) for n, a in enumerate(names) for b in names[n + 1 :]])
    page = Page(written(manifest, pairs, tmp_path))
    assert len(page.all("details")) == 1
    assert "7 more pairs" in page.text
    assert len(page.all("tr")) == 15 + 2


def test_a_manifest_without_copies_is_a_page_that_says_so(rocks, tmp_path):
    text = Page(written(rocks, PAIRS.iloc[:0], tmp_path)).text
    assert "No two images of this manifest are copies of one photograph." in text


def test_the_page_appears_whole_or_not_at_all(rocks, tmp_path, monkeypatch):
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    written(rocks, PAIRS, tmp_path)
    before = (tmp_path / "copies.html").read_bytes()
    monkeypatch.setattr("curate.copies_page._not_compared", full)
    with pytest.raises(CurateError, match="No space left on device"):
        written(rocks, PAIRS, tmp_path)
    assert (tmp_path / "copies.html").read_bytes() == before
    assert list(tmp_path.glob(".*.tmp")) == []
