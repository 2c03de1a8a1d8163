"""Starting the Streamlit dashboard."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import fairsims
from fairsims.errors import InputError

RUNS_VARIABLE = "FAIRSIMS_RUNS"


def runs_root() -> Path:
    """The folder of runs that the dashboard shows: `$FAIRSIMS_RUNS`, or `runs` in the working directory."""
    return Path(os.environ.get(RUNS_VARIABLE) or "runs")


def app_file() -> Path:
    """The dashboard's script: inside the installed package, or beside it in a source tree.

    Raises InputError when neither has it.
    """
    package = Path(fairsims.__file__).parent
    for candidate in (package / "_apps" / "dashboard.py", package.parent / "apps" / "dashboard.py"):
        if candidate.exists():
            return candidate
    raise InputError(f"the dashboard is not in {package / '_apps'}; expected dashboard.py there; reinstall fairsims")


def free_port() -> int:
    """The first port from 8501 on that is free on this machine. Raises InputError when 100 are taken."""
    for port in range(8501, 8601):
        if is_free(port):
            return port
    raise InputError("found the ports 8501 to 8600 taken; expected a free one; give another with --port")


def is_free(port: int) -> bool:
    """Whether nobody on this machine listens at a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("localhost", port)) != 0


def launch_dashboard(runs: Path, *, port: int | None = None, headless: bool = False) -> None:
    """Serve the runs under `runs` until interrupted; `headless` opens no browser.

    Streamlit's own statistics, e-mail prompt, advertisements, deploy button and tracebacks are off, and only this
    machine can connect. Without a `port` it is the first free one from 8501. Raises InputError when the dashboard's
    script is missing or the port is taken.
    """
    from streamlit.web.cli import main as streamlit

    options = {
        "browser.gatherUsageStats": "false",
        "client.showErrorDetails": "none",
        "client.toolbarMode": "minimal",
        # Greetings, and what else Streamlit recommends; the address is printed here instead.
        "logger.hideWelcomeMessage": "true",
        "logger.level": "warning",
        "server.showEmailPrompt": "false",
        "runner.magicEnabled": "false",
        "server.address": "localhost",
        "server.maxUploadSize": "1",
        "server.fileWatcherType": "none",
        "theme.light.primaryColor": "#0072B2",
        "theme.dark.primaryColor": "#56B4E9",
        "server.headless": "true" if headless else "false",
    }
    if port is not None and not is_free(port):
        raise InputError(f"found port {port} taken; expected a free one; leave --port out to have one chosen")
    options["server.port"] = str(free_port() if port is None else port)
    os.environ[RUNS_VARIABLE] = str(runs)
    address = f"http://localhost:{options['server.port']}"
    print(f"{runs} is shown at {address}, to this machine only; Ctrl-C ends it", flush=True)
    arguments = ["run", str(app_file()), *(f"--{name}={value}" for name, value in options.items())]
    streamlit(arguments, prog_name="streamlit", standalone_mode=False)
