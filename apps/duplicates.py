"""The page that shows copies side by side, for a person to judge: are they the same photograph? (duplicates.js)"""

from apps.desk import current_desk
from apps.exchange import browser_page

_component = browser_page("duplicates")


def page() -> None:
    """Open it; the groups that it shows, and what was said of their pairs, come by `/exchange/duplicates`."""
    _component(key="duplicates", data=current_desk().words())
