"""`fairsims keygen`, `sign` and `verify`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from fairsims.cli.common import command, show
from fairsims.cli.options import PATH, json_option

PASSPHRASE = "FAIRSIMS_PASSPHRASE"


@command()
@click.argument("out", type=PATH)
@click.option("--passphrase", is_flag=True, help=f"Lock the key: asked for, or taken from ${PASSPHRASE}.")
@json_option
def keygen(out: Path, passphrase: bool, as_json: bool) -> None:
    """Make a signing key (Ed25519): OUT, for you alone, and OUT.pub, for those who verify."""
    from fairsims.report.signing import create_key

    secret = os.environ.get(PASSPHRASE) if passphrase else None
    if passphrase and not secret:
        secret = click.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True)
    key = create_key(out, secret)
    show({"private key": str(out), "public key": f"{out}.pub", "fingerprint": key}, as_json)


@command()
@click.argument("run", type=PATH)
@click.option("--key", type=PATH, required=True, help="Private key that `fairsims keygen` made.")
@json_option
def sign(run: Path, key: Path, as_json: bool) -> None:
    """Sign every file of a finished run or audit."""
    from fairsims.report import signing

    secret = None
    if signing.is_locked(key):
        secret = os.environ.get(PASSPHRASE) or click.prompt("Passphrase", hide_input=True, err=True)
    private = signing.read_private_key(key, secret)
    envelope = signing.sign(run, private)
    show({"signature": str(envelope), "fingerprint": signing.fingerprint(private.public_key())}, as_json)


@command()
@click.argument("run", type=PATH)
@click.option("--public-key", type=PATH, help="Key of the signer, from a source that you trust.")
@json_option
def verify(run: Path, public_key: Path | None, as_json: bool) -> None:
    """Hold a run's files against its signature, or its manifest; exit 1 when something changed."""
    from fairsims.report import signing

    verdict = signing.verify(run, signing.read_public_key(public_key) if public_key else None)
    if as_json:
        click.echo(json.dumps(vars(verdict) | {"intact": verdict.intact}))
    else:
        for line in signing.problems(verdict):
            click.echo(line)
        if verdict.intact:
            click.echo(f"{verdict.files} files are as they were {'signed' if verdict.signed else 'listed'}")
        click.echo(_origin(verdict.signed, verdict.trusted, verdict.key or "", verdict.problem is None))
    sys.exit(0 if verdict.intact else 1)


def _origin(signed: bool, trusted: bool, key: str, holds: bool) -> str:
    if not signed:
        return "not signed: files and manifest.json could have been changed together"
    if not holds:
        return "the signature does not hold: the files were compared with manifest.json, which it does not protect"
    if trusted:
        return f"signed by the key that you gave, {key[:16]}"
    return f"signed by {key[:16]}, a key that came with the run; give --public-key to know whose"
