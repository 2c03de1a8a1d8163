"""Audits that can be repeated: folders with a `recipe.toml`, which says what is run, and the `results.csv` it gave."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fairsims
from fairsims.errors import InputError, closest

KINDS = ("retarget", "compare", "sweep", "collapse", "prompts", "prompt-compare", "paper")
"""What a recipe's runs are; those of `paper` need files of the user's own, and `audits/paper.py` carries them out."""
RESULTS = "results.csv"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One audit."""

    folder: Path
    kind: str
    value: Mapping[str, Any]
    """What `recipe.toml` says."""

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def title(self) -> str:
        """The heading of its README."""
        path = self.folder / "README.md"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return next((line.lstrip("# ") for line in lines if line.startswith("#")), "")

    @property
    def results(self) -> Path:
        """What it gave when it was recorded, if it was."""
        return self.folder / RESULTS


def recipes_folder() -> Path:
    """Where the recipes are: inside the installed package, or beside it in a source tree.

    Raises InputError when neither has them.
    """
    package = Path(fairsims.__file__).parent
    for candidate in (package / "_audits", package.parent / "audits"):
        if candidate.is_dir():
            return candidate
    raise InputError(f"the recipes are not in {package / '_audits'}; expected folders there; reinstall fairsims")


def list_recipes() -> list[Recipe]:
    """Every recipe that fairsims brings along, by name."""
    return [read_recipe(p.parent) for p in sorted(recipes_folder().glob("*/recipe.toml"))]


def find_recipe(name: str) -> Recipe:
    """The recipe of this name, or the one in this folder. Raises InputError for neither, with the closest name."""
    known = {p.parent.name: p.parent for p in recipes_folder().glob("*/recipe.toml")}
    if name in known:
        return read_recipe(known[name])
    if (Path(name) / "recipe.toml").is_file():
        return read_recipe(Path(name))
    raise InputError(f"there is no recipe {name!r}, nor a recipe.toml in a folder of that name{closest(name, known)}")


def read_recipe(folder: Path) -> Recipe:
    """The recipe in a folder. Raises InputError when its `recipe.toml` is broken or of no known kind."""
    path = folder / "recipe.toml"
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise InputError(f"{path} is no TOML ({e}); mend it") from None
    kind = value.pop("kind", None)
    if kind not in KINDS:
        raise InputError(f"{path} has kind {kind!r}; expected one of {', '.join(KINDS)}")
    runs = value.get("runs", [])
    if kind != "paper" and not (isinstance(runs, list) and runs and all(isinstance(r, dict) for r in runs)):
        raise InputError(f"{path} lists no runs; expected one or more tables [[runs]]")
    return Recipe(folder=folder, kind=kind, value=value)
