"""A manifest that means harm, in a real server and Chromium: shown as what it is, and the queue goes on."""

import http.server
import os
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pandas as pd
import pytest
from PIL import Image, PngImagePlugin

import apps.desk
from apps.serve import serve
from curate.errors import CurateError
from curate.ledger import Ledger
from curate.manifest import read_manifest
from tests.browser.conftest import Server

pytestmark = pytest.mark.browser
MARK = "a secret of the host"
TOKEN = "0123456789abcdef-token"
SCRIPT = "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'><svg onload=window.hacked=1>"
MARKDOWN = (
    "![x](http://evil.example/pixel.png) [click](javascript:window.hacked=1) <http://evil.example> :material/home:"
)
HTML = "</textarea></title></div><iframe src='javascript:parent.hacked=1'></iframe><style>*{display:none}</style>"
BIDI = "granite \u202egnp.exe\u202c \u2066\u200b\u0007 end"
QUOTES = "\"' onload=window.hacked=1 x='`${window.hacked=1}` {{7*7}} $\\alpha$ :red[x] =cmd|' /C calc'!A0"
LONG = "A very long title. " * 530  # 10,070 characters


class Hostile(Server):
    """A server on the manifest of `make_hostile`."""

    token = ""

    @classmethod
    def run(cls, folder: Path, port: int) -> None:
        """As if `read_manifest` did not refuse paths out of the root: the next walls have to hold."""
        apps.desk.read_manifest = read_unchecked
        ledger = str(folder / "ledger.db")
        manifest, root, token = folder / "hostile.parquet", folder / "data", cls.token
        serve(manifest, root, ledger, target=4, reviewer="ana", port=port, token=token, open_browser=False)


class Closed(Hostile):
    """The same behind a token."""

    token = TOKEN


def read_unchecked(path: Path) -> pd.DataFrame:
    table = pd.read_parquet(path)
    return table.assign(width=table["width"].astype("Int64"), height=table["height"].astype("Int64"))


def photo(shade: int, size: tuple[int, int] = (320, 240), kind: str = "JPEG") -> bytes:
    buffer = BytesIO()
    Image.new("RGB", size, (shade, 110, 120)).save(buffer, kind)
    return buffer.getvalue()


def noise() -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (300, 400, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def bomb() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(3_000_000))) + chunk(b"IEND", b"")


FILES: dict[str, tuple[str, bytes | None, bool]] = {  # id: file name, its bytes, whether it can be shown
    "script": ("images/<img src=x onerror=window.hacked=1>.jpg", photo(10), True),
    "markdown": ("images/![x](http:evil.example).jpg", photo(20), True),
    "html": ("images/%2e%2e%2f#?&\"'.jpg", photo(30), True),
    "bidi": ("images/\u202egpj.exe", photo(40), True),
    "quotes": ("images/a b\nc\td.jpg", photo(50), True),
    "long": ("images/" + "l" * 200 + ".jpg", photo(60), True),
    "wide": ("images/wide.png", photo(70, (30_000, 400), "PNG"), True),
    "cut": ("images/cut.jpg", noise()[:20_000], True),  # browsers show as much as there is
    "named": ("images/page.jpg", f"<html><script>window.hacked=1</script>{MARK}".encode(), False),
    "corrupt": ("images/corrupt.jpg", b"\xff\xd8\xff\xe0" + bytes(range(256)) * 40, False),
    "empty": ("images/empty.jpg", b"", False),
    "missing": ("images/missing.jpg", None, False),
    "bomb": ("images/bomb.png", bomb(), False),
    "above": ("../secret.png", None, False),
    "deep": ("images/../../secret.png", None, False),
    "absolute": ("/etc/passwd", None, False),
    "link": ("images/link.png", None, False),
    "folder": ("images/away/secret.png", None, False),
    "device": ("images/zero.png", None, False),
    "pipe": ("images/pipe.png", None, False),
    "directory": ("images", None, False),
}
PICTURED = ("script", "bidi", "long", "wide", "cut", "corrupt")  # of the queue: their screenshots are kept
TRAVERSALS = [
    *(
        "../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "%2e%2e%2fsecret.png",
        "..%5csecret.png",
    ),
    *("....//etc/passwd", "%252e%252e%252fetc", "/etc/passwd", "%2fetc%2fpasswd", "script%00", "script%00.png", "%00"),
    *("script/../../../etc/passwd", "script%0d%0aX: y", "stranger", "", ".", "..", "%ff%fe", "a" * 4000),
]
TEXTS = [SCRIPT, MARKDOWN, HTML, BIDI, QUOTES, LONG]


def make_hostile(folder: Path) -> None:
    """`hostile.parquet` with the images above, in that order, with texts that mean harm; secrets beside the root."""
    root = folder / "data"
    (root / "images").mkdir(parents=True)
    for name, data, _ in FILES.values():
        if data is not None:
            (root / name).write_bytes(data)
    secret = PngImagePlugin.PngInfo()
    secret.add_text("Comment", MARK)
    Image.new("RGB", (60, 60)).save(folder / "secret.png", pnginfo=secret)
    (root / "images/link.png").symlink_to(folder / "secret.png")
    (root / "images/away").symlink_to(folder)
    (root / "images/zero.png").symlink_to("/dev/zero")
    os.mkfifo(root / "images/pipe.png")
    write_rows(folder / "hostile.parquet", {name: file_name for name, (file_name, *_) in FILES.items()})


def write_rows(path: Path, file_names: dict[str, str]) -> None:
    def texts(shift: int) -> list[str]:
        return [TEXTS[(n + shift) % len(TEXTS)] for n in range(len(file_names))]

    manifest = pd.DataFrame(
        {
            "image_id": list(file_names),
            "file_name": list(file_names.values()),
            "label": [text[:150] for text in texts(1)],
            "status": "candidate",
            "width": 320,
            "height": 240,
            "suspicion": np.linspace(0.9, 0.1, len(file_names)),
            "title": texts(0),
            "creator": texts(2),
            "query": texts(3),
            "source": [text[:60] for text in texts(4)],
            "license": texts(5),
            "url": "javascript:window.hacked=1",
            "page_url": "data:text/html,<script>opener.hacked=1</script>",
            "predicted": [text[:150] for text in texts(2)],
            "flags": [f"{text[:60]}={text[:60]} ({text[:60]}); {text}" for text in texts(0)],
            "reason": None,
            "duplicate_of": None,
        }
    )
    copy = manifest.iloc[[1]].assign(image_id="copy", status="duplicate", reason=SCRIPT, duplicate_of="script")
    pd.concat([manifest, copy], ignore_index=True).to_parquet(path)


@pytest.fixture(scope="module")
def start(tmp_path_factory, serve) -> Callable[[type[Hostile]], Hostile]:
    def one(kind: type[Hostile]) -> Hostile:
        folder = tmp_path_factory.mktemp("hostile")
        make_hostile(folder)
        return serve(folder, kind)

    return one


@pytest.fixture
def watched(tab) -> Iterator["object"]:
    """The tab; nothing may leave this machine, open a window or ask, and nothing of the host's files may come."""
    asked: list[str] = []
    dialogs: list[str] = []
    bodies: list[bytes] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("websocket", lambda socket: asked.append(socket.url))
    tab.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    tab.on("requestfinished", lambda request: keep_body(request, bodies))
    pages = len(tab.context.pages)
    yield tab
    away = [url for url in asked if urlsplit(url).hostname not in ("127.0.0.1", "localhost", None)]
    assert away == []
    assert not [url for url in asked if urlsplit(url).scheme not in ("http", "ws", "data", "blob")]
    assert dialogs == []
    assert len(tab.context.pages) == pages
    assert not [body for body in bodies if MARK.encode() in body or b"root:" in body]


def keep_body(request, bodies: list[bytes]) -> None:
    if urlsplit(request.url).path.split("/")[1] in ("img", "thumb", "heat", "heat-predicted"):
        bodies.append(request.response().body())


HARM = """() => {
  const found = [], look = (root) => {
    for (const e of root.querySelectorAll("*")) {
      if (e.shadowRoot) look(e.shadowRoot);
      for (const name of ["src", "href", "action", "srcdoc"]) {
        const value = (e.getAttribute(name) ?? "").trim();
        if (/^(javascript|data:text)|evil[.]example/i.test(value)) found.push(`${e.localName} ${name}=${value}`);
      }
      if (e.localName === "iframe" || [...e.attributes].some((a) => /^on/i.test(a.name))) found.push(e.outerHTML);
    }
  };
  look(document);
  return { found, hacked: window.hacked ?? null };
}"""


def assert_no_harm(tab) -> None:
    assert tab.evaluate(HARM) == {"found": [], "hacked": None}


def next_image(tab, before: str | None) -> tuple[str, bool]:
    """Its id, "" at the end, and whether the page shows it."""
    tab.wait_for_function(
        """(before) => {
          const look = (root) => root.querySelector(".review")
            ?? [...root.querySelectorAll("*")].map((e) => e.shadowRoot && look(e.shadowRoot)).find(Boolean);
          const page = look(document);
          if (!page || page.dataset.image === before || page.dataset.pending !== "0") return false;
          const notice = page.querySelector(".notice");
          const refused = !notice.hidden && notice.textContent.includes("cannot be shown");
          return page.dataset.ready === "true" || refused || (before && page.dataset.image === "");
        }""",
        arg=before,
    )
    page = tab.locator(".review")
    return page.get_attribute("data-image") or "", page.get_attribute("data-ready") == "true"


def settled_page(tab) -> None:
    """Until Streamlit has run the script and nothing is being drawn."""
    tab.wait_for_selector(
        "[data-testid=stApp][data-test-script-state=notRunning][data-test-connection-state=CONNECTED]"
    )
    tab.wait_for_function("() => !document.querySelector('[data-stale=true]')")


def test_a_queue_of_harm_is_judged_to_its_end_by_keys(watched, start):
    """What is shown is accepted; what cannot be is rejected; the missing one is skipped first, and comes again."""
    server = start(Hostile)
    watched.goto(server.url)
    seen: list[tuple[str, bool]] = []
    image_id, shown = next_image(watched, None)
    while image_id:
        seen.append((image_id, shown))
        row = list(FILES).index(image_id)
        facts = " ".join(watched.locator(".facts").text_content().split())
        for text in (TEXTS[row % 6], TEXTS[(row + 2) % 6], "javascript:window.hacked=1"):
            assert " ".join(text[:120].split()) in facts, "as text, whatever it is"
        assert_no_harm(watched)
        if image_id in PICTURED:
            watched.screenshot(path=server.ledger.parent / f"{image_id}.png")
        watched.keyboard.press("a")
        if not shown:
            assert watched.locator(".review").get_attribute("data-image") == image_id, "unseen, it cannot be accepted"
            watched.keyboard.press("s" if seen.count(("missing", False)) == 1 and image_id == "missing" else "7")
        image_id, shown = next_image(watched, image_id)
    assert seen.count(("missing", False)) == 2
    assert list(dict.fromkeys(seen)) == [(name, can_be_shown) for name, (*_, can_be_shown) in FILES.items()]
    with Ledger(server.ledger) as ledger:
        standing = ledger.standing()
    expected = {name: "accept" if can_be_shown else "reject" for name, (*_, can_be_shown) in FILES.items()}
    assert standing["verdict"].to_dict() == expected


def test_every_page_shows_harm_as_text(watched, start):
    server = start(Hostile)
    watched.goto(server.url)
    settled_page(watched)
    names = watched.locator("[data-testid=stTopNavLink]").all_text_contents()
    assert {"Review", "Duplicates", "Shortcuts", "Classes"} <= set(names)
    for name in names:
        watched.get_by_role("link", name=name, exact=True).click()
        watched.wait_for_selector(f"[data-testid=stTopNavLink][aria-current=page]:has-text('{name}')")
        settled_page(watched)
        assert watched.locator("[data-testid=stException]").count() == 0, name
        assert_no_harm(watched)
        watched.screenshot(path=server.ledger.parent / f"page-{name.lower().replace(' ', '-')}.png")


def test_the_routes_of_a_real_server_hold_against_paths_and_hosts(start):
    """Sent by hand, as no browser or client would: it tidies paths up first."""
    server = start(Hostile)
    for kind in ("img", "thumb", "heat", "heat-predicted"):
        for path in TRAVERSALS:
            status, body = by_hand(server.port, f"/{kind}/{path}")
            assert status in (400, 404), (kind, path, status)
            assert b"root:" not in body
            assert MARK.encode() not in body
    for path in (
        "/../../../../etc/passwd",
        "/static/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
    ):
        status, body = by_hand(server.port, path)
        assert b"root:" not in body, path
    for name, (_, _, can_be_shown) in FILES.items():
        expected = [200 if can_be_shown else 404, 200 if can_be_shown and name != "cut" else 404]
        assert [by_hand(server.port, f"/{kind}/{name}")[0] for kind in ("img", "thumb")] == expected, name
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:80", "[::2]", ""):
        for path in ("/", "/img/script", "/static/x", "/_stcore/health", "/_stcore/stream"):
            assert by_hand(server.port, path, host)[0] == 400, (host, path)


def by_hand(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, bytes]:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode("latin-1"))
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return int(answer.split(b" ")[1]), answer.split(b"\r\n\r\n", 1)[1]


# --- strangers at a closed door ------------------------------------------------------------------------------------


@pytest.fixture
def other_site() -> Iterator[Callable[[str], str]]:
    """Serves one page of another site, the body given; its address."""
    body = ""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_) -> None:
            pass

    def serve(page: str) -> str:
        nonlocal body
        body = page
        return f"http://localhost:{site.server_port}/"  # to a browser another site than 127.0.0.1

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield serve
        site.shutdown()


def test_a_link_with_the_token_opens_the_review_and_all_that_it_loads_is_closed_to_others(watched, start, other_site):
    server = start(Closed)
    asked: list[str] = []
    watched.on("request", lambda request: asked.append(request.url))
    watched.goto(other_site(f"<a href='{server.url}/?token={TOKEN}'>review with us</a>"))
    watched.get_by_role("link").click()
    image_id, shown = next_image(watched, None)
    assert (image_id, shown) == ("script", True)
    assert watched.url == f"{server.url}/"
    assert watched.evaluate("document.cookie").find("deeprock") == -1, "no script can read it"
    watched.reload()
    next_image(watched, None)
    watched.go_back()
    assert TOKEN not in watched.url
    paths = {urlsplit(url).path for url in asked if url.startswith(server.url) and "token=" not in url}
    assert len(paths) > 10
    with httpx.Client(verify=False) as client:
        assert {client.get(server.url + path).status_code for path in paths} == {403}


def test_another_site_gets_nothing_of_a_review_that_is_open_in_the_same_browser(watched, start, other_site):
    server = start(Closed)
    watched.goto(f"{server.url}/?token={TOKEN}")
    next_image(watched, None)
    watched.goto(other_site(f"<img src='{server.url}/img/script'><iframe src='{server.url}/'></iframe>"))
    assert watched.locator("img").evaluate("i => i.complete && i.naturalWidth") == 0
    opened = """url => new Promise((done) => {
      const socket = new WebSocket(url, ["streamlit"]);
      socket.onopen = () => done("opened");
      socket.onerror = () => done("refused");
    })"""
    assert watched.evaluate(opened, f"ws://127.0.0.1:{server.port}/_stcore/stream") == "refused"


def test_an_unchecked_manifest_is_refused_by_the_name_of_its_row(tmp_path):
    for name in ("../secret.png", "/etc/passwd", "images/../../secret.png", "C:\\secret.png"):
        write_rows(tmp_path / "m.parquet", {"good": "images/a.jpg", "bad": name})
        with pytest.raises(CurateError, match=r"row 2.*file_name.*is a path outside the data root"):
            read_manifest(tmp_path / "m.parquet")
