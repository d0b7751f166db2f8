"""Wikimedia Commons: a search for files with what each file's page says of its author and licence; 50 a page.

Its operators ask for one question at a time and for a user agent that says how to reach who runs it: `contact` in the
recipe's [web] table. Large originals are left where they are: Commons scales pictures down on request, and a width of
1280 is one of those that it keeps ready.
"""

import json
import mimetypes
import re
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlencode

import requests
from bs4 import BeautifulSoup

from curate.licenses import credit_line, identify, permits, require_wanted
from curate.recipe import Recipe, Web
from curate.sources import Answer, Candidate, Page, Source
from curate.sources.api import Pace, ask_json
from curate.web import download, is_web_address

SEARCH = "https://commons.wikimedia.org/w/api.php"
PER_PAGE = 50  # as many scaled pictures as one answer holds
WIDTH = 1280  # pixels of the pictures we take, at most
SECONDS = 1.0  # between questions
LONGEST_HTML = 20_000  # characters read of one
QUESTION = {
    "action": "query",
    "format": "json",
    "maxlag": 5,  # seconds that the databases lag behind: "recommended for non-interactive tasks"
    "generator": "search",
    "gsrnamespace": 6,
    "gsrlimit": PER_PAGE,
    "prop": "imageinfo",
    "iiprop": "url|size|mime|extmetadata",
    "iiurlwidth": WIDTH,
}
AS_IT_IS = {"image/jpeg", "image/png", "image/webp", "image/gif"}
SCALED = AS_IT_IS | {"image/tiff"}  # Commons makes a JPEG of it
FAILURES = (  # shapes of an error's code -> what it means, and what to do
    (r"ratelimited|maxlag|.*(busy|pool|queuefull).*", Answer.RATE_LIMITED, "Wait some minutes."),
    (r".*blocked.*|permissiondenied|readapidenied", Answer.BLOCKED, "Use another source."),
    (r"readonly|internal_api_error.*|.*(backend|timeout|search-error).*", Answer.UNREACHABLE, "Try again later."),
)
CONTACT = "Wikimedia asks for a user agent with a way to reach you: set contact in the recipe's [web] table."


def open_source(recipe: Recipe, session: requests.Session) -> Source:
    """Wikimedia Commons, asked over this session.

    Raises:
        CurateError: the recipe's `license` is not one of `licenses.WANTED`.
    """
    search = partial(_search, session, recipe.web, require_wanted(recipe.license), Pace(SECONDS))
    return Source(search, lambda url: download(session, url, recipe.web))


def read_page(answer: dict[str, Any], wanted: str = "any", max_bytes: int = Web.max_bytes) -> Page:
    """What an answer of `api.php` holds.

    Args:
        wanted: files whose licence does not allow it are left out.
        max_bytes: of an original; a larger one is taken scaled.
    """
    if "error" in answer:
        return _failure(answer["error"])
    query = answer.get("query", {})
    pages = query.get("pages", {}) if isinstance(query, dict) else None
    if not isinstance(pages, dict | list) or not {"batchcomplete", "continue", "query"} & answer.keys():
        return Page(Answer.CHANGED, detail="Commons' answer lists no files where they were: its format changed.")
    cursor = _cursor(answer.get("continue"))
    files = sorted(_dicts(pages.values() if isinstance(pages, dict) else pages), key=_index)
    if not files and cursor is None:
        return Page(Answer.EMPTY, detail="Commons has no (more) pictures for this query.")
    if cursor is None and not any("imageinfo" in file for file in files):
        return Page(Answer.CHANGED, detail="Commons describes none of the files it lists: its format changed.")
    found = [candidate for file in files if (candidate := _candidate(file, max_bytes))]
    offers = tuple(c for c in found if permits(c.license, c.license_basis, wanted))
    return Page(Answer.OK, offers, cursor)


def plain_text(html: str) -> str:
    """What a reader sees of a piece of HTML: no tags, no scripts, nothing hidden."""
    whole = html[:LONGEST_HTML].encode("utf-8", "replace").decode()  # JSON can hold halves of signs
    soup = BeautifulSoup("\n" + whole, "lxml")  # the line break: it never is a file name or URL
    for hidden in soup.find_all(["script", "style", "template"]) + soup.find_all(style=re.compile(r"display:\s*none")):
        hidden.decompose()
    for block in soup.find_all(["br", "p", "div", "li", "td", "th", "tr", "dd", "dt"]):
        block.insert_before(" ")
        block.append(" ")
    return " ".join(soup.get_text().split())


def _search(
    session: requests.Session, web: Web, wanted: str, pace: Pace, query: str, label: str, cursor: str | None
) -> Page:
    words = [query, "filetype:bitmap"]
    if wanted == "public-domain":
        words.append("haslicense:unrestricted")  # narrows the search; what each file says decides
    fields = {**_continued(cursor), **QUESTION, "gsrsearch": " ".join(words)}
    answer = ask_json(session, f"{SEARCH}?{urlencode(fields)}", web, "Wikimedia Commons", pace)
    page = answer if isinstance(answer, Page) else read_page(answer, wanted, web.max_bytes)
    if page.answer in (Answer.OK, Answer.EMPTY):
        return page
    advice = CONTACT if page.answer in (Answer.BLOCKED, Answer.RATE_LIMITED) and not web.contact else ""
    return replace(page, cursor=cursor, detail=f"{page.detail} {advice}".strip())


def _failure(error: object) -> Page:
    told = error if isinstance(error, dict) else {}
    code, info = str(told.get("code") or "without a code"), str(told.get("info") or "")[:200]
    said = f"Commons answered with the error {code}: {info}".rstrip(": ")
    for shape, meaning, advice in FAILURES:
        if re.fullmatch(shape, code):
            return Page(meaning, detail=f"{said}. {advice}")
    return Page(Answer.CHANGED, detail=f"{said}. This version of DeepRock does not know what to do about it.")


def _cursor(following: object) -> str | None:
    """What the next question has to repeat of an answer's `continue`, as text; None at the end, or if it is odd."""
    if not isinstance(following, dict) or not following:
        return None
    text = json.dumps(following, sort_keys=True)
    return text if _continued(text) else None


def _continued(cursor: str | None) -> dict[str, str | int]:
    """The fields of a cursor; none for one that is not of the form that `_cursor` writes: the search begins anew."""
    try:
        fields = json.loads(cursor) if cursor and len(cursor) <= 2000 else {}
    except ValueError:
        return {}
    if not isinstance(fields, dict) or not all(re.fullmatch(r"[a-z]{1,30}", key) for key in fields):
        return {}
    return fields if all(isinstance(v, str) or type(v) is int for v in fields.values()) else {}


def _candidate(file: dict[str, Any], max_bytes: int) -> Candidate | None:
    """A file's picture and its origin; None if it is no picture, or this part of the answer does not describe it."""
    infos = file.get("imageinfo")
    info = infos[0] if isinstance(infos, list) and infos and isinstance(infos[0], dict) else {}
    url = _picture(info, max_bytes)
    if not url:
        return None
    title = re.sub(r"\.\w{2,5}$", "", str(file.get("title") or "").removeprefix("File:"))
    told = info.get("extmetadata")
    said = {key: _value(told, key) for key in ("LicenseShortName", "License", "UsageTerms", "LicenseUrl")}
    address = _address(said["LicenseUrl"])
    named = (said["LicenseShortName"], said["License"], said["UsageTerms"])
    license = next(filter(None, (identify(name, address) for name in named)), "") or next(filter(None, named), "")
    page_url = _address(info.get("descriptionurl"))
    return Candidate(
        url,
        page_url=page_url,
        title=title,
        creator=plain_text(_value(told, "Artist")),
        license=license,
        license_url=address,
        license_basis="asserted" if license else "unknown",
        attribution=_attribution(told, title, named[0] or license, page_url),
    )


def _picture(info: dict[str, Any], max_bytes: int) -> str:
    """The original where it is small and of a common format, else scaled to `WIDTH`; "" for what is no picture."""
    original, scaled = _address(info.get("url")), _address(info.get("thumburl"))
    mime = info.get("mime")
    if not isinstance(mime, str):
        mime = mimetypes.guess_type(original.rpartition("/")[2])[0] or ""
    if mime not in SCALED:
        return ""
    width, size = (v if type(v) is int else 0 for v in (info.get("width"), info.get("size")))
    if mime in AS_IT_IS and width <= WIDTH and size <= max_bytes:
        return original or scaled
    return scaled or (original if mime in AS_IT_IS and size <= max_bytes else "")


def _attribution(told: object, title: str, license: str, page_url: str) -> str:
    """The line to print beside a picture, in the author's words where there are such, else with the source."""
    creator, source, asked, restrictions = (
        plain_text(_value(told, key)) for key in ("Artist", "Credit", "Attribution", "Restrictions")
    )
    line = credit_line(title, "" if asked else creator or source, license, page_url)
    limits = f"restrictions: {restrictions.replace('|', ', ')}" if restrictions else ""
    return "; ".join(filter(None, (asked, line, limits)))


def _value(told: object, key: str) -> str:
    entry = told.get(key) if isinstance(told, dict) else None
    value = entry.get("value") if isinstance(entry, dict) else None
    return value.strip() if isinstance(value, str) else ""


def _address(url: object) -> str:
    """A web address, whole; "" where there is none."""
    text = url.strip().replace(" ", "%20") if isinstance(url, str) else ""
    text = f"https:{text}" if text.startswith("//") else text
    return text if is_web_address(text) else ""


def _index(file: dict[str, Any]) -> float:
    """The place among the results; files come ordered by their number."""
    index = file.get("index")
    return index if type(index) is int else float("inf")


def _dicts(things: Any) -> list[dict[str, Any]]:
    return [thing for thing in things if isinstance(thing, dict)]
