"""Who is let in: the token on every route of a real server and on its WebSocket; Streamlit's login; what is refused."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from streamlit import auth_util
from streamlit.runtime.secrets import secrets_singleton
from streamlit.testing.v1 import AppTest
from streamlit.web.server.starlette.starlette_app_utils import create_signed_value
from streamlit.web.server.starlette.starlette_server_config import USER_COOKIE_NAME
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from apps import door
from apps import serve as server
from apps.desk import Desk, open_desk
from apps.door import Door, LoginDoor, logged_in, login_providers, token_for
from apps.exchange import exchange_route
from apps.pictures import picture_routes
from apps.who import who
from curate.errors import CurateError
from curate.images import inspect
from curate.manifest import write_manifest
from curate.store import store

TOKEN = "a token / with 'signs' & spaces; ü"
START = """
import sys
from pathlib import Path
from apps.serve import serve
folder = Path(sys.argv[1])
serve(folder / "audited.csv", folder / "data", str(folder / "ledger.db"), target=4, reviewer="ana",
      host=sys.argv[2], port=int(sys.argv[3]), token=sys.argv[4], open_browser=False)
"""
ROUTES = [
    "/exchange/review",  # of Streamlit's and of ours: what exists is closed like what does not
    *("/", "/review", "/index.html", "/static/js/index.js", "/favicon.png", "/nothing/here", "/?token=wrong"),
    *("/_stcore/health", "/healthz", "/_stcore/host-config", "/_stcore/metrics", "/_stcore/script-health-check"),
    *("/media/x.png", "/component/x/index.html", "/_stcore/bidi-components/x/y.js", "/_stcore/upload_file/x/y"),
    *("/auth/login", "/auth/logout", "/oauth2callback", "/_stcore/agent/x", "/app/static/x", "/_stcore/stream"),
    *("/img/rock", "/thumb/rock", "/heat/rock", "/heat-predicted/rock", "//img/rock", "/img/../static/x"),
]


def make_data(folder: Path) -> Path:
    buffer = BytesIO()
    Image.new("RGB", (40, 30), "grey").save(buffer, "PNG")
    name = store(folder / "data", buffer.getvalue(), inspect(buffer.getvalue()))
    row = {"image_id": "rock", "file_name": name, "label": "basalt", "status": "candidate"}
    write_manifest(pd.DataFrame([row]), folder / "audited.csv")
    return folder


class Running:
    """A server in its own process; `url` as it printed it, `base` where it answers on this machine."""

    def __init__(self, folder: Path, host: str, token: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, "-W", "error::UserWarning", "-c", START, folder, host, port, token]
        self.process = subprocess.Popen(
            list(map(str, command)),
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout
        self.printed = ""
        while "Ctrl-C stops" not in self.printed:
            line = self.process.stdout.readline()
            assert line, self.printed
            self.printed += line
        found = re.search(r"as ana: (\S+) ", self.printed)
        assert found
        self.url, self.base = found[1], f"127.0.0.1:{port}"
        self.cookie = ""

    def ask(self, method: str, path: str, **headers: str) -> httpx.Response:
        with httpx.Client(timeout=20, verify=False) as client:
            return client.request(method, f"http://{self.base}{path}", headers=headers)

    def enter(self) -> httpx.Response:
        """The first visit, with the printed address."""
        answer = self.ask("GET", "/?token=" + self.url.split("/?token=")[1])
        self.cookie = answer.headers["set-cookie"].split(";")[0]
        return answer

    def websocket(self, **headers: str):
        return connect(f"ws://{self.base}/_stcore/stream", additional_headers=headers, subprotocols=["streamlit"])


@pytest.fixture(scope="module")
def closed(tmp_path_factory) -> Iterator[Running]:
    running = Running(make_data(tmp_path_factory.mktemp("door")), "127.0.0.1", TOKEN)
    yield running
    running.process.kill()
    running.process.communicate()


# --- the token -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"])
def test_nothing_is_answered_without_the_token(closed, method):
    for path in ROUTES:
        answer = closed.ask(method, path)
        assert (path, answer.status_code) == (path, 403)
        assert answer.headers["cache-control"] == "no-store"
        assert method == "HEAD" or answer.text.startswith("This review is closed. Open it with the whole address")


def test_a_wrong_cookie_opens_nothing_and_the_token_itself_is_no_cookie(closed):
    closed.enter()
    name, value = closed.cookie.split("=")
    for wrong in (f"{name}=", f"{name}={value[:-1]}", f"{name}={value[::-1]}", f"{name}=%FC", f"other={value}"):
        assert closed.ask("GET", "/img/rock", Cookie=wrong).status_code == 403
    assert closed.ask("GET", "/img/rock", Cookie=f"{name}={quote(TOKEN)}").status_code == 403
    assert closed.ask("GET", "/img/rock", Authorization=f"Bearer {value}").status_code == 403


def test_the_printed_address_opens_all_and_leaves_no_token_behind(closed):
    answer = closed.enter()
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    kind = answer.headers["set-cookie"]
    assert {part.strip().lower() for part in kind.split(";")[1:]} == {"httponly", "path=/", "samesite=lax"}
    assert "token" not in kind
    for path, found in {"/": "<title>", "/_stcore/health": "ok", "/img/rock": "PNG"}.items():
        inside = closed.ask("GET", path, Cookie=closed.cookie)
        assert inside.status_code == 200
        assert found.encode() in inside.content
    script = re.search(r"static/js/index\.[\w-]+\.js", closed.ask("GET", "/", Cookie=closed.cookie).text)
    assert script
    assert closed.ask("GET", f"/{script[0]}", Cookie=closed.cookie).status_code == 200
    assert closed.ask("GET", f"/{script[0]}").status_code == 403


@pytest.mark.parametrize(
    ("path", "sent_on_to"),
    [
        ("/review?a=1&token={}&b=%26", "/review?a=1&b=%26"),
        ("//evil.example/%2e%2e?token={}", "/evil.example/.."),
        ("/%5cevil.example?token={}", "/evil.example"),
        ("/a%0d%0aSet-Cookie:x?token={}", "/a%0D%0ASet-Cookie%3Ax"),
    ],
)
def test_the_way_on_is_never_to_another_host(closed, path, sent_on_to):
    token = closed.url.split("token=")[1]
    assert closed.ask("GET", path.format(token)).headers["location"] == sent_on_to


def test_the_websocket_opens_with_the_cookie_alone(closed):
    closed.enter()
    with closed.websocket(Cookie=closed.cookie) as opened:
        assert opened.subprotocol == "streamlit"
    for headers in ({}, {"Cookie": "deeprock=1"}, {"Sec-WebSocket-Protocol": "streamlit"}):
        with pytest.raises(InvalidStatus, match="403"):
            closed.websocket(**headers)
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://{closed.base}/_stcore/stream?token={closed.url.split('token=')[1]}")


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_a_page_of_another_site_gets_no_websocket_even_with_the_cookie(closed, origin):
    closed.enter()
    with pytest.raises(InvalidStatus, match="403"):
        closed.websocket(Cookie=closed.cookie, Origin=origin)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "", "[::1"])
def test_a_foreign_host_gets_400_before_anything_else(closed, host):
    closed.enter()
    for path in ("/", "/img/rock", "/static/js/x", "/_stcore/health"):
        assert closed.ask("GET", path, Host=host, Cookie=closed.cookie).status_code == 400
    assert closed.ask("GET", "/", Host="localhost:1", Cookie=closed.cookie).status_code == 200


def test_a_cookie_is_for_https_alone_where_it_came_by_https():
    app = Door(Starlette(), "0123456789abcdef")

    async def ask(scheme: str) -> str:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=f"{scheme}://127.0.0.1") as client:
            return (await client.get("/?token=0123456789abcdef")).headers["set-cookie"].lower()

    assert "secure" in asyncio.run(ask("https"))
    assert "secure" not in asyncio.run(ask("http"))


def test_a_server_for_all_makes_itself_a_token_and_says_so(tmp_path):
    running = Running(make_data(tmp_path), "0.0.0.0", "")
    try:
        assert running.printed.startswith(
            "warning: listening on 0.0.0.0: whoever has the address below, with its token"
        )
        token = running.url.split("/?token=")[1]
        assert len(token) >= 43
        assert "0.0.0.0" not in running.url
        assert running.ask("GET", "/").status_code == 403
        there = running.url.split("/")[2]
        assert running.ask("GET", "/", Host=there).status_code == 403, "its own address is no foreign host"
        running.enter()
        assert running.ask("GET", "/img/rock", Cookie=running.cookie, Host=there).status_code == 200
        running.process.send_signal(signal.SIGINT)
        rest, _ = running.process.communicate(timeout=20)
        assert rest == "stopped; every decision shown as saved is in the ledger.\n"
        assert token not in rest
    finally:
        running.process.kill()


def test_a_token_is_made_where_it_is_needed_and_one_that_can_be_guessed_is_refused():
    assert token_for("", needed=False) == ""
    assert token_for("", needed=True) != token_for("", needed=True)
    assert token_for("correct horse battery", needed=False) == "correct horse battery"
    for weak in ("secret", "0123456789abcde", "a" * 40, "abcabcabcabcabcabc"):
        with pytest.raises(CurateError, match=r"can be guessed: give at least 16"):
            token_for(weak, needed=True)


# --- the login -----------------------------------------------------------------------------------------------------

AUTH = {
    "redirect_uri": "https://review.example/oauth2callback",
    "cookie_secret": "a secret of this test, long enough",
    "client_id": "x",
    "client_secret": "y",
    "server_metadata_url": "https://login.example/.well-known/openid-configuration",
}


@pytest.fixture
def secrets(monkeypatch):
    """Sets [auth] of Streamlit's secrets, as a file would; with Authlib there."""

    def configure(auth: dict) -> None:
        monkeypatch.setattr(secrets_singleton, "_secrets", {"auth": auth})
        monkeypatch.setattr(door, "is_authlib_installed", lambda: True)

    return configure


def cookies(said: dict, *, secret: str = AUTH["cookie_secret"]) -> dict[str, str]:
    """As Streamlit sets them after a login, in pieces where they are long."""
    made: dict[str, str] = {}
    auth_util.set_cookie_with_chunks(
        lambda name, value: made.update({name: create_signed_value(secret, name, value).decode()}),
        lambda name, value: create_signed_value(secret, name, value),
        USER_COOKIE_NAME,
        said,
        cookie_attr_size=60,
    )
    return made


def test_a_login_is_one_that_streamlit_signed_for_this_address(secrets):
    secrets(AUTH)
    ana = {"origin": "https://review.example", "is_logged_in": True, "email": "ana@example"}
    assert logged_in(cookies(ana))
    long = cookies(ana | {"groups": np.random.default_rng(0).bytes(6000).hex()})
    assert len(long) > 2
    assert logged_in(long)
    for said in ({**ana, "is_logged_in": False}, {**ana, "origin": "https://evil.example"}, {"origin": None}, {}):
        assert not logged_in(cookies(said))
    assert not logged_in(cookies(ana, secret="another"))
    assert not logged_in({USER_COOKIE_NAME: json.dumps(ana)})
    assert not logged_in({})


def test_pictures_are_for_those_who_logged_in(secrets, tmp_path):
    secrets(AUTH)
    folder = make_data(tmp_path)
    name = next((folder / "data/images").glob("*/*.png")).relative_to(folder / "data").as_posix()
    routes = picture_routes(folder / "data", {"rock": name})
    folders = [route.path.split("/")[1] for route in routes]
    app = Starlette(routes=routes, middleware=[Middleware(LoginDoor, folders=folders)])

    async def ask(path: str, jar: dict[str, str]) -> int:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", cookies=jar
        ) as client:
            return (await client.get(path)).status_code

    ana = cookies({"origin": "https://review.example", "is_logged_in": True})
    for kind, inside in {"img": 200, "thumb": 200, "heat": 404, "heat-predicted": 404}.items():
        assert asyncio.run(ask(f"/{kind}/rock", {})) == 403
        assert asyncio.run(ask(f"/{kind}/rock", ana)) == inside


def test_decisions_are_taken_from_those_who_logged_in_and_under_the_name_of_the_login(secrets, tmp_path):
    secrets(AUTH)
    folder = make_data(tmp_path)
    desk = Desk(folder / "audited.csv", folder / "data", str(folder / "l.db"), target=1, reviewer="local")
    desk.login = ["default"]
    open_desk(desk)
    routes = [exchange_route(server.exchanges(desk), who)]
    app = Starlette(routes=routes, middleware=[Middleware(LoginDoor, folders=["exchange"])])
    decision = {"id": str(uuid.uuid4()), "image_id": "rock", "verdict": "accept"}

    async def send(jar: dict[str, str]) -> int:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", cookies=jar
        ) as client:
            message = {"reviewer": "somebody else", "events": [decision]}
            return (await client.post("/exchange/review", json=message, headers={"x-deeprock": "1"})).status_code

    assert asyncio.run(send({})) == 403
    assert desk.ledger.history().empty
    ana = {"origin": "https://review.example", "is_logged_in": True, "email": "ana@example"}
    assert asyncio.run(send(cookies(ana))) == 200
    assert list(desk.ledger.history()["reviewer"]) == ["ana@example"]
    desk.close()


def test_a_login_that_cannot_work_is_said_at_the_start(secrets, monkeypatch):
    assert login_providers() == []
    secrets(AUTH)
    assert login_providers() == ["default"]
    assert server.address("0.0.0.0", 8501) == "https://review.example"
    assert "review.example" in server.allowed_hosts("127.0.0.1", door.login_host())
    provider = {name: AUTH[name] for name in ("client_id", "client_secret", "server_metadata_url")}
    common = {name: AUTH[name] for name in ("redirect_uri", "cookie_secret")}
    secrets({**common, "google": provider, "okta": provider})
    assert login_providers() == ["google", "okta"]
    secrets({name: value for name, value in AUTH.items() if name != "cookie_secret"})
    with pytest.raises(CurateError, match=r"the login in secrets\.toml cannot work.*cookie_secret"):
        login_providers()
    secrets(AUTH)
    monkeypatch.setattr(door, "is_authlib_installed", lambda: False)
    with pytest.raises(CurateError, match=r"Authlib is missing: pip install 'streamlit\[auth\]'"):
        login_providers()


LOGIN_PAGE = """
import streamlit as st
from apps.door import login_providers, require_login
require_login(login_providers())
st.text("the images")
"""


def test_a_page_shows_the_login_and_nothing_else(secrets):
    page = AppTest.from_string(LOGIN_PAGE).run()
    assert [text.value for text in page.text] == ["the images"]
    secrets(AUTH)
    page = AppTest.from_string(LOGIN_PAGE).run()
    assert not page.exception
    assert [button.label for button in page.button] == ["Log in"]
    assert [text.value for text in page.text] == []
