"""A run on images: its figures, what it confuses, how sure it may be; a page of all of it; the log of the test set."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from classify.ablate import predict_ablated
from classify.calibration import (
    calibration_error,
    cross_entropy,
    error_by_chance,
    fit_temperature,
    reliability,
    reliability_figure,
    tempered,
)
from classify.data import Progress, split_rows
from classify.figures import evaluation_page, shown_images, thumbnails
from classify.models import Trained, load_run
from classify.predict import predict_rows
from classify.predictions import (
    Outcome,
    confusions,
    groups,
    predictions_table,
    read_predictions,
    top_losses,
    unpacked,
    worst_group,
)
from classify.report import confusion_png, save_figure, write_table
from classify.scores import confusion_matrix, confusion_table, summary
from curate.errors import CurateError
from curate.files import replacing

OWN_VAL = "predictions-val.csv"  # of the images that the run was validated on, by its best epoch


def evaluate_run(
    run: Path,
    manifest: pd.DataFrame,
    root: Path,
    *,
    split: str,
    name: str = "manifest",
    ablation: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate a run on a split, or on all accepted images of a manifest that has no split.

    Writes evaluation-<part>.json, .csv, .png, .html, evaluation-<part>-reliability.png and predictions-<part>.csv into
    the run. The part is the split; "manifest-<name>" where the images are not the run's own (no split, or a split val
    with images that the run was not validated on); an ablation's name is added. A predictions-val.csv that is there is
    the one of training and stays.

    The test set is for the end: every look at it, and at another manifest, is appended to test-log.jsonl, before the
    figures are known.

    Args:
        run: the run folder.
        manifest: its `source` and `flags` are used where it has them.
        root: the data root.
        split: train, val or test; means nothing where the manifest has no split.
        name: of the manifest.
        ablation: done to the images that the model sees; one of `classify.ablate.ABLATIONS`.
        progress: called with (images done, images to do).

    Returns:
        As `summary`, and `split` (None without one), `part`, `images_are` (in words), `ablation`, `loss`,
        `calibration`, `confusions`, `groups`, `worst_group`, `top_losses`, `unreadable` (file names), `manifest_rows`.

    Raises:
        CurateError: no run, no such split, an empty one, labels that the run does not know, no such ablation.
    """
    trained = load_run(run)
    wanted = _wanted_rows(run, trained, manifest, split)
    if ablation is None:
        probabilities = predict_rows(trained, wanted, root, progress=progress)
    else:
        probabilities = predict_ablated(trained, wanted, root, ablation, progress=progress)
    readable = ~np.isnan(probabilities[:, 0])
    if not readable.any():
        raise CurateError(f"{name}: none of the {len(wanted)} images opens under {root}. Is --data wrong?")
    rows = wanted[readable]
    images = _images(run, rows, split if "split" in manifest else None, name, ablation)
    if images.part != images.split or images.split == "test":
        log_look(run, {"images": len(wanted), "split": images.split, "manifest": name, "ablation": ablation})
    table = predictions_table(wanted, probabilities, trained.classes)
    if images.stem != "val" or not (run / OWN_VAL).exists():
        write_table(table, run / f"predictions-{images.stem}.csv")
    result = {
        **images._asdict(),
        **_figures(run, rows, table, own_val=images.stem == "val"),
        "manifest_rows": len(wanted),
        "unreadable": wanted["file_name"][~readable].tolist(),
    }
    pictures = thumbnails(trained, rows, root, shown_images(result), ablation)
    _write(run, result, table, trained.classes, pictures)
    return result


def temperature_of(run: Path) -> dict[str, Any]:
    """Fit the temperature on the images that the run was validated on; kept in temperature.json.

    Returns:
        `temperature`, or None and the `cause`; `images`, and their loss, `loss_before` and `loss_after`.

    Raises:
        CurateError: predictions-val.csv is damaged.
    """
    if not (run / OWN_VAL).exists():
        return {"temperature": None, "cause": f"{OWN_VAL} is missing: evaluate split val first"}
    outcome = unpacked(read_predictions(run / OWN_VAL))
    found = fit_temperature(outcome.probabilities, outcome.label)
    fitted = {
        "temperature": found,
        "images": len(outcome.label),
        "loss_before": cross_entropy(outcome.probabilities, outcome.label),
        "loss_after": cross_entropy(tempered(outcome.probabilities, found or 1.0), outcome.label),
        "cause": None if found else "the validation images do not determine it: all are predicted right, or hardly any",
    }
    with replacing(run / "temperature.json") as temporary:
        temporary.write_text(json.dumps(fitted, indent=2))
    return fitted


class _Images(NamedTuple):
    """Which images are evaluated, and what the files are called."""

    split: str | None
    part: str
    stem: str
    images_are: str
    manifest: str
    ablation: str | None


def _wanted_rows(run: Path, trained: Trained, manifest: pd.DataFrame, split: str) -> pd.DataFrame:
    rows = split_rows(manifest, split) if "split" in manifest else _accepted(manifest)
    where = f"split {split}" if "split" in manifest else "the manifest"
    if unknown := sorted(set(rows["label"]) - set(trained.classes)):
        raise CurateError(
            f"{where} holds label {', '.join(unknown)}, which the run {run} was not trained on; "
            f"it knows {', '.join(trained.classes)}. Give the manifest it was trained with, or train again."
        )
    return rows


def _accepted(manifest: pd.DataFrame) -> pd.DataFrame:
    if "status" not in manifest:
        return manifest
    rows = manifest[manifest["status"] == "accepted"]
    if rows.empty:
        counts = manifest["status"].value_counts().to_dict()
        raise CurateError(f"no image of the manifest is accepted (images by status: {counts}). Review it first.")
    return rows


def _images(run: Path, rows: pd.DataFrame, split: str | None, name: str, ablation: str | None) -> _Images:
    part, words = split or "", f"split {split}"
    if split is None:
        part, words = f"manifest-{_file_part(name)}", f"all accepted images of {name}, which has no split"
    elif split == "val" and not _is_own_val(run, rows):
        part = f"manifest-{_file_part(name)}"
        words = f"split val of {name}, with images that the run was not validated on"
    return _Images(split, part, f"{part}-{ablation}" if ablation else part, words, name, ablation)


def _is_own_val(run: Path, rows: pd.DataFrame) -> bool:
    path = run / OWN_VAL
    return not path.exists() or set(rows["image_id"]) <= set(read_predictions(path)["image_id"])


def _file_part(name: str) -> str:
    return re.sub(r"[^\w-]+", "-", name) or "manifest"


def log_look(run: Path, look: dict[str, Any]) -> None:
    """Append to the run's test-log.jsonl what is looked at, and when."""
    entry = {"at": datetime.now(UTC).isoformat(timespec="seconds"), **look}
    with (run / "test-log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def _figures(run: Path, rows: pd.DataFrame, table: pd.DataFrame, *, own_val: bool) -> dict[str, Any]:
    outcome = unpacked(table)
    found = groups(rows, outcome.label == outcome.predicted)
    return {
        **summary(confusion_matrix(outcome.label, outcome.predicted, len(outcome.classes)), outcome.classes),
        "loss": cross_entropy(outcome.probabilities, outcome.label),
        "calibration": _calibration(outcome, temperature_of(run), own_val=own_val),
        "confusions": confusions(table).to_dict("records"),
        "groups": found.to_dict("records"),
        "worst_group": worst_group(found, len(rows)),
        "top_losses": top_losses(rows, table).to_dict("records"),
    }


def _calibration(outcome: Outcome, fitted: dict[str, Any], *, own_val: bool) -> dict[str, Any]:
    temperature = fitted["temperature"]
    scaled = tempered(outcome.probabilities, temperature or 1.0)
    fitted_on = "these images themselves" if own_val else "the run's validation images"
    return {
        "error": calibration_error(reliability(outcome.probabilities, outcome.label)),
        "error_by_chance": error_by_chance(outcome.probabilities),
        "temperature": temperature,
        "fitted_on": f"not fitted: {fitted['cause']}" if temperature is None else fitted_on,
        "error_scaled": calibration_error(reliability(scaled, outcome.label)) if temperature else None,
        "loss_scaled": cross_entropy(scaled, outcome.label) if temperature else None,
    }


def _write(
    run: Path,
    result: dict[str, Any],
    table: pd.DataFrame,
    classes: tuple[str, ...],
    pictures: dict[str, np.ndarray],
) -> None:
    """The files of an evaluation; last of all the JSON."""
    path, matrix = run / f"evaluation-{result['stem']}", np.array(result["confusion_matrix"])
    outcome, temperature = unpacked(table), result["calibration"]["temperature"]
    diagrams = {"as it is": reliability(outcome.probabilities, outcome.label)}
    if temperature:
        scaled = tempered(outcome.probabilities, temperature)
        diagrams[f"temperature {temperature:.2f}"] = reliability(scaled, outcome.label)
    write_table(confusion_table(matrix, classes), path.with_suffix(".csv"))
    confusion_png(matrix, classes, path.with_suffix(".png"))
    save_figure(reliability_figure(diagrams), path.with_name(f"{path.name}-reliability.png"))
    evaluation_page(path, result, pictures)
    with replacing(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(result, indent=2))
