"""Sweeps: which points are tried, what is made of failures, and that a killed one goes on."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from optuna.trial import TrialState, create_trial

import classify.train
from classify import sweep as sweeping
from classify.config import TrainConfig
from classify.models import build
from classify.sweep import Grid, Outcome, name_of, run_trial, sweep
from classify.sweep_page import importances
from classify.train import train
from classify.workers import Died
from curate.errors import CurateError
from tests.test_data import textures

BASE = TrainConfig(weights="none", image_size=32, epochs=2, views=2, threads=1)
SMALL = Grid(("small_cnn",), ("none",), (8,), (0.2, 0.5), (1e-3,), (0.01, 0.05))
PAIR = dataclasses.replace(SMALL, dropout=(0.2,))
LONG = dataclasses.replace(BASE, epochs=40, patience=40)
torch.set_num_threads(1)


@pytest.fixture
def no_pictures(monkeypatch):
    """Trials are quicker without."""
    for name in ("curves_png", "confusion_png", "run_page"):
        monkeypatch.setattr(classify.train, name, lambda *_: None)


@pytest.fixture
def no_page(monkeypatch):
    monkeypatch.setattr(sweeping, "sweep_page", lambda *_: None)


@pytest.fixture
def instead_of_training(monkeypatch):
    """Trials whose macro-F1 is worked out from their settings: 0.9 at best, at lr 0.01, decay 0.001, dropout 0.5."""
    asked: list[str] = []

    def trial(manifest, root, cache, config, run):
        asked.append(run.name)
        wrong = [config.learning_rate != 0.01, config.weight_decay != 1e-3, config.dropout != 0.5]
        f1 = 0.9 - 0.2 * sum(wrong)
        run.mkdir()
        val = {
            "macro_f1": f1,
            "accuracy": f1,
            "interval_95": {n: [f1 - 0.1, f1 + 0.1] for n in ("macro_f1", "accuracy")},
        }
        metrics = {"val": {**val, "images": 9}, "best_epoch": 1, "epochs_run": 2, "seconds": 0.5}
        (run / "metrics.json").write_text(json.dumps(metrics))
        return Outcome(metrics, "")

    monkeypatch.setattr(sweeping, "run_trial", trial)
    return asked


def test_every_point_of_a_small_grid_is_trained_once(tmp_path, no_pictures):
    manifest = textures(tmp_path)
    told: list[tuple[str, int]] = []
    table = sweep(
        manifest, tmp_path, BASE, SMALL, tmp_path / "s", on_trial=lambda row, done: told.append((row["run"], done))
    )
    assert sorted(table["run"]) == sorted(name_of(point) for point in SMALL.points())
    assert [done for _, done in told] == [1, 2, 3, 4]
    assert (table["state"] == "complete").all()
    assert table["macro_f1"].is_monotonic_decreasing
    for row in table.itertuples():
        run = tmp_path / "s" / row.run
        val = json.loads((run / "metrics.json").read_text())["val"]
        assert (row.macro_f1, row.accuracy, row.images) == (val["macro_f1"], val["accuracy"], 9)
        assert [row.macro_f1_low, row.macro_f1_high] == val["interval_95"]["macro_f1"]
        config = json.loads((run / "config.json").read_text())["config"]
        assert (config["dropout"], config["learning_rate"]) == (row.dropout, row.learning_rate)
        assert not list(run.glob("*test*")), "the test set is not looked at"
    written = pd.read_csv(tmp_path / "s" / "trials.csv")
    pd.testing.assert_frame_equal(written, table, check_dtype=False)
    page = (tmp_path / "s" / "sweep.html").read_text()
    assert "4 trials of the 4 points of the grid, 0 of them failed" in page
    assert "the luckiest as well as a good one" in page
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page


def test_a_trial_is_the_run_that_training_makes(tmp_path, no_pictures, no_page):
    manifest = textures(tmp_path)
    grid = dataclasses.replace(SMALL, dropout=(0.2,), learning_rate=(0.05,))
    sweep(manifest, tmp_path, BASE, grid, tmp_path / "s")
    config = dataclasses.replace(BASE, arch="small_cnn", batch_size=8, dropout=0.2, learning_rate=0.05)
    train(manifest, tmp_path, config, tmp_path / "alone")
    swept = torch.load(tmp_path / "s" / name_of(grid.points()[0]) / "last.pt", weights_only=True)["model"]
    alone = torch.load(tmp_path / "alone" / "last.pt", weights_only=True)["model"]
    assert all(torch.equal(swept[name], alone[name]) for name in alone)


def test_a_diverged_trial_is_recorded_and_the_sweep_goes_on(tmp_path, no_pictures):
    grid = dataclasses.replace(SMALL, dropout=(0.2,), learning_rate=(1e30, 0.05))
    base = dataclasses.replace(BASE, epochs=20, patience=20)
    table = sweep(textures(tmp_path), tmp_path, base, grid, tmp_path / "s")
    assert table["state"].tolist() == ["complete", "failed"]
    assert table["learning_rate"].tolist() == [0.05, 1e30]
    assert "training has diverged" in table["cause"][1]
    assert (tmp_path / "s" / table["run"][1] / "failed.txt").read_text() == table["cause"][1]
    page = (tmp_path / "s" / "sweep.html").read_text()
    assert "1 of them failed" in page
    assert "training has diverged" in page
    again = sweep(textures(tmp_path), tmp_path, base, grid, tmp_path / "s")
    pd.testing.assert_frame_equal(again, table)


def test_where_all_trials_fail_the_first_cause_is_the_error(tmp_path, no_pictures):
    grid = dataclasses.replace(SMALL, dropout=(0.2,), learning_rate=(1e30,))
    base = dataclasses.replace(BASE, epochs=20, patience=20)
    with pytest.raises(CurateError, match=r"all 1 trials failed\. The first: .*training has diverged"):
        sweep(textures(tmp_path), tmp_path, base, grid, tmp_path / "s")


def test_heads_share_what_is_computed_of_the_trunk(tmp_path, no_pictures, no_page):
    torch.save(build("small_cnn", 2, weights="none", seed=11).state_dict(), tmp_path / "w.pth")
    grid = dataclasses.replace(SMALL, freeze=("none", "head"), dropout=(0.2,))
    manifest = textures(tmp_path)
    files: list[int] = []

    def on_trial(row, done):
        files.append(len(list((tmp_path / "cache" / "views").rglob("*.npy"))))

    weights = {"small_cnn": str(tmp_path / "w.pth")}
    sweep(manifest, tmp_path, BASE, grid, tmp_path / "s", weights=weights, on_trial=on_trial)
    first, second, *rest = files
    assert first > 0
    assert second == first, "the second head finds all views"
    assert rest == [first, first], "the cheapest came first"


def test_the_estimator_finds_the_best_of_a_grid_that_it_cannot_try_out(tmp_path, instead_of_training):
    grid = Grid(("small_cnn",), ("none",))
    table = sweep(textures(tmp_path), tmp_path, BASE, grid, tmp_path / "s", trials=40)
    assert len(set(instead_of_training)) == len(instead_of_training) == len(table) == 40, "none is tried twice"
    assert table["macro_f1"][0] == pytest.approx(0.9)
    score = table.set_index("run")["macro_f1"]
    assert score[instead_of_training[20:]].mean() > 0.6, "the mean of the grid is 0.48"
    page = (tmp_path / "s" / "sweep.html").read_text()
    assert "40 trials of the 180 points" in page
    assert "a setting explains" in page


def test_a_sweep_that_was_stopped_goes_on_as_it_would_have(tmp_path, instead_of_training, no_page):
    manifest, grid = textures(tmp_path), Grid(("small_cnn",), ("none",))
    whole = sweep(manifest, tmp_path, BASE, grid, tmp_path / "whole", trials=16)
    order = list(instead_of_training)

    def stop(row, done):
        if done == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(manifest, tmp_path, BASE, grid, tmp_path / "s", trials=16, on_trial=stop)
    assert len(pd.read_csv(tmp_path / "s" / "trials.csv")) == 13
    instead_of_training.clear()
    table = sweep(manifest, tmp_path, BASE, grid, tmp_path / "s", trials=16)
    assert instead_of_training == order[13:16]
    pd.testing.assert_frame_equal(table, whole)
    more = sweep(manifest, tmp_path, BASE, grid, tmp_path / "s", trials=18)
    assert len(more) == 18
    assert set(table["run"]) < set(more["run"])


def test_a_trial_that_was_begun_is_done_before_others(tmp_path, no_pictures, no_page):
    """Killed after the run was done, and before it was told."""
    manifest, grid = textures(tmp_path), dataclasses.replace(SMALL, dropout=(0.2,))
    sweep(manifest, tmp_path, BASE, grid, tmp_path / "s", trials=1)
    study = sweeping._study(tmp_path / "s")
    point = next(p for p in grid.points() if name_of(p) != name_of(study.trials[0].params))
    spaces = study.trials[0].distributions
    study.add_trial(create_trial(state=TrialState.RUNNING, params=point, distributions=spaces))
    config = dataclasses.replace(BASE, **point)
    train(manifest, tmp_path, config, tmp_path / "s" / name_of(point))
    before = (tmp_path / "s" / name_of(point) / "last.pt").stat().st_mtime_ns
    table = sweep(manifest, tmp_path, BASE, grid, tmp_path / "s")
    assert (table["state"] == "complete").tolist() == [True, True]
    assert (tmp_path / "s" / name_of(point) / "last.pt").stat().st_mtime_ns == before


class Pretended:
    """Two processes that train nothing; those of trials with dropout 0.2 die once, with 0.5 always."""

    def __init__(self, *, mortal=False):
        self.busy, self.started, self.mortal = [], [], mortal

    @property
    def free(self):
        return len(self.busy) < 2

    def start(self, number, config, run):
        self.busy.append((number, config))
        self.started.append((config.arch, config.freeze, config.dropout))

    def wait(self):
        number, config = self.busy.pop(0)
        deaths = {0.2: 1, 0.5: 9}[config.dropout] if self.mortal else 0
        tries = self.started.count((config.arch, config.freeze, config.dropout))
        return number, Died(-9) if tries <= deaths else Outcome({"val": {"macro_f1": 0.5}})


def pretended(out, grid, **kinds):
    """The workers, and the table, when all trials are done."""
    out.mkdir()
    work = sweeping._Sweep(sweeping._study(out), grid, BASE, dict.fromkeys(grid.arch, "none"), out, 99, None)
    workers = Pretended(**kinds)
    work.run(workers)
    return workers, work.table()


def test_a_trial_whose_process_dies_is_tried_once_more(tmp_path):
    grid = dataclasses.replace(SMALL, learning_rate=(0.01,))
    table = pretended(tmp_path / "s", grid, mortal=True)[1].set_index("dropout")
    assert table.loc[0.2, "state"] == "complete"
    assert table.loc[0.5, "cause"] == "its process ended with exit code -9: too little memory?"


def test_the_first_of_those_that_share_frozen_layers_goes_ahead(tmp_path):
    grid = dataclasses.replace(SMALL, arch=("small_cnn", "resnet18"), freeze=("head",), learning_rate=(0.01,))
    heads = pretended(tmp_path / "heads", grid)[0].started
    assert [arch for arch, *_ in heads] == ["small_cnn", "resnet18", "small_cnn", "resnet18"]
    whole = pretended(tmp_path / "whole", dataclasses.replace(grid, freeze=("none",)))[0].started
    assert [arch for arch, *_ in whole] == ["small_cnn", "small_cnn", "resnet18", "resnet18"], "nothing is shared"


def test_a_full_disk_stops_the_sweep_and_the_trial_goes_on_later(tmp_path, no_pictures, no_page, monkeypatch):
    manifest = textures(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "train", full)
        with pytest.raises(CurateError, match=r"No space left on device.*goes on from here"):
            sweep(manifest, tmp_path, BASE, PAIR, tmp_path / "s")
    table = sweep(manifest, tmp_path, BASE, PAIR, tmp_path / "s")
    assert (table["state"] == "complete").tolist() == [True, True]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"base": dataclasses.replace(BASE, epochs=3)}, "epochs 2 -> 3"),
        ({"grid": dataclasses.replace(SMALL, dropout=(0.2,))}, r"dropout \[0.2, 0.5\] -> \[0.2\]"),
        ({"rows": 30}, "other images, labels or splits"),
    ],
)
def test_a_sweep_of_other_settings_is_left_alone(tmp_path, instead_of_training, no_page, change, match):
    manifest = textures(tmp_path)
    sweep(manifest, tmp_path, BASE, SMALL, tmp_path / "s", trials=1)
    with pytest.raises(CurateError, match=match):
        sweep(
            manifest[: change.get("rows", 99)],
            tmp_path,
            change.get("base", BASE),
            change.get("grid", SMALL),
            tmp_path / "s",
        )
    sweep(manifest, tmp_path, dataclasses.replace(BASE, threads=2), SMALL, tmp_path / "s", trials=2)


def test_what_cannot_be_swept_is_said_at_once(tmp_path):
    manifest = textures(tmp_path)
    with pytest.raises(CurateError, match=r"dropout: 0\.2, 0\.2: give at least one value, and each of them once"):
        dataclasses.replace(SMALL, dropout=(0.2, 0.2))
    with pytest.raises(CurateError, match="freeze='all' is unknown"):
        dataclasses.replace(SMALL, freeze=("none", "all"))
    with pytest.raises(CurateError, match=r"is unknown\. Did you mean"):
        sweep(manifest, tmp_path, BASE, dataclasses.replace(SMALL, arch=("resnet81",)), tmp_path / "a")
    with pytest.raises(CurateError, match=r"w.pth: no such file"):
        sweep(manifest, tmp_path, BASE, SMALL, tmp_path / "b", weights={"small_cnn": "w.pth"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(CurateError, match="is no sweep"):
        sweep(manifest, tmp_path, BASE, SMALL, tmp_path / "mine")
    with sweeping._alone(tmp_path / "busy"), pytest.raises(CurateError, match="another sweep works there"):
        sweep(manifest, tmp_path, BASE, SMALL, tmp_path / "busy")


def test_a_damaged_study_says_what_to_do_and_the_runs_are_found_again(
    tmp_path, no_pictures, instead_of_training, no_page
):
    manifest = textures(tmp_path)
    table = sweep(manifest, tmp_path, BASE, SMALL, tmp_path / "s")
    (tmp_path / "s" / "study.db").write_bytes(b"SQLite format 3\0" + bytes(5000))
    with pytest.raises(CurateError, match=r"study.db is damaged.*Delete it"):
        sweep(manifest, tmp_path, BASE, SMALL, tmp_path / "s")
    (tmp_path / "s" / "study.db").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeping, "run_trial", run_trial)
        pd.testing.assert_frame_equal(sweep(manifest, tmp_path, BASE, SMALL, tmp_path / "s"), table)


def test_importances_tell_the_setting_that_matters():
    """Macro-F1 follows the learning rate alone."""
    study = optuna.create_study(direction="maximize")
    spaces = {
        "learning_rate": optuna.distributions.CategoricalDistribution((0.01, 0.03)),
        "dropout": optuna.distributions.CategoricalDistribution((0.2, 0.5)),
    }
    rng = np.random.default_rng(0)
    for n in range(24):
        params = {"learning_rate": (0.01, 0.03)[n % 2], "dropout": (0.2, 0.5)[rng.integers(2)]}
        value = 0.8 if n % 2 else 0.3
        study.add_trial(create_trial(params=params, distributions=spaces, value=value))
        if n == 8:
            assert importances(study) == {}, "nine trials tell nothing"
    found = importances(study)
    assert list(found) == ["learning_rate", "dropout"]
    assert found["learning_rate"] > 0.95


def test_a_folder_name_may_hold_what_an_address_gives_a_meaning_to(tmp_path, instead_of_training, no_page):
    sweep(textures(tmp_path), tmp_path, BASE, SMALL, tmp_path / "a b?c#d%20", trials=1)
    assert (tmp_path / "a b?c#d%20" / "study.db").exists()
    assert not (tmp_path / "a b").exists()


@pytest.mark.slow
def test_two_processes_try_what_one_does(tmp_path, no_pictures, no_page):
    manifest = textures(tmp_path)
    two = sweep(manifest, tmp_path, BASE, SMALL, tmp_path / "two", jobs=2)
    one = sweep(manifest, tmp_path, BASE, SMALL, tmp_path / "one")
    assert len(two) == 4
    pd.testing.assert_frame_equal(two.drop(columns="seconds"), one.drop(columns="seconds"))


@pytest.mark.slow
def test_a_sweep_survives_kill_9_in_the_middle_of_a_trial(tmp_path, no_pictures, no_page):
    manifest = textures(tmp_path)
    killed = tmp_path / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", LONG_SWEEP, str(tmp_path)], env=environment)
    deadline = time.monotonic() + 120
    while not list(killed.glob("*/history.csv")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert list(killed.glob("*/history.csv"))
    assert not list(killed.glob("*/metrics.json")), "it was killed in the middle of the first trial"
    table = sweep(manifest, tmp_path, LONG, PAIR, killed)
    whole = sweep(manifest, tmp_path, LONG, PAIR, tmp_path / "whole")
    pd.testing.assert_frame_equal(table.drop(columns="seconds"), whole.drop(columns="seconds"))
    for run in table["run"]:
        histories = [pd.read_csv(tmp_path / s / run / "history.csv") for s in ("killed", "whole")]
        pd.testing.assert_frame_equal(*(history.drop(columns="seconds") for history in histories))


LONG_SWEEP = """
import sys
from pathlib import Path
from classify.sweep import sweep
from curate.manifest import read_manifest
from tests.test_sweep import LONG, PAIR
root = Path(sys.argv[1])
sweep(read_manifest(root / "m.csv"), root, LONG, PAIR, root / "killed")
"""
