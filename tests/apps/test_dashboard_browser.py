"""The dashboard in a real browser, served as `fairsims dashboard` serves it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import report_fixtures as fixtures

CHROMIUM = Path("/usr/bin/chromium")
ARGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SERVE = (
    "import sys; from pathlib import Path; from fairsims.report.dashboard import launch_dashboard; "
    "launch_dashboard(Path(sys.argv[1]), port=int(sys.argv[2]), headless=True)"
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="Debian's chromium is not installed"),
]


@pytest.fixture
def address(tmp_path):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k != "FAIRSIMS_RUNS"}
    log = (tmp_path / "server.log").open("wb")
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path), str(port)], env=environment, stdout=log, stderr=subprocess.STDOUT
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
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def test_a_finished_run_shows_its_share(tmp_path, address):
    from playwright.sync_api import expect, sync_playwright

    fixtures.finished_run(tmp_path)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        page = browser.new_page(viewport={"width": 1280, "height": 2000})
        outside = []
        page.on(
            "request", lambda r: outside.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None
        )
        page.goto(address)
        expect(page.get_by_role("heading", name="00003-gender-0.50")).to_be_visible(timeout=120_000)
        expect(page.get_by_test_id("stMetricValue").first).to_have_text("49.8%", timeout=60_000)
        expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(2, timeout=60_000)
        expect(page.get_by_text("50.2% [47.9,\N{NO-BREAK SPACE}52.5]")).to_be_visible(timeout=60_000)
        expect(page.get_by_test_id("stException")).to_have_count(0)
        expect(page.get_by_test_id("stAlertContentError")).to_have_count(0)
        browser.close()
    assert not outside
