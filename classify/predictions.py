"""What a run says of images, as a table: what it confuses, for which groups of images it is worst, its top losses."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from classify.calibration import LEAST
from curate.confusion import wilson
from curate.errors import CurateError

SMALLEST_GROUP = 5  # images; a smaller group is not called the worst
MOST_LOSSES = 20


def predictions_table(rows: pd.DataFrame, probabilities: np.ndarray, classes: tuple[str, ...]) -> pd.DataFrame:
    """A row an image that opens: `image_id`, `label`, `predicted`, and `p_<class>` for each class.

    Args:
        rows: n rows with `image_id` and `label`.
        probabilities: (n, classes); NaN in the rows of images that do not open, which are left out.
        classes: their names.
    """
    readable = ~np.isnan(probabilities[:, 0])
    given = probabilities[readable]
    table = rows.loc[readable, ["image_id", "label"]].reset_index(drop=True)
    table["predicted"] = np.array(classes, dtype=object)[given.argmax(1)]
    return pd.concat([table, pd.DataFrame(given, columns=[f"p_{name}" for name in classes])], axis=1)


def read_predictions(path: Path) -> pd.DataFrame:
    """What `predictions_table` made and was written as CSV.

    Raises:
        CurateError: no such file, or damaged.
    """
    if not path.is_file():
        raise CurateError(f"{path}: no such file. `classify evaluate {path.parent}` makes it.")
    text = dict.fromkeys(("image_id", "label", "predicted"), str)
    try:
        table = pd.read_csv(path, dtype=text, keep_default_na=False, encoding="utf-8")
        given = table.iloc[:, 3:].to_numpy(float)
    except (ValueError, OSError) as error:  # a ParserError and a UnicodeDecodeError are ValueErrors
        raise CurateError(f"{path}: damaged: {error}. Delete it and evaluate the run again.") from error
    names = [str(column)[2:] for column in table.columns[3:]]
    whole = list(table.columns) == [*text, *(f"p_{name}" for name in names)] and len(names) > 1 and len(table) > 0
    if not (whole and table[["label", "predicted"]].isin(names).all(axis=None) and _are_shares(given)):
        raise CurateError(f"{path}: damaged: not a table of predictions. Delete it and evaluate the run again.")
    if table["image_id"].duplicated().any():
        raise CurateError(f"{path}: damaged: an image stands there twice. Delete it and evaluate the run again.")
    return table


class Outcome(NamedTuple):
    """Predictions as arrays: labels and what is predicted (n,) as indices into the classes, probabilities (n, k)."""

    classes: tuple[str, ...]
    label: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray


def unpacked(predictions: pd.DataFrame) -> Outcome:
    """The arrays of a `predictions_table`."""
    classes = tuple(str(column)[2:] for column in predictions.columns[3:])
    index = pd.Index(classes)
    label, predicted = (index.get_indexer(pd.Index(predictions[name])) for name in ("label", "predicted"))
    return Outcome(classes, label, predicted, predictions.iloc[:, 3:].to_numpy(float))


def confusions(predictions: pd.DataFrame) -> pd.DataFrame:
    """What is taken for what, the most frequent first: `label`, `predicted`, `images`, `image_ids` (surest first)."""
    sure = predictions.iloc[:, 3:].max(axis=1).rename("sure")
    wrong = predictions.join(sure)[predictions["label"] != predictions["predicted"]]
    wrong = wrong.sort_values("sure", ascending=False, kind="stable")
    pairs = [
        (label, predicted, len(part), part["image_id"].tolist())
        for (label, predicted), part in wrong.groupby(["label", "predicted"])
    ]
    table = pd.DataFrame(pairs, columns=["label", "predicted", "images", "image_ids"])
    return table.sort_values("images", ascending=False, kind="stable", ignore_index=True)


def groups(rows: pd.DataFrame, right: np.ndarray) -> pd.DataFrame:
    """How often the model is right by source and by flag, where the manifest has these columns.

    An image belongs to one source, and to all of its flags ("measure=value (> limit)", joined by ";", of an audit).

    Args:
        rows: n rows.
        right: (n,) bool.

    Returns:
        `by`, `group`, `images`, `accuracy` and its 95 % interval `low`, `high` (Wilson).
    """
    members: dict[tuple[str, str], list[int]] = {}
    if "source" in rows:
        for i, source in enumerate(rows["source"].fillna("not known")):
            members.setdefault(("source", str(source)), []).append(i)
    if "flags" in rows:
        for i, text in enumerate(rows["flags"].fillna("")):
            for flag in _flag_names(str(text)):
                members.setdefault(("flag", flag), []).append(i)
    images = np.array([len(part) for part in members.values()], int)
    hits = np.array([right[part].sum() for part in members.values()], int)
    low, high = wilson(hits, images)
    table = pd.DataFrame(list(members), columns=["by", "group"])
    table = table.assign(images=images, accuracy=hits / np.maximum(images, 1), low=low, high=high)
    return table.sort_values(["by", "images"], ascending=[False, False], kind="stable", ignore_index=True)


def worst_group(table: pd.DataFrame, images: int) -> dict[str, Any] | None:
    """The row of `groups` with the lowest accuracy, of those with at least 5 images and not all of them; or None."""
    large = table[(table["images"] >= SMALLEST_GROUP) & (table["images"] < images)]
    return None if large.empty else large.sort_values("accuracy", kind="stable").to_dict("records")[0]


def top_losses(rows: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """The 20 images whose label the model believes least, with its `probability` and `loss` (nats).

    Args:
        rows: with `file_name`, of the same images in the same order.
        predictions: of `predictions_table`.
    """
    outcome = unpacked(predictions)
    believed = outcome.probabilities[np.arange(len(predictions)), outcome.label]
    table = predictions[["image_id", "label", "predicted"]].assign(
        probability=believed, loss=-np.log(np.maximum(believed, LEAST)), file_name=rows["file_name"].to_numpy()
    )
    return table.sort_values("loss", ascending=False, kind="stable", ignore_index=True)[:MOST_LOSSES]


def _are_shares(given: np.ndarray) -> bool:
    return bool((given >= 0).all() and (np.abs(given.sum(1) - 1) < 0.001).all())


def _flag_names(text: str) -> list[str]:
    """The measures of an audit's flags; "no flag" where there is none."""
    names = [re.split("[=:]", part, maxsplit=1)[0].strip() for part in text.split(";")]
    return list(dict.fromkeys(name for name in names if name)) or ["no flag"]
