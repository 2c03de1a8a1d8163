"""What a GPU does with fairsims, in one command of eight minutes: `python bench/gpu.py [--out build/gpu]`.

Networks of the size of CIFAR-10's, FFHQ-64's and Stable Diffusion's with random weights: nothing is fetched. Every part
has a time budget of its own; a case that does not fit into what is left of it is named and left out, as is one that the
machine cannot do. Results go to `gpu.json` after every case, so that a kill leaves what there is, and to `gpu.md`.
`--tiny` does the same at sizes for a CPU and a test; its numbers mean nothing. `--only PART ...` leaves parts out.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from gpu_cases import Case, Sizes, Unable
from gpu_parts import PARTS
from timing import DEVICE

from fairsims.files import atomic, now, write_json

BUDGETS = {"peak": 15, "sampling": 130, "training": 90, "labelling": 35, "adapter": 80, "emoji": 110}
"""Seconds of each part on a GPU."""


@dataclass
class Book:
    """What came out, written as it comes."""

    folder: Path
    facts: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, part: str, case: str, values: Mapping[str, Any]) -> None:
        """Note a case and say it."""
        self.rows.append({"part": part, "case": case, **values})
        print(f"{part:<10} {case:<58} {', '.join(f'{k} {written(v)}' for k, v in values.items())}", flush=True)
        write_json(self.folder / "gpu.json", self.facts | {"rows": self.rows})

    def markdown(self) -> str:
        """A table for each part."""
        told = ", ".join(f"{k} {v}" for k, v in self.facts.items() if k != "format")
        lines = ["# What the GPU script measured", "", f"{told}.", ""]
        for part in dict.fromkeys(r["part"] for r in self.rows):
            mine = [r for r in self.rows if r["part"] == part]
            names = list(dict.fromkeys(k for r in mine for k in r if k not in ("part", "case")))
            lines += [f"## {part}", "", "| case | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
            for r in mine:
                cells = [written(r[k]) if k in r else "" for k in names]
                lines.append(f"| {r['case']} | " + " | ".join(cells) + " |")
            lines.append("")
        return "\n".join(lines)


def written(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def carry_out(part: str, cases: Iterator[Case], seconds: float, book: Book) -> None:
    """Every case of a part for which there is time; what fails is told in its row."""
    began = time.perf_counter()
    for case, need, measure in cases:
        left = seconds - (time.perf_counter() - began)
        if left < need:
            book.add(part, case, {"left out": f"needs about {need:.0f} s, {max(left, 0):.0f} s of the part's are left"})
            continue
        try:
            book.add(part, case, measure())
        except Unable as e:
            book.add(part, case, {"left out": str(e)})
        except torch.OutOfMemoryError:
            book.add(part, case, {"left out": "out of memory"})
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()


def machine() -> dict[str, Any]:
    """What the numbers were made on."""
    found: dict[str, Any] = {"format": "fairsims-gpu/1", "created": now(), "torch": torch.__version__}
    if DEVICE.type == "cuda":
        p = torch.cuda.get_device_properties(0)
        return found | {"device": p.name, "memory_gb": round(p.total_memory / 1e9, 1), "cuda": str(torch.version.cuda)}
    return found | {"device": f"{platform.machine()} CPU, {torch.get_num_threads()} threads"}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/gpu"))
    parser.add_argument("--seconds", type=float, default=460, help="All parts together; their shares stay.")
    parser.add_argument("--tiny", action="store_true", help="Sizes for a test on a CPU.")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    args = parser.parse_args(arguments)
    if DEVICE.type == "cpu" and not args.tiny:
        sys.exit("error: found no GPU; these sizes take hours on a CPU; give --tiny to try the script")
    args.out.mkdir(parents=True, exist_ok=True)
    sizes, book = Sizes.tiny() if args.tiny else Sizes(), Book(args.out, machine() | {"tiny": args.tiny})
    began, scale = time.perf_counter(), args.seconds / sum(BUDGETS.values())
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        # torch.compile speaks of the machine's insides.
        warnings.simplefilter("ignore")
        for part in args.only:
            left = args.seconds - (time.perf_counter() - began)
            carry_out(part, PARTS[part](sizes, Path(scratch)), min(left, BUDGETS[part] * scale), book)
    book.facts["seconds"] = round(time.perf_counter() - began, 1)
    write_json(args.out / "gpu.json", book.facts | {"rows": book.rows})
    with atomic(args.out / "gpu.md") as temporary:
        temporary.write_text(book.markdown(), encoding="utf-8")
    print(f"\n{book.facts['seconds']} s; {args.out / 'gpu.json'}, {args.out / 'gpu.md'}")


if __name__ == "__main__":
    main()
