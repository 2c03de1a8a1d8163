"""fairsims dashboard. Start it with `fairsims dashboard [RUNS]`."""

from __future__ import annotations

import streamlit as st

st.set_page_config(page_title="fairsims", page_icon=":material/balance:", layout="wide")
pages = [
    st.Page("pages/run.py", title="Run", icon=":material/compare:", default=True),
    st.Page("pages/runs.py", title="All runs", icon=":material/list:"),
]
st.navigation(pages).run()
