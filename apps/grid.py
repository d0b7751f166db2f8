"""The page that shows many images at once, to judge several in one step (grid.js)."""

from apps.desk import current_desk
from apps.exchange import Asked, browser_page, exchange
from apps.who import introduced, who

_component = browser_page("grid", "queue")


def page() -> None:
    """Show the images that the browser asks for, and what was said of them."""
    desk = current_desk()

    def view(asked: Asked) -> Asked:
        return introduced(desk.grid(asked, who(asked)) if asked else desk.introduction())

    exchange(_component, "grid_of_this_tab", view, lambda events, asked: desk.take(events, who(asked)))
