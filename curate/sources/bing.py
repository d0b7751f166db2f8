"""Bing image search: icrawler's feeder and parser, driven page by page; 35 results a page, about 1000 deep."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from html import unescape
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import requests
from bs4 import BeautifulSoup, Tag
from icrawler.builtin.bing import BingFeeder, BingParser
from icrawler.utils import Signal
from lxml import etree

from curate.licenses import require_wanted
from curate.recipe import Recipe, Web
from curate.sources import Answer, Candidate, FetchError, Page, Source
from curate.sources.api import refusal, unreachable
from curate.web import Reply, ask, download, is_web_address

PER_PAGE = 35
DEPTH = 1000
FILTERS = {  # what is wanted -> icrawler's name of Bing's filter, all of them groups of Creative Commons' licences
    "cc": "noncommercial",  # L2 to L7: "Free to share and use"
    "commercial": "commercial",  # L2, L3, L4: "Free to share and use commercially"
    "modify": "noncommercial,modify",  # L2, L3, L5, L6: "Free to modify, share, and use"
    "commercial-modify": "commercial,modify",  # L2, L3: "Free to modify, share, and use commercially"
    "public-domain": "publicdomain",  # L1
}
OBJECT = re.compile(r"\s*\{\s*\w+\s*:")
FACT = re.compile(r'[{,]\s*(\w+)\s*:\s*"([^"]*)"')
UNSAFE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ue000-\uf8ff]")
BLOCKED = re.compile(r"captcha|/turing/|challenges\.cloudflare|solve the challenge|unusual traffic", re.IGNORECASE)
NOTHING = re.compile(r"There (are|were) no results|no_results|couldn.t find any (images|results)", re.IGNORECASE)


class AsyncFeeder(BingFeeder):
    """The address of one page of `/images/async`; icrawler's own puts a raw query into it and counts in twenties."""

    def feed(self, keyword: str, offset: int, max_num: int, filters: dict[str, str] | None = None) -> None:
        """Queue the page whose first result is number `offset`, from 1; filters as icrawler names them."""
        parts: dict[str, str | int] = {"q": keyword, "async": 1, "first": offset, "count": max_num}
        if filters:
            parts["qft"] = self.get_filter().apply(filters).replace("+", " ")  # a browser's + is a space
        self.out_queue.put(f"https://www.bing.com/images/async?{urlencode(parts)}")


class TileParser(BingParser):
    """Reads every tile's facts; icrawler's own sees only addresses that end in .jpg."""

    def parse(self, response: Reply) -> Iterator[dict[str, str]]:
        """The results that can be read, in the order of the page."""
        tiles = self.tiles(response)
        read = (_read_tile(tile) for tile in tiles) if tiles else (_read_item(item) for item in _items(response))
        yield from (result for result in read if is_web_address(result["file_url"]))

    def tiles(self, response: Reply) -> list[Mapping[str, str]]:
        """Attributes of every tile, whether it can be read or not: today's `a.iusc`, the `a[m]` of before 2017."""
        parser = etree.HTMLParser(encoding="utf-8", target=_Links())  # builds no tree: ten times as quick
        links: list[dict[str, str]] = etree.fromstring(_html(response).encode(), parser)
        return [link for link in links if link.get("m") or "iusc" in link.get("class", "").split()]


class _Links:
    """What the parser is to make of a page: the attributes of its links."""

    def __init__(self) -> None:
        self.found: list[dict[str, str]] = []

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag == "a":
            self.found.append(dict(attributes))

    def close(self) -> list[dict[str, str]]:
        return self.found


def open_source(recipe: Recipe, session: requests.Session) -> Source:
    """Bing, asked over this session.

    Raises:
        CurateError: the recipe's `license` is not one of `licenses.WANTED`.
    """
    search = partial(_search, session, recipe.web, require_wanted(recipe.license))
    return Source(search, lambda url: download(session, url, recipe.web))


def read_page(reply: Reply, first: int = 1, wanted: str = "any") -> Page:
    """What an answer with status 200 holds.

    Args:
        first: the number of its first result.
        wanted: the licence filter that was asked with: all that Bing vouches for, if it is not "any".
    """
    parser = TileParser(1, Signal(), None)
    basis = {} if wanted == "any" else {"license": wanted, "license_basis": "filter"}
    found = tuple(Candidate(r["file_url"], r["page_url"], r["title"], **basis) for r in parser.parse(reply))
    following = first + PER_PAGE
    if found:
        return Page(Answer.OK, found, cursor=str(following) if following <= DEPTH else None)
    html = reply.content.decode("utf-8", "replace")
    if tiles := len(parser.tiles(reply)):
        return Page(Answer.CHANGED, detail=f"Bing sent {tiles} results, none of which can be read: its format changed.")
    if BLOCKED.search(html):
        detail = "Bing asks to solve a captcha: it takes us for a robot. Use another source, or wait some hours."
        return Page(Answer.BLOCKED, detail=detail)
    if not html.strip() or NOTHING.search(html):
        return Page(Answer.EMPTY, detail="Bing has no (more) images for this query.")
    detail = "Bing sent a page without results and without saying that there are none: its format changed."
    return Page(Answer.CHANGED, detail=f"{detail} Use another source until DeepRock can read it.")


def _search(session: requests.Session, web: Web, wanted: str, query: str, label: str, cursor: str | None) -> Page:
    first = int(cursor or 1)
    feeder = AsyncFeeder(1, Signal(), session)  # a new one: it refuses an address that it has seen
    feeder.feed(query, first, PER_PAGE, {"license": FILTERS[wanted]} if wanted in FILTERS else None)
    try:
        reply = ask(session, feeder.out_queue.get_nowait(), web)
    except FetchError as error:
        return replace(unreachable(error, "Bing"), cursor=cursor)
    page = refusal(reply, "Bing") or read_page(reply, first, wanted)
    return page if page.answer in (Answer.OK, Answer.EMPTY) else replace(page, cursor=cursor)


def _html(reply: Reply) -> str:
    return "\n" + reply.content.decode("utf-8", "replace")  # the line break: it never is a file name or URL


def _read_tile(tile: Mapping[str, str]) -> dict[str, str]:
    facts = _facts(tile.get("m", ""))
    shown = _first(facts, "murl", "imgurl", "oi") or _linked(tile.get("href", ""))
    title = _first(facts, "t", "desc") or tile.get("t1", "")
    return _result(shown, _first(facts, "purl", "surl"), title)


def _items(reply: Reply) -> list[Tag]:
    """The results of the page that Bing sends to the simplest clients: each links to the image itself."""
    return BeautifulSoup(_html(reply), "lxml").select("div.item:has(a.thumb)")


def _read_item(item: Tag) -> dict[str, str]:
    image, page, words = (item.select_one(place) for place in ("a.thumb", "a.tit", "div.des"))
    image_url, page_url = (str(link.get("href") or "") if link else "" for link in (image, page))
    return _result(image_url, page_url, words.get_text() if words else "")


def _result(url: str, page_url: str, title: str) -> dict[str, str]:
    page_url = _address(page_url)
    return {"file_url": _address(url), "page_url": page_url if is_web_address(page_url) else "", "title": title}


def _facts(text: str) -> dict[str, object]:
    """A tile's `m`: JSON, today; before 2017 a script's object, whose names have no quotes; {} if it is neither."""
    for spelling in (text, unescape(text)):
        try:
            facts = json.loads(spelling, strict=False)
        except ValueError:
            continue
        return facts if isinstance(facts, dict) else {}
    return dict(FACT.findall(text)) if OBJECT.match(text) else {}


def _first(facts: dict[str, object], *keys: str) -> str:
    return next((value for key in keys if isinstance(value := facts.get(key), str) and value.strip()), "")


def _linked(href: str) -> str:
    """The image that a tile's link to its page on Bing names, its original where it names Bing's copy."""
    try:
        image = parse_qs(urlsplit(href).query).get("mediaurl", [""])[0]
        return parse_qs(urlsplit(image).query).get("riu", [image])[0]
    except ValueError:  # no address, or more fields than there should be
        return ""


def _address(text: str) -> str:
    """An address as it can be asked for: with a scheme, and without what tables and headers do not bear."""
    text = text.strip()
    text = f"https:{text}" if text.startswith("//") else text
    return UNSAFE.sub(lambda match: quote(match[0]), text)
