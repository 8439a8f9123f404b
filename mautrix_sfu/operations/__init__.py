"""What admins can see and do, made out of the parts of a running focus; and what it tells them unasked."""

from .operations import FocusOperations, Parts, Reloaded

__all__ = ["FocusOperations", "Parts", "Reloaded"]
