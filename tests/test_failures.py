import pandas as pd
import pytest

from curate.errors import CurateError
from curate.failures import failures_by_cause, failures_by_host, host, of_class, tried_again
from curate.ledger import Ledger, Outcome

COLUMNS = ["label", "source", "url", "state", "cause", "transient", "attempts"]


def table(*rows: tuple) -> pd.DataFrame:
    """Rows of label, url, state, cause, transient, attempts."""
    return pd.DataFrame([(row[0], "bing", *row[1:]) for row in rows], columns=COLUMNS)


FAILURES = table(
    ("oak", "https://a.example/1", "failed", "404", False, 1),
    ("oak", "https://a.example/2", "failed", "timeout", True, 1),
    ("oak", "https://b.example/3", "failed", "timeout", True, 3),
    ("elm", "https://B.example:443/4", "failed", "timeout", True, 2),
    ("elm", "https://a.example/5", "refused", "smaller than 100 pixels", True, 1),
    ("elm", "https://a.example/6", "failed", "404", None, 1),
    ("elm", "contribution:abc", "failed", None, False, 1),
)


def test_failures_are_counted_by_cause_the_commonest_first():
    causes = failures_by_cause(FAILURES, max_attempts=3)
    assert causes.to_dict("split")["data"] == [
        ["timeout", 3, "transient", 2, 6, "https://a.example/2"],
        ["404", 2, "final", 0, 2, "https://a.example/1"],
        ["smaller than 100 pixels", 1, "final", 0, 1, "https://a.example/5"],
        ["no cause given", 1, "final", 0, 1, "contribution:abc"],
    ]
    assert list(causes) == ["cause", "number", "kind", "again", "attempts", "example"]
    assert tried_again(FAILURES, max_attempts=3) == 2
    assert tried_again(FAILURES, max_attempts=1) == 0


def test_failures_are_counted_by_host_with_their_main_cause():
    assert failures_by_host(FAILURES).to_dict("split")["data"] == [
        ["a.example", 4, "404"],
        ["b.example", 2, "timeout"],
        ["contribution:", 1, "no cause given"],
    ]


def test_what_tells_damaged_files_apart_is_no_cause_of_its_own():
    causes = (
        "no image: UnidentifiedImageError: cannot identify image file <_io.BytesIO object at 0x7f0a>",
        "no image: UnidentifiedImageError: cannot identify image file <_io.BytesIO object at 0x7f0b>",
        "no image: OSError: image file is truncated (12 bytes not processed)",
        "no image: OSError: image file is truncated (9 bytes not processed)",
        "429",
        "404",
    )
    rows = table(*(("oak", f"https://a.example/{i}", "failed", cause, False, 1) for i, cause in enumerate(causes)))
    assert failures_by_cause(rows, 3).set_index("cause")["number"].to_dict() == {
        "no image: UnidentifiedImageError: cannot identify image file": 2,
        "no image: OSError: image file is truncated (N bytes not processed)": 2,
        "429": 1,
        "404": 1,
    }


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://Photos.example:8080/x", "photos.example"),
        ("https://user:pass@a.example/", "a.example"),
        ("https://a.example\x1b(B/x", "a.example (b"),
        ("https://" + "a" * 300 + ".example/", "a" * 59 + "…"),
        ("https://[bad", "no host"),
        ("", "no host"),
        ("file:///tmp/x.jpg", "file:"),
        ("https://[::1]/x", "::1"),
    ],
)
def test_a_host_is_fit_to_be_printed(url, shown):
    assert host(url) == shown


def test_hostile_addresses_and_causes_are_cleaned_and_cut():
    rows = table(
        ("oak", "https://a.example/\x1b]0;x\x07" + "b" * 500, "failed", "bad\n\x1b[31m[red]" + "c" * 500, 0, 1)
    )
    row = failures_by_cause(rows, 3).iloc[0]
    assert row["example"].startswith("https://a.example/ ]0;x bbb")
    assert row["cause"].startswith("bad [31m[red]ccc")
    assert len(row["example"]) == len(row["cause"]) == 100
    assert row["cause"].isprintable()
    assert row["example"].isprintable()


def test_one_class_can_be_looked_at_alone():
    assert of_class(FAILURES, "oak")["url"].tolist() == [
        f"https://{h}.example/{i}" for h, i in (("a", 1), ("a", 2), ("b", 3))
    ]
    with pytest.raises(CurateError, match="no failures of a class 'ash'; there are some of elm, oak"):
        of_class(FAILURES, "ash")
    assert of_class(FAILURES[:0], "ash").empty


def test_no_failures_are_empty_tables():
    none = pd.DataFrame(columns=COLUMNS)
    assert failures_by_cause(none, 3).empty
    assert failures_by_host(none).empty
    assert tried_again(none, 3) == 0


def test_the_ledger_tells_what_failed(tmp_path):
    with Ledger(tmp_path / "ledger.db") as book:
        offers = [{"url": f"https://a.example/{i}", "rank": i} for i in range(3)]
        book.add_page("oak", "bing", "q", offers, None, 2)
        ids = [row["fetch_id"] for row in book.pending("oak", ["bing"], 0, 9)]
        facts = dict.fromkeys(("file_name", "width", "height", "format", "bytes", "phash"))
        book.settle(
            [
                Outcome(ids[0], "failed", "timeout", True),
                Outcome(ids[1], "refused", "smaller than 100 pixels"),
                Outcome(ids[2], "ok", None, False, {**facts, "sha256": "s"}),
            ]
        )
        rows = book.failures()
    assert failures_by_cause(rows, 3)["cause"].tolist() == ["timeout", "smaller than 100 pixels"]
    assert tried_again(rows, 3) == 1
