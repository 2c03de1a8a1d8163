"""Retarget the attribute distribution of a diffusion model with self-generated data (SIMS, arXiv 2408.16333).

What a notebook needs is here, by name; a name loads its room when it is first used, so that `import fairsims` is fast.

>>> import fairsims
>>> digits = fairsims.open_dataset("digits-skewed")
>>> parity = fairsims.load_classifier("digits-parity")
>>> (parity.label(digits).argmax(axis=1) == digits.class_indices("parity")).mean() > 0.99
np.True_
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from fairsims.audit.command import AuditConfig
    from fairsims.audit.result import AuditResult, load_audit
    from fairsims.classifiers import load_classifier
    from fairsims.data import open_dataset
    from fairsims.models.model import ModelSpec, open_model
    from fairsims.models.sampling import SamplerConfig
    from fairsims.notebook import audit_images, retarget_model
    from fairsims.pools import Pool, open_source
    from fairsims.report.html import write_report
    from fairsims.retarget.config import RetargetConfig

__all__ = [
    "AuditConfig",
    "AuditResult",
    "ModelSpec",
    "Pool",
    "RetargetConfig",
    "SamplerConfig",
    "audit_images",
    "load_audit",
    "load_classifier",
    "open_dataset",
    "open_model",
    "open_source",
    "retarget_model",
    "write_report",
]

_ROOMS = {
    "fairsims.audit.command": ("AuditConfig",),
    "fairsims.audit.result": ("AuditResult", "load_audit"),
    "fairsims.classifiers": ("load_classifier",),
    "fairsims.data": ("open_dataset",),
    "fairsims.models.model": ("ModelSpec", "open_model"),
    "fairsims.models.sampling": ("SamplerConfig",),
    "fairsims.notebook": ("audit_images", "retarget_model"),
    "fairsims.pools": ("Pool", "open_source"),
    "fairsims.report.html": ("write_report",),
    "fairsims.retarget.config": ("RetargetConfig",),
}


def __getattr__(name: str) -> object:
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(room), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
