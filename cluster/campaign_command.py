"""What happens to campaigns besides running them: `mergefleet migrate`."""

from __future__ import annotations

from cluster.output import print_json
from search import schema
from search.session import migrate_store


def migrate(store: str, *, as_json: bool) -> None:
    """Bring a store to this version's tables, and say from which version."""
    version, copy = migrate_store(store)
    if as_json:
        print_json({"from": version, "to": schema.VERSION, "copy": None if copy is None else str(copy)})
    elif version == schema.VERSION:
        print(f"schema version {version}: nothing to do")
    else:
        print(f"schema version {version} → {schema.VERSION}" + (f"; as it was: {copy}" if copy else ""))
