"""Whole commands as functions, for notebooks and programs: the same files, in one call with keyword arguments.

They are named for what they do to what, since `fairsims.retarget` and `fairsims.audit` are the rooms.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fairsims.audit.command import AuditConfig, run_audit
from fairsims.audit.result import AuditResult
from fairsims.models.precondition import resolve_precision
from fairsims.report.publish import publish
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.opening import prepare
from fairsims.retarget.retarget import retarget
from fairsims.run import Progress, silent


def retarget_model(out: str | Path, *, progress: Progress = silent, **settings: Any) -> AuditResult:
    """Retarget a model to a mix of classes, with audit and report: what `fairsims retarget --out OUT` does.

    `settings` are the fields of `RetargetConfig`; `precision` is "auto" by default, as on the command line. The result
    holds the measured shares before and after, as fractions of 1, and the strength of the negative guidance (SIMS,
    Alemohammad et al. 2024, arXiv 2408.16333) that was calibrated. `progress` is told (stage, done, of how much).
    Called again with the same settings it resumes, or reads what is finished. Raises ValueError for a setting that is
    not possible, InputError when what is named cannot be opened, InfeasibleTarget when no strength leads to the
    target, ChangedSettings when `out` holds another run.

    >>> import fairsims
    >>> tiny = {"pool": 200, "calibration": 100, "audit": 50, "steps": 4, "solver": "dpmpp2m", "rounds": 1}
    >>> tiny |= {"budget": 0.048, "batch_size": 24}
    >>> result = fairsims.retarget_model("run", model="digits-8", attr="parity", target="0.5", **tiny)
    >>> result.main.classes, result.main.target
    (('even', 'odd'), {'even': 0.5, 'odd': 0.5})
    >>> result.strength > 0, Path("run/report.html").exists()
    (True, True)
    """
    config = RetargetConfig(**{**settings, "precision": resolve_precision(settings.get("precision", "auto"))})
    command = _said("retarget_model", settings)
    return retarget(prepare(config), Path(out), progress=progress, publish=publish, command=command)


def audit_images(out: str | Path | None = None, *, progress: Progress = silent, **settings: Any) -> AuditResult:
    """Measure shares of attributes in images, with intervals, and their quality: what `fairsims audit` does.

    `settings` are the fields of `AuditConfig`; an attribute may be given as text alone. Shares are fractions of 1,
    corrected for the classifier's measured errors (Rogan and Gladen 1978). With `out` tables, figures and report are
    written there, and before anything is measured what will be. Raises ValueError for a setting that is not possible,
    InputError when what is named cannot be opened or `out` holds other things.

    >>> import fairsims
    >>> result = fairsims.audit_images(before="digits-skewed", attr="parity")
    >>> {name: round(share.share, 2) for name, share in result.main.before.items()}
    {'even': 0.75, 'odd': 0.25}
    """
    listed: dict[str, Any] = {k: (v,) if isinstance(v, str) and k in SEVERAL else v for k, v in settings.items()}
    folder = None if out is None else Path(out)
    command = _said("audit_images", settings)
    return run_audit(AuditConfig(**listed), folder, publish=publish, progress=progress, command=command)


SEVERAL = ("attr", "target", "hold", "classifier", "labels", "features")
"""Settings of an audit that are lists."""


def _said(name: str, settings: dict[str, Any]) -> str:
    """The call as its record has it."""
    return f"fairsims.{name}({', '.join(f'{k}={v!r}' for k, v in settings.items())})"
