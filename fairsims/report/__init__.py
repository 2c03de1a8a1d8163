"""An audit made readable: HTML report, figures, image grids, the terminal's summary, the index of runs."""

from fairsims.report.forms import write_reports
from fairsims.report.grids import image_grid
from fairsims.report.html import write_report
from fairsims.report.terminal import terminal_table

__all__ = ["image_grid", "terminal_table", "write_report", "write_reports"]
