"""The page that shows many images at once, to judge several in one step; it lives in the browser (grid.js)."""

from apps.desk import current_desk
from apps.exchange import browser_page

_component = browser_page("grid", "queue")


def page() -> None:
    """Open it; what it shows comes by `/exchange/grid`."""
    _component(key="grid", data=current_desk().introduction())
