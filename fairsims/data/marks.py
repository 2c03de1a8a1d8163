"""Marks of generated images: XMP that says so, written into PNGs and read from any format."""

from __future__ import annotations

import io
import re
import struct
import zlib
from typing import Any

from PIL import Image

from fairsims.data.opening import FORMATS
from fairsims.data.png import SIGNATURE, chunks

CODES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED, COMPOSITE = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
"""IPTC's digital source types: made by a trained model, and put together from such pictures."""
_KEYWORD = b"XML:com.adobe.xmp"
_PACKET = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" rdf:about="" '
    'e:DigitalSourceType="{type}" e:AISystemUsed="fairsims"{version}/></rdf:RDF></x:xmpmeta>'
)
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}


def mark_chunk(digest: str = "", kind: str = GENERATED) -> bytes:
    """The chunk of a PNG that marks it: IPTC DigitalSourceType and AISystemVersionUsed, the SHA-256 of the model.

    XMP as ISO 16684-1 and the PNG specification (iTXt, uncompressed) have it; the same for all images of a model.
    """
    version = f' e:AISystemVersionUsed="sha256:{digest}"' if digest else ""
    packet = _PACKET.format(type=CODES + kind, version=version).encode()
    body = _KEYWORD + b"\0\0\0\0\0" + packet
    return struct.pack(">I", len(body)) + b"iTXt" + body + struct.pack(">I", zlib.crc32(b"iTXt" + body))


def marked(png: bytes, chunk: bytes) -> bytes:
    """A PNG with a mark, right after its header; one that has XMP already stays as it is."""
    if not png.startswith(SIGNATURE) or any(_is_xmp(kind, body) for kind, body in chunks(png)):
        return png
    return png[:33] + chunk + png[33:]


def read_mark(data: bytes) -> dict[str, Any]:
    """What an encoded image says of its making: `digital_source_type`, `model`, `system`, `texts`, `c2pa`.

    Only what is there. `texts` are names of texts that generator front-ends write their settings into; `c2pa` says
    that there are content credentials, not that they hold. Raises nothing for what is no image.
    """
    found: dict[str, Any] = {}
    packet, texts, credentials = _packet(data)
    for key, name in (
        ("digital_source_type", "DigitalSourceType"),
        ("model", "AISystemVersionUsed"),
        ("system", "AISystemUsed"),
    ):
        # An attribute, an element with text, or one that refers to the type.
        match = re.search(
            rf'[\w.-]+:{name}(?:\s*=\s*"([^"]*)"|[^>]*?resource\s*=\s*"([^"]*)"|[^>]*>\s*([^<]+))', packet
        )
        if match:
            found[key] = next(g for g in match.groups() if g is not None).strip()
    return found | ({"texts": texts} if texts else {}) | ({"c2pa": True} if credentials else {})


def is_generated(data: bytes) -> bool:
    """Whether an encoded image is marked as made by a trained model, wholly or in parts."""
    kind = str(read_mark(data).get("digital_source_type", ""))
    return kind.rpartition("/")[2] in (GENERATED, COMPOSITE, "algorithmicMedia", "compositeSynthetic")


def _packet(data: bytes) -> tuple[str, list[str], bool]:
    """The XMP packet, the names of further texts, and whether there are content credentials."""
    if data.startswith(SIGNATURE):
        packet, texts, credentials = b"", [], False
        for kind, body in chunks(data):
            if _is_xmp(kind, body):
                packet = body[len(_KEYWORD) + 5 :]
            elif kind in _TEXTS and (name := body.partition(b"\0")[0].decode("latin-1")[:79]):
                texts.append(name)
            credentials |= kind == b"caBX"
        return packet.decode("utf-8", "replace"), texts, credentials
    try:
        with Image.open(io.BytesIO(data), formats=[f for f in FORMATS if f in Image.OPEN]) as image:
            packet = image.info.get("xmp") or b""
            if image.format == "TIFF":
                packet = packet or image.tag_v2.get(700) or b""  # type: ignore[attr-defined]
    except Exception:  # broken: it says nothing
        packet = b""
    text = packet if isinstance(packet, str) else bytes(packet).decode("utf-8", "replace")
    # JPEG keeps them as JUMBF in APP11, other formats in boxes of that kind.
    return text, [], b"jumb" in data and b"c2pa" in data


def _is_xmp(kind: bytes, body: bytes) -> bool:
    return kind == b"iTXt" and body.startswith(_KEYWORD + b"\0")
