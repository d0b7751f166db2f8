"""What the sources share: what an answer means by its status, and how a JSON interface is asked."""

import json
import threading
import time
from fnmatch import fnmatch
from typing import Any
from urllib.parse import urlsplit

import requests

from curate.recipe import Web
from curate.sources import Answer, Page
from curate.web import FetchError, Reply, ask


class Pace:
    """Lets one question through every so many seconds, whatever the number of threads."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self) -> None:
        """Come back when it is this thread's turn."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self.seconds
        time.sleep(turn - now)


def ask_json(
    session: requests.Session, url: str, web: Web, engine: str, pace: Pace | None = None
) -> dict[str, Any] | Page:
    """The JSON object that an interface answers with, or the page that says why there is none.

    Args:
        engine: its name, for a person.
        pace: of the interface's terms; a mirror of it is asked without.
    """
    if pace and not is_mirrored(url, web):
        pace.wait()
    try:
        reply = ask(session, url, web)
    except FetchError as error:
        return unreachable(error, engine)
    if page := refusal(reply, engine):
        return page
    try:
        answer = json.loads(reply.content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        return Page(Answer.CHANGED, detail=f"{engine} sent no JSON object: this version of DeepRock cannot read it.")
    return answer


def refusal(reply: Reply, engine: str) -> Page | None:
    """What an engine's status alone says: a page without candidates, or None where the answer is worth reading."""
    said = f"{engine} answered with status {reply.status}"
    if reply.status in (429, 503):
        wait = f"Wait {reply.retry_after} s" if reply.retry_after else "Wait"
        return Page(Answer.RATE_LIMITED, detail=f"{said}: too many requests from here. {wait}, or use another source.")
    if reply.status in (401, 403, 451):
        return Page(Answer.BLOCKED, detail=f"{said}: it does not serve us from here. Use another source, or wait.")
    if reply.status >= 500:
        return Page(Answer.UNREACHABLE, detail=f"{said}: it is out of order. Try again later.")
    if reply.status != requests.codes.ok:
        return Page(Answer.CHANGED, detail=f"{said} where a result page was: this version of DeepRock cannot read it.")
    return None


def unreachable(error: FetchError, engine: str) -> Page:
    """The page of an engine that gave no complete answer."""
    detail = f"{engine} could not be reached ({error.cause}). Is there a connection, and is [web.mirrors] right?"
    return Page(Answer.UNREACHABLE, detail=detail)


def is_mirrored(url: str, web: Web) -> bool:
    """Whether the user said that requests for this host go to another one, of which no terms are known."""
    parts = urlsplit(url)
    return any(fnmatch(f"{parts.scheme}://{parts.netloc}", mirror) for mirror in web.mirrors)
