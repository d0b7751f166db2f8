"""The script that Streamlit runs for each browser tab: page frame and navigation."""

from pathlib import Path

import streamlit as st
from PIL import Image

from apps import classes, contribute, duplicates, grid, help, identify, review, second_opinion, shortcuts
from apps.desk import current_desk
from apps.door import require_login

ICON = Image.new("RGB", (32, 32), "#2f6f62")  # drawn here: an emoji or a named icon is fetched from a font server

st.set_page_config(page_title="DeepRock review", page_icon=ICON, layout="wide")
require_login(current_desk().login)
st.html(Path(__file__).with_name("frame.css"))
st.navigation(
    [
        st.Page(review.page, title="Review", url_path="review", default=True),
        st.Page(grid.page, title="Grid", url_path="grid"),
        st.Page(duplicates.page, title="Duplicates", url_path="duplicates"),
        st.Page(shortcuts.page, title="Shortcuts", url_path="shortcuts"),
        st.Page(classes.page, title="Classes", url_path="classes"),
        st.Page(second_opinion.page, title="Second opinion", url_path="second-opinion"),
        st.Page(contribute.page, title="Contribute", url_path="contribute"),
        st.Page(identify.page, title="Identify", url_path="identify"),
        st.Page(help.page, title="Help", url_path="help"),
    ],
    position="top",
).run()
review.warm_up()
