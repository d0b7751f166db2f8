"""Review decisions: bring in those made elsewhere, and apply those in force to a manifest."""

from pathlib import Path

import pandas as pd

from curate.errors import CurateError
from curate.ledger import Decision
from curate.words import REASONS

VERDICTS = {"accept": "accept", "keep": "accept", "reject": "reject", "relabel": "relabel"}


def apply_decisions(manifest: pd.DataFrame, standing: pd.DataFrame) -> pd.DataFrame:
    """Set `status`, `reason`, `label`, `reviewer` and `reviewed_at` by the decisions in force.

    Args:
        manifest: with `image_id`, `label`, `status`.
        standing: `Ledger.standing()`: one row an image, index `image_id`.

    Returns:
        All rows in their order. A copy that is left out stays out (`duplicate`), unless a person accepted it.
    """
    table = manifest.copy()
    for column in ("reason", "reviewer", "reviewed_at"):
        if column not in table:
            table[column] = pd.Series(index=table.index, dtype="str")
    mine = table["image_id"].isin(standing.index)
    decided = standing.reindex(table.loc[mine, "image_id"])
    verdict = decided["verdict"].to_numpy()
    table.loc[mine, "status"] = ["rejected" if v == "reject" else "accepted" for v in verdict]
    table.loc[mine, "reason"] = decided["reason"].to_numpy()
    table.loc[mine, "reviewer"] = decided["reviewer"].to_numpy()
    table.loc[mine, "reviewed_at"] = decided["decided_at"].to_numpy()
    relabelled = mine & table["image_id"].isin(standing.index[standing["verdict"] == "relabel"])
    table.loc[relabelled, "label"] = standing["label"].reindex(table.loc[relabelled, "image_id"]).to_numpy()
    return table


def read_decisions(path: Path, manifest: pd.DataFrame, standing: pd.DataFrame, reviewer: str) -> list[Decision]:
    """The decisions of a CSV that are not in force already.

    Args:
        path: a CSV with `image_id` or `file_name`; `verdict` (accept or keep, reject, relabel); `reason` of a
            rejection; `label` of a relabel; optionally `reviewer`.
        manifest: finds the image of a `file_name`, and knows the classes.
        standing: `Ledger.standing()`.
        reviewer: who decided, where the file does not say.

    Raises:
        CurateError: names the row and what is wrong with it; nothing is taken then.
    """
    table = _read(path)
    if "image_id" not in table:
        table["image_id"] = table["file_name"].map(manifest.set_index("file_name")["image_id"])
    problems = _problems(table, manifest)
    for what, wrong in problems.items():
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            more = f" ({int(wrong.sum()) - 1} more rows like it)" if wrong.sum() > 1 else ""
            cells = ", ".join(f"{k}={v!r}" for k, v in table.iloc[row].dropna().items())
            raise CurateError(f"{path}: row {row + 1} {what}{more}: {cells}. Nothing was taken in.")
    new = [_decision(row, reviewer) for row in table.to_dict("records")]
    keys = ("verdict", "reason", "label")
    in_force = {i: tuple(_text(row[k]) for k in keys) for i, row in standing.iterrows()}
    return [d for d in new if in_force.get(d.image_id) != tuple(_text(getattr(d, k)) for k in keys)]


def _read(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise CurateError(f"{path}: no such file of decisions: a CSV with image_id or file_name, verdict, reason.")
    try:
        table = pd.read_csv(path, dtype="str", keep_default_na=False, na_values=[""])
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise CurateError(f"{path}: not a CSV that can be read: {error}") from error
    if "verdict" not in table or not {"image_id", "file_name"} & set(table):
        raise CurateError(
            f"{path}: needs the columns verdict and image_id or file_name; found {', '.join(table) or 'none'}."
        )
    for column in ("reason", "label", "reviewer"):
        if column not in table:
            table[column] = pd.Series(index=table.index, dtype="str")
    return table


def _problems(table: pd.DataFrame, manifest: pd.DataFrame) -> dict[str, pd.Series]:
    verdict = table["verdict"].map(VERDICTS)
    return {
        "names an image that is not in the manifest": ~table["image_id"].isin(manifest["image_id"]),
        f"has a verdict that is none of {', '.join(VERDICTS)}": verdict.isna(),
        f"rejects for a reason that is none of {', '.join(REASONS)}": (verdict == "reject")
        & ~table["reason"].isin(REASONS),
        "relabels to a class that the manifest does not have": (verdict == "relabel")
        & ~table["label"].isin(manifest["label"]),
    }


def _decision(row: dict, reviewer: str) -> Decision:
    verdict = VERDICTS[row["verdict"]]
    return Decision(
        image_id=row["image_id"],
        verdict=verdict,
        reason=row["reason"] if verdict == "reject" else None,
        label=row["label"] if verdict == "relabel" else None,
        reviewer=_text(row["reviewer"]) or reviewer,
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
