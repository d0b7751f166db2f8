"""Bing image search: icrawler's feeder and parser, driven page by page; 35 results a page, about 1000 deep."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from urllib.parse import urlencode

import requests
from bs4 import BeautifulSoup, SoupStrainer
from icrawler.builtin.bing import BingFeeder, BingParser
from icrawler.utils import Signal

from curate.recipe import Recipe, Web
from curate.sources import Answer, Candidate, FetchError, Page, Source
from curate.web import Reply, ask, download, is_web_address, refusal, unreachable

PER_PAGE = 35
DEPTH = 1000
BLOCKED = re.compile(r"captcha|/turing/|challenges\.cloudflare|solve the challenge|unusual traffic", re.IGNORECASE)
NOTHING = re.compile(r"There (are|were) no results|no_results|couldn.t find any (images|results)", re.IGNORECASE)


class AsyncFeeder(BingFeeder):
    """The address of one page of `/images/async`; icrawler's own puts a raw query into it and counts in twenties."""

    def feed(self, keyword: str, offset: int, max_num: int) -> None:
        """Queue the page whose first result is number `offset`, from 1."""
        parts = {"q": keyword, "async": 1, "first": offset, "count": max_num}
        self.out_queue.put(f"https://www.bing.com/images/async?{urlencode(parts)}")


class TileParser(BingParser):
    """Reads every tile's JSON; icrawler's own sees only addresses that end in .jpg."""

    def parse(self, response: Reply) -> Iterator[dict[str, str]]:
        """The tiles that can be read, in the order of the page."""
        for tile in self.tiles(response):
            try:
                facts = json.loads(tile)
            except json.JSONDecodeError:
                continue
            url = facts.get("murl") if isinstance(facts, dict) else None
            if isinstance(url, str) and is_web_address(url):
                title = str(facts.get("t") or facts.get("desc") or "")
                yield {"file_url": url, "page_url": str(facts.get("purl") or ""), "title": title}

    def tiles(self, response: Reply) -> list[str]:
        """The JSON text of every tile, read or not."""
        only = SoupStrainer("a", class_="iusc")
        html = "\n" + response.content.decode("utf-8", "replace")  # the line break: it never is a file name or URL
        soup = BeautifulSoup(html, "lxml", parse_only=only)
        return [str(link["m"]) for link in soup.find_all("a", class_="iusc") if link.get("m")]


def open_source(recipe: Recipe, session: requests.Session) -> Source:
    """Bing, asked over this session."""
    search = partial(_search, session, recipe.web)
    return Source(search, lambda url: download(session, url, recipe.web))


def read_page(reply: Reply, first: int = 1) -> Page:
    """What an answer with status 200 holds; `first` is the number of its first result."""
    parser = TileParser(1, Signal(), None)
    found = tuple(Candidate(t["file_url"], page_url=t["page_url"], title=t["title"]) for t in parser.parse(reply))
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


def _search(session: requests.Session, web: Web, query: str, label: str, cursor: str | None) -> Page:
    first = int(cursor or 1)
    feeder = AsyncFeeder(1, Signal(), session)  # a new one: it refuses an address that it has seen
    feeder.feed(query, first, PER_PAGE)
    try:
        reply = ask(session, feeder.out_queue.get_nowait(), web)
    except FetchError as error:
        return replace(unreachable(error, "Bing"), cursor=cursor)
    page = refusal(reply, "Bing") or read_page(reply, first)
    return page if page.answer in (Answer.OK, Answer.EMPTY) else replace(page, cursor=cursor)
