"""The figures of a report, drawn beside the audit."""

from __future__ import annotations

from fairsims.report.alternatives import calibration_alt, joint_alt, quality_alt, shares_alt
from fairsims.report.document import Figure
from fairsims.report.sections import Context


def draw(context: Context) -> dict[str, Figure]:
    """Draw what the audit has numbers for as `<run>/audit/*.png`; figures by name. The same audit, the same bytes."""
    # Drawing imports seaborn, which takes longer than everything else a reader of audits needs.
    from fairsims.report.figures import calibration_figure, quality_figure, shares_figure
    from fairsims.report.joint_figure import joint_figure

    view, folder = context.view, context.audit
    shares_figure(view, folder / "shares.png")
    found = {"shares": Figure(path=folder / "shares.png", alt=shares_alt(view))}
    if view.calibration:
        calibration_figure(view, folder / "calibration.png")
        found["calibration"] = Figure(
            path=folder / "calibration.png",
            alt=calibration_alt(view),
            caption="Share measured at each strength on calibration seeds, and the result on audit seeds that the "
            "calibration never saw",
        )
    if any(p.distances for p in view.calibration):
        quality_figure(view, folder / "quality.png")
        found["quality"] = Figure(
            path=folder / "quality.png", alt=quality_alt(view), caption="Quality against strength; lower is closer"
        )
    if view.joint:
        joint_figure(view, folder / "joint.png")
        found["joint"] = Figure(
            path=folder / "joint.png",
            alt=joint_alt(view),
            caption="Share of images in each pair of classes; below it the lift, the share over what it would be if "
            "the attributes knew nothing of each other",
        )
    return found
