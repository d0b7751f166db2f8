"""What could not be fetched: by cause, and by host; a passing cause is tried again in the next run."""

import re
from urllib.parse import urlsplit

import pandas as pd

from curate.errors import CurateError
from curate.manifest import require_columns
from curate.sources import clean_text

LONGEST = 100  # characters shown of an address
UNKNOWN = "no cause given"


def failures_by_cause(failures: pd.DataFrame, max_attempts: int) -> pd.DataFrame:
    """One row a cause, the commonest first.

    Causes that differ only in numbers of one damaged file (a size, a place in memory) count as one.

    Args:
        failures: `Ledger.failures()`: `label`, `source`, `url`, `state`, `cause`, `transient`, `attempts`.
        max_attempts: a transient failure is tried so many times, over all runs.

    Returns:
        `cause`, `number` of addresses, `kind` (transient where at least one of them may pass, else final), `again` (how
        many of them the next run tries again), `attempts` in all, `example`, the first address, fit to be printed.
    """
    table = _checked(failures)
    again, transient = _again(table, max_attempts), _transient(table)
    table = table.assign(cause=table["cause"].map(_kind), transient=transient, again=again)
    groups = table.groupby("cause", sort=False)
    counts = groups["url"].size().rename("number").to_frame()
    counts["kind"] = groups["transient"].any().map({True: "transient", False: "final"})
    counts = counts.join(groups[["again", "attempts"]].sum().astype("int64"))
    counts["example"] = groups["url"].first().map(_shown)
    return counts.sort_values("number", ascending=False, kind="stable").reset_index()


def failures_by_host(failures: pd.DataFrame) -> pd.DataFrame:
    """One row a host, the one with most failures first: `host`, `number`, `cause`, its commonest one.

    What has no host counts under its scheme ("contribution:", "file:").
    """
    table = _checked(failures)
    table = table.assign(host=table["url"].map(host), cause=table["cause"].map(_kind))
    counts = table.groupby("host", sort=False).size().rename("number").reset_index()
    causes = table.groupby(["host", "cause"], sort=False).size().sort_values(ascending=False, kind="stable")
    main = causes.reset_index().drop_duplicates("host").set_index("host")["cause"]
    counts["cause"] = counts["host"].map(main)
    return counts.sort_values("number", ascending=False, kind="stable", ignore_index=True)


def tried_again(failures: pd.DataFrame, max_attempts: int) -> int:
    """How many of the failures the next run tries again."""
    return int(_again(_checked(failures), max_attempts).sum())


def of_class(failures: pd.DataFrame, label: str) -> pd.DataFrame:
    """The failures of one class.

    Raises:
        CurateError: none of this class, though there are some of others: names those.
    """
    mine = failures[failures["label"] == label]
    if mine.empty and len(failures):
        others = ", ".join(sorted({_cut(str(name), 60) for name in failures["label"]}))
        raise CurateError(f"no failures of a class {label!r}; there are some of {others}.")
    return mine


def host(url: str) -> str:
    """The host of an address, fit to be printed; the scheme, with its colon, where there is none."""
    try:
        parts = urlsplit(url)
        name = parts.hostname or (f"{parts.scheme}:" if parts.scheme else "")
    except ValueError:
        name = ""
    return _cut(name, 60) or "no host"


def _checked(failures: pd.DataFrame) -> pd.DataFrame:
    require_columns(failures, "label", "url", "state", "cause", "transient", "attempts", made_by="curate scrape")
    return failures


def _again(table: pd.DataFrame, max_attempts: int) -> pd.Series:
    return _transient(table) & (table["attempts"] < max_attempts)


def _transient(table: pd.DataFrame) -> pd.Series:
    """What a recipe refused is final, whatever else is said of it."""
    return (table["state"] == "failed") & table["transient"].fillna(False).astype(bool)


def _kind(cause: object) -> str:
    """A cause without what tells one damaged file from another."""
    if not isinstance(cause, str) or not cause.strip():
        return UNKNOWN
    text = re.sub(r" ?<_io\.[^>]*>", "", clean_text(cause))
    if text.startswith("no image"):
        text = re.sub(r"\d+(?:[,.]\d+)*", "N", text)
    return _cut(text, LONGEST)


def _shown(url: object) -> str:
    return _cut(str(url), LONGEST)


def _cut(text: str, longest: int) -> str:
    text = clean_text(text)
    return text if len(text) <= longest else text[: longest - 1] + "…"
