"""Pages that live in the browser: their files, and how their outbox of decisions comes to the desk and is answered."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import streamlit as st

from apps.desk import current_desk

View = Callable[[dict[str, Any]], dict[str, Any]]
_HERE = Path(__file__).parent


def browser_page(name: str) -> Callable[..., Any]:
    """The component of a page: name.html, name.css and name.js, the last two after what all pages share."""
    return st.components.v2.component(
        f"deeprock_{name}",
        html=_read(f"{name}.html"),
        css=_read("shared.css") + _read(f"{name}.css"),
        js=_read("shared.js") + _read(f"{name}.js"),
    )


def exchange(component: Callable[..., Any], key: str, view: View) -> None:
    """Show what the desk knows. The browser sends its whole outbox each time; the answer says what the ledger holds.

    No fragment: a server that was started again does not know the fragments of a page that was open before, drops what
    they send, and the outbox would never arrive. A whole run is as short.

    Args:
        component: of `browser_page`.
        key: of the component, one for each page.
        view: what the page shows, by what it asked for beside its decisions, which is anything that JSON can say.
    """
    answer = st.session_state.get(_answer(key), {})
    result = component(key=key, data={**answer, **view(answer.get("asked", {}))}, on_outbox_change=partial(_take, key))
    sent = result.get("outbox")
    if sent and sent.get("attempt") != answer.get("attempt"):  # came with a new session: no callback was called
        _take_in(key, sent)
        st.rerun()


def _take(key: str) -> None:
    """Callback: the browser sent its outbox."""
    sent = st.session_state[key].get("outbox")
    if sent:
        _take_in(key, sent)


def _take_in(key: str, sent: dict[str, Any]) -> None:
    """Write an outbox into the ledger and keep the answer for the browser."""
    events = sent.get("events")
    outcome = current_desk().take(events if isinstance(events, list) else [])
    asked = {name: value for name, value in sent.items() if name not in ("attempt", "events")}
    st.session_state[_answer(key)] = {**outcome, "asked": asked, "attempt": sent.get("attempt")}


def _answer(key: str) -> str:
    return f"{key}_answer"


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
