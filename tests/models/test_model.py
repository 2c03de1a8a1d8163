"""Models opened from specs: the same images everywhere, retargeted and exported; conditions of seeds."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from support import MakeNetwork
from torch import Tensor

from fairsims.data import to_uint8
from fairsims.errors import InputError
from fairsims.models import Conditions, DenoiserModel, ModelSpec, merge, open_model, save_checkpoint
from fairsims.models.guidance import SIMSGuidance
from fairsims.models.sampling import SamplerConfig, solve
from fairsims.seeds import noise_for

SAMPLER = SamplerConfig(solver="heun", steps=3)
SEEDS = [[5, 6, 7], [8]]


def images(model: DenoiserModel, batches: list[list[int]] = SEEDS) -> Tensor:
    return torch.cat(list(model.images(batches)))


@pytest.fixture
def folders(tmp_path: Path, make_network: MakeNetwork) -> tuple[str, str]:
    """Checkpoints of a base and of an auxiliary."""
    for seed, name in enumerate(("base", "aux")):
        save_checkpoint(tmp_path / name, make_network(seed), recipe={"data": "digits"})
    return str(tmp_path / "base"), str(tmp_path / "aux")


@pytest.fixture
def base(folders: tuple[str, str]) -> DenoiserModel:
    return open_model(ModelSpec(base=folders[0], sampler=SAMPLER, batch_size=3))


def test_images_are_those_of_the_solver(base: DenoiserModel) -> None:
    found = list(base.images(SEEDS))
    assert [tuple(b.shape) for b in found] == [(3, 1, 8, 8), (1, 1, 8, 8)]
    assert (base.image_shape, base.noise_shape, base.evaluations_per_image) == ((1, 8, 8), (1, 8, 8), 5)
    with torch.inference_mode():
        expected = to_uint8(solve(base.denoiser, noise_for(SEEDS[0], (1, 8, 8)), SAMPLER))
    assert torch.equal(found[0], expected)
    assert (images(base, [[8, 7], [6, 5]]).flip(0).int() - images(base).int()).abs().max() <= 1


def test_layouts_of_processors_change_rounding_alone(
    base: DenoiserModel, folders: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU with AVX2 alone has its float32 weights in channels_last; others do not, nor has bfloat16."""
    found = {}
    for capability in ("AVX2", "AVX512"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        for precision in ("float32", "bfloat16"):
            model = open_model(ModelSpec(base=folders[0], sampler=SAMPLER, batch_size=3, precision=precision))
            found[capability, precision] = model
            last = [not p.is_contiguous() for p in model.denoiser.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
            assert len(last) > 0
            assert set(last) == {(capability, precision) == ("AVX2", "float32")}
            model.export(tmp_path / f"{capability}-{precision}")
    assert (images(found["AVX2", "float32"]).int() - images(base).int()).abs().max() <= 1
    assert torch.equal(images(found["AVX2", "bfloat16"]), images(found["AVX512", "bfloat16"]))
    one, other = (tmp_path / f"{c}-float32" / "model.safetensors" for c in ("AVX2", "AVX512"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mode": "merged", "auxiliary": "aux", "strength": 0.5},
        {"mode": "guided", "auxiliary": "aux", "strength": 2.0, "interval": (0.5, 9.0)},
        {"sampler": SamplerConfig(steps=4, solver="euler", S_churn=2.0), "precision": "bfloat16", "compiled": True},
    ],
)
def test_specs_travel_as_json_and_as_pickles(changes: dict[str, Any]) -> None:
    spec = ModelSpec(base="digits-8", **changes)
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json(), allow_nan=False))) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "merged"}, "auxiliary is None"),
        ({"auxiliary": "aux"}, "auxiliary is 'aux'"),
        ({"strength": -0.5}, "strength is -0.5"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"mode": "merged", "auxiliary": "aux", "interval": (1.0, 2.0)}, "expected none with merged"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"mode": "mixed"}, "mode is 'mixed'"),
    ],
)
def test_impossible_specs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelSpec(base="digits-8", **changes)


@pytest.mark.parametrize("mode", ["merged", "guided"])
def test_retargeted_models_are_base_and_auxiliary_at_a_strength(
    base: DenoiserModel, folders: tuple[str, str], mode: str
) -> None:
    aux = open_model(ModelSpec(base=folders[1], sampler=SAMPLER))
    assert torch.equal(images(base.retargeted(folders[1], 0.0, mode)), images(base))
    found = base.retargeted(folders[1], 0.5, mode)
    networks = base.base.network, aux.base.network
    by_hand = merge(*networks, 0.5) if mode == "merged" else SIMSGuidance(*networks, 0.5)
    with torch.inference_mode():
        expected = to_uint8(solve(by_hand, noise_for(SEEDS[0], (1, 8, 8)), SAMPLER))
    assert torch.equal(images(found)[:3], expected)
    assert not torch.equal(images(found), images(base))
    assert found.evaluations_per_image == {"merged": 5, "guided": 10}[mode]
    assert torch.equal(images(open_model(found.spec)), images(found)), "another process opens the same model"
    facts = found.facts()["made_by"]
    assert (facts["kind"], facts["base"], facts["aux"], facts["strength"]) == (mode, base.digest, aux.digest, 0.5)


@pytest.mark.parametrize("mode", ["merged", "guided"])
def test_a_paired_contrast_is_the_base_and_the_difference_of_two(
    base: DenoiserModel, folders: tuple[str, str], tmp_path: Path, mode: str
) -> None:
    # From the auxiliary to the base itself is SIMS.
    plain, same = (images(base.retargeted(folders[1], 0.5, mode, positive=p)) for p in (None, folders[0]))
    assert (plain.int() - same.int()).abs().max() <= 1
    found = base.retargeted(folders[0], 0.5, mode, positive=folders[1])
    networks = base.base.network, base.base.network, 0.5
    third = open_model(ModelSpec(base=folders[1], sampler=SAMPLER)).base.network
    by_hand = merge(*networks, third) if mode == "merged" else SIMSGuidance(*networks, positive=third)
    with torch.inference_mode():
        expected = to_uint8(solve(by_hand, noise_for(SEEDS[0], (1, 8, 8)), SAMPLER))
    assert torch.equal(images(found)[:3], expected)
    assert (images(found).int() - plain.int()).abs().max() > 1, "the other way"
    assert found.evaluations_per_image == {"merged": 5, "guided": 15}[mode]
    assert torch.equal(images(open_model(found.spec)), images(found))
    found.export(tmp_path / "out")
    opened = open_model(ModelSpec(base=str(tmp_path / "out"), sampler=SAMPLER, batch_size=3))
    assert torch.equal(images(opened), images(found))
    assert (opened.digest, opened.evaluations_per_image) == (found.digest, found.evaluations_per_image)


@pytest.mark.parametrize("mode", ["merged", "guided"])
def test_exports_open_as_the_same_model(
    base: DenoiserModel, folders: tuple[str, str], tmp_path: Path, mode: str
) -> None:
    interval = (0.1, 9.0) if mode == "guided" else None
    found = base.retargeted(folders[1], 0.5, mode, interval)
    for _ in range(2):
        found.export(tmp_path / "out")
    opened = open_model(ModelSpec(base=str(tmp_path / "out"), sampler=SAMPLER, batch_size=3))
    assert torch.equal(images(opened), images(found))
    assert (opened.digest, opened.evaluations_per_image) == (found.digest, found.evaluations_per_image)
    assert opened.recipe == {"kind": mode, "strength": 0.5, "base_digest": base.digest, "data": "digits"}
    assert opened.made_by() == {"kind": mode, "digest": found.digest}
    with pytest.raises(InputError, match="holds other files"):
        base.retargeted(folders[1], 0.6, mode).export(tmp_path / "out")


def test_a_killed_export_is_finished_by_the_next(base: DenoiserModel, folders: tuple[str, str], tmp_path: Path) -> None:
    found = base.retargeted(folders[1], 0.5, "merged")
    found.export(tmp_path / "out")
    (tmp_path / "out" / "config.json").unlink()
    found.export(tmp_path / "out")
    assert open_model(ModelSpec(base=str(tmp_path / "out"))).digest == found.digest


def test_a_guided_pair_beside_its_auxiliary_can_be_moved(
    base: DenoiserModel, folders: tuple[str, str], tmp_path: Path
) -> None:
    base.retargeted(folders[1], 0.5, "guided").export(tmp_path / "pair")
    named = json.loads((tmp_path / "pair" / "config.json").read_text())["config"]
    assert (named["base"], named["aux"]) == (folders[0], "../aux")


def test_a_guided_pair_is_no_base_of_another(base: DenoiserModel, folders: tuple[str, str], tmp_path: Path) -> None:
    base.retargeted(folders[1], 0.5, "guided").export(tmp_path / "pair")
    pair = open_model(ModelSpec(base=str(tmp_path / "pair")))
    for refused in (pair.trainable, lambda: pair.retargeted(folders[1], 1.0, "merged")):
        with pytest.raises(InputError, match="holds a guided pair; expected a single network"):
            refused()


def test_what_is_trained_is_a_copy(base: DenoiserModel) -> None:
    before = images(base)
    with torch.no_grad():
        for parameter in base.trainable().parameters():
            parameter.zero_()
    assert torch.equal(images(base), before)


def test_classes_come_in_turn_and_change_the_images(tmp_path: Path, make_network: MakeNetwork) -> None:
    save_checkpoint(tmp_path / "named", make_network(label_dim=2), recipe={"classes": ["cat", "dog"]})
    save_checkpoint(tmp_path / "numbered", make_network(label_dim=3))
    named, numbered = (open_model(ModelSpec(base=str(tmp_path / n), sampler=SAMPLER)) for n in ("named", "numbered"))
    assert (named.conditions.names, numbered.conditions.names) == (("cat", "dog"), ("0", "1", "2"))
    assert named.facts()["conditions"] == {"names": ["cat", "dog"], "digest": named.conditions.digest}
    for seed in (4, 5):
        with torch.inference_mode():
            label = torch.eye(2)[[named.conditions.names.index(named.conditions.of(seed))]]
            expected = to_uint8(solve(named.denoiser, noise_for([seed], (1, 8, 8)), SAMPLER, labels=label))
        assert torch.equal(images(named, [[seed]]), expected)


def test_conditions_of_seeds() -> None:
    conditions = Conditions(("nurse", "pilot", "chef"))
    assert [conditions.of(seed) for seed in range(4)] == ["nurse", "pilot", "chef", "nurse"]
    assert conditions.positions([7, 2**40 + 1]) == [1, (2**40 + 1) % 3]
    assert conditions.digest != Conditions(("pilot", "nurse", "chef")).digest
    assert Conditions().unconditional
    assert Conditions().of(12) == ""
    for names in ((), ("a", "a")):
        with pytest.raises(ValueError, match="expected one or more different ones"):
            Conditions(names)
