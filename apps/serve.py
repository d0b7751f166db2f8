"""Start the review app: one local server, everything about it said explicitly."""

import socket
import webbrowser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import streamlit as st
import typer
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from streamlit.web.server.starlette import App

from apps.desk import Desk, open_desk
from apps.pictures import SecurityHeaders, picture_routes
from curate.errors import CurateError
from curate.recipe import Recipe
from curate.screen import Next

LOOPBACK = ("127.0.0.1", "localhost")
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
        host: address to listen on. Anything but loopback shows the images to, and takes decisions from, all who can
            reach it: there is no login.

    Raises:
        CurateError: the manifest or ledger cannot be read, or the port is taken.
    """
    desk = Desk(manifest, root, ledger, target=target, reviewer=reviewer, what=what, recipe=recipe, runs=runs)
    _require_free(host, port)
    if not is_loopback(host):
        typer.echo(
            f"warning: listening on {host}: whoever reaches this machine can see the images and decide as {reviewer}. "
            "Use --host 127.0.0.1 unless that is wanted.",
            err=True,
        )
    try:
        with suppress(KeyboardInterrupt):
            app = build_app(desk, host, url=f"http://{host}:{port}", open_browser=open_browser)
            app.run(config=settings(host, port))
        typer.echo("stopped; every decision shown as saved is in the ledger.")
    finally:
        desk.close()


def build_app(desk: Desk, host: str, *, url: str = "", open_browser: bool = False) -> App:
    """The ASGI application: Streamlit's pages, our pictures, and the hosts it answers to."""

    @asynccontextmanager
    async def announce(_: App) -> AsyncIterator[None]:
        typer.echo(f"review {desk.name} as {desk.reviewer}: {url}  (Ctrl-C stops)")
        if open_browser:
            webbrowser.open(url)
        yield

    open_desk(desk)
    return st.App(
        Path(__file__).with_name("main.py").resolve(),
        routes=picture_routes(desk.root, desk.file_names),
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts(host), www_redirect=False),
            Middleware(SecurityHeaders),
        ],
        lifespan=announce if url else None,
    )


def settings(host: str, port: int) -> dict[str, Any]:
    """Streamlit's configuration; given explicitly, so that no file or environment variable loosens it."""
    return {
        "server.address": host,
        "server.port": port,
        "server.headless": True,
        "server.baseUrlPath": "",
        "server.allowedHosts": allowed_hosts(host),
        "server.enableCORS": True,
        "server.corsAllowedOrigins": [],
        "server.enableXsrfProtection": True,
        "server.enableStaticServing": False,
        "server.enableAgentApi": False,
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


def allowed_hosts(host: str) -> list[str]:
    """Names under which a browser may ask: loopback, and for a server that listens wider this machine's own."""
    if is_loopback(host):
        return sorted({*LOOPBACK, host})
    name = socket.gethostname()
    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(name, None)}
    except OSError:
        addresses = set()
    return sorted({*LOOPBACK, host, name.lower(), socket.getfqdn().lower(), *addresses})


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
