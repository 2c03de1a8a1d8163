"""Signatures: every kind of tampering is named, nobody else's key passes."""

from __future__ import annotations

import base64
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairsims.cli import main
from fairsims.errors import InputError
from fairsims.files import read_json, write_json, write_text
from fairsims.report import signing
from fairsims.report.signing import create_key, read_private_key, read_public_key, sign, verify
from fairsims.run import SIGNATURE, relisted, write_manifest


def audited(**attributes: dict[str, object]) -> dict[str, object]:
    """The least audit with these verdicts."""
    shares = {"a": {"share": 0.5}, "b": {"share": 0.5}}
    target = {"target": {"a": 0.5, "b": 0.5}}
    common = {"classes": ["a", "b"], "before": shares}
    found = {n: common | ({} if "drift" in said else target) | said for n, said in attributes.items()}
    return {"format": "fairsims-audit/2", "attributes": found}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    write_json(folder / "config.json", {"attr": "gender"})
    write_json(folder / "audit" / "audit.json", audited(gender={"reached": True}))
    write_text(folder / "report.html", "<p>fünf 🙂</p>")
    write_text(folder / "pool" / "shard-00000.parquet", "PAR1" * 50)
    write_manifest(folder, {"base_digest": "abc"})
    write_json(folder / "status.json", {"state": "finished"})
    return folder


@pytest.fixture
def key(tmp_path: Path) -> Path:
    create_key(tmp_path / "key")
    return tmp_path / "key"


def public(key: Path) -> signing.Ed25519PublicKey:
    return read_public_key(key.with_name("key.pub"))


def test_a_signed_run_is_intact(run: Path, key: Path) -> None:
    sign(run, read_private_key(key))
    verdict = verify(run, public(key))
    assert verdict.intact and verdict.signed and verdict.trusted
    assert verdict.files == 6, "five files and the manifest"
    assert not verify(run).trusted, "a key that came with the run proves nothing about whose it is"


def test_the_envelope_is_dsse_around_an_in_toto_statement(run: Path, key: Path) -> None:
    envelope = read_json(sign(run, read_private_key(key)))
    payload = base64.b64decode(envelope["payload"])
    statement = json.loads(payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicate"]["result"] == "PASSED" and statement["predicate"]["passedTests"] == ["gender"]
    assert {s["name"] for s in statement["subject"]} >= {"manifest.json", "status.json", "report.html"}
    kind = b"application/vnd.in-toto+json"
    signed = b"DSSEv1 " + str(len(kind)).encode() + b" " + kind + b" " + str(len(payload)).encode() + b" " + payload
    public(key).verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed)


@pytest.mark.parametrize(
    ("said", "result"),
    [
        ({"reached": True}, "PASSED"),
        ({"reached": None}, "WARNED"),
        ({"reached": False}, "FAILED"),
        ({"drift": {"limit": 0.03, "largest": 0.1, "held": False}}, "FAILED"),
    ],
)
def test_the_statement_says_what_the_audit_found(run: Path, key: Path, said: dict[str, object], result: str) -> None:
    write_json(run / "audit" / "audit.json", audited(gender=said, age={"reached": True}))
    write_manifest(run, {})
    envelope = read_json(sign(run, read_private_key(key)))
    assert json.loads(base64.b64decode(envelope["payload"]))["predicate"]["result"] == result


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_bit_of_any_file_is_named(run: Path, key: Path, data: st.DataObject) -> None:
    sign(run, read_private_key(key))
    names = sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file() and p.name != SIGNATURE)
    name = data.draw(st.sampled_from(names))
    content = bytearray((run / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    before = (run / name).read_bytes()
    (run / name).write_bytes(content)
    try:
        verdict = verify(run, public(key))
        assert verdict.changed == (name,) and not verdict.intact
    finally:
        (run / name).write_bytes(before)


def test_missing_added_and_linked_files_are_named(run: Path, key: Path, tmp_path: Path) -> None:
    sign(run, read_private_key(key))
    (run / "pool" / "shard-00000.parquet").unlink()
    (run / ".hidden").write_text("x")
    same = tmp_path / "same.html"
    same.write_bytes((run / "report.html").read_bytes())
    (run / "report.html").unlink()
    (run / "report.html").symlink_to(same)
    (run / "elsewhere").symlink_to(tmp_path)
    verdict = verify(run, public(key))
    assert verdict.missing == ("pool/shard-00000.parquet",)
    assert verdict.changed == ("report.html",)
    assert set(verdict.added) == {".hidden", "elsewhere"}


def test_a_forgery_signed_with_another_key_is_refused(run: Path, key: Path, tmp_path: Path) -> None:
    sign(run, read_private_key(key))
    write_text(run / "report.html", "<p>all well</p>")
    write_manifest(run, {})
    sign(run, Ed25519PrivateKey.generate())
    assert verify(run).intact, "by itself the forgery hangs together"
    verdict = verify(run, public(key))
    assert not verdict.intact and "expected the key" in str(verdict.problem)
    # Claiming the trusted key's name does not help.
    envelope = read_json(run / SIGNATURE)
    envelope["signatures"][0]["keyid"] = signing.fingerprint(public(key))
    write_json(run / SIGNATURE, envelope)
    assert "does not fit" in str(verify(run, public(key)).problem)


def test_a_payload_exchanged_under_the_signature_is_refused(run: Path, key: Path) -> None:
    sign(run, read_private_key(key))
    envelope = read_json(run / SIGNATURE)
    statement = json.loads(base64.b64decode(envelope["payload"]))
    statement["predicate"]["result"] = "FAILED"
    envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    write_json(run / SIGNATURE, envelope)
    (run / "manifest.json").unlink()
    verdict = verify(run, public(key))
    assert "does not fit" in str(verdict.problem) and verdict.missing == ("manifest.json",)


def test_without_a_signature_the_manifest_is_checked_and_that_is_said(run: Path, key: Path) -> None:
    assert verify(run).intact and not verify(run).signed
    assert "no signature" in str(verify(run, public(key)).problem)
    write_text(run / "report.html", "<b>")
    assert verify(run).changed == ("report.html",)
    with pytest.raises(InputError, match=r"changed: report.html"):
        sign(run, read_private_key(key))
    assert not (run / SIGNATURE).exists()


def test_what_is_written_into_a_finished_run_is_listed_and_what_others_changed_is_not(run: Path) -> None:
    write_text(run / "pool" / "shard-00000.parquet", "another's")
    with relisted(run):
        write_text(run / "labels" / "gender-1" / "Ada.csv", "seed")
        write_text(run / "report.html", "<b>")
        (run / "audit" / "audit.json").unlink()
    verdict = verify(run)
    assert (verdict.changed, verdict.missing, verdict.added) == (("pool/shard-00000.parquet",), (), ())
    assert read_json(run / "manifest.json")["inputs"] == {"base_digest": "abc"}
    with pytest.raises(ZeroDivisionError), relisted(run):
        write_text(run / "report.md", "# half of the forms")
        _ = 1 / 0
    assert verify(run).added == ()


def test_several_hands_write_into_a_run_at_once(run: Path) -> None:
    def write(k: int) -> None:
        with relisted(run):
            write_text(run / "labels" / f"{k}.csv", str(k))

    with ThreadPoolExecutor(8) as hands:
        list(hands.map(write, range(40)))
    assert verify(run).intact and verify(run).files == 44


def test_without_a_manifest_none_is_begun(tmp_path: Path) -> None:
    with relisted(tmp_path):
        write_text(tmp_path / "a.csv", "seed")
    write_json(tmp_path / "manifest.json", {"outputs": None})
    with relisted(tmp_path):
        write_text(tmp_path / "b.csv", "seed")
    assert read_json(tmp_path / "manifest.json") == {"outputs": None}


def test_keys_are_safe_and_never_overwritten(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        create_key(tmp_path / "key", "secret")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert signing.is_locked(tmp_path / "key")
    with pytest.raises(InputError, match="never overwritten"):
        create_key(tmp_path / "key")
    with pytest.raises(InputError, match="passphrase"):
        read_private_key(tmp_path / "key", "wrong")
    with pytest.raises(InputError, match="passphrase"):
        read_private_key(tmp_path / "key")
    read_private_key(tmp_path / "key", "secret")
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(InputError, match="is a public key; expected the private one"):
        read_private_key(tmp_path / "key.pub")
    with pytest.raises(InputError, match="chmod 600"):
        read_private_key(tmp_path / "key", "secret")
    with pytest.raises(InputError, match="no public key"):
        read_public_key(tmp_path / "key")
    with pytest.raises(InputError, match="is missing"):
        read_public_key(tmp_path / "nowhere")


def test_a_broken_envelope_is_one_line(run: Path, key: Path) -> None:
    sign(run, read_private_key(key))
    for broken in ({}, {"payload": "é", "signatures": [], "publicKey": ""}, {"payload": "e30=", "signatures": 3}):
        write_json(run / SIGNATURE, broken)
        with pytest.raises(InputError, match="no signed statement"):
            verify(run)
    with pytest.raises(InputError, match="no manifest.json"):
        verify(key.parent)


def test_the_commands(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRSIMS_PASSPHRASE", "secret")
    call = CliRunner().invoke
    assert call(main, ["keygen", str(tmp_path / "k"), "--passphrase"]).exit_code == 0
    said = call(main, ["verify", str(run)])
    assert said.exit_code == 0 and "not signed" in said.output
    assert call(main, ["sign", str(run), "--key", str(tmp_path / "k")]).exit_code == 0
    arguments = ["verify", str(run), "--public-key", str(tmp_path / "k.pub")]
    assert call(main, arguments).exit_code == 0
    write_text(run / "report.html", "<b>")
    said = call(main, arguments)
    assert said.exit_code == 1 and "changed: report.html" in said.output
    assert json.loads(call(main, [*arguments, "--json"]).output)["changed"] == ["report.html"]
    said = call(main, ["sign", str(run), "--key", str(tmp_path / "k.pub")])
    assert said.exit_code == 2 and said.output.count("\n") == 1
