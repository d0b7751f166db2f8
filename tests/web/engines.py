"""The search engines of the loopback web: each turns what it was asked, and its mood, into an answer."""

import json
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.web import pages
from tests.web.faults import Photo
from tests.web.pages import Result

if TYPE_CHECKING:
    from tests.web.server import LoopbackWeb

SHORT = 20  # results in all where the engine's list is short
HTML = "text/html; charset=utf-8"
JSON = "application/json; charset=utf-8"
LONG_WAIT = ("Retry-After", "3600")
NEWEST = 200_000_000  # the id of iNaturalist's newest observation
NOT_HERE = "<html><body>not here</body></html>"
BING_CODES = {"pdm": 1, "cc0": 1, "by": 2, "by-sa": 3, "by-nd": 4, "by-nc": 5, "by-nc-sa": 6, "by-nc-nd": 7}
FREE = ("by", "by-sa", "cc0", "pdm")
TYPES = {  # Openverse's license_type
    "all": tuple(BING_CODES),
    "all-cc": tuple(BING_CODES.keys() - {"pdm", "cc0"}),
    "commercial": ("by", "by-sa", "by-nd", "cc0", "pdm"),
    "modification": ("by", "by-sa", "by-nc", "by-nc-sa", "cc0", "pdm"),
}
OF_IMAGES = (  # a licence of each image by engine, drawn from these
    *[(kind, "4.0") for kind in ("by", "by-sa", "by-nc", "by-nd", "by-nc-sa", "by-nc-nd")],
    ("by", "2.0"),
    ("by-nc", "2.0"),
    ("cc0", "1.0"),
    ("pdm", "1.0"),
)
LICENSES: dict[str, Sequence[tuple[str, str] | None]] = {
    "bing": (*OF_IMAGES, None, None, None),
    "google": (*OF_IMAGES, None, None, None),
    "openverse": OF_IMAGES,
    "commons": tuple(license for license in OF_IMAGES if license[0] in FREE),
    "flickr": tuple(pages.FLICKR_LICENSES),
    "inaturalist": (*[license for license in OF_IMAGES if license[0] != "pdm" and license[1] != "2.0"], None, None),
}


class Asked(NamedTuple):
    """A question to an engine: the path after its host, the fields of the query, how many questions came before."""

    path: str
    fields: dict[str, str]
    before: int

    def number(self, name: str, default: int) -> int:
        """A field as a number."""
        text = self.fields.get(name, "")
        return int(text) if text.isdecimal() else default


class Reply(NamedTuple):
    """What the engine sends back."""

    status: int
    body: str
    headers: tuple[tuple[str, str], ...] = ()
    mime: str = HTML


class Engine(NamedTuple):
    """Where it is on the real web, and how it answers."""

    host: str
    answer: Callable[["LoopbackWeb", Asked], Reply]


def asked(path: str, before: int) -> Asked:
    """The question that a request's path and query are."""
    parts = urlsplit(path)
    fields = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    return Asked(parts.path, fields, before)


def bing(web: "LoopbackWeb", question: Asked) -> Reply:
    """`/images/async`: tiles, 35 a page, the first one number 1; past the end nothing at all."""
    if question.path != "images/async":
        return Reply(404, NOT_HERE)
    mood, query = web.faults.bing, question.fields["q"]
    if mood == "blocked":
        return Reply(200, pages.BING_CAPTCHA)
    if reply := _refused(mood, question):
        return reply
    codes = re.search(r"license-(L\d(?:_L\d)*)", question.fields.get("qft", ""))
    wanted = [int(code) for code in codes[1].replace("L", "").split("_")] if codes else None
    known = [] if mood == "empty" else _licensed(web, "bing", query, wanted and _kinds(wanted))
    known = known[:SHORT] if mood == "short" else known
    start = 0 if mood == "repeated" else question.number("first", 1) - 1
    shown = known[start : start + min(question.number("count", 35), pages.BING_PER_PAGE)]
    blank = known and not shown
    results = [web.result(photo, "bing") for photo in shown]
    return Reply(200, "" if blank else pages.bing_page(results, query, broken_every=5 if mood == "bad_json" else 0))


def google(web: "LoopbackWeb", question: Asked) -> Reply:
    """`/search`: a page whose scripts hold 100 results; and where a suspect is sent."""
    if question.path.startswith("sorry/"):
        return Reply(429, pages.CAPTCHA)
    if question.path != "search":
        return Reply(404, NOT_HERE)
    mood, query, start = web.faults.google, question.fields["q"], question.number("start", 0)
    fixed = {"enablejs": pages.ENABLE_JS, "captcha": pages.CAPTCHA, "soft_block": pages.SOFT_BLOCK}
    if mood in fixed:
        return Reply(200, fixed[mood])
    if mood == "sorry":
        return Reply(302, "", (("Location", "https://www.google.com/sorry/index?continue=x"),))
    if reply := _refused(mood, question):
        return reply
    filters = question.fields.get("tbs", "")
    kinds = tuple(BING_CODES) if "il:cl" in filters else () if "il:ol" in filters else None
    known = [] if mood == "empty" else _licensed(web, "google", query, kinds)
    results = [web.result(photo, "google") for photo in known[start : start + pages.GOOGLE_PER_PAGE]]
    return Reply(200, pages.google_page(results, query))


def openverse(web: "LoopbackWeb", question: Asked) -> Reply:
    """`/v1/images/`: at most 20 a page, 240 in all."""
    headers = (("x-ratelimit-limit-anon_burst", "20/min"), ("x-ratelimit-available-anon_burst", "19"))
    mood = web.faults.openverse
    if reply := _refused(mood, question, {"detail": "Request was throttled. Expected available in 3600 seconds."}):
        return reply._replace(headers=reply.headers + headers)
    if question.path.strip("/") != "v1/images":
        return Reply(404, NOT_HERE)
    size, page = question.number("page_size", 20), question.number("page", 1)
    if not 1 <= size <= pages.OPENVERSE_PER_PAGE:
        return _json({"detail": "Page size must be between 1 & 20."}, 401)
    fields = question.fields
    kinds = {kind for part in _parts(fields.get("license", "")) for kind in [part.lower()]} or None
    for part in _parts(fields.get("license_type", "")):
        kinds = set(TYPES[part]) if kinds is None else kinds & set(TYPES[part])
    known = [] if mood == "empty" else _licensed(web, "openverse", fields.get("q", ""), kinds)
    results = [web.result(photo, "openverse") for photo in known]
    answer = pages.openverse_page(results, page, size)
    if page > max(answer["page_count"], 1):
        return _json({"detail": "Invalid page."}, 404)
    return _json(answer)._replace(headers=headers)


def commons(web: "LoopbackWeb", question: Asked) -> Reply:
    """`/w/api.php`, a search for files with their imageinfo."""
    mood, fields = web.faults.commons, question.fields
    if reply := _refused(
        mood, question, {"error": {"code": "ratelimited", "info": "You've exceeded your rate limit."}}
    ):
        return reply
    if question.path != "w/api.php":
        return Reply(404, NOT_HERE)
    if fields.get("generator") != "search" or fields.get("format") != "json":
        return _json({"error": {"code": "badvalue", "info": "This web knows generator=search&format=json only."}})
    search = fields.get("gsrsearch", "")
    kinds = ("cc0", "pdm") if "haslicense:unrestricted" in search else None
    known = [] if mood == "empty" else _licensed(web, "commons", search, kinds)
    results = [web.result(photo, "commons") for photo in known]
    offset, limit = question.number("gsroffset", 0), min(question.number("gsrlimit", 10), 50)
    answer = pages.commons_page(results, offset, limit, listed=fields.get("formatversion") == "2")
    return _json(answer)


def flickr(web: "LoopbackWeb", question: Asked) -> Reply:
    """`/services/rest/`: `flickr.photos.search`, for those who have a key."""
    mood, fields = web.faults.flickr, question.fields
    if reply := _refused("ok" if mood == "blocked" else mood, question, {"stat": "fail", "message": "Forbidden"}):
        return reply
    if question.path.strip("/") != "services/rest":
        return Reply(404, NOT_HERE)
    if mood == "blocked" or not fields.get("api_key"):
        return _json({"stat": "fail", "code": 100, "message": "Invalid API Key (Key has invalid format)"})
    if fields.get("method") != "flickr.photos.search" or fields.get("format") != "json":
        return _json({"stat": "fail", "code": 112, "message": 'Method "unknown" not found'})
    wanted = {int(part) for part in _parts(fields.get("license", "")) if part.isdecimal()}
    photos = [] if mood == "empty" else web.photos(fields.get("text", "") or fields.get("tags", ""))
    results = [web.result(photo, "flickr") for photo in photos]
    kept = [r for r in results if not wanted or pages.FLICKR_LICENSES[r.license] in wanted]
    size = min(question.number("per_page", 100), 500)
    answer = pages.flickr_page(kept, question.number("page", 1), size, _parts(fields.get("extras", "")))
    reply = _json(answer)
    return reply if fields.get("nojsoncallback") else reply._replace(body=f"jsonFlickrApi({reply.body})")


def inaturalist(web: "LoopbackWeb", question: Asked) -> Reply:
    """`/v1/taxa` by name, and `/v1/observations` of a taxon, newest first.

    With `photo_license` come the observations that have such a photo, with all of their photos.
    """
    mood, fields = web.faults.inaturalist, question.fields
    if reply := _refused(mood, question, {"error": "Too Many Requests", "status": 429}):
        return reply
    size, page = min(question.number("per_page", 30), 200), question.number("page", 1)
    if question.path.strip("/") == "v1/taxa":
        return _json(pages.taxa_page(list(web.classes), fields.get("q", "")))
    if question.path.strip("/") != "v1/observations":
        return Reply(404, NOT_HERE)
    taxon = pages.taxon_name(list(web.classes), question.number("taxon_id", 0)) or fields.get("taxon_name", "")
    photos = [] if mood == "empty" else web.photos(taxon)
    results = [web.result(photo, "inaturalist") for photo in photos]
    cuts = [0, *[n for n in range(1, len(results)) if n % 7 not in (3, 4)], len(results)]  # each fifth one has three
    seen = {NEWEST - a: results[a:b] for a, b in pairwise(cuts) if a < b}
    if wanted := set(_parts(fields.get("photo_license", "").lower())):
        seen = {number: shown for number, shown in seen.items() if any(_code(photo) in wanted for photo in shown)}
    below = question.number("id_below", NEWEST + 1)
    seen = {number: shown for number, shown in seen.items() if number < below}
    return _json(pages.inaturalist_page(seen, taxon, page, size))


ENGINES = {
    "bing": Engine("https://www.bing.com", bing),
    "google": Engine("https://www.google.com", google),
    "openverse": Engine("https://api.openverse.org", openverse),
    "commons": Engine("https://commons.wikimedia.org", commons),
    "flickr": Engine("https://api.flickr.com", flickr),
    "inaturalist": Engine("https://api.inaturalist.org", inaturalist),
}


def _refused(mood: str, question: Asked, said: dict[str, Any] | None = None) -> Reply | None:
    """The answer of the moods that all engines share; in JSON where `said` is what it says."""

    def refuse(status: int, html: str, *headers: tuple[str, str]) -> Reply:
        return Reply(status, html, headers) if said is None else Reply(status, json.dumps(said), headers, JSON)

    match mood:
        case "blocked":
            return refuse(401, "<html><body>Unauthorized</body></html>")
        case "403":
            return refuse(403, "<html><body>Forbidden</body></html>")
        case "rate_limited":
            return refuse(429, "<html><body>Too many requests</body></html>", LONG_WAIT)
        case "limited_once" if not question.before:
            return refuse(429, "<html><body>Too many requests</body></html>", ("Retry-After", "1"))
        case "changed":
            return Reply(200, pages.REDESIGNED)
        case "down":
            return Reply(500, "")
    return None


def _licensed(web: "LoopbackWeb", engine: str, query: str, kinds: "Sequence[str] | set[str] | None") -> Sequence[Photo]:
    photos = web.photos(query)
    if kinds is None:
        return photos
    of_photos = ((photo, web.license_of(photo, engine)) for photo in photos)
    return [photo for photo, license in of_photos if license and license[0] in kinds]


def _kinds(codes: Sequence[int]) -> list[str]:
    return [kind for kind, code in BING_CODES.items() if code in codes]


def _code(photo: Result) -> str:
    kind = photo.license[0] if photo.license else "none"
    return kind if kind in ("cc0", "none") else f"cc-{kind}"


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _json(answer: dict[str, Any], status: int = 200) -> Reply:
    return Reply(status, json.dumps(answer, ensure_ascii=False), (), JSON)
