import json
import logging
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from curate.errors import CurateError
from curate.licenses import WANTED, identify
from curate.recipe import ImageClass, Recipe, Web
from curate.sources import Answer, Page, flickr
from curate.sources.flickr import LICENSES, license_ids, open_source, read_page
from curate.web import Reply, open_session
from tests.web.raw import RawServer, answer

FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures" / "flickr"
needs_fixtures = pytest.mark.skipif(not FIXTURES.exists(), reason="the saved answers of Flickr are not here")
KEY = "0123456789abcdef0123456789abcdef"
HOST = "https://api.flickr.com"


def photo(**changed: object) -> dict[str, object]:
    """A photo as Flickr lists it; a field changed to None is absent."""
    fields = {
        "id": "49514337848", "owner": "7478087@N06", "ownername": "A. Mason", "title": "Granite", "license": "4",
        "url_l": "https://live.staticflickr.com/1/2_b.jpg", "width_l": 1024, "height_l": 683,
    }  # fmt: skip
    return {name: value for name, value in {**fields, **changed}.items() if value is not None}


def listing(*photos: object, page: object = 1, pages: object = 1) -> dict[str, object]:
    return {"photos": {"page": page, "pages": pages, "perpage": 100, "photo": list(photos)}, "stat": "ok"}


def only(page: Page):
    (candidate,) = page.candidates
    return candidate


class Always(dict):
    """One answer for every path."""

    def __init__(self, always: bytes | list[bytes]) -> None:
        self.always = always

    def get(self, *_: object) -> bytes | list[bytes]:
        return self.always


def ask(server_answer: bytes, cursor: str | None = None, query: str = "granite", **options) -> tuple[Page, list[str]]:
    """The page of a search against a server that gives this answer, and the paths that were asked for."""
    with RawServer(Always(server_answer)) as server:
        web = Web(mirrors={HOST: server.base}, timeout=2, deadline=4)
        recipe = Recipe("rocks", (ImageClass("granite", ("granite",)),), web=web, **options)
        with open_session(web) as session:
            page = open_source(recipe, session).search(query, "granite", cursor)
        return page, [path for _, path, _ in server.requests]


def sent(body: object, *headers: str, **options) -> bytes:
    return answer(json.dumps(body).encode(), "Content-Type: application/json", *headers, **options)


@pytest.fixture(autouse=True)
def key(monkeypatch) -> None:
    monkeypatch.setenv("FLICKR_API_KEY", KEY)


# What an answer holds


@needs_fixtures
def test_every_photo_of_a_saved_answer_is_read():
    saved = json.loads((FIXTURES / "flickr_example_pretty.json").read_text(encoding="utf-8"))
    page = read_page(saved, 1)
    assert (page.answer, len(page.candidates), page.cursor) == (Answer.OK, 30, None)
    first, _, small = page.candidates[:3]
    assert first.url == "https://live.staticflickr.com/65535/49514337848_bbdbb5f761_b.jpg"
    assert first.page_url == "https://www.flickr.com/photos/7478087@N06/49514337848"
    assert (first.title, first.creator) == ("Warsy (église) • 7433", "markustrois")
    assert (first.license, first.license_basis) == ("CC-BY-NC-SA-2.0", "asserted")
    assert first.license_url == "https://creativecommons.org/licenses/by-nc-sa/2.0/"
    assert first.attribution == (
        '"Warsy (église) • 7433" by markustrois, CC-BY-NC-SA-2.0, https://www.flickr.com/photos/7478087@N06/49514337848'
    )
    assert small.url.endswith("49515058172_e52c8df29f.jpg")  # an original of 480 x 360 has no large size


@needs_fixtures
def test_the_table_of_licences_is_the_one_flickr_gave():
    saved = (FIXTURES / "flickr-photos-api_licenses_getInfo_cassette.yml").read_text(encoding="utf-8")
    text = re.sub(r"\s*\n\s+", " ", saved.replace(r"\n", "").replace(r"\t", "").replace(r"\"", '"'))
    given = {number: (name, url) for number, name, url in re.findall(r'id="(\d+)" name="([^"]+)" url="([^"]+)"', text)}
    assert len(given) == 17
    assert {n: LICENSES[n][0].casefold() for n in given} == {n: name.casefold() for n, (name, _) in given.items()}
    assert {n: LICENSES[n][1] for n in given if n != "0"} == {n: url for n, (_, url) in given.items() if n != "0"}


@pytest.mark.parametrize(
    ("number", "name"),
    [
        ("0", "All rights reserved"), ("3", "CC-BY-NC-ND-2.0"), ("4", "CC-BY-2.0"), ("9", "CC0-1.0"), (4, "CC-BY-2.0"),
        ("7", "No known copyright restrictions"), ("8", "Public domain"), ("10", "CC-PDM-1.0"), ("12", "CC-BY-SA-4.0"),
        ("16", "CC-BY-NC-ND-4.0"),
    ],
)  # fmt: skip
def test_the_licence_is_what_the_photographer_asserts(number, name):
    found = only(read_page(listing(photo(license=number)), 1))
    assert (found.license, found.license_basis) == (name, "asserted")


@pytest.mark.parametrize("number", [None, "17", "-1", "", {}, [4], "4.0"])
def test_a_licence_that_flickr_did_not_have_is_unknown(number):
    found = only(read_page(listing(photo(license=number)), 1))
    assert (found.license, found.license_url, found.license_basis) == ("", "", "unknown")
    assert read_page(listing(photo(license=number)), 1, "cc").candidates == ()


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ("any", set()),
        ("cc", {"1", "2", "3", "4", "5", "6", "9", "11", "12", "13", "14", "15", "16"}),
        ("commercial", {"4", "5", "6", "9", "11", "12", "13"}),
        ("modify", {"1", "2", "4", "5", "9", "11", "12", "14", "15"}),
        ("commercial-modify", {"4", "5", "9", "11", "12"}),
        ("public-domain", {"9"}),
    ],
)
def test_the_ids_asked_for_allow_what_is_wanted(wanted, ids):
    """Besides those of no copyright, 7, 8 and 10, which `curate.licenses` judges."""
    assert set(license_ids(wanted)) - {"7", "8", "10"} == ids
    assert "0" not in license_ids(wanted)


def test_all_wanted_are_known():
    assert {len(license_ids(wanted)) > 0 for wanted in WANTED if wanted != "any"} == {True}


def test_a_photo_whose_licence_is_not_wanted_is_left_out_whatever_was_asked():
    page = read_page(listing(photo(license="2"), photo(license="4"), photo(license="0")), 1, "commercial")
    assert [c.license for c in page.candidates] == ["CC-BY-2.0"]


BIG = {"url_o": "https://a.example/o", "o_width": "6000", "o_height": "4000"}


@pytest.mark.parametrize(
    ("sizes", "best"),
    [
        ({"url_k": "https://a.example/k", "width_k": 2048, **BIG}, "https://live.staticflickr.com/1/2_b.jpg"),
        ({"url_l": None, "url_z": "https://a.example/z", "url_m": "https://a.example/m", **BIG}, "https://a.example/z"),
        ({"url_o": "https://a.example/o", "width_o": "1200", "height_o": "900"}, "https://a.example/o"),
        ({"url_o": "https://a.example/o", "o_width": "1200", "o_height": "900"}, "https://a.example/o"),
        ({"url_o": "https://a.example/o", "width_o": "900", "height_o": "1300"}, "https://live.staticflickr.com/1/2_b.jpg"),
        ({"url_o": "https://a.example/o"}, "https://live.staticflickr.com/1/2_b.jpg"),
        ({"url_o": "https://a.example/o", "width_o": "1024"}, "https://live.staticflickr.com/1/2_b.jpg"),
        ({"url_l": None, "url_h": "https://a.example/h", **BIG}, "https://a.example/h"),
        ({"url_l": "javascript:alert(1)", "url_m": "https://a.example/m"}, "https://a.example/m"),
        ({"width_l": "wide", "height_l": {}, "url_m": 5}, "https://live.staticflickr.com/1/2_b.jpg"),
    ],
)  # fmt: skip
def test_the_largest_size_up_to_1280_pixels_is_offered_else_the_smallest(sizes, best):
    assert only(read_page(listing(photo(**sizes)), 1)).url == best


def test_titles_may_be_wrapped_and_fields_absent():
    page = read_page(listing(photo(title={"_content": "Granite"}, ownername={"_content": "A"}), photo(title=None)), 1)
    assert [c.title for c in page.candidates] == ["Granite", ""]
    assert page.candidates[0].creator == "A"
    bare = only(read_page(listing({"url_m": "https://a.example/m"}), 1))
    assert (bare.page_url, bare.title, bare.creator, bare.license) == ("", "", "", "")
    assert bare.attribution == ""


def test_hostile_text_is_cleaned_and_never_part_of_an_address():
    found = only(read_page(listing(photo(title="\x1b[31mred\u202e", owner="../../evil?x=", ownername="a\nb\0")), 1))
    assert (found.title, found.creator, found.page_url) == ("[31mred", "a b", "")


@pytest.mark.parametrize("odd", [None, 5, "text", [], {}, {"url_l": None}, {"url_l": ["https://a.example"]}])
def test_an_entry_that_cannot_be_read_is_left_out(odd):
    assert only(read_page(listing(odd, photo()), 1)).title == "Granite"


def test_a_video_is_no_image():
    assert only(read_page(listing(photo(media="video"), photo(media="photo", title="still")), 1)).title == "still"


@pytest.mark.parametrize(
    ("number", "pages", "following"),
    [(1, 3, "2"), (2, "3", "3"), (3, 3, None), (39, 90, "40"), (40, 90, None), (1, None, "2"), (40, "many", None)],
)
def test_pages_follow_each_other_until_the_last_or_4000(number, pages, following):
    assert read_page(listing(photo(), page=number, pages=pages), number).cursor == following


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (listing(), Answer.EMPTY),
        (listing(None, {"id": "1"}), Answer.CHANGED),
        ({"stat": "ok"}, Answer.CHANGED),
        ({"stat": "ok", "photos": []}, Answer.CHANGED),
        ({"stat": "ok", "photos": {"photo": "none"}}, Answer.CHANGED),
        ({}, Answer.CHANGED),
        ({"stat": "fail", "code": 100, "message": "Invalid API Key (Key has invalid format)"}, Answer.BLOCKED),
        ({"stat": "fail", "code": "100", "message": {"_content": "Invalid API Key"}}, Answer.BLOCKED),
        ({"stat": "fail", "code": 98, "message": "Invalid auth token"}, Answer.BLOCKED),
        ({"stat": "fail", "code": 105, "message": "Service currently unavailable"}, Answer.UNREACHABLE),
        ({"stat": "fail", "code": 10, "message": "Sorry, the search API is not available"}, Answer.UNREACHABLE),
        ({"stat": "fail", "code": 201, "message": "Rate limit exceeded"}, Answer.RATE_LIMITED),
        ({"stat": "fail", "code": 3, "message": "Parameterless searches have been disabled"}, Answer.CHANGED),
        ({"stat": "fail", "code": 112, "message": 'Method "x" not found'}, Answer.CHANGED),
        ({"stat": "fail", "code": [1], "message": None}, Answer.CHANGED),
        ({"stat": "fail"}, Answer.CHANGED),
    ],
)
def test_answers_without_photos_are_told_apart(said, expected):
    page = read_page(said, 1)
    assert (page.answer, page.candidates, page.cursor) == (expected, (), None)
    assert "Flickr" in page.detail


# How it is asked


def test_flickr_is_asked_for_photos_with_the_key_and_the_licences():
    page, asked = ask(sent(listing(photo(), pages=5)), "2", "granite & Gneis/für", license="commercial")
    assert (page.answer, page.cursor, len(page.candidates)) == (Answer.OK, "3", 1)
    (parts,) = [urlsplit(path) for path in asked]
    fields = {name: value for name, (value,) in parse_qs(parts.query).items()}
    assert parts.path == "/services/rest/"
    assert fields["text"] == "granite & Gneis/für"
    assert fields["api_key"] == KEY
    assert set(fields["license"].split(",")) == set(license_ids("commercial"))
    assert {"license", "owner_name", "url_l"} <= set(fields["extras"].split(","))
    assert (fields["method"], fields["media"]) == ("flickr.photos.search", "photos")
    assert (fields["page"], fields["per_page"], fields["safe_search"]) == ("2", "100", "1")
    assert (fields["format"], fields["nojsoncallback"]) == ("json", "1")


def test_without_a_wish_no_licence_is_asked_for():
    _, (asked,) = ask(sent(listing(photo())))
    assert "license" not in parse_qs(urlsplit(asked).query)


@pytest.mark.parametrize("value", [None, "", "  "])
def test_without_a_key_nothing_is_asked_and_the_variable_is_named(value, monkeypatch):
    monkeypatch.delenv("FLICKR_API_KEY")
    if value is not None:
        monkeypatch.setenv("MY_FLICKR", value)
    keys = {} if value is None else {"flickr": "MY_FLICKR"}
    page, asked = ask(sent(listing(photo())), keys=keys)
    assert (page.answer, asked) == (Answer.BLOCKED, [])
    assert f"set the environment variable {'MY_FLICKR' if keys else 'FLICKR_API_KEY'}." in page.detail
    assert "https://www.flickr.com/services/apps/create/" in page.detail


def test_the_recipe_names_the_variable_of_the_key(monkeypatch):
    monkeypatch.setenv("MY_FLICKR", " another ")
    _, (asked,) = ask(sent(listing(photo())), keys={"flickr": "MY_FLICKR"})
    assert parse_qs(urlsplit(asked).query)["api_key"] == ["another"]


def test_a_key_in_the_recipe_is_refused_and_not_repeated():
    with pytest.raises(CurateError, match="environment variable") as refused:
        ask(sent(listing(photo())), keys={"flickr": KEY})
    assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (sent({"stat": "fail", "code": 100, "message": f"Invalid API Key {KEY}"}), Answer.BLOCKED),
        (sent({}, "Retry-After: 3600", status="429 Too Many Requests"), Answer.RATE_LIMITED),
        (sent({}, status="403 Forbidden"), Answer.BLOCKED),
        (sent({}, status="500 Oops"), Answer.UNREACHABLE),
        (answer(b"<html>Bad panda</html>"), Answer.CHANGED),
        (b"", Answer.UNREACHABLE),
    ],
)
def test_a_refusal_keeps_the_cursor_and_the_key_is_neither_shown_nor_logged(reply, expected, caplog):
    caplog.set_level(logging.DEBUG)
    page, asked = ask(reply, "7")
    assert (page.answer, page.candidates, page.cursor) == (expected, (), "7")
    assert KEY in asked[0]
    assert KEY not in caplog.text
    assert KEY not in repr(page)


def test_the_key_is_in_nothing_that_is_kept(caplog):
    caplog.set_level(logging.DEBUG)
    page, _ = ask(sent(listing(photo(), pages=5)))
    assert page.answer is Answer.OK
    assert KEY not in repr(page)
    assert KEY not in caplog.text


@pytest.mark.parametrize(("mirrors", "count"), [({}, 2), ({HOST: "http://127.0.0.1:9"}, 0)])
def test_questions_are_a_second_apart_but_not_to_a_mirror(monkeypatch, mirrors, count):
    waits: list[float] = []
    monkeypatch.setattr("curate.sources.api.time.sleep", waits.append)
    monkeypatch.setattr("curate.sources.api.ask", lambda *_: Reply(200, HOST, json.dumps(listing(photo())).encode()))
    source = open_source(Recipe("rocks", (ImageClass("granite", ("granite",)),), web=Web(mirrors=mirrors)), None)
    for cursor in (None, "2"):
        assert source.search("granite", "granite", cursor).answer is Answer.OK
    assert len(waits) == count
    assert not waits or (waits[0] <= 0.01 and 0.9 < waits[1] <= flickr.SECONDS)


def test_creative_commons_names_are_recognised():
    for number in "1234569":
        assert identify(*LICENSES[number]).startswith("CC")


def test_the_documentation_lists_the_ids_that_are_asked_for():
    text = (Path(__file__).parents[1] / "docs" / "sources.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.count("|") == 7]
    (header,) = [row for row in rows if "flickr `license`" in row]
    column = header.index("flickr `license`")
    told = {row[0].strip("`"): row[column] for row in rows if row[0].strip("`") in WANTED}
    assert told.pop("any") == "none"
    ranges = {wanted: [part.split("-") for part in cell.split(", ")] for wanted, cell in told.items()}
    ids = {w: [str(n) for ends in r for n in range(int(ends[0]), int(ends[-1]) + 1)] for w, r in ranges.items()}
    assert ids == {wanted: license_ids(wanted) for wanted in WANTED if wanted != "any"}
