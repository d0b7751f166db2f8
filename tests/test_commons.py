import json
from collections import Counter
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from curate.recipe import ImageClass, Recipe, Web
from curate.sources import Answer, Page
from curate.sources.commons import open_source, plain_text, read_page
from curate.web import open_session
from tests.web.raw import RawServer, answer

FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures" / "commons"
needs_fixtures = pytest.mark.skipif(not FIXTURES.exists(), reason="the saved answers of Commons are not here")
HOST = "https://commons.wikimedia.org"
UPLOAD = "https://upload.wikimedia.org/wikipedia/commons"
SCALED = f"{UPLOAD}/thumb/1/12/Granite.jpg/1280px-Granite.jpg"


def file(index: object = 1, said: dict[str, object] | None = None, **changed: object) -> dict[str, object]:
    """A file as Commons lists it; `said` of its page, the other fields of its picture changed."""
    about = {"LicenseShortName": "CC BY-SA 4.0", "LicenseUrl": "https://creativecommons.org/licenses/by-sa/4.0",
             "Artist": "A. Mason", **(said or {})}  # fmt: skip
    info = {
        "url": f"{UPLOAD}/1/12/Granite.jpg", "thumburl": SCALED, "width": 1200, "height": 800, "size": 300_000,
        "descriptionurl": f"{HOST}/wiki/File:Granite.jpg", "mime": "image/jpeg",
        "extmetadata": {name: {"value": value, "source": "x"} for name, value in about.items()}, **changed,
    }  # fmt: skip
    return {"pageid": 1, "ns": 6, "title": "File:Granite.jpg", "index": index, "imageinfo": [info]}


def listing(*files: object, **more: object) -> dict[str, object]:
    return {"batchcomplete": "", "query": {"pages": {str(n): f for n, f in enumerate(files)}}, **more}


def only(page: Page):
    (candidate,) = page.candidates
    return candidate


class Always(dict):
    """One answer for every path."""

    def __init__(self, always: bytes) -> None:
        self.always = always

    def get(self, *_: object) -> bytes:
        return self.always


def ask(
    server_answer: bytes, cursor: str | None = None, query: str = "granite", contact: str = "", **options
) -> tuple[Page, list[str]]:
    """The page of a search against a server that gives this answer, and the paths that were asked for."""
    with RawServer(Always(server_answer)) as server:
        web = Web(mirrors={HOST: server.base}, timeout=2, deadline=4, contact=contact)
        recipe = Recipe("rocks", (ImageClass("granite", ("granite",)),), web=web, **options)
        with open_session(web) as session:
            page = open_source(recipe, session).search(query, "granite", cursor)
        return page, [path for _, path, _ in server.requests]


def fields(path: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}


@needs_fixtures
def test_a_saved_answer_is_read_with_its_origin():
    """28 files, one of them a TIFF of 67 MB that was saved without a scaled picture."""
    page = read_page(json.loads((FIXTURES / "wmc_raw.json").read_text()))
    assert (page.answer, len(page.candidates), page.cursor) == (Answer.OK, 27, None)
    assert Counter(c.license for c in page.candidates) == {
        "CC-BY-SA-4.0": 15, "Public domain": 9, "No known copyright restrictions": 2, "CC-BY-SA-3.0-DE": 1,
    }  # fmt: skip
    (street,) = (c for c in page.candidates if c.license == "CC-BY-SA-3.0-DE")
    assert street.url.startswith(f"{UPLOAD}/e/e9/2002-04-02_Hauptstra%C3%9Fe")
    assert (street.creator, street.license_basis) == ("Eckhard Henkel", "asserted")
    assert street.license_url == "https://creativecommons.org/licenses/by-sa/3.0/de/deed.en"
    assert street.attribution == (
        "Photo: Eckhard Henkel / Wikimedia Commons / CC BY-SA 3.0 DE; "
        f'"2002-04-02 Hauptstra\u00dfe, Heidelberg IMG 0404", CC BY-SA 3.0 de, {street.page_url}'
    )
    assert not [c for c in page.candidates if "<" in c.creator + c.attribution]


@needs_fixtures
def test_saved_answers_with_more_to_come_hand_their_continuation_on():
    first = read_page(json.loads((FIXTURES / "wmc_pretty1.json").read_text()))
    assert len(first.candidates) == 9
    assert json.loads(first.cursor)["continue"] == "||imageinfo"
    undescribed = read_page(json.loads((FIXTURES / "wmc_pretty2.json").read_text()))
    assert (undescribed.answer, undescribed.candidates) == (Answer.OK, ())
    assert "gucontinue" in json.loads(undescribed.cursor)


def test_files_come_in_the_order_of_the_search_whatever_the_order_of_the_answer():
    files = [file(index, url=f"{UPLOAD}/{index}.jpg") for index in (3, 1, 2)] + [file(None, url=f"{UPLOAD}/4.jpg")]
    as_list = {"query": {"pages": files}}
    for answered in (listing(*files), as_list):
        assert [c.url[-5] for c in read_page(answered).candidates] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("changed", "taken"),
    [
        ({}, f"{UPLOAD}/1/12/Granite.jpg"),
        ({"mime": "image/webp"}, f"{UPLOAD}/1/12/Granite.jpg"),
        ({"width": 1281}, SCALED),
        ({"size": 30_000_001}, SCALED),
        ({"mime": "image/tiff"}, SCALED),
        ({"width": 5000, "thumburl": None}, f"{UPLOAD}/1/12/Granite.jpg"),
        ({"width": "5000", "size": None}, f"{UPLOAD}/1/12/Granite.jpg"),
        ({"url": "//upload.wikimedia.org/1/Granite.jpg"}, "https://upload.wikimedia.org/1/Granite.jpg"),
        ({"mime": None, "url": f"{UPLOAD}/Gr%C3%A4nit%3F.JPG"}, f"{UPLOAD}/Gr%C3%A4nit%3F.JPG"),
        ({"mime": None, "url": f"{UPLOAD}/Granite.svg"}, None),
        ({"mime": "image/svg+xml"}, None),
        ({"mime": "image/vnd.djvu"}, None),
        ({"mime": "application/pdf"}, None),
        ({"mime": "video/webm"}, None),
        ({"mime": "image/tiff", "thumburl": None}, None),
        ({"size": 30_000_001, "thumburl": None}, None),
        ({"url": "javascript:alert(1)", "thumburl": 7}, None),
    ],
)
def test_the_original_is_taken_where_it_is_small_else_a_scaled_picture(changed, taken):
    found = read_page(listing(file(**changed))).candidates
    assert [c.url for c in found] == ([taken] if taken else [])


def test_title_creator_licence_and_credit_come_from_the_page():
    found = only(read_page(listing(file(said={"Artist": '<a href="//x">A. <b>Mason</b></a> &amp; Co'}))))
    assert (found.title, found.creator, found.license) == ("Granite", "A. Mason & Co", "CC-BY-SA-4.0")
    assert found.page_url == f"{HOST}/wiki/File:Granite.jpg"
    assert found.attribution == f'"Granite" by A. Mason & Co, CC BY-SA 4.0, {HOST}/wiki/File:Granite.jpg'


def test_an_author_s_own_words_and_restrictions_stand_in_the_credit():
    said = {"Attribution": "Photo: <i>A. Mason</i>, Aberdeen", "Restrictions": "trademarked|personality"}
    found = only(read_page(listing(file(said=said))))
    assert found.creator == "A. Mason"
    assert found.attribution == (
        f'Photo: A. Mason, Aberdeen; "Granite", CC BY-SA 4.0, {HOST}/wiki/File:Granite.jpg; '
        "restrictions: trademarked, personality"
    )


def test_without_an_author_the_source_is_credited():
    found = only(read_page(listing(file(said={"Artist": "", "Credit": "<p>National Museum</p>"}))))
    assert found.creator == ""
    assert found.attribution.startswith('"Granite" by National Museum, CC BY-SA 4.0')


@pytest.mark.parametrize(
    ("said", "license", "basis"),
    [
        ({"LicenseShortName": "Public domain", "LicenseUrl": None}, "Public domain", "asserted"),
        ({"LicenseShortName": "", "License": "cc-by-3.0", "LicenseUrl": ""}, "CC-BY-3.0", "asserted"),
        ({"LicenseShortName": None, "UsageTerms": "Creative Commons Attribution 2.5", "LicenseUrl": 7}, "CC-BY-2.5",
         "asserted"),
        ({"LicenseShortName": "KOGL Type 1", "LicenseUrl": "http://www.kogl.or.kr/"}, "KOGL Type 1", "asserted"),
        ({"LicenseShortName": None, "LicenseUrl": None}, "", "unknown"),
    ],
)  # fmt: skip
def test_the_licence_is_found_wherever_the_page_states_it(said, license, basis):
    found = only(read_page(listing(file(said=said))))
    assert (found.license, found.license_basis) == (license, basis)


@pytest.mark.parametrize("metadata", [None, [], "x", {"Artist": "text"}, {"Artist": {"value": 7}}, {"Artist": None}])
def test_odd_metadata_leaves_the_picture_with_what_is_known(metadata):
    found = only(read_page(listing(file(extmetadata=metadata))))
    assert (found.creator, found.license, found.title) == ("", "", "Granite")


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("plain &amp; simple", "plain & simple"),
        ("A<br>B<br/>C", "A B C"),
        ("<ul><li>A</li><li>B</li></ul>", "A B"),
        ("by <a href='x'>A</a>.", "by A."),
        ('<div class="fn value">A</div> <div style="display: none;">creator QS:P170</div>', "A"),
        ("A<script>alert('B')</script><style>C{}</style>", "A"),
        ("<span style='display:none'><script>x</script><span style='display:none'>y</span></span>A", "A"),
        ("&lt;script&gt;", "<script>"),
        ("half \ud83d sign", "half ? sign"),
        ("https://a.example/x", "https://a.example/x"),
        ("granite.jpg", "granite.jpg"),
        ("<b>" * 5000 + "deep", "deep"),
        ("<a href='<", ""),
        ("", ""),
    ],
)
def test_html_becomes_what_a_reader_sees(html, text):
    assert plain_text(html) == text


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        ("any", 5),
        ("cc", 3),
        ("commercial", 4),
        ("commercial-modify", 4),
        ("public-domain", 2),
    ],
)
def test_files_whose_licence_does_not_permit_what_is_wanted_are_left_out(wanted, taken):
    names = ["CC BY-SA 4.0", "Public domain", "CC0", "GFDL", "KOGL Type 1"]
    files = [file(said={"LicenseShortName": name, "LicenseUrl": ""}) for name in names]
    page, (path,) = ask(answer(json.dumps(listing(*files)).encode()), license=wanted)
    assert len(page.candidates) == taken
    assert fields(path)["gsrsearch"] == "granite filetype:bitmap" + " haslicense:unrestricted" * (
        wanted == "public-domain"
    )


def test_the_question_and_its_continuation():
    more = {"continue": {"gsroffset": 50, "continue": "gsroffset||"}}
    sent = answer(json.dumps(listing(file(), **more)).encode())
    page, (path,) = ask(sent, None, "granite & Gneis/f\u00fcr=alle")
    assert urlsplit(path).path == "/w/api.php"
    assert fields(path) == {
        "action": "query", "format": "json", "maxlag": "5", "generator": "search", "gsrnamespace": "6",
        "gsrlimit": "50", "prop": "imageinfo", "iiprop": "url|size|mime|extmetadata", "iiurlwidth": "1280",
        "gsrsearch": "granite & Gneis/f\u00fcr=alle filetype:bitmap",
    }  # fmt: skip
    _, (path,) = ask(sent, page.cursor)
    assert (fields(path)["gsroffset"], fields(path)["continue"]) == ("50", "gsroffset||")


@pytest.mark.parametrize(
    "cursor", ["50", "x", "[1]", "null", '{"gsroffset": [1]}', '{"a&b": 1}', '{"gsroffset": true}', "{" * 5000]
)
def test_a_cursor_that_is_none_of_ours_begins_anew(cursor):
    page, (path,) = ask(answer(json.dumps(listing(file())).encode()), cursor)
    assert page.answer is Answer.OK
    assert "gsroffset" not in fields(path)
    assert len(fields(path)) == 10


def test_a_continuation_cannot_change_the_question():
    _, (path,) = ask(answer(json.dumps(listing(file())).encode()), '{"action": "delete", "gsrlimit": 5, "x": "1"}')
    assert (fields(path)["action"], fields(path)["gsrlimit"], fields(path)["x"]) == ("query", "50", "1")


@pytest.mark.parametrize("following", [None, [], "x", {}, {"gsroffset": {"a": 1}}, {"g": "x" * 3000}])
def test_an_odd_continuation_is_the_end(following):
    assert read_page(listing(file(), **{"continue": following})).cursor is None


@pytest.mark.parametrize(
    ("answered", "expected"),
    [
        ({"batchcomplete": ""}, Answer.EMPTY),
        ({"batchcomplete": True, "query": {"pages": []}}, Answer.EMPTY),
        ({}, Answer.CHANGED),
        ({"query": []}, Answer.CHANGED),
        ({"query": {"pages": "x"}}, Answer.CHANGED),
        (listing({"title": "File:Granite.jpg", "index": 1}), Answer.CHANGED),
    ],
)
def test_answers_without_files_are_told_apart(answered, expected):
    page = read_page(answered)
    assert (page.answer, page.candidates, page.cursor) == (expected, (), None)
    assert "Commons" in page.detail


@pytest.mark.parametrize(
    ("error", "expected", "said"),
    [
        ({"code": "ratelimited", "info": "You've exceeded your rate limit."}, Answer.RATE_LIMITED, "exceeded"),
        ({"code": "maxlag", "info": "Waiting for a database server: 6 seconds lagged."}, Answer.RATE_LIMITED, "lagged"),
        ({"code": "cirrussearch-too-busy-error"}, Answer.RATE_LIMITED, "busy"),
        ({"code": "globalblocking-blockedtext-range"}, Answer.BLOCKED, "another source"),
        ({"code": "readonly"}, Answer.UNREACHABLE, "later"),
        ({"code": "internal_api_error_DBQueryError"}, Answer.UNREACHABLE, "later"),
        ({"code": "cirrussearch-backend-error"}, Answer.UNREACHABLE, "later"),
        ({"code": "badvalue", "info": "Unrecognized value"}, Answer.CHANGED, "badvalue"),
        ({}, Answer.CHANGED, "without a code"),
        ("text", Answer.CHANGED, "without a code"),
    ],
)
def test_errors_in_an_answer_are_told_apart_and_the_cursor_stays(error, expected, said):
    cursor = '{"gsroffset": 50}'
    page, _ = ask(answer(json.dumps({"error": error, "servedby": "mw1"}).encode()), cursor)
    assert (page.answer, page.candidates, page.cursor) == (expected, (), cursor)
    assert said in page.detail


def test_who_is_refused_without_a_contact_is_told_to_set_one():
    forbidden = answer(b"Please respect our robot policy", status="403 Forbidden")
    assert "[web] table" in ask(forbidden)[0].detail
    page, _ = ask(forbidden, contact="me@site.example")
    assert page.answer is Answer.BLOCKED
    assert "[web]" not in page.detail


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"", b"\xff"])
def test_what_is_no_json_is_a_changed_format(body):
    assert ask(answer(body))[0].answer is Answer.CHANGED
