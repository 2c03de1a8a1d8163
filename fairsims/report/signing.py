"""Tamper evidence: a run's digests as an in-toto statement in a DSSE envelope, signed with Ed25519.

A signature shows that the files are those that the holder of a key signed. It does not show when, nor that the
numbers in them are right. Formats: in-toto Statement v1 with a test-result v0.1 predicate, DSSE v1.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fairsims.audit.result import load_audit
from fairsims.errors import InputError
from fairsims.files import atomic, read_json, sha256_file, write_json
from fairsims.run import SIGNATURE, UNLISTED, run_files

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://in-toto.io/attestation/test-result/v0.1"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a run's files are, held against its signature or, without one, its manifest."""

    signed: bool = False
    key: str | None = None
    """Fingerprint of the signing key: SHA-256 of its 32 bytes."""
    trusted: bool = False
    """The signature was checked with a key that the caller gave, not with the one that lies in the run."""
    files: int
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]
    problem: str | None = None
    """Why the signature does not hold."""

    @property
    def intact(self) -> bool:
        return not (self.changed or self.missing or self.added or self.problem)


def create_key(path: Path, passphrase: str | None = None) -> str:
    """Write a private key (PEM, PKCS#8, readable by its owner only) and `<path>.pub`; returns its fingerprint.

    Raises InputError when a file is there already: a key is never overwritten.
    """
    public = path.with_name(path.name + ".pub")
    for p in (path, public):
        if p.exists():
            raise InputError(f"{p} exists; expected no file there, a key is never overwritten; give another name")
    key = Ed25519PrivateKey.generate()
    lock: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        lock = serialization.BestAvailableEncryption(passphrase.encode())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The mode is given at creation: there is no moment at which others could open the file.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
        f.write(pem)
    with atomic(public) as temporary:
        temporary.write_bytes(_public_pem(key.public_key()))
    return fingerprint(key.public_key())


def fingerprint(key: Ed25519PublicKey) -> str:
    """SHA-256 of the key's 32 bytes, in hex."""
    return hashlib.sha256(key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)).hexdigest()


def read_private_key(path: Path, passphrase: str | None = None) -> Ed25519PrivateKey:
    """A private key. Raises InputError when others can read the file, for a wrong passphrase, for no Ed25519 key."""
    data = _bytes_of(path)
    if b"PUBLIC KEY" in data:
        raise InputError(f"{path} is a public key; expected the private one that `fairsims keygen` wrote beside it")
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise InputError(f"{path} can be read by others; expected a private key of mode 600; run chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(data, passphrase.encode() if passphrase else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError(
            f"{path} is no private key that opens with this passphrase; expected one that `fairsims keygen` made"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} holds no Ed25519 key; make one with `fairsims keygen`")
    return key


def is_locked(path: Path) -> bool:
    """Whether the private key needs a passphrase."""
    return b"ENCRYPTED" in _bytes_of(path)


def read_public_key(path: Path) -> Ed25519PublicKey:
    """A public key in PEM. Raises InputError for anything else, a private key included."""
    try:
        key = serialization.load_pem_public_key(_bytes_of(path))
    except (ValueError, UnsupportedAlgorithm):
        raise InputError(f"{path} is no public key in PEM; expected the .pub file of `fairsims keygen`") from None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path} holds no Ed25519 key; expected the .pub file of `fairsims keygen`")
    return key


def sign(run: Path, key: Ed25519PrivateKey) -> Path:
    """Sign every file of a finished run as it is now; returns the envelope's path.

    Raises InputError when there is no manifest or the files are not those that it lists.
    """
    verdict = _unsigned(run)
    if not verdict.intact:
        raise InputError(
            f"{run} is not what its manifest.json lists ({'; '.join(problems(verdict))}); restore the files, "
            "or write report and manifest again with `fairsims report`"
        )
    names = [n for n in run_files(run) if n != SIGNATURE]
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": n, "digest": {"sha256": sha256_file(run / n)}} for n in names],
        "predicateType": PREDICATE_TYPE,
        "predicate": _predicate(run),
    }
    payload = json.dumps(statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [
            {
                "keyid": fingerprint(key.public_key()),
                "sig": base64.b64encode(key.sign(_pre_authentication(payload))).decode(),
            }
        ],
        # Not part of DSSE, which leaves the distribution of keys open; other readers pass over it.
        "publicKey": _public_pem(key.public_key()).decode(),
    }
    write_json(run / SIGNATURE, envelope)
    return run / SIGNATURE


def verify(run: Path, public: Ed25519PublicKey | None = None) -> Verdict:
    """Hold a run's files against its signature; without one, against its manifest.

    Without `public` the key inside the envelope is used, which shows that the files belong together and not who signed
    them. Raises InputError when the folder has neither envelope nor manifest, or when they cannot be read.
    """
    if not (run / SIGNATURE).exists():
        verdict = _unsigned(run)
        if public is None:
            return verdict
        return Verdict(**vars(verdict) | {"problem": "no signature, though a public key was given to check one"})
    envelope = read_json(run / SIGNATURE)
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        signatures = [(str(s["keyid"]), base64.b64decode(s["sig"], validate=True)) for s in envelope["signatures"]]
        own = serialization.load_pem_public_key(str(envelope["publicKey"]).encode())
    except (KeyError, TypeError, ValueError, binascii.Error, UnsupportedAlgorithm):
        raise InputError(f"{run / SIGNATURE} is no signed statement; restore it, or delete it and sign again") from None
    key = public or own
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{run / SIGNATURE} names a key that is no Ed25519 key; delete it and sign again")
    problem = _signature_problem(key, envelope.get("payloadType"), payload, signatures)
    facts: dict[str, Any] = {"signed": True, "key": fingerprint(key), "trusted": public is not None, "problem": problem}
    if problem is None:
        return _compared(run, _subjects(run, payload), frozenset({SIGNATURE}), **facts)
    # Nothing that the envelope lists can be believed; the manifest may still tell what changed.
    if (run / "manifest.json").exists():
        return _compared(run, _listed_by_manifest(run), UNLISTED, **facts)
    return Verdict(files=0, changed=(), missing=("manifest.json",), added=(), **facts)


def problems(verdict: Verdict) -> list[str]:
    """What is wrong, a line each."""
    found = [verdict.problem] if verdict.problem else []
    for what in ("changed", "missing", "added"):
        found += [f"{what}: {name}" for name in getattr(verdict, what)]
    return found


def _signature_problem(
    key: Ed25519PublicKey, payload_type: object, payload: bytes, signatures: list[tuple[str, bytes]]
) -> str | None:
    mine = [sig for keyid, sig in signatures if keyid == fingerprint(key)]
    if payload_type != PAYLOAD_TYPE:
        return f"the envelope holds {payload_type!r}; expected {PAYLOAD_TYPE!r}"
    if not mine:
        others = ", ".join(k[:16] for k, _ in signatures) or "nobody"
        return f"signed by {others}; expected the key {fingerprint(key)[:16]}"
    for sig in mine:
        try:
            key.verify(sig, _pre_authentication(payload))
            return None
        except InvalidSignature:
            continue
    return f"the signature of key {fingerprint(key)[:16]} does not fit what it signs"


def _pre_authentication(payload: bytes) -> bytes:
    """DSSE v1, PAE(type, body): what is signed in the place of the payload alone."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _predicate(run: Path) -> dict[str, Any]:
    """in-toto test-result v0.1: an attribute whose target is reached passes, one that is open is warned of."""
    outcome: dict[str, list[str]] = {"passedTests": [], "warnedTests": [], "failedTests": []}
    audited = load_audit(run).attributes.values() if (run / "audit" / "audit.json").exists() else ()
    for a in audited:
        said = a.drift.preserved if a.drift is not None and not a.target else a.reached
        outcome["warnedTests" if said is None else "passedTests" if said else "failedTests"].append(a.name)
    result = "FAILED" if outcome["failedTests"] else "PASSED" if not outcome["warnedTests"] else "WARNED"
    settings = [n for n in ("config.json", "plan.json") if (run / n).exists()]
    configuration = [{"name": n, "digest": {"sha256": sha256_file(run / n)}} for n in settings]
    return {"result": result, "configuration": configuration, **outcome}


def _subjects(run: Path, payload: bytes) -> dict[str, str]:
    """Name to digest of a statement whose signature holds."""
    try:
        statement = json.loads(payload)
        if (statement["_type"], statement["predicateType"]) != (STATEMENT_TYPE, PREDICATE_TYPE):
            raise ValueError("another kind of statement")
        return {str(s["name"]): str(s["digest"]["sha256"]) for s in statement["subject"]}
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(
            f"{run / SIGNATURE} is signed, but no statement about files ({e}); sign the run again"
        ) from None


def _unsigned(run: Path) -> Verdict:
    return _compared(run, _listed_by_manifest(run), UNLISTED)


def _listed_by_manifest(run: Path) -> dict[str, str]:
    if not (run / "manifest.json").exists():
        raise InputError(f"{run} has no manifest.json; expected the folder of a finished run or audit")
    outputs = read_json(run / "manifest.json").get("outputs")
    if not isinstance(outputs, Mapping) or not all(isinstance(v, str) for v in outputs.values()):
        raise InputError(f"{run / 'manifest.json'} lists no digests of files; run the audit again")
    return dict(outputs)


def _compared(run: Path, listed: Mapping[str, str], unlisted: frozenset[str], **facts: Any) -> Verdict:
    there = [n for n in run_files(run) if n not in unlisted]
    # A link is never what was listed, wherever it points.
    same = {n for n in there if n in listed and not (run / n).is_symlink() and sha256_file(run / n) == listed[n]}
    return Verdict(
        files=len(listed),
        changed=tuple(n for n in there if n in listed and n not in same),
        missing=tuple(sorted(set(listed) - set(there))),
        added=tuple(n for n in there if n not in listed),
        **facts,
    )


def _public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} is missing; expected a key there; make one with `fairsims keygen`") from None
