"""Report on one or more runs: one HTML file with recommendations, images, metrics and plots."""

from lirdrec_pyg.report.page import check_packages, check_report, write_report

__all__ = ["check_packages", "check_report", "write_report"]
