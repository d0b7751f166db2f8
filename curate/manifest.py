"""The manifest: one row an image, `image_id` its key; `columns` declares it. Reads, checks and writes the table."""

from pathlib import Path

import numpy as np
import pandas as pd

from curate.columns import COLUMNS, FORMULA, REQUIRED, Column
from curate.errors import CurateError
from curate.files import is_inside, writing

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
    with writing(path) as temporary:
        if path.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.apply(_escape).to_csv(temporary, index=False, lineterminator="\n", float_format="%.6g")


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
    wrong |= np.isinf(numbers.astype("float64"))
    if kind == "integer":
        wrong |= numbers.astype("float64").abs() >= 2**63
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
    return column.where(~column.str.match(FORMULA, na=False), "'" + column)


def _unescape(column: pd.Series) -> pd.Series:
    text = column.astype("str")
    return column.where(~(text.str.startswith("'") & text.str.match(FORMULA)), text.str[1:])
