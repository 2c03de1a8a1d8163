"""The report on paper: the page, laid out by weasyprint."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

from PIL import ImageFile

from fairsims.errors import InputError
from fairsims.files import atomic
from fairsims.report.document import Document
from fairsims.report.html import as_html

REMEDY = "pip install 'fairsims[pdf]', and Debian's libpango-1.0-0 and libpangoft2-1.0-0"


def missing() -> str | None:
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
    if (lacks := missing()) is not None:
        raise InputError(f"a PDF needs {lacks}")
    from weasyprint import HTML
    from weasyprint.urls import URLFetcher

    # It warns of every rule for screens that paper has no use for.
    logging.getLogger("weasyprint").setLevel(logging.ERROR)
    page = HTML(string=as_html(report, unfolded=True), url_fetcher=URLFetcher(allowed_protocols=("data",)))
    with atomic(path) as temporary:
        page.write_pdf(temporary, pdf_tags=True)
