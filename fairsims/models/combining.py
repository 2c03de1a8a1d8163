"""Base and auxiliary as one checkpoint folder: merged into one network, or as a guided pair."""

from __future__ import annotations

import math
from pathlib import Path

from fairsims.errors import InputError
from fairsims.files import read_json
from fairsims.models.checkpoints import (
    checkpoint_digest,
    checkpoint_recipe,
    load_network,
    save_checkpoint,
    save_guided,
)
from fairsims.models.guidance import merge
from fairsims.run import refuse_foreign


def combine(model: str, aux: Path, strength: float, out: Path, *, mode: str) -> str:
    """Write the merged network or the guided pair as a checkpoint folder; returns its digest.

    Raises InputError when `out` holds anything but the outcome of the same call.
    """
    if not math.isfinite(strength) or strength < 0:
        raise InputError(f"strength is {strength}; expected 0 or more")
    recipe = {"kind": mode, "strength": strength, "base_digest": checkpoint_digest(model)}
    recipe |= {"aux_digest": checkpoint_digest(aux), "data": checkpoint_recipe(model).get("data")}
    config = out / "config.json"
    if config.is_file() and read_json(config).get("recipe") == recipe:
        return checkpoint_digest(out)
    refuse_foreign(out)
    base, auxiliary = load_network(model), load_network(aux)
    if mode == "merged":
        save_checkpoint(out, merge(base, auxiliary, strength), recipe=recipe)
    else:
        where = str(Path(model).resolve()) if Path(model).exists() else model
        save_guided(out, where, str(aux.resolve()), strength, recipe=recipe)
    return checkpoint_digest(out)
