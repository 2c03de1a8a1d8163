"""Images of a run: before and after from the same seed side by side, by class and certainty, and closer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import streamlit as st

from fairsims.dashboard.gallery import ORDERS, Calls, attributes_of, chosen_rows, picture, positions_of, shared_seeds
from fairsims.dashboard.runs_index import RunEntry, pools_of
from fairsims.dashboard.widgets import guarded, held_calls, opened_pools, page, plain, table
from fairsims.pools import Pool
from fairsims.report.numbers import percent

PER_PAGE = (12, 24, 48)
SIZES = (64, 96, 128, 192)
CLOSE = 320
# Two of these stand side by side on a telephone.
FIELD = 168
ANY = "any"
PAIR = "before and after"


def show_run(run: RunEntry) -> None:
    names = list(pools_of(run))
    if not names:
        no_images(run)
        return
    choices = ([PAIR] if {"before", "after"} <= set(names) else []) + names
    shown = choices[0]
    if len(choices) > 1:
        shown = st.selectbox("Images of", choices, key="pool", help="Pools of this run")
    pools = opened_pools(run, ("before", "after") if shown == PAIR else (shown,))
    seeds = shared_seeds(pools)
    if not len(seeds):
        st.info("Before and after share no seed, so there is nothing to hold side by side. Choose one of them above.")
        return
    places = {side: positions_of(pool, seeds) for side, pool in pools.items()}
    calls, rows = filtered(pools, places)
    st.caption(f"{len(rows):,} of {len(seeds):,} {'pairs' if len(pools) > 1 else 'images'}")
    if not len(rows):
        st.info("No image fits all of these. Widen the range or choose another class.")
        return
    show_gallery(pools, places, calls, rows, seeds)
    show_nearest(run)


def no_images(run: RunEntry) -> None:
    if run.state == "running":
        st.info("No image is finished yet. The first shard appears when 512 images are made.")
    else:
        st.info("This run holds no images: an audit of a folder or file leaves them where they are. Make a pool with:")
        st.code(f"fairsims generate --model emoji-people-32 --seeds 0-2047 --out {run.folder.parent / 'pool'}")


def filtered(pools: Mapping[str, Pool], places: Mapping[str, np.ndarray]) -> tuple[dict[str, Calls], np.ndarray]:
    """What the classifier says of the images in the order of the seeds, and the rows that the viewer wants."""
    tables = {side: attributes_of(pool) for side, pool in pools.items()}
    known = [a for a in next(iter(tables.values())) if all(a in t for t in tables.values())]
    if not known:
        st.caption("No classifier has labelled these images; `fairsims label` does, and then they can be filtered.")
        return {}, np.arange(len(next(iter(places.values()))))
    calls, wanted = {}, {}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        attribute = st.selectbox("Attribute", known, key="attribute", width=FIELD)
        for side, pool in pools.items():
            c = held_calls(pool, tables[side][attribute], attribute)
            calls[side] = Calls(classes=c.classes, probabilities=c.probabilities[places[side]])
            heading = f"{side.capitalize()} is called" if len(pools) > 1 else "Called"
            label = st.selectbox(heading, [ANY, *c.classes], key=f"class-{side}", width=FIELD)
            wanted[side] = None if label == ANY else label
        order = st.selectbox("Order", ORDERS if len(pools) > 1 else ORDERS[:2], key="order", width=FIELD)
        low, high = st.slider("Certainty", 0.0, 1.0, (0.0, 1.0), 0.01, key="certainty", width=FIELD)
    return calls, chosen_rows(calls, wanted, (low, high), order)


def show_gallery(
    pools: Mapping[str, Pool],
    places: Mapping[str, np.ndarray],
    calls: Mapping[str, Calls],
    rows: np.ndarray,
    seeds: np.ndarray,
) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        size = st.segmented_control("Size", SIZES, default=96, required=True, key="size") or 96
        per_page = st.segmented_control("On a page", PER_PAGE, default=24, required=True, key="per-page") or 24
    pages = -(-len(rows) // per_page)
    page = st.pagination(pages, key=f"page-{per_page}") if pages > 1 else 1
    shown = rows[(page - 1) * per_page : page * per_page]
    images = {side: pool.read(places[side][shown]).numpy() for side, pool in pools.items()}
    width = size * len(pools) + 6 * (len(pools) - 1)
    with st.container(horizontal=True, gap="medium", key="gallery"):
        for k, row in enumerate(shown):
            with st.container(width=max(width, 120), gap="xxsmall"):
                pair = np.stack([images[side][k] for side in pools])
                st.image(picture(pair, size), width=width, alt=described(calls, row, int(seeds[row])))
                if st.button(f"{seeds[row]}", key=f"close-{row}", icon=":material/zoom_in:", type="tertiary"):
                    look_closer(pools, pair, calls, row, int(seeds[row]))
                if calls:
                    st.caption(" → ".join(called(c, row) for c in calls.values()))


def called(calls: Calls, row: int) -> str:
    return f"{plain(calls.classes[calls.winners[row]])} {100 * calls.confidence[row]:.0f}%"


def described(calls: Mapping[str, Calls], row: int, seed: int) -> str:
    said = ", ".join(f"{side} {c.classes[c.winners[row]]}" for side, c in calls.items())
    return f"Image of seed {seed}" + (f": called {said}" if said else "")


@st.dialog("Closer", width="large")
def look_closer(pools: Mapping[str, Pool], pair: np.ndarray, calls: Mapping[str, Calls], row: int, seed: int) -> None:
    with guarded():
        st.write(f"Seed **{seed}**")
        with st.container(horizontal=True):
            for side, image in zip(pools, pair, strict=True):
                with st.container(width=CLOSE):
                    st.image(picture(image[None], CLOSE), caption=plain(side), width=CLOSE, alt=f"{side}, seed {seed}")
        if calls:
            classes = next(iter(calls.values())).classes
            table(
                [
                    {"class": c} | {side: percent(float(v.probabilities[row, k])) for side, v in calls.items()}
                    for k, c in enumerate(classes)
                ]
            )


def show_nearest(run: RunEntry) -> None:
    """The galleries of nearest reference images that the audit drew."""
    galleries: list[Path] = sorted((run.folder / "audit").glob("nearest*.png"))
    if galleries:
        st.subheader("Nearest reference images", anchor=False, divider="gray")
    for path in galleries:
        with guarded():
            side = path.stem.removeprefix("nearest-")
            st.caption(
                f"{plain(side).capitalize()}: generated images, below each the real one that lies nearest to it."
            )
            st.image(
                path.read_bytes(), width="content", alt=f"{path.stem}: generated images beside the nearest real ones"
            )


page("Images", show_run)
