"""The manifest of what was collected, out of the ledger."""

import pandas as pd

from curate.ledger import Ledger
from curate.licenses import permits
from curate.manifest import COLUMNS


def collected(ledger: Ledger, labels: list[str], license: str = "any") -> pd.DataFrame:
    """The manifest of all images held of these classes under such a licence, in the order they were offered."""
    table = ledger.images(labels)
    stated = zip(table["license"].fillna(""), table["license_basis"].fillna(""), strict=True)
    permitted = [permits(*row, license) for row in stated]
    table = table[pd.Series(permitted, index=table.index, dtype=bool)].copy()
    table["image_id"] = table["sha256"].str[:16]
    table["status"] = "candidate"
    table["label"] = pd.Categorical(table["label"], labels, ordered=True)
    table = table.sort_values(["label", "fetch_id"], kind="stable").astype({"label": "str"})
    return table[[column for column in COLUMNS if column in table]].reset_index(drop=True)
