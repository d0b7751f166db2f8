import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from curate.licenses import WANTED, identify
from curate.recipe import ImageClass, Recipe, Web
from curate.sources import Answer, Page, inaturalist
from curate.sources.inaturalist import LICENSES, asked_query, find_taxon, license_codes, open_source, read_page
from curate.web import Reply, open_session
from tests.web.raw import RawServer, answer

FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures" / "inaturalist"
needs_fixtures = pytest.mark.skipif(not FIXTURES.exists(), reason="the saved answers of iNaturalist are not here")
HOST = "https://api.inaturalist.org"
STATIC = "https://static.inaturalist.org/photos"
OAKS = {"results": [
    {"id": 51080, "name": "Toxicodendron diversilobum", "preferred_common_name": "Pacific poison oak"},
    {"id": 47851, "name": "Quercus", "preferred_common_name": "oaks", "matched_term": "Oaks"},
    {"id": 49005, "name": "Quercus rubra", "preferred_common_name": "northern red oak"},
]}  # fmt: skip
QUERIES = ("tree in a park", "oak close up", "oak leaf", "oak")


def photo(number: int = 1, **changed: object) -> dict[str, object]:
    fields = {
        "id": number, "url": f"{STATIC}/{number}/square.jpg?1598551272", "license_code": "cc-by-nc", "flags": [],
        "attribution": "(c) Sam, some rights reserved (CC BY-NC)",
    }  # fmt: skip
    return {**fields, **changed}


def observation(number: int = 100, *photos: object, **changed: object) -> dict[str, object]:
    fields = {
        "id": number, "species_guess": "Monarch", "taxon": {"id": 48662, "name": "Danaus plexippus"},
        "user": {"login": "samroom", "name": None}, "photos": list(photos) or [photo(number)],
    }  # fmt: skip
    return {**fields, **changed}


def listing(*results: object, total: object = None) -> dict[str, object]:
    return {"total_results": len(results) if total is None else total, "page": 1, "per_page": 50, "results": [*results]}


def sent(body: object, *headers: str, **options) -> bytes:
    return answer(json.dumps(body).encode(), "Content-Type: application/json", *headers, **options)


class Paths(dict):
    """Answers by path without its query."""

    def get(self, path: str, default: bytes) -> bytes:
        return super().get(urlsplit(path).path, default)


def ask(taxa: bytes, found: bytes, cursor: str | None = None, query: str = "oak close up", **options):
    """The page of a search for oaks, and the path and fields of each question it cost."""
    with RawServer(Paths({"/v1/taxa": taxa, "/v1/observations": found})) as server:
        web = Web(mirrors={HOST: server.base}, timeout=2, deadline=4)
        recipe = Recipe("trees", (ImageClass("oak", QUERIES),), web=web, **options)
        with open_session(web) as session:
            page = open_source(recipe, session).search(query, "oak", cursor)
        asked = [urlsplit(path) for _, path, _ in server.requests]
    return page, [(parts.path, {k: v for k, (v,) in parse_qs(parts.query).items()}) for parts in asked]


def only(page: Page):
    (candidate,) = page.candidates
    return candidate


# What an answer holds


@needs_fixtures
@pytest.mark.parametrize(
    ("name", "url", "license_", "creator", "title", "attribution"),
    [
        (
            "pyinat_get_observation.json", f"{STATIC}/24355315/large.jpeg?1536150664", "CC-BY-4.0", "Nicolas Noé",
            "Lixus bardanae", "(c) Nicolas Noé, some rights reserved (CC BY)",
        ),
        (
            "pyinat_get_observations_page1.json", f"{STATIC}/92152429/large.jpg?1598551272", "CC-BY-NC-4.0", "samroom",
            "Danaus plexippus (Monarch)", "(c) samroom, some rights reserved (CC BY-NC)",
        ),
        (
            "pyinat_get_observations_page2.json", f"{STATIC}/92075215/large.jpg?1598503820", "All rights reserved",
            "ingridt3", "Danaus plexippus (Monarch)", "(c) ingridt3, all rights reserved",
        ),
    ],
)  # fmt: skip
def test_saved_answers_are_read_with_their_origin(name, url, license_, creator, title, attribution):
    saved = json.loads((FIXTURES / name).read_text(encoding="utf-8"))
    found = only(read_page(saved, 1))
    assert found.url == url
    assert found.page_url == saved["results"][0]["uri"]
    assert (found.license, found.license_basis, found.creator) == (license_, "asserted", creator)
    assert (found.title, found.attribution) == (title, attribution)


def test_one_photo_of_an_observation_is_offered_the_first_whose_licence_is_wanted():
    page = listing(
        observation(3, photo(31), photo(32)),
        observation(2, photo(21, license_code=None), photo(22, license_code="cc0"), photo(23, license_code="cc-by")),
        observation(1, photo(11, license_code="cc-by-nc")),
    )
    assert [c.url.split("/")[4] for c in read_page(page, 1).candidates] == ["31", "21", "11"]
    assert [c.url.split("/")[4] for c in read_page(page, 1, "commercial").candidates] == ["22"]


@pytest.mark.parametrize(
    ("code", "name", "basis"),
    [
        ("cc0", "CC0-1.0", "asserted"),
        ("CC-BY", "CC-BY-4.0", "asserted"),
        ("cc-by-nc-nd", "CC-BY-NC-ND-4.0", "asserted"),
        (None, "All rights reserved", "asserted"),
        ("gfdl", "gfdl", "asserted"),
    ],
)
def test_the_licence_is_that_of_the_photo(code, name, basis):
    found = only(read_page(listing(observation(1, photo(license_code=code))), 1))
    assert (found.license, found.license_basis) == (name, basis)


def test_a_photo_that_says_nothing_of_a_licence_is_unknown():
    said_nothing = photo()
    del said_nothing["license_code"]
    found = only(read_page(listing(observation(1, said_nothing)), 1))
    assert (found.license, found.license_basis) == ("", "unknown")
    assert read_page(listing(observation(1, said_nothing)), 1, "cc").candidates == ()


def test_the_licences_are_named_and_addressed_as_others_name_them():
    assert all(identify("", address) == name for name, address in LICENSES.values())
    assert all(identify(name) == name for name, _ in LICENSES.values())


@pytest.mark.parametrize(
    ("wanted", "codes"),
    [
        ("any", set()),
        ("cc", {"cc0", "cc-by", "cc-by-sa", "cc-by-nd", "cc-by-nc", "cc-by-nc-sa", "cc-by-nc-nd"}),
        ("commercial", {"cc0", "cc-by", "cc-by-sa", "cc-by-nd"}),
        ("modify", {"cc0", "cc-by", "cc-by-sa", "cc-by-nc", "cc-by-nc-sa"}),
        ("commercial-modify", {"cc0", "cc-by", "cc-by-sa"}),
        ("public-domain", {"cc0"}),
    ],
)
def test_the_codes_asked_for_allow_what_is_wanted(wanted, codes):
    assert set(license_codes(wanted)) == codes


@pytest.mark.parametrize(
    ("given", "offered"),
    [
        (f"{STATIC}/7/square.jpeg?153", f"{STATIC}/7/large.jpeg?153"),
        (f"{STATIC}/7/medium.png", f"{STATIC}/7/large.png"),
        (f"{STATIC}/7/original.JPG", f"{STATIC}/7/large.JPG"),
        (
            "https://inaturalist-open-data.s3.amazonaws.com/photos/10314159/square.jpg",
            "https://inaturalist-open-data.s3.amazonaws.com/photos/10314159/large.jpg",
        ),
    ],
)
def test_the_large_size_is_offered_on_either_host(given, offered):
    assert only(read_page(listing(observation(1, photo(url=given))), 1)).url == offered


@pytest.mark.parametrize(
    "bad",
    [
        {"url": "https://www.inaturalist.org/assets/copyright-infringement-square.png"},
        {"url": "javascript:alert(1)/photos/1/square.jpg"},
        {"url": f"{STATIC}/7/square.jpg?x=https://evil.example"},
        {"url": f"{STATIC}/../7/square.jpg"},
        {"hidden": True},
        {"flags": [{"flag": "copyright infringement", "resolved": False}]},
        {"flags": "odd"},
        {"flags": 5},
    ],
)
def test_a_photo_that_is_hidden_flagged_or_elsewhere_is_passed_over(bad):
    page = read_page(listing(observation(1, photo(1, **bad), photo(2)), observation(2, photo(3, **bad))), 1)
    assert [c.url for c in page.candidates] == [f"{STATIC}/2/large.jpg?1598551272"]


def test_a_flag_that_was_settled_does_not_matter():
    assert read_page(listing(observation(1, photo(flags=[{"flag": "spam", "resolved": True}]))), 1).candidates


def test_odd_and_hostile_entries_do_no_harm():
    odd = [None, 5, "x", [], {}, {"id": "x", "photos": [photo()]}, observation(9, photos=None), observation(9, 5, None)]
    strange = observation("8", photo(attribution=None), species_guess={}, taxon=[], user="me")
    hostile = observation(7, species_guess="\x1b[31mred\u202e", user={"name": "=1+1\n"}, taxon={"name": 5})
    page = read_page(listing(*odd, strange, hostile), 1)
    assert [(c.title, c.creator, c.attribution) for c in page.candidates] == [
        ("", "", ""),
        ("[31mred", "=1+1", "(c) Sam, some rights reserved (CC BY-NC)"),
    ]
    assert page.candidates[0].page_url == "https://www.inaturalist.org/observations/8"


@pytest.mark.parametrize(
    ("total", "cursor"), [(2, None), (3, "48662:40"), ("2", None), ("many", "48662:40"), (10**6, "48662:40")]
)
def test_the_cursor_is_the_taxon_and_the_lowest_observation(total, cursor):
    assert read_page(listing(observation(90), observation(40), total=total), 48662).cursor == cursor


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (listing(), Answer.EMPTY),
        (listing(None, {"id": 1}, {"photos": []}), Answer.CHANGED),
        ({"results": {}}, Answer.CHANGED),
        ({}, Answer.CHANGED),
    ],
)
def test_answers_without_photos_are_told_apart(said, expected):
    page = read_page(said, 1)
    assert (page.answer, page.candidates, page.cursor) == (expected, (), None)
    assert "iNaturalist" in page.detail


# The taxon


@pytest.mark.parametrize("label", ["oak", "Oaks", "quercus", "Quercus "])
def test_a_taxon_bears_the_name_of_the_class_and_not_merely_a_word_of_it(label):
    assert find_taxon(OAKS, label) == 47851


def test_names_may_be_written_with_underscores():
    assert find_taxon(OAKS, "Quercus_rubra") == find_taxon(OAKS, "northern-red-oak") == 49005


def test_a_scientific_name_goes_before_a_common_one_and_the_first_before_the_next():
    taxa = [{"id": 1, "preferred_common_name": "Morus"}, {"id": 2, "name": "Morus"}, {"id": 3, "name": "Morus"}]
    assert find_taxon({"results": taxa}, "morus") == 2


@pytest.mark.parametrize(
    "taxa",
    [[], [{"id": 35927, "name": "Xantusia henshawi", "matched_term": "Granite Night Lizard"}], [None, {"id": "x"}]],
)
def test_what_is_no_living_thing_is_empty_and_says_so(taxa):
    page = find_taxon({"results": taxa}, "granite")
    assert isinstance(page, Page)
    assert page.answer is Answer.EMPTY
    assert 'no living thing named "granite"' in page.detail


def test_taxa_in_another_form_are_a_change():
    assert find_taxon({"results": "none"}, "oak").answer is Answer.CHANGED


# How it is asked


@pytest.mark.parametrize(
    ("label", "queries", "asked"),
    [
        ("oak", QUERIES, "oak close up"),
        ("oak", ("oak", "oak leaf"), "oak"),
        ("Quercus_robur", ("tree", "quercus robur leaf"), "quercus robur leaf"),
        ("oak", ("Eiche", "chêne"), "Eiche"),
    ],
)
def test_the_first_query_that_holds_the_class_name_is_the_one_asked(label, queries, asked):
    assert asked_query(label, queries) == asked


def test_the_first_page_looks_the_taxon_up_and_asks_for_its_newest_photos():
    page, asked = ask(sent(OAKS), sent(listing(observation(90), total=80)), license="commercial")
    (taxa, name), (found, fields) = asked
    assert (taxa, name["q"], name["is_active"]) == ("/v1/taxa", "oak", "true")
    assert found == "/v1/observations"
    assert set(fields.pop("photo_license").split(",")) == {"cc0", "cc-by", "cc-by-sa", "cc-by-nd"}
    assert fields == {
        "taxon_id": "47851", "photos": "true", "quality_grade": "research", "per_page": "50", "order": "desc",
        "order_by": "id",
    }  # fmt: skip
    assert (page.answer, page.cursor) == (Answer.OK, "47851:90")


def test_the_next_page_asks_below_the_lowest_observation_and_looks_nothing_up():
    _, ((path, fields),) = ask(b"", sent(listing(observation(40))), "47851:90")
    assert (path, fields["taxon_id"], fields["id_below"]) == ("/v1/observations", "47851", "90")
    assert "photo_license" not in fields


@pytest.mark.parametrize("query", ["tree in a park", "oak leaf", "oak"])
def test_the_other_queries_of_a_class_cost_nothing(query):
    page, asked = ask(sent(OAKS), sent(listing(observation(90))), query=query)
    assert (page.answer, page.candidates, page.cursor, asked) == (Answer.EMPTY, (), None, [])
    assert '"oak close up"' in page.detail


def test_a_class_that_is_no_living_thing_costs_one_question():
    page, asked = ask(sent({"results": []}), sent(listing(observation(90))))
    assert (page.answer, page.cursor, [path for path, _ in asked]) == (Answer.EMPTY, None, ["/v1/taxa"])


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (sent({}, "Retry-After: 3600", status="429 Too Many Requests"), Answer.RATE_LIMITED),
        (sent({"error": "blocked"}, status="403 Forbidden"), Answer.BLOCKED),
        (sent({}, status="500 Oops"), Answer.UNREACHABLE),
        (sent({"error": "bad"}, status="422 Unprocessable"), Answer.CHANGED),
        (answer(b"<html>maintenance</html>"), Answer.CHANGED),
    ],
)
@pytest.mark.parametrize("cursor", [None, "47851:90"])
def test_a_refusal_keeps_the_cursor(reply, expected, cursor):
    page, _ = ask(reply, reply, cursor)
    assert (page.answer, page.candidates, page.cursor) == (expected, (), cursor)
    page, _ = ask(sent(OAKS), reply, cursor)
    assert (page.answer, page.candidates, page.cursor) == (expected, (), cursor)


@pytest.mark.parametrize(
    ("mirrors", "questions", "photos"),
    [({}, 2, 3), ({HOST: "http://127.0.0.1:9", "https://*.inaturalist.org": "http://127.0.0.1:9"}, 0, 0)],
)
def test_questions_are_a_second_apart_and_photos_a_quarter_but_not_on_a_mirror(monkeypatch, mirrors, questions, photos):
    waits: list[float] = []
    monkeypatch.setattr("curate.sources.api.time.sleep", waits.append)
    reply = Reply(200, HOST, json.dumps({**listing(observation(90)), **OAKS}).encode())
    monkeypatch.setattr("curate.sources.api.ask", lambda *_: reply)
    monkeypatch.setattr("curate.sources.inaturalist.download", lambda *_: b"image")
    recipe = Recipe("trees", (ImageClass("oak", ("oak",)),), web=Web(mirrors=mirrors))
    source = open_source(recipe, None)
    source.search("oak", "oak", None)
    assert len(waits) == questions
    assert [source.fetch(f"{STATIC}/{n}/large.jpg") for n in range(3)] == [b"image"] * 3
    assert len(waits) == questions + photos
    if questions:
        assert 0.9 < waits[1] <= inaturalist.SECONDS
        assert waits[2] <= 0.01
        assert 0.4 < waits[4] <= 2 * inaturalist.SECONDS_A_PHOTO


def test_the_documentation_lists_the_codes_that_are_asked_for():
    text = (Path(__file__).parents[1] / "docs" / "sources.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.count("|") == 7]
    told = {row[0].strip("`"): row[5] for row in rows if row[0].strip("`") in WANTED}
    codes = {w: set(cell.replace("by", "cc-by").split(", ")) for w, cell in told.items() if w not in ("any", "cc")}
    assert codes == {wanted: set(license_codes(wanted)) for wanted in codes}
    assert (told["any"], told["cc"]) == ("none", "all seven")
