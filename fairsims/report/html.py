"""The report as one HTML file that needs nothing else, no network and no script; on paper laid out by weasyprint."""

from __future__ import annotations

import base64
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import ImageFile

from fairsims.errors import EXTRAS_PAGE, InputError
from fairsims.files import atomic, write_text
from fairsims.report import words
from fairsims.report.document import Block, Document, Figure, Table
from fairsims.report.sections import document, read_context

ABREAST = 5
"""Small tables of at most this many columns stand beside each other."""


def write_report(run_folder: Path) -> Path:
    """Draw the figures of `<run>/audit/audit.json` beside it, write `<run>/report.html` and return its path.

    The same run folder gives the same bytes. Raises InputError when the audit is missing or broken.

    >>> import fairsims
    >>> written = fairsims.audit_images("people", before="digits-skewed", attr="parity")
    >>> write_report(Path("people")).name
    'report.html'
    """
    # Drawing imports seaborn, which takes longer than everything else a reader of audits needs.
    from fairsims.report.figures import draw

    context = read_context(run_folder)
    path = run_folder / "report.html"
    write_text(path, as_html(document(context, draw(context))))
    return path


def as_html(report: Document, *, unfolded: bool = False) -> str:
    """The whole page; `unfolded` for paper, where nothing can be opened."""
    environment = Environment(
        loader=PackageLoader("fairsims.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        report=report,
        limit=words.LIMIT,
        groups=_groups,
        uri=_uri,
        unfolded=unfolded,
        whole_intervals=_whole_intervals,
    )


def _groups(blocks: Sequence[Block]) -> Iterator[tuple[bool, list[Block]]]:
    """Runs of blocks that stand beside each other, and the others one by one."""
    for kind, members in groupby(blocks, key=_beside):
        found = list(members)
        if kind and len(found) > 1:
            yield True, found
        else:
            yield from ((False, [b]) for b in found)


def _beside(block: Block) -> str:
    if isinstance(block, Figure) and block.grid:
        return "grid"
    return "table" if isinstance(block, Table) and block.small and len(block.columns) <= ABREAST else ""


def _whole_intervals(text: str) -> Markup:
    """Escaped text whose intervals a narrow screen does not break across lines."""
    return Markup(re.sub(r"\[[\d., ]+\]", r'<span class="whole">\g<0></span>', str(escape(text))))


def _uri(path: Path) -> str:
    """A PNG as a data URI."""
    data = path.read_bytes()
    if not data.startswith(b"\x89PNG"):
        raise InputError(f"{path} is no PNG; delete it and run the audit again")
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


REMEDY = "pip install 'fairsims[pdf]', and Debian's libpango-1.0-0 and libpangoft2-1.0-0"


def pdf_lacks() -> str | None:
    """What a PDF would need and is not installed; None where one can be written."""
    truncated = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        with warnings.catch_warnings():
            # Without Debian's libharfbuzz-subset0 it says so once and cuts its fonts with fontTools.
            warnings.simplefilter("ignore", DeprecationWarning)
            import weasyprint  # noqa: F401
    except (ImportError, OSError) as e:
        return f"weasyprint or the libraries it draws with ({' '.join(str(e).split())[:100]}); {REMEDY}"
    finally:
        # weasyprint lets every image of this process be read by half.
        ImageFile.LOAD_TRUNCATED_IMAGES = truncated
    return None


def write_pdf(report: Document, path: Path) -> None:
    """Write a tagged PDF. Raises InputError when weasyprint or the libraries that it draws with are not installed."""
    if (lacks := pdf_lacks()) is not None:
        raise InputError(f"a PDF needs {lacks}", page=EXTRAS_PAGE)
    from weasyprint import HTML
    from weasyprint.urls import URLFetcher

    # It warns of every rule for screens that paper has no use for.
    logging.getLogger("weasyprint").setLevel(logging.ERROR)
    page = HTML(string=as_html(report, unfolded=True), url_fetcher=URLFetcher(allowed_protocols=("data",)))
    with atomic(path) as temporary:
        page.write_pdf(temporary, pdf_tags=True)
