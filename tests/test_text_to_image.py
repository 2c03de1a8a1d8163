"""Text-to-image through the command line, on tiny pipelines of random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import refused, succeeds
from tiny_pipelines import make_tiny

from fairsims.pools import Pool, pool_latents

pytest.importorskip("diffusers")
PROMPTS = 'neutral = "a photo of a {occupation}"\nunrelated = "a tree"\n[lists]\noccupation = ["nurse", "pilot"]\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("sd", tmp_path_factory.mktemp("tiny") / "sd")


def test_generate_asks_for_the_prompts_of_a_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(PROMPTS)
    asked = ("generate", "--model", folder, "--prompts", tmp_path / "p.toml", "--seeds", "0-6", "--steps", 2)
    found = succeeds(*asked, "--guidance-scale", 2, "--size", "32,32", "--latents", "--out", tmp_path / "pool")
    assert found["evaluations_per_image"] == 4
    pool = Pool(tmp_path / "pool")
    assert pool.conditions == ("a photo of a nurse", "a photo of a pilot", "a tree")
    assert (len(pool), pool.shape, len(pool_latents(pool))) == (7, (3, 32, 32), 7)
    assert pool.meta["sampler"]["guidance"] == 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prompts", "winobias", "--solver", "euler"), "--solver changes nothing with --prompts"),
        (("--guidance-scale", 3), "--guidance-scale changes nothing without --prompts"),
        (("--prompts", "nothing.toml"), "no prompt file 'nothing.toml'"),
        (("--prompts", "winobias", "--guidance-scale", -1), "--guidance-scale is -1.0; expected 0 or more"),
        (("--prompts", "winobias", "--size", "32"), "--size is (32,); expected a height and a width"),
        ((), "is a diffusers pipeline; give --prompts if it is text-to-image"),
    ],
)
def test_generate_refuses_in_one_line(options: tuple[object, ...], message: str, folder: Path, tmp_path: Path) -> None:
    assert message in refused("generate", "--model", folder, "--out", tmp_path / "pool", *options)
    assert not (tmp_path / "pool").exists()
