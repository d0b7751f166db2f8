"""A small audited data set with heatmaps and shortcuts beside it, for the pages that show what was found."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from curate.manifest import write_manifest
from curate.shortcuts_found import Accuracy, Finding, Shortcuts, write_shortcuts
from tests.pictures import jpeg

ROWS = {  # image_id: label, status, predicted, probability of the label, background_texture, energy on the background
    "b1": ("basalt", "candidate", "basalt", 0.9, 0.95, 0.8),
    "b2": ("basalt", "candidate", "basalt", 0.8, 0.99, 0.2),
    "b3": ("basalt", "candidate", "granite", 0.3, 0.10, 0.3),
    "b4": ("basalt", "rejected", "granite", 0.1, 0.99, 0.9),
    "g1": ("granite", "candidate", "granite", 0.7, 0.20, 0.6),
    "g2": ("granite", "candidate", "basalt", 0.1, 0.97, 0.1),
    "g3": ("granite", "duplicate", "basalt", 0.2, 0.20, 0.1),
}


def audited(folder: Path, labels: dict[str, str] | None = None) -> pd.DataFrame:
    """ROWS as folder/audited.csv, their images and heatmaps (of b1 also of what is predicted) below folder/data."""
    rows = []
    heatmaps = folder / "data" / "cache" / "heatmaps"
    heatmaps.mkdir(parents=True)
    for number, (image_id, (label, status, predicted, probability, texture, energy)) in enumerate(ROWS.items()):
        (folder / "data" / f"{image_id}.jpg").write_bytes(jpeg(number, 320, 240))
        write_heatmap(heatmaps / f"{image_id}.png", number)
        flag = f"background_texture={texture:.3g} (> 0.9)" if texture > 0.9 else None
        row = {"image_id": image_id, "file_name": f"{image_id}.jpg", "label": label, "status": status}
        row |= {"predicted": predicted, "label_probability": probability, "background_texture": texture, "flags": flag}
        rows.append(row | {"background_share": 0.5, "cam_background_energy": energy, "suspicion": texture})
    table = pd.DataFrame(rows).assign(duplicate_of=None, reject_probability=np.nan, audit_error=None)
    table["reason"] = np.where(table["status"] == "rejected", "background", None)
    names = labels or {}
    table = table.assign(**{name: table[name].replace(names) for name in ("label", "predicted")})
    write_manifest(table, folder / "audited.csv")
    return table


def write_heatmap(path: Path, column: int) -> None:
    """All 0 but one bright column, 8 pixels wide."""
    heat = np.zeros((56, 56), np.uint8)
    heat[:, 8 * column % 56 :][:, :8] = 255
    Image.fromarray(heat).save(path)


def shortcuts(label: str = "basalt", **changes: object) -> Shortcuts:
    """Basalt is told by its background: `b2` and `b1` carry it; and by its light, which the background brings along."""
    of_background = Finding(
        label=label,
        kind="background",
        measure="background_texture",
        direction="above",
        limit=0.9,
        evidence=4.0,
        p=0.004,
        share=0.67,
        share_elsewhere=0.5,
        auroc=0.93,
        auroc_interval=(0.81, 0.97),
        also=("background_chroma",),
        explained_by="",
        image_ids=("b2", "b1", "elsewhere"),
    )
    light = Finding(**{**of_background.__dict__, "kind": "illumination", "explained_by": "background"})
    told = Accuracy("background_texture", "background", 0.61, (0.5, 0.7), 0.02, (label, 0.9))
    found = {
        "counted": "candidate or accepted",
        "images": {label: 3, "granite": 2},
        "left_out": {},
        "unmeasured": 0,
        "chance": 0.5,
        "findings": (of_background, light),
        "accuracies": (told,),
        "joint": Accuracy("all", "", 0.72, (0.6, 0.81), 0.004, (label, 0.95)),
    }
    return Shortcuts(**{**found, **changes})


def masked(label: str = "basalt") -> dict[str, object]:
    """What `masked_accuracy` gives: 83 % from the background alone."""
    judged = {"balanced_accuracy": 0.83, "interval": (0.7, 0.9), "images": 5, "recall": {label: 0.88}}
    nothing = {"balanced_accuracy": None, "interval": None, "images": 0, "recall": {}}
    others = dict.fromkeys(("whole", "foreground", "background_only"), judged | {"balanced_accuracy": 0.77})
    return {"chance": 0.5, "background": judged, "foreground_only": nothing, **others}


def write_shortcuts_beside(folder: Path, **changes: object) -> None:
    """shortcuts() as folder/audited-shortcuts.json."""
    write_shortcuts(shortcuts(**changes), folder / "audited-shortcuts.json")
