"""The HTTP edge: health, readiness, metrics, what the focus says of itself in public, and the call page."""

from .server import FocusInfo, HttpServer, Status

__all__ = ["FocusInfo", "HttpServer", "Status"]
