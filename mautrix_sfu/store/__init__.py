"""The store: tables, queries and migrations. The only importer of SQLAlchemy."""

from .beside import mautrix_database
from .database import AwayError
from .records import AuditEntry, EndedCall, Stored, StoredBan, StoredFact
from .sqlite import sqlite_path
from .store import Store, migrate

__all__ = [
    "AuditEntry",
    "AwayError",
    "EndedCall",
    "Store",
    "Stored",
    "StoredBan",
    "StoredFact",
    "mautrix_database",
    "migrate",
    "sqlite_path",
]
