"""Label a blinded sample by keyboard: one image, one key; raters' agreement and the shares that their labels give."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Mapping

import streamlit as st

from fairsims.audit.reading import change_table, share_table
from fairsims.dashboard import labelling
from fairsims.dashboard.gallery import attributes_of, picture, positions_of
from fairsims.dashboard.labelling import ADJUDICATION, DESIGNS, MOST_IMAGES, Item, LabelSession
from fairsims.dashboard.runs_index import RunEntry, audited, pools_of
from fairsims.dashboard.widgets import download, guarded, held_calls, opened_pools, page, plain, table
from fairsims.data.attributes import UNDETERMINED
from fairsims.errors import FairsimsError, InputError
from fairsims.pools import Pool
from fairsims.report.numbers import change_text, percent, share_text
from fairsims.run import SIGNATURE

HEIGHT = 288
# Streamlit keeps C and R for itself; U is for undetermined.
KEYS = "123456789ABDEFGHIJKLMNOPQSTVWXYZ"
ERROR, RATER, NEXT = "label-error", "rater-name", "next-sample"


def show_run(run: RunEntry) -> None:
    if not pools_of(run):
        st.info(
            "This run holds no images to label. Choose a run that has pools, or the folder of a pool; "
            "`fairsims generate` makes one."
        )
        return
    if (run.folder / SIGNATURE).exists():
        st.caption(
            "This run is signed, and labels are kept in it: verifying names them as added, and manifest.json, which "
            "lists them, as changed, until it is signed again."
        )
    folders = labelling.session_folders(run.folder)
    if not folders:
        st.write(
            "People's labels of some images of this very run measure its shares without trusting the classifier's "
            "errors elsewhere. Raters see one image at a time: not which side it is from, nor what a classifier says."
        )
        new_session(run)
        return
    if drawn := st.session_state.pop(NEXT, ""):
        st.session_state["sample"] = drawn
    left, right = st.columns(2, vertical_alignment="bottom")
    name = left.selectbox("Sample", [f.name for f in reversed(folders)], key="sample")
    session = labelling.read_session(run.folder / "labels" / name)
    # The field goes when it is filled in: keys pressed in it would be letters of the name.
    rater = st.session_state.get(RATER, "")
    if rater:
        right.button(
            f"{plain(rater)}: change rater", key="change-rater", on_click=forget_rater, icon=":material/person:"
        )
        label_images(run, session, rater)
    else:
        ask_rater()
    if st.toggle("Show results", key="results", help="Knowing them can sway you: look when you have finished."):
        show_results(run, session)
    with st.expander("Start another sample"):
        new_session(run)


def ask_rater() -> None:
    with st.form("rater", border=False):
        st.write("Who labels? Each rater's labels are kept apart, and each goes on where they stopped.")
        name = st.text_input("Your name", max_chars=40, placeholder="letters, digits, - or _").strip()
        if st.form_submit_button("Begin", type="primary"):
            st.session_state[RATER] = labelling.check_rater(name)
            st.rerun()


def forget_rater() -> None:
    st.session_state.pop(RATER, None)


def new_session(run: RunEntry) -> None:
    """A form for which images are drawn, and how."""
    names = list(pools_of(run))
    chosen = st.multiselect("Images from", names, default=audited(run) or names[:1], key="new-pools")
    if not chosen:
        st.info("Choose at least one pool.")
        return
    pools = opened_pools(run, chosen)
    tables = {n: attributes_of(p) for n, p in pools.items()}
    known = [a for a in next(iter(tables.values())) if all(a in t for t in tables.values())]
    with st.form("new-sample", border=True):
        if known:
            attribute = st.selectbox("Attribute", known)
            design = st.segmented_control(
                "Sample",
                DESIGNS,
                default=DESIGNS[0],
                required=True,
                help="stratified: more images where the classifier's calls are rare or often wrong",
            )
            classes = held_calls(pools[chosen[0]], tables[chosen[0]][attribute], attribute).classes
        else:
            st.caption("No classifier has labelled these images: the sample is random, and you name the classes.")
            attribute = st.text_input("Attribute", placeholder="gender").strip()
            text = st.text_input("Classes, with commas between", placeholder="man, woman")
            classes, design = tuple(c.strip() for c in text.split(",") if c.strip()), DESIGNS[0]
        left, right = st.columns(2)
        n = left.number_input("Images of each pool", 1, MOST_IMAGES, 100)
        seed = right.number_input("Seed", 0, 2**31 - 1, 0, help="The same seed draws the same images.")
        st.caption(f"`{UNDETERMINED}` is always a class.")
        go = st.form_submit_button("Draw the sample", type="primary", icon=":material/casino:")
    if go:
        if known:
            classes = held_calls(pools[chosen[0]], tables[chosen[0]][attribute], attribute).classes
        with guarded():
            places = pools_of(run)
            session = labelling.start_session(
                run.folder,
                pools,
                attribute,
                classes,
                design=design or DESIGNS[0],
                n=int(n),
                seed=int(seed),
                tables={s: tables[s].get(attribute) for s in chosen},
                names={s: places[s].relative_to(run.folder).as_posix() for s in chosen},
            )
            st.session_state[NEXT] = session.name
            st.rerun()


@st.fragment
def label_images(run: RunEntry, session: LabelSession, rater: str) -> None:
    """The next image without a label, a button and a key for each class."""
    with guarded():
        if message := st.session_state.pop(ERROR, ""):
            st.error(plain(message), icon=":material/warning:")
        labels = labelling.read_labels(session, rater)
        left = [i for i in session.images if i not in labels]
        st.progress(len(labels) / len(session.images), f"{len(labels)} of {len(session.images)} labelled")
        if left:
            st.write(f"Which **{plain(session.attribute)}** do you see? Press a key or a button.")
            ask(run, session, rater, left[0], len(labels))
        else:
            st.success("All images of this sample are labelled.", icon=":material/check:")
        if labels:
            st.button(
                "Undo",
                key=f"undo-{len(labels)}",
                icon=":material/undo:",
                shortcut="Backspace",
                type="tertiary",
                on_click=kept,
                args=(lambda: labelling.undo_label(session, rater),),
            )


def ask(run: RunEntry, session: LabelSession, rater: str, item: Item, number: int) -> None:
    side, seed = item
    pool = pools_of_session(run, session)[side]
    image = pool.read(positions_of(pool, [seed])).numpy()
    st.image(picture(image, HEIGHT), width=HEIGHT, alt="The image to label")
    with st.container(horizontal=True, key="classes"):
        known = [c for c in session.classes if c != UNDETERMINED]
        keys = dict(zip(known, KEYS, strict=False)) | {UNDETERMINED: "U"}
        for label in session.classes:
            st.button(
                plain(label),
                key=f"label-{rater}-{number}-{label}",
                shortcut=keys.get(label),
                on_click=kept,
                args=(lambda chosen=label: labelling.add_label(session, rater, item, chosen),),
            )


def kept(change: Callable[[], object]) -> None:
    """Carry out a change of the labels; what goes wrong is said at the next drawing."""
    try:
        change()
    except (FairsimsError, OSError) as e:
        st.session_state[ERROR] = str(e)


def pools_of_session(run: RunEntry, session: LabelSession) -> dict[str, Pool]:
    """The pools that a session was drawn from. Raises InputError for one that the run does not have."""
    there = {p.relative_to(run.folder).as_posix(): n for n, p in pools_of(run).items()}
    missing = [v.pool for v in session.sides.values() if v.pool not in there]
    if missing:
        raise InputError(f"{session.name} is a sample of {missing[0]}, which is not in this run; restore the pool")
    pools = opened_pools(run, [there[v.pool] for v in session.sides.values()])
    return {side: pools[there[v.pool]] for side, v in session.sides.items()}


def show_results(run: RunEntry, session: LabelSession) -> None:
    raters, consensus = labelling.raters_of(session), labelling.consensus_of(session)
    if not raters:
        st.info("Nobody has labelled this sample yet.")
        return
    st.subheader("Raters", anchor=False, divider="gray")
    said = {r: labelling.read_labels(session, r) for r in raters}
    counts = {r: Counter(labels.values()) for r, labels in said.items()}
    table(
        [
            {"rater": r, "labelled": f"{len(labels)} of {len(session.images)}"}
            | {c: str(counts[r][c]) for c in session.classes}
            for r, labels in said.items()
        ]
    )
    if (a := labelling.agreement_of(session)) is not None:
        kappa = "not defined (all labels are of one class)" if a.kappa is None else f"{a.kappa:.2f}"
        interval = "" if a.low is None or a.high is None else f" [{a.low:.2f}, {a.high:.2f}]"
        st.write(
            f"{plain(a.name)} **{kappa}**{plain(interval)}: {a.raters} raters agree in {percent(a.observed, 0)} of "
            f"pairs of labels, on the {a.n} images that all of them labelled."
        )
    else:
        st.caption("With a second rater's labels of the same images their agreement stands here.")
    if consensus.open:
        many = "image has" if len(consensus.open) == 1 else "images have"
        st.warning(f"{len(consensus.open)} {many} no majority: left out until someone settles what they show.")
        settle(run, session, consensus.open[0], said)
    show_shares(run, session, consensus.labels)
    extend(run, session)


def settle(run: RunEntry, session: LabelSession, item: Item, said: Mapping[str, Mapping[Item, str]]) -> None:
    """One image that raters disagree on, for someone to decide."""
    if st.toggle("Settle them now", key="settle"):
        votes = Counter(labels[item] for labels in said.values() if item in labels)
        st.write("Raters said " + plain(", ".join(f"{c}: {n}" for c, n in votes.most_common())))
        ask(run, session, ADJUDICATION, item, len(labelling.read_labels(session, ADJUDICATION)))


def show_shares(run: RunEntry, session: LabelSession, labels: Mapping[Item, str]) -> None:
    st.subheader("Shares from these labels", anchor=False, divider="gray")
    pools = pools_of_session(run, session)
    found, change = labelling.shares_from(session, pools, dict(labels))
    if not found:
        st.info("No image has a label that counts yet.")
        return
    shares = {side: share_table(e, None) for side, e in found.items()}
    changes = {} if change is None else change_table(change)
    table(
        [
            {"class": c}
            | {side: share_text(of[c]) for side, of in shares.items()}
            | ({"difference, points": change_text(changes[c])} if changes else {})
            for c in next(iter(found.values())).classes
        ]
    )
    estimate = next(iter(found.values()))
    st.caption(plain(f"Tier {estimate.tier}, 95% intervals. {estimate.assumption}"))
    for side, e in found.items():
        for warning in e.warnings:
            st.caption(plain(f"{side}: {warning}"))
    path = labelling.write_consensus(session)
    left, right = st.columns([1, 3], vertical_alignment="center")
    with left:
        download(path, run, label="consensus.csv")
    right.caption("The audit with these labels:")
    folders = [f"--{'before' if k == 0 else 'after'} {shlex.quote(str(pools[s].folder))}" for k, s in enumerate(found)]
    st.code(
        f"fairsims audit {' '.join(folders[:2])} --attr {shlex.quote(session.attribute)} "
        f"--labels {shlex.quote(str(path))} --out {shlex.quote(str(run.folder) + '-labelled')}",
        language="bash",
        wrap_lines=True,
    )


def extend(run: RunEntry, session: LabelSession) -> None:
    left, right = st.columns([1, 3], vertical_alignment="bottom")
    n = left.number_input("More images of each pool", 1, MOST_IMAGES, 50, key="more")
    if right.button("Add them to the sample", key="extend", icon=":material/add:"):
        with guarded():
            labelling.extend_session(session, pools_of_session(run, session), int(n))
            st.rerun()


page("Label", show_run)
