"""What an audit found, without a page: flags and their worst images, heatmaps, confusion, doubtful labels, screen."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from curate.balance import undecided
from curate.columns import COLUMNS
from curate.decide import apply_decisions
from curate.errors import CurateError
from curate.screen import certainty
from curate.shortcuts_found import Finding, Shortcuts, counted_rows, read_shortcuts
from curate.stats import summary
from curate.thresholds import THRESHOLDS

WORST = 12  # images shown of each flag
BINS = 10  # of the screen's probability
UNREADABLE = "does not open"
BEFORE = "audited-shortcuts.json"  # beside a later manifest: what there was before curation
PARTS = {  # of `Shortcuts.masked`: what the model was fitted on, and judged on
    "whole": ("whole pictures", "whole pictures"),
    "background": ("whole pictures", "background alone (foreground masked)"),
    "foreground": ("whole pictures", "foreground alone (background masked)"),
    "background_only": ("background alone", "background alone"),
    "foreground_only": ("foreground alone", "foreground alone"),
}
FLAG = re.compile(r"\s*([a-z_]+)=(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?) \(([<>]) (\S+)\)\s*")
MEANINGS = {  # of a flag of `THRESHOLDS`: what may go wrong
    "off topic": "No specimen is shown, but scenery, people, a product, a diagram.",
    "polished": "Worked by people: a polished slab, a tile, a counter top.",
    "surroundings": "The surroundings are natural or cluttered; a model can learn the place instead of the specimen.",
    "several objects": "Several specimens, a heap or a collage; which of them has the label is not clear.",
    "regions": "The foreground falls into several regions, as of several specimens.",
    "colour behind": "The background is strongly coloured; a colour that one class alone has gives it away.",
    "small specimen": "The specimen is small; most of what a model sees is background.",
    "dark": "Nothing in the picture is bright; too dark to tell colours.",
    "bright": "The specimen is nearly white, as overexposed ones are.",
    "blown out": "Parts of the specimen are pure white; their texture is lost.",
    "uneven": "The light falls off across the specimen, or a shadow lies on it.",
    "lit from one side": "One side is bright and the other dark; the colours of the dark one are lost.",
    "vignetting": "The corners are dark; a frame that one camera or filter makes can give a class away.",
    "cast": "The lightest parts are not neutral; the light is coloured, and with it the specimen.",
    "tinted": "Specimen and background share a tint; it is of the light, not of the specimen.",
    "lettering": "The picture carries lettering: a caption, a label, a scale.",
    "watermark": "The picture carries a watermark or a logo, which can give a source, and with it a class, away.",
    "blurred": "Out of focus, moved or enlarged; fine texture is lost.",
    "compressed": "Compressed so much that its blocks show; fine texture is lost.",
    "tiny": "Too few pixels to show texture.",
    "odd size": "Much longer than wide; stretched to a square it is distorted.",
}


class Flag(NamedTuple):
    """One kind of flag, and the images that raise it.

    Attributes:
        name: of `THRESHOLDS`; of a measure that is not there, the measure.
        artifact: off_topic, background, illumination, object_count, overlay or quality; "" if unknown.
        measure: the column; "" of `UNREADABLE`.
        limit: as "> 0.9".
        meaning: what may go wrong, and the measure's unit.
        images: image_id -> value as written, the furthest beyond the limit first; of `UNREADABLE`, the cause.
        by_class: number of images, index `label`.
    """

    name: str
    artifact: str
    measure: str
    limit: str
    meaning: str
    images: dict[str, str]
    by_class: pd.Series


class Confusion(NamedTuple):
    """How well a model that has not seen an image tells its class.

    Attributes:
        matrix: images; rows = label, columns = predicted, both in alphabetical order.
        by_class: index `label`: `images`, `recall`, `precision` (NaN where never predicted), `f1`, and `confused_with`,
            the class that most of the others are taken for ("" if none).
        accuracy, macro_f1: over all.
    """

    matrix: pd.DataFrame
    by_class: pd.DataFrame
    accuracy: float
    macro_f1: float


class Screen(NamedTuple):
    """What the screen makes of the images that nobody has judged.

    Attributes:
        bins: images by probability of rejection, BINS of equal width from 0 to 1.
        keeps, rejects: images that it is sure of, with a probability of at most SURE of the other verdict.
        unsure: the others.
    """

    bins: np.ndarray
    keeps: int
    rejects: int
    unsure: int


@dataclass(frozen=True)
class Findings:
    """All that is told of an audited manifest.

    Attributes:
        manifest: its path; root: the data root; target: accepted images wanted of each class.
        table: the manifest itself; rows: those that count, `counted` says which; labels: all, in alphabetical order.
        counts: of `stats.summary`.
        flags, energy, distracted, confusion, doubtful, screen: as the functions below say.
        shortcuts: what lies beside the manifest, or None; stale: whether the manifest has changed since.
        before: the shortcuts before curation, or None.
    """

    manifest: Path
    root: Path
    target: int
    table: pd.DataFrame
    rows: pd.DataFrame
    counted: str
    labels: list[str]
    counts: pd.DataFrame
    flags: list[Flag]
    energy: pd.DataFrame
    distracted: list[str]
    confusion: Confusion | None
    doubtful: list[str]
    screen: Screen | None
    shortcuts: Shortcuts | None
    stale: bool
    before: Shortcuts | None


def find(table: pd.DataFrame, manifest: Path, root: Path, target: int) -> Findings:
    """What there is to tell of an audited table that was read from `manifest`; shortcuts are read beside it.

    Raises:
        CurateError: no audit, or shortcuts that cannot be read.
    """
    require_audit(table, manifest)
    rows, counted = counted_rows(table)
    path, before = shortcuts_path(manifest), manifest.with_name(BEFORE)
    there = path.exists()
    return Findings(
        manifest=manifest,
        root=root,
        target=target,
        table=table,
        rows=rows,
        counted=counted,
        labels=sorted(set(table["label"])),
        counts=summary(table),
        flags=raised_flags(rows),
        energy=heatmap_energy(rows),
        distracted=most_background(rows),
        confusion=confusion(rows),
        doubtful=doubtful_labels(rows),
        screen=screened(undecided(table)),
        shortcuts=read_shortcuts(path) if there else None,
        stale=there and manifest.exists() and path.stat().st_mtime < manifest.stat().st_mtime,
        before=read_shortcuts(before) if there and before != path and before.exists() else None,
    )


def shortcuts_path(manifest: Path) -> Path:
    """Where `curate shortcuts` writes what it finds in a manifest."""
    return manifest.with_name(f"{manifest.stem}-shortcuts.json")


def decided(table: pd.DataFrame, standing: pd.DataFrame) -> pd.DataFrame:
    """The table with the decisions in force (`Ledger.standing()`) applied to what waits; what a balance did stays."""
    waiting = table.index.isin(undecided(table).index)
    now = pd.concat([apply_decisions(table[waiting], standing), table[~waiting]]).loc[table.index]
    relabelled = now["label"] != table["label"]
    told = [column for column in ("predicted", "label_probability") if column in now]
    return now.assign(**{column: now[column].mask(relabelled) for column in told})  # they are of the label before


def require_audit(manifest: pd.DataFrame, where: object = "the manifest") -> None:
    """Raise a `CurateError` that says what to run where the columns of an audit are missing."""
    if missing := [column for column in ("status", "flags", "suspicion") if column not in manifest]:
        raise CurateError(
            f"{where}: no column {', '.join(missing)}: it was not audited. Run `curate audit` first; it writes "
            "manifests/audited.csv, which `curate report` reads."
        )


def raised_flags(rows: pd.DataFrame) -> list[Flag]:
    """The kinds of flags that are raised, those of most images first.

    Args:
        rows: with `image_id`, `label`, `flags`, and `audit_error` if anything did not open.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for image_id, text in rows.loc[rows["flags"].notna(), ["image_id", "flags"]].itertuples(index=False):
        for part in text.split(";"):
            if match := FLAG.fullmatch(part):
                measure, value, sign, limit = match.groups()
                found.setdefault((measure, f"{sign} {limit}"), {})[image_id] = value
    flags = [_flag(measure, limit, images, rows) for (measure, limit), images in found.items()]
    if "audit_error" in rows and rows["audit_error"].notna().any():
        damaged = rows[rows["audit_error"].notna()]
        causes = dict(zip(damaged["image_id"], damaged["audit_error"], strict=True))
        text = "The file cannot be decoded; nothing is known of it."
        flags.append(Flag(UNREADABLE, "", "", "", text, causes, damaged["label"].value_counts()))
    return sorted(flags, key=lambda flag: -len(flag.images))


def heatmap_energy(rows: pd.DataFrame) -> pd.DataFrame:
    """By class, where the heatmaps lie; empty where there are none.

    Returns:
        Index `label`: `images` with a heatmap and a background, `background_share` and `energy`, both medians, and
        `mostly_background`, the images of which more than half of the energy lies on the background.
    """
    seen = _with_background(rows)
    by_class = seen.groupby("label")
    return pd.DataFrame(
        {
            "images": by_class.size(),
            "background_share": by_class["background_share"].median(),
            "energy": by_class["cam_background_energy"].median(),
            "mostly_background": by_class["cam_background_energy"].agg(lambda energy: int((energy > 0.5).sum())),
        }
    )


def most_background(rows: pd.DataFrame) -> list[str]:
    """`image_id`s of the WORST heatmaps: the most energy on the background first."""
    seen = _with_background(rows)
    energy = seen["cam_background_energy"]
    return seen.loc[energy[energy > 0.5].sort_values(ascending=False, kind="stable").index[:WORST], "image_id"].tolist()


def confusion(rows: pd.DataFrame) -> Confusion | None:
    """Out-of-fold predictions against labels; None where the audit made none."""
    if "predicted" not in rows or rows["predicted"].notna().sum() == 0:
        return None
    told = rows[rows["predicted"].notna()]
    names = sorted(set(told["label"]) | set(told["predicted"]))
    matrix = pd.crosstab(told["label"], told["predicted"]).reindex(index=names, columns=names, fill_value=0)
    right = pd.Series(np.diag(matrix), matrix.index, dtype=float)
    images, predicted = matrix.sum(axis=1), matrix.sum()
    wrong = matrix.where(~np.eye(len(names), dtype=bool), 0)
    table = pd.DataFrame(
        {
            "images": images,
            "recall": right / images.where(images > 0),
            "precision": right / predicted.where(predicted > 0),
            "f1": 2 * right / (images + predicted),
            "confused_with": wrong.idxmax(axis=1).where(wrong.max(axis=1) > 0, ""),
        }
    )
    there = table[table["images"] > 0]
    return Confusion(matrix, there, float(right.sum() / images.sum()), float(there["f1"].mean()))


def doubtful_labels(rows: pd.DataFrame) -> list[str]:
    """`image_id`s of images that a model takes for another class: the least probable label first."""
    if not {"predicted", "label_probability"} <= set(rows):
        return []
    other = rows[rows["predicted"].notna() & (rows["predicted"] != rows["label"])]
    return other.sort_values("label_probability", kind="stable")["image_id"].tolist()


def screened(waiting: pd.DataFrame) -> Screen | None:
    """What the screen thinks of the images that nobody has judged; None before there were decisions to learn from."""
    if "reject_probability" not in waiting or waiting["reject_probability"].notna().sum() == 0:
        return None
    probability = waiting["reject_probability"].dropna().to_numpy(dtype=float)
    sure, bad = certainty(probability) == "sure", probability > 0.5
    keeps, rejects = int((sure & ~bad).sum()), int((sure & bad).sum())
    bins = np.histogram(probability, BINS, (0, 1))[0]
    return Screen(bins, keeps, rejects, len(probability) - keeps - rejects)


def independent(shortcuts: Shortcuts) -> list[Finding]:
    """The findings that no surer one of the same class brings along; the surest first."""
    return [finding for finding in shortcuts.findings if not finding.explained_by]


def carriers(rows: pd.DataFrame, finding: Finding) -> tuple[list[str], list[str]]:
    """`image_id`s of a class: those that carry a shortcut, and the others; those that differ most come first."""
    mine = rows[rows["label"] == finding.label]
    there = set(mine["image_id"])
    carry = [image for image in finding.image_ids if image in there]
    others = mine[~mine["image_id"].isin(carry)]
    if finding.measure in others and pd.api.types.is_numeric_dtype(others[finding.measure]):
        others = others.sort_values(finding.measure, ascending=finding.direction == "above", kind="stable")
    return carry, others["image_id"].tolist()


def _flag(measure: str, limit: str, images: dict[str, str], rows: pd.DataFrame) -> Flag:
    name, artifact = next(((n, t.artifact) for n, t in THRESHOLDS.items() if t.column == measure), (measure, ""))
    unit = COLUMNS[measure].meaning if measure in COLUMNS else ""
    meaning = f"{MEANINGS.get(name, '')} Measured: {unit}." if unit else MEANINGS.get(name, "")
    sign = -1 if limit.startswith(">") else 1
    worst = dict(sorted(images.items(), key=lambda item: sign * float(item[1])))
    by_class = rows.loc[rows["image_id"].isin(images), "label"].value_counts()
    return Flag(name, artifact, measure, limit, meaning.strip(), worst, by_class)


def _with_background(rows: pd.DataFrame) -> pd.DataFrame:
    """Those with a heatmap, and with something around the specimen for it to fall on."""
    if not {"cam_background_energy", "background_share"} <= set(rows):
        return rows.iloc[:0].assign(cam_background_energy=0.0, background_share=0.0)
    return rows[rows["cam_background_energy"].notna() & (rows["background_share"] > 0)]
