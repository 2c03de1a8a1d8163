"""Text-to-image pipelines in local folders: images as the pipelines make them, adapters, files, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_pipelines import KINDS, SIDE, asking, make_tiny, random_adapter, save_adapter
from torch import Tensor

from fairsims.errors import FairsimsError, InputError
from fairsims.models import ModelSpec, PipelineModel, Prompting, open_model
from fairsims.models.adapters import Merged, joined, layers_of
from fairsims.models.lora_files import kohya, read_facts
from fairsims.models.pipelines import quiet

pytest.importorskip("diffusers")
SEEDS = [[0, 1, 2], [5]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny pipeline of each kind."""
    return {kind: make_tiny(kind, tmp_path_factory.mktemp("tiny") / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, PipelineModel]:
    return {kind: PipelineModel(asking(folder)) for kind, folder in folders.items()}


def images(model: PipelineModel, batches: list[list[int]] = SEEDS) -> Tensor:
    return torch.cat(list(model.images(batches))).int()


def furthest(a: Tensor, b: Tensor) -> int:
    return int((a - b).abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_those_that_the_pipeline_makes_for_its_users(kind: str, models: dict[str, PipelineModel]) -> None:
    model, found = models[kind], images(models[kind])
    assert (model.image_shape, tuple(found.shape)) == ((3, SIDE, SIDE), (4, 3, SIDE, SIDE))
    assert furthest(found, images(model, [[5, 2], [1, 0]])[[3, 2, 1, 0]]) <= 1, "whatever the batch"
    with quiet():
        user = model.pipeline.pipe(
            "a photo of a pilot",
            num_inference_steps=2,
            guidance_scale=3.0,
            height=SIDE,
            width=SIDE,
            generator=torch.Generator().manual_seed(1),
        ).images[0]
    assert furthest(torch.from_numpy(np.asarray(user).transpose(2, 0, 1).astype(int)), found[1]) <= 1
    assert furthest(found[1], images(model, [[4]])[0]) > 10, "another seed of the same prompt is another image"
    facts = model.facts()
    assert facts["conditions"]["names"] == list(model.conditions.names)
    assert facts["sampler"]["unconditional"] == {"sdxl": "zeros", "flux": "none"}.get(kind, "the empty prompt")
    assert model.evaluations_per_image == (2 if kind == "flux" else 4)
    assert facts["made_by"] == {"kind": "base", "digest": model.digest}


def test_the_empty_prompt_is_the_unconditional_branch_by_itself(models: dict[str, PipelineModel]) -> None:
    for kind in ("sd", "sdxl"):
        alone = [models[kind].asking(prompts=("",), guidance_scale=g) for g in (1.0, 7.0)]
        assert furthest(images(alone[0]), images(alone[1])) <= 1, "guidance between two equal branches does nothing"
    told = models["sdxl"].pipeline.embeddings(["", "a photo of a nurse"])
    assert not told["prompt_embeds"][0].any()
    assert told["prompt_embeds"][1].any()


def test_without_guidance_the_prompt_acts_alone(models: dict[str, PipelineModel]) -> None:
    model = models["sd"]
    none, one = (model.asking(guidance_scale=g) for g in (0.0, 1.0))
    assert (none.evaluations_per_image, furthest(images(none), images(one))) == (2, 0)
    assert furthest(images(one), images(model)) > 2


@pytest.mark.parametrize("kind", KINDS)
def test_baked_is_set_adapters_is_merged_weights(kind: str, models: dict[str, PipelineModel], tmp_path: Path) -> None:
    model, w = models[kind], 0.7
    lora, folder = random_adapter(model), save_adapter(model, tmp_path / "aux")
    found = images(model.retargeted(folder, w, "merged"))
    assert furthest(found, images(model)) > 5
    model.pipeline.wear(None)
    pipe, prefix = model.pipeline.pipe, model.pipeline.row.network
    with quiet():
        pipe.load_lora_weights({f"{prefix}.{k}": v for k, v in lora.items()}, adapter_name="x")
        pipe.set_adapters("x", -w)
    assert furthest(images(model), found) <= 1
    with quiet():
        pipe.unload_lora_weights()
    by_hand = {name: p.clone() for name, p in model.pipeline.network.state_dict().items()}
    for layer in layers_of(lora):
        a, b = (lora[f"{layer}.{part}.weight"].double() for part in ("lora_A", "lora_B"))
        own = by_hand[f"{layer}.weight"]
        # (1 + w) theta - w (theta + B A) = theta - w B A; of a convolution A does the window.
        by_hand[f"{layer}.weight"] = (own - w * (b.flatten(1) @ a.flatten(1)).reshape(own.shape)).float()
    before = {name: p.clone() for name, p in model.pipeline.network.state_dict().items()}
    model.pipeline.network.load_state_dict(by_hand)
    merged = images(model)
    model.pipeline.network.load_state_dict(before)
    assert furthest(merged, found) <= 1


def outputs(model: PipelineModel, worn: Merged | None) -> Tensor:
    """What the network says of the same noisy latents while it wears something, in both branches of guidance."""
    pipeline = model.pipeline
    pipeline.wear(worn)
    told, x = pipeline.embeddings(["a photo of a nurse", ""]), torch.ones(2, *model.noise_shape)
    with torch.no_grad():
        return pipeline.row.predict(
            pipeline.pipe, pipeline.network, x, torch.tensor([500.0, 500.0]), told, vars(model.settings)
        )


@pytest.mark.parametrize("kind", ["sd", "sd3"])
def test_a_small_network_wears_the_sum_of_weights_and_comes_out_of_it_unchanged(
    kind: str, models: dict[str, PipelineModel]
) -> None:
    model = models[kind]
    before = {name: value.clone() for name, value in model.pipeline.network.state_dict().items()}
    summed, beside = Merged(random_adapter(model)), Merged(random_adapter(model), beside=True)
    torch.testing.assert_close(outputs(model, summed), outputs(model, beside), atol=1e-5, rtol=1e-5)
    model.pipeline.wear(summed)
    assert summed.plain_weights
    model.pipeline.wear(None)
    after = model.pipeline.network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("kind", ["sd", "sd3"])
def test_guided_wraps_the_network_in_both_branches(kind: str, models: dict[str, PipelineModel], tmp_path: Path) -> None:
    model = models[kind]
    forward, folder = model.pipeline.network.forward, save_adapter(model, tmp_path / "aux")
    guided = model.retargeted(folder, 1.5, "guided")
    assert guided.evaluations_per_image == 2 * model.evaluations_per_image
    assert furthest(images(model.retargeted(folder, 0.0, "guided")), images(model)) == 0
    base, auxiliary = outputs(model, None), outputs(model, Merged(random_adapter(model)))
    assert (auxiliary - base).abs().max() > 0.1
    torch.testing.assert_close(outputs(model, guided.worn), 2.5 * base - 1.5 * auxiliary, atol=1e-4, rtol=1e-4)
    assert furthest(images(guided), images(model)) > 5
    model.pipeline.wear(None)
    assert model.pipeline.network.forward == forward
    positive = save_adapter(model, tmp_path / "positive", seed=1)
    both, other = model.retargeted(folder, 0.5, "guided", positive=positive), Merged(random_adapter(model, seed=1))
    assert both.evaluations_per_image == 3 * model.evaluations_per_image
    found = base + 0.5 * (outputs(model, other) - auxiliary)
    torch.testing.assert_close(outputs(model, both.worn), found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3"])
def test_an_adapter_of_the_unconditional_branch_alone(
    kind: str, models: dict[str, PipelineModel], tmp_path: Path
) -> None:
    """A_0 + g (D_c - A_0), put together from whole evaluations of both networks; the plain forward is back after."""
    model = models[kind]
    model.pipeline.wear(None)
    forward, folder = model.pipeline.network.forward, save_adapter(model, tmp_path / "aux")
    worn = model.retargeted(folder, 0.8, "unconditional")
    assert worn.evaluations_per_image == model.evaluations_per_image
    assert worn.made_by()["kind"] == "unconditional"
    # The first row is the unconditional one, as the pipelines stack them; here both are told the same.
    plain, adapted = outputs(model, None), outputs(model, model.retargeted(folder, 0.8, "towards").worn)
    assert (adapted - plain).abs().max() > 0.1
    found = outputs(model, worn.worn)
    torch.testing.assert_close(found, torch.stack([adapted[0], plain[1]]), atol=1e-4, rtol=1e-4)
    assert furthest(images(worn), images(model)) > 2
    with pytest.raises(InputError, match="is sampled without an unconditional branch"):
        model.asking(guidance_scale=1.0).retargeted(folder, 0.8, "unconditional")
    with pytest.raises(InputError, match="is no LoRA file"):
        worn.export(tmp_path / "lora")
    model.pipeline.wear(None)
    assert model.pipeline.network.forward == forward


def test_towards_an_adapter_is_away_from_it_with_the_other_sign(
    models: dict[str, PipelineModel], tmp_path: Path
) -> None:
    model = models["sd"]
    found = model.retargeted(save_adapter(model, tmp_path / "aux"), 0.7, "towards")
    other = model.retargeted(tmp_path / "aux", 0.7, "merged")
    for name, tensor in found.lora.items():
        assert torch.equal(tensor, -other.lora[name] if "lora_B" in name else other.lora[name])
    assert found.digest != other.digest
    for mode in ("towards", "unconditional"):
        with pytest.raises(ValueError, match="expected a text-to-image pipeline with one adapter"):
            ModelSpec(base="digits-8", auxiliary="aux", mode=mode)


def test_a_seed_draws_its_variant_of_a_prompt(models: dict[str, PipelineModel]) -> None:
    """Its image is the one of that text; the condition stays the prompt's, and the pool says what was drawn from."""
    said = {"a photo of a man nurse": 0.25, "a photo of a woman nurse": 0.75}
    model = models["sd"].asking(prompts=("a photo of a nurse", "a tree"), variants={"a photo of a nurse": said})
    drawn = [model.prompt(seed) for seed in range(0, 2000, 2)]
    assert set(drawn) == set(said)
    assert drawn.count("a photo of a man nurse") == pytest.approx(250, abs=45)
    assert {model.prompt(seed) for seed in range(1, 40, 2)} == {"a tree"}
    assert model.conditions.of(4) == "a photo of a nurse"
    plain = models["sd"].asking(prompts=(model.prompt(4),))
    assert furthest(images(model, [[4]]), images(plain, [[4]])) == 0
    assert model.facts()["sampler"]["variants"] == {"a photo of a nurse": said}
    assert "variants" not in models["sd"].facts()["sampler"]
    for wrong in ({"nobody": {"a": 1.0}}, {"": {"a": 0.5}}, {"": {}}):
        with pytest.raises(ValueError, match="expected shares that sum to 1, of a prompt"):
            Prompting(variants=wrong)


def test_two_adapters_are_one_of_added_ranks(models: dict[str, PipelineModel], tmp_path: Path) -> None:
    model = models["sd"]
    negative, positive = (save_adapter(model, tmp_path / str(seed), seed=seed) for seed in range(2))
    found = model.retargeted(negative, 0.8, "merged", positive=positive)
    layer = layers_of(found.lora)[0]
    assert found.lora[f"{layer}.lora_A.weight"].shape[0] == 4
    first, second = (random_adapter(model, seed=seed) for seed in range(2))
    together = images(found)
    model.pipeline.wear(None)
    pipe = model.pipeline.pipe
    with quiet():
        for name, lora in (("negative", first), ("positive", second)):
            pipe.load_lora_weights({f"unet.{n}": t for n, t in lora.items()}, adapter_name=name)
        pipe.set_adapters(["negative", "positive"], [-0.8, 0.8])
    side_by_side = images(model)
    with quiet():
        pipe.unload_lora_weights()
    assert furthest(side_by_side, together) <= 1
    assert furthest(together, images(model)) > 5
    with pytest.raises(InputError, match="different layers"):
        joined(first, {n: t for n, t in second.items() if layer not in n})


@pytest.mark.parametrize("kind", KINDS)
def test_files_load_at_one_wherever_they_are_loaded(
    kind: str, folders: dict[str, Path], models: dict[str, PipelineModel], tmp_path: Path
) -> None:
    from safetensors import safe_open

    model = models[kind]
    found = model.retargeted(save_adapter(model, tmp_path / "aux"), 0.7, "merged")
    found.export(tmp_path / "lora", name="equal", recipe={"targets": {"gender": 0.5}})
    files = sorted(p.name for p in (tmp_path / "lora").glob("*.safetensors"))
    assert files == ["equal-webui.safetensors", "equal.safetensors"][0 if kind in ("sd", "sdxl") else 1 :]
    pipe = PipelineModel(asking(folders[kind])).pipeline.pipe
    for name in files:
        with quiet():
            pipe.load_lora_weights(str(tmp_path / "lora"), weight_name=name)
            user = pipe(
                "a photo of a pilot",
                num_inference_steps=2,
                guidance_scale=3.0,
                height=SIDE,
                width=SIDE,
                generator=torch.Generator().manual_seed(1),
            ).images[0]
            pipe.unload_lora_weights()
        assert furthest(torch.from_numpy(np.asarray(user).transpose(2, 0, 1).astype(int)), images(found)[1]) <= 1
        facts = read_facts(tmp_path / "lora" / name)
        assert (facts["targets"], facts["made_by"]["strength"]) == ({"gender": 0.5}, 0.7)
        assert facts["made_by"]["base"] == model.digest
        with safe_open(tmp_path / "lora" / name, "pt") as file:
            assert "lora_adapter_metadata" not in file.metadata()
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        # Nothing but B carries the sign: alpha is the rank, or is not there.
        assert {int(v) for k, v in tensors.items() if k.endswith("alpha")} <= {2}
        assert all("lora" in k or k.endswith("alpha") for k in tensors)
    text = (tmp_path / "lora" / "README.md").read_text()
    assert 'weight_name="equal.safetensors"' in text
    assert ("A1111" in text, "ComfyUI" in text) == (kind in ("sd", "sdxl"), True)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_file_that_loads_as_something_else_is_an_error(
    precision: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    model = PipelineModel(replace(asking(folders["sd"]), precision=precision))
    found = model.retargeted(save_adapter(model, tmp_path / "aux", layers="cross-attention"), 0.7, "merged")
    found.export(tmp_path / "lora")
    path = tmp_path / "lora" / "fairsims.safetensors"
    # As it would be loaded with alpha twice the rank.
    save_file({k: (2 * v if "lora_B" in k else v) for k, v in load_file(path).items()}, path)
    with pytest.raises(FairsimsError, match="loaded into a fresh pipeline gives images that are off"):
        found.check([path])
    with pytest.raises(InputError, match="does not say that fairsims wrote it"):
        read_facts(path)
    (tmp_path / "lora" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="holds other files"):
        found.export(tmp_path / "lora")


def test_only_a_merged_model_is_a_file(models: dict[str, PipelineModel], tmp_path: Path) -> None:
    model = models["sd"]
    folder = save_adapter(model, tmp_path / "aux")
    for other in (model, model.retargeted(folder, 0.5, "guided"), model.retargeted(folder, 0.0, "merged")):
        with pytest.raises(InputError, match="is no LoRA file; expected merged"):
            other.export(tmp_path / "lora")


def test_kohyas_alphas_are_ranks(models: dict[str, PipelineModel]) -> None:
    lora = random_adapter(models["sd"], rank=3)
    found = kohya({f"unet.{k}": v for k, v in lora.items()})
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    name = "lora_unet_" + layer.replace(".", "_")
    assert torch.equal(found[f"{name}.lora_up.weight"], lora[f"{layer}.lora_B.weight"])
    assert {int(v) for k, v in found.items() if k.endswith(".alpha")} == {3}


@pytest.mark.parametrize("layers", ["all", "attention", "cross-attention"])
def test_layers_of_an_adapter(layers: str, models: dict[str, PipelineModel]) -> None:
    for kind, model in models.items():
        found = layers_of(random_adapter(model, layers=layers))
        assert found
        assert all(name.startswith(model.pipeline.row.blocks) for name in found)
        if layers == "cross-attention" and kind in ("sd", "sdxl"):
            assert all(".attn2." in name for name in found)
        assert any("conv" in name or "ff" in name for name in found) == (layers == "all")


def test_specs_of_pipelines_travel_as_json() -> None:
    spec = ModelSpec(
        base="sd15",
        auxiliary="aux",
        positive="more",
        mode="merged",
        strength=0.5,
        prompting=Prompting(
            prompts=("a", ""),
            variants={"a": {"a man": 0.5, "a woman": 0.5}},
            steps=4,
            guidance_scale=5.0,
            size=(64, 128),
        ),
    )
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json(), allow_nan=False))) == spec


def change(folder: Path, file: str, **values: Any) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("kind", "spoil", "message"),
    [
        ("sd", lambda f: shutil.rmtree(f / "tokenizer"), "has no tokenizer; restore it"),
        ("sdxl", lambda f: shutil.rmtree(f / "text_encoder_2"), "has no text_encoder_2; restore it"),
        (
            "sd",
            lambda f: change(f, "model_index.json", _class_name="DDPMPipeline"),
            "is a DDPMPipeline; expected one of",
        ),
        ("sd", lambda f: (f / "model_index.json").unlink(), "model_index.json is missing"),
        ("sd3", lambda f: change(f, "transformer/config.json", quantization_config={}), "quantised transformer"),
        ("flux", lambda f: change(f, "transformer/config.json", guidance_embeds=False), "distilled to few steps"),
        ("sd", lambda f: change(f, "unet/config.json", time_cond_proj_dim=8), "distilled to few steps"),
        ("sd", lambda f: change(f, "unet/config.json", in_channels=9), "takes more than a prompt"),
        ("sd", lambda f: change(f, "model_index.json", unet=["my_code", "Net"]), "a unet that comes from my_code"),
        ("sd", lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"x"), "cannot be opened"),
    ],
)
def test_folders_that_are_refused(
    kind: str, spoil: Callable[[Path], object], message: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders[kind], tmp_path / "copy")
    spoil(tmp_path / "copy")
    with pytest.raises(InputError, match=message) as found:
        PipelineModel(asking(tmp_path / "copy"))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (36, 32)}, "the size is 36x32; .* multiples of 8"),
        ({"offload": "model"}, "--offload is model and this machine has no GPU"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str, folders: dict[str, Path]) -> None:
    if torch.cuda.is_available() and "offload" in settings:
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match=message):
        PipelineModel(asking(folders["sd"], **settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": ()}, "expected 1 to 2,000 prompts"),
        ({"prompts": ("a", "b", "a")}, "prompts is 'a' twice"),
        ({"steps": 0}, "steps is 0"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"size": (0, 64)}, "size is"),
        ({"offload": "disk"}, "offload is 'disk'"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prompting(**settings)


def test_other_refusals(folders: dict[str, Path], models: dict[str, PipelineModel], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder 'nobody/nothing'; .*`hf download"):
        PipelineModel(ModelSpec(base="nobody/nothing", prompting=Prompting()))
    with pytest.raises(InputError, match="give --prompts if it is text-to-image"):
        open_model(ModelSpec(base=str(folders["sd"])))
    aux = save_adapter(models["sd"], tmp_path / "aux")
    with pytest.raises(InputError, match="is an adapter of another pipeline"):
        models["sdxl"].retargeted(aux, 0.5, "merged")
    with pytest.raises(InputError, match="an interval is for models of pixels"):
        models["sd"].retargeted(aux, 0.5, "guided", (0.1, 1.0))
    with pytest.raises(InputError, match="seed 4294967296 is too large"):
        next(models["sd"].images([[2**32]]))
    with pytest.raises(ValueError, match="positive is 'x'; expected none without an auxiliary"):
        ModelSpec(base="sd", positive="x")
