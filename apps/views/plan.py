"""Set a target and see, before anything is made, what it takes: complement, strength, cost, the command."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import streamlit as st

from fairsims.audit.facts import Cost
from fairsims.dashboard.gallery import attributes_of
from fairsims.dashboard.planning import Way, command, ways
from fairsims.dashboard.runs_index import RunEntry, pools_of
from fairsims.dashboard.widgets import held_calls, opened_pools, page, plain, settings_of, table
from fairsims.pools import Pool
from fairsims.report.numbers import number, percent, short_percent
from fairsims.retarget.complement import ComplementPlan, plan_complement
from fairsims.retarget.config import MODES, RetargetConfig

DEFAULT_RATE, CAP, FLOOR = 1000.0, RetargetConfig.cap, RetargetConfig.floor
ABOUT = {name: getattr(RetargetConfig, name) for name in ("pool", "budget", "calibration")}


def show_run(run: RunEntry) -> None:
    pool = opened_pools(run, ("pool",)).get("pool")
    base = bases(run, pool)
    if not base:
        st.info(
            "A plan starts from the base's shares: choose a run with an audit or with a labelled pool. Label one with:"
        )
        st.code(f"fairsims label {next(iter(pools_of(run).values()), 'POOL')} --attr gender", language="bash")
        return
    left, right = st.columns(2, gap="large")
    with left:
        attribute = st.selectbox("Attribute", list(base), key="plan-attribute")
        classes, pi, source = base[attribute]
        st.caption(
            plain(f"Base's shares, {source}: " + ", ".join(map(" ".join, zip(classes, map(percent, pi), strict=True))))
        )
        tau = asked_target(attribute, classes, pi)
    if tau is None:
        return
    settings = settings_of(run)
    cap = float(settings.get("cap") or CAP)
    plan = plan_complement(pi, tau, classes, cap=cap)
    with right:
        show_plan(run, pool, attribute, classes, pi, tau, plan, cap, settings)
    st.subheader("Cost", anchor=False, divider="gray")
    show_cost(run, pool, settings, pi, tau, plan)
    st.subheader("Command", anchor=False, divider="gray")
    mode = st.segmented_control("Mode", list(MODES), default=MODES[0], required=True, key="mode") or MODES[0]
    target = dict(zip(classes, map(float, tau), strict=True))
    st.code(command(attribute, target, mode=mode, settings=settings), language="bash", wrap_lines=True)
    st.caption("With `--dry-run` it prints the plan and the time on this machine, and stops.")


def bases(run: RunEntry, pool: Pool | None) -> dict[str, tuple[tuple[str, ...], np.ndarray, str]]:
    """Classes and shares `(K,)` of the base by attribute, and where they are from."""
    found: dict[str, tuple[tuple[str, ...], np.ndarray, str]] = {}
    if run.audit is not None:
        for a in run.audit.attributes.values():
            shares = np.array([a.before[c].share for c in a.classes])
            found[a.name] = (a.classes, shares / shares.sum(), "from the audit")
    elif pool is not None:
        for attribute, name in attributes_of(pool).items():
            c = held_calls(pool, name, attribute)
            counts = np.bincount(c.winners, minlength=len(c.classes))
            found[attribute] = (c.classes, counts / counts.sum(), "as the classifier calls them, not corrected")
    return found


def asked_target(attribute: str, classes: tuple[str, ...], pi: np.ndarray) -> np.ndarray | None:
    """The target `(K,)`: a field for every class but the base's largest, which has the rest; None for no target."""
    rest = int(pi.argmax())
    given = np.zeros(len(classes))
    for k, c in enumerate(classes):
        if k != rest:
            value = st.number_input(
                f"{plain(c)}, percent", 0.0, 100.0, round(100 / len(classes), 2), 1.0, key=f"target-{attribute}-{c}"
            )
            given[k] = value / 100
    left = 1 - given.sum()
    st.write(f"{plain(classes[rest])} has the rest: **{short_percent(max(0.0, left))}**")
    if left < -1e-9:
        st.warning(f"These sum to {percent(given.sum())}. Lower one of them.")
        return None
    given[rest] = max(0.0, left)
    if given.max() > 1 - 1e-9:
        st.warning(
            "This leaves one class only. Strength moves shares, it does not remove a class: select images instead."
        )
        return None
    return given


def show_plan(
    run: RunEntry,
    pool: Pool | None,
    attribute: str,
    classes: tuple[str, ...],
    pi: np.ndarray,
    tau: np.ndarray,
    plan: ComplementPlan,
    cap: float,
    settings: dict[str, object],
) -> None:
    feasible = plan.least_strength is not None and plan.least_strength <= cap + 1e-9
    first, second, third = st.columns(3)
    first.metric("Least strength", "none" if plan.least_strength is None else f"{plan.least_strength:.2f}", border=True)
    second.metric("Planned strength", f"{plan.strength:.2f}", border=True)
    third.metric(
        "Within the cap", "yes" if feasible else "no", f"cap {cap:g}", delta_color="off", delta_arrow="off", border=True
    )
    rows = [
        {"class": c, "base": percent(p), "target": percent(t), "complement": percent(r), "strength reaches": percent(e)}
        for c, p, t, r, e in zip(classes, pi, tau, plan.complement, plan.reachable, strict=True)
    ]
    table(rows)
    st.caption(plain(plan.reason) + ".")
    if not feasible:
        st.caption(
            "What strength does not reach under the cap is resampled with the classifier; the cost below has it."
        )
    size = complement_size(pool, attribute, plan, float(str(settings.get("floor") or FLOOR)))
    if size is not None:
        st.caption(f"The run's pool of {len(pool or ()):,} images gives a complement set of {size:,} without repeats.")


def complement_size(pool: Pool | None, attribute: str, plan: ComplementPlan, floor: float) -> int | None:
    """Images that a pool's labels give the complement, without replacement; None without labels."""
    name = attributes_of(pool).get(attribute) if pool is not None else None
    if pool is None or name is None:
        return None
    c = held_calls(pool, name, attribute)
    there = np.bincount(c.winners[c.confidence >= floor], minlength=len(c.classes))
    needed = [n / r for n, r in zip(there, plan.complement, strict=True) if r > 0]
    return int(min(needed)) if needed else None


def show_cost(
    run: RunEntry, pool: Pool | None, settings: dict[str, object], pi: np.ndarray, tau: np.ndarray, plan: ComplementPlan
) -> None:
    each, rate = measured(run, pool)
    left, middle, right = st.columns(3)
    images = left.number_input("Images wanted", 1, 10_000_000, 10_000, 1000, key="wanted")
    nfe = middle.number_input(
        "Evaluations an image", 1, 1000, each, key="nfe", help="23 with 12 steps of heun, 12 with dpmpp2m"
    )
    speed = right.number_input(
        "Evaluations a second",
        1.0,
        1e7,
        rate or DEFAULT_RATE,
        key="rate",
        help="Measured in this run." if rate else "Not known for this run: `fairsims retarget --dry-run` measures it.",
    )
    known: dict[str, Any] = {k: settings.get(k) or v for k, v in ABOUT.items()}
    pool_size, budget, images = int(known["pool"]), float(known["budget"]), int(known["calibration"])
    every = ways(pi, tau, plan, evaluations=float(nfe), pool=pool_size, budget=budget, calibration=images)
    table([row(w, int(images), float(speed)) for w in every])
    resampling, merged, _ = every
    pays = merged.pays_from(resampling)
    st.write(
        f"The merged model needs fewer evaluations than resampling from **{number(math.ceil(pays))}** images on."
        if math.isfinite(pays)
        else "Resampling needs no more evaluations an image than the merged model here: retargeting does not pay off."
    )
    st.caption(
        "'Once' is pool, fine-tune (three forwards a step) and calibration; labels of a classifier are not counted."
    )


def row(way: Way, images: int, speed: float) -> dict[str, str]:
    total = way.total(images)
    return {
        "way": way.name,
        "once": number(round(way.once)),
        "an image": number(way.each) if math.isfinite(way.each) else "impossible",
        f"{images:,} images": number(round(total)) if math.isfinite(total) else "—",
        "GPU-hours": number(total / speed / 3600) if math.isfinite(total) else "—",
    }


def measured(run: RunEntry, pool: Pool | None) -> tuple[int, float | None]:
    """Evaluations an image of the base and evaluations a second, as the run measured them."""
    each = 23 if pool is None else int(pool.meta["evaluations_per_image"])
    if run.audit is None:
        return each, None
    cost = run.audit.cost or Cost()
    each = int(cost.before.evaluations_per_image or each)
    best = max((s.evaluations / s.seconds for s in cost.stages if s.evaluations and s.seconds), default=None)
    return each, None if best is None else float(round(best, 1))


page("Plan", show_run)
