"""What a denoiser can be made of. A network is added by its own file and its rows here; nothing else names it."""

from __future__ import annotations

from typing import Any

from torch import nn

from fairsims.models.dhariwal import DhariwalUNet
from fairsims.models.songunet import SongUNet

NETWORKS: dict[str, type[nn.Module]] = {"songunet": SongUNet, "dhariwal": DhariwalUNet}
"""Raw networks F by the name that `EDMDenoiser` knows them by; NVlabs/edm calls them as the classes are called."""
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "ddpmpp": {},
    "ncsnpp": {
        "embedding_type": "fourier",
        "encoder_type": "residual",
        "channel_mult_noise": 2,
        "resample_filter": [1, 3, 3, 1],
    },
    "adm": {"architecture": "dhariwal"},
    "edm2": {"denoiser": "EDM2Denoiser"},
}
"""What `--arch` offers, as arguments of `EDMDenoiser`: DDPM++ and NCSN++ (Song et al. 2021) and ADM (Dhariwal & Nichol
2021) as EDM has them (Karras et al. 2022, arXiv 2206.00364, appendix F). `denoiser` names another of `DENOISERS`."""
DENOISERS = {
    "EDMDenoiser": "fairsims.models.precondition",
    "EDM2Denoiser": "fairsims.models.edm2",
    "DiffusersDenoiser": "fairsims.models.diffusers_unet",
}
"""Single-network denoisers that a checkpoint may name, and the module of each (imported when one is loaded)."""
