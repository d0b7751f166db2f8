import pandas as pd
import pytest

from curate.decide import apply_decisions, read_decisions
from curate.errors import CurateError
from curate.ledger import Decision, Ledger

MANIFEST = pd.DataFrame(
    {
        "image_id": ["a", "b", "c", "d"],
        "file_name": ["1.jpg", "2.jpg", "3.jpg", "4.jpg"],
        "label": ["oak", "oak", "elm", "elm"],
        "status": ["candidate", "candidate", "duplicate", "candidate"],
    }
)


def standing(tmp_path, *decisions: Decision) -> pd.DataFrame:
    with Ledger(tmp_path / "l.db") as ledger:
        ledger.decide(decisions)
        return ledger.standing()


def test_decisions_become_status_label_reason_and_reviewer(tmp_path):
    in_force = standing(
        tmp_path,
        Decision("a", "accept", reviewer="ann", decided_at="2026-01-01T00:00:00Z"),
        Decision("b", "reject", "overlay"),
        Decision("d", "relabel", label="oak"),
    )
    table = apply_decisions(MANIFEST, in_force)
    assert table["status"].tolist() == ["accepted", "rejected", "duplicate", "accepted"]
    assert table["label"].tolist() == ["oak", "oak", "elm", "oak"]
    assert table["reason"].tolist()[1] == "overlay"
    assert table["reviewer"].tolist()[0] == "ann"
    assert table["reviewed_at"].tolist()[0] == "2026-01-01T00:00:00Z"
    assert MANIFEST["status"].tolist() == ["candidate", "candidate", "duplicate", "candidate"]


def read(tmp_path, text: str, in_force: pd.DataFrame | None = None) -> list[Decision]:
    (tmp_path / "d.csv").write_text(text)
    in_force = standing(tmp_path) if in_force is None else in_force
    return read_decisions(tmp_path / "d.csv", MANIFEST, in_force, "ann")


def test_a_file_of_decisions_names_images_by_id_or_file(tmp_path):
    by_name = read(tmp_path, "file_name,verdict,reason\n1.jpg,keep,\n2.jpg,reject,overlay\n")
    assert [(d.image_id, d.verdict, d.reason, d.reviewer) for d in by_name] == [
        ("a", "accept", None, "ann"),
        ("b", "reject", "overlay", "ann"),
    ]
    by_id = read(tmp_path, "image_id,verdict,label,reviewer\nd,relabel,oak,bob\n")
    assert [(d.image_id, d.label, d.reviewer) for d in by_id] == [("d", "oak", "bob")]


def test_what_is_in_force_already_is_not_decided_again(tmp_path):
    in_force = standing(tmp_path, Decision("a", "accept"), Decision("b", "reject", "overlay"))
    text = "image_id,verdict,reason\na,accept,\nb,reject,off_topic\n"
    assert [(d.image_id, d.reason) for d in read(tmp_path, text, in_force)] == [("b", "off_topic")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image_id,verdict\nz,accept\n", "row 1 names an image that is not in the manifest"),
        ("image_id,verdict\na,accept\nb,maybe\n", "row 2 has a verdict"),
        ("image_id,verdict,reason\na,reject,ugly\n", "row 1 rejects for a reason"),
        ("image_id,verdict,label\na,relabel,ash\n", "row 1 relabels to a class"),
        ("file,verdict\na,accept\n", "needs the columns verdict and image_id or file_name"),
        ("", "not a CSV"),
    ],
)
def test_a_wrong_row_is_named_and_nothing_is_taken(tmp_path, text, says):
    with pytest.raises(CurateError, match=says):
        read(tmp_path, text)
