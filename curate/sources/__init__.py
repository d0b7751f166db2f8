"""Where images come from: each source is one small module with a `search` and a `fetch`.

`search` asks for one page of candidates and says what the answer was; `fetch` brings the bytes of one candidate.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import NamedTuple

from curate.guard import FetchError

__all__ = ["Answer", "Candidate", "FetchError", "Page", "Source", "clean_text"]


class Answer(StrEnum):
    """What a search engine's answer was, told apart before anything is read out of it."""

    OK = "ok"
    EMPTY = "empty"
    BLOCKED = "blocked"
    RATE_LIMITED = "rate-limited"
    CHANGED = "format changed"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class Candidate:
    """An image that a source offers, with all that the source says of its origin. Text is cleaned of control codes."""

    url: str
    page_url: str = ""
    title: str = ""
    creator: str = ""
    license: str = ""
    license_url: str = ""
    license_basis: str = "unknown"
    attribution: str = ""

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, clean_text(getattr(self, f.name)))


@dataclass(frozen=True)
class Page:
    """One answer of a source.

    Attributes:
        cursor: hand it to the next `search` for the page after this; None when there is none.
        detail: for a person, where the answer is not `ok`: what was seen and what to do.
    """

    answer: Answer
    candidates: tuple[Candidate, ...] = ()
    cursor: str | None = None
    detail: str = ""


class Source(NamedTuple):
    """How one source is asked; both functions are bound to the recipe and the open session by `open_source`.

    search(query, label, cursor): a page. fetch(url): the bytes, or FetchError. relist: whether each run lists it from
    the beginning, as a list that grows at any place must be.
    """

    search: Callable[[str, str, str | None], Page]
    fetch: Callable[[str], bytes]
    relist: bool = False


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ue000-\uf8ff]+")


def clean_text(text: str) -> str:
    """One line without control codes, escape sequences' ESC, direction overrides or private-use marks."""
    return " ".join(_CONTROL.sub(" ", text).split())[:2000]
