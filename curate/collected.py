"""The manifest of what was collected, out of the ledger."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.columns import COLUMNS, FORMULA
from curate.files import writing
from curate.ledger import Ledger
from curate.licenses import permits

if TYPE_CHECKING:
    import pandas as pd


def collected(ledger: Ledger, labels: Sequence[str], license: str = "any") -> pd.DataFrame:
    """The manifest of all images held of these classes under such a licence, in the order they were offered."""
    import pandas as pd  # here, as `write_collected` does without

    rows = list(_rows(ledger, labels, license))
    return pd.DataFrame(rows, columns=None if rows else list(COLUMNS))


def write_collected(ledger: Ledger, labels: Sequence[str], license: str, path: Path) -> int:
    """Write that manifest row by row, as `write_manifest` would write the table, in flat memory; how many images.

    Nothing held is no manifest: then nothing is written.

    Raises:
        CurateError: the disk refuses.
    """
    rows = _rows(ledger, labels, license)
    first = next(rows, None)
    if first is None:
        return 0
    if path.suffix == ".parquet":
        from curate.manifest import write_manifest

        table = collected(ledger, labels, license)
        write_manifest(table, path)
        return len(table)
    with writing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        lines = csv.DictWriter(file, list(first), lineterminator="\n")
        lines.writeheader()
        number = 0
        for row in chain([first], rows):
            lines.writerow({name: _escaped(value) for name, value in row.items()})
            number += 1
    return number


def _rows(ledger: Ledger, labels: Sequence[str], license: str) -> Iterator[dict[str, Any]]:
    for label in labels:
        for image in ledger.each_image(label):
            if permits(image["license"], image["license_basis"], license):
                facts = {**image, "image_id": image["sha256"][:16], "status": "candidate"}
                facts["aspect_ratio"] = _aspect_ratio(image["width"], image["height"])
                yield {column: facts[column] for column in COLUMNS if column in facts}


def _aspect_ratio(width: int, height: int) -> float:
    """Longer over shorter side, to four digits."""
    return float(f"{max(width, height) / min(width, height):.4g}")


def _escaped(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value
