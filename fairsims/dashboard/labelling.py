"""Labels by people: a blinded sample of pools, a file for each rater, what they agree on, and the shares it gives.

`<run>/labels/<session>/` holds `session.json` (which images, in which order), `<rater>.csv` (written after each label)
and `consensus.csv`. Each table has `seed`, a column named after the attribute, and `source`, the start of the pool's
digest: `fairsims audit --labels FILE` reads them. Raters see images alone: no side, no seed, no call of a classifier.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.metrics import cohen_kappa_score

from fairsims.audit.estimates import ShareDifference, ShareEstimate
from fairsims.audit.labelled import labelled_difference, labelled_pool, labelled_shares, next_to_label
from fairsims.dashboard.gallery import positions_of
from fairsims.data.attributes import UNDETERMINED
from fairsims.errors import InputError
from fairsims.files import read_json, write_json, write_text
from fairsims.options import from_mapping, to_json
from fairsims.pools import Pool
from fairsims.run import relisted
from fairsims.seeds import numpy_generator

FORMAT = "fairsims-labels/1"
DESIGNS = ("random", "stratified")
ADJUDICATION, CONSENSUS = "adjudication", "consensus"
MOST_IMAGES = 5000
_NAME = re.compile(r"\w[\w-]{0,39}")

Item = tuple[str, int]
"""Side and seed of an image."""
Labels = dict[Item, str]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One pool that images were drawn from."""

    pool: str
    """Its folder, relative to the run."""
    source: str
    """Start of its digest."""
    table: str | None
    """The label table whose calls the sample is judged with; None where no classifier has seen the pool."""


@dataclass(frozen=True, kw_only=True)
class LabelSession:
    """Which images are labelled for which attribute, in which order. Raises InputError where that cannot be."""

    folder: Path
    attribute: str
    classes: tuple[str, ...]
    """`undetermined` is the last."""
    design: str
    seed: int
    sides: Mapping[str, Side]
    images: tuple[Item, ...]

    def __post_init__(self) -> None:
        if self.design not in DESIGNS:
            raise InputError(f"the design is {self.design!r}; expected one of {', '.join(DESIGNS)}")
        known = [c for c in self.classes if c != UNDETERMINED]
        if len(known) < 2 or len(set(known)) != len(known) or not all(c.strip() == c and c for c in known):
            raise InputError(f"found the classes {', '.join(known) or 'none'}; expected two or more different ones")
        if not all(side in self.sides for side, _ in self.images) or len(set(self.images)) != len(self.images):
            raise InputError("an image is of no side, or there twice; expected each once, of one of the sides")

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def run(self) -> Path:
        """The run whose images these are."""
        return self.folder.parent.parent


@dataclass(frozen=True, kw_only=True)
class Consensus:
    """What raters say together: the adjudicated label of an image, else that of more than half of those who saw it."""

    labels: Labels
    open: tuple[Item, ...]
    """Labelled by two or more, without a majority."""


def start_session(
    run: Path,
    pools: Mapping[str, Pool],
    attribute: str,
    classes: Sequence[str],
    *,
    tables: Mapping[str, str | None],
    names: Mapping[str, str],
    design: str,
    n: int,
    seed: int,
) -> LabelSession:
    """Draw n images of each pool and write the session.

    `pools`, `tables` (label table of the classifier) and `names` (folder in the run) go by side. random: each image
    with the same probability; stratified: spread over the predicted classes where labels tell most. Sides are mixed.
    Raises InputError for names that no file can have, for fewer than two classes and for samples larger than a pool.
    """
    if not pools or len({p.digest for p in pools.values()}) < len(pools):
        raise InputError(f"{len(pools)} pools were chosen; expected one or more, all different; choose before or after")
    if attribute.strip() in ("", "seed", "source", "file_name"):
        raise InputError(f"the attribute is {attribute!r}; expected a name that no other column has; choose another")
    made = sorted((run / "labels").glob("*/session.json"))
    where = "".join(ch if ch.isalnum() or ch in "-_" else "-" for ch in attribute)[:40] or "labels"
    session = LabelSession(
        folder=run / "labels" / f"{where}-{len(made) + 1}",
        attribute=attribute,
        classes=(*(c for c in classes if c != UNDETERMINED), UNDETERMINED),
        design=design,
        seed=seed,
        sides={s: Side(pool=names[s], source=p.digest[:12], table=tables[s]) for s, p in pools.items()},
        images=(),
    )
    return extend_session(session, pools, n)


def extend_session(session: LabelSession, pools: Mapping[str, Pool], n: int) -> LabelSession:
    """Add n images of each side that the session has not shown yet, and write it.

    Raises InputError where a pool has fewer left.
    """
    drawn: list[Item] = []
    for side, pool in pools.items():
        shown = positions_of(pool, [s for at, s in session.images if at == side])
        if not 1 <= n <= min(len(pool) - len(shown), MOST_IMAGES):
            raise InputError(
                f"{n} images of {side} were asked for; it has {len(pool) - len(shown)} left; "
                f"expected 1 to {min(len(pool) - len(shown), MOST_IMAGES)}"
            )
        seed = int(numpy_generator("labels", session.seed, side, len(shown)).integers(2**31))
        if session.design == "stratified":
            chosen = np.asarray(next_to_label(calls(session, side, pool), shown, n, seed, true=_true(session, side)))
        else:
            left = np.setdiff1d(np.arange(len(pool)), shown)
            chosen = np.random.default_rng(seed).choice(left, n, replace=False)
        drawn += [(side, int(pool.seeds[i])) for i in chosen]
    order = numpy_generator("labels", session.seed, "order", len(session.images)).permutation(len(drawn))
    whole = LabelSession(**vars(session) | {"images": (*session.images, *(drawn[i] for i in order))})
    value = {"format": FORMAT} | to_json(whole)
    del value["folder"]
    with relisted(whole.run):
        write_json(whole.folder / "session.json", value)
    return whole


def read_session(folder: Path) -> LabelSession:
    """A session from its folder. Raises InputError for a broken one."""
    path = folder / "session.json"
    value = read_json(path)
    if value.pop("format", None) != FORMAT:
        raise InputError(f"{path} is no session of labels of format {FORMAT}; restore it or delete its folder")
    try:
        return from_mapping(LabelSession, value | {"folder": folder})
    except (InputError, ValueError) as e:
        raise InputError(f"{path} is no session of labels ({e}); restore it or delete its folder") from None


def session_folders(run: Path) -> list[Path]:
    """Folders of all sessions of a run, oldest first."""
    return sorted((p.parent for p in (run / "labels").glob("*/session.json")), key=lambda p: p.stat().st_mtime)


def raters_of(session: LabelSession) -> list[str]:
    """Names of those who have labelled, without the adjudication."""
    return sorted(p.stem for p in session.folder.glob("*.csv") if p.stem not in (ADJUDICATION, CONSENSUS))


def check_rater(name: str) -> str:
    """The name, when a file can have it. Raises InputError otherwise."""
    if not _NAME.fullmatch(name) or name in (ADJUDICATION, CONSENSUS, "session"):
        raise InputError(f"the name is {name!r}; expected up to 40 letters, digits, - or _; choose another")
    return name


def read_labels(session: LabelSession, rater: str) -> Labels:
    """What a rater has said so far, in the order of labelling. Raises InputError naming what is wrong with the file."""
    path = session.folder / f"{rater}.csv"
    if not path.exists():
        return {}
    sides, there, found = {v.source: k for k, v in session.sides.items()}, set(session.images), Labels()
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
        for row in rows:
            item, label = (sides[row["source"]], int(row["seed"])), row[session.attribute]
            if item not in there or label not in session.classes or item in found:
                raise ValueError(f"seed {row['seed']} is {label!r}")
            found[item] = label
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as e:
        raise InputError(f"{path} does not fit its session ({e}); restore it, or delete it to start again") from None
    return found


def add_label(session: LabelSession, rater: str, item: Item, label: str) -> Labels:
    """Write one label more; returns all of the rater's. An image that has a label keeps it until that is taken back.

    A key pressed before the next image is drawn would otherwise change the last one unseen.

    Raises InputError for images and classes that are not the session's.
    """
    if item not in session.images or label not in session.classes:
        known = ", ".join(session.classes)
        raise InputError(f"{label!r} for {item} is no label of {session.name}; expected one of {known}")
    labels = read_labels(session, rater)
    return labels if item in labels else _write(session, rater, labels | {item: label})


def undo_label(session: LabelSession, rater: str) -> Labels:
    """Take back the rater's last label; returns those that are left."""
    labels = read_labels(session, rater)
    if labels:
        labels.popitem()
    return _write(session, rater, labels)


def consensus_of(session: LabelSession) -> Consensus:
    """Of all raters; with a single one, what that one says."""
    settled = read_labels(session, ADJUDICATION)
    said = [read_labels(session, r) for r in raters_of(session)]
    found, undecided = Labels(), []
    for item in session.images:
        votes = Counter(labels[item] for labels in said if item in labels)
        label, most = votes.most_common(1)[0] if votes else ("", 0)
        if item in settled:
            found[item] = settled[item]
        elif 2 * most > votes.total():
            found[item] = label
        elif votes:
            undecided.append(item)
    return Consensus(labels=found, open=tuple(undecided))


def write_consensus(session: LabelSession) -> Path:
    """Write `consensus.csv`, for `fairsims audit --labels`; returns its path."""
    path, labels = session.folder / f"{CONSENSUS}.csv", consensus_of(session).labels
    if not path.exists() or read_labels(session, CONSENSUS) != labels:
        _write(session, CONSENSUS, labels)
    return path


def agreement_of(session: LabelSession) -> Agreement | None:
    """Of all raters on the images that each of them labelled; None without two raters or such an image."""
    said = [read_labels(session, r) for r in raters_of(session)]
    shared = [i for i in session.images if said and all(i in labels for labels in said)]
    if len(said) < 2 or not shared:
        return None
    return agreement([[session.classes.index(labels[i]) for labels in said] for i in shared], len(session.classes))


def shares_from(
    session: LabelSession, pools: Mapping[str, Pool], labels: Labels
) -> tuple[dict[str, ShareEstimate], ShareDifference | None]:
    """Tier A shares of every side that has labels, from these and the classifier's calls; the change, of two sides."""
    size = len(session.classes) - 1
    called = {side: calls(session, side, pool) for side, pool in pools.items()}
    said = {side: {seed: session.classes.index(c) for (at, seed), c in labels.items() if at == side} for side in pools}
    # `undetermined` only where somebody or something says it: a class that nobody names would widen every interval.
    named = {*(int(c.max()) for c in called.values()), *(k for own in said.values() for k in own.values())}
    classes = session.classes if size in named else session.classes[:size]
    parts = {
        side: (classes, called[side], positions_of(pool, list(said[side])), np.array(list(said[side].values())))
        for side, pool in pools.items()
        if said[side]
    }
    pools_labelled = {side: labelled_pool(*part) for side, part in parts.items()}
    found = {side: labelled_shares(labelled) for side, labelled in pools_labelled.items()}
    return found, labelled_difference(*pools_labelled.values()) if len(found) == 2 else None


def calls(session: LabelSession, side: str, pool: Pool) -> npt.NDArray[np.int64]:
    """The classifier's class for each image of a side `(N,)`; all the same where none has seen it."""
    table = session.sides[side].table
    if table is None:
        return np.zeros(len(pool), dtype=np.int64)
    columns = [c for c in pool.labels(table).columns if c != "seed"]
    place = [session.classes.index(c.removeprefix(f"{session.attribute}.")) for c in columns]
    return np.asarray(np.array(place)[pool.labels(table)[columns].to_numpy().argmax(axis=1)])


def _true(session: LabelSession, side: str) -> list[int] | None:
    """Classes of the images shown so far, in their order; None while some have no label."""
    labels = consensus_of(session).labels
    shown = [i for i in session.images if i[0] == side]
    return [session.classes.index(labels[i]) for i in shown] if all(i in labels for i in shown) else None


def _write(session: LabelSession, rater: str, labels: Labels) -> Labels:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["seed", session.attribute, "source"])
    writer.writerows([seed, label, session.sides[side].source] for (side, seed), label in labels.items())
    with relisted(session.run):
        write_text(session.folder / f"{rater}.csv", text.getvalue())
    return labels


DRAWS = 400


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of raters on the images that all of them labelled."""

    name: str
    """What the number is called."""
    n: int
    """Images."""
    raters: int
    observed: float
    """Share of pairs of labels of one image that are the same."""
    kappa: float | None
    """(observed - by chance)/(1 - by chance); None where all labels are of one class, so that chance explains all."""
    low: float | None
    high: float | None
    """95% interval: percentiles over draws of the images with replacement."""


def agreement(labels: npt.ArrayLike, classes: int) -> Agreement:
    """Of labels `(images, raters)`, class numbers.

    Cohen 1960 takes each rater's own class shares for chance; of several pairs of raters it is their mean (Light 1971).
    Raises InputError without two raters and an image.
    """
    table = np.asarray(labels, dtype=np.int64)
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] < 2:
        raise InputError(f"got labels of shape {table.shape}; expected at least one image and two raters")
    n, raters = table.shape
    pairs = list(combinations(range(raters), 2))
    # Rows of labels that are the same are counted, not repeated.
    rows, times = np.unique(table, axis=0, return_counts=True)
    known = list(range(classes))

    def kappa(weights: npt.NDArray[np.int64]) -> float:
        found = [cohen_kappa_score(rows[:, a], rows[:, b], labels=known, sample_weight=weights) for a, b in pairs]
        return float(np.mean(found))

    with warnings.catch_warnings():
        # It divides by zero where all labels are of one class.
        warnings.simplefilter("ignore")
        value = kappa(times)
        drawn = numpy_generator("agreement", n).multinomial(n, times / n, DRAWS)
        draws = np.array([kappa(w) for w in drawn]) if np.isfinite(value) else np.array([])
    draws = draws[np.isfinite(draws)]
    low, high = np.quantile(draws, [0.025, 0.975]) if len(draws) > DRAWS // 2 else (None, None)
    return Agreement(
        name="Cohen's kappa" if raters == 2 else "Mean Cohen's kappa of all pairs of raters",
        n=n,
        raters=raters,
        observed=float(np.mean([(rows[:, a] == rows[:, b]) @ times / n for a, b in pairs])),
        kappa=value if np.isfinite(value) else None,
        low=None if low is None else min(float(low), value),
        high=None if high is None else max(float(high), value),
    )
