"""From logs to what people look at."""

from steering.report.calibration import print_calibrations
from steering.report.compare import print_comparison, read_rules
from steering.report.gate import ALIASES, FIGURES, BoundStatus, parse_bound, print_gate
from steering.report.rescore import grid, print_grid, print_rescored, write_table
from steering.report.summary import print_summary
from steering.results.runs import (
    ReportError,
    Result,
    read_complete_results,
    read_results,
    read_runs,
)

__all__ = [
    "ALIASES",
    "FIGURES",
    "BoundStatus",
    "ReportError",
    "Result",
    "grid",
    "parse_bound",
    "print_calibrations",
    "print_comparison",
    "print_gate",
    "print_grid",
    "print_rescored",
    "print_summary",
    "read_complete_results",
    "read_results",
    "read_rules",
    "read_runs",
    "write_table",
]
