"""The manifest: one row an image, `image_id` its key. Declares the columns; reads, checks and writes the table."""

import re
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from curate.errors import CurateError
from curate.files import is_inside, replacing
from curate.words import LICENSE_BASES, SPLITS, STATUSES


class Column(NamedTuple):
    """What a manifest column holds."""

    kind: Literal["text", "integer", "number"]
    meaning: str
    values: tuple[str, ...] = ()


COLUMNS = {
    # identity
    "image_id": Column("text", "first 16 hex digits of sha256; the key"),
    "sha256": Column("text", "of the bytes as they came"),
    "file_name": Column("text", "relative to the data root, with forward slashes"),
    "label": Column("text", "the class it was searched under, or was relabelled to"),
    # picture
    "width": Column("integer", "pixels, upright (EXIF orientation applied)"),
    "height": Column("integer", "pixels, upright"),
    "format": Column("text", "what the bytes are, whatever the suffix said: JPEG, PNG, WEBP, GIF, BMP, TIFF"),
    "bytes": Column("integer", "size of the file"),
    "phash": Column("text", "perceptual hash of imagehash, 16 hex digits"),
    # provenance
    "source": Column("text", "the source's name: bing, google, openverse, ..., contributed"),
    "query": Column("text", "what was asked"),
    "rank": Column("integer", "position in the answers to the query, from 1"),
    "url": Column("text", "where the bytes came from"),
    "page_url": Column("text", "the page that shows the image"),
    "title": Column("text", "as the source gave it: untrusted text"),
    "creator": Column("text", "as the source gave it: untrusted text"),
    "license": Column("text", "its SPDX id where it is recognised; of a search filter, what it asked for"),
    "license_url": Column("text", "as the source gave it"),
    "license_basis": Column("text", "who says so: the source asserts it, a search filter implies it", LICENSE_BASES),
    "attribution": Column("text", "the credit line to print"),
    "fetched_at": Column("text", "UTC, ISO 8601"),
    # curation
    "status": Column("text", "what became of it", STATUSES),
    "reason": Column("text", "why it is out, or how the best copy was chosen"),
    "duplicate_of": Column("text", "image_id of the copy that stays"),
    "label_conflict": Column("text", "image_id of a copy under another class: for a person to settle"),
    "reviewer": Column("text", "who decided"),
    "reviewed_at": Column("text", "UTC, ISO 8601"),
    "balance_round": Column("integer", "which balance first saw the image; 0: it came before any"),
    # audit
    "background_kind": Column(
        "text", "what surrounds the specimen", ("white", "black", "plain", "natural", "cluttered", "none")
    ),
    "background_share": Column("number", "share of the pixels outside the foreground, 0 to 1"),
    "background_uniformity": Column("number", "share of the border within CIE76 5 of its median colour, 0 to 1"),
    "background_chroma": Column("number", "chroma of the median colour of the border, CIE a*b* units"),
    "background_texture": Column("number", "probability that the background is natural or cluttered, 0 to 1"),
    "background_fill": Column("number", "probability that the surface fills the frame, 0 to 1"),
    "foreground_confidence": Column("number", "how far the foreground mask can be trusted, 0 to 1"),
    "illumination_highlight": Column("number", "90th percentile of CIE L* over the picture, 0 to 100"),
    "illumination_brightness": Column("number", "mean CIE L* of the foreground, 0 to 100"),
    "illumination_dark_share": Column("number", "share of foreground pixels with L* < 10"),
    "illumination_bright_share": Column("number", "share of foreground pixels with L* > 97"),
    "illumination_unevenness": Column("number", "deviation of the foreground's lightness after a wide blur, L* units"),
    "illumination_cast": Column("number", "chroma that specimen and background have in common, CIE a*b* units"),
    "illumination_fault": Column("number", "probability that the lighting is at fault, 0 to 1"),
    "object_count": Column("text", "specimens in the picture", ("1", "2-4", "many", "fill")),
    "object_components": Column("integer", "separate foreground regions of at least 1 % of the frame"),
    "object_multiple": Column("number", "probability that there are several objects, 0 to 1"),
    "quality_sharpness": Column("number", "standard deviation of the Laplacian at 256 pixels, grey levels"),
    "overlay_text": Column("number", "probability that the picture carries lettering, 0 to 1"),
    "overlay_text_share": Column("number", "share of the frame covered by text-like strokes on calm ground"),
    "audit_error": Column("text", "why the image could not be measured"),
    "cam_background_energy": Column("number", "share of the heatmap's energy outside the foreground, 0 to 1"),
    "cam_peak_distance": Column("number", "from the heatmap's peak to the frame's centre, 1 = a corner"),
    "predicted": Column("text", "class by a model that has not seen this image (out of fold)"),
    "label_probability": Column("number", "that model's probability of the given label"),
    "reject_probability": Column("number", "that this reviewer would reject it; missing before there are decisions"),
    "suspicion": Column("number", "order of the review queue, 0 to 1"),
    "flags": Column("text", "measure=value (threshold), separated by '; '"),
    # training
    "split": Column("text", "part of the data set; missing for what is not used", SPLITS),
}
REQUIRED = ("image_id", "file_name", "label")
_FORMULA = re.compile(r"^'*[=+\-@\t\r]")
_DTYPES = {"text": "str", "integer": "Int64", "number": "float64"}


def read_manifest(path: Path) -> pd.DataFrame:
    """The checked table: text as `str` (NaN where missing), integers as `Int64`, numbers as `float64`.

    Columns that DeepRock does not declare are kept as text.

    Raises:
        CurateError: no such file, no rows, or a cell that breaks the declaration (its row and column are named).
    """
    if not path.exists():
        raise CurateError(
            f"{path}: no such manifest. `curate scrape` makes the first one; dedup, audit, balance make the next."
        )
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, dtype="str", keep_default_na=False, na_values=[""], encoding="utf-8")
    except pd.errors.EmptyDataError:
        raise CurateError(f"{path}: the manifest is empty: not even a header. Run `curate scrape` again.") from None
    except (pd.errors.ParserError, UnicodeDecodeError, OSError, ValueError) as error:
        raise CurateError(f"{path}: not a manifest that can be read: {error}") from error
    if missing := [column for column in REQUIRED if column not in table]:
        found = ", ".join(map(str, table.columns[:12])) or "none"
        raise CurateError(f"{path}: no column {', '.join(missing)}; found {found}. `curate scrape` writes all of them.")
    if table.empty:
        raise CurateError(f"{path}: the manifest holds no images. Run `curate scrape` first.")
    if path.suffix != ".parquet":
        table = table.apply(_unescape)
    return check_manifest(table, path)


def check_manifest(table: pd.DataFrame, where: Path | str = "manifest") -> pd.DataFrame:
    """The table with declared types.

    Raises:
        CurateError: names the first row (1 = the first image) and column that break the declaration.
    """
    typed = {str(column): _typed(table[column], str(column), where) for column in table}
    table = pd.DataFrame(typed, index=pd.RangeIndex(len(table)))
    for column in REQUIRED:
        _refuse(table, column, table[column].isna(), where, "is missing")
    _refuse(table, "image_id", table["image_id"].duplicated(), where, "stands there twice")
    unsafe = ~table["file_name"].map(is_inside)
    _refuse(table, "file_name", unsafe, where, "is a path outside the data root")
    for column, declared in COLUMNS.items():
        if declared.values and column in table:
            wrong = table[column].notna() & ~table[column].isin(declared.values)
            _refuse(table, column, wrong, where, f"is none of {', '.join(declared.values)}")
    return table


def write_manifest(table: pd.DataFrame, path: Path) -> None:
    """Write CSV, or Parquet by suffix: checked, declared columns first, in one atomic step.

    Text that a spreadsheet would run as a formula gets a leading apostrophe in the CSV, which reading takes away again.

    Raises:
        CurateError: a cell breaks the declaration, or the disk refuses.
    """
    table = check_manifest(table, path)
    table = table[[c for c in COLUMNS if c in table] + [c for c in table if c not in COLUMNS]]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            if path.suffix == ".parquet":
                table.to_parquet(temporary, index=False)
            else:
                table.apply(_escape).to_csv(temporary, index=False, lineterminator="\n", float_format="%.6g")
    except OSError as error:
        raise CurateError(
            f"{path}: the manifest cannot be written: {error.strerror or error}. Make room or allow writing "
            "there, then run the same command again."
        ) from error


def require_columns(manifest: pd.DataFrame, *columns: str, made_by: str) -> None:
    """Raise a `CurateError` that names the missing columns and the command that makes them."""
    if missing := [column for column in columns if column not in manifest]:
        raise CurateError(f"no column {', '.join(missing)} among {', '.join(manifest)}. Run `{made_by}` first.")


def class_weights(counts: pd.Series) -> pd.Series:
    """w_i = max(n) / n_i, the study's weights for the cross-entropy; classes without an image are left out."""
    counts = counts[counts > 0]
    return counts.max() / counts


def _typed(column: pd.Series, name: str, where: Path | str) -> pd.Series:
    kind = COLUMNS[name].kind if name in COLUMNS else "text"
    column = column.reset_index(drop=True)
    if kind == "text":
        missing = column.isna()
        return column.astype("str").where(~missing)
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = column.notna() & numbers.isna()
    if kind == "integer":
        wrong |= numbers.notna() & (numbers != np.floor(numbers.astype("float64")))
    _refuse(column.to_frame(name), name, wrong, where, f"is no {kind}")
    return numbers.astype(_DTYPES[kind])


def _refuse(table: pd.DataFrame, column: str, wrong: pd.Series, where: Path | str, what: str) -> None:
    rows = np.flatnonzero(wrong.to_numpy(dtype=bool))
    if len(rows):
        value = table[column].iloc[rows[0]]
        others = f" ({len(rows) - 1} more rows like it)" if len(rows) > 1 else ""
        raise CurateError(f"{where}: row {rows[0] + 1}, column {column}: {value!r} {what}{others}.")


def _escape(column: pd.Series) -> pd.Series:
    if COLUMNS.get(str(column.name), Column("text", "")).kind != "text":
        return column
    return column.where(~column.str.match(_FORMULA, na=False), "'" + column)


def _unescape(column: pd.Series) -> pd.Series:
    text = column.astype("str")
    return column.where(~(text.str.startswith("'") & text.str.match(_FORMULA)), text.str[1:])
