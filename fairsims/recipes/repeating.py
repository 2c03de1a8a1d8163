"""Carrying out the runs of a recipe, resumed where they stopped, and tabulating what they reached."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fairsims import jobs
from fairsims.collapse.config import CollapseConfig
from fairsims.collapse.loops import run_loops
from fairsims.errors import ChangedSettings, InputError
from fairsims.recipes.recipe import Recipe
from fairsims.report.collapse_figures import collapse_figures
from fairsims.report.collapse_report import write_collapse_report
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.pipeline import prepare
from fairsims.runs import PLAN, atomic, read_json

Report = Callable[[str, int, int], None]
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a recipe."""

    folder: Path
    config: RetargetConfig | CollapseConfig
    threshold: bool = False
    """Whether a loop looks for thresholds."""
    arms: bool = False
    """Whether ways to the target are compared, instead of one taken."""


def runs_of(recipe: Recipe, root: Path) -> list[Run]:
    """The runs of a recipe in order, each in its folder below `root`. Raises InputError for settings that none has."""
    make = {"retarget": _retargeting, "compare": _comparison, "collapse": _loop}.get(recipe.kind)
    if make is None:
        raise InputError(
            f"{recipe.name} needs files of your own (model, reference, classifier); "
            f"carry it out with: python {recipe.folder.parent / 'paper.py'} {recipe.name}"
        )
    try:
        return [make(recipe.value, options, root / recipe.name) for options in recipe.value["runs"]]
    except (KeyError, TypeError) as e:
        raise InputError(f"{recipe.folder / 'recipe.toml'} has settings that no run has ({e}); mend it") from None


def _retargeting(recipe: Mapping[str, Any], options: Mapping[str, Any], root: Path) -> Run:
    settings = {"precision": jobs.resolve_precision("auto")} | recipe.get("defaults", {})
    settings |= recipe.get(options.get("mode", "merged"), {}) | options
    settings |= {k: tuple(settings[k]) for k in ("pilots", "interval") if k in settings}
    config = RetargetConfig(**settings)
    inside = f"-{config.interval[0]:g}-{config.interval[1]:g}" if config.interval else ""
    return Run(folder=root / f"{config.mode}{inside}-{config.label}-seed{config.seed}", config=config)


def _comparison(recipe: Mapping[str, Any], options: Mapping[str, Any], root: Path) -> Run:
    config = _retargeting(recipe, dict(options) | {"mode": "guided"}, root).config
    assert isinstance(config, RetargetConfig)
    return Run(folder=root / f"{config.label}-seed{config.seed}", config=config, arms=True)


def _loop(recipe: Mapping[str, Any], options: Mapping[str, Any], root: Path) -> Run:
    settings = recipe.get("defaults", {}) | options
    label, threshold = settings.pop("name"), settings.pop("threshold", False)
    settings |= {k: tuple(settings[k]) for k in ("levels", "methods") if k in settings}
    return Run(folder=root / label, config=CollapseConfig.of(settings.pop("setting"), **settings), threshold=threshold)


def carry_out(run: Run, earlier: Sequence[Run], *, report: Report, command: str) -> None:
    """Make one run, or go on with it; `earlier` ones, the nearest first, have what they have made already copied."""
    if isinstance(run.config, CollapseConfig):
        run_loops(run.config, run.folder, threshold=run.threshold, report=report, command=command)
        collapse_figures(run.folder)
        write_collapse_report(run.folder)
        return
    if run.arms:
        jobs.run_compare(prepare(run.config), run.folder, report=report, command=command)
        return
    for other in earlier:
        if isinstance(other.config, RetargetConfig) and other.config.seed == run.config.seed:
            _take_over(run.folder, run.config, other.folder, other.config)
    job = prepare(run.config)
    try:
        jobs.run_retarget(job, run.folder, report=report, command=command)
    except ChangedSettings as e:
        if str(run.folder / "auxiliary") not in str(e):
            raise
        # The copied auxiliary was trained on another complement: the plan must not say that it was taken over.
        shutil.rmtree(run.folder / "auxiliary")
        for name in (PLAN, "complement.parquet"):
            (run.folder / name).unlink(missing_ok=True)
        jobs.run_retarget(job, run.folder, report=report, command=command)


def _take_over(folder: Path, config: RetargetConfig, other: Path, made: RetargetConfig) -> None:
    """Runs of one seed share their base pool and, trained alike, their auxiliary."""
    parts = [p for p, n in (("pool", "pool"), ("before", "audit")) if getattr(made, n) == getattr(config, n)]
    if (made.budget, made.lr, made.batch_size) == (config.budget, config.lr, config.batch_size):
        parts.append("auxiliary")
    for part in parts:
        if not (folder / part).exists() and (other / part).exists():
            shutil.copytree(other / part, folder / part)


def table_of(runs: Sequence[Run]) -> pd.DataFrame:
    """A row or more for every finished run."""
    rows: list[Row] = []
    for run in runs:
        if isinstance(run.config, CollapseConfig):
            path = run.folder / "collapse.json"
            rows += _loop_rows(run.folder.name, read_json(path)) if path.exists() else []
        elif run.arms:
            path = run.folder / "compare.json"
            rows += _arm_rows(run.config, read_json(path)) if path.exists() else []
        elif (run.folder / "status.json").exists() and (run.folder / "audit" / "audit.json").exists():
            rows.append(_retargeting_row(run.config, read_json(run.folder / "audit" / "audit.json")))
    return pd.DataFrame(rows)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a `results.csv`."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f")


def _retargeting_row(config: RetargetConfig, result: Mapping[str, Any]) -> Row:
    section = result["attributes"][config.attrs[0]]
    focus = section["focus"]
    before, after, q = section["before"][focus], section["after"][focus], result["quality"]
    concept = section["by_split"].get("concept", section["by_split"][section["split"]])
    seconds = {s["stage"]: s["seconds"] for s in result["cost"]["stages"]}
    wrong = [abs(section["after"][c]["share"] - t) for c, t in section["target"].items()]
    return {
        "mode": config.mode, "interval": config.interval, "target": section["target"][focus], "seed": config.seed,
        "before": before["share"], "after": after["share"], "low": after["low"], "high": after["high"],
        "raw": after["raw"], "concept": concept["after"][focus]["share"], "worst_error": max(wrong),
        "strength": result["method"]["strength"], "images_per_kept": result["cost"]["after"]["images_per_kept"],
        **{
            f"{name}_{when}": q[when][name]
            for name in ("fd_target", "fd_reference", "precision", "recall", "nearest_median")
            for when in ("before", "after") if name in q[when]
        },
        "evaluations": result["cost"]["after"]["evaluations_per_image"],
        "seconds": sum(seconds.values()), **{f"seconds_{k}": v for k, v in seconds.items()},
        "peak_memory_gb": result["cost"]["peak_memory_gb"],
    } | (_several(config, result) if len(config.names) > 1 else {})  # fmt: skip


def _arm_rows(config: RetargetConfig, result: Mapping[str, Any]) -> list[Row]:
    """A row for each way to the target: where the class that ends up furthest off lies, quality, cost."""
    found = []
    for arm in result["arms"]:
        worst = arm["worst"]
        row = {"arm": arm["arm"], "target": result["target"][worst], "seed": config.seed, "worst": worst}
        row |= {"after": arm[f"share.{worst}"], "low": arm[f"low.{worst}"], "high": arm[f"high.{worst}"]}
        found.append(row | {k: arm[k] for k in _ARM if k in arm})
    return found


_ARM = (
    "fd_target", "fd_reference", "precision", "recall", "steps", "evaluations_per_image", "images_per_kept",
    "evaluations_per_kept", "training_kimg", "strength",
)  # fmt: skip


def _several(config: RetargetConfig, result: Mapping[str, Any]) -> Row:
    """How far each attribute's worst share is from its target, or has drifted, and every share after."""
    found: Row = {"attributes": config.label, "rounds": len(result["rounds"])}
    for name, section in result["attributes"].items():
        after = {c: section["after"][c]["share"] for c in section["classes"]}
        if "target" in section:
            found[f"{name}_worst"] = max(abs(after[c] - t) for c, t in section["target"].items())
            found[f"{name}_reached"] = section["reached"]
        else:
            found[f"{name}_drift"], found[f"{name}_held"] = section["drift"]["largest"], section["drift"]["held"]
        found |= {f"{name}.{c}": share for c, share in after.items()}
    return found


def _loop_rows(label: str, result: Mapping[str, Any]) -> list[Row]:
    """A row per loop, and thresholds where they were looked for."""
    found = []
    for cell in result["cells"]:
        change = cell["change"]
        row = {"run": label, "method": cell["method"], "level": cell["level"], "share": cell["share"]}
        row |= {"measure": result["headline"], "first": change["first"]["mean"], "last": change["last"]["mean"]}
        found.append(row | {f"difference_{k}": v for k, v in change["difference"].items()})
    for threshold in (result["threshold"] or {"found": []})["found"]:
        row = {"run": label, "method": threshold["method"], "measure": f"threshold against {threshold['against']}"}
        found.append(row | {f"threshold_{k}": threshold[k] for k in ("share", "low", "high")})
    return found
