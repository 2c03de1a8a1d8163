"""D(x; sigma): networks, preconditioning, guidance, exact mixtures and checkpoints."""

from fairsims.models.base import Denoiser, NetworkDenoiser
from fairsims.models.checkpoints import (
    checkpoint_digest,
    checkpoint_recipe,
    load_checkpoint,
    load_network,
    save_checkpoint,
    save_guided,
)
from fairsims.models.edm_pickle import import_edm
from fairsims.models.guidance import SIMSGuidance, merge
from fairsims.models.mixtures import GaussianMixtureDenoiser
from fairsims.models.precondition import EDMDenoiser, fastest_precision

__all__ = [
    "Denoiser",
    "EDMDenoiser",
    "GaussianMixtureDenoiser",
    "NetworkDenoiser",
    "SIMSGuidance",
    "checkpoint_digest",
    "checkpoint_recipe",
    "fastest_precision",
    "import_edm",
    "load_checkpoint",
    "load_network",
    "merge",
    "save_checkpoint",
    "save_guided",
]
