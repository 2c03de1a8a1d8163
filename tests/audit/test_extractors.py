"""Feature extractors on random weights saved as the real ones are: the same features as torch-fidelity's own."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch_fidelity import FeatureExtractorInceptionV3
from torch_fidelity.utils import create_feature_extractor

from fairsims.audit.features import FeatureExtractor, open_extractor
from fairsims.classifiers import load_classifier
from fairsims.data import open_dataset
from fairsims.errors import InputError

RGB = open_dataset("emoji-people", resolution=32).read([0, 700, 1500])


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the file that torch-fidelity downloads: a state dict of its network."""
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        # The network is only made with weights loaded; these are the ones it starts with.
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        state = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).state_dict()
    # At torch's own start the values would shrink to nothing on the way through the layers.
    torch.save({k: v * 2.4 if k.endswith("conv.weight") else v for k, v in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def ours(inception_weights: Path) -> FeatureExtractor:
    return open_extractor("inception", weights=inception_weights)


def test_inception_is_torch_fidelitys(ours: FeatureExtractor, inception_weights: Path) -> None:
    theirs = create_feature_extractor(
        "inception-v3-compat",
        ["2048"],
        cuda=torch.cuda.is_available(),
        feature_extractor_weights_path=str(inception_weights),
        verbose=False,
    )
    found = ours.features(RGB)
    assert (found.shape, found.dtype) == ((3, 2048), torch.float32)
    assert found.std() > 1e-3
    assert torch.equal(found, theirs(RGB)[0])
    assert ours.metric == "FID"
    facts = ours.facts()
    assert (facts["name"], facts["input_size"]) == ("inception", 299)
    assert "bilinear as in TensorFlow 1" in facts["resize"]
    grey = RGB[:1, :1]
    torch.testing.assert_close(ours.features(grey), ours.features(grey.expand(-1, 3, -1, -1)))
    with pytest.raises(InputError, match=r"inception got float32 images .* expected uint8"):
        ours.features(RGB.float())


def test_weights_that_are_not_inceptions(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="has other weights than the Inception network"):
        open_extractor("inception", weights=tmp_path / "other.pth")
    with pytest.raises(InputError, match="found no weights"):
        open_extractor("inception", weights=tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("weights")
    with pytest.raises(InputError, match="cannot be read as weights"):
        open_extractor("inception", weights=tmp_path / "text.pth")
    with pytest.raises(InputError, match="only 'inception' takes one"):
        open_extractor("classifier", weights=tmp_path / "text.pth")


class Trap:
    """What unpickling makes of it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_weights_never_run_code(tmp_path: Path) -> None:
    torch.save({"fc.weight": Trap(tmp_path / "mark")}, tmp_path / "trap.pth")
    with (tmp_path / "bare.pth").open("wb") as f:
        pickle.dump(Trap(tmp_path / "mark"), f)
    for name in ("trap.pth", "bare.pth"):
        with pytest.raises(InputError, match="cannot be read as weights"):
            open_extractor("inception", weights=tmp_path / name)
    assert not (tmp_path / "mark").exists()


def test_a_download_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.URL_INCEPTION_V3", "http://127.0.0.1:9/x.pth")
    with pytest.raises(InputError, match="cannot download .*--inception-weights"):
        open_extractor("inception")


def test_downloaded_weights_are_kept_where_torch_hub_keeps_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, inception_weights: Path, ours: FeatureExtractor
) -> None:
    """The same folder and name as torch-fidelity's: whoever has used that has them."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    kept = tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    kept.parent.mkdir(parents=True)
    kept.symlink_to(inception_weights)
    assert open_extractor("inception").digest == ours.digest


HUB = """
import torch

dependencies = ["torch"]


class Patches(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Conv2d(3, 24, 14, stride=14)

    def forward(self, x):
        return self.embed(x).mean(dim=(2, 3))


def dinov2_vits14():
    torch.manual_seed(3)
    return Patches()
"""


def test_dinov2_is_torch_fidelitys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a small network in the place where torch.hub keeps the repository of DINOv2."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    repository = tmp_path / "hub" / "facebookresearch_dinov2_main"
    repository.mkdir(parents=True)
    (repository / "hubconf.py").write_text(HUB)
    ours = open_extractor("dinov2-vit-s-14")
    theirs = create_feature_extractor("dinov2-vit-s-14", ["dinov2"], cuda=torch.cuda.is_available(), verbose=False)
    assert ours.features(RGB).shape == (3, 24)
    assert torch.equal(ours.features(RGB), theirs(RGB)[0])
    assert ours.metric == "FD (dinov2-vit-s-14 features)"
    assert ours.facts()["input_size"] == 224


def test_dinov2_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "facebookresearch_dinov2_main").mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot load dinov2-vit-b-14 .*facebookresearch/dinov2"):
        open_extractor("dinov2-vit-b-14")


def test_clip_from_a_folder(tmp_path: Path) -> None:
    import open_clip

    config = {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "patch_size": 16, "head_width": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 8, "heads": 2, "layers": 1},
    }
    torch.manual_seed(4)
    model = open_clip.CLIP(**config)
    preprocess = {"size": 32, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "interpolation": "bicubic"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "open_clip_model.safetensors")
    ours = open_extractor(f"clip:local-dir:{tmp_path}")
    mean, std = (torch.tensor(preprocess[k])[:, None, None] for k in ("mean", "std"))
    with torch.inference_mode():
        theirs = model.eval().encode_image((RGB / 255 - mean) / std, normalize=True)
    torch.testing.assert_close(ours.features(RGB), theirs, rtol=1e-4, atol=1e-5)
    assert ours.facts()["input_size"] == 32
    assert "bicubic" in ours.facts()["resize"]
    assert ours.metric == f"FD (clip:local-dir:{tmp_path} features)"


def test_a_classifiers_features() -> None:
    classifier = load_classifier("emoji-gender")
    ours = open_extractor(classifier=classifier)
    assert torch.equal(ours.features(RGB), classifier.features(RGB))
    assert ours.metric == "FD (emoji-gender features)"
    assert ours.digest != open_extractor(classifier=load_classifier("emoji-vendor")).digest
    with pytest.raises(InputError, match="there is none"):
        open_extractor("classifier")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("inseption", "did you mean 'inception'"),
        ("dinov2", "dinov2-vit-s-14"),
        ("clip:ViT-B-32", "no weights"),
        ("clip:nothing:openai", "no model 'nothing'"),
        ("", "found no feature extractor ''"),
    ],
)
def test_unknown_extractors(spec: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_extractor(spec)
