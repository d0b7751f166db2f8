import numpy as np
import pandas as pd
import pytest

from curate.collected import collected, write_collected
from curate.ledger import Ledger, Outcome
from curate.manifest import read_manifest, write_manifest


@pytest.fixture
def ledger(tmp_path):
    """Three oaks, the second under a free licence, and an elm that was offered between them; one elm failed."""
    with Ledger(tmp_path / "ledger.db") as ledger:
        page = [
            ("oak", {"url": "u0", "title": '=HYPERLINK("x")', "page_url": "http://a.example/?a,b"}),
            ("elm", {"url": "u1", "title": 'a "quoted", title', "creator": "'-x"}),
            ("oak", {"url": "u2", "license": "CC-BY-4.0", "license_basis": "asserted", "title": "\u00fcber \u4e2d"}),
            ("elm", {"url": "u3"}),
            ("oak", {"url": "u4", "title": "", "license_basis": "unknown"}),
        ]
        for rank, (label, offer) in enumerate(page, 1):
            ledger.add_page(label, "bing", "tree", [{"rank": rank, **offer}], None, 2)
        for n, row in enumerate(sorted((r for c in ("oak", "elm") for r in ledger.pending(c)), key=lambda r: r["url"])):
            facts = {"sha256": f"{n:x}" * 64, "file_name": f"images/{n}.jpg", "width": 640, "height": 480}
            facts |= {"format": "JPEG", "bytes": 1000 + n, "phash": "0" * 16}
            if row["url"] != "u2":  # it came before the quality was measured
                facts |= {"sharpness": 0.0123, "brightness": 127.5, "contrast": 60.0, "entropy": 0.0}
            ok = Outcome(row["fetch_id"], "ok", facts=facts)
            ledger.settle([ok if row["url"] != "u3" else Outcome(row["fetch_id"], "failed", "404")])
        yield ledger


@pytest.mark.parametrize("license", ["any", "commercial"])
def test_row_by_row_the_file_is_the_one_that_the_table_gives(tmp_path, ledger, license):
    number = write_collected(ledger, ["oak", "elm"], license, tmp_path / "deep" / "rows.csv")
    table = collected(ledger, ["oak", "elm"], license)
    write_manifest(table, tmp_path / "table.csv")
    assert (tmp_path / "deep" / "rows.csv").read_bytes() == (tmp_path / "table.csv").read_bytes()
    assert number == len(table) == (4 if license == "any" else 1)


def test_what_is_written_is_read_again_as_it_was(tmp_path, ledger):
    write_collected(ledger, ["oak", "elm"], "any", tmp_path / "m.csv")
    write_collected(ledger, ["oak", "elm"], "any", tmp_path / "m.parquet")
    table = read_manifest(tmp_path / "m.csv")
    assert table["url"].tolist() == ["u0", "u2", "u4", "u1"]
    assert table["title"][0] == '=HYPERLINK("x")'
    assert table["creator"][3] == "'-x"
    assert table["aspect_ratio"].tolist() == [1.333] * 4
    assert table["sharpness"].fillna(-1).tolist() == [0.0123, -1, 0.0123, 0.0123]
    assert table.loc[0, ["brightness", "contrast", "entropy"]].tolist() == [127.5, 60, 0]
    same = read_manifest(tmp_path / "m.parquet")[table.columns].replace("", np.nan)
    pd.testing.assert_frame_equal(same, table)


def test_nothing_held_writes_nothing(tmp_path, ledger):
    assert write_collected(ledger, ["beech"], "any", tmp_path / "m.csv") == 0
    assert not (tmp_path / "m.csv").exists()
