"""Who is let in: whoever brings the server's token, or has logged in where Streamlit's login is configured."""

import hashlib
import hmac
import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import streamlit as st
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from streamlit.auth_util import (
    get_cookie_with_chunks,
    get_origin_from_redirect_uri,
    get_secrets_auth_section,
    is_authlib_installed,
    validate_auth_credentials,
)
from streamlit.errors import StreamlitAuthError
from streamlit.web.server.server_util import get_cookie_secret
from streamlit.web.server.starlette.starlette_app_utils import decode_signed_value
from streamlit.web.server.starlette.starlette_server_config import USER_COOKIE_NAME

from curate.errors import CurateError

SHORTEST_TOKEN = 16  # characters
PRIVATE = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}


class Door:
    """ASGI middleware: HTTP and WebSocket only for those who bring the token, once in the address, then as a cookie.

    The first visit, `/?token=...`, is sent on to the same address without it, so that it stays in no history. The
    cookie is SameSite=Lax, not Strict: after a click on the address in a mail or a chat browsers withhold a strict one
    from the page that they are sent on to, and from the way back from a login. What changes anything goes by POST or
    WebSocket, for which other sites get neither kind.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self._key = _digest(token)
        self._cookie = f"deeprock_{self._key[:8]}"  # cookies are shared by the ports of a host: each server has its own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or send on, or 403; a WebSocket is closed before it is accepted, which is a 403 too."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        connection = HTTPConnection(scope)
        if scope["type"] == "http" and self._is_token(connection.query_params.get("token", "")):
            return await self._welcome(connection)(scope, receive, send)
        if hmac.compare_digest(connection.cookies.get(self._cookie, "").encode(), self._key.encode()):
            return await self.app(scope, receive, send)
        return await refuse(
            "This review is closed. Open it with the whole address, with its token, as `curate review` printed it.",
            scope,
            receive,
            send,
        )

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(_digest(given), self._key)

    def _welcome(self, connection: HTTPConnection) -> Response:
        rest = [(name, value) for name, value in parse_qsl(connection.url.query, True) if name != "token"]
        path = "/" + quote(connection.scope["path"].lstrip("/\\"))  # one slash: two would name another host
        answer = RedirectResponse(path + ("?" + urlencode(rest) if rest else ""), 303, PRIVATE)
        secure = connection.scope.get("scheme") in ("https", "wss")
        answer.set_cookie(self._cookie, self._key, path="/", secure=secure, httponly=True, samesite="lax")
        return answer


class LoginDoor:
    """ASGI middleware: what is served from our own routes, only for those who logged in; pages see to themselves."""

    def __init__(self, app: ASGIApp, folders: Collection[str]) -> None:
        self.app, self._folders = app, frozenset(folders)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or 403 where the path begins with one of the folders and Streamlit's cookie says nothing good."""
        ours = scope["type"] == "http" and scope["path"].lstrip("/").split("/")[0] in self._folders
        if ours and not logged_in(HTTPConnection(scope).cookies):
            return await refuse("Log in first, on the page of the review.", scope, receive, send)
        return await self.app(scope, receive, send)


async def refuse(why: str, scope: Scope, receive: Receive, send: Send) -> None:
    """403 in plain words; a WebSocket is closed with 1008 (policy violation)."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
    else:
        await PlainTextResponse(why + "\n", 403, PRIVATE)(scope, receive, send)


def token_for(given: str, *, needed: bool) -> str:
    """The token of a server: the given one, a new one where it is needed, else "": there is no door.

    Raises:
        CurateError: the given one can be guessed.
    """
    if given and (len(given) < SHORTEST_TOKEN or len(set(given)) < SHORTEST_TOKEN // 2):
        raise CurateError(
            f"a token of {len(given)} characters, {len(set(given))} of them different, can be guessed: give at least "
            f"{SHORTEST_TOKEN}, {SHORTEST_TOKEN // 2} of them different, or none: then one is made."
        )
    return given or (secrets.token_urlsafe() if needed else "")


def login_providers() -> list[str]:
    """Names of the login's providers in Streamlit's secrets.toml, "default" for one without a name; [] without [auth].

    Raises:
        CurateError: the login is configured, but cannot work.
    """
    section = get_secrets_auth_section()
    if not section:
        return []
    named = [name for name, value in section.items() if isinstance(value, Mapping) and "client_id" in value]
    providers = [*(["default"] if "client_id" in section else []), *named] or ["default"]
    if not is_authlib_installed():
        raise CurateError(
            "secrets.toml configures a login, for which Authlib is missing: pip install 'streamlit[auth]'."
        )
    for name in providers:
        try:
            validate_auth_credentials(name)
        except StreamlitAuthError as error:
            raise CurateError(f"the login in secrets.toml cannot work: {' '.join(str(error).split())}") from error
    return providers


def login_origin() -> str:
    """Where the login leads back to, such as "https://review.example.org"; empty without a login."""
    return get_origin_from_redirect_uri() or ""


def login_host() -> list[str]:
    """The host of `login_origin`, under which the pages are then asked for; [] without a login."""
    return [name] if (name := urlsplit(login_origin()).hostname) else []


def logged_in(cookies: Mapping[str, str]) -> bool:
    """Whether the cookies of a request hold a login that Streamlit signed for this address and that is still valid."""
    return bool(login_of(cookies))


def login_of(cookies: Mapping[str, str]) -> dict[str, Any]:
    """What the provider said of whoever is logged in by these cookies; {} where nobody is."""

    def signed(name: str) -> bytes | None:
        return decode_signed_value(get_cookie_secret(), name, cookies.get(name, "").encode("latin-1", "replace"))

    found = get_cookie_with_chunks(signed, USER_COOKIE_NAME)
    try:
        said: Any = json.loads(found or b"null")
    except ValueError:
        return {}
    origin = login_origin()
    valid = isinstance(said, dict) and said.get("is_logged_in") is True and origin and said.get("origin") == origin
    return said if valid else {}


def require_login(providers: Sequence[str]) -> None:
    """On a page of Streamlit: the login and nothing else until somebody is logged in; no providers: none is needed."""
    if not providers or st.user.to_dict().get("is_logged_in") is True:
        return
    st.subheader("Log in to review")
    for name in providers:
        words = "Log in" if name == "default" else f"Log in with {name}"
        st.button(words, key=f"login_{name}", on_click=st.login, args=[] if name == "default" else [name])
    st.stop()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
