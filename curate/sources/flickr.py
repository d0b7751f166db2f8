"""Flickr's photo search: a JSON interface that needs a key; 100 photos a page, at most 4,000 a query.

The licence is the photographer's own choice. Of each photo the largest size up to 1280 pixels is offered, in practice
Flickr's "large", 1024: enough to train on and to look at, and Flickr restricts larger ones of free accounts to others.
The key is sent to Flickr and shown to no one: it stays out of pages, addresses, cursors and logs.
"""

import os
import re
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlencode

import requests

from curate.errors import CurateError
from curate.licenses import credit_line, identify, permits
from curate.recipe import Recipe
from curate.sources import Answer, Candidate, Page, Source, clean_text
from curate.sources.api import Pace, ask_json
from curate.web import download, is_web_address

SEARCH = "https://api.flickr.com/services/rest/"
KEY_VARIABLE = "FLICKR_API_KEY"
KEYS_ARE_AT = "https://www.flickr.com/services/apps/create/"
PER_PAGE = 100
DEPTH = 4000  # "Flickr will return at most the first 4,000 results": pages beyond repeat
SECONDS = 1.0  # between questions: Flickr asks for less than 3,600 an hour with one key
LARGEST = 1280  # pixels, of the longer side
SIZES = {"l": 1024, "c": 800, "z": 640, "m": 500, "n": 320, "s": 240, "h": 1600, "k": 2048, "o": 6000}  # where not said
CREATIVE_COMMONS = "https://creativecommons.org"
LICENSES = {  # flickr.photos.licenses.getInfo, June 2025: id -> name, address
    "0": ("All rights reserved", ""),
    "1": ("CC BY-NC-SA 2.0", f"{CREATIVE_COMMONS}/licenses/by-nc-sa/2.0/"),
    "2": ("CC BY-NC 2.0", f"{CREATIVE_COMMONS}/licenses/by-nc/2.0/"),
    "3": ("CC BY-NC-ND 2.0", f"{CREATIVE_COMMONS}/licenses/by-nc-nd/2.0/"),
    "4": ("CC BY 2.0", f"{CREATIVE_COMMONS}/licenses/by/2.0/"),
    "5": ("CC BY-SA 2.0", f"{CREATIVE_COMMONS}/licenses/by-sa/2.0/"),
    "6": ("CC BY-ND 2.0", f"{CREATIVE_COMMONS}/licenses/by-nd/2.0/"),
    "7": ("No known copyright restrictions", "https://www.flickr.com/commons/usage/"),
    "8": ("United States Government Work", "https://www.usa.gov/government-copyright"),
    "9": ("Public Domain Dedication (CC0)", f"{CREATIVE_COMMONS}/publicdomain/zero/1.0/"),
    "10": ("Public Domain Mark", f"{CREATIVE_COMMONS}/publicdomain/mark/1.0/"),
    "11": ("CC BY 4.0", f"{CREATIVE_COMMONS}/licenses/by/4.0/"),
    "12": ("CC BY-SA 4.0", f"{CREATIVE_COMMONS}/licenses/by-sa/4.0/"),
    "13": ("CC BY-ND 4.0", f"{CREATIVE_COMMONS}/licenses/by-nd/4.0/"),
    "14": ("CC BY-NC 4.0", f"{CREATIVE_COMMONS}/licenses/by-nc/4.0/"),
    "15": ("CC BY-NC-SA 4.0", f"{CREATIVE_COMMONS}/licenses/by-nc-sa/4.0/"),
    "16": ("CC BY-NC-ND 4.0", f"{CREATIVE_COMMONS}/licenses/by-nc-nd/4.0/"),
}
NO_ENTRY = {"95", "96", "97", "98", "99", "100"}  # the key is invalid or expired, or it may not do this
OUT_OF_ORDER = {"10", "105", "106"}  # the search, or the service, is not available for now
TOO_MANY = re.compile(r"rate.?limit|too many|quota|limit (was )?exceeded|throttl", re.IGNORECASE)


def open_source(recipe: Recipe, session: requests.Session) -> Source:
    """Flickr, asked over this session with the key in the environment variable that the recipe names.

    Raises:
        CurateError: the recipe holds what looks like the key itself.
    """
    if re.fullmatch(r"[0-9a-fA-F]{32}", recipe.keys.get("flickr", "")):
        raise CurateError(
            "[keys] flickr holds a key: it should be the name of the environment variable that holds it, such as "
            f"{KEY_VARIABLE}, so that the key is not passed on with the recipe."
        )
    search = partial(_search, session, recipe, Pace(SECONDS))
    return Source(search, lambda url: download(session, url, recipe.web))


def license_ids(wanted: str) -> list[str]:
    """The licences to ask Flickr for, so that all that comes allows what is wanted; none: no filter.

    Args:
        wanted: one of `licenses.WANTED`.
    """
    return [] if wanted == "any" else [number for number in LICENSES if permits(_name(number), "asserted", wanted)]


def read_page(answer: dict[str, Any], number: int, wanted: str = "any") -> Page:
    """What an answer of flickr.photos.search holds.

    Args:
        number: of the page, from 1.
        wanted: photos whose licence does not allow it are left out, whatever was asked for.
    """
    if answer.get("stat") != "ok":
        return _failure(answer)
    photos = answer.get("photos")
    listed = photos.get("photo") if isinstance(photos, dict) else None
    if not isinstance(photos, dict) or not isinstance(listed, list):
        return Page(Answer.CHANGED, detail="Flickr's answer lists no photos where they were: its format changed.")
    if not listed:
        return Page(Answer.EMPTY, detail="Flickr has no (more) photos for this query and licence.")
    found = [candidate for photo in listed if isinstance(photo, dict) and (candidate := _candidate(photo))]
    if not found:
        detail = f"Flickr listed {len(listed)} photos, none with an address that can be read: its format changed."
        return Page(Answer.CHANGED, detail=detail)
    offers = tuple(c for c in found if wanted == "any" or permits(c.license, c.license_basis, wanted))
    pages = _whole(photos.get("pages"))
    more = number * PER_PAGE < DEPTH and (pages is None or number < pages)
    return Page(Answer.OK, offers, cursor=str(number + 1) if more else None)


def _search(session: requests.Session, recipe: Recipe, pace: Pace, query: str, label: str, cursor: str | None) -> Page:
    variable = recipe.keys.get("flickr") or KEY_VARIABLE
    key = os.environ.get(variable, "").strip()
    if not key:
        detail = f"Flickr needs a key: set the environment variable {variable}. Keys are had at {KEYS_ARE_AT}."
        return Page(Answer.BLOCKED, cursor=cursor, detail=detail)
    number = int(cursor or 1)
    answer = ask_json(session, _address(key, query, number, recipe.license), recipe.web, "Flickr", pace)
    page = answer if isinstance(answer, Page) else read_page(answer, number, recipe.license)
    if page.answer in (Answer.OK, Answer.EMPTY):
        return page
    return replace(page, cursor=cursor, detail=page.detail.replace(key, "***"))


def _address(key: str, query: str, number: int, wanted: str) -> str:
    fields = {
        "method": "flickr.photos.search",
        "api_key": key,
        "text": query,
        "sort": "relevance",
        "media": "photos",
        "content_types": "0",  # photos; no screenshots, no drawings
        "safe_search": "1",
        "extras": ",".join(["license", "owner_name", "media", "o_dims", *(f"url_{size}" for size in SIZES)]),
        "per_page": str(PER_PAGE),
        "page": str(number),
        "format": "json",
        "nojsoncallback": "1",
    }
    if ids := license_ids(wanted):
        fields["license"] = ",".join(ids)
    return f"{SEARCH}?{urlencode(fields)}"


def _failure(answer: dict[str, Any]) -> Page:
    """The page for an answer that is not `stat: ok`, by its code."""
    code, message = _text(answer.get("code")), _text(answer.get("message"))
    said = f"Flickr answered with error {code or '(none)'}: {message[:200] or 'no message'}"
    if TOO_MANY.search(message):
        return Page(Answer.RATE_LIMITED, detail=f"{said}. Wait an hour, or use another source.")
    if code in NO_ENTRY:
        return Page(Answer.BLOCKED, detail=f"{said}. Is the key right and still valid? See {KEYS_ARE_AT}.")
    if code in OUT_OF_ORDER:
        return Page(Answer.UNREACHABLE, detail=f"{said}. Try again later.")
    return Page(Answer.CHANGED, detail=f"{said}: this version of DeepRock cannot ask it so.")


def _candidate(photo: dict[str, Any]) -> Candidate | None:
    url = _best_size(photo)
    if not url or photo.get("media") == "video":
        return None
    owner, number, license_id = _text(photo.get("owner")), _text(photo.get("id")), _text(photo.get("license"))
    known = re.fullmatch(r"[\w@-]+", owner) and number.isdecimal()
    page_url = f"https://www.flickr.com/photos/{owner}/{number}" if known else ""
    title, creator = _text(photo.get("title")), _text(photo.get("ownername"))
    license_name, license_url = _name(license_id), LICENSES.get(license_id, ("", ""))[1]
    return Candidate(
        url,
        page_url=page_url,
        title=title,
        creator=creator,
        license=license_name,
        license_url=license_url,
        license_basis="asserted" if license_name else "unknown",
        attribution=credit_line(title, creator, license_name, page_url),
    )


def _name(license_id: str) -> str:
    """The SPDX id of a licence, else Flickr's own name for it; empty for an id that Flickr did not have in 2025."""
    name, address = LICENSES.get(license_id, ("", ""))
    return (identify(name, address) or name) if name else ""


def _best_size(photo: dict[str, Any]) -> str:
    """The address of the largest size up to `LARGEST` pixels, else of the smallest there is; empty where none is."""
    sizes = []
    for size, usual in SIZES.items():
        url = photo.get(f"url_{size}")
        if isinstance(url, str) and is_web_address(url):
            sides = [_whole(photo.get(f"{side}_{size}")) for side in ("width", "height")]
            sides += [_whole(photo.get(f"{size}_{side}")) for side in ("width", "height")]  # o_width: of the original
            sizes.append((max([side for side in sides if side], default=usual), url))
    fitting = [entry for entry in sizes if entry[0] <= LARGEST]
    if fitting:
        return max(fitting, key=lambda entry: entry[0])[1]
    return min(sizes, key=lambda entry: entry[0])[1] if sizes else ""


def _text(value: object) -> str:
    """Flickr wraps texts in {"_content": ...} here and there, and writes numbers as text or not."""
    if isinstance(value, dict):
        value = value.get("_content")
    return clean_text(str(value)) if isinstance(value, str | int) else ""


def _whole(value: object) -> int | None:
    text = _text(value)
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None
