"""The installation test: looks at everything between the homeserver, the focus and its users, and says what to mend."""

from .run import check, check_file, warn_at_start

__all__ = ["check", "check_file", "warn_at_start"]
