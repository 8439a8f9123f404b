"""What Prometheus can read of the focus, in one registry of its own. Labels come from bounded sets only."""

from .collectors import FocusState, MatrixLoad, MediaMeasures
from .registry import COUNTERS, MATRIX_COUNTERS, MATRIX_TIMES, MAX_CAUSES, OUTCOMES, STAGES, Metrics

__all__ = [
    "COUNTERS",
    "MATRIX_COUNTERS",
    "MATRIX_TIMES",
    "MAX_CAUSES",
    "OUTCOMES",
    "STAGES",
    "FocusState",
    "MatrixLoad",
    "MediaMeasures",
    "Metrics",
]
