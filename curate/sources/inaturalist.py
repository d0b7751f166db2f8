"""iNaturalist's observations: photos of living things, named by its community; 50 a page, as deep as there are.

It knows taxa, not search words. So the class name is looked up among the taxa (a species, genus or family, in Latin or
by its common name) and observations of that taxon and all below it are asked for. Only a name that is the same counts:
the interface's own `taxon_name` takes every taxon with the word in any of its names, poison oak for "oak" and a night
lizard for "granite". All queries of a class mean the same taxon: the first one that contains the class name is asked,
the others are empty at no cost.

Of each observation one photo is offered, the first whose licence is wanted: the others show the same individual once
more, or a detail of it. It is asked for in the size "large", up to 1024 pixels: enough to train on and to look at, a
tenth of an original's bytes. Newest first: a small set shows the season in which it was made.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlencode

import requests

from curate.licenses import permits
from curate.recipe import Recipe
from curate.sources import Answer, Candidate, Page, Source, clean_text
from curate.sources.api import Pace, ask_json, is_mirrored
from curate.web import download, is_web_address

API = "https://api.inaturalist.org/v1"
PER_PAGE = 50  # of at most 200; an observation comes with all its comments, up to some 100 KB
SECONDS = 1.0  # between questions: "about 1 per second, and around 10k API requests a day"
SECONDS_A_PHOTO = 0.25  # "over 5 GB of media per hour ... may result in a permanent block"; a photo has 0.2 to 0.4 MB
LICENSES = {  # code -> SPDX id, address
    "cc0": ("CC0-1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
    **{
        f"cc-{terms}": (f"CC-{terms.upper()}-4.0", f"https://creativecommons.org/licenses/{terms}/4.0/")
        for terms in ("by", "by-sa", "by-nd", "by-nc", "by-nc-sa", "by-nc-nd")
    },
}
RESERVED = "All rights reserved"
PHOTO = re.compile(r"(https?://[^/?#\s]+/photos/\d+/)(?:square|thumb|small|medium|large|original)(\.\w+(?:\?\d+)?)")
NAMES = ("name", "preferred_common_name", "english_common_name", "matched_term")


def open_source(recipe: Recipe, session: requests.Session) -> Source:
    """iNaturalist, asked over this session, no more often than its terms allow; its photos too."""
    pace, photo_pace = Pace(SECONDS), Pace(SECONDS_A_PHOTO)

    def fetch(url: str) -> bytes:
        if not is_mirrored(url, recipe.web):
            photo_pace.wait()
        return download(session, url, recipe.web)

    return Source(partial(_search, session, recipe, pace), fetch)


def asked_query(label: str, queries: Iterable[str]) -> str:
    """The one query of a class that is asked: the first that contains the class name, else the first."""
    queries = list(queries)
    return next((query for query in queries if _key(label) in _key(query)), queries[0] if queries else "")


def find_taxon(answer: dict[str, Any], label: str) -> int | Page:
    """The id of the taxon that bears the name of a class, or the page that says why there is none.

    A scientific name goes before a common one, a taxon seen more often before another; plurals in -s are the same name.

    Args:
        answer: of /v1/taxa.
    """
    taxa = answer.get("results")
    if not isinstance(taxa, list):
        return Page(Answer.CHANGED, detail="iNaturalist's answer lists no taxa where they were: its format changed.")
    known = [taxon for taxon in taxa if isinstance(taxon, dict) and _whole(taxon.get("id"))]
    for field in NAMES:
        for taxon in known:
            name = _text(taxon.get(field))
            if name and _key(name) == _key(label) and (number := _whole(taxon.get("id"))):
                return number
    detail = f'iNaturalist knows no living thing named "{label}". Name the class after a species, genus or family.'
    return Page(Answer.EMPTY, detail=detail)


def license_codes(wanted: str) -> list[str]:
    """iNaturalist's codes of the licences that allow what is wanted (one of `licenses.WANTED`); none: no filter."""
    return [] if wanted == "any" else [c for c, (name, _) in LICENSES.items() if permits(name, "asserted", wanted)]


def read_page(answer: dict[str, Any], taxon: int, wanted: str = "any") -> Page:
    """What an answer of /v1/observations holds.

    Args:
        taxon: the id asked for; with the lowest observation id seen it makes the cursor.
        wanted: photos whose licence does not allow it are left out: the filter of the interface lets an observation
            through when one of its photos fits.
    """
    results = answer.get("results")
    if not isinstance(results, list):
        detail = "iNaturalist's answer lists no observations where they were: its format changed."
        return Page(Answer.CHANGED, detail=detail)
    if not results:
        return Page(Answer.EMPTY, detail="iNaturalist has no (more) photos of this taxon and licence.")
    seen = [entry for entry in results if isinstance(entry, dict) and _whole(entry.get("id")) and _photos(entry)]
    if not seen:
        detail = f"iNaturalist listed {len(results)} observations, none of which can be read: its format changed."
        return Page(Answer.CHANGED, detail=detail)
    offers = tuple(candidate for entry in seen if (candidate := _candidate(entry, wanted)))
    total = _whole(answer.get("total_results"))
    lowest = min(_whole(entry.get("id")) or 0 for entry in seen)
    more = total is None or total > len(results)
    return Page(Answer.OK, offers, cursor=f"{taxon}:{lowest}" if more else None)


def _search(session: requests.Session, recipe: Recipe, pace: Pace, query: str, label: str, cursor: str | None) -> Page:
    queries = next((c.queries for c in recipe.classes if c.name == label), (query,))
    if query != (asked := asked_query(label, queries)):
        detail = f'iNaturalist is asked for the taxon {label} once, with the query "{asked}".'
        return Page(Answer.EMPTY, detail=detail)
    page = _ask(session, recipe, pace, label, cursor)
    return page if page.answer in (Answer.OK, Answer.EMPTY) else replace(page, cursor=cursor)


def _ask(session: requests.Session, recipe: Recipe, pace: Pace, label: str, cursor: str | None) -> Page:
    """The next page of a taxon; without a cursor the taxon is looked up first."""
    name, below = "iNaturalist", ""
    if cursor:
        taxon, below = int(cursor.split(":")[0]), cursor.split(":")[1]
    else:
        fields = {"q": _spaced(label), "is_active": "true", "order": "desc", "order_by": "observations_count"}
        taxa = ask_json(session, f"{API}/taxa?{urlencode(fields)}", recipe.web, name, pace)
        found = taxa if isinstance(taxa, Page) else find_taxon(taxa, label)
        if isinstance(found, Page):
            return found
        taxon = found
    fields = {"taxon_id": str(taxon), "photos": "true", "quality_grade": "research", "per_page": str(PER_PAGE)}
    fields |= {"order": "desc", "order_by": "id"} | ({"id_below": below} if below else {})
    if codes := license_codes(recipe.license):
        fields["photo_license"] = ",".join(codes)
    answer = ask_json(session, f"{API}/observations?{urlencode(fields)}", recipe.web, name, pace)
    return answer if isinstance(answer, Page) else read_page(answer, taxon, recipe.license)


def _photos(observation: dict[str, Any]) -> list[dict[str, Any]]:
    photos = observation.get("photos")
    listed = photos if isinstance(photos, list) else []
    return [photo for photo in listed if isinstance(photo, dict) and isinstance(photo.get("url"), str)]


def _candidate(observation: dict[str, Any], wanted: str) -> Candidate | None:
    """The first photo of an observation that is shown to everyone and has a licence that is wanted."""
    for photo in _photos(observation):
        place = PHOTO.fullmatch(photo["url"])
        url = f"{place[1]}large{place[2]}" if place else ""
        name, address, basis = _license(photo)
        if is_web_address(url) and not _is_hidden(photo) and (wanted == "any" or permits(name, basis, wanted)):
            creator = _creator(observation)
            return Candidate(
                url,
                page_url=f"https://www.inaturalist.org/observations/{_whole(observation.get('id'))}",
                title=_title(observation),
                creator=creator,
                license=name,
                license_url=address,
                license_basis=basis,
                attribution=_text(photo.get("attribution")) or (f"(c) {creator}, {name}" if creator else ""),
            )
    return None


def _license(photo: dict[str, Any]) -> tuple[str, str, str]:
    """(licence, address, basis) of a photo: no code means all rights reserved, no such field that nothing is known."""
    if "license_code" not in photo:
        return "", "", "unknown"
    code = _text(photo["license_code"]).lower()
    name, address = LICENSES.get(code, (code, "")) if code else (RESERVED, "")
    return name, address, "asserted"


def _is_hidden(photo: dict[str, Any]) -> bool:
    """Whether moderators hid the photo, or someone says that it is not the observer's and nobody has settled it."""
    flags = photo.get("flags") or []
    settled = isinstance(flags, list) and all(isinstance(flag, dict) and flag.get("resolved") for flag in flags)
    return bool(photo.get("hidden")) or not settled


def _creator(observation: dict[str, Any]) -> str:
    user = observation.get("user")
    return (_text(user.get("name")) or _text(user.get("login"))) if isinstance(user, dict) else ""


def _title(observation: dict[str, Any]) -> str:
    """The taxon that the community agreed on, and what the observer called it."""
    taxon = observation.get("taxon")
    name = _text(taxon.get("name")) if isinstance(taxon, dict) else ""
    guess = _text(observation.get("species_guess"))
    return f"{name} ({guess})" if name and guess and guess != name else name or guess


def _spaced(text: str) -> str:
    return " ".join(re.split(r"[\s_-]+", text.strip()))


def _key(text: str) -> str:
    """A name for comparison: Danaus_plexippus is danaus plexippus, Oaks is oak."""
    return _spaced(text).casefold().removesuffix("s")


def _text(value: object) -> str:
    return clean_text(value) if isinstance(value, str) else ""


def _whole(value: object) -> int | None:
    """A number from 0, written as number or text."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return int(value) if re.fullmatch(r"[0-9]{1,15}", str(value)) else None
