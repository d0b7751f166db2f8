"""The page for a blind second review: what two reviewers agree on, and what is to settle. (second_opinion.js)"""

from apps.desk import current_desk
from apps.exchange import browser_page

_component = browser_page("second_opinion", "queue", "agreed")


def page() -> None:
    """Open it; what it shows comes by `/exchange/second-opinion`."""
    _component(key="second_opinion", data=current_desk().words())
