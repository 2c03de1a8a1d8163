"""Shares of an attribute among generated images, with intervals, by what is known of the classifier's errors.

Tier A: people labelled some of these very images. Tier B: errors measured on held-out images. Tier C: neither.
"""

from fairsims.audit.corrected import corrected_shares, sensitivity, share_difference
from fairsims.audit.estimates import (
    ShareDifference,
    ShareEstimate,
    independent_difference,
    preserved,
    reached,
)
from fairsims.audit.intersections import (
    JointEstimate,
    errors_independent,
    joint_confusion,
    joint_difference,
    joint_estimate,
    labelled_joint,
)
from fairsims.audit.labelled import (
    Labelled,
    held_out_errors_fit,
    labelled_difference,
    labelled_null,
    labelled_pool,
    labelled_shares,
)
from fairsims.audit.measures import measures, null_shares
from fairsims.audit.next_labels import next_to_label, neyman_allocation

__all__ = [
    "JointEstimate",
    "Labelled",
    "ShareDifference",
    "ShareEstimate",
    "corrected_shares",
    "errors_independent",
    "held_out_errors_fit",
    "independent_difference",
    "joint_confusion",
    "joint_difference",
    "joint_estimate",
    "labelled_difference",
    "labelled_joint",
    "labelled_null",
    "labelled_pool",
    "labelled_shares",
    "measures",
    "next_to_label",
    "neyman_allocation",
    "null_shares",
    "preserved",
    "reached",
    "sensitivity",
    "share_difference",
]
