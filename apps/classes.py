"""The page that counts: how far each class is."""

import streamlit as st

from apps.desk import current_desk
from curate.queue import progress

SHOWN = {"accepted": "#3f8f5f", "rejected": "#b4574d", "waiting": "#9aa1a8"}


def page() -> None:
    """Counts per class as a table and as bars."""
    desk = current_desk()
    counts = progress(desk.manifest, desk.ledger.standing(), desk.target)
    full = int((counts["accepted"] >= desk.target).sum())
    st.subheader("Classes")
    st.text(f"{desk.name}: {full} of {len(counts)} classes have the {desk.target} accepted images they need.")
    st.bar_chart(counts[list(SHOWN)], color=list(SHOWN.values()), horizontal=True, x_label="", y_label="images")
    st.dataframe(
        counts.assign(missing=(counts["target"] - counts["accepted"]).clip(lower=0)),
        column_config={"label": "class"},
    )
