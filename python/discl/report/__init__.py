"""Run folders and stores come in; one self-contained HTML page goes out."""

from discl.report.page import write_report

__all__ = ["write_report"]
