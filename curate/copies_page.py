"""A page that shows the copies that were found, side by side: one HTML file that opens offline, pictures inside."""

import base64
import html
import io
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from curate.copy_groups import Group, Kind, Member, Pair, groups, not_compared
from curate.errors import CurateError
from curate.files import writing
from curate.images import open_rgb, thumbnail
from curate.store import ImageError

SIDE = 200  # pixels of the longer side of a picture
QUALITY = 75  # of its JPEG
THREADS = 4  # that decode, at most: each may hold an image of a hundred million pixels
OPEN_PAIRS = 8  # lines of a group that are not folded away
ALIKE = 1.05  # pixels for a pixel, below which neither of two copies is called finer
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
SECTIONS: dict[Kind, tuple[str, str]] = {
    "conflict": (
        "Label conflicts",
        "The same photograph lies under two classes, and which one is right cannot be measured: a person must decide. "
        "Start `curate review` and open the page Duplicates. Until then both stay.",
    ),
    "copies": (
        "Copies",
        "Of each photograph the best copy of a class is kept; under each of the others stands why. Nothing is chained: "
        "an image that is only a copy of a copy stays.",
    ),
    "apart": ("Pairs that both stay", "Verified copies of which none is out for the other, as both were judged."),
}
CSS = """
:root { color-scheme: light dark; --ink: #23262a; --paper: #f4f3f0; --card: #fff; --line: #d3d0c9; --quiet: #5a5f66;
  --good: #1f6b4a; --bad: #a03a2c; --warn: #8a5200; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e3df; --paper: #17191b; --card: #212427; --line: #41464b;
  --quiet: #a8adb3; --good: #7ccba5; --bad: #f0a090; --warn: #f0b860; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 1.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.75rem; margin: 0; } h2 { font-size: 1.3rem; margin: 2.5rem 0 .25rem; }
h3 { font-size: 1rem; margin: 0 0 .75rem; font-weight: 600; } p { margin: .25rem 0 1rem; max-width: 75ch; }
a { color: inherit; text-underline-offset: .2em; }
:focus-visible { outline: 2px solid var(--good); outline-offset: 2px; }
bdi, td, dd { overflow-wrap: anywhere; }
.counts { display: flex; flex-wrap: wrap; gap: .5rem 2rem; list-style: none; margin: .75rem 0 0; padding: 0; }
.counts b { font-size: 1.25rem; font-variant-numeric: tabular-nums; display: block; line-height: 1.2; }
.group { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: 1rem; margin: 0 0 1rem;
  content-visibility: auto; contain-intrinsic-size: auto 26rem; }
.images { display: grid; grid-template-columns: repeat(auto-fill, 200px); gap: 1rem 1.25rem; list-style: none;
  margin: 0; padding: 0; }
.photo { display: flex; align-items: center; justify-content: center; width: 200px; height: 200px; }
.photo img { border-radius: .35rem; } .photo p { margin: 0; padding: .75rem; font-size: .8125rem; color: var(--bad); }
.photo:has(p) { border: 1px dashed var(--line); border-radius: .35rem; max-height: 200px; overflow: auto; }
.mark { font-weight: 650; } .kept .mark { color: var(--good); } .copy .mark, .rejected .mark { color: var(--bad); }
.stays .mark { color: var(--warn); }
.facts { margin: .35rem 0 0; font-size: .8125rem; line-height: 1.4; } .facts div { margin-top: .1rem; }
.quiet, dt, th { color: var(--quiet); } code { font: .8125rem/1.4 ui-monospace, monospace; }
.label { font-weight: 650; font-size: .9375rem; } .conflict .label { color: var(--warn); }
.wide { overflow-x: auto; margin-top: 1rem; } table { border-collapse: collapse; width: 100%; font-size: .8125rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .9rem .3rem 0; border-top: 1px solid var(--line); }
th { font-weight: 500; white-space: nowrap; border-top: 0; }
td code { white-space: nowrap; } .check { min-width: 14rem; }
.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
summary { cursor: pointer; margin-top: .75rem; font-size: .875rem; color: var(--quiet); }
"""


def write_copies(marked: pd.DataFrame, pairs: pd.DataFrame, root: Path, path: Path) -> None:
    """Write the page: label conflicts, groups of copies, pairs that both stay, and what could not be compared.

    Every image is decoded once, and written as soon as it is: memory does not grow with their number.

    Args:
        marked: the manifest after `mark_duplicates`.
        pairs: of `find_copies`.
        root: the data root.
        path: the HTML file.

    Raises:
        CurateError: a column is missing, or the disk refuses.
    """
    found, failures = groups(marked, pairs), not_compared(pairs)
    with writing(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as page:
        page.write(_head(marked, found, failures))
        pictures = _pictures((image for group in found for image in group.images), root)
        for kind, (title, text) in SECTIONS.items():
            if mine := [group for group in found if group.kind == kind]:
                page.write(f"<section class='{kind}' id='{kind}'><h2>{title} ({len(mine):,})</h2>{_text(text)}\n")
                for number, group in enumerate(mine, 1):
                    page.write(_group(group, number, pictures))
                page.write("</section>\n")
        page.write(_not_compared(failures, marked))
        page.write("</body></html>\n")


class Picture(NamedTuple):
    """A small JPEG, or why there is none."""

    data: bytes = b""
    width: int = 0
    height: int = 0
    cause: str = ""


def _pictures(images: Iterable[Member], root: Path) -> Iterator[Picture]:
    """The picture of each image, in order, decoded on threads a few images ahead of who takes them."""
    ahead: deque[Future[Picture]] = deque()
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for image in images:
            ahead.append(pool.submit(_picture, image.file_name, root))
            if len(ahead) > 2 * THREADS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _picture(file_name: str | None, root: Path) -> Picture:
    if file_name is None:
        return Picture(cause="This image is not in this manifest.")
    try:
        small = thumbnail(open_rgb(root, file_name), SIDE)
    except (CurateError, ImageError, OSError) as error:
        return Picture(cause=f"Cannot be shown: {error}")
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return Picture(buffer.getvalue(), small.width, small.height)


def _head(marked: pd.DataFrame, found: list[Group], failures: list[tuple[str, str]]) -> str:
    kinds = [group.kind for group in found]
    copies = int((marked["status"] == "duplicate").sum()) if "status" in marked else 0
    counts = (
        (len(marked), "images", ""),
        (copies, "copies, not used", "copies"),
        (len(found), "groups", ""),
        (kinds.count("conflict"), "label conflicts", "conflict"),
        (kinds.count("apart"), "pairs that both stay", "apart"),
        (len(failures), "not compared", "not-compared"),
    )
    there = {*kinds, *(["not-compared"] if failures else [])}
    links = [f"<a href='#{anchor}'>{what}</a>" if anchor in there else what for _, what, anchor in counts]
    items = "".join(f"<li><b>{n:,}</b>{link}</li>" for (n, *_), link in zip(counts, links, strict=True))
    nothing = "" if found else _text("No two images of this manifest are copies of one photograph.")
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><meta name="referrer" content="no-referrer">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'><title>Copies</title>"
        f"<style>{CSS}</style></head>\n<body><h1>Copies</h1><ul class='counts'>{items}</ul>{nothing}\n"
    )


def _group(group: Group, number: int, pictures: Iterator[Picture]) -> str:
    """One group: its images side by side, then a line for each pair. Takes the next pictures."""
    place = {image.image_id: n for n, image in enumerate(group.images, 1)}
    cards = "".join(_card(image, place[image.image_id], next(pictures)) for image in group.images)
    classes = (" and " if group.kind == "conflict" else ", ").join(map(_safe, group.labels)) or "no class"
    size = len(group.images)
    return (
        f"<article class='group'><h3>{number:,}. {classes} <span class='quiet'>· {size} images</span></h3>"
        f"<ul class='images'>{cards}</ul>{_pairs(group.pairs, place)}</article>\n"
    )


def _card(image: Member, place: int, picture: Picture) -> str:
    mark = "not in this manifest" if image.mark == "elsewhere" else image.mark
    also = ", accepted" if image.status == "accepted" else ""
    size = f"{image.width:,} × {image.height:,} px" if image.width and image.height else "size unknown"
    weight = f", {image.bytes:,} bytes" if image.bytes is not None else ""
    origin = f"<div>{' · '.join(_safe(x) for x in (image.source, image.url) if x)}</div>" if image.source else ""
    return (
        f"<li class='{image.mark}'><div class='photo'>{_photo(image, picture)}</div><div class='facts'>"
        f"<div><span class='number'>{place}.</span> <span class='mark'>{mark}{also}</span></div>"
        f"<div class='label'>{_safe(image.label or '')}</div>{f'<div>{_safe(image.why)}</div>' if image.why else ''}"
        f"<div class='number'>{size}{weight}</div><div class='quiet'>{_safe(image.file_name or '')}</div>"
        f"<code>{_safe(image.image_id)}</code><div class='quiet'>{origin}</div></div></li>"
    )


def _photo(image: Member, picture: Picture) -> str:
    if picture.cause:
        return f"<p>{_safe(picture.cause)}</p>"
    alt = html.escape(f"{image.label}, image {image.image_id}, {image.mark}", quote=True)
    data = base64.b64encode(picture.data).decode()
    return (
        f'<img alt="{alt}" width="{picture.width}" height="{picture.height}" loading="lazy" '
        f'src="data:image/jpeg;base64,{data}">'
    )


def _pairs(pairs: tuple[Pair, ...], place: dict[str, int]) -> str:
    """The lines of a group, the first ones open."""
    shown, folded = pairs[:OPEN_PAIRS], pairs[OPEN_PAIRS:]
    more = f"<details><summary>{len(folded):,} more pairs</summary>{_lines(folded, place)}</details>" if folded else ""
    return _lines(shown, place) + more


def _lines(pairs: tuple[Pair, ...], place: dict[str, int]) -> str:
    names = ("pair", "image_id", "distance", "what the check saw", "mirrored", "shared", "more pixels")
    head = "".join(f"<th scope='col'>{name}</th>" for name in names)
    rows = "".join(_line(pair, sorted((pair.first, pair.second), key=place.__getitem__), place) for pair in pairs)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def _line(pair: Pair, images: list[str], place: dict[str, int]) -> str:
    one, other = images
    cells = (
        f"<td class='number'>{place[one]} and {place[other]}</td>",
        f"<td><code>{_safe(one)}</code><br><code>{_safe(other)}</code></td>",
        f"<td class='number'>{'?' if pair.distance is None else f'{pair.distance} bits'}</td>",
        f"<td class='check'>{_safe(pair.check)}</td>",
        f"<td>{'yes' if pair.flipped else 'no'}</td>",
        f"<td class='number'>{_shared(pair, images, place)}</td>",
        f"<td class='number'>{_finer(pair, place)}</td>",
    )
    return f"<tr>{''.join(cells)}</tr>"


def _shared(pair: Pair, images: list[str], place: dict[str, int]) -> str:
    """How much of each of the two the other one shows."""
    if pair.cover_first is None or pair.cover_second is None:
        return "?"
    cover = {pair.first: pair.cover_first, pair.second: pair.cover_second}
    return ", ".join(f"{100 * cover[image]:.0f} % of {place[image]}" for image in images)


def _finer(pair: Pair, place: dict[str, int]) -> str:
    """Which of the two shows the photograph with more pixels, and how many for one of the other along a side."""
    if not pair.finer:
        return "?"
    first_is_finer = pair.finer > 1
    ratio = pair.finer if first_is_finer else 1 / pair.finer
    return f"{place[pair.first if first_is_finer else pair.second]} (× {ratio:.1f})" if ratio > ALIKE else "alike"


def _not_compared(failures: list[tuple[str, str]], marked: pd.DataFrame) -> str:
    if not failures:
        return ""
    mine = marked[marked["image_id"].isin([image for image, _ in failures])]
    facts = {i: (label, name) for i, label, name in mine[["image_id", "label", "file_name"]].itertuples(index=False)}
    head = "".join(f"<th scope='col'>{name}</th>" for name in ("image_id", "class", "file", "cause"))
    rows = "".join(
        f"<tr><td><code>{_safe(image)}</code></td>"
        + "".join(f"<td>{_safe(cell)}</td>" for cell in (*facts.get(image, ("", "")), cause))
        + "</tr>"
        for image, cause in failures
    )
    table = f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    text = _text("Copies of these images cannot be found before they open.")
    return f"<section id='not-compared'><h2>Not compared ({len(failures):,})</h2>{text}{table}</section>\n"


def _text(sentence: str) -> str:
    """A paragraph of our own; what stands between backticks is a command."""
    parts = html.escape(sentence).split("`")
    return f"<p>{''.join(f'<code>{part}</code>' if n % 2 else part for n, part in enumerate(parts))}</p>"


def _safe(text: object) -> str:
    """Text of others: escaped, and of its own direction of writing, so that it cannot reorder what stands around it."""
    return f"<bdi>{html.escape(str(text), quote=True)}</bdi>"
