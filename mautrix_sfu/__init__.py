"""mautrix-sfu: a Matrix application service that is a selective forwarding unit for group calls."""

__version__ = "0.1.0"
