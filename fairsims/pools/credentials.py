"""Content credentials (C2PA): images signed by the user's key, with c2pa-python behind the extra `[c2pa]`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from fairsims import __version__
from fairsims.data.marks import CODES, GENERATED
from fairsims.errors import EXTRAS_PAGE, InputError


class Credentials:
    """Signs PNGs as made by a trained model. Raises InputError where key and certificates are missing or no pair."""

    def __init__(self, key: Path, chain: Path, time: str | None = None) -> None:
        """`key` is a private key in PEM, `chain` the certificates in PEM, the signer's first; `time` the URL of a time
        stamp authority (RFC 3161)."""
        c2pa = _library()
        private, certificates = _text(key), _text(chain)
        try:
            info = c2pa.C2paSignerInfo(_algorithm(key, private), certificates.encode(), private.encode(), time)
            self._signer = c2pa.Signer.from_info(info)
        except (c2pa.C2paError, ValueError, TypeError) as e:
            raise InputError(
                f"{key} and {chain} cannot sign ({e}); expected a key and its certificates in PEM"
            ) from None

    def sign(self, png: bytes, name: str, digest: str) -> bytes:
        """The PNG with a manifest: made by fairsims with the model of this digest. Pixels and marks stay."""
        c2pa = _library()
        agent = {"name": "fairsims", "version": __version__}
        action = {
            "action": "c2pa.created",
            "digitalSourceType": CODES + GENERATED,
            "softwareAgent": agent,
            "parameters": {"model": f"sha256:{digest}"},
        }
        manifest = {
            "claim_generator_info": [agent],
            "title": name,
            "format": "image/png",
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
        }
        target = io.BytesIO()
        try:
            c2pa.Builder(manifest).sign(self._signer, "image/png", io.BytesIO(png), target)
        except c2pa.C2paError as e:
            raise InputError(
                f"cannot sign {name} ({e}); expected certificates for signing (extended key usage emailProtection or "
                "documentSigning) with their issuer's behind them"
            ) from None
        return target.getvalue()


def read_credentials(data: bytes, form: str) -> dict[str, Any] | None:
    """What c2pa-python's verifier finds: state, who signed, the source type; None where it is not installed."""
    try:
        import c2pa
    except ImportError:
        return None
    try:
        reader = c2pa.Reader(form, io.BytesIO(data))
        manifest = json.loads(reader.json())
        active = manifest["manifests"][manifest["active_manifest"]]
        actions = [a for x in active.get("assertions", []) for a in x.get("data", {}).get("actions", [])]
        return {
            "state": reader.get_validation_state(),
            "signed_by": active.get("signature_info", {}).get("issuer"),
            "digital_source_type": next((a["digitalSourceType"] for a in actions if "digitalSourceType" in a), None),
        }
    except (c2pa.C2paError, KeyError, ValueError, TypeError) as e:
        return {"state": f"unreadable ({' '.join(str(e).split())[:120]})"}


def _library() -> Any:
    try:
        import c2pa
    except ImportError:
        raise InputError(
            "content credentials need c2pa-python, which is not installed; install fairsims[c2pa]", page=EXTRAS_PAGE
        ) from None
    return c2pa


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path} cannot be read ({type(e).__name__}); expected PEM") from None


def _algorithm(path: Path, private: str) -> str:
    """C2PA's name of the signature that a key makes."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(private.encode(), password=None)
    except (ValueError, TypeError) as e:
        raise InputError(f"{path} is no private key without a passphrase ({e}); expected PEM") from None
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size in (256, 384, 521):
        return {256: "es256", 384: "es384", 521: "es512"}[key.curve.key_size]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    raise InputError(f"{path} is a {type(key).__name__}; expected an elliptic curve (P-256), Ed25519 or RSA key")
