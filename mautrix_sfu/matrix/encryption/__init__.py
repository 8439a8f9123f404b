"""Olm and Megolm: signalling that proves its device, and command rooms that are encrypted."""

from .machine import Encryption

__all__ = ["Encryption"]
