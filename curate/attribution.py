"""Whom to credit for the images of a set, and which of them nobody has said may be used: ATTRIBUTION.md and its CSV.

Titles, names and addresses come from the web. In the Markdown no sign of theirs means anything, and only http and https
addresses become links; in the CSV no cell is a formula.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pandas as pd

from curate.errors import CurateError
from curate.files import replacing
from curate.licenses import credit_line, identify
from curate.manifest import require_columns, write_manifest
from curate.sources import clean_text

TEXTS = ("title", "creator", "license", "license_url", "license_basis", "page_url", "url", "attribution")
COLUMNS = ("image_id", "file_name", "label", *TEXTS, "rights")
STATED, FILTERED, UNKNOWN, RESERVED = "stated", "filter", "unknown", "reserved"
MEANING = {
    UNKNOWN: ("Licence unknown", "nobody said under which licence they may be used"),
    FILTERED: ("A search filter only", "a search engine's licence filter let them through; no source states a licence"),
    RESERVED: ("All rights reserved", "the source says so: each needs its creator's permission"),
    STATED: ("Licence stated", "the source or the contributor states a licence; listed by licence below"),
}
LONGEST = 200  # characters shown of a title or a name
_SIGNS = str.maketrans(
    {sign: f"\\{sign}" for sign in "\\`*_{}[]()#+-.!"}
    | {sign: f"&#{ord(sign)};" for sign in "<>&|~:;$^="}
    | {"@": "&#64;&#8288;"}
)
_URL_SIGNS = "!$&()*+,-./:;=?@_~#%"
_DEEDS = {
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-PDM-1.0": "https://creativecommons.org/publicdomain/mark/1.0/",
    "CC-PDDC": "https://creativecommons.org/licenses/publicdomain/",
    "CC-BY-NC-ND-1.0": "https://creativecommons.org/licenses/by-nd-nc/1.0/",
}


def credited(manifest: pd.DataFrame) -> pd.DataFrame:
    """One row an image of the set, in the order of the manifest: what a credit line needs, and `rights`.

    The set is what is accepted; where nothing is, all that is neither rejected nor a duplicate.

    Args:
        manifest: with `image_id`, `file_name`, `label`, `status`; what it lacks of the provenance counts as unknown.

    Returns:
        `COLUMNS`, texts cleaned of control codes. `rights` is "stated" (by the source or the contributor), "filter" (a
        search filter implies it), "reserved" (all rights reserved), or "unknown".

    Raises:
        CurateError: a column is missing.
    """
    require_columns(manifest, "image_id", "file_name", "label", "status", made_by="curate scrape")
    table = manifest[_in_the_set(manifest)].reindex(columns=list(COLUMNS[:-1])).reset_index(drop=True)
    for column in TEXTS:
        cleaned = table[column].map(clean_text, na_action="ignore").astype("str").where(table[column].notna())
        table[column] = cleaned.where(cleaned != "")
    table["url"] = table["url"].where(table["url"].str.match(r"https?://", na=False))  # no path of this machine
    table["license"] = _recognised(table)
    rights = [_rights(*row) for row in zip(table["license"], table["license_basis"], strict=True)]
    return table.assign(rights=pd.Series(rights, table.index, dtype="str"))


def chosen(manifest: pd.DataFrame) -> str:
    """Which images `credited` lists, in words."""
    if manifest["status"].eq("accepted").any():
        return "accepted images"
    return "images that are neither rejected nor duplicates (none are accepted yet)"


def markdown(table: pd.DataFrame, which: str) -> str:
    """ATTRIBUTION.md of `credited`: counts, what is to be decided, then every image by licence, the commonest first."""
    counts = table["rights"].value_counts()
    lines = [
        "# Attribution",
        "",
        f"{len(table)} {which}.",
        "",
        "| rights | images | what that means |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {counts.get(rights, 0)} | {means} |" for rights, (name, means) in MEANING.items()]
    for rights in (UNKNOWN, FILTERED, RESERVED):
        part = table[table["rights"] == rights]
        if len(part):
            name, means = MEANING[rights]
            lines += ["", f"## To be decided: {name} ({len(part)})", "", f"{means[0].upper()}{means[1:]}.", ""]
            lines += [_item(row, with_license=True) for row in _rows(part)]
    stated = table[table["rights"] == STATED]
    for license in stated["license"].value_counts().index:
        part = stated[stated["license"] == license]
        lines += ["", f"## {escape(license)} ({len(part)})", ""]
        lines += [*_deed_lines(license, part), *(_item(row) for row in _rows(part))]
    return "\n".join(lines) + "\n"


def write_attribution(manifest: pd.DataFrame, path: Path, *, read_from: Path | None = None) -> pd.DataFrame:
    """Write ATTRIBUTION.md and the CSV beside it, each in one step; returns `credited`.

    Args:
        path: of the Markdown; the CSV has its name and the suffix .csv.
        read_from: the manifest's own file, which is never written over.

    Raises:
        CurateError: as `credited`; no images; a path that is no .md, would replace the manifest, or cannot be written.
    """
    csv = path.with_suffix(".csv")
    if path.suffix.lower() != ".md":
        raise CurateError(
            f"{path}: the attribution is Markdown, with a CSV beside it: give it a name that ends in .md."
        )
    if read_from and csv.resolve() == read_from.resolve():
        raise CurateError(f"{path}: its CSV would replace the manifest {read_from}. Give it another name with -o.")
    table = credited(manifest)
    if table.empty:
        raise CurateError("every image is rejected or a duplicate: there is nothing to attribute.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_manifest(table, csv)
        with replacing(path) as temporary:
            temporary.write_text(markdown(table, chosen(manifest)), encoding="utf-8", errors="replace")
    except OSError as error:
        raise CurateError(f"{path}: cannot be written: {error}.") from error
    return table


def escape(text: str) -> str:
    """Text as Markdown in which nothing is a link, an address, an image, HTML, a heading, or ends a line or a cell.

    Where a renderer that knows only the first Markdown would leave HTML in place, entities stand, not backslashes; an
    invisible joiner keeps addresses of mail from becoming links.
    """
    text = clean_text(text)
    return (text if len(text) <= LONGEST else text[: LONGEST - 1] + "…").translate(_SIGNS)


def link(url: str) -> str:
    """A web address as <https://...>, percent-encoded where it could break out; any other address as escaped text."""
    url = clean_text(url)
    try:
        parts = urlsplit(url)
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_web = False
    return f"<{quote(url, safe=_URL_SIGNS)}>" if is_web else escape(url)


def deed(license: str) -> str:
    """The canonical page of a Creative Commons licence by its SPDX id; empty for anything else."""
    if license in _DEEDS:
        return _DEEDS[license]
    if match := re.fullmatch(r"CC-(BY(?:-NC)?(?:-SA|-ND)?)-(\d\.\d)(?:-([A-Z]+))?", license):
        port = f"{match[3].lower()}/" if match[3] else ""
        return f"https://creativecommons.org/licenses/{match[1].lower()}/{match[2]}/{port}"
    return ""


def _in_the_set(manifest: pd.DataFrame) -> pd.Series:
    accepted = manifest["status"] == "accepted"
    return accepted if accepted.any() else ~manifest["status"].isin(["rejected", "duplicate"])


def _recognised(table: pd.DataFrame) -> pd.Series:
    """The licences by their SPDX ids, as far as they have one; of a search filter its name, as it is."""
    given = table[["license", "license_url"]].fillna("")
    known = {pair: identify(*pair) or pair[0] for pair in set(given.itertuples(index=False, name=None))}
    ids = pd.Series([known[pair] for pair in given.itertuples(index=False, name=None)], table.index, dtype="str")
    return ids.where(table["license_basis"] != "filter", given["license"]).replace("", None)


def _rights(license: object, basis: object) -> str:
    if isinstance(license, str) and "all rights reserved" in license.casefold():
        return RESERVED
    if basis == "filter":
        return FILTERED
    return STATED if isinstance(license, str) and basis == "asserted" else UNKNOWN


def _rows(table: pd.DataFrame) -> Iterator[dict[str, str]]:
    texts = table[list(COLUMNS)].astype(object).where(table[list(COLUMNS)].notna(), "")
    for row in texts.itertuples(index=False):
        yield dict(zip(COLUMNS, map(str, row), strict=True))


def _item(row: dict[str, str], with_license: bool = False) -> str:
    """One image, one line."""
    parts = [f"{escape(row['title']) or 'untitled'}, by {escape(row['creator']) or 'unknown'}"]
    if with_license and row["license"]:
        said = "search filter" if row["rights"] == FILTERED else "licence given as"
        parts.append(f"{said} {escape(row['license'])}")
    page = row["page_url"] or row["url"]
    parts.append(link(page) if page else "no source page")
    told = row["attribution"]
    if told and told != credit_line(row["title"], row["creator"], row["license"], row["page_url"]):
        parts.append(f"Credit as asked for: {escape(told)}")
    return f"- {'. '.join(parts)} ({escape(row['label'])}, {escape(row['image_id'])})"


def _deed_lines(license: str, part: pd.DataFrame) -> list[str]:
    """Where the licence can be read: its canonical page, else the pages that the sources name."""
    pages = [deed(license)] if deed(license) else list(part["license_url"].dropna().unique()[:3])
    return [f"Licence: {', '.join(map(link, pages))}", ""] if pages else []
