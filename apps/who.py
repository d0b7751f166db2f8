"""Who sits at a browser: by Streamlit's login where one is configured, else by the name that the browser gives."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from apps.desk import current_desk
from apps.door import login_of
from curate.archive import one_line

LONGEST = 60  # characters of a name


def who(cookies: Mapping[str, str], asked: Mapping[str, Any]) -> str:
    """The reviewer of a message: the login's name, else what the browser says, else as the server was started.

    Args:
        cookies: of the request.
        asked: what the browser asked for beside its decisions; `reviewer` is the name that was typed there.
    """
    if current_desk().login and (logged_in := _name_of(login_of(cookies))):
        return logged_in
    said = asked.get("reviewer")
    name = one_line(said)[:LONGEST] if isinstance(said, str) else ""
    return name or current_desk().reviewer


def login_name() -> str:
    """In a page of Streamlit, whoever is logged in; empty where no login is configured, or nobody is."""
    return _name_of(st.user.to_dict()) if current_desk().login else ""


def _name_of(login: Mapping[str, Any]) -> str:
    if not login.get("is_logged_in"):
        return ""
    return one_line(str(login.get("email") or login.get("name") or login.get("sub") or ""))[:LONGEST]
