"""Make the embedded classifiers again: `python tools/build_classifiers.py [NAME ...] [--out FOLDER]`.

Measures each by cross-validation and trains it on all labelled images. On 2 cores digits-parity takes about a minute,
emoji-gender about a quarter of an hour. Without --out the package's own copies are replaced.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fairsims.classifiers.embedded import BLUEPRINTS, build_embedded
from fairsims.errors import FairsimsError

SHIPPED = Path(__file__).resolve().parent.parent / "fairsims" / "assets" / "classifiers"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, build, say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BLUEPRINTS)}; default: all")
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder that holds a folder per classifier")
    options = parser.parse_args(arguments)
    try:
        for name in options.names or BLUEPRINTS:
            print(build_embedded(name, options.out / name, say=lambda line: print(line, file=sys.stderr, flush=True)))
    except FairsimsError as e:
        sys.exit(f"error: {e}")


if __name__ == "__main__":
    main()
