"""The page for a blind second review: what two reviewers agree on, and what is to settle. (second_opinion.js)"""

from apps.desk import current_desk
from apps.exchange import Asked, browser_page, exchange
from apps.opinions import opinions_of
from apps.who import introduced, who

_component = browser_page("second_opinion", "queue", "agreed")


def page() -> None:
    """Show the images to judge again, or the agreement; before the browser has said who sits there, nothing of both."""
    opinions = opinions_of(current_desk())

    def view(asked: Asked) -> Asked:
        return introduced(opinions.view(asked, who(asked)) if asked else opinions.introduction())

    exchange(_component, "opinions_of_this_tab", view, lambda events, asked: opinions.take(events, who(asked)))
