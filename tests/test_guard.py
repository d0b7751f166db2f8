import math
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from shutil import which

import pytest

from curate import guard
from curate.guard import Connection, Idle, Limit, RefusedAddress, Watchdog, is_public
from curate.recipe import Web
from curate.web import ask, download, open_session
from tests.web.raw import SITE, RawServer, answer, cause, drip, fake_dns, fetch, note_connections

PRIVATE = [
    "127.0.0.1", "localhost", "localhost.", "LOCALHOST", "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255",
    "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.192", "198.18.0.1", "0.0.0.0",
    "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16", "2130706433", "0x7f000001",
    "0x7f.1", "0177.0.0.1", "017700000001", "127.1", "127.0.1", "0", "127.0.0.1.", "[::1]", "[::]",
    "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[::ffff:10.0.0.1]", "[::ffff:0:127.0.0.1]", "[::7f00:1]",
    "[::127.0.0.1]", "[0:0:0:0:0:0:0:1]", "[64:ff9b::a00:1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::a00:1]",
    "[2002:7f00:1::]", "[2002:a9fe:a9fe::1]", "[2001:0:7f00:1::]", "[2001:0:53aa:64c:0:0:80ff:fffe]", "[2001:db8::1]",
    "[3fff::1]", "[fe80::1]", "[fe80::1%25lo]", "[fc00::1]", "[fd00:ec2::254]", "[fec0::1]", "[ff02::1]",
    "user@127.0.0.1", "8.8.8.8@127.0.0.1", "user:8.8.8.8@127.0.0.1", "8.8.8.8%40127.0.0.1@10.0.0.1", "127.0.0.1:8080",
    "127.0.0.1:443",
]  # fmt: skip
NO_NAMES = ["１２７.０.０.１", "①②⑦.0.0.1", "127。0。0。1", "[::1", "[127.0.0.1]", "127.0.0.1%00.example"]
SCHEMES = [
    "file:///etc/hostname", "ftp://site.example/a", "gopher://site.example/", "data:image/png;base64,AAAA",
    "javascript:alert(1)", "dict://127.0.0.1:11211/stat", "ws://site.example/", "unix:/run/docker.sock",
]  # fmt: skip


@pytest.fixture
def dns(monkeypatch):
    return fake_dns(monkeypatch)


@pytest.fixture
def connections(monkeypatch):
    return note_connections(monkeypatch)


@pytest.fixture
def session():
    with open_session(Web(deadline=0.3)) as session:
        yield session


@pytest.mark.parametrize("host", PRIVATE)
def test_no_form_of_a_private_address_is_connected_to(host, session, connections):
    for url in (f"http://{host}/", f"https://{host}/"):
        for act in (download, ask):
            assert cause(lambda url=url, act=act: act(session, url, Web())) == ("refused address", False)
        assert cause(lambda url=url: session.get(url)) == ("refused address", False)
    assert connections == []


@pytest.mark.parametrize("host", NO_NAMES)
def test_what_only_looks_like_a_private_address_is_no_address(host, session, connections):
    assert cause(lambda: download(session, f"http://{host}/", Web()))[0] in ("bad address", "refused address")
    assert connections == []


@pytest.mark.parametrize("url", ["http://127.0.0.1\\@8.8.8.8/", "http://8.8.8.8\\@127.0.0.1/", "http:\\\\127.0.0.1/"])
def test_a_backslash_cannot_make_two_readers_of_one_address(url, session, connections):
    assert cause(lambda: download(session, url, Web(deadline=0.2)))[0] != "404"
    assert {address for address, _ in connections} <= {"8.8.8.8"}


@pytest.mark.parametrize("host", PRIVATE)
def test_a_redirect_to_a_private_address_is_refused(host, connections):
    with RawServer({"/": answer(b"", f"Location: http://{host}/in", status="302 Found")}) as server:
        assert cause(lambda: fetch(server, "/")) == ("refused address", False)
        assert [path for _, path, _ in server.requests] == ["/"]
    assert set(connections) == {("127.0.0.1", int(server.base.rsplit(":")[-1]))}


@pytest.mark.parametrize("location", ["//169.254.169.254/meta", "http:\\\\127.0.0.1/", "http://127.0.0.1:{port}/in"])
def test_a_redirect_that_hides_where_it_leads_is_refused(location, connections):
    with RawServer({}) as server:
        port = server.base.rsplit(":")[-1]
        server.answers["/"] = answer(b"", f"Location: {location.format(port=port)}", status="302 Found")
        assert cause(lambda: fetch(server, "/"))[0] in ("refused address", "bad address")
        assert [path for _, path, _ in server.requests] == ["/"]
    assert set(connections) == {("127.0.0.1", int(port))}


@pytest.mark.parametrize("location", SCHEMES)
def test_another_scheme_is_refused_asked_for_and_led_to(location, session, connections):
    assert cause(lambda: download(session, location, Web())) == ("refused address", False)
    with RawServer({"/": answer(b"", f"Location: {location}", status="302 Found")}) as server:
        assert cause(lambda: fetch(server, "/")) == ("refused address", False)
        assert len(server.requests) == 1
    assert {address for address, _ in connections} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("metadata.google.internal", ["169.254.169.254"]),
        ("intranet.example", ["10.0.0.7"]),
        ("loop.example", ["127.0.0.53"]),
        ("six.example", ["fd00:ec2::254"]),
        ("mapped.example", ["::ffff:127.0.0.1"]),
        ("mixed.example", ["93.184.215.14", "10.0.0.7"]),
        ("mixed.example", ["10.0.0.7", "93.184.215.14"]),
    ],
)
def test_a_name_with_a_private_answer_is_refused(name, addresses, session, dns, connections):
    dns[name] = addresses
    assert cause(lambda: download(session, f"http://{name}/", Web())) == ("refused address", False)
    assert connections == []


def test_the_address_connected_to_is_the_one_that_was_checked(monkeypatch, session, connections):
    """A name that means a public address when first asked, and a private one from then on."""
    asked: list[str] = []

    def look_up(host, port, *args, **kwargs):
        address = host if host[0].isdigit() else ("127.0.0.1" if asked else "93.184.215.14")
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    for _ in range(2):
        found = cause(lambda: download(session, "http://rebind.example/", Web(deadline=0.3)))
        assert found[0] in ("connection", "refused address")
    assert set(connections) == {("93.184.215.14", 80)}


def test_a_connection_to_a_mirror_is_not_lent_to_its_own_address(connections):
    """The mirror's server keeps its connection open; who asks for it by its address is refused all the same."""
    with keeping_server() as port:
        web = Web(mirrors={SITE: f"http://127.0.0.1:{port}"})
        with open_session(web) as session:
            assert download(session, SITE + "/", web) == b"kept"
            assert cause(lambda: download(session, f"http://127.0.0.1:{port}/", web)) == ("refused address", False)


def test_the_next_address_of_a_host_is_tried_when_one_does_not_answer(dns, connections, monkeypatch):
    dns["two.example"] = ["93.184.215.14", "93.184.215.15"]
    connection = Connection("http", "two.example", 80, False)
    with pytest.raises(OSError, match="no such network"):
        connection.get("/", {}, Limit(math.inf), timeout=1, deadline=time.monotonic() + 1)
    assert connections == [("93.184.215.14", 80), ("93.184.215.15", 80)]


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "64:ff9b::808:808", "2a00:1450::1"])
def test_public_addresses_are_public(address):
    assert is_public(address)


def test_a_limit_cuts_off_what_lasts_longer_and_nothing_else():
    dog = Watchdog()
    here, there = socket.socketpair()
    began = time.monotonic()
    with dog.limit(began + 60) as patient, dog.limit(began + 0.1) as limit:  # the earlier one comes later
        limit.watch(here)
        assert here.recv(1) == b""
    assert 0.08 < time.monotonic() - began < 1
    assert (limit.late, patient.late) == (True, False)
    dog.close()
    here.close()
    there.close()


def test_a_limit_that_is_moved_on_holds_until_then():
    dog = Watchdog()
    with dog.limit(time.monotonic() + 0.05) as limit:
        limit.until = time.monotonic() + 0.3
        time.sleep(0.15)
        assert not limit.late
        time.sleep(0.3)
        assert limit.late
        with socket.socket() as late, pytest.raises(TimeoutError):
            limit.watch(late)
    dog.close()


def test_one_thread_watches_all_and_ends_with_its_owner():
    before = threading.active_count()
    dog = Watchdog()
    for _ in range(100):
        with dog.limit(time.monotonic() + 60):
            assert threading.active_count() == before + 1
    dog.close()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="closed"), dog.limit(1.0):
        raise AssertionError("a limit that nobody watches")


def test_of_too_many_idle_connections_the_longest_unused_is_closed():
    idle = Idle(3)
    given = [Connection("http", f"{n // 2}.example", 80, False) for n in range(5)]
    pairs = [socket.socketpair() for _ in given]
    for connection, (here, _) in zip(given, pairs, strict=True):
        connection.sock = here
        idle.give(connection)
    assert [connection.sock is not None for connection in given] == [False, False, True, True, True]
    pairs[3][1].close()  # the host closed this one
    assert idle.take(given[2].where) is given[2]
    assert idle.take(given[2].where) is None
    idle.close()
    assert given[4].sock is None
    idle.give(given[2])
    assert given[2].sock is None
    for _, there in pairs:
        there.close()


@contextmanager
def keeping_server() -> Iterator[int]:
    """A server that keeps its connections open."""
    body = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nkept"

    def serve(sock: socket.socket) -> None:
        with sock:
            while request := sock.recv(65536):
                sock.sendall(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n" if b"/robots.txt" in request else body)

    with listening(serve) as port:
        yield port


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:  # closed: the test is over
                return
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_a_tls_handshake_that_drips_is_a_timeout():
    def handshake(sock: socket.socket) -> None:
        with sock:
            try:
                sock.sendall(b"\x16\x03\x03\x40\x00")
                for _ in range(100):
                    time.sleep(0.05)
                    sock.sendall(b"\x02")
            except OSError:  # cut off, as it should be
                return

    with listening(handshake) as port:
        web = Web(mirrors={SITE: f"https://127.0.0.1:{port}"}, timeout=0.3)
        with open_session(web) as session:
            began = time.monotonic()
            assert cause(lambda: ask(session, SITE + "/", web)) == ("timeout", True)
            assert time.monotonic() - began < 1.5


@pytest.fixture
def certificate(tmp_path):
    """Of localhost, signed by itself."""
    if not which("openssl"):
        pytest.skip("makes a certificate with the openssl command")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command.split(), *names], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


@contextmanager
def secure_server(certificate, send: Callable[[socket.socket], None]) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")

    def serve(sock: socket.socket) -> None:
        try:
            with context.wrap_socket(sock, server_side=True) as secure:
                secure.recv(65536)
                send(secure)
        except OSError:  # the client does not trust us, or hangs up
            sock.close()

    with listening(serve) as port:
        yield port


@pytest.fixture
def trusted(certificate, monkeypatch):
    context = ssl.create_default_context(cafile=certificate / "cert.pem")
    monkeypatch.setattr(guard, "_tls", lambda: context)


def test_a_certificate_must_be_signed_by_one_we_trust(certificate):
    with secure_server(certificate, lambda sock: sock.sendall(answer(b"secret"))) as port:
        web = Web(mirrors={SITE: f"https://localhost:{port}"})
        with open_session(web) as session:
            assert cause(lambda: ask(session, SITE + "/", web)) == ("tls", False)


def test_a_certificate_must_be_of_the_host(certificate, trusted):
    with secure_server(certificate, lambda sock: sock.sendall(answer(b"secret"))) as port:
        web = Web(mirrors={SITE: f"https://localhost:{port}", "https://b.example": f"https://127.0.0.1:{port}"})
        with open_session(web) as session:
            assert ask(session, SITE + "/", web).content == b"secret"
            assert cause(lambda: ask(session, "https://b.example/", web)) == ("tls", False)


def test_a_drip_over_tls_ends_at_the_deadline(certificate, trusted):
    def send(sock: socket.socket) -> None:
        for piece in drip(answer(b"", "Content-Length: 1000"))():
            sock.sendall(piece)

    with secure_server(certificate, send) as port:
        web = Web(mirrors={SITE: f"https://localhost:{port}"}, deadline=0.4)
        with open_session(web) as session:
            began = time.monotonic()
            assert cause(lambda: ask(session, SITE + "/", web)) == ("too slow", True)
            assert time.monotonic() - began < 1.5


def test_a_label_that_is_too_long_is_no_host_name():
    with pytest.raises(RefusedAddress):
        Connection("http", "a" * 64 + ".example", 80, False).connect()
