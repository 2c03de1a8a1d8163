"""What the embedded text-to-image pipeline makes: `python tools/measure_emoji_t2i.py [--model FOLDER] [--each N]`.

Writes loss.png, samples.png (a row a prompt, at g = 3), README.md and the shares of women of every prompt by guidance
scale beside the pipeline.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from build_emoji_t2i import SHIPPED
from ship_model import FIRST_SEED, draw_loss

from fairsims.classifiers import load_classifier
from fairsims.classifiers.labelling import label_source
from fairsims.data.emoji_prompts import PLANTED
from fairsims.data.prompts import Prompts, read_prompts
from fairsims.files import atomic, read_json, read_jsonl, write_json
from fairsims.models import ModelSpec, PipelineModel, Prompting
from fairsims.models.precondition import resolve_precision
from fairsims.pools import Pool, write_pool
from fairsims.report.grids import image_grid

SCALES = (1.0, 2.0, 3.0, 5.0, 7.5)
STEPS = 10
READ = ("emoji-gender", "emoji-concept")
IN_PICTURE = 16


def pooled(base: str, prompts: Sequence[str], guidance: float, each: int, precision: str, folder: Path) -> Pool:
    """`each` images of every prompt at a guidance scale."""
    asked = Prompting(prompts=tuple(prompts), steps=STEPS, guidance_scale=guidance)
    model = PipelineModel(ModelSpec(base=base, precision=precision, batch_size=64, prompting=asked))
    first = FIRST_SEED + -FIRST_SEED % len(prompts)
    for _ in write_pool(folder, model, range(first, first + each * len(prompts))):
        pass
    return Pool(folder)


def called(pool: Pool) -> dict[str, np.ndarray]:
    """Predicted classes of each image by attribute."""
    found = {}
    for name in READ:
        classifier = load_classifier(name)
        places = label_source(pool, classifier).argmax(axis=1)
        found[classifier.attribute.name] = np.array(classifier.attribute.classes)[places]
    return found


def measure(base: str, each: int, precision: str, samples: Path) -> dict[str, Any]:
    """Shares of women and of the right concept, by prompt and guidance scale; explicit prompts at g = 3."""
    prompts = read_prompts("emoji-t2i")
    texts = (*prompts.of("neutral", "held-out", "unrelated"), "")
    scales: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for g in SCALES:
            pool = pooled(base, texts, g, each, precision, Path(scratch) / f"{g:g}")
            calls = called(pool)
            women = {t: float((calls["gender"][pool.positions == k] == "woman").mean()) for k, t in enumerate(texts)}
            right = [t[2:] == c for t, c in zip(np.array(texts)[pool.positions], calls["concept"], strict=True) if t]
            scales[f"{g:g}"] = {"women": women, "concept right": float(np.mean(right))}
            if g == 3:
                rows = [np.flatnonzero(pool.positions == k)[:IN_PICTURE] for k in range(len(texts))]
                image_grid(pool.read(np.concatenate(rows)), min(IN_PICTURE, each), samples, scale=1)
        explicit = prompts.of("explicit")
        pool = pooled(base, explicit, 3.0, max(4, each // 4), precision, Path(scratch) / "explicit")
        said = np.array([prompts.by_text[t].says for t in explicit])[pool.positions]
        kept = called(pool)["gender"] == said
    return {"scales": scales, "explicit kept": {s: float(kept[said == s].mean()) for s in ("man", "woman")}}


def summary(prompts: Prompts, women: dict[str, float]) -> tuple[float, float, float]:
    """Share of women in prompts planted below and above a half, and the mean distance from a half."""
    shares = {t[2:]: women[t] for t in prompts.of("neutral", "held-out")}
    low, high = ([s for c, s in shares.items() if (PLANTED[c] > 0.5) == more] for more in (False, True))
    return float(np.mean(low)), float(np.mean(high)), float(np.mean([abs(s - 0.5) for s in shares.values()]))


def page(folder: Path, found: dict[str, Any], each: int, precision: str) -> str:
    """README.md."""
    prompts = read_prompts("emoji-t2i")
    recipe, stats = read_json(folder / "recipe.json"), read_jsonl(folder / "stats.jsonl")
    shipped = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6
    numbers = {g: summary(prompts, v["women"]) for g, v in found["scales"].items()}
    table = "\n".join(
        f"| {g} | {low:.3f} | {high:.3f} | {off:.3f} | {found['scales'][g]['concept right']:.3f} |"
        for g, (low, high, off) in numbers.items()
    )
    rows = "\n".join(
        f"| {t or 'the empty prompt'} | {PLANTED.get(t[2:], float('nan')):.2f} | "
        + " | ".join(f"{found['scales'][g]['women'][t]:.2f}" for g in found["scales"])
        + " |"
        for t in (*prompts.of("neutral", "held-out"), "")
    ).replace("nan", "")
    kept, neutral = found["explicit kept"], 1 - recipe["empty"] - recipe["explicit"]
    floor = np.sqrt(2 / np.pi) * 0.5 / np.sqrt(each)
    return f"""# emoji-t2i

A StableDiffusionPipeline of a million parameters, trained on emoji people at 32x32 with captions `a CONCEPT`
({neutral:.0%}), `a man|woman CONCEPT` ({recipe["explicit"]:.0%}) and none ({recipe["empty"]:.0%}), with planted shares
of women by concept. Its autoencoder's latents are the pixels: its weights are set, not trained. It has memorised much
of its small training set. Made by

    python tools/build_emoji_t2i.py

in {recipe["steps"]:,} steps of {recipe["batch"]} images ({stats[-1]["seconds"] / 60:.0f} minutes of one thread
on a machine busy with other work). `recipe.json`, `stats.jsonl` and `loss.png` say how; {shipped:.1f} MB in all.

Samples at g = 3, {STEPS} steps, a row a prompt (neutral, held out, unrelated, the empty one):

![samples](samples.png)

{each} images a prompt ({STEPS} steps, {precision}, seeds from {FIRST_SEED}), called by `emoji-gender` and
`emoji-concept`, not corrected for their errors; a share's standard error is at most {0.5 / np.sqrt(each):.2f}, and
prompts at exactly 0.5 would read {floor:.3f} in the fourth column. Measured {dt.date.today()} on 2 cores (Xeon,
AVX512-BF16) by `python tools/measure_emoji_t2i.py --each {each}`:

| guidance scale g | women, prompts of men | women, prompts of women | mean of abs(share - 0.5) | concept right |
|---|---|---|---|---|
{table}

`concept right` is what the probe says, which learned from clean pictures; its errors on samples are not measured.

Explicit prompts at g = 3 ({max(4, each // 4)} images each): `a man CONCEPT` gives men in {kept["man"]:.3f}, `a woman
CONCEPT` women in {kept["woman"]:.3f}.

Share of women by prompt and guidance scale:

| prompt | planted | {" | ".join(f"g = {g}" for g in found["scales"])} |
|---|---|{"---|" * len(found["scales"])}
{rows}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write beside the pipeline."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, default=SHIPPED)
    parser.add_argument("--each", type=int, default=32, help="images of each prompt and guidance scale")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args(arguments)
    folder, precision = options.model, resolve_precision(options.precision)
    draw_loss(folder / "stats.jsonl", folder / "loss.png")
    found = measure(str(folder), options.each, precision, folder / "samples.png")
    write_json(folder / "shares.json", found)
    with atomic(folder / "README.md") as temporary:
        temporary.write_text(page(folder, found, options.each, precision), encoding="utf-8")
    print(json.dumps({g: summary(read_prompts("emoji-t2i"), v["women"]) for g, v in found["scales"].items()}))


if __name__ == "__main__":
    main()
