"""Target -> complement set -> calibrated strength; and the pipeline that `fairsims retarget` runs."""

EARLIER = {"omega": "strength"}
"""Columns of a sweep's rows in earlier versions, and what they are called now."""
