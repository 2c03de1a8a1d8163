"""Label sessions: what is drawn, kept, agreed on, and the shares that come out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fairsims.audit.people import read_people_labels
from fairsims.dashboard.labelling import (
    ADJUDICATION,
    add_label,
    agreement,
    agreement_of,
    check_rater,
    consensus_of,
    extend_session,
    raters_of,
    read_labels,
    read_session,
    session_folders,
    shares_from,
    start_session,
    undo_label,
    write_consensus,
)
from fairsims.data.attributes import Attribute
from fairsims.errors import InputError
from fairsims.pools import Pool
from fairsims.report.signing import create_key, read_private_key, sign, verify
from fairsims.run import write_manifest


@pytest.fixture
def pools(whole_run):
    return {side: Pool(whole_run / side) for side in ("before", "after")}


def start(run, pools, **changes):
    table = "faces-12345678"
    asked = {
        "design": "random",
        "n": 10,
        "seed": 0,
        "tables": dict.fromkeys(pools, table),
        "names": {s: s for s in pools},
    }
    return start_session(run, pools, "gender", ("man", "woman"), **(asked | changes))


def test_a_session_mixes_its_sides_and_is_read_back(whole_run, pools):
    session = start(whole_run, pools)
    assert read_session(session.folder) == session
    assert session_folders(whole_run) == [session.folder]
    assert session.classes == ("man", "woman", "undetermined")
    sides = [side for side, _ in session.images]
    assert sides.count("before") == sides.count("after") == 10
    assert len(set(session.images)) == 20
    assert sides != sorted(sides) and sides != sorted(sides, reverse=True), "the order gives the side away"
    assert start(whole_run, pools).images == session.images
    assert start(whole_run, pools, seed=1).images != session.images


def test_a_stratified_sample_goes_where_labels_tell_most(whole_run, pools):
    """10 of 40 are called women: at first each call gets its share; when these turn out mixed, the next are theirs."""
    one = {"before": pools["before"]}
    session = start(whole_run, one, design="stratified", n=16)
    women = {int(s) for s in pools["before"].seeds[:10]}
    looked_at = [seed for _, seed in session.images]
    assert sum(s in women for s in looked_at) == 4
    for k, item in enumerate(session.images):
        add_label(session, "A", item, ("man", "woman")[k % 2] if item[1] in women else "man")
    more = [seed for _, seed in extend_session(session, one, 6).images[16:]]
    assert sum(s in women for s in more) >= 5


def test_more_images_are_others(whole_run, pools):
    session = start(whole_run, pools)
    more = extend_session(session, pools, 15)
    assert more.images[:20] == session.images
    assert len(set(more.images)) == 50
    with pytest.raises(InputError, match="16 images of before were asked for; it has 15 left"):
        extend_session(more, pools, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"design": "best"}, "the design is 'best'"),
        ({"n": 41}, "it has 40 left; expected 1 to 40"),
        ({"n": 0}, "0 images of before"),
    ],
)
def test_impossible_samples_are_refused(whole_run, pools, changes, message):
    with pytest.raises(InputError, match=message):
        start(whole_run, pools, **changes)
    assert not session_folders(whole_run)


def test_each_label_is_on_disk_and_a_hasty_second_one_changes_nothing(whole_run, pools):
    session = start(whole_run, pools)
    first, second = session.images[:2]
    add_label(session, "Zoë", first, "woman")
    add_label(session, "Zoë", first, "man")
    assert read_labels(session, "Zoë") == {first: "woman"}
    add_label(session, "Zoë", second, "undetermined")
    assert undo_label(session, "Zoë") == {first: "woman"}
    assert raters_of(session) == ["Zoë"]
    for item, label in ((first, "person"), (("before", 7), "man")):
        with pytest.raises(InputError, match="expected one of man, woman, undetermined"):
            add_label(session, "Zoë", item, label)


def test_labels_in_a_finished_run_are_listed_and_in_a_signed_one_named(whole_run, pools):
    write_manifest(whole_run, {})
    session = extend_session(start(whole_run, pools), pools, 2)
    for item in session.images[:3]:
        add_label(session, "Ada", item, "woman")
    undo_label(session, "Ada")
    write_consensus(session)
    assert verify(whole_run).intact
    create_key(whole_run.parent / "key")
    sign(whole_run, read_private_key(whole_run.parent / "key"))
    assert verify(whole_run).intact
    add_label(session, "Bo", session.images[0], "man")
    add_label(session, "Ada", session.images[2], "man")
    verdict = verify(whole_run)
    assert verdict.added == ("labels/gender-1/Bo.csv",)
    assert verdict.changed == ("labels/gender-1/Ada.csv", "manifest.json")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "consensus", "adjudication", "x" * 41, ".hidden", "-a"])
def test_names_that_no_file_should_have(name):
    with pytest.raises(InputError, match="choose another"):
        check_rater(name)


def test_raters_agree_differ_and_are_settled(whole_run, pools):
    session = start(whole_run, pools)
    a, b, c = session.images[:3]
    for rater, labels in (("A", ("man", "man", "woman")), ("B", ("man", "woman", "woman"))):
        for item, label in zip((a, b, c), labels, strict=True):
            add_label(session, rater, item, label)
    assert consensus_of(session).labels == {a: "man", c: "woman"}
    assert consensus_of(session).open == (b,)
    found = agreement_of(session)
    assert (found.name, found.n, found.observed) == ("Cohen's kappa", 3, pytest.approx(2 / 3))
    add_label(session, "C", b, "man")
    assert consensus_of(session).labels == {a: "man", b: "man", c: "woman"}
    assert agreement_of(session).raters == 3
    add_label(session, ADJUDICATION, b, "undetermined")
    assert consensus_of(session).labels[b] == "undetermined"
    assert raters_of(session) == ["A", "B", "C"]


def test_the_consensus_is_what_the_audit_reads(whole_run, pools):
    session = start(whole_run, pools)
    for k, item in enumerate(session.images):
        add_label(session, "A", item, ("man", "woman")[k % 2])
    path = write_consensus(session)
    attribute = Attribute(name="gender", classes=("man", "woman"))
    found = read_people_labels([str(path)], pools, [attribute])["gender"]
    for side, labels in found.items():
        said = {
            int(pools[side].seeds[p]): attribute.classes[k]
            for p, k in zip(labels.positions, labels.classes, strict=True)
        }
        assert said == {seed: label for (at, seed), label in read_labels(session, "A").items() if at == side}
    assert set(found) == {"before", "after"}


def test_shares_follow_people_and_not_the_classifier(whole_run, pools):
    """The classifier calls 10 and 20 of 40 women; people say that every image shows one."""
    session = start(whole_run, pools, n=40)
    for item in session.images:
        add_label(session, "A", item, "woman")
    found, change = shares_from(session, pools, consensus_of(session).labels)
    for side, raw in (("before", 0.25), ("after", 0.5)):
        e = found[side]
        assert (e.classes, e.tier, e.raw[1]) == (("man", "woman"), "A", raw)
        assert e.low[1] > 0.85
    assert abs(change.delta[1]) < 0.05
    assert shares_from(session, pools, {})[0] == {}
    one, none = shares_from(session, pools, {session.images[0]: "undetermined"})
    assert (none, len(one)) == (None, 1)
    assert next(iter(one.values())).classes[-1] == "undetermined"


@pytest.mark.parametrize(
    "change",
    [
        {"format": "x"},
        {"design": "odd"},
        {"images": [["elsewhere", 500]]},
        {"images": [["before", 500]] * 2},
        {"sides": []},
        {"images": None},
        {"classes": ["man"]},
    ],
)
def test_a_broken_session_is_named(whole_run, pools, change):
    session = start(whole_run, pools)
    path = session.folder / "session.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match="is no session of labels"):
        read_session(session.folder)


@pytest.mark.parametrize("text", ["", "seed\n1\n", "seed,gender,source\n500,man,other\n", "\xff"])
def test_a_rater_file_of_other_images_is_refused(whole_run, pools, text):
    session = start(whole_run, pools)
    (session.folder / "A.csv").write_bytes(text.encode("latin-1"))
    if text == "":
        assert read_labels(session, "A") == {}
    else:
        with pytest.raises(InputError, match="does not fit its session"):
            read_labels(session, "A")


def test_kappa_of_two_raters_is_cohens():
    """50 images, both yes 20, both no 15: observed 0.7, by chance 0.5."""
    table = [(0, 0)] * 20 + [(0, 1)] * 5 + [(1, 0)] * 10 + [(1, 1)] * 15
    found = agreement(table, 2)
    assert (found.name, found.observed) == ("Cohen's kappa", pytest.approx(0.7))
    assert found.kappa == pytest.approx(0.4)
    assert found.low < 0.2 and found.high > 0.55


def test_kappa_of_more_raters_is_the_mean_of_their_pairs():
    table = np.random.default_rng(0).integers(0, 3, (40, 3))
    found = agreement(table, 3)
    pairs = [agreement(table[:, columns], 3) for columns in ([0, 1], [0, 2], [1, 2])]
    assert found.kappa == pytest.approx(np.mean([p.kappa for p in pairs]))
    assert found.observed == pytest.approx(np.mean([p.observed for p in pairs]))
    assert found.low < found.kappa < found.high


def test_labels_of_one_class_alone_have_no_kappa():
    found = agreement([(1, 1)] * 5, 3)
    assert (found.observed, found.kappa, found.low) == (1.0, None, None)
    with pytest.raises(InputError, match="two raters"):
        agreement([[1], [1]], 3)
