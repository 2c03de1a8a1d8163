"""Generated images say so: in pools, exports and grids, and through every copy; a value that is not finite is none."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
import struct
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image
from support import MakePool

from fairsims.cli import main
from fairsims.data import open_dataset
from fairsims.data.marks import CODES, COMPOSITE, GENERATED, is_generated, mark_chunk, marked, read_mark
from fairsims.errors import ChangedSettings, InputError
from fairsims.models import ModelSpec, SamplerConfig, open_model
from fairsims.pools import Pool, encode_png, export_folder, select_pool, write_pool
from fairsims.report.publish import publish

SAMPLER = SamplerConfig(solver="euler", steps=2)


def xmp(png: bytes) -> dict[str, str]:
    """The properties of a PNG's XMP packet, by a parser of XML that knows nothing of ours."""
    packet = Image.open(io.BytesIO(png)).info["XML:com.adobe.xmp"]
    description = ET.fromstring(packet).find(".//{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    assert description is not None
    return {k.rpartition("}")[2]: v for k, v in description.attrib.items()}


def generate(out: Path, *options: str) -> Pool:
    command = [
        "generate",
        "--model",
        "digits-8",
        "--seeds",
        "0-7",
        "--steps",
        "2",
        "--solver",
        "euler",
        "--precision",
        "float32",
    ]
    result = CliRunner().invoke(main, [*command, "--out", str(out), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return Pool(out)


def test_pools_and_exports_carry_the_mark_and_the_model(tmp_path: Path) -> None:
    pool = generate(
        tmp_path / "pool", "--export-folder", str(tmp_path / "png"), "--export-zip", str(tmp_path / "a.zip")
    )
    digest = pool.meta["made_by"]["digest"]
    with zipfile.ZipFile(tmp_path / "a.zip") as z:
        zipped = [z.read(n) for n in sorted(z.namelist()) if n.endswith(".png")]
    for i, png in enumerate(zipped):
        assert png == pool.encoded(i) == (tmp_path / "png" / f"{i:06d}.png").read_bytes()
        found = xmp(png)
        assert found["DigitalSourceType"] == CODES + GENERATED and found["AISystemVersionUsed"] == f"sha256:{digest}"
    assert read_mark(zipped[0]) == {
        "digital_source_type": CODES + GENERATED,
        "model": f"sha256:{digest}",
        "system": "fairsims",
    }
    assert pool.meta["marked"] is True and len(mark_chunk(digest)) < 500


def test_a_mark_changes_no_pixel_and_can_be_left_out(tmp_path: Path) -> None:
    with_mark, without = (
        generate(tmp_path / "a"),
        generate(tmp_path / "b", "--no-mark", "--export-folder", str(tmp_path / "png")),
    )
    assert torch.equal(with_mark.read(range(8)), without.read(range(8)))
    assert "marked" not in without.meta and not is_generated(without.encoded(0))
    assert not is_generated((tmp_path / "png" / "000000.png").read_bytes())
    # As an earlier version wrote it, to the byte.
    assert without.encoded(3) == encode_png(without.read([3])[0])
    chunk = mark_chunk(with_mark.meta["made_by"]["digest"])
    assert with_mark.encoded(3) == marked(without.encoded(3), chunk) == marked(with_mark.encoded(3), chunk)
    # An older pool, without marks, gets them where it is exported, and is never gone on with as a marked one.
    export_folder(without, tmp_path / "older")
    assert is_generated((tmp_path / "older" / "000000.png").read_bytes())
    with pytest.raises(ChangedSettings, match="marked = null, now marked = true"):
        list(write_pool(tmp_path / "b", open_model(ModelSpec(base="digits-8", sampler=SAMPLER)), range(8)))


def test_selections_copy_bytes_and_marks_of_others_stay(tmp_path: Path, digits_pool: MakePool) -> None:
    pool = generate(tmp_path / "pool")
    select_pool(pool, np.array([5, 2]), tmp_path / "chosen", made_by={"kind": "selected"})
    chosen = Pool(tmp_path / "chosen")
    assert [chosen.encoded(0), chosen.encoded(1)] == [pool.encoded(5), pool.encoded(2)]
    # A mark that another tool gave is not written over.
    other = marked(digits_pool(1, 1).encoded(0), mark_chunk(kind=COMPOSITE))
    assert marked(other, mark_chunk("0" * 64)) == other


def test_grids_of_marked_images_are_marked(tmp_path: Path) -> None:
    from fairsims.audit.command import AuditConfig, run_audit

    pool = generate(tmp_path / "pool", "--export-folder", str(tmp_path / "png"))
    for k, source in enumerate((pool.folder, tmp_path / "png", "digits")):
        run = tmp_path / f"run{k}"
        run_audit(AuditConfig(before=str(source), attr=("parity",)), run, publish=publish)
        grid = (run / "audit" / "grid-before.png").read_bytes()
        assert is_generated(grid) == (source != "digits")
        if k < 2:
            assert xmp(grid)["DigitalSourceType"] == CODES + COMPOSITE


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "TIFF", "PNG"])
def test_marks_of_other_formats_are_read(tmp_path: Path, form: str) -> None:
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
        f"<Iptc4xmpExt:DigitalSourceType>{CODES}{GENERATED}</Iptc4xmpExt:DigitalSourceType>"
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()
    buffer, options = io.BytesIO(), {}
    if form == "TIFF":
        options = {"tiffinfo": {700: packet}}
    elif form == "PNG":
        from PIL.PngImagePlugin import PngInfo

        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", packet.decode())
        text.add_text("parameters", "a firefighter, steps: 20")
        options = {"pnginfo": text}
    else:
        options = {"xmp": packet}
    Image.new("RGB", (8, 8)).save(buffer, form, **options)  # type: ignore[arg-type]
    path = tmp_path / f"a.{form.lower()}"
    path.write_bytes(buffer.getvalue())
    result = CliRunner().invoke(main, ["info", str(path), "--json"], catch_exceptions=False)
    found = json.loads(result.stdout)
    assert found["mark"]["marked_as_generated"] and found["mark"]["digital_source_type"] == CODES + GENERATED
    assert (found["mark"].get("texts") == ["parameters"]) == (form == "PNG")


def test_info_of_an_image_without_a_mark_and_of_none(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    shown = CliRunner().invoke(main, ["info", str(tmp_path / "a.png")], catch_exceptions=False).stdout
    assert "marked_as_generated" in shown and "False" in shown
    (tmp_path / "b.png").write_bytes(b"no image")
    result = CliRunner().invoke(main, ["info", str(tmp_path / "b.png")])
    assert result.exit_code == 2 and result.stderr.count("\n") == 1 and "not an image" in result.stderr
    for data in (b"", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 2**31, b"iTXt")):
        assert read_mark(data) == {} and not is_generated(data)


def certificates(folder: Path) -> tuple[Path, Path]:
    """A signer's key, and its certificate with that of the authority that issued it."""
    folder.mkdir()

    def name(text: str) -> x509.Name:
        return x509.Name(
            [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test"), x509.NameAttribute(NameOID.COMMON_NAME, text)]
        )

    now = dt.datetime.now(dt.UTC)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def usage(**given: bool) -> x509.KeyUsage:
        names = (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        )
        return x509.KeyUsage(**{n: given.get(n, False) for n in names})

    def certificate(subject: str, of: Any, ca: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name("Root")).public_key(of.public_key())
        )
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(days=1))
        builder = builder.not_valid_after(now + dt.timedelta(days=30))
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        builder = builder.add_extension(usage(key_cert_sign=ca, crl_sign=ca, digital_signature=not ca), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(of.public_key()), critical=False)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
        builder = builder.add_extension(authority, critical=False)
        if not ca:
            builder = builder.add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=True
            )
        return builder.sign(root_key, hashes.SHA256())

    chain = [certificate("Signer", key, False), certificate("Root", root_key, True)]
    pem = serialization.Encoding.PEM
    (folder / "chain.pem").write_bytes(b"".join(c.public_bytes(pem) for c in chain))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)
    return folder / "key.pem", folder / "chain.pem"


def test_exports_are_signed_by_the_users_key(tmp_path: Path) -> None:
    import c2pa

    key, chain = certificates(tmp_path / "keys")
    signing = ("--c2pa-key", str(key), "--c2pa-chain", str(chain))
    pool = generate(
        tmp_path / "pool", "--export-folder", str(tmp_path / "png"), "--export-zip", str(tmp_path / "a.zip"), *signing
    )
    file = tmp_path / "png" / "000003.png"
    reader = c2pa.Reader("image/png", io.BytesIO(file.read_bytes()))
    assert reader.get_validation_state() in ("Valid", "Trusted")
    text = reader.json()
    assert CODES + GENERATED in text and pool.meta["made_by"]["digest"] in text
    # The mark is there as well, and the pixels are those of the pool.
    assert xmp(file.read_bytes())["DigitalSourceType"] == CODES + GENERATED
    assert torch.equal(open_dataset(str(tmp_path / "png")).read(range(8)), pool.read(range(8)))
    result = CliRunner().invoke(main, ["info", str(file), "--json"], catch_exceptions=False)
    assert json.loads(result.stdout)["mark"]["c2pa"]["state"] in ("Valid", "Trusted")
    # A changed pixel breaks it.
    data = bytearray(file.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 1
    file.write_bytes(bytes(data))
    broken = json.loads(CliRunner().invoke(main, ["info", str(file), "--json"]).stdout)
    assert broken["mark"]["c2pa"]["state"] not in ("Valid", "Trusted")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--c2pa-key", "{key}"), "give both --c2pa-key and --c2pa-chain"),
        (("--c2pa-key", "{key}", "--c2pa-chain", "{chain}"), "give --export-folder or --export-zip"),
        (("--export-folder", "{out}/x", "--c2pa-key", "{chain}", "--c2pa-chain", "{chain}"), "no private key"),
        (("--export-folder", "{out}/x", "--c2pa-key", "{out}/none", "--c2pa-chain", "{chain}"), "cannot be read"),
    ],
)
def test_credentials_that_cannot_sign_are_refused_before_sampling(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    key, chain = certificates(tmp_path / "keys")
    given = [o.format(key=key, chain=chain, out=tmp_path) for o in options]
    result = CliRunner().invoke(
        main, ["generate", "--model", "digits-8", "--seeds", "0-3", "--out", str(tmp_path / "pool"), *given]
    )
    assert result.exit_code == 2 and result.stderr.count("\n") == 1 and words in result.stderr
    assert not (tmp_path / "pool").exists()


def test_pools_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    shards = [hashlib.sha256(generate(tmp_path / name).shards[0].read_bytes()).hexdigest() for name in ("a", "b")]
    assert shards[0] == shards[1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_stops_the_pool_and_names_the_seed(
    tmp_path: Path, bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A denoiser that breaks for seed 5 alone."""
    model = open_model(ModelSpec(base="digits-8", sampler=SAMPLER, batch_size=4))
    forward = type(model.denoiser).forward
    calls: list[int] = []

    def broken(self: Any, x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        out = forward(self, x, *arguments, **options)
        calls.append(len(x))
        if len(calls) > SAMPLER.steps:  # the second batch, seeds 4 to 7
            out = out.clone()
            out[1, 0, 3, 3] = bad
        return out

    monkeypatch.setattr(type(model.denoiser), "forward", broken)
    with pytest.raises(InputError, match="sampling the image of seed 5 gave numbers that are not finite"):
        list(write_pool(tmp_path / "pool", model, range(8)))
    assert not list((tmp_path / "pool").glob("shard-*"))
