"""Make the embedded classifiers again: `python tools/build_classifiers.py [NAME ...] [--out FOLDER]`.

Measures each by cross-validation and trains it on all labelled images. On 2 cores digits-parity takes about a minute,
emoji-gender about a quarter of an hour. Without --out the package's own copies are replaced. Data, network, recipe and
splits are those that config.json of the shipped copy says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fairsims.classifiers.checkpoints import embedded_classifiers, find_classifier, trainer_of
from fairsims.classifiers.evaluation import HeldOut
from fairsims.classifiers.labelled import labelled
from fairsims.classifiers.making import build_classifier
from fairsims.data import open_dataset
from fairsims.errors import FairsimsError, InputError
from fairsims.files import read_json

SHIPPED = Path(__file__).resolve().parent.parent / "fairsims" / "assets" / "classifiers"


def build(name: str, folder: Path) -> Path:
    """Make an embedded classifier again into `folder`. Raises InputError when there is none of that name."""
    config = read_json(find_classifier(name) / "config.json")
    trainer = trainer_of(config)
    if trainer is None:
        raise InputError(f"{name} is of kind {config['kind']}, which nothing is learned for")
    data = open_dataset(config["data"]["name"], resolution=config["input_size"])
    return build_classifier(
        folder,
        labelled(data, config["attribute"], config["classes"]),
        trainer,
        name=name,
        splits=[HeldOut.measured_before(split, config) for split in config["confusions"]],
        command=f"python tools/build_classifiers.py {name}",
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, build, say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(embedded_classifiers())}; default: all"
    )
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder that holds a folder per classifier")
    options = parser.parse_args(arguments)
    try:
        for name in options.names or embedded_classifiers():
            print(build(name, options.out / name))
    except FairsimsError as e:
        sys.exit(f"error: {e}")


if __name__ == "__main__":
    main()
