"""Images of latents: an `AutoencoderKL` of diffusers in a local folder, with the scales of the model's training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairsims.errors import InputError
from fairsims.files import read_json, sha256_file, sha256_json
from fairsims.models.diffusers_unet import library

WEIGHTS = "diffusion_pytorch_model.safetensors"
PIXELS = 2**20
"""Most pixels that are decoded at once: four images of 512x512, some 5 GB of memory."""


class Codec:
    """Latents in a model's units to images, `(x - bias) / scale` into the decoder and its output from 0 to 1.

    So does EDM2's `StabilityVAEEncoder` (no other scaling factor, pixels not in [-1, 1]). `facts` are a recipe's
    `codec`: scale and bias of each channel. Raises InputError for a folder that is no such VAE, or that does not fit.
    """

    def __init__(self, folder: str | Path, facts: Mapping[str, Any] | None, device: torch.device) -> None:
        """Without `facts` latents are in the VAE's own units."""
        folder = Path(folder)
        config, weights = folder / "config.json", folder / WEIGHTS
        if not config.is_file() or not weights.is_file():
            raise InputError(
                f"{folder} has no {config.name if not config.is_file() else WEIGHTS}; expected a local folder of a "
                "diffusers AutoencoderKL"
            )
        if (name := read_json(config).get("_class_name")) != "AutoencoderKL":
            raise InputError(f"{folder} holds a {name}; expected an AutoencoderKL of diffusers")
        try:
            self.vae = library().AutoencoderKL.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, RuntimeError, TypeError, KeyError) as e:
            raise InputError(
                f"{folder} cannot be opened ({(str(e).splitlines() or [''])[0][:160]}); restore it"
            ) from None
        self.vae.eval().requires_grad_(False).to(device)
        channels = int(self.vae.config.latent_channels)
        facts = facts or {"scale": [1.0] * channels, "bias": [0.0] * channels}
        self.scale, self.bias = (torch.tensor(facts[k], dtype=torch.float32) for k in ("scale", "bias"))
        if channels != len(self.scale):
            raise InputError(f"{folder} has latents of {channels} channels, the model of {len(self.scale)}")
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        digests = [sha256_file(config), sha256_file(weights)]
        self.digest = sha256_json([*digests, facts["scale"], facts["bias"]])
        self.weights_digest = sha256_json(digests)

    def image_shape(self, latent: Sequence[int]) -> tuple[int, int, int]:
        """(C, H, W) of the image of a latent of that shape."""
        _, height, width = latent
        return int(self.vae.config.out_channels), height * self.factor, width * self.factor

    def encoded_shape(self, image: Sequence[int]) -> tuple[int, int, int]:
        """Shape of what `encode` gives of an image of that shape. Raises InputError where there is nothing of it."""
        channels, height, width = image
        if channels != int(self.vae.config.in_channels) or height % self.factor or width % self.factor:
            raise InputError(
                f"the VAE takes images of {self.vae.config.in_channels} channels and sides of whole multiples of "
                f"{self.factor}, these are {'x'.join(map(str, image))}; give others, or --resolution"
            )
        return 2 * len(self.scale), height // self.factor, width // self.factor

    def encode(self, images: Tensor) -> Tensor:
        """Mean and standard deviation of the latents of uint8 images, `(B, 2C, h, w)` float32 in the VAE's own units.

        Raises InputError where the encoder gives numbers that are not finite.
        """
        size, found = max(1, PIXELS // (images.shape[2] * images.shape[3])), []
        device = next(self.vae.parameters()).device
        for start in range(0, len(images), size):
            with torch.inference_mode():
                seen = self.vae.encode(images[start : start + size].to(device).float() / 255).latent_dist
            found.append(torch.cat([seen.mean, seen.std], dim=1).float().cpu())
        rows = torch.cat(found)
        if not bool(rows.isfinite().all()):
            raise InputError("encoding images gave numbers that are not finite; give another VAE")
        return rows

    def decode(self, latents: Tensor, seeds: Sequence[int]) -> Tensor:
        """Images `(B, C, H, W)` uint8 on the CPU, as many at once as fit; `seeds` are named when something goes wrong.

        Raises InputError where the decoder gives numbers that are not finite.
        """
        _, height, width = self.image_shape(latents.shape[1:])
        size, found = max(1, PIXELS // (height * width)), []
        device = next(self.vae.parameters()).device
        for start in range(0, len(latents), size):
            x = latents[start : start + size].float().to(device)
            scale, bias = (v.to(device)[:, None, None] for v in (self.scale, self.bias))
            with torch.inference_mode():
                pixels = self.vae.decode((x - bias) / scale).sample
            refuse_infinite(pixels, seeds[start : start + size], "decoding")
            found.append((pixels.clamp(0, 1) * 255).to(torch.uint8).cpu())
        return torch.cat(found)


def refuse_infinite(values: Tensor, seeds: Sequence[int], stage: str) -> None:
    """Raises InputError naming the first seed whose row has a number that is not finite, and the stage."""
    bad = ~values.isfinite().flatten(1).all(dim=1)
    if bad.any():
        seed = seeds[int(bad.nonzero()[0, 0])]
        raise InputError(
            f"{stage} the image of seed {seed} gave numbers that are not finite; try --precision float32 or another "
            "checkpoint"
        )
