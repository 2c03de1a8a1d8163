"""Names, shapes and sizes of the networks: what lets EDM's weights load."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fairsims.models import EDMDenoiser
from fairsims.models.dhariwal import DhariwalUNet
from fairsims.models.layers import FourierEmbedding, PositionalEmbedding
from fairsims.models.songunet import SongUNet

TINY: dict[str, Any] = {
    "img_resolution": 8,
    "in_channels": 3,
    "out_channels": 3,
    "label_dim": 5,
    "augment_dim": 9,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [8],
}


def block(
    name: str, cin: int, cout: int, *, skip: tuple[int, ...] = (), style: int = 1, heads: int = 0, resample: int = 0
) -> dict[str, tuple[int, ...]]:
    """What one UNet block of 32 embedding channels has; `resample` is the number of taps, `skip` its kernel."""
    found: dict[str, tuple[int, ...]] = {
        "norm0.weight": (cin,),
        "norm0.bias": (cin,),
        "conv0.weight": (cout, cin, 3, 3),
        "conv0.bias": (cout,),
        "affine.weight": (cout * style, 32),
        "affine.bias": (cout * style,),
        "norm1.weight": (cout,),
        "norm1.bias": (cout,),
        "conv1.weight": (cout, cout, 3, 3),
        "conv1.bias": (cout,),
    }
    if skip == (1,):
        found |= {"skip.weight": (cout, cin, 1, 1), "skip.bias": (cout,)}
    if resample:
        filters = (1, 1, resample, resample)
        found |= {"conv0.resample_filter": filters, "skip.resample_filter": filters}
    if heads:
        found |= {
            "norm2.weight": (cout,),
            "norm2.bias": (cout,),
            "qkv.weight": (3 * cout, cout, 1, 1),
            "qkv.bias": (3 * cout,),
            "proj.weight": (cout, cout, 1, 1),
            "proj.bias": (cout,),
        }
    return {f"{name}.{k}": v for k, v in found.items()}


def shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in network.state_dict().items()}


def test_ncsnpp_has_these_parameters() -> None:
    network = SongUNet(
        **TINY, embedding_type="fourier", encoder_type="residual", channel_mult_noise=2, resample_filter=[1, 3, 3, 1]
    )
    assert shapes(network) == {
        "map_noise.freqs": (8,),
        "map_label.weight": (16, 5),
        "map_label.bias": (16,),
        "map_augment.weight": (16, 9),
        "map_layer0.weight": (32, 16),
        "map_layer0.bias": (32,),
        "map_layer1.weight": (32, 32),
        "map_layer1.bias": (32,),
        "enc.8x8_conv.weight": (8, 3, 3, 3),
        "enc.8x8_conv.bias": (8,),
        **block("enc.8x8_block0", 8, 8, heads=1),
        **block("enc.4x4_down", 8, 8, skip=(1,), resample=4),
        "enc.4x4_aux_residual.weight": (8, 3, 3, 3),
        "enc.4x4_aux_residual.bias": (8,),
        "enc.4x4_aux_residual.resample_filter": (1, 1, 4, 4),
        **block("enc.4x4_block0", 8, 16, skip=(1,)),
        **block("dec.4x4_in0", 16, 16, heads=1),
        **block("dec.4x4_in1", 16, 16),
        **block("dec.4x4_block0", 32, 16, skip=(1,)),
        **block("dec.4x4_block1", 24, 16, skip=(1,)),
        **block("dec.8x8_up", 16, 16, skip=(1,), resample=4),
        **block("dec.8x8_block0", 24, 8, skip=(1,)),
        **block("dec.8x8_block1", 16, 8, skip=(1,), heads=1),
        "dec.8x8_aux_norm.weight": (8,),
        "dec.8x8_aux_norm.bias": (8,),
        "dec.8x8_aux_conv.weight": (3, 8, 3, 3),
        "dec.8x8_aux_conv.bias": (3,),
    }


def test_skip_encoder_and_decoder_add_these_parameters() -> None:
    plain, skip = SongUNet(**TINY), SongUNet(**TINY, encoder_type="skip", decoder_type="skip")
    added = {k: v for k, v in shapes(skip).items() if k not in shapes(plain)}
    assert added == {
        "enc.4x4_aux_down.resample_filter": (1, 1, 2, 2),
        "enc.4x4_aux_skip.weight": (8, 3, 1, 1),
        "enc.4x4_aux_skip.bias": (8,),
        "dec.4x4_aux_norm.weight": (16,),
        "dec.4x4_aux_norm.bias": (16,),
        "dec.4x4_aux_conv.weight": (3, 16, 3, 3),
        "dec.4x4_aux_conv.bias": (3,),
        "dec.8x8_aux_up.resample_filter": (1, 1, 2, 2),
    }
    assert {k for k in shapes(plain) if "aux" in k} == {
        f"dec.8x8_aux_{p}" for p in ("norm.weight", "norm.bias", "conv.weight", "conv.bias")
    }


def test_adm_has_these_parameters() -> None:
    # 32 and 64 channels: at 64 there is one attention head, at 32 none, whatever attn_resolutions says.
    network = DhariwalUNet(**TINY | {"model_channels": 32, "channel_mult_emb": 1, "attn_resolutions": [8, 4]})
    adm = {"style": 2}
    assert shapes(network) == {
        "map_augment.weight": (32, 9),
        "map_label.weight": (32, 5),
        "map_layer0.weight": (32, 32),
        "map_layer0.bias": (32,),
        "map_layer1.weight": (32, 32),
        "map_layer1.bias": (32,),
        "enc.8x8_conv.weight": (32, 3, 3, 3),
        "enc.8x8_conv.bias": (32,),
        **block("enc.8x8_block0", 32, 32, **adm),
        **block("enc.4x4_down", 32, 32, resample=2, **adm),
        **block("enc.4x4_block0", 32, 64, skip=(1,), heads=1, **adm),
        **block("dec.4x4_in0", 64, 64, heads=1, **adm),
        **block("dec.4x4_in1", 64, 64, **adm),
        **block("dec.4x4_block0", 128, 64, skip=(1,), heads=1, **adm),
        **block("dec.4x4_block1", 96, 64, skip=(1,), heads=1, **adm),
        **block("dec.8x8_up", 64, 64, resample=2, **adm),
        **block("dec.8x8_block0", 96, 32, skip=(1,), **adm),
        **block("dec.8x8_block1", 64, 32, skip=(1,), **adm),
        "out_norm.weight": (32,),
        "out_norm.bias": (32,),
        "out_conv.weight": (3, 32, 3, 3),
        "out_conv.bias": (3,),
    }


def test_attention_is_where_each_network_has_it() -> None:
    def attended(network: torch.nn.Module) -> list[str]:
        return [k.removesuffix(".qkv.weight") for k in network.state_dict() if k.endswith("qkv.weight")]

    options = TINY | {"model_channels": 64, "channel_mult": [1, 1, 1], "attn_resolutions": [8, 4]}
    encoder = ["enc.8x8_block0", "enc.4x4_block0", "dec.2x2_in0"]
    assert attended(SongUNet(**options)) == [*encoder, "dec.4x4_block1", "dec.8x8_block1"]
    both = [f"dec.{r}x{r}_block{i}" for r in (4, 8) for i in (0, 1)]
    assert attended(DhariwalUNet(**options)) == [*encoder, *both]


def parameters(**settings: Any) -> tuple[int, int]:
    """Parameters, and tensors of the state dict, of a network that takes no memory."""
    with torch.device("meta"):
        network = EDMDenoiser(img_channels=3, **settings)
    return sum(p.numel() for p in network.parameters()), len(network.state_dict())


NCSNPP = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}


def test_published_sizes() -> None:
    ffhq = {"img_resolution": 64, "augment_dim": 9, "channel_mult": [1, 2, 2, 2]}
    count, tensors = parameters(**ffhq)
    assert (round(count / 1e6, 1), tensors) == (61.8, 553)
    cifar = {"img_resolution": 32, "augment_dim": 9, "channel_mult": [2, 2, 2]}
    assert round(parameters(**cifar)[0] / 1e6, 1) == 55.7
    # Dhariwal & Nichol 2021, table 4: 296 M parameters for ImageNet-64.
    imagenet = {"img_resolution": 64, "label_dim": 1000, "architecture": "dhariwal"}
    assert round(parameters(**imagenet)[0] / 1e6, 1) == 295.9


def test_ncsnpp_adds_an_image_path_and_a_wider_embedding_to_ddpmpp() -> None:
    for options in (
        {"img_resolution": 64, "augment_dim": 9, "channel_mult": [1, 2, 2, 2]},
        {"img_resolution": 32, "augment_dim": 9, "channel_mult": [2, 2, 2]},
    ):
        plain, wide = parameters(**options), parameters(**options, **NCSNPP)
        mults: Any = options["channel_mult"]
        # The image path enters level i+1 with the width of level i and a 3x3 kernel from what it had before.
        widths = [3] + [128 * m for m in mults[:-1]]
        image_path = sum(a * b * 9 + b for a, b in zip(widths[:-1], widths[1:], strict=True))
        assert wide[0] - plain[0] == image_path + 128 * 512 + 128 * 9
        assert wide[1] - plain[1] == 3 * (len(mults) - 1) + 1


@pytest.mark.parametrize("architecture", ["songunet", "dhariwal"])
def test_a_new_network_starts_near_nothing(architecture: str) -> None:
    # The last layer of every branch starts (nearly) at zero, so that the network starts as its skip connections.
    torch.manual_seed(0)
    options = {k: v for k, v in TINY.items() if k not in ("in_channels", "out_channels")}
    network = EDMDenoiser(img_channels=3, architecture=architecture, **options | {"model_channels": 32}).model
    state = network.state_dict()
    last = [k for k in state if k.endswith(("conv1.weight", "proj.weight", "out_conv.weight", "aux_conv.weight"))]
    assert len(last) > 8
    assert all(float(state[k].abs().max()) < 1e-5 for k in last)
    spread = [float(v.std() * v[0].numel() ** 0.5) for k, v in state.items() if k.endswith("conv0.weight")]
    assert all(0.4 < s < 1.5 for s in spread), spread
    if architecture == "dhariwal":
        assert 0.8 < float(state["map_label.weight"].std()) < 1.2
        assert float(state["map_augment.weight"].abs().max()) == 0


@pytest.mark.parametrize("change", [{"embedding_type": "sine"}, {"encoder_type": "deep"}, {"decoder_type": "residual"}])
def test_an_unknown_type_is_named(change: dict[str, str]) -> None:
    (name,) = change
    with pytest.raises(ValueError, match=f"{name} is '{change[name]}'; expected one of"):
        SongUNet(**TINY, **change)


def test_channels_that_do_not_split_over_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="out_channels is 200; expected a multiple of the 3 attention heads"):
        DhariwalUNet(**TINY | {"model_channels": 200, "channel_mult": [1]})


def test_embeddings_of_a_known_label() -> None:
    def angles(*values: float) -> Tensor:
        found = torch.tensor(values)
        return torch.cat([found.cos(), found.sin()])

    two = torch.tensor([2.0])
    assert torch.allclose(PositionalEmbedding(4)(two)[0], angles(2, 2e-4))
    assert torch.allclose(PositionalEmbedding(4, endpoint=False)(two)[0], angles(2, 2e-2))
    fourier = FourierEmbedding(4)
    fourier.freqs.copy_(torch.tensor([0.25, 3.0]))
    assert torch.allclose(fourier(two)[0], angles(torch.pi, 12 * torch.pi), atol=1e-5)
    torch.manual_seed(0)
    assert 14 < float(FourierEmbedding(4000).freqs.std()) < 18
