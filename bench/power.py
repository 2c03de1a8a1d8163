"""How surely an audit says "reached", by target and classifier: as it is promised, and by simulation.

    python bench/power.py [--repetitions 2000] [--classifier emoji-gender] [--target 0.5]

A row is a target of an embedded classifier at a tolerance: the number of audit images that follows from it; the part of
the interval's half-width that no number of images removes; the promised probability of "reached" while the true share
is off by a third of the tolerance, how often the functions that audits call said so, and how often on the target
itself; the probability with any number of images; and the images that 0.9 would take. Every repetition draws held-out
images and audit images anew. A row falls short where the simulation stays below the promise by more than three standard
errors.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from dataclasses import replace

import numpy as np

from fairsims.audit.estimates import reached
from fairsims.audit.intervals import Z
from fairsims.audit.power import OFF, Verdict, planned_power, verdicts
from fairsims.audit.shares import corrected_shares
from fairsims.audit.targets import parse_target
from fairsims.classifiers import load_classifier

ROWS = (
    *(("emoji-gender", target) for target in ("woman=0.35", "woman=0.5", "woman=0.65")),
    *(("emoji-vendor", target) for target in ("noto=0.35", "noto=0.5")),
    ("emoji-skin-tone", "uniform"),
    *(("digits-parity", target) for target in ("odd=0.2", "odd=0.5")),
)
TOLERANCES = (0.03, 0.05)


def simulated(of: Verdict, truth: np.ndarray, n: int, repetitions: int) -> float:
    """How often "reached" comes out where `truth` `(K,)` is generated."""
    assert of.confusion is not None
    rng, rates, said = np.random.default_rng(0), of.confusion.rates(), 0
    classes = [f"class {k}" for k in range(len(truth))]
    for _ in range(repetitions):
        rows = [rng.multinomial(int(t), rates[:, k]) for k, t in enumerate(of.confusion.totals)]
        held_out = replace(of.confusion, counts=tuple(tuple(int(v) for v in row) for row in rows))
        found = corrected_shares(classes, rng.multinomial(n, rates @ truth), held_out)
        said += reached(found, of.target.tolist(), of.tolerance) is True
    return said / repetitions


def row(name: str, target: str, tolerance: float, repetitions: int) -> tuple[str, bool]:
    classifier = load_classifier(name)
    confusion = classifier.confusions[classifier.default_split]
    of = verdicts(parse_target(target, classifier.attribute), tolerance, confusion)[0]
    plan = planned_power([of], wanted=0.9, images=None)
    # More classes have their intervals by 4,000 draws each.
    times = repetitions if len(of.target) == 2 else max(20, repetitions // 20)
    shift = np.zeros(len(of.target))
    shift[[0, 1]] = tolerance / OFF, -tolerance / OFF
    low = min(simulated(of, of.target + d, plan.n, times) for d in (shift, -shift))
    on = simulated(of, of.target, plan.n, times)
    floor = Z * float(np.sqrt(of.variances(of.target)[1].max()))
    short = low < plan.reached - 3 * np.sqrt(max(plan.reached * (1 - plan.reached), 0.01) / times)
    images = "none" if plan.images is None else f"{plan.images:,}"
    text = (
        f"{name:<16}{target:<12}{tolerance:>9.2f}{plan.n:>8,}{floor:>9.4f}{plan.reached:>10.3f}{low:>11.3f}{on:>11.3f}"
        f"{plan.limit:>8.3f}{images:>9}  {'FALLS SHORT' if short else ''}"
    )
    return text.rstrip(), short


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--classifier", default="")
    parser.add_argument("--target", default="")
    options = parser.parse_args(arguments)
    start, failed = time.perf_counter(), 0
    print(f"{options.repetitions} repetitions; {platform.machine()}, {os.cpu_count()} cores\n")
    print(
        f"{'classifier':<16}{'target':<12}{'tolerance':>9}{'images':>8}{'floor':>9}{'promised':>10}{'off by 1/3':>11}"
        f"{'on target':>11}{'limit':>8}{'for 0.9':>9}"
    )
    for name, target in ROWS:
        if options.classifier in name and options.target in target:
            for tolerance in TOLERANCES:
                text, short = row(name, target, tolerance, options.repetitions)
                print(text, flush=True)
                failed += short
    print(f"\n{failed} rows fall short of what is promised; {time.perf_counter() - start:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
