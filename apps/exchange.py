"""Pages that live in the browser: their files, and the address where their decisions come in and are answered.

Decisions do not pass through a run of Streamlit's script, which is begun anew for every message: a page sends its
outbox to `/exchange/{page}` and gets what it is to show, with what the ledger holds now.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import streamlit as st
from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

Asked = dict[str, Any]
View = Callable[[Asked, str], dict[str, Any]]  # what is asked for, and by whom -> what is shown
Take = Callable[[list[Any], str], dict[str, Any]]  # decisions, oldest first, and whose -> acked, refused, error
Who = Callable[[Mapping[str, str], Asked], str]  # cookies, and what is asked for -> the reviewer
LARGEST = 4_000_000  # bytes of a message
OURS = "x-deeprock"  # a header that a page of another site cannot set without being asked whether it may
_HERE = Path(__file__).parent


class Exchange(NamedTuple):
    """The server's side of a page.

    Attributes:
        view: what it shows.
        take: takes its decisions.
        turns: shared by pages that wait for the same lock anyway, so that no thread does: threads that wait for it hold
            up what is not behind it. None: all at once.
    """

    view: View
    take: Take
    turns: CapacityLimiter | None = None


def browser_page(name: str, *also: str) -> Callable[..., Any]:
    """The component of a page: name.html, name.css and name.js, the last two after what all pages, or some, share."""
    files = ("shared", *also, name)
    return st.components.v2.component(
        f"deeprock_{name}",
        html=_read(f"{name}.html"),
        css="".join(_read(f"{file}.css") for file in files),
        js="".join(_read(f"{file}.js") for file in files),
    )


def exchange_route(pages: Mapping[str, Exchange], who: Who) -> Route:
    """POST `/exchange/{page}`: a JSON object with `events`, and beside them what is asked for.

    The answer is what the page shows, `acked`, `refused` and `error` of the events, and `asked`. Only pages of this
    server reach it: it wants JSON, and a header of our own.

    Args:
        pages: by name.
        who: decides.
    """

    async def answer(request: Request) -> Response:
        page = pages.get(request.path_params["page"])
        if page is None:
            return PlainTextResponse("no such page", status_code=404)
        if OURS not in request.headers or request.headers.get("content-type") != "application/json":
            return PlainTextResponse("only a page of this server may send decisions", status_code=403)
        if not request.headers.get("content-length", "").isdigit() or int(request.headers["content-length"]) > LARGEST:
            return PlainTextResponse(f"a message has at most {LARGEST:,} bytes", status_code=413)
        try:
            message = json.loads(await request.body())
        except ValueError:
            message = None
        if not isinstance(message, dict):
            return PlainTextResponse("not a JSON object", status_code=400)
        exchange = partial(_answer, page.view, page.take, message, who(request.cookies, message))
        shown = await to_thread.run_sync(exchange, limiter=page.turns)
        return JSONResponse(shown, headers={"Cache-Control": "no-store"})

    return Route("/exchange/{page}", answer, methods=["POST"])


def _answer(view: View, take: Take, message: Asked, reviewer: str) -> dict[str, Any]:
    events = message.pop("events", None)
    outcome = take(events if isinstance(events, list) else [], reviewer)
    return {**outcome, **view(message, reviewer), "asked": message}


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
