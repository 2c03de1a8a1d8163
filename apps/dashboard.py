"""fairsims dashboard. Start it with `fairsims dashboard [RUNS]`."""

from __future__ import annotations

import streamlit as st
from PIL import Image

# Drawn here: Streamlit would fetch a named icon from the network.
icon = Image.new("RGBA", (32, 32))
icon.paste("#D9792B", (3, 14, 14, 32))
icon.paste("#2E93D1", (18, 0, 29, 32))

st.set_page_config(page_title="fairsims", page_icon=icon, layout="wide")
pages = [
    st.Page("pages/run.py", title="Run", icon=":material/compare:", default=True),
    st.Page("pages/runs.py", title="All runs", icon=":material/list:"),
]
st.navigation(pages).run()
