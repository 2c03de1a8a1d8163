"""What the dashboard shows of retargetings and comparisons over prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from fairsims.dashboard.experiments import offer, show_figures
from fairsims.dashboard.runs_index import RunEntry
from fairsims.dashboard.widgets import guarded, opened_pools, plain, show_table
from fairsims.files import read_json
from fairsims.report.document import Document, Facts, Table, Text
from fairsims.report.prompt_comparison import FIGURE as ARMS_FIGURE
from fairsims.report.prompt_comparison import RESULT as ARMS_RESULT
from fairsims.report.prompt_comparison import prompt_comparison_alt, prompt_comparison_document
from fairsims.report.prompt_figure import prompt_alt
from fairsims.report.prompt_parts import named
from fairsims.report.prompts import FIGURE, RESULT, prompt_document

FILES = ("report.html", "report.md", RESULT, FIGURE, "feasibility.json")
EACH = 8
"""Images of a prompt on each side."""


def show_prompts(run: RunEntry) -> None:
    """A finished run: a prompt of choice with its images, then the tables of the report."""
    result = read_json(run.folder / RESULT)
    found = prompt_document(run.folder, result)
    _show_head(run, found, {FIGURE: prompt_alt(result)})
    with guarded():
        show_prompt(run, result)
    _show_sections(run, found)
    offer(run, *FILES)


def show_prompt_comparison(run: RunEntry) -> None:
    """A finished comparison over prompts: its figure and the tables of the report."""
    result = read_json(run.folder / ARMS_RESULT)
    found = prompt_comparison_document(run.folder, result)
    _show_head(run, found, {ARMS_FIGURE: prompt_comparison_alt(result)})
    _show_sections(run, found)
    offer(run, "report.html", "report.md", ARMS_RESULT, "prompt-compare.parquet")


def _show_head(run: RunEntry, found: Document, alts: dict[str, str]) -> None:
    st.write(f"**{plain(found.results[0].line)}**")
    st.write(plain(found.results[0].verdict))
    for warning in found.warnings:
        st.warning(plain(warning))
    show_figures(run, alts)


def _show_sections(run: RunEntry, found: Document) -> None:
    for section in found.sections:
        st.subheader(section.title, anchor=False, divider="gray")
        for k, block in enumerate(section.blocks):
            if isinstance(block, Table):
                show_table(block, run, f"{section.id}-{k}")
            elif isinstance(block, Text):
                st.caption(plain(block.text))
            elif isinstance(block, Facts):
                for label, text in block.rows:
                    st.caption(f"{plain(label)}: {plain(text)}")


def show_prompt(run: RunEntry, result: Mapping[str, Any]) -> None:
    """One prompt: its shares on both sides and images of the same seeds."""
    rows = {r["prompt"]: r for r in result["prompts"]}
    said = {text: f"{named(text)} ({r['kind']})" for text, r in rows.items()}
    chosen = st.selectbox("Prompt", list(rows), format_func=lambda text: said[text], key="prompt")
    for side, pool in opened_pools(run, ("before", "after")).items():
        shares = zip(result["classes"], rows[chosen][side]["share"], strict=True)
        st.caption(plain(f"{side}: {', '.join(f'{name} {share:.2f}' for name, share in shares)}"))
        places = (pool.positions == pool.conditions.index(chosen)).nonzero()[0][:EACH].tolist()
        images = [image.permute(1, 2, 0).numpy() for image in pool.read(places)]
        st.image(images, width=96, caption=[f"seed {pool.seeds[place]}" for place in places])
