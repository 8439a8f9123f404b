"""Between the core and its edges: what they tell goes in, what the core asks for is carried out."""

from .load import LoadWatch
from .runtime import Runtime

__all__ = ["LoadWatch", "Runtime"]
