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
    st.Page("views/runs.py", title="Runs", icon=":material/list:", default=True),
    st.Page("views/audit.py", title="Audit", icon=":material/compare:"),
    st.Page("views/images.py", title="Images", icon=":material/image:"),
    st.Page("views/label.py", title="Label", icon=":material/keyboard:"),
    st.Page("views/plan.py", title="Plan", icon=":material/tune:"),
    st.Page("views/report.py", title="Report", icon=":material/description:"),
    st.Page("views/faces.py", title="Faces", icon=":material/face:"),
    st.Page("views/collapse.py", title="Collapse", icon=":material/trending_down:"),
]
# On a telephone a table of shares with their intervals fits without scrolling.
st.html(
    "<style>.stMainBlockContainer {padding-top: 4.5rem; padding-bottom: 3rem}"
    "@media (max-width: 640px) {[data-testid=stTable] :is(td, th) {padding: 0.2rem; font-size: 0.78rem}}</style>"
)
st.navigation(pages, position="top").run()
