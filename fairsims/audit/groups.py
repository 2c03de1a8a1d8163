"""Quality per group: the kernel distance of each class to the real images of that class, at equal numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fairsims.audit.blocks import Features, subsample
from fairsims.audit.facts import GroupDistance
from fairsims.audit.kernel import kernel_distance
from fairsims.classifiers.base import AttributeClassifier

IntArray = npt.NDArray[np.int64]

KERNEL_SAMPLE = 5_000
"""Images a side that a kernel distance takes; of more, a sample."""
FEW = 50
"""Images below which a group is refused, and a whole side warned of."""


@dataclass(frozen=True, kw_only=True)
class GroupCalls:
    """What a classifier calls the images of every side."""

    classifier: AttributeClassifier
    calls: Mapping[str, IntArray]
    """By side ("before", "after"): place of each image in the classifier's classes, `(N,)`; -1 for none."""

    def first(self, images: int | None) -> GroupCalls:
        """Those of the first images of every side; None: of all."""
        return replace(self, calls={side: c[:images] for side, c in self.calls.items()})


def group_distances(
    real: Features, real_calls: IntArray, sides: Mapping[str, Features], groups: GroupCalls
) -> dict[str, dict[str, GroupDistance]]:
    """Per class and side the kernel distance, or why it is refused.

    Features are `(N, d)`. The same number of images, real and generated, is taken of every group: that of the smallest
    one which is not refused, `KERNEL_SAMPLE` at most.
    """
    classes = groups.classifier.attribute.classes
    members = {
        (k, side): (np.flatnonzero(real_calls == k), np.flatnonzero(groups.calls[side] == k))
        for k in range(len(classes))
        for side in sides
    }
    usable = [min(len(a), len(b)) for a, b in members.values() if min(len(a), len(b)) >= FEW]
    n = min([KERNEL_SAMPLE, *usable])
    found: dict[str, dict[str, GroupDistance]] = {c: {} for c in classes}
    for (k, side), (a, b) in members.items():
        if min(len(a), len(b)) < FEW:
            reason = f"{len(b)} generated and {len(a)} real images; expected {FEW} or more of both"
            found[classes[k]][side] = GroupDistance(refused=reason)
            continue
        x, y = real[a[subsample(len(a), n)]], sides[side][b[subsample(len(b), n)]]
        distance = kernel_distance(x, y)
        found[classes[k]][side] = GroupDistance(kid=distance.kid, low=distance.low, high=distance.high, n=n)
    return found
