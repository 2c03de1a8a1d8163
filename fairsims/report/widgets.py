"""What the dashboard's pages have in common."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import streamlit as st

from fairsims.errors import FairsimsError


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


def plain(text: str) -> str:
    """Text from files as it stands: Streamlit reads Markdown, and a name may hold any of its signs."""
    return "".join("\\" + c if c in _MARKDOWN else c for c in _BREAKS.sub(" ", text))


def table(rows: list[dict[str, str]]) -> None:
    """A small table that wraps instead of scrolling, but never inside an interval."""
    cells = [{plain(k): plain(_INTERVAL.sub(_unbroken, v)) for k, v in row.items()} for row in rows]
    st.table(cells, border="horizontal", hide_index=True, hide_header=False)


def _unbroken(interval: re.Match[str]) -> str:
    return interval[0].replace(" ", "\N{NO-BREAK SPACE}")


_BREAKS = re.compile(r"[\t\r\n]+")
_INTERVAL = re.compile(r"\[[^\[\]]*\]")
_MARKDOWN = frozenset("\\`*_{}[]()<>#+-.!|$~:&")
