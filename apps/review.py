"""The page that shows one image after the other; its keyboard, prefetch and outbox live in the browser (review.js)."""

import gc

from apps.desk import current_desk
from apps.exchange import browser_page, exchange

_component = browser_page("review")
_warm: list[bool] = []


def page() -> None:
    """Show the queue of the class that the browser asks for."""
    exchange(_component, "outbox_of_this_tab", lambda asked: current_desk().view(asked.get("label")))


def warm_up() -> None:
    """After the first run, take all that is loaded out of garbage collection, which Streamlit asks for at every run."""
    if not _warm:
        _warm.append(True)
        gc.collect()
        gc.freeze()
