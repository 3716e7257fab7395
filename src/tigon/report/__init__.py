"""The report page of a run."""

from tigon.report.page import write_report

__all__ = ["write_report"]
