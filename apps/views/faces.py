"""Photographs of one's own: the face that is found in each, what it is called, how often none is found."""

from __future__ import annotations

import streamlit as st

from fairsims.audit.reading import share_table
from fairsims.classifiers.face_attributes import ASKED, FaceClassifier
from fairsims.dashboard.photographs import SHOWN, Photograph, called, read_photograph, shares_among
from fairsims.dashboard.widgets import guarded, plain, table
from fairsims.errors import InputError
from fairsims.report.numbers import percent, share_text

TYPES = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff"]
MOST = 500
PER_PAGE = 24
WORDS = {"gender": "perceived gender", "age": "apparent age group", "skin_tone": "skin tone"}


def show() -> None:
    st.title("Faces", anchor=False)
    st.write(
        "Give a folder of photographs and see what the classifier `faces` makes of them. They are held in memory while "
        "this page is open, and written nowhere."
    )
    given = st.file_uploader("Photographs", type=TYPES, accept_multiple_files="directory", key="photographs")
    attribute = st.segmented_control(
        "Attribute", list(ASKED), default="gender", required=True, key="face-attribute", format_func=WORDS.__getitem__
    )
    classifier = FaceClassifier(attribute or "gender")
    if given:
        if len(given) > MOST:
            st.info(f"These are the first {MOST} of {len(given):,} pictures. The command below takes all.")
        first = sorted(given, key=lambda f: f.name)[:MOST]
        photographs, refused = looked_through([(f.name, f.getvalue()) for f in first])
        for line in refused:
            st.warning(plain(line))
        if photographs:
            show_shares(photographs, classifier)
            show_pictures(photographs, classifier)
    st.caption(plain(classifier.asked.limits))
    st.subheader("The whole audit", anchor=False, divider="gray")
    st.write("With a report, and with people's labels of some of the pictures, which measure the errors:")
    st.code(
        "fairsims audit --before photos --resize 512 --fit pad --attr gender --attr age --attr skin_tone "
        "--classifier faces --labels labels.csv --out audits/photos",
        language="bash",
        wrap_lines=True,
    )


def looked_through(files: list[tuple[str, bytes]]) -> tuple[list[Photograph], list[str]]:
    """The photographs, and a line for each file that is none."""
    found, refused = [], []
    done = st.progress(0.0, "Looking for faces")
    for k, (name, data) in enumerate(files):
        try:
            found.append(held(data, name))
        except InputError as e:
            refused.append(str(e))
        done.progress((k + 1) / len(files), "Looking for faces")
    done.empty()
    return found, refused


@st.cache_data(max_entries=2 * MOST, show_spinner=False)
def held(data: bytes, name: str) -> Photograph:
    return read_photograph(data, name)


def show_shares(photographs: list[Photograph], classifier: FaceClassifier) -> None:
    estimate = shares_among(photographs, classifier)
    places = st.columns(3)
    places[0].metric("Photographs", f"{len(photographs):,}", border=True)
    places[1].metric(
        "Without a face", percent(sum(p.face is None for p in photographs) / len(photographs)), border=True
    )
    places[2].metric("Undetermined", percent(estimate.share[-1]), border=True)
    shares = share_table(estimate, None)
    table([{"class": c, "share as called": share_text(shares[c])} for c in estimate.classes])
    st.caption(plain(f"Tier {estimate.tier}, 95% intervals. {estimate.assumption} Its errors here are unknown."))


def show_pictures(photographs: list[Photograph], classifier: FaceClassifier) -> None:
    pages = -(-len(photographs) // PER_PAGE)
    page = st.pagination(pages, key="faces-page") if pages > 1 else 1
    with st.container(horizontal=True, gap="medium", key="faces"):
        for photograph in photographs[(page - 1) * PER_PAGE : page * PER_PAGE]:
            with st.container(width=SHOWN, gap="xxsmall"):
                said = f"{photograph.name}: {called(photograph, classifier)}"
                st.image(photograph.png, width="content", alt=said)
                st.caption(plain(said))


with guarded():
    show()
