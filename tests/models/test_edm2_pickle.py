"""EDM2 snapshots: every shape comes through, and what is none is refused in one line without being run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from edm2_snapshots import dumps2, encoder, snapshot2, tiny2, write_snapshot2
from edm_snapshots import Call, Persistent

from fairsims.cli import main
from fairsims.errors import InputError
from fairsims.files import sha256_file
from fairsims.models import import_edm, open_checkpoint
from fairsims.models.edm_pickle import read_snapshot

EDM2 = Path(__file__).parents[1] / "fixtures" / "edm2"
pytestmark = pytest.mark.usefixtures("pwned")


def test_the_recipe_says_where_a_network_came_from(tmp_path: Path) -> None:
    file = EDM2 / "uncond.pkl"
    digest = import_edm(file, tmp_path / "model").digest
    recipe = open_checkpoint(tmp_path / "model").recipe
    assert (recipe["from"], recipe["sha256"], recipe["class"]) == ("edm2", sha256_file(file), "Precond")
    assert recipe["loss"] == {"class": "EDM2Loss", "P_mean": -0.4, "P_std": 1.0}
    raw_std, raw_mean = np.array([4.17, 4.62, 3.71, 3.28]), np.array([5.81, 3.25, 0.12, -2.15])
    assert recipe["codec"]["scale"] == pytest.approx(0.5 / raw_std, rel=1e-6)
    assert recipe["codec"]["bias"] == pytest.approx(-raw_mean * 0.5 / raw_std, rel=1e-6)
    assert "CC BY-NC-SA 4.0" in recipe["licence"]
    assert import_edm(file, tmp_path / "model").digest == digest == open_checkpoint(file).digest
    assert "codec" not in read_snapshot(EDM2 / "cond.pkl").recipe


SHAPES: dict[str, dict[str, Any]] = {
    "two heads": {"label_dim": 3},
    "three levels": {"img_resolution": 16, "channel_mult": [1, 2, 3], "attn_resolutions": [8], "num_blocks": 2},
    "everything": {
        "label_dim": 2,
        "label_balance": 0.3,
        "concat_balance": 0.4,
        "res_balance": 0.2,
        "attn_balance": 0.6,
        "clip_act": None,
        "dropout": 0.2,
        "channel_mult_noise": 3,
        "channel_mult_emb": 4,
        "sigma_data": 0.7,
        "resample_filter": [1, 3, 3, 1],
    },
    "latents": {"img_channels": 4},
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_comes_through_unchanged(name: str, tmp_path: Path) -> None:
    network = tiny2(**SHAPES[name])
    write_snapshot2(tmp_path / "x.pkl", network)
    loaded = import_edm(tmp_path / "x.pkl", tmp_path / "model").network
    x, sigma = torch.randn(3, *network.shape), torch.tensor([0.03, 1.0, 70.0])
    labels = torch.eye(network.label_dim)[[0, 1, 0]] if network.label_dim else None
    assert torch.equal(loaded(x, sigma, labels), network(x, sigma, labels))
    assert loaded.config == network.config
    assert list(loaded.state_dict()) == list(network.state_dict())


def test_weights_of_float32_are_run_as_they_are(tmp_path: Path) -> None:
    """EDM2 rounds gains of float16 alone."""
    half, content = tiny2(), snapshot2(tiny2())
    todo = [content["ema"]]
    while todo:
        part = todo.pop()
        state = part.state if isinstance(part, Persistent) else part.__dict__
        todo += [child for child in state["_modules"].values() if child is not None]
        for group in ("_parameters", "_buffers"):
            state[group] = {k: None if v is None else _wide(v) for k, v in state[group].items()}
    (tmp_path / "x.pkl").write_bytes(dumps2(content))
    loaded = read_snapshot(tmp_path / "x.pkl").denoiser
    assert "half_gain" not in loaded.config
    assert loaded.config | {"half_gain": True} == half.config
    x, sigma = torch.randn(3, *half.shape), torch.tensor([0.03, 1.0, 70.0])
    assert not torch.equal(loaded(x, sigma), half(x, sigma))
    assert torch.allclose(loaded(x, sigma), half(x, sigma), atol=1e-2)


def _wide(value: torch.Tensor) -> torch.Tensor:
    wide = value.float()
    return torch.nn.Parameter(wide, requires_grad=False) if isinstance(value, torch.nn.Parameter) else wide


def test_a_missing_encoder_is_one_of_pixels(tmp_path: Path) -> None:
    for change in (lambda c: c.pop("encoder"), lambda c: c.update(encoder=None)):
        content = snapshot2(tiny2())
        change(content)
        (tmp_path / "x.pkl").write_bytes(dumps2(content))
        assert "codec" not in read_snapshot(tmp_path / "x.pkl").recipe


@pytest.mark.parametrize("file", sorted((EDM2 / "bad").glob("*.pkl")), ids=lambda p: p.stem)
def test_bad_files_end_in_one_line(file: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["import", "edm", str(file), str(tmp_path / "out")])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert file.name in result.stderr
    assert list(tmp_path.iterdir()) == []


def modules(content: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = content["ema"].state["_modules"]["unet"].state["_modules"]
    return found


def block(**state: Any) -> Callable[[dict[str, Any]], None]:
    return lambda c: modules(c)["enc"]._modules["8x8_block0"].state.update(state)


def argument(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda c: c["ema"].state["_init_kwargs"].update(values)


SHELL = 'touch "$FAIRSIMS_PWNED"'
REFUSED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a call": (block(note=Call("os.system", SHELL)), "names (os|posix).system"),
    "a call for an encoder": (lambda c: c.update(encoder=Call("os.system", SHELL)), "names (os|posix).system"),
    "encoder": (lambda c: c.update(encoder=Persistent("FluxEncoder", {})), "encoder is FluxEncoder; expected Standard"),
    "scale": (lambda c: c.update(encoder=encoder(scale=(1, 2))), "encoder has the scale .*expected 1 finite"),
    "zero": (lambda c: c.update(encoder=encoder(scale=(0.0,))), "scale .*none 0"),
    "bias": (lambda c: c.update(encoder=encoder((1.0,), (np.nan,))), "bias .*finite"),
    "two dimensions": (lambda c: c.update(encoder=encoder(np.ones((2, 2)))), "damaged or no pickle"),
    "array": (lambda c: c.update(encoder=encoder(np.ones(5000))), "has 5000 numbers"),
    "objects": (lambda c: c.update(encoder=Persistent("x", {"a": np.array([{}])})), "numpy number of type O8"),
    "network": (lambda c: setattr(c["ema"].state["_modules"]["unet"], "class_name", "DiT"), "its network is DiT"),
    "no network": (lambda c: c["ema"].state["_modules"].pop("unet"), "network is missing"),
    "unknown argument": (argument(depth=3, half_gain=True), "unknown argument depth, half_gain"),
    "edm's": (argument(augment_dim=9), "unknown argument augment_dim"),
    "no labels": (lambda c: c["ema"].state["_init_kwargs"].pop("label_dim"), "without label_dim"),
    "huge": (argument(num_blocks=10**9), "num_blocks is 1000000000"),
    "attention": (argument(img_resolution=512), "attention at 256x256"),
    "width": (argument(model_channels=16), "do not fit its constructor arguments"),
    "taps": (argument(resample_filter=[1, -1]), "describe no network"),
    "balance": (block(res_balance=0.9), "enc.8x8_block0 has res_balance 0.9; expected 0.3"),
    "heads": (block(num_heads=4), "num_heads 4; expected 0"),
    "clip": (argument(clip_act=1.0), "has clip_act 256; expected 1.0"),
    "resolution": (lambda c: c["ema"].state.update(img_resolution=16), "img_resolution 8 and now has 16"),
    "not finite": (
        lambda c: modules(c)["out_conv"].state["_parameters"].update(weight=torch.full((1, 8, 3, 3), torch.inf)),
        "not finite",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_named(case: str, tmp_path: Path) -> None:
    change, expected = REFUSED[case]
    content = snapshot2(tiny2())
    change(content)
    (tmp_path / "x.pkl").write_bytes(dumps2(content))
    with pytest.raises(InputError) as caught:
        read_snapshot(tmp_path / "x.pkl")
    message = str(caught.value)
    assert re.search(expected, message), message
    assert "\n" not in message
