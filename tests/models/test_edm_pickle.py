"""EDM snapshots: every kind of network comes through, into a folder or the cache, and stands for a checkpoint."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from edm_snapshots import dumps, snapshot, tiny, write_snapshot

from fairsims.cli import main
from fairsims.errors import InputError
from fairsims.files import read_json, sha256_file
from fairsims.models import EDMDenoiser, ModelSpec, open_checkpoint, open_model
from fairsims.models.edm_pickle import import_edm, read_snapshot
from fairsims.models.sampling import SamplerConfig, solve

EDM = Path(__file__).parents[1] / "fixtures" / "edm"
pytestmark = pytest.mark.usefixtures("pwned")


# --- What NVlabs' own code wrote; that the networks equal its own is in test_songunet.py.


def test_imported_networks_sample_edms_images(tmp_path: Path) -> None:
    with np.load(EDM / "songunet-ddpmpp.npz") as stored:
        latents, images = torch.from_numpy(stored["latents"]), torch.from_numpy(stored["images"])
    import_edm(EDM / "songunet-ddpmpp.pkl", tmp_path / "model")
    found = solve(open_checkpoint(tmp_path / "model").denoiser, latents, SamplerConfig(solver="heun", steps=6))
    assert (found - images).abs().max() < 1e-4


def test_the_recipe_says_where_a_network_came_from(tmp_path: Path) -> None:
    file = EDM / "songunet-ddpmpp-cond.pkl"
    digest = import_edm(file, tmp_path / "model").digest
    assert digest == open_checkpoint(tmp_path / "model").digest
    recipe = open_checkpoint(tmp_path / "model").recipe
    assert (recipe["sha256"], recipe["class"], recipe["network"]) == (sha256_file(file), "EDMPrecond", "SongUNet")
    assert recipe["dataset"]["path"] == "datasets/tiny-16x16.zip"
    assert recipe["train"] == {"xflip": False}
    assert (recipe["loss"]["class"], recipe["augment"]["p"]) == ("EDMLoss", 0.12)
    assert "CC BY-NC-SA 4.0" in recipe["licence"]
    config = read_json(tmp_path / "model" / "config.json")["config"]
    assert {k: config[k] for k in ("label_dim", "augment_dim", "attn_resolutions", "sigma_min", "sigma_max")} == {
        "label_dim": 4,
        "augment_dim": 9,
        "attn_resolutions": [8],
        "sigma_min": 0.002,
        "sigma_max": 80.0,
    }


# --- Every kind of network, written in the same form.

NCSNPP = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
    "channel_mult": [1, 2],
}
KINDS: dict[str, dict[str, Any]] = {
    "ncsnpp": NCSNPP,
    "skip": {"encoder_type": "skip", "decoder_type": "skip", "channel_mult": [1, 1], "label_dropout": 0.1},
    "adm": {"architecture": "dhariwal", "label_dim": 3, "channel_mult": [1, 8], "attn_resolutions": [4]},
    "vp": {"preconditioning": "vp", "beta_d": 18.5, "M": 500, "epsilon_t": 1e-3},
    "ve": {"preconditioning": "ve", "augment_dim": 9, **NCSNPP},
    "iddpm": {"preconditioning": "iddpm", "architecture": "dhariwal", "M": 200},
    "sigma_data": {"sigma_data": 0.7},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_through_unchanged(kind: str, tmp_path: Path) -> None:
    network = tiny(**KINDS[kind])
    write_snapshot(tmp_path / "x.pkl", network, module_src="raise SystemExit('the embedded source was run')")
    import_edm(tmp_path / "x.pkl", tmp_path / "model")
    loaded = open_checkpoint(tmp_path / "model").network
    x, sigma = torch.randn(3, *network.shape), torch.tensor([0.03, 1.0, 70.0])
    labels = torch.eye(3) if network.label_dim else None
    assert torch.equal(loaded(x, sigma, labels), network(x, sigma, labels))
    assert (loaded.sigma_min, loaded.sigma_max) == pytest.approx((network.sigma_min, network.sigma_max))
    assert isinstance(loaded, EDMDenoiser)
    assert (loaded.preconditioning, loaded.schedule) == (network.preconditioning, network.schedule)
    assert torch.equal(loaded.round_sigma(sigma), network.round_sigma(sigma))


def test_numpy_before_2_and_protocol_5_are_read(tmp_path: Path) -> None:
    content = snapshot(tiny())
    data = dumps(content)
    assert b"numpy._core.multiarray" in data
    old = data.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    for i, found in enumerate((old, dumps(content, protocol=5))):
        (tmp_path / f"{i}.pkl").write_bytes(found)
        assert read_snapshot(tmp_path / f"{i}.pkl").denoiser.config == tiny().config


def test_use_fp16_is_a_fact_and_half_weights_are_widened(tmp_path: Path) -> None:
    network = tiny()
    expected = {k: v.half().float() for k, v in network.state_dict().items()}
    write_snapshot(tmp_path / "x.pkl", network.half(), use_fp16=True)
    found = read_snapshot(tmp_path / "x.pkl")
    assert found.recipe["use_fp16"] is True
    assert all(torch.equal(v, expected[k]) for k, v in found.denoiser.state_dict().items())


def test_the_sampled_range_is_inside_the_trained_one(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "x.pkl", tiny(preconditioning="ve"), sigma_min=0.05, sigma_max=60)
    found = read_snapshot(tmp_path / "x.pkl").denoiser
    assert (found.sigma_min, found.sigma_max) == (0.05, 60)


# --- Folders, the cache and the commands.


def test_a_folder_is_whole_or_absent_and_never_overwritten(tmp_path: Path) -> None:
    file, out = EDM / "songunet-ddpmpp.pkl", tmp_path / "deep" / "model"
    digest = import_edm(file, out).digest
    assert sorted(p.name for p in out.parent.iterdir()) == ["model"]
    before = (out / "model.safetensors").stat().st_mtime_ns
    assert import_edm(file, out).digest == digest
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="holds something else already"):
        import_edm(EDM / "songunet-ddpmpp-cond.pkl", out)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="holds something else already"):
        import_edm(file, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert import_edm(file, tmp_path / "empty").digest == digest
    with pytest.raises(InputError, match="is no file; expected an EDM snapshot"):
        import_edm(tmp_path / "nothing.pkl", tmp_path / "new")


def test_a_snapshot_stands_for_a_checkpoint(tmp_path: Path) -> None:
    file = EDM / "songunet-ddpmpp.pkl"
    digest = open_checkpoint(file).digest
    (cached,) = (tmp_path / "cache" / "edm").iterdir()
    assert cached.name == sha256_file(file)
    before = (cached / "model.safetensors").stat().st_mtime_ns
    assert open_checkpoint(file).network.img_resolution == 16
    assert open_checkpoint(file).recipe["file"] == file.name
    assert (cached / "model.safetensors").stat().st_mtime_ns == before
    assert import_edm(file, tmp_path / "model").digest == digest


def test_several_may_import_at_once(tmp_path: Path) -> None:
    start = threading.Barrier(4)

    def digest(_: int) -> str:
        start.wait()
        return open_checkpoint(EDM / "songunet-ddpmpp.pkl").digest

    with ThreadPoolExecutor(4) as threads:
        found = set(threads.map(digest, range(4)))
    assert len(found) == 1
    (cached,) = (tmp_path / "cache" / "edm").iterdir()
    assert sorted(p.name for p in cached.iterdir()) == ["config.json", "model.safetensors"]


def test_other_files_are_no_checkpoints(tmp_path: Path) -> None:
    for name in ("model.pt", "model.safetensors"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(InputError, match=f"{name} is a file; expected a checkpoint folder, an EDM snapshot"):
            open_checkpoint(tmp_path / name)
    with pytest.raises(InputError, match="no checkpoint folder"):
        open_checkpoint(tmp_path / "gone.pkl")


def test_the_command_prints_what_it_made(tmp_path: Path) -> None:
    file, out = EDM / "songunet-ddpmpp-cond.pkl", tmp_path / "model"
    result = CliRunner().invoke(main, ["import", "edm", str(file), str(out), "--json"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["digest"] == open_checkpoint(out).digest
    assert (printed["class"], printed["network"]) == ("EDMPrecond", "SongUNet")


def test_a_snapshot_is_the_base_of_a_guided_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base.pkl").write_bytes((EDM / "songunet-ddpmpp.pkl").read_bytes())
    import_edm(tmp_path / "base.pkl", tmp_path / "aux")
    monkeypatch.chdir(tmp_path)
    open_model(ModelSpec(base="base.pkl", auxiliary="aux", strength=0.5, mode="guided")).export(Path("guided"))
    monkeypatch.chdir("/")
    assert open_checkpoint(tmp_path / "guided").denoiser.img_resolution == 16


def test_commands_take_a_snapshot(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main,
        [
            "generate",
            "--model",
            str(EDM / "songunet-ddpmpp.pkl"),
            "--seeds",
            "0-3",
            "--steps",
            "2",
            "--out",
            str(tmp_path / "pool"),
            "--json",
        ],
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["images"] == 4
