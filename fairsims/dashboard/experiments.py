"""What the dashboard shows of comparisons and sweeps, finished or not."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st
from PIL import Image

from fairsims.dashboard.runs_index import RunEntry
from fairsims.dashboard.widgets import csv_button, download, guarded, plain, show_table
from fairsims.errors import InputError
from fairsims.files import read_json
from fairsims.report.comparison import comparison_alt, comparison_blocks, comparison_headline, comparison_notes
from fairsims.report.document import Table
from fairsims.report.sweep_table import points_table, read_points, sweep_headline, sweep_notes

INCH = 120
"""Pixels of a figure's inch: one of a single panel does not fill the page."""


def show_comparison(run: RunEntry) -> None:
    """Table and figure of a finished comparison."""
    result = read_json(run.folder / "compare.json")
    st.write(f"**{plain(comparison_headline(result))}**")
    for block in comparison_blocks(result):
        if isinstance(block, Table):
            st.subheader(block.caption, anchor=False, divider="gray")
            show_table(replace(block, caption=""), run, block.caption.split()[-1])
    st.caption(plain(comparison_notes(result)))
    show_figures(run, {"compare.png": comparison_alt(result)})
    offer(run, "compare.md", "compare.json", "compare.parquet")


def show_sweep(run: RunEntry) -> None:
    """The points of a sweep that are there, its figures once it is finished."""
    path = run.folder / "sweep.parquet"
    if not path.exists():
        st.info("No point is measured yet. The first one appears when its images are made.")
        return
    try:
        points = read_points(run.folder)
    except (OSError, ValueError) as e:
        raise InputError(f"{path} is broken ({e}); run the sweep's command again") from None
    result = read_json(run.folder / "sweep.json") if (run.folder / "sweep.json").exists() else None
    st.write(f"**{plain(sweep_headline(points, result))}**")
    rows = points_table(points, result).records()
    names = ("quality", "share")
    show_figures(run, {f"{n}.png": f"{n} against strength, a line per budget; see the table" for n in names})
    st.dataframe(rows, hide_index=True, key="points")
    csv_button(rows, "sweep", run)
    for note in sweep_notes(result) if result is not None else ():
        st.caption(plain(note))
    offer(run, "sweep.parquet", "sweep.json")


def show_figures(run: RunEntry, alts: dict[str, str]) -> None:
    """The figures of a run that are there, by file name with their alternative texts."""
    for name, alt in alts.items():
        if (run.folder / name).exists():
            with guarded():
                with Image.open(run.folder / name) as image:
                    drawn = image.width / image.info.get("dpi", (INCH, INCH))[0]
                st.image((run.folder / name).read_bytes(), width=round(drawn * INCH), alt=alt)


def offer(run: RunEntry, *names: str) -> None:
    """The files of a run that are there, for download."""
    there = [run.folder / n for n in names if (run.folder / n).exists()]
    for column, path in zip(st.columns(max(2, len(there))), there, strict=False):
        with column:
            download(path, run)
