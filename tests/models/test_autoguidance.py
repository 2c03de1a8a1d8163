"""Guidance by another network, and classes at random: EDM2's own images by `generate`, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import MakeNetwork, refused, succeeds

from fairsims.data import to_uint8
from fairsims.errors import InputError
from fairsims.models import DenoiserModel, ModelSpec, SIMSGuidance, open_model, save_checkpoint
from fairsims.models.autoguidance import AutoGuidance
from fairsims.models.conditions import Conditions
from fairsims.models.sampling import SamplerConfig, solve
from fairsims.pools import Pool, pool_dataset
from fairsims.seeds import class_for, noise_for
from fairsims.training.batches import class_labels

EDM2 = Path(__file__).parents[1] / "fixtures" / "edm2"
SAMPLER = SamplerConfig(steps=3, solver="heun")


def images(model: DenoiserModel, seeds: list[int]) -> torch.Tensor:
    return torch.cat(list(model.images([seeds])))


@pytest.fixture
def folders(tmp_path: Path, make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Checkpoints of a base, an auxiliary, and a narrower guide."""
    monkeypatch.setenv("FAIRSIMS_CACHE", str(tmp_path / "cache"))
    for seed, (name, changes) in enumerate({"base": {}, "aux": {}, "guide": {"model_channels": 4}}.items()):
        save_checkpoint(tmp_path / name, make_network(seed, **changes))
    return {name: str(tmp_path / name) for name in ("base", "aux", "guide")}


def test_guidance_moves_away_from_the_guide(make_network: MakeNetwork) -> None:
    main, guide, x = make_network(0), make_network(1), torch.randn(5, 1, 8, 8)
    sigma = torch.tensor([0.01, 0.3, 1.0, 5.0, 60.0])
    d, e = main(x, sigma), guide(x, sigma)
    assert torch.allclose(AutoGuidance(main, guide, 2.5)(x, sigma), e + 2.5 * (d - e))
    assert torch.allclose(AutoGuidance(main, guide, 2.0)(x, sigma), SIMSGuidance(main, guide, 1.0)(x, sigma), atol=1e-5)
    assert torch.equal(AutoGuidance(main, guide, 1.0)(x, sigma), d)
    inside = AutoGuidance(main, guide, 2.5, interval=(0.5, 10.0))
    assert torch.equal(inside(x, sigma[1]), main(x, sigma[1]))
    assert not torch.equal(inside(x, sigma[2]), main(x, sigma[2]))
    assert (inside.evaluations_at(0.3), inside.evaluations_at(1.0)) == (1, 2)


def test_a_guide_acts_on_whatever_the_model_is_made_of(folders: dict[str, str]) -> None:
    spec = ModelSpec(base=folders["base"], guide=folders["guide"], guidance=1.8, sampler=SAMPLER)
    base = open_model(spec)
    assert (base.evaluations_per_image, base.digest) == (10, base.base.digest)
    for mode, expected in (("merged", 10), ("guided", 15)):
        model = base.retargeted(folders["aux"], 0.5, mode)
        assert model.evaluations_per_image == expected
        alone = open_model(ModelSpec(base=folders["base"], sampler=SAMPLER)).retargeted(folders["aux"], 0.5, mode)
        assert model.digest == alone.digest
        assert base.guide is not None
        together = AutoGuidance(alone.denoiser, base.guide.denoiser, 1.8)
        with torch.inference_mode():
            found = to_uint8(solve(together, noise_for([3, 4], (1, 8, 8)), SAMPLER))
        assert torch.equal(images(model, [3, 4]), found)
        assert model.facts()["made_by"]["guide"] == {"digest": base.guide.digest, "guidance": 1.8}
    opened = open_model(ModelSpec.from_json(spec.to_json()))
    assert torch.equal(images(opened, [3, 4]), images(base, [3, 4]))


def test_generate_makes_edm2s_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the files alone: classes, noise, sampler, guidance and pixels are those of EDM2's `generate_images.py`."""
    monkeypatch.setenv("FAIRSIMS_CACHE", str(tmp_path / "cache"))
    asked = ["generate", "--model", EDM2 / "cond.pkl", "--labels", "random", "--seeds", "0-3", "--steps", "6"]
    asked += ["--precision", "float32", "--solver", "heun"]
    with np.load(EDM2 / "cond.npz") as stored:
        known = {k: torch.from_numpy(v) for k, v in stored.items()}
    guide = ["--guide", EDM2 / "cond-guide.pkl", "--guidance", "2"]
    pools = {}
    for name, options in (("plain", []), ("guided", guide)):
        succeeds(*asked, *options, "--out", tmp_path / name)
        pools[name] = Pool(tmp_path / name)
    found = pools["plain"].read(range(4))
    assert (found.int() - known["pixels"].int()).abs().max() <= 1
    assert (found != known["pixels"]).float().mean() < 0.005
    guided = pools["guided"].read(range(4))
    assert (guided.int() - to_uint8(known["images_guided"]).int()).abs().max() <= 1
    assert (guided.int() - found.int()).abs().max() > 20
    assert pools["guided"].meta["evaluations_per_image"] == 22
    assert pools["plain"].positions.tolist() == known["sample_labels"].argmax(dim=1).tolist()
    assert pools["plain"].meta["conditions"]["labels"] == "random"
    assert torch.equal(class_labels(pool_dataset(pools["plain"]), 10), known["sample_labels"])


def test_classes_at_random_are_a_function_of_the_seed() -> None:
    asked = Conditions(("a", "b", "c"), drawn_after=(3, 4, 4))
    seeds = [*range(400), 2**40 + 1]
    found = asked.positions(seeds)
    assert found == [asked.positions([s])[0] for s in seeds]
    assert 100 < found.count(0) < 170
    assert found[:6] != [0, 1, 2, 0, 1, 2]
    assert asked.of(7) == "abc"[class_for(7, 3, (3, 4, 4))]
    assert Conditions.of_pool({"conditions": asked.for_pool()}) == asked
    assert Conditions.of_pool({}) == Conditions()
    assert asked.digest == Conditions(asked.names).digest


def test_classes_are_named_in_a_file(tmp_path: Path, make_network: MakeNetwork) -> None:
    save_checkpoint(tmp_path / "model", make_network(label_dim=2))
    (tmp_path / "names.txt").write_text("tench\n\ngoldfish\n")
    asked = ["generate", "--model", tmp_path / "model", "--seeds", "0-1", "--steps", "2", "--out", tmp_path / "pool"]
    succeeds(*asked, "--classes", tmp_path / "names.txt")
    assert Pool(tmp_path / "pool").conditions == ("tench", "goldfish")
    (tmp_path / "names.txt").write_text("tench\ntench\n")
    assert "names 2 classes, 1 of them different; the model has 2" in refused(
        *asked, "--classes", tmp_path / "names.txt"
    )
    assert "cannot be read" in refused(*asked, "--classes", tmp_path / "no.txt")


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"guide": "x"}, "guidance is 1.0 with the guide x"),
    ({"guidance": 2.0}, "guidance is 2.0 with the guide None"),
    ({"guide": "x", "guidance": -1.0}, "expected a finite number"),
    ({"guide_interval": (0.1, 1.0)}, "guide_interval is"),
    ({"guide": "x", "guidance": 2.0, "guide_interval": (2.0, 1.0)}, "the lower first"),
    ({"labels": "odd"}, "labels is 'odd'"),
]


@pytest.mark.parametrize(("settings", "message"), CONTRADICTIONS)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelSpec(base="digits-8", **settings)


def test_a_guide_has_to_fit(tmp_path: Path, make_network: MakeNetwork) -> None:
    with pytest.raises(InputError, match="the guide \\(3, 8, 8\\)"):
        AutoGuidance(make_network(), make_network(img_channels=3), 2.0)
    with pytest.raises(InputError, match="the guide knows 2 classes, the model 3"):
        AutoGuidance(make_network(label_dim=3), make_network(label_dim=2), 2.0)
    asked = ["generate", "--model", "digits-8", "--out", tmp_path / "pool"]
    assert "digits-8 has no classes; leave --classes and --labels out" in refused(*asked, "--labels", "random")
    assert refused(*asked, "--guidance", "2").startswith("error: --guidance is 2.0 with the guide None")
    assert not (tmp_path / "pool").exists()
