"""The pages that the loopback search engines answer with, in the shapes of the real ones."""

import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

BING_PER_PAGE = 35
GOOGLE_PER_PAGE = 100
OPENVERSE_PER_PAGE = 20  # of those who do not register
OPENVERSE_DEPTH = 240
FIRST_TAXON = 48_000
SIZE = {"width": 1600, "height": 1200}  # that the interfaces claim of every image
CC = "https://creativecommons.org"
FLICKR_LICENSES = {
    None: 0,
    ("by-nc-sa", "2.0"): 1,
    ("by-nc", "2.0"): 2,
    ("by-nc-nd", "2.0"): 3,
    ("by", "2.0"): 4,
    ("by-sa", "2.0"): 5,
    ("by-nd", "2.0"): 6,
    ("cc0", "1.0"): 9,
    ("pdm", "1.0"): 10,
    ("by", "4.0"): 11,
    ("by-sa", "4.0"): 12,
}
CAPTCHA = (
    "<html><head><title>https://www.google.com/search</title></head><body>"
    '<form id="captcha-form" action="index" method="post"><div id="recaptcha" class="g-recaptcha"></div></form>'
    "Our systems have detected unusual traffic from your computer network.</body></html>"
)
ENABLE_JS = (
    "<!DOCTYPE html><html><head><title>Google Search</title></head><body><noscript>"
    '<meta content="0;url=/httpservice/retry/enablejs?sei=x" http-equiv="refresh">'
    '<div style="display:block">Click <a href="/httpservice/retry/enablejs?sei=x">here</a>.</div></noscript></body>'
    "</html>"
)
SOFT_BLOCK = (
    "<html><head><title>granite - Google Search</title></head><body><noscript>"
    '<iframe src="/httpservice/retry/enablejs?sei=abc123"></iframe></noscript><div id="main"></div></body></html>'
)
BING_CAPTCHA = (
    "<html><body><h1>One last step</h1><p>Please solve the challenge below to continue</p>"
    '<div id="b_captcha" class="captcha"></div></body></html>'
)
REDESIGNED = '<html><body><ul class="grid"><li><image-card src="https://a.photos.example/1"></li></ul></body></html>'


class Result(NamedTuple):
    """One image as an engine lists it.

    Attributes:
        number: its id there.
        license: Creative Commons' short name and version ("by-sa", "4.0"); None where all rights are reserved.
    """

    url: str
    page_url: str
    title: str
    creator: str = ""
    number: int = 0
    license: tuple[str, str] | None = None


def bing_page(results: Sequence[Result], query: str, *, broken_every: int = 0) -> str:
    """A page of `/images/async`; every so many-th tile's JSON is broken."""
    if not results:
        return f"<div class='no_results'>There are no results for <strong>{html.escape(query)}</strong></div>"
    tiles = []
    for number, result in enumerate(results, 1):
        text = _bing_json(result, query)
        if broken_every and number % broken_every == 0:
            text = text[: len(text) // 2]
        tiles.append(
            f'<li data-idx="{number}"><div class="iuscp isv"><div class="imgpt"><a role="link" '
            f'class="iusc" style="height:180px" m="{html.escape(text)}" href="/images/search?view=detailV2"></a>'
            f'<div class="img_info"><a href="{html.escape(result.page_url)}">source</a></div></div></div></li>'
        )
    return f'<div class="dg_b"><div class="dgControl"><ul class="dgControl_list">{"".join(tiles)}</ul></div></div>'


def google_page(results: Sequence[Result], query: str) -> str:
    """A result page whose script holds the images, `=` and `&` escaped as Google does."""
    title = f"<title>{html.escape(query)} - Google Search</title>"
    if not results:
        said = f"Your search - <b>{html.escape(query)}</b> - did not match any image results."
        return f"<html><head>{title}</head><body><p>{said}</p></body></html>"
    data = [[1, [0, _digest(result.url), *_google_images(result)]] for result in results]
    escapes = str.maketrans({sign: f"\\u{ord(sign):04x}" for sign in "&=<"})
    script = json.dumps(data, ensure_ascii=False).translate(escapes)
    return f'<html><head>{title}</head><body><script nonce="x">var data = {script};</script></body></html>'


def openverse_page(results: Sequence[Result], page: int, size: int) -> dict[str, Any]:
    """A page of `/v1/images/`; `results` are all, of which those who do not register see the first 240."""
    known = results[:OPENVERSE_DEPTH]
    shown = known[(page - 1) * size : page * size]
    count = {"result_count": len(known), "page_count": -(-len(known) // size), "page_size": size, "page": page}
    return {**count, "results": [_openverse_image(result) for result in shown]}


def commons_page(results: Sequence[Result], offset: int, limit: int, *, listed: bool = False) -> dict[str, Any]:
    """An answer of `api.php` to a search for files; `listed` is formatversion 2."""
    shown = results[offset : offset + limit]
    answer: dict[str, Any] = {"batchcomplete": True if listed else ""}
    if offset + limit < len(results):
        answer["continue"] = {"gsroffset": offset + limit, "continue": "gsroffset||"}
    if shown:
        files = [_commons_file(result, index) for index, result in enumerate(shown, offset + 1)]
        by_id = {str(file["pageid"]): file for file in sorted(files, key=lambda file: file["pageid"])}
        answer["query"] = {"pages": files if listed else by_id}
    return answer


def flickr_page(results: Sequence[Result], page: int, size: int, extras: Sequence[str]) -> dict[str, Any]:
    """An answer of `flickr.photos.search`; what was not asked for in `extras` is not there."""
    shown = results[(page - 1) * size : page * size]
    photos = [_flickr_photo(result, extras) for result in shown]
    count = {"page": page, "pages": -(-len(results) // size), "perpage": size, "total": len(results)}
    return {"photos": {**count, "photo": photos}, "stat": "ok"}


def inaturalist_page(observations: Mapping[int, Sequence[Result]], taxon: str, page: int, size: int) -> dict[str, Any]:
    """A page of `/v1/observations`, by id, each with one photo or more."""
    shown = list(observations.items())[(page - 1) * size : page * size]
    found = [_observation(number, photos, taxon) for number, photos in shown]
    return {"total_results": len(observations), "page": page, "per_page": size, "results": found}


def taxa_page(names: Sequence[str], asked: str) -> dict[str, Any]:
    """An answer of `/v1/taxa`: whatever has the word in one of its names, first what is seen most often."""
    lizard = {"id": 1, "name": "Xantusia henshawi", "preferred_common_name": f"{asked.title()} Night Lizard"}
    same = [(FIRST_TAXON + n, name) for n, name in enumerate(names) if asked.lower() in name.lower()]
    found = [lizard, *[{"id": number, "name": name.title(), "matched_term": name} for number, name in same]]
    told = [{"rank": "species", "is_active": True, "observations_count": 5000, **taxon} for taxon in found]
    return {"total_results": len(told), "page": 1, "per_page": 30, "results": told}


def taxon_name(names: Sequence[str], number: int) -> str:
    """The class that a taxon's id stands for; empty for any other."""
    return dict(enumerate(names, FIRST_TAXON)).get(number, "")


def license_url(license: tuple[str, str] | None) -> str:
    """The deed of a Creative Commons licence, or of its dedication to the public."""
    if license is None:
        return ""
    kind, version = license
    tools = {"cc0": "publicdomain/zero", "pdm": "publicdomain/mark"}
    return f"{CC}/{tools.get(kind, f'licenses/{kind}')}/{version}/"


def _license_name(license: tuple[str, str]) -> str:
    kind, version = license
    named = {"cc0": "CC0", "pdm": "Public Domain Mark"}
    return f"{named.get(kind, f'CC {kind.upper()}')} {version}"


def _openverse_image(result: Result) -> dict[str, Any]:
    assert result.license is not None  # Openverse lists nothing else
    kind, version = result.license
    id = f"{_digest(result.url)[:8]}-0000-4000-8000-{result.number:012d}"
    said = f'"{result.title}" by {result.creator} is licensed under {_license_name(result.license)}.'
    return {
        "id": id,
        "title": result.title,
        "indexed_on": "2024-04-05T06:07:19.339195Z",
        "foreign_landing_url": result.page_url,
        "url": result.url,
        "creator": result.creator,
        "creator_url": f"https://www.photos.example/people/{quote(result.creator)}",
        "license": kind,
        "license_version": version,
        "license_url": license_url(result.license),
        "provider": "flickr",
        "source": "flickr",
        "category": None,
        "filesize": None,
        "filetype": None,
        "tags": [{"name": "rock", "accuracy": None}],
        "attribution": f"{said} To view a copy of this license, visit {license_url(result.license)}.",
        "fields_matched": ["title"],
        "mature": False,
        **SIZE,
        "thumbnail": f"https://api.openverse.org/v1/images/{id}/thumb/",
        "detail_url": f"https://api.openverse.org/v1/images/{id}/",
        "related_url": f"https://api.openverse.org/v1/images/{id}/related/",
        "unstable__sensitivity": [],
    }


def _commons_file(result: Result, index: int) -> dict[str, Any]:
    assert result.license is not None  # Commons takes nothing else
    kind, version = result.license
    user = quote(result.creator)
    artist = f'<a href="//commons.wikimedia.org/wiki/User:{user}" title="User:{user}">{html.escape(result.creator)}</a>'
    free = {"cc0": "Creative Commons Zero, Public Domain Dedication", "pdm": "Public domain"}
    short = {"cc0": "CC0", "pdm": "Public domain"}
    code = {"cc0": "cc0", "pdm": "pd"}
    said = {
        "Artist": artist,
        "AttributionRequired": "false" if kind in free else "true",
        "Copyrighted": "False" if kind == "pdm" else "True",
        "Credit": '<span class="int-own-work" lang="en">Own work</span>',
        "ImageDescription": f"<p>{html.escape(result.title)}</p>",
        "License": code.get(kind, f"cc-{kind}-{version}"),
        "LicenseShortName": short.get(kind, _license_name(result.license)),
        "ObjectName": result.title,
        "Restrictions": "",
        "UsageTerms": free.get(kind, f"Creative Commons {kind} {version}"),
    }
    if kind != "pdm":
        said["LicenseUrl"] = license_url(result.license)
    told = {name: {"source": "commons-desc-page", "value": value} for name, value in said.items()}
    info = {
        "url": result.url,
        "descriptionurl": result.page_url,
        "descriptionshorturl": f"https://commons.wikimedia.org/w/index.php?curid={result.number}",
        "mime": "image/jpeg",
        "mediatype": "BITMAP",
        "size": 1_234_567,
        **SIZE,
        "thumburl": result.url,  # it serves all sizes from one address
        "thumbwidth": 1280,
        "user": result.creator,
        "extmetadata": told,
    }
    title = f"File:{result.title} {result.number}.jpg"
    page = {"pageid": result.number, "ns": 6, "title": title, "index": index, "imagerepository": "local"}
    return {**page, "imageinfo": [info]}


def _flickr_photo(result: Result, extras: Sequence[str]) -> dict[str, Any]:
    owner = f"{result.number % 10**8}@N06"
    secret = _digest(result.url)[:10]
    photo: dict[str, Any] = {"id": str(49_000_000_000 + result.number), "owner": owner, "secret": secret}
    photo |= {"server": "65535", "farm": 66, "title": result.title, "ispublic": 1, "isfriend": 0, "isfamily": 0}
    if "license" in extras:
        photo["license"] = str(FLICKR_LICENSES[result.license])
    if "owner_name" in extras:
        photo["ownername"] = result.creator
    if "description" in extras:
        photo["description"] = {"_content": html.escape(result.title)}
    sizes = {"url_o": (1600, 1200), "url_l": (1024, 768), "url_c": (800, 600), "url_m": (500, 375)}
    larger = [name for name in sizes if name in extras]
    for name in larger[:1]:  # the larger ones are there or not, as their owners like it
        width, height = sizes[name]
        photo |= {name: result.url, f"width_{name[-1]}": width, f"height_{name[-1]}": height}
    return photo


def _observation(number: int, photos: Sequence[Result], taxon: str) -> dict[str, Any]:
    first = photos[0]
    user = {"id": first.number % 10**6, "login": first.creator.lower().replace(" ", "_"), "name": first.creator}
    told = [_inaturalist_photo(photo) for photo in photos]
    return {
        "quality_grade": "research",
        "id": number,
        "uuid": f"{_digest(first.url)[:8]}-534d-48c4-933d-a8b4e1d8f87b",
        "uri": f"https://www.inaturalist.org/observations/{number}",
        "species_guess": first.title,
        "license_code": told[0]["license_code"],
        "description": None,
        "captive": False,
        "taxon": {"id": 48662, "name": taxon, "rank": "species", "preferred_common_name": taxon},
        "user": user,
        "photos": told,
        "observation_photos": [{"id": photo["id"], "position": n, "photo": photo} for n, photo in enumerate(told)],
    }


def _inaturalist_photo(result: Result) -> dict[str, Any]:
    name = _license_name(result.license).rsplit(" ", 1)[0] if result.license else ""
    some = f"(c) {result.creator}, some rights reserved ({name})"
    reserved = f"(c) {result.creator}, all rights reserved"
    free = f"{result.creator}, no rights reserved (CC0)"
    code = result.license[0] if result.license else None
    return {
        "id": result.number,
        "license_code": code if code in (None, "cc0", "pdm") else f"cc-{code}",
        "url": result.url,
        "attribution": reserved if code is None else free if code == "cc0" else some,
        "original_dimensions": dict(SIZE),
        "flags": [],
    }


def _bing_json(result: Result, query: str) -> str:
    digest = _digest(result.url)
    return json.dumps(
        {
            "sid": "",
            "cturl": "",
            "cid": digest[:8],
            "purl": result.page_url,
            "murl": result.url,
            "turl": f"https://ts1.mm.bing.net/th?id=OIP.{digest}&pid=15.1",
            "md5": digest,
            "t": result.title,
            "mid": digest.upper(),
            "desc": f"\ue000{query}\ue001 \u2013 {result.title}",
        },
        ensure_ascii=False,
    )


def _google_images(result: Result) -> list[object]:
    thumbnail = f"https://encrypted-tbn0.gstatic.com/images?q=tbn:{_digest(result.url)}&s=10"
    about = {"2000": [None, "www.photos.example", "143KB"], "2003": [None, "id", result.page_url, result.title]}
    return [[thumbnail, 183, 275], [result.url, 853, 1280], None, 0, "rgb(152,114,82)", None, 0, about]


def _digest(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
