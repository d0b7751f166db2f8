"""Faults of light and sharpness planted in real photos, and drawn into rendered ones: how many raise their flag.

    python -m benchmarks.planted [--photos DIR] [--truth CSV] [--quick]

Of the scraped photos, those whose light an expert calls good, without the doubtful ones, are edited as they are in the
file, one fault at a time, and saved as JPEG of quality 90. Photos fall into halves by their perceptual hash, so that
copies stay together: the limits in `curate.thresholds` were set on one half, and all figures are of the other. False
positives are unedited photos of that half that raise the same flag. Where an edit changes nothing (x3 of a black
rock on white paper) it counts all the same. CleanVision, in `.venv-peers`, sees the same files. Then the rendered
pictures of `curate.sources.demo`, whose faults of light are known. The last line is one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
import cv2
import numpy as np
import pandas as pd
from PIL import Image
from scipy.stats import beta

from curate.artifacts import SIDE, measure, measure_detail
from curate.images import decode, open_rgb, phash, thumbnail
from curate.recipe import copy_shipped, read_recipe
from curate.sources.demo import Truth, render
from curate.store import ImageError
from curate.thresholds import THRESHOLDS

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = ROOT.parent / "shared" / "data" / "rocks"
PEERS = ROOT / ".venv-peers" / "bin" / "python"
QUALITY = 90  # of the JPEG that an edited photo is saved as
SEED = 7
RENDERED = 100  # pictures of each class


def multiplied(red: float, green: float, blue: float) -> Callable[[np.ndarray], np.ndarray]:
    """Gains of the channels on the values of the file, clipped to 255."""
    return lambda rgb: np.clip(rgb * np.array([red, green, blue], np.float32) + 0.5, 0, 255).astype(np.uint8)


def vignetted(rgb: np.ndarray) -> np.ndarray:
    """The cos^4 law at a corner of 45 degrees, on the values of the file: 1 / (1 + r^2)^2, a quarter in the corners."""
    height, width = rgb.shape[:2]
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    squared = (y * y * height**2 + x * x * width**2) / (height**2 + width**2)
    return np.clip(rgb / (1 + squared[..., None]) ** 2 + 0.5, 0, 255).astype(np.uint8)


def blurred(rgb: np.ndarray) -> np.ndarray:
    """A Gaussian blur of 2 pixels."""
    return cv2.GaussianBlur(rgb, (0, 0), 2)


def compressed(rgb: np.ndarray) -> np.ndarray:
    """As a JPEG of quality 10 comes back."""
    return cv2.imdecode(cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, 10])[1], cv2.IMREAD_COLOR)


class Edit(NamedTuple):
    """What is done to a photo, the flags (of `THRESHOLDS`) that are right for it, and CleanVision's issue."""

    function: Callable[[np.ndarray], np.ndarray]
    flags: tuple[str, ...]
    issue: str | None = None


BRIGHT, CAST = ("blown out", "bright"), ("cast", "tinted")
EDITS = {
    "dark": Edit(multiplied(0.4, 0.4, 0.4), ("dark",), "dark"),
    "bright": Edit(multiplied(3, 3, 3), BRIGHT, "light"),
    "vignette": Edit(vignetted, ("vignetting",), "dark"),
    "blur": Edit(blurred, ("blurred",), "blurry"),
    "cast warm": Edit(multiplied(1.3, 1, 0.7), CAST),
    "cast cool": Edit(multiplied(0.7, 1, 1.3), CAST),
    "cast green": Edit(multiplied(0.8, 1.2, 0.8), CAST),
    "compression": Edit(compressed, ("compressed",)),
}
DRAWN = {"dark": ("dark",), "bright": BRIGHT, "cast": CAST, "uneven": ("uneven", "lit from one side", "vignetting")}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--photos", type=Path, default=PHOTOS, help="folder that file_name is relative to")
    options.add_argument("--truth", type=Path, help="CSV of labels; default: truth.csv in the folder")
    options.add_argument("--quick", action="store_true", help="every sixth photo, every fifth rendered picture")
    given = options.parse_args()
    cv2.setNumThreads(1)
    result: dict[str, float | str | None] = {}
    truth_path = given.truth or given.photos / "truth.csv"
    if truth_path.exists():
        result |= real_photos(given.photos, truth_path, 6 if given.quick else 1)
    else:
        print(f"no real photos here: no {truth_path}; give --photos DIR and --truth CSV (file_name, illumination, ...)")
        result["skipped"] = str(truth_path)
    result |= rendered_pictures(RENDERED // (5 if given.quick else 1))
    print(json.dumps(result))


def real_photos(photos: Path, truth_path: Path, step: int) -> dict[str, float | str | None]:
    """Print recall and false positives of every edit; the figures by key."""
    truth = pd.read_csv(truth_path, keep_default_na=False, dtype="str")
    truth = truth[(truth["illumination"] == "ok") & (truth["doubtful"] == "0")].iloc[::step]
    with tempfile.TemporaryDirectory() as folder:
        table = measured(truth, photos, Path(folder))
        told = cleanvision(Path(folder), table)
    clear = table[table["edit"] == "none"]
    keep = clear[clear["verdict"] == "keep"]
    print(f"{len(clear)} photos in good light (half of all), {len(keep)} of them keepers; 95 % intervals")
    print(f"{'edit':12} {'flagged':>23} {'false positives':>23} {'of the keepers':>23} {'CleanVision':>23}")
    result: dict[str, float | str | None] = {}
    for name, edit in EDITS.items():
        edited = table[table["edit"] == name]
        peer = edited["file"].isin(told[edit.issue]) if edit.issue and told else None
        cells = [raised(rows, edit.flags) for rows in (edited, clear, keep)]
        print(f"{name:12} " + " ".join(f"{shown(cell):>23}" for cell in (*cells, peer)))
        key = name.replace(" ", "_")
        result[f"{key}_recall"], result[f"{key}_false_positives"] = (round(float(c.mean()), 4) for c in cells[:2])
        result[f"cleanvision_{key}_recall"] = None if peer is None else round(float(peer.mean()), 4)
    casts = [table[table["edit"] == name] for name in EDITS if name.startswith("cast")]
    result["cast_recall"] = round(float(np.mean([raised(rows, CAST).mean() for rows in casts])), 4)
    result["cast_false_positives"] = round(float(raised(clear, CAST).mean()), 4)
    for issue, names in (told or {}).items():
        print(f"CleanVision calls {shown(clear['file'].isin(names))} of the unedited {issue}")
    print("Unedited photos beyond each limit: all, and keepers")
    for name in (name for name, threshold in THRESHOLDS.items() if threshold.column in table):
        print(f"  {name:18} {shown(raised(clear, (name,))):>23} {shown(raised(keep, (name,))):>23}")
    light = tuple(name for name, threshold in THRESHOLDS.items() if threshold.artifact == "illumination")
    print(f"  {'any of the light':18} {shown(raised(clear, light)):>23} {shown(raised(keep, light)):>23}")
    result["any_light_false_positives"] = round(float(raised(clear, light).mean()), 4)
    return result


def measured(truth: pd.DataFrame, photos: Path, folder: Path) -> pd.DataFrame:
    """Measures of each photo of the reporting half and of each of its edits, which are written to the folder."""
    rows = []
    for place, row in enumerate(truth.to_dict("records")):
        try:
            image = open_rgb(photos, row["file_name"])
        except ImageError as error:
            print(f"{row['file_name']}: {error}", file=sys.stderr)
            continue
        if not reporting(phash(image)):
            continue
        rgb = np.asarray(image)
        for name, edit in {"none": None, **EDITS}.items():
            file = f"{name.replace(' ', '_')}-{place}.png"
            if edit is None:
                image.save(folder / file, compress_level=1)
                pixels = rgb
            else:
                file = file.replace(".png", ".jpg")
                Image.fromarray(edit.function(rgb)).save(folder / file, quality=QUALITY)
                pixels = np.asarray(decode((folder / file).read_bytes()))
            rows.append({"edit": name, "file": file, "verdict": row["verdict"], **all_measures(pixels)})
    return pd.DataFrame(rows)


def reporting(perceptual_hash: str) -> bool:
    """Whether a photo belongs to the half that figures are reported on; copies of one hash fall into one half."""
    return (int(perceptual_hash, 16) * 2654435761 >> 7) % 2 == 1


def all_measures(rgb: np.ndarray) -> dict[str, float | str | int]:
    small = np.asarray(thumbnail(Image.fromarray(rgb), SIDE))
    return {**measure(small)[0], **measure_detail(rgb), "aspect_ratio": max(rgb.shape[:2]) / min(rgb.shape[:2])}


def raised(table: pd.DataFrame, names: tuple[str, ...]) -> pd.Series:
    """Which rows are beyond the limit of one of the named thresholds."""
    found = pd.Series(False, table.index)
    for column, above, limit, *_ in (THRESHOLDS[name] for name in names):
        values = pd.to_numeric(table[column])
        found |= values > limit if above else values < limit
    return found


def shown(cell: pd.Series | None) -> str:
    """A share with its exact (Clopper-Pearson) 95 % interval."""
    if cell is None or not len(cell):
        return "-"
    hits, number = int(cell.sum()), len(cell)
    low = beta.ppf(0.025, hits, number - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, number - hits) if hits < number else 1.0
    return f"{100 * hits / number:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def cleanvision(folder: Path, table: pd.DataFrame) -> dict[str, list[str]] | None:
    """Issue -> files; None where it is not installed."""
    if not PEERS.exists():
        print("CleanVision is not here: `make peers`")
        return None
    order = json.dumps({"root": str(folder), "files": table["file"].tolist()})
    script = ROOT / "benchmarks" / "peers" / "drive_planted.py"
    done = subprocess.run([str(PEERS), str(script)], input=order, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def rendered_pictures(number: int) -> dict[str, float | str | None]:
    """Print what the flags say of the faults of light in the demo's pictures, beside its keepers."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "igneous.toml"
        copy_shipped("igneous", recipe)
        labels = read_recipe(recipe).labels
    rows = []
    for label in labels:
        for index in range(number):
            data, truth = render(label, index, SEED)
            if truth.kind == "keeper" or truth.artifact:
                rows.append({**known(truth), **all_measures(np.asarray(decode(data)))})
    table = pd.DataFrame(rows)
    keep = table[table["what"] == "keeper"]
    print(f"\nRendered: {len(keep)} keepers and {len(table) - len(keep)} with an artifact")
    result: dict[str, float | str | None] = {}
    for what, names in DRAWN.items():
        cells = raised(table[table["what"] == what], names), raised(keep, names)
        print(f"  {what:18} {shown(cells[0]):>24} of the keepers {shown(cells[1])}")
        result[f"rendered_{what}_recall"] = round(float(cells[0].mean()), 4)
    for artifact in ("background", "illumination", "object_count"):
        names = tuple(name for name, threshold in THRESHOLDS.items() if threshold.artifact == artifact)
        found, planted = raised(table, names), table["artifact"] == artifact
        print(f"  {artifact:18} recall {shown(found[planted])}, precision {shown(planted[found])}")
        result[f"rendered_{artifact}_recall"] = round(float(found[planted].mean()), 4)
        result[f"rendered_{artifact}_precision"] = round(float(planted[found].mean()), 4)
    for column in ("background_kind", "object_count"):
        right = table[column] == table[f"true_{column}"]
        print(f"  {column:18} right for {shown(right)}")
        result[f"rendered_{column}_accuracy"] = round(float(right.mean()), 4)
    return result


def known(truth: Truth) -> dict[str, str | None]:
    """What a rendered picture is: a keeper, a copy, a fault of the light by its name, or another artifact."""
    return {
        "what": truth.detail if truth.artifact == "illumination" else truth.kind,
        "artifact": truth.artifact,
        "true_background_kind": truth.background,
        "true_object_count": truth.object_count,
    }


if __name__ == "__main__":
    main()
