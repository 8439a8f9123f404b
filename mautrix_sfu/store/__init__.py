"""The store: tables, queries and migrations. The only importer of SQLAlchemy."""

from .store import Store, Stored, StoredFact, migrate

__all__ = ["Store", "Stored", "StoredFact", "migrate"]
