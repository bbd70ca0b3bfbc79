"""From logs to what people look at."""

from steering.report.results import ReportError, Result, read_complete_results, read_results
from steering.report.summary import print_summary

__all__ = ["ReportError", "Result", "print_summary", "read_complete_results", "read_results"]
