"""The page that shows one image after the other; its keyboard, prefetch and outbox live in the browser (review.js)."""

import gc
from pathlib import Path
from typing import Any

import streamlit as st

from apps.desk import current_desk

KEY = "outbox_of_this_tab"
_HERE = Path(__file__).parent
_component = st.components.v2.component(
    "deeprock_review",
    html=(_HERE / "review.html").read_text(encoding="utf-8"),
    css=(_HERE / "review.css").read_text(encoding="utf-8"),
    js=(_HERE / "review.js").read_text(encoding="utf-8"),
)
_warm: list[bool] = []


def page() -> None:
    """Show the queue. The browser sends its whole outbox each time; the answer names what the ledger holds.

    No fragment: a server that was started again does not know the fragments of a page that was open before, drops what
    they send, and the outbox would never arrive. A whole run is as short.
    """
    answer = st.session_state.get("answer", {})
    result = _component(key=KEY, data={**current_desk().view(answer.get("label")), **answer}, on_outbox_change=take)
    sent = result.get("outbox")
    if sent and sent.get("attempt") != answer.get("attempt"):  # came with a new session: no callback was called
        take_in(sent)
        st.rerun()


def take() -> None:
    """Callback: the browser sent its outbox."""
    sent = st.session_state[KEY].get("outbox")
    if sent:
        take_in(sent)


def take_in(sent: dict[str, Any]) -> None:
    """Write an outbox into the ledger and keep the answer for the browser: `acked`, `refused`, `error`, `label`."""
    events = sent.get("events")
    outcome = current_desk().take(events if isinstance(events, list) else [])
    st.session_state["answer"] = {**outcome, "label": sent.get("label"), "attempt": sent.get("attempt")}


def warm_up() -> None:
    """After the first run, take all that is loaded out of garbage collection, which Streamlit asks for at every run."""
    if not _warm:
        _warm.append(True)
        gc.collect()
        gc.freeze()
