"""D(x; sigma): networks, preconditioning, guidance, exact mixtures and checkpoints."""

from fairsims.models.base import Denoiser, NetworkDenoiser, compile_networks
from fairsims.models.checkpoints import open_checkpoint
from fairsims.models.conditions import Conditions
from fairsims.models.edm_pickle import import_edm
from fairsims.models.folders import Checkpoint, save_checkpoint, save_guided
from fairsims.models.guidance import SIMSGuidance, merge
from fairsims.models.mixtures import GaussianMixtureDenoiser
from fairsims.models.model import DenoiserModel, Model, ModelSpec, open_model
from fairsims.models.pipeline_model import PipelineModel, open_spec
from fairsims.models.precondition import EDMDenoiser, fastest_precision
from fairsims.models.prompting import Prompting
from fairsims.models.sampling import SamplerConfig

__all__ = [
    "Checkpoint",
    "Conditions",
    "DenoiserModel",
    "Model",
    "ModelSpec",
    "compile_networks",
    "open_checkpoint",
    "open_model",
    "Denoiser",
    "EDMDenoiser",
    "GaussianMixtureDenoiser",
    "NetworkDenoiser",
    "PipelineModel",
    "Prompting",
    "SIMSGuidance",
    "SamplerConfig",
    "fastest_precision",
    "import_edm",
    "merge",
    "open_spec",
    "save_checkpoint",
    "save_guided",
]
