"""Zero-shot classifiers on a tiny open_clip model with random weights, saved as models on the hub are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_pipelines import tiny_clip

from fairsims.classifiers import AttributeClassifier, load_classifier
from fairsims.classifiers.abstention import Abstention
from fairsims.classifiers.backbones import open_backbone
from fairsims.classifiers.clip import Prompts, read_prompts
from fairsims.classifiers.evaluation import HeldOut
from fairsims.classifiers.labelled import labelled
from fairsims.classifiers.making import make_clip
from fairsims.cli import main
from fairsims.data import open_dataset
from fairsims.errors import InputError

WORDS = """
attribute = "gender"
model = "local-dir:{place}"
templates = ["a photo of a {{}}", "a drawing of a {{}}"]
[classes]
man = ["man", "boy"]
woman = "woman"
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("tiny-clip"))


def prompts(tiny: Path, tmp_path: Path, text: str = WORDS) -> Path:
    (tmp_path / "gender.toml").write_text(text.format(place=tiny))
    return tmp_path / "gender.toml"


def run(*command: str) -> dict[str, object]:
    result = CliRunner().invoke(main, [*command, "--json"])
    assert result.exit_code == 0, result.stderr or result.exception
    return dict(json.loads(result.stdout))


def test_probabilities_are_those_of_open_clip(tiny: Path, tmp_path: Path) -> None:
    """Against its own transform on Pillow images, its own ensembles and its logit scale."""
    import open_clip

    result = run("classifier", "make-clip", str(prompts(tiny, tmp_path)), str(tmp_path / "c"))
    assert result["splits"] == "none: nobody measured its errors, so shares stay uncorrected"
    classifier = load_classifier(tmp_path / "c")
    assert isinstance(classifier, AttributeClassifier)
    assert (classifier.confusions, classifier.default_split, classifier.input_size) == ({}, "", 48)
    facts = classifier.facts()["preprocessing"]
    assert (facts["mean"], facts["std"], facts["interpolation"]) == ([0.4, 0.5, 0.6], [0.2, 0.3, 0.25], "bicubic")

    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{tiny}")
    tokenizer, templates = open_clip.get_tokenizer(f"local-dir:{tiny}"), ("a photo of a {}", "a drawing of a {}")
    images = open_dataset("emoji-people", resolution=64).read(range(0, 400, 50))
    with torch.no_grad():
        shown = torch.stack([transform(Image.fromarray(x.permute(1, 2, 0).numpy())) for x in images])
        seen = model.eval().encode_image(shown, normalize=True)
        rows = []
        for phrases in (("man", "boy"), ("woman",)):
            texts = tokenizer([t.format(p) for p in phrases for t in templates])
            mean = model.encode_text(texts, normalize=True).mean(dim=0)
            rows.append(mean / mean.norm())
        expected = (model.logit_scale.exp() * seen @ torch.stack(rows).T).softmax(dim=1)
    torch.testing.assert_close(classifier.probabilities(images), expected, atol=0.01, rtol=0)
    torch.testing.assert_close(classifier.features(images), seen, atol=0.02, rtol=0)
    assert (expected[:, 0] - expected[:, 0].mean()).abs().max() > 0.01


def test_grey_and_other_sizes_are_taken(tiny: Path) -> None:
    backbone = open_backbone(f"clip:local-dir:{tiny}", load_classifier)
    images = open_dataset("digits").read(range(3))
    assert torch.equal(backbone.features(images), backbone.features(images.expand(-1, 3, -1, -1)))
    for wrong in (images.float(), images[0], images[:, :, :4]):
        with pytest.raises(InputError, match=r"expected uint8 \(B, 1 or 3, S, S\)"):
            backbone.features(wrong)


def test_labelled_images_calibrate_and_measure(tiny: Path, tmp_path: Path) -> None:
    people = open_dataset("emoji-people", resolution=32).subset(range(0, 1994, 8))
    data = labelled(people, "gender", ("man", "woman"), ["person"])
    make_clip(
        read_prompts(prompts(tiny, tmp_path)),
        tmp_path / "c",
        data=data,
        split=HeldOut.parse("concept", folds=5, near_duplicates=4.0),
        abstain=Abstention(rule="coverage", value=0.8),
    )
    classifier = load_classifier(tmp_path / "c")
    assert classifier.attribute.classes == ("man", "woman", "undetermined")
    confusion = classifier.confusions["concept"]
    assert confusion.totals.tolist() == list(data.counts.values())
    called = sum(sum(row[:2]) for row in confusion.counts[:2]) / confusion.totals[:2].sum()
    assert 0.8 <= called < 0.82
    found = classifier.probabilities(people.read(range(len(people)))).argmax(dim=1)
    assert int((found < 2).sum()) == sum(sum(row[:2]) for row in confusion.counts)
    with pytest.raises(InputError, match=r"has gender classes \['woman', 'man'\], the classifier \['man', 'woman'\]"):
        make_clip(
            read_prompts(prompts(tiny, tmp_path)), tmp_path / "d", data=labelled(people, "gender", ("woman", "man"))
        )


def test_other_weights_than_it_was_made_with(tiny: Path, tmp_path: Path) -> None:
    place = tmp_path / "copy"
    place.mkdir()
    for file in tiny.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    make_clip(read_prompts(prompts(place, tmp_path)), tmp_path / "c")
    state = load_file(place / "open_clip_model.safetensors")
    state["visual.proj"] += 0.1
    save_file(state, place / "open_clip_model.safetensors")
    with pytest.raises(InputError, match="have other weights than when it was made"):
        load_classifier(tmp_path / "c")
    (place / "open_clip_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        load_classifier(tmp_path / "c")
    assert "\n" not in str(caught.value)


def test_a_folder_without_preprocessing(tiny: Path, tmp_path: Path) -> None:
    """open_clip would take OpenAI's mean and size for it without a word."""
    config = json.loads((tiny / "open_clip_config.json").read_text())
    del config["preprocess_cfg"]
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="no preprocess_cfg with mean and std"):
        open_backbone(f"clip:local-dir:{tmp_path}", load_classifier)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("attribute = ", "not readable"),
        (WORDS + "[more]\n", "there is no setting 'more'"),
        (WORDS.replace('attribute = "gender"', ""), "the setting 'attribute' is missing"),
        (WORDS.replace('woman = "woman"', ""), "expected two or more"),
        (WORDS.replace('"woman"', "[]"), "class 'woman' has prompts"),
        (WORDS.replace('"woman"', "3"), "classes.woman is 3; expected a list"),
        (WORDS.replace("a photo of a {{}}", "a photo"), "template 'a photo'"),
        ("temperature = 0\n" + WORDS, "temperature is 0"),
        ("undetermined = nan\n" + WORDS, "undetermined is nan"),
        (WORDS.replace("woman =", "undetermined ="), "without undetermined"),
        (WORDS.replace("local-dir:{place}", "local-dir:/nowhere"), "open_clip_config.json is missing"),
        (WORDS.replace("local-dir:{place}", "ViT-B-32"), "no weights '' of ViT-B-32; there is 'openai'"),
        (WORDS.replace("local-dir:{place}", "VIT-B32"), "no model 'VIT-B32'"),
    ],
)
def test_careless_prompts(tiny: Path, tmp_path: Path, text: str, words: str) -> None:
    result = CliRunner().invoke(
        main, ["classifier", "make-clip", str(prompts(tiny, tmp_path, text)), str(tmp_path / "c")]
    )
    assert result.exit_code == 2, result.exception
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "c").exists()


def test_a_threshold_without_images_is_taken_as_given(tiny: Path, tmp_path: Path) -> None:
    place = {"model": f"local-dir:{tiny}", "attribute": "gender", "classes": {"man": ("man",), "woman": ("woman",)}}
    folder = make_clip(Prompts(**place, name="c", undetermined=0.95), tmp_path / "c")  # type: ignore[arg-type]
    found = load_classifier(folder).probabilities(open_dataset("emoji-people", resolution=32).read(range(5)))
    torch.testing.assert_close(found[:, 2], torch.full((5,), 0.95 / 1.95))
