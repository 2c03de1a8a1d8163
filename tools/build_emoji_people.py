"""Build fairsims/assets/emoji_people from two npm packages.

    python tools/build_emoji_people.py [--google TARBALL] [--twitter TARBALL] [--out FOLDER] [--sheet PNG]

Without the tarballs they are fetched with `npm pack`. Their sha512 is checked either way. The same tarballs and the
same Pillow give the same bytes: fixed order, fixed zip timestamps, no metadata.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import re
import subprocess
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

VERSION = "16.0.0"
SHA512 = {
    "google": "ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
    "twitter": "7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
}
VENDORS = {"google": "noto", "twitter": "twemoji"}
SUBCATEGORIES = ("person", "person-role", "person-gesture", "person-fantasy")
GENDERS = ("man", "woman", "person")
TONES = {
    "": "none",
    "1F3FB": "light",
    "1F3FC": "medium-light",
    "1F3FD": "medium",
    "1F3FE": "medium-dark",
    "1F3FF": "dark",
}
ATTRIBUTES = {"gender": GENDERS, "skin_tone": tuple(TONES.values()), "vendor": tuple(VENDORS.values())}
COLUMNS = ("gender", "skin_tone", "vendor", "concept", "subcategory", "name", "unified")

# Sequences spell the gender out; a single code point does not, and its Unicode name is frozen at what it was first
# called ("MAN IN TUXEDO" is "person in tuxedo" today). These are the code points with a gender of their own, by the
# current CLDR short name, and for U+1F931 (CLDR has no gendered name) by both vendors' pictures.
# Every other lone code point shows a person of unspecified gender.
LONE = {
    "1F468": "man",
    "1F466": "man",
    "1F474": "man",
    "1F934": "man",
    "1F385": "man",
    "1FAC3": "man",
    "1F469": "woman",
    "1F467": "woman",
    "1F475": "woman",
    "1F478": "woman",
    "1F936": "woman",
    "1F930": "woman",
    "1F9D5": "woman",
    "1F931": "woman",
}
SEQUENCE = {"2640": "woman", "2642": "man"}

# What stays of a name when the gender goes, where dropping MAN, WOMAN or PERSON does not say it.
CONCEPTS = {
    "1F468": "adult",
    "1F469": "adult",
    "1F9D1": "adult",
    "1F466": "child",
    "1F467": "child",
    "1F9D2": "child",
    "1F474": "older adult",
    "1F475": "older adult",
    "1F9D3": "older adult",
    "1F934": "crown",
    "1F478": "crown",
    "1FAC5": "crown",
    "1F385": "claus",
    "1F936": "claus",
    "1F9D1-1F384": "claus",
    "1F930": "pregnant",
    "1FAC3": "pregnant",
    "1FAC4": "pregnant",
    "1F472": "skullcap",
    "1F9D5": "headscarf",
    "1F9DC": "merperson",
}


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """One picture to take: its row of the table and its file in the package."""

    row: dict[str, str]
    vendor: str
    image: str


def gender_of(unified: str) -> str:
    """Class of a code point sequence without skin tone: its gender sign, else its MAN, WOMAN or ADULT, else `LONE`."""
    points = unified.split("-")
    signs = [SEQUENCE[p] for p in points if p in SEQUENCE]
    return signs[0] if signs else LONE.get(points[0], "person")


def design_of(unified: str) -> str:
    """The sequence with gender and tone removed: equal for man, woman and person of one design."""
    points = [p for p in unified.split("-") if p not in SEQUENCE and p not in ("200D", "FE0F")]
    if len(points) > 1 and points[0] in ("1F468", "1F469"):
        points[0] = "1F9D1"
    return "-".join(points)


def concepts_of(emoji: Sequence[dict[str, Any]]) -> dict[str, str]:
    """A readable concept for each design, from `CONCEPTS` or else the name of its woman's or only form."""
    named: dict[str, str] = {}
    for e in sorted(emoji, key=lambda e: gender_of(e["unified"]) != "woman"):
        design = design_of(e["unified"])
        words = re.sub(r"\b(WO)?MAN\b|\bPERSON\b|:", " ", e["name"])
        words = re.sub(r"^(WITH|IN|WEARING) ", "", " ".join(words.split()))
        named.setdefault(design, CONCEPTS.get(design, words.lower()))
    return named


def people(emoji: list[dict[str, Any]]) -> Iterator[Emoji]:
    """Every single-person emoji with every tone from both vendors, ordered by vendor and code points."""
    chosen = [e for e in emoji if e["category"] == "People & Body" and e["subcategory"] in SUBCATEGORIES]
    concepts = concepts_of(chosen)
    for vendor, short in VENDORS.items():
        for e in sorted(chosen, key=lambda e: str(e["unified"])):
            for tone, form in [("", e), *sorted(e.get("skin_variations", {}).items())]:
                row = {
                    "gender": gender_of(e["unified"]),
                    "skin_tone": TONES[tone],
                    "vendor": short,
                    "concept": concepts[design_of(e["unified"])],
                    "subcategory": e["subcategory"],
                    "name": e["name"].lower(),
                    "unified": form["unified"],
                }
                if form[f"has_img_{vendor}"]:
                    yield Emoji(row=row, vendor=vendor, image=form["image"])


def verified(vendor: str, tarball: Path | None, scratch: Path) -> Path:
    """The package's tarball, fetched when none is given; SystemExit when its sha512 is another."""
    if tarball is None:
        package = f"emoji-datasource-{vendor}"
        command = ["npm", "pack", "--silent", f"{package}@{VERSION}", "--pack-destination", str(scratch)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        tarball = scratch / f"{package}-{VERSION}.tgz"
    found = base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    if found != SHA512[vendor]:
        raise SystemExit(f"found sha512 {found} of {tarball}; expected {SHA512[vendor]}; fetch {VERSION} again")
    return tarball


def unpack(vendor: str, tarball: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """`emoji.json` and the 64-pixel pictures by file name."""
    folder = f"package/img/{vendor}/64/"
    pictures: dict[str, bytes] = {}
    with tarfile.open(tarball) as tar:
        for member in tar:
            if member.name == "package/emoji.json" or member.name.startswith(folder):
                stream = tar.extractfile(member)
                assert stream is not None
                pictures[member.name.removeprefix(folder)] = stream.read()
    return json.loads(pictures.pop("package/emoji.json")), pictures


def on_white(data: bytes) -> Image.Image:
    """The picture composited on white, RGB."""
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    page = Image.new("RGBA", picture.size, "white")
    page.alpha_composite(picture)
    return page.convert("RGB")


def as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def pack(path: Path, images: Mapping[str, Image.Image], description: Mapping[str, Any]) -> None:
    """An EDM dataset zip of images by name, the same bytes every time; `description` is its dataset.json."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, image in images.items():
            archive.writestr(zipfile.ZipInfo(name), as_png(image))
        info = zipfile.ZipInfo("dataset.json")
        info.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(info, json.dumps(description, indent=0))


def write_zip(path: Path, images: Sequence[Image.Image], rows: Sequence[dict[str, str]]) -> None:
    """An EDM dataset zip; beyond EDM's `labels`, dataset.json names the classes and holds the rest of the table."""
    names = [f"{i // 1000:05d}/img{i:08d}.png" for i in range(len(rows))]
    description = {
        "labels": [[n, GENDERS.index(r["gender"])] for n, r in zip(names, rows, strict=True)],
        "attribute": "gender",
        "classes": GENDERS,
        "attributes": ATTRIBUTES,
        "columns": {column: [r[column] for r in rows] for column in COLUMNS},
    }
    pack(path, dict(zip(names, images, strict=True)), description)


def contact_sheet(images: Sequence[Image.Image], rows: Sequence[dict[str, str]]) -> Image.Image:
    """One page for a look at the labels: untoned pictures by gender and concept, noto beside twemoji."""
    untoned = [i for i, row in enumerate(rows) if row["skin_tone"] == "none"]
    order = sorted(untoned, key=lambda i: (GENDERS.index(rows[i]["gender"]), rows[i]["concept"], rows[i]["vendor"]))
    across = 16
    page = Image.new("RGB", (across * 88, -(-len(order) // across) * 92), "white")
    draw = ImageDraw.Draw(page)
    for place, i in enumerate(order):
        x, y = place % across * 88, place // across * 92
        page.paste(images[i], (x, y))
        draw.text((x, y + 65), f"{rows[i]['gender']}\n{rows[i]['concept'][:15]}", fill="black", font_size=9)
    return page


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--google", type=Path, help="tarball of emoji-datasource-google")
    parser.add_argument("--twitter", type=Path, help="tarball of emoji-datasource-twitter")
    assets = Path(__file__).parent.parent / "fairsims" / "assets" / "emoji_people"
    parser.add_argument("--out", type=Path, default=assets, help="folder to write emoji-people-64.zip in")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of the untoned pictures here")
    arguments = parser.parse_args(argv)

    packages = {}
    with tempfile.TemporaryDirectory() as scratch:
        for vendor in VENDORS:
            packages[vendor] = unpack(vendor, verified(vendor, getattr(arguments, vendor), Path(scratch)))
    chosen = list(people(packages["google"][0]))
    images = [on_white(packages[e.vendor][1][e.image]) for e in chosen]
    rows = [e.row for e in chosen]
    arguments.out.mkdir(parents=True, exist_ok=True)
    target = arguments.out / "emoji-people-64.zip"
    write_zip(target, images, rows)
    if arguments.sheet:
        contact_sheet(images, rows).save(arguments.sheet)
    for column in ("gender", "skin_tone", "vendor", "subcategory"):
        print(column, dict(Counter(r[column] for r in rows)))
    print(len({r["concept"] for r in rows}), "concepts,", len(rows), "images,", target.stat().st_size, "bytes")
    print("sha256", hashlib.sha256(target.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
