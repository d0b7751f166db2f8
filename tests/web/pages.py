"""The pages that the loopback search engines answer with, in the shapes of the real ones."""

import hashlib
import html
import json
from collections.abc import Sequence
from typing import NamedTuple

BING_PER_PAGE = 35
GOOGLE_PER_PAGE = 100
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
    """One image as an engine lists it."""

    url: str
    page_url: str
    title: str


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
