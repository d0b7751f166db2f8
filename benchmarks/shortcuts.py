"""How surely a planted shortcut is found, and how often one is found where there is none; cleanlab's Datalab beside it.

    python -m benchmarks.shortcuts           # about fifteen minutes of one core, with the peers of `make peers`
    python -m benchmarks.shortcuts --quick   # four minutes: every second photo, fewer seeds, without peers and masks

Real photos are dealt into ten classes by chance, 73 to each, anew for every seed; then all, half or 30 % of one class
is darkened (sRGB values x 0.4), gets another background (green where the foreground mask ends; a surface that fills
the frame is shrunk onto it), or is doubled (two half-size copies side by side in the same frame, on the median
colour of its border). A hit: the adjusted p of that class is at most 0.05 and what is named first for it is the right
artifact. Family-wise error: how often there is any finding in classes dealt without a planted one. Nothing in
`curate.shortcuts` was tuned on these seeds. Intervals are exact binomial (Clopper and Pearson), 95 %.
For orientation: what is found in the photos' own classes, and how well a model tells those by backgrounds alone.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from scipy.stats import binomtest

from curate.artifacts import foreground, measure_image
from curate.console import print_table
from curate.images import inspect, open_rgb, thumbnail
from curate.masked import masked_accuracy
from curate.shortcuts import LEVEL, ask, find_in_classes, find_shortcuts, measures_of
from curate.shortcuts_found import Finding
from curate.store import ImageError
from curate.threads import one_thread_each

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
PEERS = ROOT / ".venv-peers" / "bin" / "python"
WEIGHTS = SHARED / "weights" / "mobilenet_v2_imagenet_features.pth"
CLASSES, PER_CLASS = 10, 73
SHARES = (1.0, 0.5, 0.3)
PICTURE = 512  # longer side of the pictures that are changed, pixels
GREEN = (70, 140, 80)
PLANTED = {"darkened": "illumination", "recoloured": "background", "doubled": "object_count"}  # and the artifact it is
PROPERTIES = {"darkened": ("dark", "light")}  # of Datalab, that are the right ones; it has none of the other two
FIRST_SEED = 1000
MASKED_COLOUR = (124, 116, 104)  # the mean of ImageNet: zero to the model
LEAST_LEFT = 0.05  # share of the frame that a part must have to be judged


class Photos(NamedTuple):
    """Every photo measured in every variant.

    Attributes:
        names: n files. labels: (n,) their own classes, "" where unknown.
        tables: variant -> n rows of measures. masks: (n, 56, 56) bool, the foreground.
    """

    names: list[str]
    labels: np.ndarray
    tables: dict[str, pd.DataFrame]
    masks: np.ndarray


class Deal(NamedTuple):
    """Classes dealt by chance: (730,) photos, class numbers, and the variant that each photo appears in."""

    rows: np.ndarray
    codes: np.ndarray
    variants: np.ndarray


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--photos", type=Path, default=SHARED / "data" / "rocks", help="what file_name is relative to")
    options.add_argument("--truth", type=Path, help="CSV with file_name, label; default: truth.csv in the folder")
    options.add_argument("--weights", type=Path, default=WEIGHTS, help="of MobileNetV2, for backgrounds alone")
    options.add_argument("--quick", action="store_true")
    given = options.parse_args()
    truth_path = given.truth or given.photos / "truth.csv"
    if not truth_path.exists():
        print(f"no real photos here: no {truth_path}; give --photos DIR and --truth CSV (file_name, label)")
        print(json.dumps({"skipped": str(truth_path)}))
        return
    with one_thread_each():
        print(json.dumps(figures_of(given, truth_path)))


def figures_of(given: argparse.Namespace, truth_path: Path) -> dict[str, object]:
    """All that the last line says; what is behind it is printed on the way."""
    truth = listed(given.photos, pd.read_csv(truth_path, dtype="str"))
    truth = truth.iloc[:: 2 if given.quick else 1].reset_index(drop=True)
    with tempfile.TemporaryDirectory() as home:
        peers = PEERS.exists() and not given.quick
        photos = measured(truth, given.photos, Path(home))
        seeds, deals = (5, 100) if given.quick else (20, 400)
        planted = {
            (what, share): [planted_deal(photos, what, share, seed) for seed in range(seeds)]
            for what in PLANTED
            for share in SHARES
        }
        empty = [deal(photos, FIRST_SEED + 1 + seeds + i) for i in range(deals)]
        figures = {**power(photos, planted), **false_alarms(photos, empty)}
        if peers:
            figures |= datalab(photos, planted, empty[: deals // 2], Path(home))
        elif not given.quick:
            print("the peers are not installed: `make peers`")
    show_own_classes(photos)
    if not given.weights.exists():
        print(f"no weights here: {given.weights}; backgrounds alone are left out, give --weights")
    elif not given.quick:
        figures |= backgrounds_alone(photos, given.photos, given.weights)
    return figures


def listed(folder: Path, truth: pd.DataFrame) -> pd.DataFrame:
    """`file_name`, `label` of the labelled photos, and of those beside them that nobody judged (web2/<class>/)."""
    more = sorted(path for path in (folder / "web2").glob("*/*") if path.is_file())
    names = [str(path.relative_to(folder)) for path in more]
    beside = pd.DataFrame({"file_name": names, "label": ""})
    table = truth[["file_name", "label"]]
    return pd.concat([table, beside[~beside["file_name"].isin(table["file_name"])]], ignore_index=True)


def measured(truth: pd.DataFrame, folder: Path, home: Path) -> Photos:
    """Every photo that opens, in every variant, written below `home` and measured as a collected file is."""
    opened: list[int] = []
    tables: dict[str, list[dict]] = {}
    masks = []
    start = time.perf_counter()
    for row, file_name in enumerate(truth["file_name"]):
        try:
            image = open_rgb(folder, file_name)
        except ImageError as error:
            print(f"{file_name}: {error}", file=sys.stderr)
            continue
        for name, rgb in variants_of(np.asarray(thumbnail(image, PICTURE))):
            path = home / name / f"{len(opened)}.jpg"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(rgb).save(path, quality=95)
            measures, mask = columns(home, path)
            tables.setdefault(name, []).append({**measures, "width": image.width, "height": image.height})
            if name == "plain":
                masks.append(mask)
        opened.append(row)
    print(f"{len(opened)} photos, {len(tables)} variants of each, in {time.perf_counter() - start:.0f} s", flush=True)
    kept = truth.iloc[opened]
    frames = {name: pd.DataFrame(rows) for name, rows in tables.items()}
    return Photos(kept["file_name"].tolist(), kept["label"].to_numpy(str), frames, np.array(masks))


def columns(home: Path, path: Path) -> tuple[dict, np.ndarray]:
    """What an audited manifest says of a picture; and its mask."""
    measures, mask = measure_image(open_rgb(home, str(path.relative_to(home))))
    picture = inspect(path.read_bytes())
    seen = {name: getattr(picture, name) for name in ("sharpness", "brightness", "contrast", "entropy")}
    sides = (picture.width, picture.height)
    return {**measures, **seen, "aspect_ratio": max(sides) / min(sides)}, mask


def variants_of(rgb: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The picture as it is, and with each artifact planted; all of the same size."""
    yield "plain", rgb
    yield "darkened", (rgb * 0.4).astype(np.uint8)
    front = foreground(np.asarray(thumbnail(Image.fromarray(rgb), 256)))
    yield "recoloured", shrunk(rgb, GREEN) if front.kind == "none" else recoloured(rgb, front.mask, GREEN)
    yield "doubled", doubled(rgb)


def recoloured(rgb: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Outside the mask four fifths of the colour and one fifth of what was there."""
    soft = cv2.resize(mask.astype(np.float32), rgb.shape[1::-1])
    soft = cv2.GaussianBlur(soft, (0, 0), 1)[..., None]
    return (soft * rgb + (1 - soft) * (0.8 * np.array(colour) + 0.2 * rgb)).astype(np.uint8)


def shrunk(rgb: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """The picture at three quarters of its size in the middle of a coloured frame."""
    height, width = rgb.shape[:2]
    small = cv2.resize(rgb, (3 * width // 4, 3 * height // 4), interpolation=cv2.INTER_AREA)
    frame = np.full_like(rgb, colour)
    y, x = height // 8, width // 8
    frame[y : y + len(small), x : x + small.shape[1]] = small
    return frame


def doubled(rgb: np.ndarray) -> np.ndarray:
    """Two copies of half its size side by side, on the median colour of its border."""
    height, width = rgb.shape[:2]
    small = cv2.resize(rgb, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
    edge = max(1, max(height, width) // 40)
    sides = (rgb[:edge], rgb[-edge:], rgb[:, :edge], rgb[:, -edge:])
    frame = np.empty_like(rgb)
    frame[:] = np.median(np.concatenate([side.reshape(-1, 3) for side in sides]), axis=0)
    y = (height - len(small)) // 2
    frame[y : y + len(small), : small.shape[1]] = small
    frame[y : y + len(small), width - small.shape[1] :] = small
    return frame


def deal(photos: Photos, seed: int) -> Deal:
    """Ten classes of photos drawn without replacement, none changed."""
    each = min(PER_CLASS, len(photos.names) // CLASSES)
    rows = np.random.default_rng(seed).permutation(len(photos.names))[: CLASSES * each]
    return Deal(rows, np.repeat(np.arange(CLASSES), each), np.full(len(rows), "plain", dtype=object))


def planted_deal(photos: Photos, variant: str, share: float, seed: int) -> Deal:
    """As `deal`, with so much of one class, which one depends on the seed, changed."""
    dealt = deal(photos, FIRST_SEED + seed)
    members = np.flatnonzero(dealt.codes == seed % CLASSES)
    dealt.variants[members[: round(share * len(members))]] = variant
    return dealt


def manifest(photos: Photos, dealt: Deal) -> pd.DataFrame:
    """The audited manifest of dealt classes."""
    parts = [
        photos.tables[variant].iloc[dealt.rows[dealt.variants == variant]].assign(position=positions)
        for variant in sorted(set(dealt.variants))
        for positions in [np.flatnonzero(dealt.variants == variant)]
    ]
    table = pd.concat(parts).sort_values("position").drop(columns="position").reset_index(drop=True)
    return table.assign(label=[f"class {code}" for code in dealt.codes], image_id=[f"{row:016x}" for row in dealt.rows])


def findings_of(photos: Photos, dealt: Deal, seed: int) -> tuple[Finding, ...]:
    """What `find_shortcuts` names, without the accuracies, which take most of its time."""
    table = manifest(photos, dealt)
    questions, holds = ask(table, measures_of(table))
    return find_in_classes(table, dealt.codes, questions, holds, np.random.default_rng(seed))


def power(photos: Photos, planted: dict[tuple[str, float], list[Deal]]) -> dict[str, object]:
    """The share of planted shortcuts that are found in the right class and named rightly."""
    figures: dict[str, object] = {}
    rows = []
    total: Counter[float] = Counter()
    for (what, share), deals in planted.items():
        hits, alone, carriers, named = 0, 0, [], Counter[str]()
        for seed, dealt in enumerate(deals):
            found = findings_of(photos, dealt, seed)
            own = [finding for finding in found if finding.label == f"class {seed % CLASSES}"]
            hit = bool(own) and own[0].kind == PLANTED[what]
            hits += hit
            alone += hit and found[0] is own[0] and all(f.explained_by for f in found if f is not found[0])
            named[f"{own[0].measure}" if own else "nothing"] += 1
            if hit:
                changed = {f"{row:016x}" for row in dealt.rows[dealt.variants != "plain"]}
                carriers.append(len(changed & set(own[0].image_ids)) / len(changed))
        total[share] += hits
        traced = f"{np.mean(carriers):.0%}" if carriers else "-"
        measures = ", ".join(f"{name} {n}" for name, n in named.most_common(3))
        rows.append((what, f"{share:.0%}", *told(hits, len(deals)), str(alone), traced, measures))
        figures[f"power_{what}_{share:.0%}".rstrip("%")] = round(hits / len(deals), 4)
    print_table(("planted", "in", "found", "95 %", "nothing else", "its images traced", "named first"), rows)
    for share in SHARES:
        tried = sum(len(deals) for (_, s), deals in planted.items() if s == share)
        figures[f"power_{100 * share:.0f}"] = round(total[share] / tried, 4)
        figures[f"power_{100 * share:.0f}_interval"] = exact(total[share], tried)
        print(f"in {share:.0%} of the class: {' '.join(told(total[share], tried))}", flush=True)
    return figures


def false_alarms(photos: Photos, empty: list[Deal]) -> dict[str, object]:
    """How often anything is found where nothing is planted; in every fourth deal, any accuracy above chance as well."""
    by_finding = sum(bool(findings_of(photos, dealt, seed)) for seed, dealt in enumerate(empty))
    print(f"any finding without a shortcut: {' '.join(told(by_finding, len(empty)))}", flush=True)
    by_accuracy, some = 0, empty[::4]
    for seed, dealt in enumerate(some):
        found = find_shortcuts(manifest(photos, dealt), seed=seed)
        by_accuracy += min(accuracy.p for accuracy in (found.joint, *found.accuracies)) <= LEVEL
    print(f"any accuracy above chance without a shortcut: {' '.join(told(by_accuracy, len(some)))}", flush=True)
    return {
        "family_wise_error": round(by_finding / len(empty), 4),
        "family_wise_error_interval": exact(by_finding, len(empty)),
        "family_wise_error_of_accuracies": round(by_accuracy / len(some), 4),
    }


def datalab(
    photos: Photos, planted: dict[tuple[str, float], list[Deal]], empty: list[Deal], home: Path
) -> dict[str, object]:
    """The same deals told to cleanlab's Datalab: whether a property is below its threshold, at its default and at one
    that 5 % of the deals without a shortcut fall below. It names a property, never a class."""
    variants = {name: i * len(photos.names) for i, name in enumerate(photos.tables)}
    files = [f"{name}/{i}.jpg" for name in variants for i in range(len(photos.names))]
    deals = [dealt for group in planted.values() for dealt in group] + empty
    sets = [
        {
            "rows": [int(row) + variants[name] for row, name in zip(dealt.rows, dealt.variants, strict=True)],
            "labels": dealt.codes.tolist(),
        }
        for dealt in deals
    ]
    order = {"root": str(home), "files": files, "sets": sets, "out": str(home / "peers.json")}
    driver = ROOT / "benchmarks" / "peers" / "drive_shortcuts.py"
    subprocess.run([PEERS, driver], input=json.dumps(order), text=True, check=True, stdout=sys.stderr)
    answer = json.loads(Path(order["out"]).read_text())
    scores, threshold = answer["scores"], answer["threshold"]
    lowest = np.array([min(said.values()) for said in scores[-len(empty) :]])
    calibrated = float(np.quantile(lowest, 0.05))
    figures: dict[str, object] = {"datalab_family_wise_error": round(float((lowest < threshold).mean()), 4)}
    rows = []
    hits: Counter[tuple[str, float]] = Counter()
    at = 0
    for (what, share), group in planted.items():
        said = scores[at : at + len(group)]
        at += len(group)
        right = [min(s, key=lambda name, s=s: s[name]) in PROPERTIES.get(what, ()) for s in said]
        default = sum(min(s.values()) < threshold for s in said)
        fair = sum(min(s.values()) < calibrated for s in said)
        named = sum(ok and min(s.values()) < calibrated for ok, s in zip(right, said, strict=True))
        hits["default", share] += default
        hits["calibrated", share] += named
        rows.append((what, f"{share:.0%}", f"{default} of {len(group)}", f"{fair} of {len(group)}", str(named)))
        figures[f"datalab_calibrated_{what}_{100 * share:.0f}"] = round(fair / len(group), 4)
    header = (
        "Datalab on",
        "in",
        f"found at {threshold:g}",
        f"at {calibrated:.3f} (5 % false alarms)",
        "right property",
    )
    print_table(header, rows)
    tried = sum(len(group) for group in planted.values()) / len(SHARES)
    for share in SHARES:
        figures[f"datalab_power_{100 * share:.0f}"] = round(hits["default", share] / tried, 4)
        figures[f"datalab_calibrated_power_{100 * share:.0f}"] = round(hits["calibrated", share] / tried, 4)
    return figures


def show_own_classes(photos: Photos) -> None:
    """For orientation: what is found in the classes that the photos were searched under."""
    known = photos.labels != ""
    table = photos.tables["plain"][known].assign(
        label=photos.labels[known], image_id=[f"{row:016x}" for row in np.flatnonzero(known)]
    )
    found = find_shortcuts(table, seed=0)
    rows = [
        (f.label, f.kind, f.question(), f"{f.share:.0%}", f"{f.share_elsewhere:.0%}", f"{f.auroc:.2f}", f.explained_by)
        for f in found.findings
    ]
    print_table(("photos' own class", "artifact", "measure", "of it", "elsewhere", "AUROC", "goes with"), rows)
    best = found.accuracies[0]
    print(
        f"their class told from all measures: {found.joint.balanced_accuracy:.1%}, from {best.measure} alone "
        f"{best.balanced_accuracy:.1%}; chance {found.chance:.1%}"
    )


def backgrounds_alone(photos: Photos, folder: Path, weights: Path) -> dict[str, object]:
    """How well MobileNetV2 features tell the photos' own classes by the background, and by the foreground."""
    from classify.models import load_backbone

    backbone = load_backbone("mobilenet_v2", str(weights))
    rows = np.flatnonzero(photos.labels != "")
    parts: dict[str, list[np.ndarray]] = {"whole": [], "background": [], "foreground": []}
    for row in rows:
        picture = open_rgb(folder, photos.names[row]).resize((backbone.side, backbone.side), Image.Resampling.BILINEAR)
        pixels, mask = np.asarray(picture), photos.masks[row].astype(np.uint8)
        inside = cv2.resize(mask, pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST)[..., None] > 0
        views = (pixels, np.where(inside, MASKED_COLOUR, pixels), np.where(inside, pixels, MASKED_COLOUR))
        vectors = backbone.maps(np.stack(views).astype(np.uint8)).mean((2, 3)).float().cpu().numpy()
        left = (1.0, 1 - inside.mean(), inside.mean())
        for part, vector, share in zip(parts, vectors, left, strict=True):
            parts[part].append(vector if share >= LEAST_LEFT else np.full_like(vector, np.nan))
    found = masked_accuracy(photos.labels[rows], *(np.array(vectors) for vectors in parts.values()), seed=0)
    told_parts = [
        (name, str(part["images"]), f"{part['balanced_accuracy']:.1%}", "{:.1%} to {:.1%}".format(*part["interval"]))
        for name, part in found.items()
        if isinstance(part, dict)
    ]
    print_table((f"own classes told by (chance {found['chance']:.1%})", "images", "accuracy", "95 %"), told_parts)
    return {f"accuracy_{name}": round(part["balanced_accuracy"], 4) for name, part in found.items() if name != "chance"}


def told(part: int, whole: int) -> tuple[str, str]:
    return f"{part} of {whole}", "{:.1%} to {:.1%}".format(*exact(part, whole))


def exact(part: int, whole: int) -> tuple[float, float]:
    """Clopper and Pearson's interval, 95 %."""
    found = binomtest(part, whole).proportion_ci()
    return round(float(found.low), 4), round(float(found.high), 4)


if __name__ == "__main__":
    main()
