"""`fairsims dashboard` as a newcomer gives it: at a terminal, in a home where Streamlit never ran."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from support import ARGS, CHROMIUM, refused

from fairsims.dashboard.launch import free_port


@pytest.fixture
def first_run(tmp_path):
    """(address, what the terminal shows until now)."""
    home, runs = tmp_path / "home", tmp_path / "runs"
    # What makes Streamlit recommend its own products in the browser.
    (home / ".codex").mkdir(parents=True)
    runs.mkdir()
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    root = Path(__file__).parents[2]
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(root), "BROWSER": "/bin/true"}
    command = [sys.executable, "-m", "fairsims", "dashboard", str(runs)]
    server = subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path)
    shown = b""

    def seen() -> str:
        nonlocal shown
        with contextlib.suppress(OSError):
            shown += os.read(ours, 1 << 16)
        return shown.decode()

    try:
        for _ in range(480):
            assert server.poll() is None, seen()
            assert "mail" not in seen()
            if found := re.search(r"http://localhost:\d+", seen()):
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{found[0]}/_stcore/health", timeout=5):
                    break
            time.sleep(0.25)
        yield found[0], seen
    finally:
        server.terminate()
        server.wait(60)
        os.close(ours)
        os.close(theirs)


def test_the_terminal_shows_the_address_alone(first_run, tmp_path) -> None:
    address, seen = first_run
    time.sleep(1)
    assert seen().split("\r\n") == [
        f"{tmp_path / 'runs'} is shown at {address}, to this machine only; Ctrl-C ends it",
        "",
    ]
    assert not (tmp_path / "home" / ".streamlit").exists()
    port = int(address.rpartition(":")[2])
    assert free_port() != port
    assert f"found port {port} taken" in refused("dashboard", tmp_path, "--port", port)


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM.exists(), reason="Debian's chromium is not installed")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_browser_shows_the_way_to_a_first_run_and_no_advertisement(first_run, width) -> None:
    from playwright.sync_api import expect, sync_playwright

    address, _ = first_run
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        page = browser.new_page(viewport={"width": width, "height": 900})
        outside = []
        page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else outside.append(r.url))
        page.goto(address)
        expect(page.get_by_role("heading", name="Runs")).to_be_visible(timeout=120_000)
        expect(page.get_by_text("fairsims retarget --attr gender --target 0.5")).to_be_visible(timeout=60_000)
        page.wait_for_timeout(5000)
        assert not re.search("streamlit|e-?mail|deploy|skills", page.inner_text("body"), re.IGNORECASE)
        assert page.get_by_role("dialog").count() == 0
        browser.close()
    assert not outside
