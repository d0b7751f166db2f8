"""The page of findings: what it says of an audited manifest, what it advises, and that it runs nothing of the web."""

import os
import re

import numpy as np
import pandas as pd
import pytest
import typer
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from typer.testing import CliRunner

from curate import page_pictures
from curate.cli_report import report
from curate.columns import COLUMNS
from curate.errors import CurateError
from curate.findings import (
    carriers,
    confusion,
    decided,
    doubtful_labels,
    find,
    heatmap_energy,
    most_background,
    raised_flags,
    screened,
)
from curate.findings_page import write_findings
from curate.ledger import Decision, Ledger
from curate.manifest import read_manifest, write_manifest
from curate.next_steps import next_steps
from curate.page_pictures import SIDE, overlay, pictures
from curate.shortcuts_found import counted_rows, write_shortcuts
from curate.thresholds import THRESHOLDS
from tests.findings import audited, masked, shortcuts, write_heatmap, write_shortcuts_beside
from tests.html_page import Page

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>\u202e{0}`rm`"


def written(folder, manifest="audited.csv", target=3) -> str:
    path = folder / manifest
    write_findings(find(read_manifest(path), path, folder / "data", target), folder / "page.html")
    return (folder / "page.html").read_text(encoding="utf-8")


def advice(folder, table=None, target=3) -> list[tuple[str, str]]:
    path = folder / "audited.csv"
    steps = next_steps(find(read_manifest(path) if table is None else table, path, folder / "data", target))
    assert all(step.command.endswith(f" --data {folder / 'data'}") for step in steps)
    said = [step.what.text.format(*step.what.names) for step in steps]
    commands = [step.command.replace(f" --data {folder / 'data'}", "").replace(str(path), "M") for step in steps]
    return list(zip(said, commands, strict=True))


# --- findings --------------------------------------------------------------------------------------------------------


def test_rows_that_are_out_do_not_count_and_the_furthest_beyond_a_limit_come_first(tmp_path):
    rows = counted_rows(audited(tmp_path))[0]
    (flag,) = raised_flags(rows)
    assert (flag.name, flag.artifact, flag.limit) == ("surroundings", "background", "> 0.9")
    assert flag.images == {"b2": "0.99", "g2": "0.97", "b1": "0.95"}
    assert flag.by_class.to_dict() == {"basalt": 2, "granite": 1}
    assert flag.meaning.endswith("Measured: probability that the background is natural or cluttered, 0 to 1.")


def test_of_a_flag_below_a_limit_the_least_value_is_the_worst():
    flags = ["illumination_highlight=97 (< 150)", "illumination_highlight=32.5 (< 150); new_measure=1e+03 (> 9)"]
    rows = pd.DataFrame({"image_id": ["a", "b"], "label": "basalt", "flags": flags})
    dark, new = raised_flags(rows)
    assert list(dark.images.items()) == [("b", "32.5"), ("a", "97")]
    assert (new.name, new.artifact, new.meaning, new.images) == ("new_measure", "", "", {"b": "1e+03"})


def test_text_that_is_no_flag_is_none():
    texts = [
        "dark",
        "a=nan (> 1)",
        "a=1.2.3 (> 1)",
        "a=inf (> 1)",
        "=1 (> 1)",
        "<b>=1 (> 1)",
        "a=1 (> 1) <b>",
        ";;",
        "a=1",
    ]
    assert raised_flags(pd.DataFrame({"image_id": texts, "label": "basalt", "flags": texts})) == []


def test_what_does_not_open_is_a_flag_with_its_cause_whatever_the_cause_says():
    cause = "OSError: bad; background_texture=0.99 (> 0.9"
    rows = pd.DataFrame({"image_id": ["a"], "label": "basalt", "flags": f"unreadable: {cause}", "audit_error": cause})
    (flag,) = raised_flags(rows)
    assert (flag.name, flag.images) == ("does not open", {"a": cause})


def test_every_threshold_is_explained():
    texts = {name: f"{t.column}=1 ({'>' if t.above else '<'} {t.limit:g})" for name, t in THRESHOLDS.items()}
    rows = pd.DataFrame({"image_id": list(texts), "label": "basalt", "flags": list(texts.values())})
    found = {flag.name: flag.meaning for flag in raised_flags(rows)}
    assert set(found) == set(THRESHOLDS)
    assert all(COLUMNS[THRESHOLDS[name].column].meaning in meaning for name, meaning in found.items())


def test_heatmaps_on_the_background_by_class_and_the_worst_first(tmp_path):
    rows = counted_rows(audited(tmp_path))[0]
    energy = heatmap_energy(rows)
    assert energy.loc["basalt"].to_dict() == {
        "images": 3,
        "background_share": 0.5,
        "energy": 0.3,
        "mostly_background": 1,
    }
    assert most_background(rows) == ["b1", "g1"]
    assert heatmap_energy(rows.drop(columns="cam_background_energy")).empty


def test_confusion_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    names = ["basalt", "granite", "marble"]
    rows = pd.DataFrame({"label": rng.choice(names, 60), "predicted": rng.choice(names, 60)})
    seen = confusion(rows)
    assert seen.matrix.to_numpy().tolist() == confusion_matrix(rows["label"], rows["predicted"]).tolist()
    precision, recall, f1, images = precision_recall_fscore_support(rows["label"], rows["predicted"])
    expected = np.column_stack([images, recall, precision, f1])
    assert np.allclose(seen.by_class[["images", "recall", "precision", "f1"]].to_numpy(float), expected)
    assert seen.macro_f1 == pytest.approx(f1.mean())
    assert seen.accuracy == pytest.approx((rows["label"] == rows["predicted"]).mean())
    other = rows[(rows["label"] == "basalt") & (rows["predicted"] != "basalt")]["predicted"]
    assert seen.by_class.loc["basalt", "confused_with"] == other.value_counts().idxmax()


def test_a_class_that_is_never_predicted_has_no_precision():
    seen = confusion(pd.DataFrame({"label": ["a", "b"], "predicted": ["a", "a"]}))
    assert np.isnan(seen.by_class.loc["b", "precision"])
    assert seen.by_class.loc["b", ["recall", "f1"]].tolist() == [0, 0]
    assert confusion(pd.DataFrame({"label": ["a"], "predicted": [None]})) is None


def test_the_least_probable_labels_come_first(tmp_path):
    assert doubtful_labels(counted_rows(audited(tmp_path))[0]) == ["g2", "b3"]


def test_the_screen_is_sure_up_to_a_tenth():
    seen = screened(pd.DataFrame({"reject_probability": [0.0, 0.1, 0.11, 0.5, 0.9, 1.0, np.nan]}))
    assert (seen.keeps, seen.rejects, seen.unsure) == (2, 2, 2)
    assert seen.bins.tolist() == [1, 2, 0, 0, 0, 1, 0, 0, 0, 2]
    assert screened(pd.DataFrame({"reject_probability": [np.nan]})) is None


def test_others_of_the_class_are_those_furthest_from_carrying_it(tmp_path):
    rows = counted_rows(audited(tmp_path))[0]
    assert carriers(rows, shortcuts().findings[0]) == (["b2", "b1"], ["b3"])


def test_decisions_are_applied_to_what_waits_and_what_a_balance_did_stays(tmp_path):
    table = audited(tmp_path)
    table.loc[table["image_id"] == "g1", "reason"] = "spare"
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.decide([Decision(image, "accept", reviewer="ana") for image in ("b1", "g1", "b4")])
        after = decided(table, ledger.standing()).set_index("image_id")["status"]
    assert after.index.tolist() == table["image_id"].tolist()
    assert after[["b1", "g1", "b4", "b2"]].tolist() == ["accepted", "candidate", "rejected", "candidate"]


def test_without_an_audit_it_says_what_to_run(tmp_path):
    table = audited(tmp_path).drop(columns=["flags", "suspicion"])
    with pytest.raises(CurateError, match=r"no column flags, suspicion.*Run `curate audit` first"):
        find(table, tmp_path / "audited.csv", tmp_path / "data", 3)


# --- what to do next -------------------------------------------------------------------------------------------------


def test_the_steps_follow_from_the_findings(tmp_path):
    audited(tmp_path)
    write_shortcuts_beside(tmp_path)
    assert advice(tmp_path) == [
        (
            "Shortcuts by background: basalt told by background_texture > 0.9 (AUROC 0.93, 3 images). Reject those "
            "that carry it for their background, and search for the class with other words.",
            "curate review M",
        ),
        (
            "What the model tells from backgrounds alone was not tried. Judge it with the foreground masked.",
            "curate shortcuts M --masked",
        ),
        ("Review the 3 images with flags (surroundings 3); the most suspicious come first.", "curate review M"),
        ("2 images that a model takes for another class: relabel, reject or accept.", "curate review M"),
        (
            "The screen knows no decisions. Judge some ten images of each class and audit again: it sorts the rest.",
            "curate review M",
        ),
        (
            "Short of 3 accepted images: basalt by 3, granite by 3. See what would be fetched, then run it without "
            "--dry-run.",
            "curate balance M --per-class 3 --dry-run",
        ),
    ]


def test_copies_and_shortcuts_that_were_not_looked_for_come_first(tmp_path):
    table = audited(tmp_path).drop(columns="duplicate_of")
    commands = [command for _, command in advice(tmp_path, table)]
    assert commands[:2] == ["curate dedup M", "curate shortcuts M"]


def test_a_full_data_set_is_split_and_then_trained_on(tmp_path):
    kept = audited(tmp_path).query("status == 'candidate'").assign(status="accepted", flags=None, predicted=None)
    assert advice(tmp_path, kept, target=2)[-1][1] == "curate balance M --per-class 2"
    assert advice(tmp_path, kept.assign(split="train"), target=2)[-1][1] == "classify train --manifest M"


def test_shortcuts_older_than_the_manifest_are_to_be_looked_for_again(tmp_path):
    write_shortcuts_beside(tmp_path)
    audited(tmp_path)
    os.utime(tmp_path / "audited-shortcuts.json", (0, 0))
    assert advice(tmp_path)[0] == (
        "The manifest has changed since shortcuts were looked for. Look again.",
        "curate shortcuts M",
    )
    assert "The manifest has changed since" in Page(written(tmp_path)).text


# --- pictures --------------------------------------------------------------------------------------------------------


def test_the_overlay_is_half_picture_half_viridis():
    """Where the heatmap is 0, viridis is (68, 1, 84); where it is 255, (253, 231, 37); its frame is stretched."""
    heat = np.zeros((56, 56), np.uint8)
    heat[:, 28:] = 255
    seen = overlay(np.full((60, 90, 3), 100, np.uint8), heat)
    assert seen.shape == (60, 90, 3)
    assert np.abs(seen[30, 5].astype(int) - [84, 50, 92]).max() <= 1
    assert np.abs(seen[30, 85].astype(int) - [176, 166, 68]).max() <= 1


def test_an_image_has_a_small_picture_and_its_heatmaps(tmp_path):
    audited(tmp_path)
    write_heatmap(tmp_path / "data/cache/heatmaps/b1-predicted.png", 3)
    found = pictures("b1", "b1.jpg", tmp_path / "data")
    assert [(p.width, p.height, p.cause) for p in found] == [(SIDE, SIDE * 3 // 4, "")] * 3
    assert len({p.data for p in found}) == 3
    assert pictures("b2", "b2.jpg", tmp_path / "data").predicted.cause == "No heatmap."


def test_heatmaps_that_are_none_and_images_elsewhere_are_not_shown(tmp_path):
    audited(tmp_path)
    (tmp_path / "secret.png").write_bytes(b"")
    Image.new("L", (4000, 10)).save(tmp_path / "data/cache/heatmaps/b1.png")
    (tmp_path / "data/cache/heatmaps/b2.png").write_bytes(b"no picture")
    for image in ("b1", "b2", "../../secret"):
        assert pictures(image, "b1.jpg", tmp_path / "data").label.cause == "No heatmap."
    outside = pictures("b1", "../audited.csv", tmp_path / "data")
    assert {"outside the data root" in picture.cause for picture in outside} == {True}


def test_a_page_holds_no_more_pictures_than_it_may(tmp_path, monkeypatch):
    audited(tmp_path)
    monkeypatch.setattr(page_pictures, "MOST_BYTES", 20_000)
    page = Page(written(tmp_path))
    assert 0 < sum(len(image["src"]) for image in page.all("img")) < 21_000
    assert "Not shown: this page holds" in page.text


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_shows_every_section(tmp_path):
    audited(tmp_path)
    write_shortcuts_beside(tmp_path, masked=masked())
    text = Page(written(tmp_path)).text
    for title in (
        "Counts",
        "Flags and heatmaps",
        "Shortcuts",
        "Confusion",
        "What the screen thinks",
        "What to do next",
    ):
        assert title in text
    assert "5 images count (candidate or accepted), from 2 of granite to 3 of basalt." in text
    assert "60 % of them raise a flag, most often “surroundings” (3)." in text
    assert "From artifacts alone the class can be told with 72 % (60 to 81) balanced accuracy (chance: 50 %)" in text
    assert "basalt43010" in text  # images, candidates, accepted, rejected, copies
    assert "basaltbackgroundbackground_texture > 0.90.93 (0.81 to 0.97)0.0043 (67 %)50 %background_chroma" in text
    assert "background alone (foreground masked)whole pictures583 % (70 to 90)basalt (88 %)" in text
    assert "basalt367 %67 %67 %granite" in text  # images, recall, precision, F1
    assert "taken for basalt; its label is 10 % probable" in text
    assert "background_texture 0.99 (> 0.9)" in text


def test_a_class_without_an_accepted_image_has_no_imbalance_ratio(tmp_path):
    table = audited(tmp_path)
    assert "Imbalance ratio 1.5: the largest class over the smallest, by candidates" in Page(written(tmp_path)).text
    write_manifest(table.assign(status=table["status"].mask(table["image_id"] == "b1", "accepted")), tmp_path / "a.csv")
    assert "A class is empty, so that there is no imbalance ratio yet" in Page(written(tmp_path, "a.csv")).text


def test_each_picture_stands_beside_its_heatmap_and_is_named(tmp_path):
    audited(tmp_path)
    alts = [image["alt"] for image in Page(written(tmp_path)).all("img")]
    assert alts[:4] == [
        "basalt, image b1",
        "the same under its heatmap for basalt",
        "granite, image g1",
        "the same under its heatmap for granite",
    ]


def test_without_shortcuts_the_section_says_how_to_find_them(tmp_path):
    audited(tmp_path)
    text = Page(written(tmp_path)).text
    assert "there is no audited-shortcuts.json. This makes it:" in text
    assert f"curate shortcuts {tmp_path / 'audited.csv'}" in text


def test_it_says_among_which_images_shortcuts_were_looked_for(tmp_path):
    audited(tmp_path)
    write_shortcuts_beside(tmp_path, unmeasured=1, left_out={HOSTILE: 4})
    said = "Looked for among 5 images (candidate or accepted); 1 image without measures left out; too few to tell: "
    assert f"{said}{HOSTILE} 4." in Page(written(tmp_path)).text


def test_before_and_after_curation_stand_side_by_side(tmp_path):
    table = audited(tmp_path)
    write_shortcuts_beside(tmp_path, masked=masked())
    write_manifest(table, tmp_path / "balanced.csv")
    left = tuple(finding for finding in shortcuts().findings if finding.kind == "background")
    write_shortcuts(shortcuts(findings=left), tmp_path / "balanced-shortcuts.json")
    text = Page(written(tmp_path, "balanced.csv")).text
    assert "Before and after curation" in text
    assert "basaltilluminationbackground_texture > 0.9, 67 % of the class-gone" in text
    assert "67 % of the classstill there" in text
    assert "background alone83 % (70 to 90)not tried" in text
    assert "Before and after curation" not in Page(written(tmp_path)).text


def test_the_histogram_of_the_screen_is_of_what_waits(tmp_path):
    table = audited(tmp_path).assign(reject_probability=[0.05, 0.5, 0.95, 0.99, 0.97, 0.3, 0.3])
    write_manifest(table, tmp_path / "audited.csv")
    text = Page(written(tmp_path)).text
    assert "of the 5 images that nobody has judged" in text
    assert re.search(r"keep\s+1 and reject 2", text)
    assert "0.9 to 1.02" in text


def test_a_manifest_without_heatmaps_predictions_or_flags_is_a_page_too(tmp_path):
    few = audited(tmp_path)[["image_id", "file_name", "label", "status", "suspicion"]].assign(flags=None)
    write_manifest(few, tmp_path / "audited.csv")
    text = Page(written(tmp_path)).text
    assert "No image raises a flag." in text
    assert "There are no heatmaps" in text
    assert "There are no predictions" in text


def test_the_page_refers_to_nothing_outside_and_may_not(tmp_path):
    audited(tmp_path)
    write_shortcuts_beside(tmp_path)
    page = Page(written(tmp_path))
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base", "form", "source"} == set()
    assert all(a["href"].startswith("#") for a in page.all("a"))
    anchors = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {a["href"][1:] for a in page.all("a")} <= anchors
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.all("img"))
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.split("; ")[:3] == ["default-src 'none'", "img-src data:", "style-src 'unsafe-inline'"]


def test_text_of_others_is_shown_and_never_run(tmp_path):
    """As a class, as an image_id, as the cause of damage, as a file name, and in the shortcuts."""
    table = audited(tmp_path, {"basalt": HOSTILE, "granite": "#{}"})
    table.loc[2, ["image_id", "file_name", "audit_error", "flags"]] = [HOSTILE, HOSTILE, HOSTILE, "unreadable: x"]
    table.loc[3, "reason"] = HOSTILE
    write_manifest(table, tmp_path / "audited.csv")
    write_shortcuts_beside(tmp_path, label=HOSTILE, masked=masked(HOSTILE))
    page = Page(written(tmp_path))
    assert page.all("script") == []
    assert all(set(image) == {"alt", "width", "height", "loading", "src"} for image in page.all("img"))
    assert [attributes for _, attributes in page.tags if {"onerror", "onload"} & set(attributes)] == []
    assert page.text.count(HOSTILE) > 20
    assert f"{HOSTILE} by 3" in page.text
    assert "#{} by 3" in page.text
    outside_bdi = re.sub(
        r"<bdi>.*?</bdi>|=\"[^\"]*\"|='[^']*'", "", (tmp_path / "page.html").read_text(), flags=re.DOTALL
    )
    assert "\u202e" not in outside_bdi


def test_the_page_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    audited(tmp_path)
    before = written(tmp_path)
    monkeypatch.setattr("curate.findings_page._steps", full)
    with pytest.raises(CurateError, match="No space left on device"):
        written(tmp_path)
    assert (tmp_path / "page.html").read_text() == before
    assert list(tmp_path.glob(".*.tmp")) == []


# --- the command -----------------------------------------------------------------------------------------------------


def run(*words: str):
    app = typer.Typer()
    app.command()(report)
    return CliRunner().invoke(app, list(words))


def test_the_command_takes_the_newer_manifest_and_the_decisions_and_says_where_the_page_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "manifests").mkdir()
    audited(tmp_path)
    (tmp_path / "audited.csv").rename("manifests/audited.csv")
    with Ledger(tmp_path / "data" / "ledger.db") as ledger:
        ledger.decide([Decision("b1", "accept", reviewer="ana")])
    result = run("--target", "3")
    assert result.output == "3 of 5 images are flagged; 5 steps to take next: manifests/audited-report.html\n"
    text = Page((tmp_path / "manifests/audited-report.html").read_text()).text
    assert "basalt42110" in text  # images, candidates, accepted, rejected, copies
    assert "curate review manifests/audited.csv" in text  # the usual data root is not said


def test_without_a_manifest_the_command_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "Run `curate audit` first" in str(run().exception)
    assert not (tmp_path / "data").exists()
