"""Openverse, a search over openly licensed images: 20 results a page, at most 240 deep without registration.

Its terms allow searching, not copying its catalogue: who does not register may ask 20 times a minute and 200 times a
day, and this source keeps to the first by its pace. The images themselves come from where Openverse found them.
"""

from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlencode

import requests

from curate.licenses import credit_line, identify, permits, require_wanted
from curate.recipe import Recipe, Web
from curate.sources import Answer, Candidate, Page, Source
from curate.sources.api import Pace, ask_json
from curate.web import download, is_web_address

SEARCH = "https://api.openverse.org/v1/images/"
PER_PAGE = 20
DEPTH = 240  # "pagination depth may not exceed 240 for anonymous requests"
SECONDS = 3.0  # between questions
CODES = ("by", "by-nc", "by-nc-nd", "by-nc-sa", "by-nd", "by-sa", "cc0", "pdm")
ADVICE = {
    Answer.RATE_LIMITED: "Who is not registered may ask Openverse 20 times a minute and 200 times a day: come back in "
    "some minutes, at the latest tomorrow.",
    Answer.BLOCKED: "Openverse shows 240 images a query, 20 at a time, to who is not registered, and may refuse more.",
}


def open_source(recipe: Recipe, session: requests.Session) -> Source:
    """Openverse, asked over this session without registration.

    Raises:
        CurateError: the recipe's `license` is not one of `licenses.WANTED`.
    """
    search = partial(_search, session, recipe.web, require_wanted(recipe.license), Pace(SECONDS))
    return Source(search, lambda url: download(session, url, recipe.web))


def license_codes(wanted: str) -> list[str]:
    """The licences to ask Openverse for, so that all that comes allows what is wanted; none: no filter.

    Args:
        wanted: one of `licenses.WANTED`.
    """
    return [] if wanted == "any" else [code for code in CODES if permits(code, "asserted", wanted)]


def read_page(answer: dict[str, Any], number: int = 1, wanted: str = "any") -> Page:
    """What an answer of `/v1/images/` holds.

    Args:
        number: of the page, from 1.
        wanted: images whose licence does not allow it are left out, whatever was asked for.
    """
    results = answer.get("results")
    if not isinstance(results, list):
        return Page(Answer.CHANGED, detail="Openverse lists no results where they were: its format changed.")
    if not results:
        return Page(Answer.EMPTY, detail="Openverse has no (more) images for this query and licence.")
    decent = [result for result in results if isinstance(result, dict) and not _is_sensitive(result)]
    found = [candidate for result in decent if (candidate := _candidate(result))]
    if not found and (decent or not any(isinstance(result, dict) for result in results)):
        detail = f"Openverse sent {len(results)} results, none of which can be read: its format changed."
        return Page(Answer.CHANGED, detail=detail)
    pages = answer.get("page_count")
    last = min(pages, DEPTH // PER_PAGE) if type(pages) is int else DEPTH // PER_PAGE
    offers = tuple(c for c in found if permits(c.license, c.license_basis, wanted))
    return Page(Answer.OK, offers, cursor=str(number + 1) if number < last else None)


def _search(
    session: requests.Session, web: Web, wanted: str, pace: Pace, query: str, label: str, cursor: str | None
) -> Page:
    number = int(cursor or 1)
    fields = {"q": query, "page": number, "page_size": PER_PAGE, "mature": "false"}
    if codes := license_codes(wanted):
        fields["license"] = ",".join(codes)
    answer = ask_json(session, f"{SEARCH}?{urlencode(fields)}", web, "Openverse", pace)
    page = answer if isinstance(answer, Page) else read_page(answer, number, wanted)
    if page.answer in (Answer.OK, Answer.EMPTY):
        return page
    return replace(page, cursor=cursor, detail=" ".join(filter(None, (page.detail, ADVICE.get(page.answer)))))


def _is_sensitive(result: dict[str, Any]) -> bool:
    """Whether Openverse or its users mark an image as not for everyone; we ask for none such."""
    return bool(result.get("mature") or result.get("unstable__sensitivity"))


def _candidate(result: dict[str, Any]) -> Candidate | None:
    url = _address(result, "url")
    if not url:
        return None
    title, creator = _text(result, "title"), _text(result, "creator")
    code, address = _text(result, "license"), _address(result, "license_url")
    version = result.get("license_version") or ""
    license = identify(f"{code} {version}".strip(), address) or code
    page_url = _address(result, "foreign_landing_url")
    return Candidate(
        url,
        page_url=page_url,
        title=title,
        creator=creator,
        license=license,
        license_url=address,
        license_basis="asserted" if license else "unknown",
        attribution=_text(result, "attribution") or credit_line(title, creator, license, page_url),
    )


def _text(result: dict[str, Any], key: str) -> str:
    value = result.get(key)
    return value.strip() if isinstance(value, str) else ""


def _address(result: dict[str, Any], key: str) -> str:
    """A web address, whole; "" where there is none."""
    url = _text(result, key).replace(" ", "%20")
    url = f"https:{url}" if url.startswith("//") else url
    return url if is_web_address(url) else ""
