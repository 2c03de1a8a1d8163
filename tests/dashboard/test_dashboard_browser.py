"""The dashboard in a real browser, served as `fairsims dashboard` serves it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile

import pytest
import report_fixtures as fixtures
from support import ARGS, CHROMIUM

SERVE = (
    "import sys; from pathlib import Path; from fairsims.dashboard.launch import launch_dashboard; "
    "launch_dashboard(Path(sys.argv[1]), port=int(sys.argv[2]), headless=True)"
)
WAIT = 60_000
PAGES = ("", "audit", "images", "label", "plan", "report", "collapse")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="Debian's chromium is not installed"),
]


@pytest.fixture
def address(root, tmp_path):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k != "FAIRSIMS_RUNS"}
    log = (tmp_path / "server.log").open("wb")
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(root), str(port)], env=environment, stdout=log, stderr=subprocess.STDOUT
    )
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"http://localhost:{port}/_stcore/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.5)
        yield f"http://localhost:{port}"
        assert "Traceback" not in (tmp_path / "server.log").read_text()
    finally:
        server.terminate()
        server.wait(30)
        log.close()


@pytest.fixture
def page(address):
    """A page whose requests may go nowhere else, and which no script of a run may reach."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        outside, dialogs = [], []
        page.on(
            "request", lambda r: outside.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None
        )
        page.on("dialog", lambda d: (dialogs.append(d.message), d.dismiss()))
        yield page
        browser.close()
    assert not outside
    assert not dialogs


def opened(page, address, name, run):
    """A page once it is drawn: nothing on it has failed and nothing is cut off at the side."""
    from playwright.sync_api import expect

    page.goto(f"{address}/{name}?run={run}")
    expect(page.get_by_role("heading", level=1)).to_be_visible(timeout=2 * WAIT)
    settled(page)
    wide = page.evaluate("(m => m.scrollWidth - m.clientWidth)(document.querySelector('[data-testid=stMain]'))")
    assert wide <= 0, f"{name} is {wide} pixels too wide"


def settled(page):
    from playwright.sync_api import expect

    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0, timeout=WAIT)
    expect(page.get_by_test_id("stException")).to_have_count(0)
    expect(page.get_by_test_id("stAlertContentError")).to_have_count(0)


def test_every_page_of_a_finished_run_at_both_widths(whole_run, address, page):
    from playwright.sync_api import expect

    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 1400})
        for name in PAGES:
            opened(page, address, name, whole_run.name)
    page.set_viewport_size({"width": 1280, "height": 2400})
    opened(page, address, "audit", whole_run.name)
    expect(page.get_by_test_id("stMetricValue").first).to_have_text("49.8%", timeout=WAIT)
    expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(2, timeout=WAIT)
    expect(page.get_by_text("50.2% [47.9,\N{NO-BREAK SPACE}52.5]")).to_be_visible(timeout=WAIT)


def test_ten_images_are_labelled_by_keyboard_alone(whole_run, address, page):
    from playwright.sync_api import expect

    opened(page, address, "label", whole_run.name)
    page.get_by_label("Images of each pool").fill("20")
    page.get_by_role("button", name="Draw the sample").press("Enter")
    page.get_by_label("Your name").fill("Ada", timeout=WAIT)
    page.keyboard.press("Enter")
    for k in range(10):
        # The keys belong to the image that is drawn.
        expect(page.locator(f".st-key-label-Ada-{k}-man")).to_be_visible(timeout=WAIT)
        settled(page)
        page.wait_for_timeout(500)
        page.keyboard.press("12u"[k % 3])
        expect(page.get_by_text(f"{k + 1} of 40 labelled")).to_be_visible(timeout=WAIT)
    expect(page.locator(".st-key-undo-10")).to_be_visible(timeout=WAIT)
    page.wait_for_timeout(500)
    page.keyboard.press("Backspace")
    expect(page.get_by_text("9 of 40 labelled")).to_be_visible(timeout=WAIT)
    rows = (whole_run / "labels" / "gender-1" / "Ada.csv").read_text().splitlines()
    assert [r.split(",")[1] for r in rows[1:]] == ["man", "woman", "undetermined"] * 3
    page.reload()
    page.get_by_label("Your name").fill("Ada", timeout=WAIT)
    page.keyboard.press("Enter")
    expect(page.get_by_text("9 of 40 labelled")).to_be_visible(timeout=WAIT)


def test_a_report_is_written_shown_in_a_box_and_exported(whole_run, address, page, tmp_path):
    from playwright.sync_api import expect

    opened(page, address, "report", whole_run.name)
    page.get_by_role("button", name="Write the report").first.click()
    box = page.frame_locator("iframe[title='The report']").frame_locator("iframe[title='The report']")
    expect(box.get_by_text("woman share 25.1%").first).to_be_visible(timeout=WAIT)
    page.get_by_role("tab", name="Files").click()
    with page.expect_download(timeout=WAIT) as download:
        page.get_by_role("button", name="All of them in one file").click()
    download.value.save_as(tmp_path / "report.zip")
    with zipfile.ZipFile(tmp_path / "report.zip") as z:
        assert {"report.html", "audit/audit.json"} <= set(z.namelist())
        assert z.read("report.html") == (whole_run / "report.html").read_bytes()


def test_nothing_in_a_hostile_run_is_more_than_text(root, address, page):
    from playwright.sync_api import expect

    value = json.loads(json.dumps(fixtures.AUDIT).replace('"woman"', json.dumps("<img src=x onerror=alert(1)>")))
    value["warnings"] = ["<script>alert(2)</script> [a](javascript:alert(3)) $x$ " + "w" * 300]
    run = fixtures.finished_run(root, "00001-<img src=x onerror=alert(4)> '😀", value=value)
    (run / "report.html").write_text(
        "<h1>here</h1><script>alert(5); top.location = 'http://example.org'</script><img src='http://example.org/a.png'>"
        "<meta http-equiv=refresh content='0; url=http://example.org'><body onload=alert(6)>"
        "<a href='http://example.org/' id=out>out</a>"
    )
    for name in ("", "audit", "images", "plan"):
        opened(page, address, name, "")
    opened(page, address, "audit", "")
    expect(page.get_by_text("<img src=x onerror=alert(1)> share").first).to_be_visible(timeout=WAIT)
    opened(page, address, "report", "")
    box = page.frame_locator("iframe[title='The report']").frame_locator("iframe[title='The report']")
    expect(box.get_by_text("here")).to_be_visible(timeout=WAIT)
    box.locator("#out").click()
    page.wait_for_timeout(2000)
    assert re.match(rf"{address}/report", page.url)
