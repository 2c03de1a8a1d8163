"""What is no further sample is counted, said and kept in the audit; what was read and passed over stands beside it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support import MakePool
from torch import Tensor

from fairsims.audit import screened
from fairsims.audit.command import AuditConfig, run_audit
from fairsims.audit.result import AuditResult
from fairsims.audit.screened import screening_notes, stored_screening
from fairsims.cli import main
from fairsims.data import ImageDataset, open_dataset
from fairsims.data.screening import looked_at, near_pairs, screen
from fairsims.errors import InputError
from fairsims.files import write_json
from fairsims.pools import Pool, compact_seeds, encode_png, open_source, write_shard
from fairsims.pools.reading import FORMAT
from fairsims.report.publish import publish


def save(folder: Path, pixels: np.ndarray, start: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    for k, image in enumerate(pixels):
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(folder / f"{start + k:04d}.png")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRSIMS_CACHE", str(tmp_path / "cache"))


def test_exact_and_near_copies_of_twenty_pictures(tmp_path: Path) -> None:
    twenty = open_dataset("emoji-people").subset(range(0, 1994, 100)).read(range(20)).numpy()
    save(tmp_path / "a", np.concatenate([twenty] * 10))
    for k, image in enumerate(twenty):  # and once more, slightly brighter or as JPEG
        if k % 2:
            again = np.clip(image.astype(np.int16) + 2, 0, 255).astype(np.uint8)
        else:
            buffer = io.BytesIO()
            Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "JPEG", quality=85)
            again = np.asarray(Image.open(buffer)).transpose(2, 0, 1)
        save(tmp_path / "a", again[None], 1000 + k)
    found = screen(open_dataset(str(tmp_path / "a")))
    assert (found.n, found.copies.n, found.near.n, found.different) == (220, 180, 20, 20)
    assert found.worth == pytest.approx(20) and found.copies.names[0] == "0020.png"
    said = " ".join(screening_notes("before", found))
    assert "180 of 220" in said and "worth about 20" in said and "factor of about 3.3" in said


def test_a_pool_is_screened_shard_by_shard_and_gone_on_with_after_a_kill(
    digits: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies within a shard and in another one: what is found is that of one pass over all."""
    folder, store = tmp_path / "pool", tmp_path / "store"
    rows = [*range(0, 40), *range(5, 15), *range(40, 60), 41]
    pngs = [encode_png(image) for image in digits.read(rows)]
    seeds = list(range(len(rows)))
    for k, start in enumerate(range(0, len(rows), 16)):
        write_shard(folder / f"shard-{k:05d}.parquet", seeds[start : start + 16], pngs[start : start + 16])
    facts = {"format": FORMAT, "made_by": {"kind": "digits"}, "evaluations_per_image": 1, "shape": [1, 8, 8]}
    write_json(folder / "pool.json", facts | {"seeds": compact_seeds(seeds)})
    pool, looks = Pool(folder), []

    def killed(batch: Tensor) -> Any:
        looks.append(len(batch))
        if len(looks) == 3:
            raise KeyboardInterrupt
        return looked_at(batch)

    with monkeypatch.context() as patch:
        patch.setattr(screened, "looked_at", killed)
        with pytest.raises(KeyboardInterrupt):
            stored_screening(pool, store)
    (parts,) = store.iterdir()
    made = sorted(parts.iterdir())
    assert [p.name for p in made] == ["shard-00000.npy", "shard-00001.npy"]
    made[1].write_bytes(made[1].read_bytes()[:-9])
    kept = made[0].stat().st_mtime_ns
    said: list[tuple[int, int]] = []
    with monkeypatch.context() as patch:
        patch.setattr(screened.shutil, "rmtree", lambda path: None)
        found = stored_screening(pool, store, lambda *of: said.append(of))
    assert found == screen(pool)
    assert (found.n, found.copies.n, found.copies.names[0]) == (71, 11, "40")
    assert made[0].stat().st_mtime_ns == kept, "a shard that was done is not looked at again"
    assert said[-1] == (71 - 16, 71)
    for path in (*store.glob("*.json"), *parts.iterdir()):
        path.unlink()
    assert stored_screening(pool, store) == found
    assert [p.suffix for p in store.iterdir()] == [".json"]


def test_different_pictures_are_different(digits: ImageDataset) -> None:
    found = screen(digits)
    assert (found.copies.n, found.near.n, found.constant.n, found.worth) == (0, 0, 0, 1797)
    assert not list(screening_notes("before", found))


def test_pictures_of_one_colour_are_named(tmp_path: Path, digits: ImageDataset) -> None:
    pixels = digits.read(range(100)).numpy()
    pixels[[7, 30, 60]] = 0
    save(tmp_path / "a", pixels)
    found = screen(open_dataset(str(tmp_path / "a")))
    assert (found.constant.n, found.constant.names, found.copies.n) == (3, ("0007.png", "0030.png", "0060.png"), 2)


def test_near_pairs_are_found_among_many() -> None:
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 2**63, 5000, dtype=np.uint64)
    thumbnails = generator.integers(0, 256, (5000, 64), dtype=np.uint8)
    hashes[4999], thumbnails[4999] = hashes[10] ^ np.uint64(0b101), thumbnails[10]
    hashes[4998] = hashes[11]  # the hash alone does not do
    assert near_pairs(hashes, thumbnails).tolist() == [[10, 4999]]


@pytest.mark.parametrize("n", [1, 2])
def test_few_images(digits: ImageDataset, n: int) -> None:
    assert screen(digits.subset(range(n))).worth == n


def test_a_pool_is_screened_and_the_result_kept(tmp_path: Path, digits_pool: MakePool) -> None:
    pool = digits_pool(20, 20)
    found = stored_screening(pool, tmp_path / "store")
    (file,) = (tmp_path / "store").iterdir()
    file.write_text(file.read_text().replace('"worth": 40.0', '"worth": 39.0'))
    assert found.worth == 40 and stored_screening(pool, tmp_path / "store").worth == 39
    file.write_text("{")
    assert stored_screening(pool, tmp_path / "store") == found


def audited(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["audit", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_an_audit_says_what_it_read(tmp_path: Path, digits: ImageDataset) -> None:
    """Digits of two shapes beside litter, an animation, a copy and a black picture, in one command."""
    pixels = digits.read(range(120)).numpy().repeat(2, axis=2).repeat(2, axis=3)
    save(tmp_path / "a", pixels[:60])
    wide = np.zeros((60, 1, 16, 24), dtype=np.uint8)
    wide[:, :, :, 4:20] = pixels[60:]
    wide[0] = 0
    save(tmp_path / "a", wide, 60)
    save(tmp_path / "a", pixels[:1], 120)
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"x")
    frames = [Image.new("L", (8, 8), k * 50) for k in range(3)]
    frames[0].save(tmp_path / "a" / "z.gif", save_all=True, append_images=frames[1:])
    command = ("--before", str(tmp_path / "a"), "--attr", "parity", "--resize", "8")
    found = audited(*command)
    pool = found["pools"]["before"]
    assert pool["found"]["n"] == 121 and pool["found"]["sizes"] == {"16x16": 61, "24x16": 60}
    assert {r: p["n"] for r, p in pool["found"]["passed"].items()} == {
        "animations": 1,
        "left by an operating system": 1,
    }
    assert pool["found"]["policy"]["resize"] == 8 and pool["found"]["policy"]["fit"] == "crop"
    assert (pool["screening"]["copies"]["n"], pool["screening"]["constant"]["n"]) == (1, 1)
    # The cropped pictures are the digits themselves.
    plain = digits.read(range(60, 120)).numpy()
    read = open_source(tmp_path / "a", AuditConfig(before="x", attr=("parity",), resize=8).policy).read(range(61, 120))
    assert np.array_equal(read.numpy(), plain[1:])
    shown = CliRunner().invoke(main, ["audit", *command], catch_exceptions=False).stdout
    for words in ("passed over", "1 animations (z.gif)", "61 of 16x16, 60 of 24x16", "one colour", "worth"):
        assert words in shown
    assert AuditResult.from_json(found).pools["before"].screening is not None


def test_the_report_shows_them_and_a_broken_image_stops_before_work(tmp_path: Path, digits: ImageDataset) -> None:
    save(tmp_path / "a", np.concatenate([digits.read(range(30)).numpy()] * 2))
    config = AuditConfig(before=str(tmp_path / "a"), attr=("parity",))
    result = run_audit(config, tmp_path / "run", publish=publish)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "worth" in page and "too narrow" in page and "too narrow" in result.warnings[-1]
    whole = (tmp_path / "a" / "0059.png").read_bytes()
    (tmp_path / "a" / "0059.png").write_bytes(whole[:-30])
    with pytest.raises(InputError, match=r"0059\.png .* unreadable"):
        run_audit(config, None, publish=publish)


def test_a_pool_of_another_size_is_read_as_its_parquet(digits_pool: MakePool) -> None:
    pool = digits_pool(20, 20)
    found = audited("--before", str(pool.folder), "--attr", "parity", "--resize", "8")
    assert found["pools"]["before"]["kind"] == "pool"
    smaller = open_source(pool.folder, AuditConfig(before="x", attr=("parity",), resize=4).policy)
    assert smaller.shape == (1, 4, 4) and smaller.ids.tolist() == pool.seeds.tolist()
