"""EDM2's network against NVlabs' own answers, and against a plain implementation in numpy for other shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edm2_reference import DEFAULTS, denoised, logvar, shapes, unet
from edm2_snapshots import TINY, dumps2, of_weights, tiny2
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fairsims.errors import InputError
from fairsims.models import SIMSGuidance
from fairsims.models.edm2 import EDM2Denoiser, EDM2UNet, MPConv, normalize
from fairsims.models.edm_pickle import read_snapshot
from fairsims.models.objective import Batch
from fairsims.models.sampling import SamplerConfig, solve

EDM2 = Path(__file__).parents[1] / "fixtures" / "edm2"
NAMES = ("uncond", "cond", "cond-guide")


def stored(name: str) -> dict[str, Tensor]:
    with np.load(EDM2 / f"{name}.npz") as found:
        return {k: torch.from_numpy(v) for k, v in found.items()}


def opened(name: str, kind: str) -> EDM2Denoiser:
    """As EDM2 runs a file ("half"), with its weights widened first ("wide"), or in float64."""
    network = read_snapshot(EDM2 / f"{name}.pkl").denoiser
    assert isinstance(network, EDM2Denoiser)
    if kind == "wide":
        for part in network.modules():
            if isinstance(part, MPConv):
                part.half_gain = False
    return network.double() if kind == "64" else network


# --- NVlabs' answers.

KINDS = {"half": ("32", "", 2e-5), "wide": ("32_wide", "_wide", 2e-5), "64": ("64", "64", 1e-10)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_denoisers_equal_edm2s(name: str, kind: str) -> None:
    suffix, _, limit = KINDS[kind]
    found, network = stored(name), opened(name, kind)
    x, sigma = found["x"], found["sigma"]
    x, sigma = (x.double(), sigma.double()) if kind == "64" else (x, sigma)
    labels = found.get("labels")
    assert (network(x, sigma, labels) - found[f"y{suffix}"]).abs().max() < limit
    total = (sigma**2 + 0.25).sqrt().reshape(-1, 1, 1, 1)
    assert (network.unet(x / total, sigma.log() / 4, labels) - found[f"f{suffix}"]).abs().max() < limit
    if kind != "wide":
        assert (network.logvar(sigma) - found[f"logvar{suffix}"]).abs().max() < limit
    if labels is not None:
        assert (network(x, sigma) - found[f"y{suffix}_nolabel"]).abs().max() < limit


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["uncond", "cond", "guided"])
def test_samplers_give_edm2s_images(name: str, kind: str) -> None:
    found = stored("cond" if name == "guided" else name)
    network: Any = opened("cond" if name == "guided" else name, kind)
    if name == "guided":
        network = SIMSGuidance(network, opened("cond-guide", kind), 1.0)  # their g of 2
    latents = found["latents"].double() if kind == "64" else found["latents"]
    images = solve(network, latents, SamplerConfig(solver="heun", steps=6), labels=found.get("sample_labels"))
    expected = found[("images_guided" if name == "guided" else "images") + KINDS[kind][1]]
    assert (images - expected).abs().max() < (1e-10 if kind == "64" else 1e-4)


# --- Other shapes.

SHAPES: dict[str, dict[str, Any]] = {
    "two heads": {"channel_mult": [1, 2], "channels_per_head": 8, "label_dim": 3},
    "three levels": {"img_resolution": 16, "channel_mult": [1, 2, 3], "attn_resolutions": [8, 4], "num_blocks": 2},
    "balances": {
        "label_dim": 2,
        "label_balance": 0.3,
        "concat_balance": 0.4,
        "res_balance": 0.2,
        "attn_balance": 0.6,
        "clip_act": 0.5,
    },
    "widths": {"channel_mult": [2, 1], "channel_mult_noise": 3, "channel_mult_emb": 4, "clip_act": None},
    "filter": {"resample_filter": [1, 3, 3, 1], "attn_resolutions": [], "channels_per_head": 100},
    "one level": {"channel_mult": [1], "img_resolution": 4, "img_channels": 4},
}


@pytest.mark.parametrize("name", SHAPES)
def test_other_shapes_agree_with_the_plain_implementation(name: str) -> None:
    sizes = TINY | SHAPES[name]
    network = tiny2(**sizes).double()
    rng = np.random.default_rng(0)
    x, c = rng.normal(size=(3, *network.shape)), rng.normal(size=3)
    labels = np.eye(sizes["label_dim"])[[0, 1, 0]] if sizes["label_dim"] else None
    found = network.unet(*(None if v is None else torch.from_numpy(v) for v in (x, c, labels))).numpy()
    weights = {k: v.numpy() for k, v in network.unet.state_dict().items()}
    expected = unet(weights, DEFAULTS | sizes, x, c, labels)
    assert found.std() > 0.01
    assert np.abs(found - expected).max() < 1e-12 * max(1, np.abs(expected).max())


@st.composite
def sizes_of_a_network(draw: st.DrawFn) -> dict[str, Any]:
    """What a snapshot may say that it was constructed with; what it leaves out is EDM2's default."""
    levels = draw(st.integers(1, 5))
    sides = [draw(st.sampled_from([1, 2, 3])) << level for level in reversed(range(levels))]
    side = sides[0] if levels > 2 else 2 * sides[0]
    some = st.sampled_from([0.1, 0.3, 0.5, 0.8])
    wanted = {
        "model_channels": st.sampled_from([4, 8]),
        "img_channels": st.integers(1, 4),
        "label_dim": st.sampled_from([0, 2, 5]),
        "channel_mult": st.lists(st.integers(1, 3), min_size=levels, max_size=levels),
    }
    left_out = {
        "channel_mult_noise": st.sampled_from([None, 1, 3]),
        "channel_mult_emb": st.sampled_from([None, 1, 3]),
        "num_blocks": st.integers(1, 4),
        "attn_resolutions": st.lists(st.sampled_from([side >> level for level in range(levels)]), unique=True),
        "channels_per_head": st.sampled_from([2, 4, 8, 32]),
        "resample_filter": st.sampled_from([[1, 1], [1, 3, 3, 1]]),
        "clip_act": st.sampled_from([None, 0.5, 256]),
        "sigma_data": st.sampled_from([0.5, 1.0]),
        "logvar_channels": st.sampled_from([4, 128]),
        **dict.fromkeys(("res_balance", "attn_balance", "label_balance", "concat_balance"), some),
    }
    return {"img_resolution": side} | draw(st.fixed_dictionaries(wanted, optional=left_out))


ATTENTIVE = {"img_resolution": 16, "attn_resolutions": [16, 4], "channels_per_head": 4, "num_blocks": 4}
WIDE_HEADS = {"img_resolution": 8, "channel_mult": [4, 8, 4], "channels_per_head": 32, "num_blocks": 1}


@settings(max_examples=4, deadline=None)
@given(given_sizes=sizes_of_a_network())
@example(given_sizes=ATTENTIVE | {"model_channels": 4, "channel_mult": [1, 2, 3], "img_channels": 3, "label_dim": 0})
@example(given_sizes=WIDE_HEADS | {"model_channels": 8, "img_channels": 4, "label_dim": 3})
@example(given_sizes={"model_channels": 4, "img_resolution": 16, "img_channels": 3, "label_dim": 5})
def test_snapshots_of_any_shape_agree_with_the_published_description(
    tmp_path_factory: pytest.TempPathFactory, given_sizes: dict[str, Any]
) -> None:
    """Names, shapes and arithmetic that owe nothing to our modules: a file of weights, and what they give."""
    sizes, rng = DEFAULTS | given_sizes, np.random.default_rng(0)
    weights = {k: rng.normal(size=shape).astype(np.float16) for k, shape in shapes(sizes).items()}
    file = tmp_path_factory.mktemp("shapes") / "x.pkl"
    file.write_bytes(dumps2(of_weights(given_sizes, weights)))
    network = read_snapshot(file).denoiser.double()
    assert isinstance(network, EDM2Denoiser)
    assert {k: tuple(v.shape) for k, v in network.state_dict().items()} == shapes(sizes)
    x = rng.normal(size=(2, sizes["img_channels"], sizes["img_resolution"], sizes["img_resolution"]))
    sigma, labels = np.array([0.1, 5.0]), np.eye(sizes["label_dim"])[[1, 0]] if sizes["label_dim"] else None
    found = network(*(None if v is None else torch.from_numpy(v) for v in (x, sigma, labels))).numpy()
    wide = {k: v.astype(np.float64) for k, v in weights.items()}
    expected = denoised(wide, sizes, x, sigma, labels)
    assert np.abs(found - expected).max() < 1e-11 * max(1, np.abs(expected).max())
    assert np.abs(network.logvar(torch.from_numpy(sigma)).numpy().ravel() - logvar(wide, sigma)).max() < 1e-11


def test_every_parameter_has_an_effect() -> None:
    network = tiny2(label_dim=3, half_gain=False).requires_grad_(True)
    x, sigma = torch.randn(4, 1, 8, 8), torch.tensor([0.05, 0.4, 2.0, 20.0])
    batch = Batch(images=x, sigma=sigma, noise=torch.randn_like(x), labels=torch.eye(3)[[0, 1, 2, 0]])
    network.loss(batch).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_stays_near_float32(precision: str) -> None:
    found, network = stored("cond"), opened("cond", "half")
    x, sigma, labels = found["x"], found["sigma"], found["labels"]
    expected = network(x, sigma, labels)
    network.precision = precision
    half = network(x, sigma, labels)
    assert half.dtype == torch.float32
    assert 0 < (half - expected).abs().max() < 0.02 * expected.abs().max()


# --- What the paper promises.


def test_magnitudes_are_kept() -> None:
    torch.manual_seed(0)
    network = EDM2UNet(img_resolution=16, img_channels=3, model_channels=64, channel_mult=[1, 2], num_blocks=1)
    network.eval().requires_grad_(False)
    x = torch.randn(8, 64, 16, 16)
    for name, part in network.enc.items():
        if "_block0" in name and "16x16" in name:
            found = part(x, torch.randn(8, 128))
            assert 0.8 < float(found.std()) < 1.2
    assert float(network(torch.randn(2, 3, 16, 16), torch.zeros(2)).abs().max()) == 0  # its gains start at 0


def test_training_forces_unit_weights_and_sampling_leaves_them() -> None:
    torch.manual_seed(0)
    conv = MPConv(4, 8, (3, 3))
    with torch.no_grad():
        conv.weight.mul_(3)
    x = torch.randn(2, 4, 8, 8)
    before = conv.weight.clone()
    sampled = conv.eval()(x)
    assert torch.equal(conv.weight, before)
    trained = conv.train()(x)
    assert torch.allclose(conv.weight, normalize(before, (1, 2, 3)))
    # The small constant counts twice in training.
    assert torch.allclose(trained, sampled, rtol=1e-3, atol=1e-4)
    assert float(conv.weight.detach()[0].square().mean().sqrt()) == pytest.approx(1, abs=2e-4)


def test_the_uncertainty_lowers_the_loss_at_its_best() -> None:
    network, x = tiny2(), torch.randn(16, 1, 8, 8)
    batch = Batch(images=x, sigma=torch.full((16,), 0.5), noise=torch.randn_like(x))
    with torch.no_grad():
        s = batch.sigma.reshape(-1, 1, 1, 1)
        error = network.loss_weight(s) * (network(x + s * batch.noise, batch.sigma) - x) ** 2
        u = network.logvar(batch.sigma)
        assert float(network.loss(batch)) == pytest.approx(float((error / u.exp() + u).mean()), rel=1e-5)


def test_sizes_that_make_no_network_are_named() -> None:
    for changes, message in (
        ({"img_resolution": 9}, "img_resolution is 9 with 2 levels"),
        ({"resample_filter": [1, 2, 1]}, "expected an even number of taps"),
        ({"channel_mult": []}, "0 levels"),
    ):
        with pytest.raises(ValueError, match=message):
            EDM2Denoiser(**TINY | changes)
    with pytest.raises(InputError, match="images of shape"):
        SIMSGuidance(tiny2(), tiny2(img_channels=3), 1.0)
