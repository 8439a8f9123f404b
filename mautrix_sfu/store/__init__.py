"""The store: tables, queries and migrations. The only importer of SQLAlchemy."""

from .database import sqlite_path
from .records import AuditEntry, EndedCall, Stored, StoredBan, StoredFact
from .store import Store, migrate

__all__ = ["AuditEntry", "EndedCall", "Store", "Stored", "StoredBan", "StoredFact", "migrate", "sqlite_path"]
