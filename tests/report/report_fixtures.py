"""A finished run as the pipeline leaves it, small: numbers as a real run gave them, drawn faces for images."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fairsims.audit.result import AuditResult
from fairsims.report.grids import image_grid
from fairsims.report.terminal import terminal_table


def printed(value: dict[str, Any]) -> str:
    """What the command line prints of an audit."""
    return terminal_table(AuditResult.from_json(value))


DIGEST = "9f2c4d1e7b8a6053f1e2d3c4b5a697887766554433221100ffeeddccbbaa9988"


def _two(man: float, low: float, high: float, raw: float, n: int = 2048) -> dict[str, Any]:
    count = round(raw * n)
    return {
        "man": {"share": man, "low": low, "high": high, "raw": raw, "count": count},
        "woman": {"share": 1 - man, "low": 1 - high, "high": 1 - low, "raw": 1 - raw, "count": n - count},
    }


_BEFORE, _AFTER = _two(0.749, 0.730, 0.768, 0.7402), _two(0.502, 0.479, 0.525, 0.5044)

AUDIT: dict[str, Any] = {
    "format": "fairsims-audit/1",
    "created": "2026-11-22T07:00:00Z",
    "fairsims": "0.1.0",
    "attributes": {
        "gender": {
            "classes": ["man", "woman"],
            "focus": "woman",
            "target": {"man": 0.5, "woman": 0.5},
            "tolerance": 0.03,
            "split": "variant",
            "before": _BEFORE,
            "after": _AFTER,
            "difference": {
                "man": {"delta": -0.247, "low": -0.274, "high": -0.220},
                "woman": {"delta": 0.247, "low": 0.220, "high": 0.274},
            },
            "by_split": {
                "variant": {"before": _BEFORE, "after": _AFTER},
                "concept": {"before": _two(0.771, 0.702, 0.838, 0.7402), "after": _two(0.466, 0.391, 0.540, 0.5044)},
            },
            "method": "Rogan-Gladen point, Lang-Reiczigel interval",
            "reached": True,
        }
    },
    "classifier": {
        "name": "emoji-gender",
        "digest": DIGEST,
        "attribute": "gender",
        "confusions": {
            "variant": {"counts": [[652, 12], [5, 635]], "description": "held-out skin tones of known concepts"},
            "concept": {"counts": [[519, 145], [58, 582]], "description": "held-out concepts"},
        },
    },
    "quality": {
        "metric": "FD (emoji-gender features)",
        "reference": {
            "name": "emoji-people-skewed",
            "digest": DIGEST[::-1],
            "labels": "its own",
            "n": 885,
            "nearest_median": 0.31,
            "nearest_low": 0.12,
        },
        "precision_recall": {"k": 3, "n": 885, "sampling": "equal numbers, drawn from a fixed seed"},
        "before": {
            "fd_reference": 1.08,
            "fd_target": 6.48,
            "precision": 0.873,
            "recall": 0.761,
            "nearest_median": 0.42,
            "nearest_low": 0.17,
            "n": 2048,
        },
        "after": {
            "fd_reference": 6.02,
            "fd_target": 2.36,
            "precision": 0.851,
            "recall": 0.742,
            "nearest_median": 0.44,
            "nearest_low": 0.19,
            "n": 2048,
        },
    },
    "cost": {
        "before": {"evaluations_per_image": 23},
        "after": {"evaluations_per_image": 23, "images_per_kept": 1.0},
        "resampling_base": {"images_per_kept": 1.992, "evaluations_per_kept": 45.8},
        "stages": [
            {"stage": "pool", "images": 3072, "evaluations": 70656, "seconds": 64.1},
            {"stage": "finetune", "images": 9600, "evaluations": None, "seconds": 41.0},
            {"stage": "calibrate", "images": 3072, "evaluations": 70656, "seconds": 62.0},
            {"stage": "audit", "images": 4096, "evaluations": 94208, "seconds": 83.2},
        ],
        "seconds": 250.3,
        "peak_memory_gb": 1.9,
    },
    "method": {
        "mode": "merged",
        "strength": 1.17,
        "planned_strength": 1.0,
        "least_strength": 1.0,
        "complement": {"man": 1.0, "woman": 0.0},
        "complement_size": 2100,
        "budget_kimg": 9.6,
        "reason": "merging reaches the target at half the evaluations of guidance",
    },
    "calibration": [
        {"strength": 0.0, "share": 0.252, "low": 0.225, "high": 0.280, "n": 1024},
        {"strength": 0.75, "share": 0.391, "low": 0.360, "high": 0.422, "n": 1024},
        {"strength": 1.25, "share": 0.519, "low": 0.487, "high": 0.551, "n": 1024},
    ],
    "pools": {
        "before": {"n": 2048, "seeds": [[200000, 202047]], "checkpoint": DIGEST},
        "after": {"n": 2048, "seeds": [[200000, 202047]], "checkpoint": DIGEST[::-1]},
    },
    "model": "emoji-people-32",
    "command": "fairsims retarget --attr gender --target 0.5",
    "warnings": ["the share of gender moves by 3.6 points with the confusion split"],
}


def audit(**changes: Any) -> dict[str, Any]:
    """A copy of AUDIT with top-level keys replaced, or dropped where the change is None."""
    value = copy.deepcopy(AUDIT) | changes
    return {k: v for k, v in value.items() if v is not None}


def single_source() -> dict[str, Any]:
    """The audit of one pool: nothing was retargeted."""
    value = audit(method=None, calibration=[], warnings=[])
    gender = value["attributes"]["gender"]
    for key in ("target", "after", "difference", "reached", "tolerance"):
        del gender[key]
    for sides in gender["by_split"].values():
        del sides["after"]
    del value["quality"]["after"], value["pools"]["after"]
    value["cost"] = {"before": value["cost"]["before"], "seconds": 80.0}
    return value


TONES = ("none", "light", "medium-light", "medium", "medium-dark", "dark")


def several() -> dict[str, Any]:
    """The audit of two attributes with targets and one that was held, in two rounds."""
    value = audit()
    gender = value["attributes"]["gender"]
    tones = {
        side: _many(TONES, shares)
        for side, shares in (
            ("before", (0.20, 0.21, 0.17, 0.16, 0.14, 0.12)),
            ("after", (0.17, 0.16, 0.175, 0.165, 0.17, 0.16)),
        )
    }
    vendors = {
        side: _many(("noto", "twemoji"), shares)
        for side, shares in (("before", (0.52, 0.48)), ("after", (0.505, 0.495)))
    }
    common = {"split": "variant", "method": "simplex-constrained inversion, Dirichlet Monte Carlo"}
    value["attributes"]["skin_tone"] = common | {
        "classes": list(TONES),
        "focus": "dark",
        "target": dict.fromkeys(TONES, 1 / 6),
        "tolerance": 0.03,
        "reached": None,
        "difference": _change(tones),
        "by_split": {"variant": tones, "concept": tones},
        **tones,
    }
    value["attributes"]["vendor"] = common | {
        "classes": ["noto", "twemoji"],
        "focus": "noto",
        "difference": _change(vendors),
        "by_split": {"variant": vendors},
        "drift": {"limit": 0.03, "largest": 0.015, "preserved": None},
        **vendors,
    }
    counts = [[330 if i == j else 3 for j in range(6)] for i in range(6)]
    facts = {"name": "emoji-skin-tone", "digest": DIGEST, "attribute": "skin_tone"}
    value["classifiers"] = {
        "gender": value["classifier"],
        "skin_tone": facts | {"confusions": {"variant": {"counts": counts, "description": "single designs held out"}}},
        "vendor": value["classifier"] | {"name": "emoji-vendor", "attribute": "vendor"},
    }
    cells = [f"{g} & {t} & {v}" for g in ("man", "woman") for t in TONES for v in ("noto", "twemoji")]
    value["controlled"] = {"cells": cells[12:], "target": 0.51, "after": {"share": 0.50, "low": 0.478, "high": 0.522}}
    value["method"]["complement"] = {c: (1 - k // 12) / 12 for k, c in enumerate(cells)}
    rounds = [
        {"complement_size": 1797, "strength": 1.31, "error": 1.43},
        {"complement_size": 1720, "strength": 1.17, "error": 0.62},
    ]
    value["rounds"] = [{"round": k, "kept": k == 2} | r for k, r in enumerate(rounds, start=1)]
    value["command"] = "fairsims retarget --attr gender --target 0.5 --attr skin_tone --target uniform --hold vendor"
    assert gender["reached"]
    return value


def _many(classes: tuple[str, ...], shares: tuple[float, ...], n: int = 2048) -> dict[str, Any]:
    return {
        c: {"share": s, "low": s - 0.017, "high": s + 0.017, "raw": s, "count": round(s * n)}
        for c, s in zip(classes, shares, strict=True)
    }


def _change(sides: dict[str, dict[str, Any]]) -> dict[str, Any]:
    delta = {c: sides["after"][c]["share"] - sides["before"][c]["share"] for c in sides["after"]}
    return {c: {"delta": d, "low": d - 0.024, "high": d + 0.024} for c, d in delta.items()}


def faces(n: int, seed: int) -> np.ndarray:
    """Round heads on white in a few tones, `(n, 3, 32, 32)` uint8."""
    rng = np.random.default_rng(seed)
    tones = [(255, 220, 93), (247, 222, 206), (191, 105, 51), (102, 69, 48), (187, 68, 48)]
    out = []
    for _ in range(n):
        image = Image.new("RGB", (32, 32), "white")
        draw = ImageDraw.Draw(image)
        draw.rectangle((6, 24, 26, 31), fill=tuple(int(v) for v in rng.integers(0, 200, 3)))
        draw.ellipse((5, 3, 27, 27), fill=tones[rng.integers(len(tones))])
        draw.pieslice((5, 1, 27, 25), 180, 360, fill=tuple(int(v) for v in rng.integers(0, 120, 3)))
        draw.point([(12, 17), (20, 17), (15, 22), (16, 22), (17, 22)], fill="black")
        out.append(np.asarray(image).transpose(2, 0, 1))
    return np.stack(out)


def finished_run(root: Path, name: str = "00003-gender-0.50", value: dict[str, Any] | None = None) -> Path:
    """A run folder with everything that report and dashboard read, but no report yet."""
    run = root / name
    (run / "audit").mkdir(parents=True)
    _json(run / "audit" / "audit.json", AUDIT if value is None else value)
    _json(run / "config.json", {"attr": "gender", "target": 0.5, "seed": 0})
    _json(run / "status.json", {"stage": "report", "state": "finished", "message": ""})
    for side, seed in (("before", 1), ("after", 2)):
        image_grid(faces(64, seed), 8, run / "audit" / f"grid-{side}.png")
    return run


def running_run(root: Path, name: str = "00004-gender-0.50") -> Path:
    """A run in the middle of fine-tuning; the last line of its log is cut off as a kill leaves it."""
    run = root / name
    run.mkdir(parents=True)
    _json(run / "config.json", {"attr": "gender", "target": 0.5, "seed": 0})
    _json(run / "status.json", {"stage": "finetune", "state": "running", "message": "6.4 of 9.6 kimg"})
    lines = [json.dumps({"stage": "finetune", "kimg": k / 10, "loss": 0.21 - k / 1000}) for k in range(0, 64, 8)]
    (run / "stats.jsonl").write_text("\n".join([*lines, '{"stage": "fine']), encoding="utf-8")
    return run


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
