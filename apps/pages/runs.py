"""Every run at a glance."""

from __future__ import annotations

import streamlit as st

from fairsims.report.dashboard import runs_root
from fairsims.report.runs_index import list_runs
from fairsims.report.tables import runs_table
from fairsims.report.widgets import guarded, no_runs

with guarded():
    st.title("All runs", anchor=False)
    root = runs_root()
    if runs := list_runs(root):
        st.dataframe(runs_table(runs), hide_index=True, key="runs")
    else:
        no_runs(root)
