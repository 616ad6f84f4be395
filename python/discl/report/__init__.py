"""Run folders and stores come in; one self-contained HTML page goes out."""

from discl.report.page import write_report
from discl.report.runs import report_runs

__all__ = ["report_runs", "write_report"]
