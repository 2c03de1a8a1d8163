"""The dashboard's pages as the tests open and read them."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest

from fairsims.dashboard.launch import app_file


def shown(page="audit", run=None):
    app = AppTest.from_file(app_file(), default_timeout=120).run()
    assert not app.exception
    if run is not None:
        app.query_params["run"] = run
    if page != "runs":
        app.switch_page(f"views/{page}.py").run()
    assert not app.exception, app.exception
    return app


def rerun(changed):
    """The page after a widget, or nothing, was changed."""
    app = changed.run()
    assert not app.exception, app.exception
    return app


def texts(app):
    """Everything on a page that Streamlit reads as Markdown."""
    kinds = (app.title, app.markdown, app.caption, app.info, app.warning, app.error, app.success)
    return "\n".join(str(e.value) for kind in kinds for e in kind)
