"""Streamlit pages: shells over curate and classify."""
