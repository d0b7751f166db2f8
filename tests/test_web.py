import gzip
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from curate.client import pause
from curate.errors import CurateError
from curate.guard import Connection
from curate.recipe import Web
from curate.sources import Answer
from curate.sources.api import refusal
from curate.web import Reply, ask, download, open_session
from tests.web import LoopbackWeb, Photo
from tests.web.raw import SITE, RawServer, answer, cause, drip, fake_dns, fetch, note_connections


@pytest.fixture
def dns(monkeypatch):
    return fake_dns(monkeypatch)


@pytest.fixture
def connections(monkeypatch):
    return note_connections(monkeypatch)


def test_a_mirror_gets_the_path_and_query_and_the_address_stays_the_original():
    with RawServer({"/base/a/b?q=1%202&x=y": answer(b"page")}) as server:
        web = Web(mirrors={SITE: server.base + "/base/"})
        with open_session(web) as session:
            assert ask(session, f"{SITE}/a/b?q=1 2&x=y", web) == Reply(200, f"{SITE}/a/b?q=1%202&x=y", b"page")


@pytest.mark.parametrize(
    ("url", "mirrored"),
    [
        ("https://photos.example/", False),
        ("https://a.photos.example/", True),
        ("https://a.b.photos.example/", True),
        ("https://A.Photos.Example/", True),
        ("https://aphotos.example/", False),
        ("http://a.photos.example/", False),
        ("https://a.photos.example.evil.example/", False),
        ("https://a.photos.example@127.0.0.1/", False),
    ],
)
def test_a_wildcard_mirror_stands_for_all_subdomains_and_nothing_else(url, mirrored, dns, connections):
    dns.update({host: ["10.0.0.1"] for host in ("photos.example", "aphotos.example", "a.photos.example")})
    dns["a.photos.example.evil.example"] = ["10.0.0.1"]
    with RawServer({"/": answer(b"image")}) as server:
        web = Web(mirrors={"https://*.photos.example": server.base})
        with open_session(web) as session:
            if mirrored:
                assert download(session, url, web) == b"image"
            else:
                assert cause(lambda: download(session, url, web)) == ("refused address", False)


@pytest.mark.parametrize("mirrors", [{"www.bing.com": "http://127.0.0.1:1"}, {SITE: "127.0.0.1"}, {SITE + "/a": SITE}])
def test_a_mirror_that_is_no_pair_of_addresses_is_named(mirrors):
    with pytest.raises(CurateError, match=r"\[web.mirrors\]"):
        open_session(Web(mirrors=mirrors))


def test_the_user_agent_is_honest_and_names_the_contact():
    with RawServer({"/": answer(b"image")}) as server:
        fetch(server, "/", contact="rocks@example.org")
        agent = server.requests[0][2]["user-agent"]
    assert agent.startswith("deeprock/")
    assert agent.endswith("(image data set curation; rocks@example.org)")


def test_a_contact_that_would_break_the_header_is_refused():
    with pytest.raises(CurateError, match="contact"):
        open_session(Web(contact="me\r\nX-Evil: 1"))


def test_neither_cookies_nor_proxies_of_the_environment_are_taken(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with RawServer({"/": answer(b"image", "Set-Cookie: id=7")}) as server:
        web = Web(mirrors={SITE: server.base})
        with open_session(web) as session:
            for _ in range(2):
                download(session, SITE + "/", web)
        assert all("cookie" not in headers for _, _, headers in server.requests)


def test_redirects_are_followed_to_relative_addresses_and_mirrors_and_not_for_ever():
    answers = {
        "/a": answer(b"", "Location: b?x=1", status="301 Moved"),
        "/b?x=1": answer(b"", "Location: https://site.example/c", status="307 Moved"),
        "/c": answer(b"image"),
        "/round": answer(b"", "Location: /round", status="302 Found"),
    }
    with RawServer(answers) as server:
        assert fetch(server, "/a") == b"image"
        assert cause(lambda: fetch(server, "/round")) == ("redirects", False)
        assert len(server.times("/round")) == 6


def test_the_body_of_a_redirect_is_not_read():
    endless = drip(answer(b"", "Location: /c", "Content-Length: 1000000", status="302 Found"))
    with RawServer({"/a": endless, "/c": answer(b"image")}) as server:
        began = time.monotonic()
        assert fetch(server, "/a") == b"image"
        assert time.monotonic() - began < 1


def test_a_redirect_can_be_left_alone():
    with RawServer({"/": answer(b"", "Location: /sorry/index", status="302 Found")}) as server:
        web = Web(mirrors={SITE: server.base})
        with open_session(web) as session:
            assert ask(session, SITE + "/", web, follow=False).location == "/sorry/index"


def test_a_header_that_drips_is_a_timeout_whatever_else_is_under_way():
    """The second time the watchdog sleeps already, on behalf of a download that has much time left."""
    slow = drip(answer(b"", "Content-Length: 60"), pause=0.03)
    with RawServer({"/": drip(b"HTTP/1.1 200 OK\r\nX-"), "/slow": slow}) as server, ThreadPoolExecutor(1) as pool:
        web = Web(mirrors={SITE: server.base}, timeout=0.3, deadline=5.0)
        with open_session(web) as session:
            for _ in range(2):
                began = time.monotonic()
                assert cause(lambda: download(session, SITE + "/", web)) == ("timeout", True)
                assert time.monotonic() - began < 1
                patient = pool.submit(download, session, SITE + "/slow", web)
                time.sleep(0.6)
            assert patient.result() == b"x" * 60


def test_silence_is_a_timeout():
    def silent() -> Iterator[bytes]:
        time.sleep(1)
        yield b""

    with RawServer({"/": silent}) as server:
        assert cause(lambda: fetch(server, "/", timeout=0.2, deadline=0.3)) == ("timeout", True)


def test_retry_after_is_obeyed():
    busy = answer(b"", "Retry-After: 1", status="429 Too Many Requests")
    with RawServer({"/": [busy, answer(b"image")]}) as server:
        assert fetch(server, "/") == b"image"
        first, second = server.times("/")
        assert second - first >= 1


@pytest.mark.parametrize("wait", ["3600", "Fri, 01 Jan 2100 00:00:00 GMT", "6", "9" * 5000])
def test_a_host_that_asks_for_more_than_we_have_is_left_for_another_run(wait):
    """An hour is over the cap, 6 s is over this fetch's deadline of 5."""
    with RawServer({"/": answer(b"", f"Retry-After: {wait}", status="429 Too Many Requests")}) as server:
        began = time.monotonic()
        assert cause(lambda: fetch(server, "/")) == ("429", True)
        assert time.monotonic() - began < 1
        assert len(server.times("/")) == 1


def test_a_passing_failure_is_tried_again_after_a_pause():
    broken = answer(b"", "Retry-After: soon", status="503 Service Unavailable")
    with RawServer({"/": [broken, answer(b"image")]}) as server:
        assert fetch(server, "/") == b"image"
        first, second = server.times("/")
        assert 0.4 < second - first < 2


@pytest.mark.parametrize(
    "asked",
    [
        "", "soon", "0", "-5", "-99999999999", "1e3", "nan", "\xb2", "Fri, 01 Jan 1999 00:00:00 GMT",
        "Fri, 99 Jan 2100 00:00:00 GMT", "Fri, 01 Jan 99999 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 +9999",
    ],
)  # fmt: skip
def test_a_retry_after_that_is_no_time_to_come_is_as_none(asked):
    assert 0.5 <= pause(0, asked) <= 1.0
    assert 1.0 <= pause(1, asked) <= 1.5


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("404 Not Found", ("404", False)),
        ("403 No", ("403", False)),
        ("500 Oh", ("500", True)),
        ("204 x", ("204", False)),
    ],
)
def test_a_status_is_the_cause(status, expected):
    with RawServer({"/": answer(status=status)}) as server:
        assert cause(lambda: fetch(server, "/")) == expected
        assert len(server.times("/")) == 1


@pytest.mark.parametrize(
    ("tags", "allowed"),
    [
        (["noai"], False),
        (["noarchive, NoImageAI"], False),
        (["noindex"], False),
        (["noimageindex"], False),
        (["none"], False),
        (["deeprock: noai"], False),
        (["nosnippet", "noai"], False),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"], False),
        (["max-image-preview:large, noai"], False),
        (["googlebot: noindex"], True),
        (["nofollow"], True),
        (["max-snippet: 20"], True),
        ([], True),
    ],
)
def test_x_robots_tag_is_honoured(tags, allowed):
    with RawServer({"/": answer(b"image", *(f"X-Robots-Tag: {tag}" for tag in tags))}) as server:
        if allowed:
            assert fetch(server, "/") == b"image"
        else:
            assert cause(lambda: fetch(server, "/")) == ("x-robots-tag", False)


def test_a_connection_that_was_closed_meanwhile_is_no_failure(monkeypatch):
    """The server promises to keep the connection and does not; a new one serves at once, unseen by the other checks."""
    monkeypatch.setattr(Connection, "is_idle", True)
    kept = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage"
    with RawServer({f"/{n}": kept for n in range(3)}) as server:
        web = Web(mirrors={SITE: server.base})
        with open_session(web) as session:
            began = time.monotonic()
            for n in range(3):
                assert download(session, f"{SITE}/{n}", web) == b"image"
                time.sleep(0.02)
            assert time.monotonic() - began < 0.4  # a second attempt would have waited for half a second
        assert [path for _, path, _ in server.requests] == ["/0", "/1", "/2"]


def test_connections_are_kept_and_no_more_of_them_than_turns(connections):
    photos = [Photo(f"granite/{n:03d}", lambda n=n: b"image %d" % n) for n in range(60)]
    with LoopbackWeb({"granite": photos}, latency=0.005) as server:
        web = Web(mirrors={"https://*.photos.example": server.base + "/photos"}, per_host=2, threads=16)
        addresses = [server.address(photo) for photo in photos]
        with open_session(web) as session, ThreadPoolExecutor(16) as pool:
            got = list(pool.map(lambda url: download(session, url, web), addresses))
            missing = [cause(lambda n=n: download(session, f"{addresses[0]}/{n}", web)) for n in range(5)]
    assert got == [photo.load() for photo in photos]
    assert missing == [("404", False)] * 5
    assert len(connections) <= 16


def test_a_closed_port_is_a_connection_failure():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    web = Web(mirrors={SITE: f"http://127.0.0.1:{port}"}, deadline=0.2)
    with open_session(web) as session:
        assert cause(lambda: download(session, SITE + "/", web)) == ("connection", True)


def test_an_unknown_name_is_said_as_such(monkeypatch):
    def look_up(*_args, **_kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with open_session(Web()) as session:
        web = Web(deadline=0.2)
        assert cause(lambda: download(session, "https://nowhere.example/", web)) == ("unknown host", True)


@pytest.mark.parametrize("url", ["", "granite.jpg", "http://", "https:///a", "http://[bad", "http://a b/", "http://.."])
def test_what_is_no_address_is_said_as_such(url):
    with open_session(Web()) as session:
        assert cause(lambda: download(session, url, Web()))[0] in ("bad address", "refused address")


def test_one_host_never_sees_more_requests_at_once_than_the_recipe_allows():
    lock, seen = threading.Lock(), {"now": 0, "most": 0}

    def slowly() -> Iterator[bytes]:
        """Counts who waits for an answer: until it is sent, for then the client may ask again at once."""
        with lock:
            seen["now"] += 1
            seen["most"] = max(seen.values())
        time.sleep(0.05)
        with lock:
            seen["now"] -= 1
        yield answer(b"image")

    with RawServer({f"/{n}": slowly for n in range(12)}) as server:
        web = Web(mirrors={"https://*.example": server.base}, per_host=2, threads=8)
        with open_session(web) as session, ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: download(session, f"https://a.example/{n}", web), range(12)))
            assert seen["most"] == 2
            seen["most"] = 0
            list(pool.map(lambda n: download(session, f"https://{'ab'[n % 2]}.example/{n}", web), range(12)))
            assert seen["most"] == 4


def test_hosts_that_were_asked_leave_nothing_behind():
    with RawServer({"/": answer(b"image")}) as server:
        web = Web(mirrors={"https://*.example": server.base})
        with open_session(web) as session:
            for n in range(20):
                download(session, f"https://h{n}.example/", web)
            assert session.client._turns == {}


def test_nothing_is_left_running():
    with RawServer({"/": answer(b"image")}) as server:
        fetch(server, "/")
        assert "watchdog" not in [thread.name for thread in threading.enumerate()]


def test_what_a_source_gets_by_the_session_itself_is_guarded_too():
    answers = {"/a": answer(b"page", "X-A: b"), "/moved": answer(b"", "Location: /a", status="302 Found")}
    with RawServer(
        {**answers, "/big": answer(b"x" * 3000), "/packed": answer(gzip.compress(b"y"), "Content-Encoding: gzip")}
    ) as server:
        web = Web(mirrors={SITE: server.base}, max_bytes=2000)
        with open_session(web) as session:
            found = session.get(SITE + "/a", headers={"X-C": "d"})
            assert (found.status_code, found.content, found.headers["x-a"], found.url) == (
                200,
                b"page",
                "b",
                SITE + "/a",
            )
            assert session.get(SITE + "/moved").status_code == 302
            assert session.get(SITE + "/packed").content == b"y"
            assert cause(lambda: session.get(SITE + "/big")) == ("too large", False)
            with pytest.raises(requests.exceptions.InvalidSchema, match="only get"):
                session.post(SITE + "/a")
        assert server.requests[0][2]["x-c"] == "d"
        assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (429, Answer.RATE_LIMITED),
        (503, Answer.RATE_LIMITED),
        (403, Answer.BLOCKED),
        (500, Answer.UNREACHABLE),
        (404, Answer.CHANGED),
    ],
)
def test_an_engines_status_is_told_apart(status, expected):
    page = refusal(Reply(status, "", b""), "Bing")
    assert page is not None
    assert page.answer is expected
    assert str(status) in page.detail
    assert refusal(Reply(200, "", b""), "Bing") is None
