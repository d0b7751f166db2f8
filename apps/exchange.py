"""Pages that live in the browser: their files, and how their outbox of decisions comes to the desk and is answered."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import streamlit as st

Asked = dict[str, Any]
View = Callable[[Asked], dict[str, Any]]
Take = Callable[[list[Any], Asked], dict[str, Any]]
_HERE = Path(__file__).parent


def browser_page(name: str, *also: str) -> Callable[..., Any]:
    """The component of a page: name.html, name.css and name.js, the last two after what all pages, or some, share."""
    files = ("shared", *also, name)
    return st.components.v2.component(
        f"deeprock_{name}",
        html=_read(f"{name}.html"),
        css="".join(_read(f"{file}.css") for file in files),
        js="".join(_read(f"{file}.js") for file in files),
    )


def exchange(component: Callable[..., Any], key: str, view: View, take: Take) -> None:
    """Show what the desk knows. The browser sends its whole outbox each time; the answer says what the ledger holds.

    No fragment: a server that was started again does not know the fragments of a page that was open before, drops what
    they send, and the outbox would never arrive. A whole run is as short.

    Args:
        component: of `browser_page`.
        key: of the component, one for each page.
        view: what the page shows, by what it asked for beside its decisions, which is anything that JSON can say.
        take: writes the decisions of an outbox, oldest first, and says what became of them: `acked`, `refused`, `error`
            as in `Desk.take`.
    """
    answer = st.session_state.get(_answer(key), {})
    shown = {**answer, **view(answer.get("asked", {}))}
    result = component(key=key, data=shown, on_outbox_change=partial(_take, key, take))
    sent = result.get("outbox")
    if sent and sent.get("attempt") != answer.get("attempt"):  # came with a new session: no callback was called
        _take_in(key, take, sent)
        st.rerun()


def _take(key: str, take: Take) -> None:
    """Callback: the browser sent its outbox."""
    sent = st.session_state[key].get("outbox")
    if sent:
        _take_in(key, take, sent)


def _take_in(key: str, take: Take, sent: dict[str, Any]) -> None:
    """Write an outbox into the ledger and keep the answer for the browser."""
    events = sent.get("events")
    asked = {name: value for name, value in sent.items() if name not in ("attempt", "events")}
    outcome = take(events if isinstance(events, list) else [], asked)
    st.session_state[_answer(key)] = {**outcome, "asked": asked, "attempt": sent.get("attempt")}


def _answer(key: str) -> str:
    return f"{key}_answer"


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
