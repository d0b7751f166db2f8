"""What the images of a manifest can be filtered by, beside class and status: flags, source, licence, split."""

from typing import Any

import numpy as np
import pandas as pd

from curate.live_queue import ORDERS, STATUSES, Wanted

COLUMNS = {"source": "source", "license": "license", "split": "split"}
NOTHING = "not said"  # what is shown, and asked for, where a cell is empty
MANY = 200  # choices of one filter, at most: the most frequent ones


class Facets:
    """The filters of one manifest, made once."""

    def __init__(self, manifest: pd.DataFrame) -> None:
        flags = manifest["flags"].fillna("") if "flags" in manifest else pd.Series("", index=manifest.index)
        named = flags.str.split(";").explode().str.extract(r"^\s*([^=:]+)", expand=False).str.strip().reset_index()
        self._rows: dict[str, dict[str, np.ndarray]] = {"flag": _rows_by(named.dropna(), len(manifest))}
        for facet, column in COLUMNS.items():
            if column in manifest:
                values = manifest[column].fillna(NOTHING).astype(str).reset_index(drop=True)
                table = pd.DataFrame({"index": np.arange(len(manifest)), column: values})
                self._rows[facet] = _rows_by(table, len(manifest))

    def choices(self) -> dict[str, list[str]]:
        """Facet -> its values, the most frequent first; none for a facet that tells no images apart."""
        return {facet: list(rows) if len(rows) > 1 or facet == "flag" else [] for facet, rows in self._rows.items()}

    def among(self, asked: dict[str, Any]) -> np.ndarray | None:
        """(n,) bool, the rows that a browser asks for; None: all. What is no choice filters nothing."""
        chosen = [rows[asked[facet]] for facet, rows in self._rows.items() if _known(asked.get(facet), rows)]
        return np.logical_and.reduce(chosen) if chosen else None


def wanted(asked: dict[str, Any], labels: list[str]) -> Wanted:
    """The class, status and order that a browser asks for, where there are such."""
    status, order, since = asked.get("status"), asked.get("order"), asked.get("since")
    return Wanted(
        label=asked["label"] if asked.get("label") in labels else None,
        status=None if status == "all" else status if status in STATUSES else "waiting",
        order=order if order in ORDERS else "usual",
        since=since if isinstance(since, int) else None,
    )


def _known(value: Any, rows: dict[str, np.ndarray]) -> bool:
    return isinstance(value, str) and value in rows


def _rows_by(table: pd.DataFrame, number: int) -> dict[str, np.ndarray]:
    """(row, value) pairs -> value -> (n,) bool, the most frequent first."""
    row, value = table.columns
    found: dict[str, np.ndarray] = {}
    for name in table[value].value_counts().index[:MANY]:
        found[str(name)] = np.zeros(number, bool)
        found[str(name)][table.loc[table[value] == name, row].to_numpy(int)] = True
    return found
