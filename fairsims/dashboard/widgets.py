"""What the dashboard's pages have in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import streamlit as st

from fairsims.dashboard.gallery import Calls, calls_of
from fairsims.dashboard.launch import runs_root
from fairsims.dashboard.runs_index import RunEntry, leads_out, list_runs, pools_of
from fairsims.errors import FairsimsError, InputError
from fairsims.files import read_json
from fairsims.pools import Pool
from fairsims.report.document import Table

BADGES: dict[str, tuple[Literal["blue", "green", "red", "orange"], str]] = {
    "running": ("blue", ":material/progress_activity:"),
    "stopped": ("orange", ":material/pause_circle:"),
    "finished": ("green", ":material/check:"),
    "failed": ("red", ":material/error:"),
    "broken": ("orange", ":material/warning:"),
    "refused": ("red", ":material/block:"),
}
LONG_NAME = 40
"""A selection box may cut a longer name off; it stands below in full."""
HELD_POOLS = 4
"""Opened pools that stay in memory, each with seeds and its latest shards only."""


@contextmanager
def guarded() -> Iterator[None]:
    """Show whatever goes wrong inside as one line. A run can be broken in any way, and a traceback helps no viewer."""
    try:
        yield
    except FairsimsError as e:
        st.error(plain(str(e)), icon=":material/warning:")
    except Exception as e:  # noqa: BLE001 - Streamlit's own control flow derives from BaseException and passes.
        what = plain(f"{type(e).__name__}: {e}")
        st.error(f"This can't be shown ({what}). Run the command that made the run again.", icon=":material/warning:")


def no_runs(root: Path) -> None:
    """What to do when there is nothing to show."""
    st.info(f"No runs in {plain(str(root))}. Make one with:", icon=":material/info:")
    st.code("fairsims retarget --attr gender --target 0.5", language="bash")


def picked_run(title: str) -> RunEntry | None:
    """The page's title and the run that it shows, chosen beside it; None, and what to do, when there is none to show.

    A run that may not be opened is named with the reason.
    """
    root = runs_root()
    runs = {r.name: r for r in list_runs(root)}
    if not runs:
        st.title(title, anchor=False)
        no_runs(root)
        return None
    left, right = st.columns([2, 3])
    left.title(title, anchor=False)
    # The address has the name, so that a page can be kept as a bookmark.
    name = right.selectbox("Run", list(runs), key="run", bind="query-params", label_visibility="collapsed")
    run = runs[name]
    with right.container(horizontal=True, vertical_alignment="center"):
        badge(run)
        st.caption(run.kind if len(name) < LONG_NAME else f"{run.kind} · {plain(name)}")
    if run.state == "refused":
        st.error(plain(f"{run.name}: {run.message}"), icon=":material/block:")
        return None
    return run


def page(title: str, show: Callable[[RunEntry], None]) -> None:
    """A page of one run, chosen beside its title."""
    with guarded():
        if (run := picked_run(title)) is not None:
            show(run)


def badge(run: RunEntry) -> None:
    """How a run stands, by word, colour and sign."""
    color, icon = BADGES[run.state]
    st.badge(run.state, color=color, icon=icon)


def opened_pools(run: RunEntry, names: Sequence[str] | None = None) -> dict[str, Pool]:
    """The run's pools by name, or those of these names that it has; a broken one raises InputError."""
    return {n: open_pool(p) for n, p in pools_of(run).items() if names is None or n in names}


def open_pool(folder: Path) -> Pool:
    """A pool that stays open while its shards are the same. Raises InputError when it leads out of its folder."""
    if (strange := leads_out(folder)) is not None:
        raise InputError(f"{folder / strange} leads out of the pool; it is not opened; remove it")
    shards = [(s.name, s.stat()) for s in sorted(folder.glob("shard-*.parquet"))]
    # One text: Streamlit takes its time over each part of a key.
    return _held_pool(str(folder), " ".join(f"{name}:{s.st_mtime_ns}:{s.st_size}" for name, s in shards))


@st.cache_resource(max_entries=HELD_POOLS, show_spinner=False)
def _held_pool(folder: str, marks: str) -> Pool:
    pool = Pool(folder)
    _ = pool.seeds
    return pool


def held_calls(pool: Pool, name: str, attribute: str) -> Calls:
    """One attribute of a label table of a pool, held while the table is the same. Raises InputError when it is broken.

    The pool is one that `open_pool` gave.
    """
    marks = [(s.st_mtime_ns, s.st_size) for p in pool.label_files(name) if p.exists() for s in (p.stat(),)]
    return _calls(pool, f"{pool.folder}:{name}:{marks}", name, attribute)


@st.cache_resource(max_entries=2 * HELD_POOLS, show_spinner=False)
def _calls(_pool: Pool, mark: str, name: str, attribute: str) -> Calls:
    return calls_of(_pool, name, attribute)


def settings_of(run: RunEntry) -> dict[str, Any]:
    """The run's `config.json`; empty when there is none."""
    path = run.folder / "config.json"
    return read_json(path) if path.exists() else {}


def download(path: Path, run: RunEntry, *, label: str | None = None) -> None:
    """A button that hands out one file of a run; it is read when it is pressed."""
    name = path.relative_to(run.folder).as_posix()
    st.download_button(
        plain(label or name),
        path.read_bytes,
        f"{run.folder.name}-{path.name}",
        mime=_MIMES.get(path.suffix, "application/octet-stream"),
        key=f"download-{name}",
        icon=":material/download:",
        on_click="ignore",
        width="stretch",
    )


def plain(text: str) -> str:
    """Text from files as it stands: Streamlit reads Markdown, and a name may hold any of its signs."""
    return "".join("\\" + c if c in _MARKDOWN else c for c in _BREAKS.sub(" ", text))


def table(rows: list[dict[str, str]]) -> None:
    """A small table that wraps instead of scrolling, but never inside an interval."""
    whole = partial(_INTERVAL.sub, lambda interval: interval[0].replace(" ", "\N{NO-BREAK SPACE}"))
    cells = [{plain(k): plain(whole(v)) for k, v in row.items()} for row in rows]
    st.table(cells, border="horizontal", hide_index=True, hide_header=False)


def show_table(block: Table, run: RunEntry, name: str = "") -> None:
    """A table of the report; with a `name` it is offered as CSV too."""
    with st.expander(plain(block.folded)) if block.folded else st.container():
        if said := ": ".join(c for c in (block.caption_name, block.caption) if c):
            st.caption(plain(said))
        table(block.records())
        if name:
            csv_button(block.records(), name, run)


def csv_button(rows: list[dict[str, str]], name: str, run: RunEntry) -> None:
    """A button that hands out a table as CSV."""
    import pandas as pd

    st.download_button(
        "CSV",
        pd.DataFrame(rows).to_csv(index=False),
        f"{run.folder.name}-{name}.csv",
        "text/csv",
        key=f"csv-{name}",
        icon=":material/download:",
        on_click="ignore",
        type="tertiary",
        help="This table as a file",
    )


_MIMES = {
    ".html": "text/html",
    ".pdf": "application/pdf",
    ".md": "text/markdown",
    ".json": "application/json",
    ".csv": "text/csv",
    ".png": "image/png",
    ".toml": "application/toml",
    ".zip": "application/zip",
}
_BREAKS = re.compile(r"[\t\r\n]+")
_INTERVAL = re.compile(r"\[[^\[\]]*\]")
_MARKDOWN = frozenset("\\`*_{}[]()<>#+-.!|$~:&")
