import io
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import requests
from PIL import Image

from curate.images import inspect
from curate.recipe import ImageClass, Recipe, Web
from curate.sources import (
    Answer,
    Candidate,
    FetchError,
    Page,
    bing,
    commons,
    flickr,
    google,
    inaturalist,
    openverse,
)
from curate.store import ImageError
from curate.web import download, open_session
from tests.web import Faults, LoopbackWeb, Photo, demo_photos, folder_photos
from tests.web.faults import API, BING, GOOD, GOOGLE, TITLES


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (shade, shade, shade)).save(buffer, "JPEG")
    return buffer.getvalue()


def photos(label: str, count: int) -> list[Photo]:
    return [Photo(f"{label}/{n:04d}", lambda n=n: jpeg(n)) for n in range(count)]


@pytest.fixture(autouse=True)
def flickr_key(monkeypatch):
    monkeypatch.setenv("FLICKR_API_KEY", "0123456789abcdef0123456789abcdef")


ENGINES = {"bing": bing, "google": google, "openverse": openverse, "commons": commons, "flickr": flickr}
ENGINES["inaturalist"] = inaturalist
ROCKS = {"granite": photos("granite", 90), "basalt": photos("basalt", 40)}


def walk(engine, web: LoopbackWeb, query: str, most: int = 9, license: str = "any") -> list[Page]:
    """All pages of a query until there is no cursor, or an answer that is not ok."""
    options = Web(mirrors=web.mirrors)
    recipe = Recipe("rocks", (ImageClass("granite", (query,)),), license=license, web=options)
    found: list[Page] = []
    with open_session(options) as session:
        source = engine.open_source(recipe, session)
        cursor = None
        while len(found) < most:
            found.append(source.search(query, "granite", cursor))
            cursor = found[-1].cursor
            if cursor is None or found[-1].answer is not Answer.OK:
                break
    return found


def urls(found: Sequence[Page]) -> list[str]:
    return [candidate.url for page in found for candidate in page.candidates]


@pytest.mark.parametrize("engine", [bing, google, openverse, commons, flickr])
def test_the_engines_list_a_class_completely_in_one_order_for_each_of_its_queries(engine):
    with LoopbackWeb(ROCKS) as web:
        wanted = [web.address(photo) for photo in ROCKS["granite"]]
        for query in ("granite", "Porphyritic GRANITE hand sample & more"):
            found = walk(engine, web, query)
            assert urls(found) == wanted
            assert found[-1].answer is Answer.EMPTY or found[-1].cursor is None


def test_bing_pages_hold_35_and_google_pages_100():
    with LoopbackWeb({"granite": photos("granite", 120)}) as web:
        assert [len(page.candidates) for page in walk(bing, web, "granite")] == [35, 35, 35, 15, 0]
        assert [len(page.candidates) for page in walk(google, web, "granite")] == [100, 20, 0]


def test_the_class_of_a_query_is_the_longest_name_in_it():
    classes = {"diorite": photos("diorite", 1), "quartz diorite": photos("quartz diorite", 2)}
    with LoopbackWeb(classes) as web:
        assert len(web.results("big quartz diorite boulder")) == 2
        assert len(web.results("a diorite of quartz")) == 1
        assert walk(bing, web, "marble")[0].answer is Answer.EMPTY
        assert walk(google, web, "marble")[0].answer is Answer.EMPTY


def test_titles_pages_and_private_use_marks_go_through_both_engines():
    photo = Photo("granite/0000", lambda: jpeg(1), 'Granite "A" <b>&amp; more')
    with LoopbackWeb({"granite": [photo]}) as web:
        for engine in (bing, google):
            (found,) = walk(engine, web, "granite")[0].candidates
            expected = (web.address(photo), "https://www.photos.example/pages/granite/0000.html", photo.title)
            assert (found.url, found.page_url, found.title) == expected


def test_every_address_leads_to_its_own_photo_and_the_log_counts_the_requests():
    with LoopbackWeb(ROCKS) as web:
        options = Web(mirrors=web.mirrors)
        with open_session(options) as session:
            got = [download(session, url, options) for url in urls(walk(bing, web, "granite"))]
            with pytest.raises(FetchError, match="404"):
                download(session, "https://img0.photos.example/granite/9999", options)
        assert got == [photo.load() for photo in ROCKS["granite"]]
        assert max(Counter(web.photo_requests).values()) == 1
        assert len(web.photo_requests) == 91
        assert len(web.requests) - len(web.photo_requests) == 4


def test_addresses_vary_as_on_the_web_and_keep_the_name():
    with LoopbackWeb(ROCKS) as web:
        addresses = [web.address(photo) for photo in ROCKS["granite"]]
        again = LoopbackWeb(ROCKS, seed=1)
        with again:
            assert [again.address(photo) for photo in ROCKS["granite"]] != addresses
    assert [re.search(r"granite/\d{4}", url)[0] for url in addresses] == [p.name for p in ROCKS["granite"]]
    assert len({url.split("/")[2] for url in addresses}) > 4
    for form in (r"\d$", r"\.jpg", r"\.png", r"\.webp", r"!large", r"\?w=1200&h=800$", "Ä"):
        assert any(re.search(form, url) for url in addresses), form


def test_inaturalist_shows_one_photo_of_each_observation_which_leads_to_its_bytes():
    """Every fifth observation of the loopback web has three photos: 90 photos are 64 observations."""
    with LoopbackWeb(ROCKS) as web:
        found = walk(inaturalist, web, "granite")
        assert [len(page.candidates) for page in found] == [50, 14]
        options = Web(mirrors=web.mirrors)
        with open_session(options) as session:
            got = [download(session, url, options) for url in urls(found)]
    assert got == [jpeg(n) for n in range(90) if n % 7 not in (3, 4)]


@pytest.mark.parametrize("name", ["openverse", "commons", "flickr", "inaturalist"])
def test_licences_are_asserted_vary_and_follow_from_the_seed(name):
    with LoopbackWeb(ROCKS) as web:
        found = [candidate for page in walk(ENGINES[name], web, "granite") for candidate in page.candidates]
        again = [candidate for page in walk(ENGINES[name], web, "granite") for candidate in page.candidates]
    assert found == again
    assert {candidate.license_basis for candidate in found} == {"asserted"}
    assert {"CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0"} <= {candidate.license for candidate in found}
    assert all(candidate.creator and candidate.attribution and candidate.page_url for candidate in found)


@pytest.mark.parametrize("name", [name for name in ENGINES if name != "google"])
def test_a_licence_filter_is_honoured(name):
    with LoopbackWeb(ROCKS) as web:
        whole = urls(walk(ENGINES[name], web, "granite"))
        some = [c for page in walk(ENGINES[name], web, "granite", license="public-domain") for c in page.candidates]
        wanted = {web.result(photo, name).url for photo in ROCKS["granite"] if is_free(web.license_of(photo, name))}
    assert [path for path in web.requests if "license" in path]
    assert {candidate.url.replace("/large.", "/square.") for candidate in some} <= wanted
    assert 3 <= len(some) < len(whole)


def test_the_licence_filters_of_bing_and_google_leave_those_of_creative_commons():
    with LoopbackWeb(ROCKS) as web:
        pages = {
            "all": requests.get(f"{web.base}/google/search?q=granite", timeout=5).text,
            "cc": requests.get(f"{web.base}/google/search?q=granite&tbs=il:cl", timeout=5).text,
            "l2": requests.get(f"{web.base}/bing/images/async?q=granite&qft=+filterui:license-L2", timeout=5).text,
        }
        licensed = {photo: web.license_of(photo, "google") for photo in ROCKS["granite"]}
    listed = {name: {p for p in ROCKS["granite"] if f"pages/{p.name}.html" in page} for name, page in pages.items()}
    assert listed["all"] == set(ROCKS["granite"])
    assert listed["cc"] == {photo for photo, license in licensed.items() if license}
    assert listed["l2"] == {photo for photo, license in licensed.items() if license and license[0] == "by"}
    assert 3 < len(listed["l2"]) < len(listed["cc"]) < 90


def is_free(license: tuple[str, str] | None) -> bool:
    return license is not None and license[0] in ("cc0", "pdm")


def test_flickr_is_shut_without_a_key(monkeypatch):
    with LoopbackWeb(ROCKS) as web:
        place = (
            f"{web.base}/flickr/services/rest/?method=flickr.photos.search&text=granite&format=json&nojsoncallback=1"
        )
        assert requests.get(place, timeout=5).json()["code"] == 100
        assert requests.get(f"{place}&api_key=x", timeout=5).json()["photos"]["total"] == 90
        monkeypatch.delenv("FLICKR_API_KEY")
        assert walk(flickr, web, "granite")[0].answer is Answer.BLOCKED


CAUSES = {
    "missing": ("404", False),
    "drip": ("too slow", True),
    "oversize": ("too large", False),
    "private_redirect": ("refused address", False),
    "robots": ("x-robots-tag", False),
    "server_down": ("500", True),
    "reset": ("connection", True),
    "header_drip": ("timeout", True),
    "gzip_bomb": ("too large", False),
    "redirects": ("redirects", False),
    "private_address": ("refused address", False),
    "empty": ("empty", False),
}


@pytest.mark.parametrize("fault", CAUSES)
def test_a_fault_of_an_image_host_becomes_its_cause(fault):
    with LoopbackWeb({"granite": photos("granite", 1)}, faults=Faults(**{fault: 1.0})) as web:
        short = {"drip": {"deadline": 0.4}, "header_drip": {"timeout": 0.3}, "gzip_bomb": {"max_bytes": 2_000_000}}
        options = Web(mirrors=web.mirrors, **short.get(fault, {}))
        with open_session(options) as session, pytest.raises(FetchError) as failure:
            download(session, web.address(ROCKS["granite"][0]), options)
    assert (failure.value.cause, failure.value.transient) == CAUSES[fault]


@pytest.mark.parametrize("fault", ["html", "truncated", "bomb", "svg"])
def test_bytes_that_are_no_image_arrive_and_decoding_refuses_them(fault):
    with LoopbackWeb({"granite": photos("granite", 1)}, faults=Faults(**{fault: 1.0})) as web:
        options = Web(mirrors=web.mirrors)
        with open_session(options) as session:
            data = download(session, web.address(ROCKS["granite"][0]), options)
    with pytest.raises(ImageError):
        inspect(data)


@pytest.mark.parametrize("fault", [*GOOD, "small", "repeat"])
def test_what_is_only_unusual_arrives_and_is_an_image(fault):
    """16 x 16 pixels whatever the file, a tenth of it where small."""
    with LoopbackWeb({"granite": photos("granite", 12)}, faults=Faults(**{fault: 1.0})) as web:
        options = Web(mirrors=web.mirrors)
        with open_session(options) as session:
            found = urls(walk(bing, web, "granite"))
            assert [inspect(download(session, url, options))[1:3] for url in found] == [
                (1, 1) if fault == "small" else (16, 16)
            ] * 12
            kept = {download(session, url, options) for url in found}
        assert kept == {web.content(photo) for photo in web.classes["granite"]}
    assert len(web.photos_sent) == 24
    assert len(kept) == (1 if fault == "repeat" else 12 if fault not in ("deep", "small") else len(kept))


def test_hostile_titles_are_listed_and_lose_their_control_codes():
    with LoopbackWeb(ROCKS, faults=Faults(formula=1.0)) as web:
        for engine in (bing, google, openverse, commons, flickr, inaturalist):
            titles = {candidate.title for page in walk(engine, web, "granite") for candidate in page.candidates}
            assert len(titles) >= len(TITLES)
            assert any("cmd|" in title for title in titles)
            assert not any(re.search(r"[\x00-\x1f\u202e\u2066]", title) for title in titles)


def test_robots_txt_shuts_what_lies_in_private_and_is_no_request_for_an_image():
    with LoopbackWeb(ROCKS, faults=Faults(robots_txt=0.5)) as web:
        said = requests.get(f"{web.base}/photos/robots.txt", timeout=5).text
        shut = [photo for photo in ROCKS["granite"] if "/private/" in web.address(photo)]
        assert requests.get(f"{web.base}/bing/robots.txt", timeout=5).status_code == 404
        assert (len(web.requests), len(web.robots_requests)) == (0, 2)
    assert said == "User-agent: *\nDisallow: /private/\n"
    assert 25 < len(shut) < 65


def test_an_error_that_passes_is_one_answer_only():
    with LoopbackWeb(ROCKS, faults=Faults(server_error=1.0)) as web:
        places = [web.base + "/photos/" + web.address(photo).split("/", 3)[3] for photo in ROCKS["granite"][:8]]
        statuses = [[requests.get(place, timeout=5).status_code for _ in range(2)] for place in places]
    assert {first for first, _ in statuses} == {500, 503}
    assert {second for _, second in statuses} == {200}


def test_a_busy_host_serves_after_the_wait_it_asked_for():
    with LoopbackWeb({"granite": photos("granite", 1)}, faults=Faults(busy=1.0)) as web:
        options = Web(mirrors=web.mirrors)
        with open_session(options) as session:
            began = time.monotonic()
            assert download(session, web.address(ROCKS["granite"][0]), options) == jpeg(0)
        assert time.monotonic() - began >= 1
        assert len(web.photo_requests) == 2


def test_the_shares_of_faults_hold_roughly_and_follow_from_the_seed():
    faults = Faults(missing=0.2, html=0.1)
    names = [f"granite/{n:04d}" for n in range(1000)]
    chosen, same, other = [], [], []
    for seed, faulty in ((0, chosen), (0, same), (1, other)):
        with LoopbackWeb({}, faults=faults, seed=seed) as web:
            faulty += [web.fault_of(name) for name in names]
    assert chosen == same
    assert chosen != other
    counts = Counter(chosen)
    assert 160 < counts["missing"] < 240
    assert 70 < counts["html"] < 130
    assert set(counts) == {"missing", "html", None}


@pytest.mark.parametrize("wrong", [{"missing": 0.7, "html": 0.4}, {"missing": -0.1}, {"bing": "moody"}])
def test_impossible_faults_are_refused(wrong):
    with pytest.raises(ValueError, match=r"shares|bing"):
        Faults(**wrong)


MOODS = {
    "blocked": Answer.BLOCKED,
    "enablejs": Answer.BLOCKED,
    "sorry": Answer.BLOCKED,
    "captcha": Answer.BLOCKED,
    "soft_block": Answer.BLOCKED,
    "403": Answer.BLOCKED,
    "rate_limited": Answer.RATE_LIMITED,
    "empty": Answer.EMPTY,
    "changed": Answer.CHANGED,
    "down": Answer.UNREACHABLE,
}


@pytest.mark.parametrize("mood", [mood for mood in BING if mood in MOODS])
def test_a_mood_of_bing_becomes_its_answer(mood):
    with LoopbackWeb(ROCKS, faults=Faults(bing=mood)) as web:
        assert walk(bing, web, "granite")[0].answer is MOODS[mood]
        assert walk(google, web, "granite")[0].answer is Answer.OK


@pytest.mark.parametrize("mood", [mood for mood in GOOGLE if mood in MOODS])
def test_a_mood_of_google_becomes_its_answer_and_is_never_success(mood):
    with LoopbackWeb(ROCKS, faults=Faults(google=mood)) as web:
        assert walk(google, web, "granite")[0].answer is MOODS[mood]
        assert walk(bing, web, "granite")[0].answer is Answer.OK


@pytest.mark.parametrize("mood", [mood for mood in API if mood in MOODS])
@pytest.mark.parametrize("name", ["openverse", "commons", "flickr", "inaturalist"])
def test_a_mood_of_an_interface_becomes_its_answer(name, mood):
    with LoopbackWeb(ROCKS, faults=Faults(**{name: mood})) as web:
        assert walk(ENGINES[name], web, "granite")[0].answer is MOODS[mood]


@pytest.mark.parametrize("name", ENGINES)
def test_a_limit_that_passes_is_waited_for(name):
    with LoopbackWeb(ROCKS, faults=Faults(**{name: "limited_once"})) as web:
        assert walk(ENGINES[name], web, "granite", most=1)[0].answer is Answer.OK


def test_bad_json_costs_only_its_own_results():
    with LoopbackWeb(ROCKS, faults=Faults(bing="bad_json")) as web:
        assert [len(page.candidates) for page in walk(bing, web, "granite")] == [28, 28, 16, 0]


def test_a_short_list_ends_early_and_a_repeated_page_never():
    with LoopbackWeb(ROCKS, faults=Faults(bing="short")) as web:
        assert [len(page.candidates) for page in walk(bing, web, "granite")] == [20, 0]
    with LoopbackWeb(ROCKS, faults=Faults(bing="repeated")) as web:
        found = walk(bing, web, "granite", most=4)
        assert len(urls(found)) == 140
        assert len(set(urls(found))) == 35


def test_latency_and_type_are_as_ordered():
    with LoopbackWeb({"granite": photos("granite", 1)}, latency=0.2, mime="image/webp") as web:
        options = Web(mirrors=web.mirrors)
        with open_session(options) as session:
            began = time.monotonic()
            answer = session.get(web.address(ROCKS["granite"][0]), timeout=5)
        assert time.monotonic() - began >= 0.2
        assert answer.headers["Content-Type"] == "image/webp"


def test_a_tree_of_class_folders_is_served_whatever_the_files_are_called(tmp_path):
    names = ["a.jpg", "b c.PNG", "ü#1 50%.jpg", "no suffix"]
    (tmp_path / "granite").mkdir()
    (tmp_path / "readme.txt").write_bytes(b"not a class")
    for n, name in enumerate(names):
        (tmp_path / "granite" / name).write_bytes(b"%d" % n)
    with LoopbackWeb(folder_photos(tmp_path)) as web:
        options = Web(mirrors=web.mirrors)
        with open_session(options) as session:
            found = urls(walk(bing, web, "granite rock"))
            assert found == [Candidate(url).url for url in found]
            got = {download(session, url, options) for url in found}
    assert list(web.classes) == ["granite"]
    assert got == {b"0", b"1", b"2", b"3"}


def test_demo_photos_are_rendered_when_asked_for():
    """Index 1 of the class, looked up by its name."""
    demo = pytest.importorskip("curate.sources.demo")
    classes = demo_photos(["granite", "basalt"], 2, seed=3)
    assert [photo.name for photo in classes["basalt"]] == ["basalt/0000", "basalt/0001"]
    assert classes["granite"][1].load() == demo.render("granite", 1, 3)[0]


def test_people_can_start_it_and_paste_its_mirrors(tmp_path):
    (tmp_path / "granite").mkdir()
    (tmp_path / "granite" / "1.jpg").write_bytes(jpeg(1))
    command = [sys.executable, "-m", "tests.web", "--photos", str(tmp_path), "--fault", "missing=0.5"]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        process.terminate()
    assert lines[0].startswith("# serving granite 1")
    assert lines[1] == "[web.mirrors]\n"
    assert re.fullmatch(r'"https://www\.bing\.com" = "http://127\.0\.0\.1:\d+/bing"\n', lines[2])
