"""D(x; sigma): networks, preconditioning, guidance, exact mixtures and checkpoints."""

from fairsims.denoisers.base import Denoiser, NetworkDenoiser
from fairsims.denoisers.checkpoints import (
    checkpoint_digest,
    checkpoint_recipe,
    load_checkpoint,
    load_network,
    save_checkpoint,
    save_guided,
)
from fairsims.denoisers.edm_pickle import import_edm
from fairsims.denoisers.guidance import SIMSGuidance, merge
from fairsims.denoisers.mixtures import GaussianMixtureDenoiser
from fairsims.denoisers.precondition import EDMDenoiser, fastest_precision

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
