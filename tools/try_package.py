"""Build wheel and sdist, install the wheel into an environment of its own, and try what a newcomer tries.

    python tools/try_package.py [--borrow]

`--borrow` lets the new environment see the packages of this one, instead of downloading torch again: what fairsims asks
for is then not tried, only what it brings.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRIED: tuple[list[str], ...] = (
    ["--version"],
    [],
    ["info"],
    ["audit", "--before", "emoji-people", "--attr", "gender"],
    ["generate", "--model", "digits-8", "--seeds", "0-31", "--steps", "4", "--out", "pool"],
    ["audits", "list"],
)
"""Commands that need the embedded data, models, classifiers, and what else a wheel has to hold."""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--borrow", action="store_true", help="see the packages of this environment")
    borrow = parser.parse_args(argv).borrow
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        sdist, wheel = build(place / "dist")
        python = environment(place / "venv", borrow)
        run(python, "-m", "pip", "install", "--quiet", *(["--no-deps"] if borrow else []), str(wheel))
        for arguments in TRIED:
            print("$ fairsims", *arguments, flush=True)
            run(python, "-m", "fairsims", *arguments, cwd=place)
        where = "import sys; from fairsims.dashboard.launch import app_file; assert 'venv' in str(app_file())"
        run(python, "-c", where, cwd=place)
        print(f"{sdist.name} {size(sdist)}, {wheel.name} {size(wheel)}: whole")


def build(out: Path) -> tuple[Path, Path]:
    """The sdist of this tree, and the wheel that is built from it, as a package index does."""
    code = "import sys, hatchling.build as b; print(b.build_sdist(sys.argv[1]))"
    build_in = out.parent / "builder"
    run(sys.executable, "-m", "venv", str(build_in))
    python = str(build_in / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", "hatchling>=1.27")
    out.mkdir()
    run(python, "-c", code, str(out), cwd=ROOT)
    (sdist,) = out.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(out / "from", filter="data")
    (source,) = (out / "from").iterdir()
    run(python, "-c", code.replace("sdist", "wheel"), str(out), cwd=source)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    for name in ("README.md", "docs/index.md", "tests/support.py", "mkdocs.yml"):
        assert name in names, f"{sdist.name} lacks {name}"
    for name in ("fairsims/py.typed", "fairsims/_apps/dashboard.py", "fairsims/_audits/paper.py"):
        assert name in held, f"{wheel.name} lacks {name}"
    return sdist, wheel


def environment(folder: Path, borrow: bool) -> str:
    """Python of a new environment; with `borrow` the packages of this one come after its own."""
    run(sys.executable, "-m", "venv", str(folder))
    python = folder / "bin" / "python"
    if borrow:
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        own = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        Path(own, "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return str(python)


def run(*command: str, cwd: Path | None = None) -> None:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(command, cwd=cwd, env=clean, check=True)


def size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


if __name__ == "__main__":
    main()
