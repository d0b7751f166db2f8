"""The page that shows one image after the other; it lives in the browser (review.js)."""

import gc

from apps.desk import current_desk
from apps.exchange import browser_page

_component = browser_page("review", "queue")
_warm: list[bool] = []


def page() -> None:
    """Open it; what it shows comes by `/exchange/review`."""
    _component(key="review", data=current_desk().introduction())


def warm_up() -> None:
    """After the first run, take all that is loaded out of garbage collection, which Streamlit asks for at every run."""
    if not _warm:
        _warm.append(True)
        gc.collect()
        gc.freeze()
