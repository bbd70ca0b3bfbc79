"""From logs to what people look at."""

from steering.report.summary import ReportError, Result, print_summary, read_results

__all__ = ["ReportError", "Result", "print_summary", "read_results"]
