import io
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from curate.images import ImageError, inspect
from curate.recipe import ImageClass, Recipe, Web
from curate.sources import Answer, Candidate, FetchError, Page, bing, google
from curate.web import download, open_session
from tests.web import Faults, LoopbackWeb, Photo, demo_photos, folder_photos
from tests.web.server import BING, GOOGLE


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (shade, shade, shade)).save(buffer, "JPEG")
    return buffer.getvalue()


def photos(label: str, count: int) -> list[Photo]:
    return [Photo(f"{label}/{n:04d}", lambda n=n: jpeg(n)) for n in range(count)]


ROCKS = {"granite": photos("granite", 90), "basalt": photos("basalt", 40)}


def walk(engine, web: LoopbackWeb, query: str, most: int = 9) -> list[Page]:
    """All pages of a query until there is no cursor, or an answer that is not ok."""
    options = Web(mirrors=web.mirrors)
    recipe = Recipe("rocks", (ImageClass("granite", (query,)),), web=options)
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


@pytest.mark.parametrize("engine", [bing, google])
def test_both_engines_list_a_class_completely_in_one_order_for_each_of_its_queries(engine):
    with LoopbackWeb(ROCKS) as web:
        wanted = [web.address(photo) for photo in ROCKS["granite"]]
        for query in ("granite", "Porphyritic GRANITE hand sample & more"):
            found = walk(engine, web, query)
            assert urls(found) == wanted
            assert found[-1].answer is Answer.EMPTY


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


CAUSES = {
    "missing": ("404", False),
    "drip": ("too slow", True),
    "oversize": ("too large", False),
    "private_redirect": ("refused address", False),
    "robots": ("robots", False),
}


@pytest.mark.parametrize("fault", CAUSES)
def test_a_fault_of_an_image_host_becomes_its_cause(fault):
    with LoopbackWeb({"granite": photos("granite", 1)}, faults=Faults(**{fault: 1.0})) as web:
        options = Web(mirrors=web.mirrors, deadline=0.4)
        with open_session(options) as session, pytest.raises(FetchError) as failure:
            download(session, web.address(ROCKS["granite"][0]), options)
    assert (failure.value.cause, failure.value.transient) == CAUSES[fault]


@pytest.mark.parametrize("fault", ["html", "truncated", "bomb"])
def test_bytes_that_are_no_image_arrive_and_decoding_refuses_them(fault):
    with LoopbackWeb({"granite": photos("granite", 1)}, faults=Faults(**{fault: 1.0})) as web:
        options = Web(mirrors=web.mirrors)
        with open_session(options) as session:
            data = download(session, web.address(ROCKS["granite"][0]), options)
    with pytest.raises(ImageError):
        inspect(data)


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
