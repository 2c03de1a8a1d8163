"""Starting the Streamlit dashboard."""

from __future__ import annotations

import os
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


def launch_dashboard(runs: Path, *, port: int | None = None, headless: bool = False) -> None:
    """Serve the runs under `runs` until interrupted; `headless` opens no browser.

    Streamlit's own statistics, deploy button and tracebacks are off, and only this machine can connect.
    Raises InputError when the dashboard's script is missing.
    """
    from streamlit.web.cli import main as streamlit

    options = {
        "browser.gatherUsageStats": "false",
        "client.showErrorDetails": "none",
        "client.toolbarMode": "minimal",
        "runner.magicEnabled": "false",
        "server.address": "localhost",
        "server.maxUploadSize": "1",
        "server.fileWatcherType": "none",
        "theme.light.primaryColor": "#0072B2",
        "theme.dark.primaryColor": "#56B4E9",
        "server.headless": "true" if headless else "false",
    }
    if port is not None:
        options["server.port"] = str(port)
    os.environ[RUNS_VARIABLE] = str(runs)
    arguments = ["run", str(app_file()), *(f"--{name}={value}" for name, value in options.items())]
    streamlit(arguments, prog_name="streamlit", standalone_mode=False)
