import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from curate.manifest import CurateError
from curate.recipe import Web
from curate.sources import Answer, FetchError
from curate.web import Reply, ask, download, is_public, open_session, refusal
from tests.web.raw import RawServer, answer

SITE = "https://site.example"


def fetch(server: RawServer, path: str, **options) -> bytes:
    """Download a path of `https://site.example`, which the server mirrors."""
    web = Web(mirrors={SITE: server.base}, **{"timeout": 2.0, "deadline": 5.0, **options})
    with open_session(web) as session:
        return download(session, SITE + path, web)


def cause(act: Callable[[], object]) -> tuple[str, bool]:
    with pytest.raises(FetchError) as failure:
        act()
    return failure.value.cause, failure.value.transient


def drip(first: bytes, pause: float = 0.05, pieces: int = 60) -> Callable[[], Iterable[bytes]]:
    def send() -> Iterator[bytes]:
        yield first
        for _ in range(pieces):
            time.sleep(pause)
            yield b"x"

    return send


@pytest.fixture
def dns(monkeypatch) -> dict[str, list[str]]:
    """Answers of the name service: names of this table get its addresses, all others the real ones."""
    table: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def look_up(host, port, *args, **kwargs):
        if host not in table:
            return real(host, port, *args, **kwargs)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in table[host]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return table


@pytest.fixture
def connections(monkeypatch) -> list[tuple[str, int]]:
    """The addresses that were connected to; only loopback ones are really."""
    tried: list[tuple[str, int]] = []
    real = socket.socket.connect

    def connect(self, address):
        tried.append(address)
        if not address[0].startswith("127."):
            raise OSError("no such network here")
        return real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    return tried


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


PRIVATE = [
    "127.0.0.1", "localhost", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "224.0.0.1", "255.255.255.255", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.1", "0",
    "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]", "[::7f00:1]", "[64:ff9b::a00:1]", "[2002:7f00:1::]",
    "[fe80::1]", "[fc00::1]", "[fec0::1]", "[ff02::1]", "user@127.0.0.1", "127.0.0.1:8080",
]  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
def test_no_form_of_a_private_address_is_connected_to(host, connections):
    with open_session(Web()) as session:
        for scheme in ("http", "https"):
            assert cause(lambda s=scheme: download(session, f"{s}://{host}/", Web())) == ("refused address", False)
    assert connections == []


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1:{port}/in", "//169.254.169.254/meta", "http://0x7f.1:{port}/in"]
)
def test_a_redirect_to_a_private_address_is_refused(location, connections):
    with RawServer({}) as server:
        port = server.base.rsplit(":")[-1]
        server.answers["/"] = answer(b"", f"Location: {location.format(port=port)}", status="302 Found")
        assert cause(lambda: fetch(server, "/")) == ("refused address", False)
        assert [path for _, path, _ in server.requests] == ["/"]
    assert len(connections) == 1


@pytest.mark.parametrize("location", ["file:///etc/hostname", "ftp://site.example/a", "gopher://site.example/"])
def test_a_redirect_to_another_scheme_is_refused(location):
    with RawServer({"/": answer(b"", f"Location: {location}", status="302 Found")}) as server:
        assert cause(lambda: fetch(server, "/")) == ("refused address", False)


def test_a_name_with_one_private_answer_is_refused(dns, connections):
    dns["rebind.example"] = ["93.184.215.14", "10.0.0.7"]
    with open_session(Web()) as session:
        assert cause(lambda: download(session, "http://rebind.example/", Web())) == ("refused address", False)
    assert connections == []


def test_the_address_connected_to_is_the_one_that_was_checked(monkeypatch, connections):
    """A name that means a public address when first asked, and a private one from then on."""
    asked: list[str] = []

    def look_up(host, port, *args, **kwargs):
        address = host if host[0].isdigit() else ("127.0.0.1" if asked else "93.184.215.14")
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with open_session(Web()) as session:
        assert cause(lambda: download(session, "http://rebind.example/", Web()))[0] in ("connection", "refused address")
    assert connections == [("93.184.215.14", 80)]


def test_public_addresses_are_public():
    assert all(map(is_public, ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "64:ff9b::808:808", "2a00:1450::1"]))


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


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", ["Content-Length: 10000000000"]),
        (b"x" * 3000, ["Content-Length: 3000"]),
        (b"bb8\r\n" + b"x" * 3000 + b"\r\n0\r\n\r\n", ["Transfer-Encoding: chunked"]),
        (gzip.compress(b"0" * 5_000_000), ["Content-Encoding: gzip"]),
    ],
    ids=["declared", "sent", "chunked", "unpacked"],
)
def test_a_body_over_the_cap_is_too_large(body, headers):
    with RawServer({"/": answer(body, *headers)}) as server:
        assert cause(lambda: fetch(server, "/", max_bytes=2000)) == ("too large", False)


def test_a_body_of_just_the_cap_is_taken_and_packed_ones_are_unpacked():
    packed = answer(gzip.compress(b"y" * 2000), "Content-Encoding: gzip")
    with RawServer({"/": answer(b"x" * 2000), "/packed": packed}) as server:
        assert fetch(server, "/", max_bytes=2000) == b"x" * 2000
        assert fetch(server, "/packed", max_bytes=2000) == b"y" * 2000


@pytest.mark.parametrize(
    "slow",
    [
        drip(answer(b"", "Content-Length: 100000")),
        drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;"),
        drip(b"HTTP/1.1 200 OK\r\n\r\n"),
        drip(answer(b"\x1f\x8b\x08\x08\0\0\0\0\0\0", "Content-Encoding: gzip", "Content-Length: 100000")),
    ],
    ids=["body", "chunk size", "no length", "gzip header"],
)
def test_a_slow_drip_ends_at_the_deadline(slow):
    with RawServer({"/": slow}) as server:
        began = time.monotonic()
        assert cause(lambda: fetch(server, "/", deadline=0.4)) == ("too slow", True)
        assert time.monotonic() - began < 1.5


def test_a_header_that_drips_is_a_timeout():
    with RawServer({"/": drip(b"HTTP/1.1 200 OK\r\nX-")}) as server:
        began = time.monotonic()
        assert cause(lambda: fetch(server, "/", timeout=0.3, deadline=0.5)) == ("timeout", True)
        assert time.monotonic() - began < 1.5


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


@pytest.mark.parametrize("wait", ["3600", "Fri, 01 Jan 2100 00:00:00 GMT", "6"])
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
            assert cause(lambda: fetch(server, "/")) == ("robots", False)


def test_types_are_not_believed_but_nothing_is_nothing():
    with RawServer({"/a.jpg": answer(b"<html>", "Content-Type: image/jpeg"), "/b": answer(b"")}) as server:
        assert fetch(server, "/a.jpg") == b"<html>"
        assert cause(lambda: fetch(server, "/b")) == ("empty", False)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (answer(b"half", "Content-Length: 8"), ("connection", True)),
        (answer(b"no gzip", "Content-Encoding: gzip"), ("encoding", False)),
        (answer(b"5\r\nab", "Transfer-Encoding: chunked"), ("connection", True)),
    ],
)
def test_a_body_that_breaks_off_or_cannot_be_unpacked(sent, expected):
    with RawServer({"/": sent}) as server:
        assert cause(lambda: fetch(server, "/")) == expected


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
    def slowly() -> Iterator[bytes]:
        time.sleep(0.05)
        yield answer(b"image")

    with RawServer({f"/{n}": slowly for n in range(12)}) as server:
        web = Web(mirrors={"https://*.example": server.base}, per_host=2, threads=8)
        with open_session(web) as session, ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: download(session, f"https://a.example/{n}", web), range(12)))
            assert server.most_at_once == 2
            server.most_at_once = 0
            list(pool.map(lambda n: download(session, f"https://{'ab'[n % 2]}.example/{n}", web), range(12)))
            assert server.most_at_once == 4


def test_nothing_is_left_running():
    with RawServer({"/": answer(b"image")}) as server:
        before = {t for t in threading.enumerate() if isinstance(t, threading.Timer)}
        fetch(server, "/")
        left = [t for t in threading.enumerate() if isinstance(t, threading.Timer) and t not in before]
        for timer in left:
            timer.join(1)
        assert not any(timer.is_alive() for timer in left)


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
