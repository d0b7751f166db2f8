"""What the pages say of one image: text as it is in the manifest."""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from apps.pictures import heatmap_name
from curate.columns import COLUMNS

KEPT = 2000  # images whose facts are kept in memory, those asked for last
_FLAG = re.compile(r"(?P<measure>[^=:]+)[=:]\s*(?P<value>.*?)\s*(?:\((?P<threshold>.*)\))?")
_SHAPE = ("label", "width", "height")
_PROVENANCE = ("source", "query", "title", "creator", "license", "url", "page_url")
_MODEL = ("predicted", "label_probability", "reject_probability", "suspicion")
_COLUMNS = (*_SHAPE, *_PROVENANCE, *_MODEL, "flags")


class Items:
    """The facts of the images of a manifest, made when they are asked for."""

    def __init__(self, manifest: pd.DataFrame, root: Path, row: Mapping[str, int]) -> None:
        """`row` finds an image_id in the manifest."""
        self._root, self._row = root, row
        self._columns = {name: manifest[name].array for name in _COLUMNS if name in manifest}
        self.of = lru_cache(KEPT)(self._facts)

    def _facts(self, image_id: str) -> dict[str, Any]:
        """Identity, picture addresses, flags, model and provenance; None where something is missing."""
        row = self._row[image_id]
        said = dict.fromkeys(_COLUMNS) | {name: plain(cells[row]) for name, cells in self._columns.items()}
        return {
            "id": image_id,
            **{name: said[name] for name in _SHAPE},
            "img": f"/img/{image_id}",
            "thumb": f"/thumb/{image_id}",
            "heat": self._heat("heat", image_id, image_id),
            "heat_predicted": self._heat("heat-predicted", image_id, f"{image_id}-predicted"),
            "flags": read_flags(said["flags"]),
            **{name: said[name] for name in _MODEL},
            "provenance": {name: said[name] for name in _PROVENANCE},
        }

    def _heat(self, route: str, image_id: str, name: str) -> str | None:
        path = self._root / heatmap_name(name)
        return f"/{route}/{image_id}?v={path.stat().st_mtime_ns}" if path.is_file() else None


class FileNames(Mapping[str, str]):
    """`file_name` by image_id, read from the manifest as it lies in memory: no second copy of all names."""

    def __init__(self, manifest: pd.DataFrame, row: Mapping[str, int]) -> None:
        self._names, self._row = manifest["file_name"].array, row

    def __getitem__(self, image_id: str) -> str:
        return str(self._names[self._row[image_id]])

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._row


def read_flags(flags: str | None) -> list[dict[str, str]]:
    """The column `flags` taken apart: "a=1 (2); b=3 (4)" -> measure, value, threshold, meaning of each."""
    found = [part.strip() for part in (flags or "").split(";") if part.strip()]
    parts = [(match.groupdict("") if (match := _FLAG.fullmatch(flag)) else {"measure": flag}) for flag in found]
    return [{"value": "", "threshold": "", "meaning": meaning(part["measure"]), **part} for part in parts]


def meaning(measure: str) -> str:
    """What a measure says; empty for one that is not ours."""
    return COLUMNS[measure].meaning if measure in COLUMNS else ""


def plain(value: Any) -> Any:
    """A cell as JSON can say it; None where it is missing."""
    if value is None or pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value
