"""Build two data sets of the emojis of all categories, split by design, for audits on real data that nobody trained on.

    python tools/build_emojis.py [--google TARBALL] [--twitter TARBALL] [--out build] [--side 32]

Some 7,000 pictures of two vendors, from the packages that emoji people comes from: `emojis-train.zip` and
`emojis-held-out.zip`, EDM zips with the attributes `category` and `vendor`. A design, in all its genders, tones and
colours and by both vendors, stands on one side only. The same tarballs give the same bytes. Licences: as those of
emoji people (Noto: Apache 2.0; Twemoji: CC BY 4.0; names: MIT).
"""

from __future__ import annotations

import argparse
import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from build_emoji_people import VENDORS, on_white, pack, unpack, verified
from PIL import Image

LEFT_OUT = ("Component",)
"""Categories of no pictures of their own."""
COLUMNS = ("category", "vendor", "family", "name", "unified")
# What differs between pictures of one design: they would be near copies on the other side.
VARIED = re.compile(
    r"\b(MAN|WOMAN|PERSON|MEN|WOMEN|PEOPLE|BOY|GIRL|FEMALE|MALE|COUPLE|RED|ORANGE|YELLOW|GREEN|BLUE|PURPLE|BROWN|BLACK|"
    r"WHITE|GREY|GRAY|PINK|LIGHT|DARK|LARGE|MEDIUM|SMALL|HEAVY|ONE|TWO|THREE|FOUR|FIVE|SIX|SEVEN|EIGHT|NINE|TEN|ELEVEN|"
    r"TWELVE|THIRTY|OCLOCK|LEFT|RIGHT|UP|DOWN|UPWARDS|DOWNWARDS|LEFTWARDS|RIGHTWARDS|NORTH|SOUTH|EAST|WEST|[0-9]+)\b"
)


def family_of(name: str) -> str:
    """What pictures of one design have in common, of the name that the package gives.

    >>> family_of("CLOCK FACE ONE-THIRTY"), family_of("BLUE HEART"), family_of("MAN HEALTH WORKER")
    ('clock face', 'heart', 'health worker')
    """
    left = re.sub(r"[^A-Z ]", " ", VARIED.sub(" ", name.upper()))
    return " ".join(left.split()).lower() or name.lower()


def is_held_out(family: str) -> bool:
    """Half of the families, by their SHA-256."""
    return hashlib.sha256(family.encode()).digest()[0] % 2 == 1


def pictures_of(
    packages: Mapping[str, tuple[list[dict[str, Any]], dict[str, bytes]]],
) -> Iterator[tuple[dict[str, str], bytes]]:
    """A row and the picture of every emoji with every tone from each vendor, by vendor and code points."""
    for vendor, short in VENDORS.items():
        emoji, pictures = packages[vendor]
        for e in sorted((e for e in emoji if e["category"] not in LEFT_OUT), key=lambda e: str(e["unified"])):
            for form in (e, *(v for _, v in sorted(e.get("skin_variations", {}).items()))):
                if form[f"has_img_{vendor}"]:
                    row = {"category": e["category"], "vendor": short, "family": family_of(e["name"])}
                    yield row | {"name": e["name"].lower(), "unified": form["unified"]}, pictures[form["image"]]


def reduced(data: bytes, side: int) -> Image.Image:
    """The picture on white, each box of pixels averaged."""
    image = on_white(data)
    return image.reduce(image.width // side) if image.width > side else image


def write_zip(path: Path, images: Sequence[Image.Image], rows: Sequence[Mapping[str, str]]) -> None:
    """An EDM dataset zip whose dataset.json also names the classes and holds the table."""
    names = [f"{i // 1000:05d}/img{i:08d}.png" for i in range(len(rows))]
    classes = {a: sorted({r[a] for r in rows}) for a in ("category", "vendor")}
    description = {
        "labels": [[n, classes["category"].index(r["category"])] for n, r in zip(names, rows, strict=True)],
        "attribute": "category",
        "classes": classes["category"],
        "attributes": classes,
        "columns": {column: [r[column] for r in rows] for column in COLUMNS},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pack(path, dict(zip(names, images, strict=True)), description)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--google", type=Path, help="tarball of emoji-datasource-google")
    parser.add_argument("--twitter", type=Path, help="tarball of emoji-datasource-twitter")
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder to write the two zips in")
    parser.add_argument("--side", type=int, choices=(64, 32, 16), default=32)
    arguments = parser.parse_args(argv)
    packages = {}
    with tempfile.TemporaryDirectory() as scratch:
        for vendor in VENDORS:
            packages[vendor] = unpack(vendor, verified(vendor, getattr(arguments, vendor), Path(scratch)))
    found = list(pictures_of(packages))
    for name, held_out in (("emojis-train", False), ("emojis-held-out", True)):
        mine = [(row, data) for row, data in found if is_held_out(row["family"]) == held_out]
        path = arguments.out / f"{name}.zip"
        write_zip(path, [reduced(data, arguments.side) for _, data in mine], [row for row, _ in mine])
        families = len({row["family"] for row, _ in mine})
        print(path, len(mine), "images of", families, "families, sha256", hashlib.sha256(path.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
