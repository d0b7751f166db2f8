import time

import numpy as np
import pandas as pd
import pytest

from curate.columns import COLUMNS
from curate.errors import CurateError
from curate.manifest import class_weights, read_manifest, write_manifest


def rows(*ids: str, **columns: list) -> pd.DataFrame:
    base = {"image_id": list(ids), "file_name": [f"images/{i}.jpg" for i in ids], "label": ["granite"] * len(ids)}
    return pd.DataFrame({**base, **columns})


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_what_is_written_is_read_again(tmp_path, suffix):
    table = rows("a", "b", width=[640, None], title=["A stone", None], suspicion=[0.25, None], mine=["kept", "too"])
    write_manifest(table, tmp_path / f"m.{suffix}")
    back = read_manifest(tmp_path / f"m.{suffix}")
    assert back["width"].tolist() == [640, pd.NA]
    assert back["title"].tolist()[0] == "A stone"
    assert back["title"].isna().tolist() == [False, True]
    assert back["suspicion"].tolist()[0] == 0.25
    assert list(back) == ["image_id", "file_name", "label", "width", "title", "suspicion", "mine"]


@pytest.mark.parametrize(
    "text", ['=HYPERLINK("x")', "+1", "-1", "@sum", "\tx", "'=x", "''=x", "'plain", "plain", "0012"]
)
def test_scraped_text_is_no_formula_in_the_file_and_comes_back_unchanged(tmp_path, text):
    write_manifest(rows("a", title=[text]), tmp_path / "m.csv")
    cell = (tmp_path / "m.csv").read_text().splitlines()[1].split(",", 3)[3].strip('"')
    assert cell[0] not in "=+-@\t"
    assert read_manifest(tmp_path / "m.csv")["title"][0] == text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "empty"),
        ("image_id,file_name,label\n", "holds no images"),
        ("image_id,label\na,x\n", "no column file_name"),
        ("image_id,file_name,label\na,f,x\na,g,x\n", "row 2, column image_id: 'a' stands there twice"),
        ("image_id,file_name,label\na,f,\n", "row 1, column label"),
        ("image_id,file_name,label\na,../../etc/passwd,x\n", "outside the data root"),
        ("image_id,file_name,label\na,/etc/passwd,x\n", "outside the data root"),
        ("image_id,file_name,label\na,C:\\x.jpg,x\n", "outside the data root"),
        ("image_id,file_name,label,status\na,f,x,candidate\nb,g,x,acepted\n", "row 2, column status: 'acepted'"),
        ("image_id,file_name,label,width\na,f,x,wide\n", "row 1, column width: 'wide' is no integer"),
        ("image_id,file_name,label,suspicion\na,f,x,high\n", "'high' is no number"),
        ('image_id,file_name,label\na,"f,x\n', "not a manifest that can be read"),
    ],
)
def test_a_bad_cell_is_named_by_row_and_column(tmp_path, content, says):
    (tmp_path / "m.csv").write_text(content)
    with pytest.raises(CurateError, match=r".*") as error:
        read_manifest(tmp_path / "m.csv")
    assert says in str(error.value)


def test_a_missing_manifest_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(CurateError, match="curate scrape"):
        read_manifest(tmp_path / "none.csv")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    write_manifest(rows("a"), tmp_path / "m.csv")
    with pytest.raises(CurateError, match="stands there twice"):
        write_manifest(rows("b", "b"), tmp_path / "m.csv")
    assert read_manifest(tmp_path / "m.csv")["image_id"].tolist() == ["a"]
    assert [p.name for p in tmp_path.iterdir()] == ["m.csv"]


def test_class_weights_are_the_studys():
    """w_i = max n / n_i for the study's counts before curation; andesite has 45 of at most 68."""
    weights = class_weights(pd.Series([45, 42, 68, 48, 62, 49, 52]))
    assert weights.round(3).tolist() == [1.511, 1.619, 1.0, 1.417, 1.097, 1.388, 1.308]


def test_every_declared_column_has_a_meaning():
    assert all(column.meaning and column.kind in ("text", "integer", "number") for column in COLUMNS.values())


@pytest.mark.slow
def test_100_000_rows_are_read_and_written_in_seconds(tmp_path):
    n = 100_000
    ids = [f"{i:016x}" for i in range(n)]
    table = rows(*ids, width=np.arange(n), title=["=a, b"] * n, suspicion=np.linspace(0, 1, n), url=["http://x/"] * n)
    start = time.perf_counter()
    write_manifest(table, tmp_path / "m.csv")
    back = read_manifest(tmp_path / "m.csv")
    assert back["title"].eq("=a, b").all()
    assert time.perf_counter() - start < 30
