"""Target -> complement set -> calibrated strength; and the pipeline that `fairsims retarget` runs."""
