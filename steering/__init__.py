"""Steering: does activation steering make a language model broadly misaligned?

The public functions and types are imported when they are first used: `import steering` takes
milliseconds and imports neither torch nor Inspect.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "load_model": "steering.api.ask",
    "SteeredModel": "steering.api.ask",
    "Answer": "steering.api.ask",
    "read_vector": "steering.api.vectors",
    "build": "steering.api.build",
    "finetune": "steering.api.build",
    "run_study": "steering.studies.run",
    "StudyResult": "steering.studies.run",
    "search": "steering.studies.search",
    "SearchResult": "steering.studies.search",
    "audit": "steering.studies.audit",
    "AuditResult": "steering.studies.audit",
    "read_answers": "steering.results.frame",
    "worst_answers": "steering.results.worst",
    "read_choices": "steering.results.choices",
    "read_scores": "steering.results.task_scores",
    "read_readings": "steering.results.readings",
    "monitor": "steering.reports.monitor",
    "report": "steering.studies.report",
    "Report": "steering.studies.report",
    "calibrate": "steering.studies.calibrate",
    "CalibrationRecord": "steering.judging.calibration.record",
    "gate": "steering.reports.gate",
    "BoundStatus": "steering.reports.gate",
    "SteeringVector": "steering.vectors.steering_vector",
    "SteeringError": "steering.errors",
}
"""Where each public name is defined."""

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in _MODULES:
        raise AttributeError(f"module 'steering' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """The public names, whether or not they were used."""
    return sorted(set(globals()) | set(__all__))
