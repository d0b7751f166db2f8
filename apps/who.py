"""Who sits at a browser: by Streamlit's login where one is configured, else by the name that the browser gives."""

from typing import Any

import streamlit as st

from apps.desk import current_desk
from curate.archive import one_line

LONGEST = 60  # characters of a name


def who(asked: dict[str, Any]) -> str:
    """The reviewer of this browser tab: the login's name, else what the browser says, else as the server was started.

    Args:
        asked: what the browser asked for beside its decisions; `reviewer` is the name that was typed there.
    """
    if logged_in := login_name():
        return logged_in
    said = asked.get("reviewer")
    name = one_line(said)[:LONGEST] if isinstance(said, str) else ""
    return name or current_desk().reviewer


def introduced(shown: dict[str, Any]) -> dict[str, Any]:
    """What a page shows, and whether it need not ask for a name."""
    return {**shown, "login": bool(login_name())}


def login_name() -> str:
    """The name or address of whoever is logged in; empty where no login is configured, or nobody is."""
    if not current_desk().login:
        return ""  # without asking Streamlit, which reads its secrets anew each time
    user = st.user.to_dict()
    if not user.get("is_logged_in"):
        return ""
    return one_line(str(user.get("email") or user.get("name") or user.get("sub") or ""))[:LONGEST]
