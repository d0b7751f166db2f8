"""Start the review app: one local server, everything about it said explicitly."""

import socket
import webbrowser
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote

import streamlit as st
import typer
from anyio import CapacityLimiter
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from streamlit.web.bootstrap import load_config_options
from streamlit.web.server.starlette import App

from apps.beforehand import Activity, Beforehand, Watched
from apps.desk import Desk, open_desk
from apps.door import Door, LoginDoor, login_host, login_origin, login_providers, token_for
from apps.exchange import Exchange, exchange_route
from apps.opinions import opinions_of
from apps.pictures import SecurityHeaders, picture_routes
from apps.who import who
from curate.errors import CurateError
from curate.memory import frugal, give_back
from curate.recipe import Recipe
from curate.screen import Next

LOOPBACK = ("127.0.0.1", "localhost")
EVERYWHERE = ("0.0.0.0", "::")
LOOK = {
    "theme.baseRadius": "0.5rem",
    "theme.paddingTop": "0.25rem",
    "theme.light.primaryColor": "#2f6f62",
    "theme.light.backgroundColor": "#f4f3f0",
    "theme.light.secondaryBackgroundColor": "#e9e7e2",
    "theme.light.textColor": "#23262a",
    "theme.light.borderColor": "#d3d0c9",
    "theme.dark.primaryColor": "#6fbfae",
    "theme.dark.backgroundColor": "#17191b",
    "theme.dark.secondaryBackgroundColor": "#212427",
    "theme.dark.textColor": "#e4e3df",
    "theme.dark.borderColor": "#363a3e",
}


def serve(
    manifest: Path,
    root: Path,
    ledger: str,
    *,
    target: int,
    reviewer: str,
    what: Next | None = None,
    recipe: Recipe | None = None,
    runs: Path = Path("runs"),
    host: str = "127.0.0.1",
    port: int = 8501,
    token: str = "",
    open_browser: bool = True,
) -> None:
    """Serve the review pages for one manifest until Ctrl-C.

    Args:
        manifest: read once, at the start; decisions go to the ledger, the manifest stays as it is.
        root: the data root with the images.
        ledger: path of an SQLite file, or an SQLAlchemy URL.
        target: accepted images wanted of each class.
        reviewer: the name that decisions are stored under.
        what: comes first; see `curate.queue.review_queue`.
        recipe: for the pages that collect images.
        runs: the folder of trained runs.
        host: address to listen on. On anything but loopback nobody gets in without a token, or without having logged in
            where Streamlit's login is configured.
        token: asked of everybody, on loopback too; empty: one is made where it is needed.

    Raises:
        CurateError: the manifest or ledger cannot be read, the port is taken, the token can be guessed, or a login is
            configured that cannot work.
    """
    load_config_options(settings(host, port))  # before anything of Streamlit is asked, which would read files alone
    login = login_providers()
    token = token_for(token, needed=not (is_loopback(host) or login))
    frugal()
    desk = Desk(manifest, root, ledger, target=target, reviewer=reviewer, what=what, recipe=recipe, runs=runs)
    give_back()
    try:
        _require_free(host, port)
        desk.shared, desk.login = not is_loopback(host), login
        if desk.shared:
            typer.echo(warning(host, token, login), err=True)
        url = address(host, port) + (f"/?token={quote(token, safe='')}" if token else "")
        with suppress(KeyboardInterrupt):
            app = build_app(desk, host, token=token, login=login, url=url, open_browser=open_browser)
            app.run(config=settings(host, port, login_host()))
        typer.echo("stopped; every decision shown as saved is in the ledger.")
    finally:
        desk.close()


def build_app(
    desk: Desk,
    host: str,
    *,
    token: str = "",
    login: Sequence[str] = (),
    url: str = "",
    open_browser: bool = False,
) -> App:
    """The ASGI application: Streamlit's pages, our pictures, whom it lets in, and the hosts it answers to.

    Args:
        desk: what it serves.
        host: address that it is to listen on.
        token: asked of everybody; empty: of nobody.
        login: providers of the login, if one is configured.
        url: said when it listens, after which it makes pictures beforehand; empty: neither.
        open_browser: whether to open the url.
    """
    activity = Activity()

    @asynccontextmanager
    async def announce(_: App) -> AsyncIterator[None]:
        typer.echo(f"review {desk.name} as {desk.reviewer}: {url}  (Ctrl-C stops)")
        if open_browser:
            webbrowser.open(url)
        pictures = Beforehand(desk.root, desk.file_names, desk.waiting, activity)
        pictures.start()
        give_back()
        yield
        pictures.close()

    routes = [*picture_routes(desk.root, desk.file_names), exchange_route(exchanges(desk), who)]
    doors = [Middleware(Door, token=token)] if token else []
    if login:
        doors.append(Middleware(LoginDoor, folders=[route.path.split("/")[1] for route in routes]))
    open_desk(desk)
    return st.App(
        Path(__file__).with_name("main.py").resolve(),
        routes=routes,
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts(host, login_host()), www_redirect=False),
            Middleware(SecurityHeaders),
            *doors,
            Middleware(Watched, activity=activity),
        ],
        lifespan=announce if url else None,
    )


def warning(host: str, token: str, login: Sequence[str]) -> str:
    """What listening on an address that others reach means."""
    needs = [*(["has the address below, with its token"] if token else []), *(["can log in"] if login else [])]
    return (
        f"warning: listening on {host}: whoever {' and '.join(needs)} can see the images and decide as anybody. "
        "What is sent can be read on the way unless it is encrypted. "
        "Use --host 127.0.0.1 unless all that is wanted."
    )


def address(host: str, port: int) -> str:
    """The URL to open: where a login leads back to, else where the server listens, by an address that others reach."""
    if there := login_origin():
        return there
    name = (own_address() or "127.0.0.1") if host in EVERYWHERE else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}"


def own_address() -> str:
    """This machine's IPv4 address on its usual network, "" without a network; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of the addresses kept for documentation: any far one would do
            return str(probe.getsockname()[0])
        except OSError:
            return ""


def exchanges(desk: Desk) -> dict[str, Exchange]:
    """The pages that send decisions: what each shows, and who takes them."""
    turns = CapacityLimiter(1)
    return {
        "review": Exchange(desk.view, desk.take, turns),
        "grid": Exchange(desk.grid, desk.take, turns),
        "duplicates": Exchange(desk.copies, desk.take, turns),
        "second-opinion": Exchange(
            lambda asked, reviewer: opinions_of(desk).view(asked, reviewer),  # made when somebody comes
            lambda events, reviewer: opinions_of(desk).take(events, reviewer),
        ),
    }


def settings(host: str, port: int, names: Iterable[str] = ()) -> dict[str, Any]:
    """Streamlit's configuration; given explicitly, so that no file or environment variable loosens it."""
    return {
        "server.address": host,
        "server.port": port,
        "server.headless": True,
        "server.baseUrlPath": "",
        "server.allowedHosts": allowed_hosts(host, names),
        "server.enableCORS": True,
        "server.corsAllowedOrigins": [],
        "server.enableXsrfProtection": True,
        "server.enableStaticServing": False,
        "server.maxUploadSize": 200,
        "server.enableAgentApi": False,
        "server.trustedUserHeaders": {},
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        "browser.gatherUsageStats": False,
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "client.showErrorLinks": False,
        "global.developmentMode": False,
        "logger.hideWelcomeMessage": True,
        **LOOK,
    }


def allowed_hosts(host: str, names: Iterable[str] = ()) -> list[str]:
    """Names under which a browser may ask: loopback, these, and of a server that listens wider this machine's own."""
    names = {*LOOPBACK, host, *names} - {*EVERYWHERE}
    if ":" in host:
        names.add(f"[{host}]")  # as the Host header has it
    if is_loopback(host):
        return sorted(names)
    name = socket.gethostname()
    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(name, None)}
    except OSError:
        addresses = set()
    return sorted({*names, name.lower(), socket.getfqdn().lower(), own_address(), *addresses} - {""})


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _require_free(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise CurateError(
            f"{host}:{port} cannot be used: {error.strerror}. Is a review running already? Or give another --port."
        ) from error
