"""The page that shows one image after the other; its keyboard, prefetch and outbox live in the browser (review.js)."""

import gc

from apps.desk import current_desk
from apps.exchange import browser_page, exchange
from apps.who import who

_component = browser_page("review")
_warm: list[bool] = []


def page() -> None:
    """Show the queue of the class that the browser asks for."""
    desk = current_desk()
    exchange(
        _component,
        "outbox_of_this_tab",
        lambda asked: desk.view(asked.get("label"), who(asked)),
        lambda events, asked: desk.take(events, who(asked)),
    )


def warm_up() -> None:
    """After the first run, take all that is loaded out of garbage collection, which Streamlit asks for at every run."""
    if not _warm:
        _warm.append(True)
        gc.collect()
        gc.freeze()
