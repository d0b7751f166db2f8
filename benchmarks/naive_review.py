"""The plain Streamlit page that benchmarks/review.py sets beside ours: st.image, st.button, a full rerun, SQLite.

streamlit run benchmarks/naive_review.py -- MANIFEST DATA_ROOT DATABASE
"""

import sqlite3
import sys
from pathlib import Path

import pandas as pd
import streamlit as st

manifest, root, database = sys.argv[1:]


@st.cache_data
def read(path: str) -> pd.DataFrame:
    return pd.read_csv(path)


def decide(image_id: str, verdict: str) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("INSERT INTO decisions VALUES (?, ?)", (image_id, verdict))


def decided() -> list[str]:
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS decisions (image_id TEXT, verdict TEXT)")
        return [image_id for (image_id,) in connection.execute("SELECT image_id FROM decisions")]


table = read(manifest)
waiting = table[~table["image_id"].isin(decided())]
if waiting.empty:
    st.text("Every image is decided.")
    st.stop()
shown = waiting.iloc[0]
st.subheader("Review")
st.text(f"{shown['label']}, {len(waiting)} waiting")
st.image(str(Path(root) / shown["file_name"]))
st.text(shown["flags"])
st.button("Accept", on_click=decide, args=(shown["image_id"], "accept"), shortcut="a")
st.button("Reject", on_click=decide, args=(shown["image_id"], "reject"), shortcut="x")
