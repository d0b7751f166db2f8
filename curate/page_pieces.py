"""Pieces of an HTML page: sections, tables and their cells, sentences; all text of others is escaped."""

import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd


class Said(NamedTuple):
    """A sentence of ours with names of others in it: `text` has a {} for each of `names`."""

    text: str
    names: tuple[str, ...] = ()


def section(anchor: str, title: str, body: str) -> str:
    """A landmark with its heading, to be reached as #anchor."""
    heading = f"<h2 id='{anchor}-title'>{title}</h2>"
    return f"<section id='{anchor}' aria-labelledby='{anchor}-title'>{heading}{body}</section>\n"


def side_by_side(*tables: str) -> str:
    """Tables side by side where there is room."""
    return f"<div class='tables'>{''.join(tables)}</div>"


def table_of(header: Iterable[str], rows: Iterable[Sequence[str]], caption: str, kind: str = "") -> str:
    """A table; `rows` are cells in HTML, a `header` that begins with # is of numbers, an empty one of no column."""
    head = "".join(
        f"<th scope='col' class='{'n' if name.startswith('#') else ''}'>{safe(name.removeprefix('#'))}</th>"
        if name
        else "<td></td>"
        for name in header
    )
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return (
        f"<div class='wide' tabindex='0' role='group' aria-label='{html.escape(caption, quote=True)}'>"
        f"<table class='{kind}'><caption>{safe(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        "</table></div>"
    )


def row_name(text: object) -> str:
    """The cell that names a row."""
    return f"<th scope='row'>{safe(text)}</th>"


def number_cell(number: float) -> str:
    """A count; 0 is quiet."""
    return f"<td class='n{'' if number else ' zero'}'>{int(number):,}</td>"


def bar_cell(share: float) -> str:
    """A bar of a share, 0 to 1; only to be seen, the number stands beside it."""
    width = round(100 * min(max(share, 0), 1))
    return f"<td><span class='track' aria-hidden='true'><i style='width: {width}%'></i></span></td>"


def percent(share: float) -> str:
    """As "34 %" in one piece, a dash where it is missing."""
    return "-" if pd.isna(share) else f"{100 * share:.0f}\u00a0%"


def with_interval(value: float, interval: tuple[float, float], share: bool = True) -> str:
    """As "34 % (30 to 38)", or "0.93 (0.88 to 0.96)"."""
    low, high = interval
    if share:
        return f"{100 * value:.0f}\u00a0% ({100 * low:.0f} to {100 * high:.0f})"
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def short(value: object) -> str:
    """A number to three digits, a word as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def so_many_images(number: int) -> str:
    """As "1 image", "2 images"."""
    return f"{number:,} image{'' if number == 1 else 's'}"


def paragraph(said: Said, kind: str = "") -> str:
    """A paragraph of ours with names of others in it."""
    text = html.escape(said.text, quote=False).format(*map(safe, said.names))
    return f"<p class='{kind}'>{text}</p>" if kind else f"<p>{text}</p>"


def sentence_with_commands(sentence: str) -> str:
    """A paragraph of our own; what stands between backticks is a command."""
    parts = html.escape(sentence).split("`")
    return f"<p>{''.join(f'<code>{part}</code>' if n % 2 else part for n, part in enumerate(parts))}</p>"


def safe(text: object) -> str:
    """Text of others: escaped, and of its own direction of writing, so that it cannot reorder what stands around it."""
    return f"<bdi>{html.escape(str(text), quote=True)}</bdi>"
