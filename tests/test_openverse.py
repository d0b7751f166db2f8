import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from curate.errors import CurateError
from curate.licenses import WANTED, permits
from curate.recipe import ImageClass, Recipe, Web
from curate.sources import Answer, Page
from curate.sources.openverse import license_codes, open_source, read_page
from curate.web import open_session
from tests.web.raw import RawServer, answer

FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures" / "openverse"
needs_fixtures = pytest.mark.skipif(not FIXTURES.exists(), reason="the saved answers of Openverse are not here")
HOST = "https://api.openverse.org"
URL = "https://live.staticflickr.com/1/2_b.jpg"


def image(**changed: object) -> dict[str, object]:
    """A result as Openverse lists it, some fields changed."""
    return {
        "title": "Granite", "foreign_landing_url": "https://www.flickr.com/photos/1/2", "url": URL,
        "creator": "A. Mason", "license": "by-sa", "license_version": "2.0",
        "license_url": "https://creativecommons.org/licenses/by-sa/2.0/",
        "attribution": '"Granite" by A. Mason is licensed under CC BY-SA 2.0.',
        "mature": False, "unstable__sensitivity": [], **changed,
    }  # fmt: skip


def listing(*results: object, page_count: object = 12) -> dict[str, object]:
    return {"result_count": 240, "page_count": page_count, "page_size": 20, "page": 1, "results": list(results)}


def only(page: Page):
    (candidate,) = page.candidates
    return candidate


class Always(dict):
    """One answer for every path."""

    def __init__(self, always: bytes) -> None:
        self.always = always

    def get(self, *_: object) -> bytes:
        return self.always


def ask(server_answer: bytes, cursor: str | None = None, query: str = "granite", **options) -> tuple[Page, list[str]]:
    """The page of a search against a server that gives this answer, and the paths that were asked for."""
    with RawServer(Always(server_answer)) as server:
        web = Web(mirrors={HOST: server.base}, timeout=2, deadline=4)
        recipe = Recipe("rocks", (ImageClass("granite", ("granite",)),), web=web, **options)
        with open_session(web) as session:
            page = open_source(recipe, session).search(query, "granite", cursor)
        return page, [path for _, path, _ in server.requests]


@needs_fixtures
def test_a_saved_answer_is_read_with_its_origin():
    saved = json.loads((FIXTURES / "WordPress-openverse_tape_q=cat_extension=jpg_trimmed.json").read_text())
    page = read_page(saved)
    assert (page.answer, page.cursor) == (Answer.OK, "2")
    assert [c.license for c in page.candidates] == ["CC-BY-2.0", "CC-BY-NC-SA-2.0", "CC-BY-SA-2.0"]
    assert {c.license_basis for c in page.candidates} == {"asserted"}
    first = page.candidates[0]
    assert first.url == "https://live.staticflickr.com/3903/15218475961_963a4c116e_b.jpg"
    assert (first.page_url, first.title) == ("https://www.flickr.com/photos/7788419@N05/15218475961", "Cat")
    assert (first.creator, first.license_url) == ("strogoscope", "https://creativecommons.org/licenses/by/2.0/")
    assert first.attribution.startswith('"Cat" by strogoscope is licensed under CC BY 2.0. To view')


@needs_fixtures
def test_a_saved_answer_without_versions_and_credits_is_read():
    saved = json.loads((FIXTURES / "zeus-kim-metasearch_openverse.json").read_text())
    page = read_page(saved)
    assert [(c.license, c.license_url, c.license_basis) for c in page.candidates] == [
        ("CC-BY", "", "asserted"),
        ("CC-BY-SA", "", "asserted"),
    ]
    assert page.candidates[0].attribution == (
        '"cat" by Sean MacEntee, CC-BY, https://www.flickr.com/photos/18090920@N07/4615211501'
    )


def test_what_is_null_absent_or_of_a_wrong_type_is_left_empty():
    bare = only(read_page(listing({"url": URL})))
    odd = only(read_page(listing(image(title=None, creator=7, license=["by"], license_version=None, license_url={},
                                       foreign_landing_url="javascript:alert(1)", attribution=False))))  # fmt: skip
    for candidate in (bare, odd):
        assert candidate.url == URL
        assert not any((candidate.title, candidate.creator, candidate.license, candidate.license_url))
        assert not any((candidate.page_url, candidate.attribution))
        assert candidate.license_basis == "unknown"
    assert only(read_page(listing(image(license_version=2.0, license_url=None)))).license == "CC-BY-SA-2.0"


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("//upload.example/granite.jpg", "https://upload.example/granite.jpg"),
        (" https://a.example/my granite.jpg", "https://a.example/my%20granite.jpg"),
        ("https://a.example/\u5ca9\u77f3?w=1&h=2", "https://a.example/\u5ca9\u77f3?w=1&h=2"),
    ],
)
def test_addresses_are_made_whole(url, taken):
    assert only(read_page(listing(image(url=url)))).url == taken


@pytest.mark.parametrize("url", [None, "", 7, "/images/1.jpg", "ftp://a.example/1.jpg", "data:image/png;base64,AA"])
def test_a_result_without_a_web_address_is_left_out(url):
    assert only(read_page(listing(image(url=url), image()))).url == URL
    page = read_page(listing(image(url=url)))
    assert (page.answer, page.candidates) == (Answer.CHANGED, ())


def test_what_is_marked_as_sensitive_is_left_out():
    marked = [image(mature=True), image(unstable__sensitivity=["sensitive_text"])]
    assert only(read_page(listing(*marked, image(mature=None)))).url == URL
    page = read_page(listing(*marked))
    assert (page.answer, page.candidates, page.cursor) == (Answer.OK, (), "2")


@pytest.mark.parametrize(
    ("answered", "expected"),
    [
        (listing(), Answer.EMPTY),
        ({}, Answer.CHANGED),
        ({"results": None}, Answer.CHANGED),
        ({"results": {"0": image()}}, Answer.CHANGED),
        ({"results": ["granite", 7]}, Answer.CHANGED),
        ({"detail": "Invalid page."}, Answer.CHANGED),
    ],
)
def test_answers_without_results_are_told_apart(answered, expected):
    page = read_page(answered)
    assert (page.answer, page.candidates, page.cursor) == (expected, (), None)
    assert "Openverse" in page.detail


@pytest.mark.parametrize(
    ("number", "page_count", "following"),
    [(1, 12, "2"), (11, 500, "12"), (12, 500, None), (3, 3, None), (4, None, "5"), (4, "9", "5"), (12, None, None)],
)
def test_pages_end_with_the_results_or_240_deep(number, page_count, following):
    assert read_page(listing(image(), page_count=page_count), number).cursor == following


def test_the_question_holds_query_page_and_no_filter_where_none_is_wanted():
    page, (path,) = ask(answer(json.dumps(listing(image())).encode()), "3", "granite & Gneis/f\u00fcr=alle")
    asked = urlsplit(path)
    assert asked.path == "/v1/images/"
    assert parse_qs(asked.query) == {
        "q": ["granite & Gneis/f\u00fcr=alle"], "page": ["3"], "page_size": ["20"], "mature": ["false"],
    }  # fmt: skip
    assert (page.answer, page.cursor) == (Answer.OK, "4")


@pytest.mark.parametrize(
    ("wanted", "codes"),
    [
        ("any", ""),
        ("cc", "by by-nc by-nc-nd by-nc-sa by-nd by-sa cc0 pdm"),
        ("commercial", "by by-nd by-sa cc0 pdm"),
        ("modify", "by by-nc by-nc-sa by-sa cc0 pdm"),
        ("commercial-modify", "by by-sa cc0 pdm"),
        ("public-domain", "cc0 pdm"),
    ],
)
def test_the_licences_asked_for_are_those_that_permit_what_is_wanted(wanted, codes):
    assert license_codes(wanted) == codes.split()


@pytest.mark.parametrize("wanted", [wanted for wanted in WANTED if wanted != "any"])
def test_an_answer_that_ignores_the_filter_is_filtered(wanted):
    results = [
        image(license=code, license_version=None, license_url=None) for code in ["sampling+", *license_codes("cc")]
    ]
    page, (path,) = ask(answer(json.dumps(listing(*results)).encode()), license=wanted)
    assert parse_qs(urlsplit(path).query)["license"] == [",".join(license_codes(wanted))]
    assert len(page.candidates) == len(license_codes(wanted))
    assert all(permits(c.license, c.license_basis, wanted) for c in page.candidates)


def test_a_wrong_licence_stops_before_anything_is_asked():
    with pytest.raises(CurateError, match="no such choice"):
        open_source(Recipe("rocks", (), license="comercial"), None)


@pytest.mark.parametrize(
    ("status", "headers", "body", "expected", "said"),
    [
        ("429 Too Many Requests", ["Retry-After: 3600"], b'{"detail":"Request was throttled."}', Answer.RATE_LIMITED,
         "200 times a day: come back"),
        ("401 Unauthorized", [], b'{"detail":"pagination depth may not exceed 240"}', Answer.BLOCKED, "not registered"),
        ("403 Forbidden", [], b"no", Answer.BLOCKED, "403"),
        ("500 Internal Server Error", [], b"", Answer.UNREACHABLE, "500"),
        ("404 Not Found", [], b'{"detail":"Invalid page."}', Answer.CHANGED, "404"),
        ("200 OK", [], b"<html>maintenance</html>", Answer.CHANGED, "no JSON"),
        ("200 OK", [], b"[]", Answer.CHANGED, "no JSON"),
    ],
)  # fmt: skip
def test_refusals_are_told_apart_and_the_cursor_stays(status, headers, body, expected, said):
    page, _ = ask(answer(body, *headers, status=status), "5")
    assert (page.answer, page.candidates, page.cursor) == (expected, (), "5")
    assert said in page.detail
    assert "Openverse" in page.detail
