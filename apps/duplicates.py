"""The page that shows copies side by side, for a person to judge: are they the same photograph? (duplicates.js)"""

from apps.desk import current_desk
from apps.exchange import browser_page, exchange
from apps.who import introduced, who

_component = browser_page("duplicates")


def page() -> None:
    """Show the groups that the browser asks for, and what was said of their pairs."""
    desk = current_desk()
    exchange(
        _component,
        "copies_of_this_tab",
        lambda asked: introduced(desk.copies(asked, who(asked))),
        lambda events, asked: desk.take(events, who(asked)),
    )
