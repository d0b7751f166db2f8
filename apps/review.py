"""The page that shows one image after the other; its keyboard, prefetch and outbox live in the browser (review.js)."""

import gc

from apps.desk import current_desk
from apps.exchange import Asked, browser_page, exchange
from apps.who import introduced, who

_component = browser_page("review", "queue")
_warm: list[bool] = []


def page() -> None:
    """Show the images that the browser asks for; before it has said who sits there, what there is to ask for."""
    desk = current_desk()

    def view(asked: Asked) -> Asked:
        return introduced(desk.view(asked, who(asked)) if asked else desk.introduction())

    exchange(_component, "outbox_of_this_tab", view, lambda events, asked: desk.take(events, who(asked)))


def warm_up() -> None:
    """After the first run, take all that is loaded out of garbage collection, which Streamlit asks for at every run."""
    if not _warm:
        _warm.append(True)
        gc.collect()
        gc.freeze()
