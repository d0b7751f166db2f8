"""Google image search: icrawler's feeder and parser, driven page by page; 100 results a page, about 1000 deep.

Google often refuses plain HTTP clients. Every form of that is told apart from "nothing found" and said as it is. Of
licences it tells apart only "Creative Commons licences" and "commercial and other licences", which are offers to sell:
it cannot be asked for images that allow something particular.
"""

import json
import re
from dataclasses import replace
from functools import partial
from itertools import pairwise
from urllib.parse import parse_qs, quote, urlsplit

import requests
from bs4 import BeautifulSoup, SoupStrainer
from icrawler.builtin.filter import Filter
from icrawler.builtin.google import GoogleFeeder, GoogleParser
from icrawler.utils import Signal

from curate.licenses import require_wanted
from curate.recipe import Recipe, Web
from curate.sources import Answer, Candidate, FetchError, Page, Source
from curate.sources.api import refusal, unreachable
from curate.web import Reply, ask, download, is_web_address

PER_PAGE = 100
DEPTH = 1000
FILTERS = {"cc": "creativecommons"}  # what is wanted -> the filter that lets nothing else through
TEXT = r'"((?:[^"\\]|\\.)*)"'  # a JSON string
IMAGE = re.compile(rf"\[\s*{TEXT},\s*\d+,\s*\d+\s*\]")  # [address, height, width]: results, and their thumbnails
SHOWN_ON = re.compile(rf'"2003":\s*\[null,\s*{TEXT},\s*{TEXT},\s*{TEXT}')  # id, page, title
HEX_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")
SPACE = re.compile(r"\s")
OWN_HOST = re.compile(r"(^|\.)(gstatic|google)\.com$")  # thumbnails and ornaments
CAPTCHA = re.compile(r"captcha|unusual traffic|/sorry/", re.IGNORECASE)
SHELL = re.compile(r"/httpservice/retry/enablejs|enable javascript", re.IGNORECASE)
CONSENT = re.compile(r"consent\.google\.|Before you continue to Google", re.IGNORECASE)
NOTHING = re.compile(r"did not match any|reached the end|no results found", re.IGNORECASE)
ELSEWHERE = "use another source, or wait"
REASONS = (
    (CAPTCHA, f"Google asks to solve a captcha: it takes this network's requests for a robot's; {ELSEWHERE}."),
    (CONSENT, f"Google asks for consent to cookies, which a plain HTTP client cannot give; {ELSEWHERE}."),
    (
        SHELL,
        "Google answered with its 'enable JavaScript' page: it does not serve plain HTTP clients from here; "
        f"{ELSEWHERE}.",
    ),
)


class LicenseFeeder(GoogleFeeder):
    """icrawler's addresses with the licences of today: its own are those of before 2020."""

    def get_filter(self) -> Filter:
        """icrawler's filters, with "creativecommons" as the one choice of `license`."""
        known = super().get_filter()
        known.add_rule("license", lambda name: "il:cl", ["creativecommons"])
        return known


class ScriptParser(GoogleParser):
    """Reads the results out of a page's scripts; icrawler's own sees jpg, png and bmp of one script, else dies."""

    def parse(self, response: Reply) -> list[dict[str, str]]:
        """The images that the page's scripts name, or else its links; with the page of each, where it is said."""
        html = "\n" + response.content.decode("utf-8", "replace")  # the line break: it never is a file name or URL
        soup = BeautifulSoup(html, "lxml", parse_only=SoupStrainer(["script", "a"]))
        found = [image for script in soup.find_all("script") for image in _images(script.get_text())]
        return found or [image for link in soup.find_all("a") if (image := _linked(str(link.get("href") or "")))]


def open_source(recipe: Recipe, session: requests.Session) -> Source:
    """Google, asked over this session.

    Raises:
        CurateError: the recipe's `license` is not one of `licenses.WANTED`.
    """
    search = partial(_search, session, recipe.web, require_wanted(recipe.license))
    return Source(search, lambda url: download(session, url, recipe.web))


def read_page(reply: Reply, start: int = 0, wanted: str = "any") -> Page:
    """What an answer of Google holds.

    Args:
        start: the number of its first result, from 0.
        wanted: the licence filter that was asked with: all that Google vouches for, if it is not "any".
    """
    html = reply.content.decode("utf-8", "replace")
    if reply.location:
        return _sent_elsewhere(reply.location)
    if reply.status != requests.codes.ok:
        page = refusal(reply, "Google")
        return _blocked(html) if page and CAPTCHA.search(html) else page or _changed()
    parser = ScriptParser(1, Signal(), None)
    basis = {} if wanted == "any" else {"license": wanted, "license_basis": "filter"}
    found = tuple(Candidate(i["file_url"], i["page_url"], i["title"], **basis) for i in parser.parse(reply))
    following = start + PER_PAGE
    if found:
        return Page(Answer.OK, found, cursor=str(following) if following < DEPTH else None)
    if any(sign.search(html) for sign, _ in REASONS):
        return _blocked(html)
    if NOTHING.search(html):
        return Page(Answer.EMPTY, detail="Google has no (more) images for this query.")
    return _changed()


def _search(session: requests.Session, web: Web, wanted: str, query: str, label: str, cursor: str | None) -> Page:
    if wanted != "any" and wanted not in FILTERS:
        detail = f"Google cannot be asked for license = {wanted}: it tells only Creative Commons' licences from others."
        return Page(
            Answer.EMPTY, detail=f"{detail} Nothing was asked; use Bing, Openverse, Wikimedia Commons or Flickr."
        )
    start = int(cursor or 0)
    feeder = LicenseFeeder(1, Signal(), session)  # a new one: it refuses an address that it has seen
    feeder.feed(query, start, PER_PAGE, filters={"license": FILTERS[wanted]} if wanted in FILTERS else None)
    try:
        reply = ask(session, feeder.out_queue.get_nowait(), web, follow=False)
    except FetchError as error:
        return replace(unreachable(error, "Google"), cursor=cursor)
    page = read_page(reply, start, wanted)
    return page if page.answer in (Answer.OK, Answer.EMPTY) else replace(page, cursor=cursor)


def _images(script: str) -> list[dict[str, str]]:
    script = HEX_ESCAPE.sub(lambda match: chr(int(match[1], 16)), script)
    named = [*IMAGE.finditer(script), None]
    images = []
    for match, following in pairwise(named):
        url = _unquoted(match[1]) if match else ""
        if not match or not _is_offered(url):
            continue
        shown = SHOWN_ON.search(script, match.end(), following.start() if following else len(script))
        page_url, title = (_unquoted(shown[2]), _unquoted(shown[3])) if shown else ("", "")
        images.append(_image(url, page_url, title))
    return images


def _linked(href: str) -> dict[str, str] | None:
    """The image and the page that a link of the basic result page names: /imgres?imgurl=...&imgrefurl=..."""
    try:
        parts = urlsplit(href)
        fields = parse_qs(parts.query) if parts.path.endswith("/imgres") else {}
    except ValueError:  # no address, or more fields than there should be
        return None
    url = fields.get("imgurl", [""])[0]
    return _image(url, fields.get("imgrefurl", [""])[0], "") if _is_offered(url) else None


def _image(url: str, page_url: str, title: str) -> dict[str, str]:
    whole = SPACE.sub(lambda match: quote(match[0]), url)
    return {"file_url": whole, "page_url": page_url if is_web_address(page_url) else "", "title": title}


def _is_offered(url: str) -> bool:
    """Whether it is the address of an image elsewhere; Google's own are thumbnails and ornaments."""
    try:
        return is_web_address(url) and not OWN_HOST.search(urlsplit(url).hostname or "")
    except ValueError:  # brackets that are no IPv6 address
        return False


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"', strict=False))
    except json.JSONDecodeError:
        return text


def _blocked(html: str) -> Page:
    detail = next((reason for sign, reason in REASONS if sign.search(html)), f"Google refuses us; {ELSEWHERE}.")
    return Page(Answer.BLOCKED, detail=detail)


def _sent_elsewhere(location: str) -> Page:
    if CAPTCHA.search(location) or CONSENT.search(location):
        return _blocked(location)
    detail = f"Google sent us from its results to {location[:100]}: this version of DeepRock cannot read that."
    return Page(Answer.CHANGED, detail=detail)


def _changed() -> Page:
    detail = "Google sent a page without results and without saying that there are none: its format changed."
    return Page(Answer.CHANGED, detail=f"{detail} Use another source until DeepRock can read it.")
