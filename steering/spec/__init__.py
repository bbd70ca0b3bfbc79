"""Every option of a steered model: one strict, frozen model in which -M and extra_body meet.

It owns the names, types, defaults and rules across options, the short label that people read and
the fingerprint that keeps conditions apart. It never knows torch, Inspect, files, or how many
blocks a model has: `steering.condition` checks those.
"""

from steering.spec.intervention import (
    BUILDING,
    DEFAULT,
    INTERVENTION,
    NONE,
    InterventionOptions,
    file_label,
)
from steering.spec.model import OPTIONS, SteeringSpec
from steering.spec.option import Option
from steering.spec.parsing import SpecError, parse_options
