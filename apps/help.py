"""The page that helps: how to review, what each key does and how to choose another, what the flags mean."""

from typing import Any

from apps.exchange import browser_page
from curate.columns import COLUMNS
from curate.thresholds import THRESHOLDS

_component = browser_page("help")


def page() -> None:
    """Show it; the keys that are chosen stay in the browser."""
    _component(key="help", data={"flags": flags()})


def flags() -> list[dict[str, Any]]:
    """Each measure that can raise a flag: its name, what it says, and beyond which limit it is a flag."""
    return [
        {
            "measure": threshold.column,
            "meaning": COLUMNS[threshold.column].meaning,
            "limit": f"{'above' if threshold.above else 'below'} {threshold.limit:g}",
        }
        for threshold in THRESHOLDS.values()
    ]
