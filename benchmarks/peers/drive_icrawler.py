"""Run icrawler on one order, given as JSON in the first argument; in a process of its own, as a user's script would.

    {"mode": "bing" | "urllist", "threads": 32, "base": "http://127.0.0.1:8000", "labels": ["a", "b"],
     "per_class": 250, "supply": 350, "urls": "urls.txt", "wanted": 1000, "out": "images"}

`bing` searches one class after the other, into a folder each; `urllist` is given the addresses, into the folder `all`.
More pages are fed than `crawl(max_num=...)` would feed, so that failures can be made up for.
"""

import json
import logging
import sys
from typing import Any
from urllib.parse import urlsplit

import requests
from icrawler import Crawler
from icrawler.builtin import BingImageCrawler, UrlListCrawler
from requests.adapters import HTTPAdapter

PARSERS = 4  # threads that read result pages: enough that no downloader waits for them


class Rewriting(HTTPAdapter):
    """Sends requests for Bing to the loopback server."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = base

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        request.url = f"{self.base}/direct{request.path_url}"
        assert urlsplit(request.url).hostname == "127.0.0.1"
        return super().send(request, *args, **kwargs)


def main() -> None:
    order = json.loads(sys.argv[1])
    if order["mode"] == "bing":
        for label in order["labels"]:
            search(order, label)
    else:
        settings = crawler_settings(order, "all")
        UrlListCrawler(**settings).crawl(order["urls"], max_num=order["wanted"])


def search(order: dict[str, Any], label: str) -> None:
    """Fetch one class's images from Bing."""
    crawler = BingImageCrawler(parser_threads=PARSERS, **crawler_settings(order, label))
    crawler.session.mount("https://www.bing.com", Rewriting(order["base"]))
    feed = {"keyword": label, "offset": 0, "max_num": order["supply"], "filters": None}
    Crawler.crawl(crawler, feeder_kwargs=feed, downloader_kwargs={"max_num": order["per_class"]})


def crawler_settings(order: dict[str, Any], folder: str) -> dict[str, Any]:
    return {
        "downloader_threads": order["threads"],
        "storage": {"backend": "FileSystem", "root_dir": f"{order['out']}/{folder}"},
        "log_level": logging.CRITICAL,
    }


if __name__ == "__main__":
    main()
