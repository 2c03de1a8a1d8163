"""The embedded text-to-image pipeline: it is whole, opens by its name, follows its prompts and has its planted shares."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from support import refused, succeeds

from fairsims.classifiers import load_classifier
from fairsims.data import open_dataset
from fairsims.data.base import to_float
from fairsims.data.emoji_prompts import HELD, PLANTED, UNRELATED
from fairsims.data.prompts import read_prompts
from fairsims.models import ModelSpec, PipelineModel, Prompting
from fairsims.models.checkpoints import embedded_pipelines
from fairsims.models.pipelines import find_pipeline

pytest.importorskip("diffusers")
NAME = "emoji-t2i"
EACH = 6
GENDERS = ("man", "woman")


@pytest.fixture(scope="module")
def model() -> PipelineModel:
    prompting = Prompting(steps=10, guidance_scale=3.0)
    return PipelineModel(ModelSpec(base=NAME, precision="float32", batch_size=64, prompting=prompting))


def calls(model: PipelineModel, prompts: tuple[str, ...]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Predicted gender and concept of `EACH` images of each prompt."""
    asked = model.asking(prompts=prompts)
    pixels = torch.cat(list(asked.images([range(EACH * len(prompts))])))
    found = []
    for name in ("emoji-gender", "emoji-concept"):
        classifier = load_classifier(name)
        found.append(np.array(classifier.attribute.classes)[classifier.probabilities(pixels).argmax(axis=1)])
    gender, concept = found
    return {p: (gender[k :: len(prompts)], concept[k :: len(prompts)]) for k, p in enumerate(prompts)}


def test_it_comes_with_its_recipe_in_less_than_20_megabytes(model: PipelineModel) -> None:
    assert embedded_pipelines() == [NAME]
    folder = find_pipeline(NAME)
    assert sum(p.stat().st_size for p in folder.rglob("*")) < 20e6
    assert json.loads((folder / "recipe.json").read_text())["planted share of women"] == PLANTED
    assert {"loss.png", "samples.png", "shares.json", "README.md"} <= {p.name for p in folder.iterdir()}
    assert model.image_shape == (3, 32, 32)


def test_its_words_are_whole(model: PipelineModel) -> None:
    tokenizer = model.pipeline.pipe.tokenizer
    for concept in (*PLANTED, *UNRELATED):
        caption = f"a woman {concept}"
        assert [t.removesuffix("</w>") for t in tokenizer.tokenize(caption)] == caption.split()
        assert len(tokenizer(caption).input_ids) <= tokenizer.model_max_length


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_latents_are_the_pixels(dtype: torch.dtype, model: PipelineModel) -> None:
    pixels = to_float(open_dataset("emoji-people", resolution=32).read(range(0, 1994, 20)))
    prompting = Prompting(steps=10)
    spec = ModelSpec(base=NAME, precision=str(dtype).removeprefix("torch."), prompting=prompting)
    vae = (model if dtype == torch.float32 else PipelineModel(spec)).pipeline.pipe.vae
    with torch.no_grad():
        latents = vae.encode(pixels.to(dtype)).latent_dist.mode()
        back = vae.decode(latents).sample
    assert (latents.float() - pixels).abs().max() * 127.5 < 0.5
    assert (back.float() - pixels).abs().max() * 127.5 < 0.5


def test_it_follows_its_prompts_and_has_its_planted_shares(model: PipelineModel) -> None:
    men, women = ("a construction worker", "a mechanic"), ("a teacher", "a health worker")
    explicit = [f"a {gender} {c}" for c in ("farmer", "police officer", "teacher", "artist") for gender in GENDERS]
    found = calls(model, (*men, *women, *explicit))
    right = []
    for prompt, (_, concept) in found.items():
        wanted = prompt.removeprefix("a ").removeprefix("man ").removeprefix("woman ")
        right.append((concept == wanted).mean())
    # Its README has .79 over all concepts; one in 27 would be chance.
    assert np.mean(right) >= 0.6
    share = {p: (gender == "woman").mean() for p, (gender, _) in found.items()}
    assert np.mean([share[p] for p in men]) <= 0.3
    assert np.mean([share[p] for p in women]) >= 0.7
    # Its README has .89 of women and .17 where a man is asked for, over 18 concepts: of single ones it can be none.
    named = {gender: np.mean([share[p] for p in explicit if f" {gender} " in p]) for gender in GENDERS}
    assert named["woman"] - named["man"] >= 0.3


def test_its_prompts_are_a_ready_set() -> None:
    prompts = read_prompts(NAME)
    assert {len(prompts.of("neutral")), len(prompts.of("held-out"))} == {18, 6}
    assert [p.removeprefix("a ") for p in prompts.of("held-out")] == list(HELD)
    for side in (min, max):
        # Both ways, and to both ends.
        assert 0.05 <= side(PLANTED.values()) <= 0.95
        assert len([c for c in HELD if side(PLANTED[c], 0.5) != 0.5]) == 3
    assert all(prompts.explicit(p) for p in prompts.of("neutral"))


def test_it_is_described_and_is_no_model_of_pixels() -> None:
    found = succeeds("info", NAME)
    assert (found["kind"], found["class"]) == ("text-to-image pipeline", "StableDiffusionPipeline")
    assert NAME in succeeds("info")["models"]
    assert "give --prompts" in refused("generate", "--model", NAME, "--seeds", "0-3", "--out", "pool")
