"""The figures of a report, drawn beside the audit."""

from __future__ import annotations

from fairsims.report.alternatives import calibration_alt, joint_alt, quality_alt, shares_alt
from fairsims.report.document import Figure
from fairsims.report.sections import Context

CALIBRATION = (
    "Share measured at each strength on calibration seeds, and the result on audit seeds that the calibration never saw"
)
JOINT = (
    "Share of images in each pair of classes; below it the lift, the share over what it would be if the attributes "
    "knew nothing of each other"
)


def draw(context: Context) -> dict[str, Figure]:
    """Draw what the audit has numbers for as `<run>/audit/*.png`; figures by name. The same audit, the same bytes."""
    # Drawing imports seaborn, which takes longer than everything else a reader of audits needs.
    from fairsims.report.figures import calibration_figure, quality_figure, shares_figure
    from fairsims.report.joint_figure import joint_figure

    result, found = context.result, {}
    distances = any(p.fd_reference is not None for p in result.calibration)
    joint = any(pair.sides for pair in result.joint)
    for name, there, figure, alt, caption in (
        ("shares", True, shares_figure, shares_alt, ""),
        ("calibration", bool(result.calibration), calibration_figure, calibration_alt, CALIBRATION),
        ("quality", distances, quality_figure, quality_alt, "Quality against strength; lower is closer"),
        ("joint", joint, joint_figure, joint_alt, JOINT),
    ):
        if there:
            path = context.audit / f"{name}.png"
            figure(result, path)
            found[name] = Figure(path=path, alt=alt(result), caption=caption)
    return found
