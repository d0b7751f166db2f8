import json
import re

import numpy as np
import pandas as pd
import pytest
import typer
from scipy.stats import hypergeom
from sklearn.metrics import roc_auc_score

from curate.cli_findings import shortcuts
from curate.errors import CurateError
from curate.manifest import write_manifest
from curate.shortcuts import ask, auroc_with_interval, enrichment, find_shortcuts
from curate.shortcuts_found import read_shortcuts, write_shortcuts


def noise(seed: int = 0, classes: str = "abcd", each: int = 40) -> pd.DataFrame:
    """Classes that differ in nothing."""
    rng = np.random.default_rng(seed)
    n = len(classes) * each
    return pd.DataFrame(
        {
            "image_id": [f"{i:016x}" for i in range(n)],
            "file_name": [f"images/{i}.jpg" for i in range(n)],
            "label": np.repeat(list(classes), each),
            "status": "candidate",
            "brightness": rng.normal(120, 30, n),
            "background_chroma": rng.gamma(2, 5, n),
            "object_components": rng.integers(1, 4, n),
            "background_kind": rng.choice(["plain", "natural"], n),
        }
    )


def darkened(table: pd.DataFrame, label: str, share: float) -> pd.DataFrame:
    """The first images of a class made dark; the very first of them the darkest."""
    rows = table.index[table["label"] == label]
    rows = rows[: round(share * len(rows))]
    return table.assign(brightness=table["brightness"].mask(table.index.isin(rows), table.index - 1000.0))


@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
def test_a_shortcut_in_a_part_of_a_class_is_found_named_and_traced(share):
    table = darkened(noise(), "b", share)
    found = find_shortcuts(table, seed=0).findings[0]
    assert (found.label, found.kind, found.measure, found.direction) == ("b", "illumination", "brightness", "below")
    assert found.p <= 0.01
    planted = table.loc[table["brightness"] < 0, "image_id"].tolist()
    traced = len(found.image_ids)
    assert 0.9 * len(planted) <= traced <= 1.1 * len(planted)
    assert list(found.image_ids[: len(planted)]) == planted[:traced]
    assert found.share == pytest.approx(len(found.image_ids) / 40)
    assert found.share_elsewhere < 0.05
    assert found.auroc_interval[0] < found.auroc <= found.auroc_interval[1]


def test_classes_that_differ_in_nothing_have_a_finding_in_at_most_one_case_of_twenty():
    alarms = 0
    for seed in range(20):
        found = find_shortcuts(noise(seed, each=15), seed=seed)
        alarms += bool(found.findings) or min(a.p for a in (found.joint, *found.accuracies)) <= 0.05
    assert alarms <= 3  # by chance once in 60 times, were it really one of twenty


def test_words_count_as_well_as_numbers():
    table = noise()
    white = (table["label"] == "c") & (table.index % 2 == 0)
    found = find_shortcuts(table.assign(background_kind=table["background_kind"].mask(white, "white")), seed=0)
    assert found.findings[0].question() == "background_kind = white"
    assert (found.findings[0].label, found.findings[0].share, found.findings[0].share_elsewhere) == ("c", 0.5, 0.0)


def test_what_a_class_never_shows_is_a_shortcut_too():
    table = noise()
    plain = table.assign(background_kind=table["background_kind"].mask(table["label"] == "d", "plain"))
    found = find_shortcuts(plain.drop(columns=["brightness", "background_chroma", "object_components"]), seed=0)
    assert {finding.question() for finding in found.findings} <= {
        "background_kind = plain",
        "background_kind is not natural",
    }
    assert found.findings[0].label == "d"


def test_a_measure_that_only_follows_another_is_said_to_go_with_it():
    table = darkened(noise(), "b", 0.5)
    rng = np.random.default_rng(1)
    dark = table["brightness"] < 0
    follows = table.assign(sharpness=rng.normal(50, 10, len(table)) - 40 * dark * rng.random(len(table)))
    alone = (table["label"] == "b") & ~dark
    both = follows.assign(background_chroma=table["background_chroma"].mask(alone, 99))
    kinds = {f.kind: f.explained_by for f in find_shortcuts(both, seed=0).findings if f.label == "b"}
    assert kinds["illumination"] == kinds["background"] == ""
    assert "illumination" in kinds["quality"]


def test_the_evidence_is_fishers_exact_test():
    rng = np.random.default_rng(0)
    holds, codes = (
        rng.random((50, 6)) < [0.02, 0.1, 0.3, 0.5, 0.8, 0.98],
        rng.permutation([0] * 12 + [1] * 33 + [2] * 5),
    )
    expected = [
        [-hypergeom.logsf(holds[codes == c, q].sum() - 1, 50, holds[:, q].sum(), (codes == c).sum()) for q in range(6)]
        for c in range(3)
    ]
    np.testing.assert_allclose(enrichment(holds, codes), np.array(expected) / np.log(10), atol=1e-4)


def test_a_limit_parts_values_that_differ_and_a_missing_value_lies_beyond_none():
    values = [0.0] * 90 + [1.0] * 8 + [2.0, np.nan]
    questions, holds = ask(pd.DataFrame({"object_multiple": values}), {"object_multiple": "object_count"})
    above = {q.limit: holds[:, i].sum() for i, q in enumerate(questions) if q.direction == "above"}
    below = {q.limit: holds[:, i].sum() for i, q in enumerate(questions) if q.direction == "below"}
    assert above == {1.5: 1, 0.5: 9}
    assert below == {}  # half of all are equal
    assert not holds[-1].any()


def test_auroc_agrees_with_scikit_learn_and_its_interval_is_wide_even_at_one():
    rng = np.random.default_rng(0)
    above, below = rng.integers(3, 9, 30).astype(float), rng.integers(0, 7, 50).astype(float)
    auroc, (low, high) = auroc_with_interval(above, below)
    assert auroc == pytest.approx(roc_auc_score(np.repeat([1, 0], [30, 50]), np.r_[above, below]))
    assert low < auroc < high
    assert auroc_with_interval(np.arange(5.0) + 10, np.arange(9.0))[1][0] < 0.9


def test_a_measure_that_tells_every_class_does_so_alone_and_the_others_do_not():
    table = noise()
    found = find_shortcuts(table.assign(entropy=table["label"].map({c: i for i, c in enumerate("abcd")})), seed=0)
    best, *others = found.accuracies
    assert (best.measure, best.kind, best.balanced_accuracy) == ("entropy", "quality", 1.0)
    assert best.p <= 0.01
    assert best.interval[0] > 0.95
    assert min(other.p for other in others) > 0.05
    assert max(other.balanced_accuracy for other in others) < 0.45
    assert found.joint.balanced_accuracy > 0.9
    assert found.chance == 0.25


def test_rows_that_are_out_do_not_count_and_after_a_balance_only_accepted_ones_do():
    table = darkened(noise(), "b", 0.5)
    dark = table["brightness"] < 0
    assert find_shortcuts(table.assign(status=table["status"].mask(dark, "rejected")), seed=0).findings == ()
    assert find_shortcuts(table.assign(status=table["status"].mask(dark, "duplicate")), seed=0).images["b"] == 20
    accepted = table.assign(status=table["status"].mask(~dark, "accepted"))
    assert find_shortcuts(accepted, seed=0).images["b"] == 40
    assert find_shortcuts(accepted.assign(balance_round=0), seed=0).findings == ()


def test_classes_too_small_to_tell_and_images_without_measures_are_left_out_and_told():
    table = noise()
    few = pd.concat([table, table.iloc[:4].assign(label="rare", image_id=list("wxyz"))], ignore_index=True)
    few["illumination_cast"] = np.where(few["label"] == "rare", few.index, np.nan)  # missing in all that are left
    few.loc[few["label"] == "a", ["brightness", "background_chroma", "object_components", "background_kind"]] = np.nan
    found = find_shortcuts(few, seed=0)
    assert found.left_out == {"rare": 4}
    assert found.images == {"b": 40, "c": 40, "d": 40}
    assert found.unmeasured == 40


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (noise()[["image_id", "label", "status"]], "Run `curate audit` first"),
        (noise(classes="a"), "two classes .* found a 40"),
        (noise().assign(status="rejected"), "found none"),
        (noise()[["image_id", "label"]].assign(object_count="1"), "the same for all images"),
    ],
)
def test_what_cannot_be_told_says_what_to_do(table, says):
    with pytest.raises(CurateError, match=says):
        find_shortcuts(table, seed=0)


def test_the_manifest_is_not_changed_and_a_seed_gives_the_same_again():
    table = darkened(noise(), "b", 0.3)
    before = table.copy()
    assert find_shortcuts(table, seed=3) == find_shortcuts(table, seed=3)
    pd.testing.assert_frame_equal(table, before)


def test_the_command_prints_what_it_found_compares_and_writes(tmp_path, capsys):
    app = typer.Typer(add_completion=False)
    app.command()(shortcuts)
    write_manifest(darkened(noise(), "b", 0.5), tmp_path / "audited.csv")
    write_manifest(noise(), tmp_path / "balanced.csv")
    app([str(tmp_path / "audited.csv")], standalone_mode=False)
    said = capsys.readouterr().out
    last = said.strip().splitlines()[-1]
    assert last.startswith("1 of 4 classes have a shortcut, the surest: b by brightness <")
    assert "--masked" in last
    assert last.endswith("audited-shortcuts.json")
    assert json.loads((tmp_path / "audited-shortcuts.json").read_text())["findings"][0]["label"] == "b"
    app([str(tmp_path / "balanced.csv"), "--against", str(tmp_path / "audited.csv")], standalone_mode=False)
    said = capsys.readouterr().out
    assert "gone" in said
    assert said.strip().splitlines()[-1].startswith("0 of 4 classes have a shortcut")


class KnowsBackgrounds:
    """A model that sees the class in the background and nothing else."""

    def __init__(self, *given: object) -> None:
        self.given = given

    def embed(self, manifest: pd.DataFrame) -> np.ndarray:
        noise = np.random.default_rng(0).normal(0, 0.1, (len(manifest), 8))
        return noise + np.eye(8)[[ord(label) - ord("a") for label in manifest["label"]]]

    def embed_masked(self, manifest: pd.DataFrame, masks: np.ndarray, keep: str) -> np.ndarray:
        assert masks.shape == (len(manifest), 56, 56)
        return self.embed(manifest) if keep == "background" else np.zeros((len(manifest), 8))


def test_the_command_judges_the_model_on_backgrounds_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("curate.wiring.Model", KnowsBackgrounds)
    monkeypatch.setattr("curate.audit.measure_all", lambda rows, *_: (rows, np.ones((len(rows), 56, 56), bool)))
    app = typer.Typer(add_completion=False)
    app.command()(shortcuts)
    write_manifest(noise(), tmp_path / "audited.csv")
    app([str(tmp_path / "audited.csv"), "--masked", "-o", str(tmp_path / "found.json")], standalone_mode=False)
    rows = [re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines()]
    told = {tuple(row[:2]): row[2:4] for row in rows if len(row) > 3}
    assert told["whole pictures", "background alone"] == ["160", "100 % (97 to 100)"]
    assert told["whole pictures", "foreground alone"][1].startswith("25 %")
    found = read_shortcuts(tmp_path / "found.json")
    assert found.masked is not None
    assert found.masked["background_only"]["balanced_accuracy"] == 1
    write_shortcuts(found, tmp_path / "again.json")
    assert read_shortcuts(tmp_path / "again.json") == found
