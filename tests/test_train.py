import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional

import classify.train
from classify.config import TrainConfig
from classify.models import build, load_run
from classify.optimize import learning_rate, move
from classify.predict import predict_rows
from classify.train import train
from curate.errors import CurateError
from tests.test_data import COLOURS, damage, textures

QUICK = TrainConfig(arch="small_cnn", weights="none", image_size=32, epochs=4, batch_size=8, dropout=0.2, views=3)
NO_CURVES = ("curves_png", "confusion_png")


@pytest.fixture
def no_pictures(monkeypatch):
    """Runs are quicker without; `test_a_run_leaves_all_its_files` draws them."""
    for name in NO_CURVES:
        monkeypatch.setattr(classify.train, name, lambda *_: None)
    monkeypatch.setattr(classify.train, "run_page", lambda *_: None)


@pytest.fixture
def kept_at_once(monkeypatch):
    """Not after a second, when a quick head is done: its first epoch is written."""
    monkeypatch.setattr(classify.train, "BETWEEN", 0)


@pytest.fixture
def trunk_weights(tmp_path):
    torch.save(build("small_cnn", 2, weights="none", seed=11).state_dict(), tmp_path / "w.pth")
    return str(tmp_path / "w.pth")


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("owned"),))


class Killed(Exception):
    pass


def kill_after(number):
    def on_epoch(epoch):
        if epoch.epoch == number:
            raise Killed

    return on_epoch


def weights_of(run: Path):
    return load_run(run).model.state_dict()


def history_of(run: Path):
    return pd.read_csv(run / "history.csv").drop(columns="seconds")


def test_a_run_leaves_all_its_files_and_learns(tmp_path):
    manifest = textures(tmp_path, train=12)
    manifest["label"] = manifest["label"].replace("granite", "<b>granite</b>")
    name = damage(tmp_path, manifest, 0)
    run = tmp_path / "run"
    metrics = train(manifest, tmp_path, dataclasses.replace(QUICK, epochs=12, learning_rate=0.05), run)
    assert metrics["val"]["accuracy"] > 0.8, "colours are easily told apart"
    assert metrics["unreadable"] == [name]
    assert metrics == json.loads((run / "metrics.json").read_text())
    config = json.loads((run / "config.json").read_text())
    assert config["config"]["learning_rate"] == 0.05
    assert config["versions"]["torch"] == torch.__version__.split("+")[0]
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert np.sum(pd.read_csv(run / "confusion.csv").iloc[:, 1:].to_numpy()) == 9
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page
    assert "<b>granite" not in page
    assert load_run(run).classes == ("<b>granite</b>", "basalt", "olivine")


def test_the_best_epoch_by_macro_f1_is_kept(tmp_path, no_pictures):
    manifest = textures(tmp_path)
    metrics = train(manifest, tmp_path, QUICK, tmp_path / "run")
    history = history_of(tmp_path / "run")
    assert metrics["best_epoch"] == history["val_macro_f1"].idxmax() + 1
    assert metrics["val"]["macro_f1"] == pytest.approx(history["val_macro_f1"].max())


@pytest.mark.parametrize("freeze", ["none", "last_block", "head"])
@pytest.mark.parametrize("epoch", [1, 3])
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, no_pictures, trunk_weights, kept_at_once, freeze, epoch):
    manifest = textures(tmp_path)
    config = dataclasses.replace(QUICK, freeze=freeze, weights=trunk_weights, lr_step=2)
    train(manifest, tmp_path, config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(manifest, tmp_path, config, tmp_path / "killed", on_epoch=kill_after(epoch))
    Path(trunk_weights).unlink()
    train(manifest, tmp_path, config, tmp_path / "killed")
    pd.testing.assert_frame_equal(history_of(tmp_path / "killed"), history_of(tmp_path / "whole"))
    states = [torch.load(tmp_path / run / "last.pt", weights_only=True)["model"] for run in ("killed", "whole")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    killed, whole = weights_of(tmp_path / "killed"), weights_of(tmp_path / "whole")
    assert all(torch.equal(killed[name], whole[name]) for name in whole)


@pytest.mark.slow
def test_a_run_survives_kill_9(tmp_path, no_pictures):
    manifest = textures(tmp_path)
    config = dataclasses.replace(QUICK, epochs=40)
    words = ["train", "-m", "m.csv", "--data", ".", "--arch", "small_cnn", "--weights", "none", "--image-size", "32"]
    words += ["--epochs", "40", "--batch-size", "8", "--dropout", "0.2", "--name", "killed", "--threads", "1"]
    code = f"from classify.cli import main; main({words!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"})
    history = tmp_path / "runs" / "killed" / "history.csv"
    deadline = time.monotonic() + 120
    while not history.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    config = dataclasses.replace(config, views=8)
    train(manifest, tmp_path, config, tmp_path / "runs" / "killed", cache=tmp_path / "cache")
    train(manifest, tmp_path, config, tmp_path / "whole")
    pd.testing.assert_frame_equal(history_of(history.parent), history_of(tmp_path / "whole"))


def test_neither_the_order_of_the_manifest_nor_the_caller_s_randomness_matters(tmp_path, no_pictures):
    manifest = textures(tmp_path)
    train(manifest, tmp_path, QUICK, tmp_path / "a")
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    train(manifest.sample(frac=1, random_state=1), tmp_path, QUICK, tmp_path / "b")
    assert torch.equal(torch.random.get_rng_state(), before)
    a, b = weights_of(tmp_path / "a"), weights_of(tmp_path / "b")
    assert all(torch.equal(a[name], b[name]) for name in a)
    train(manifest, tmp_path, dataclasses.replace(QUICK, seed=1), tmp_path / "c")
    assert not torch.equal(weights_of(tmp_path / "c")["features.0.0.weight"], a["features.0.0.weight"])


@pytest.mark.parametrize("arch", ["small_cnn", "squeezenet1_1"])
def test_training_a_head_changes_nothing_in_the_trunk(tmp_path, no_pictures, arch):
    given = build(arch, 2, weights="none", seed=11).state_dict()
    torch.save(given, tmp_path / "w.pth")
    config = dataclasses.replace(QUICK, arch=arch, freeze="head", weights=str(tmp_path / "w.pth"), epochs=3)
    config = dataclasses.replace(config, image_size=48)
    train(textures(tmp_path), tmp_path, config, tmp_path / "run")
    after = weights_of(tmp_path / "run")
    trunk = [name for name in given if name.startswith("features")]
    assert all(torch.equal(after[name], given[name]) for name in trunk)
    fresh = build(arch, 3, weights=str(tmp_path / "w.pth"), freeze="head").state_dict()
    head = [name for name in fresh if name not in trunk]
    assert any(not torch.equal(after[name], fresh[name]) for name in head)


def test_a_second_head_finds_its_views_cached(tmp_path, no_pictures, trunk_weights):
    manifest = textures(tmp_path)
    config = dataclasses.replace(QUICK, freeze="head", weights=trunk_weights)
    seen: list[tuple[int, int]] = []
    train(manifest, tmp_path, config, tmp_path / "a", progress=lambda *now: seen.append(now))
    assert sum(done == total for done, total in seen) == 3, "pixels, plain views of val, augmented views of train"
    assert (54, 54) in seen, "18 training images in 3 views"
    seen.clear()
    again = dataclasses.replace(config, learning_rate=0.1, seed=5)
    train(manifest, tmp_path, again, tmp_path / "b", progress=lambda *now: seen.append(now))
    assert seen == []


def test_the_learning_rate_is_halved_every_ten_epochs():
    rates = [learning_rate(TrainConfig(), epoch) for epoch in (0, 9, 10, 19, 20, 49)]
    assert rates == [0.01, 0.01, 0.005, 0.005, 0.0025, 0.000625]


def test_or_it_falls_along_a_cosine():
    config = TrainConfig(schedule="cosine", epochs=4, learning_rate=0.2)
    rates = [learning_rate(config, epoch) for epoch in range(4)]
    np.testing.assert_allclose(rates, [0.2, 0.1 * (1 + 0.5**0.5), 0.1, 0.1 * (1 - 0.5**0.5)])


@pytest.mark.parametrize("optimizer", ["adagrad", "rmsprop", "adam", "adamw"])
def test_other_optimizers_learn_and_go_on_after_a_kill(tmp_path, no_pictures, trunk_weights, kept_at_once, optimizer):
    config = dataclasses.replace(QUICK, freeze="head", weights=trunk_weights, optimizer=optimizer, learning_rate=0.003)
    manifest = textures(tmp_path)
    train(manifest, tmp_path, config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(manifest, tmp_path, config, tmp_path / "killed", on_epoch=kill_after(1))
    train(manifest, tmp_path, config, tmp_path / "killed")
    history = history_of(tmp_path / "whole")
    pd.testing.assert_frame_equal(history_of(tmp_path / "killed"), history)
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]


def test_the_moving_average_is_what_is_kept_and_goes_on_after_a_kill(tmp_path, no_pictures):
    manifest = textures(tmp_path)
    config = dataclasses.replace(QUICK, ema=0.9, epochs=3)
    train(manifest, tmp_path, config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(manifest, tmp_path, config, tmp_path / "killed", on_epoch=kill_after(1))
    train(manifest, tmp_path, config, tmp_path / "killed")
    killed, whole = weights_of(tmp_path / "killed"), weights_of(tmp_path / "whole")
    assert all(torch.equal(killed[name], whole[name]) for name in whole)


def test_the_moving_average_lags_behind(tmp_path, no_pictures):
    start = build("small_cnn", 3, weights="none", dropout=0.2).state_dict()["features.0.0.weight"]
    moved = []
    for ema in (0.9, 0.0):
        config = dataclasses.replace(QUICK, ema=ema, epochs=1)
        train(textures(tmp_path), tmp_path, config, tmp_path / str(ema))
        moved.append(float((weights_of(tmp_path / str(ema))["features.0.0.weight"] - start).norm()))
    assert 0 < moved[0] < moved[1] / 2


def test_a_step_of_the_moving_average():
    model = torch.nn.Linear(1, 1)
    average = {"weight": torch.tensor([[2.0]])}
    torch.nn.init.constant_(model.weight, 4.0)
    move(average, model, 0.75)
    assert average["weight"].item() == 2.5


def test_smoothed_labels_cost_the_sure(tmp_path, no_pictures):
    manifest = textures(tmp_path)
    sharp, smooth = (dataclasses.replace(QUICK, epochs=12, label_smoothing=share) for share in (0.0, 0.3))
    train(manifest, tmp_path, sharp, tmp_path / "sharp")
    train(manifest, tmp_path, smooth, tmp_path / "smooth")
    losses = [history_of(tmp_path / name)["train_loss"].iloc[-1] for name in ("sharp", "smooth")]
    assert losses[1] > losses[0] + 0.2


def test_grey_runs_never_see_a_colour(tmp_path, no_pictures):
    """The classes differ in colour; their greys differ too, but not those of the images made here."""
    manifest = textures(tmp_path, labels=("basalt", "granite"))
    for name, label in zip(manifest["file_name"], manifest["label"], strict=True):
        colour = (200, 40, 92) if label == "basalt" else (40, 100, 202)  # equally bright
        Image.new("RGB", (40, 40), colour).save(tmp_path / name)
    manifest = manifest.drop(columns="sha256")
    for grayscale in (0.0, 1.0):
        config = dataclasses.replace(QUICK, grayscale=grayscale, epochs=12, learning_rate=0.05)
        train(manifest, tmp_path, config, tmp_path / str(grayscale))
    found = [pd.read_csv(tmp_path / name / "predictions-val.csv") for name in ("0.0", "1.0")]
    spread = [table["p_basalt"].std() for table in found]
    assert spread[0] > 0.02 > 1e-3 > spread[1], spread
    trained, photos = load_run(tmp_path / "1.0"), manifest[manifest["split"] == "val"]
    later = predict_rows(trained, photos, tmp_path)[:, 0]
    np.testing.assert_allclose(later, found[1].set_index("image_id").loc[photos["image_id"], "p_basalt"], atol=1e-5)


def test_tensorboard_and_csv_have_every_epoch_once(tmp_path, no_pictures):
    manifest, run = textures(tmp_path), tmp_path / "run"
    with pytest.raises(Killed):
        train(manifest, tmp_path, QUICK, run, on_epoch=kill_after(2))
    train(manifest, tmp_path, QUICK, run)
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    losses = events.Scalars("loss/train")
    assert [event.step for event in losses] == [1, 2, 3, 4]
    np.testing.assert_allclose([event.value for event in losses], history_of(run)["train_loss"], rtol=1e-5)
    assert {"loss/val", "accuracy/train", "accuracy/val", "macro_f1/val", "learning_rate"} <= set(
        events.Tags()["scalars"]
    )


def test_a_run_tells_what_the_best_model_says_of_each_validation_image(tmp_path, no_pictures):
    manifest = textures(tmp_path)
    metrics = train(manifest, tmp_path, QUICK, tmp_path / "run")
    table = pd.read_csv(tmp_path / "run" / "predictions-val.csv")
    assert sorted(table["image_id"]) == sorted(manifest.loc[manifest["split"] == "val", "image_id"])
    assert (table["label"] == table["predicted"]).mean() == pytest.approx(metrics["val"]["accuracy"])
    assert metrics["parameters"] == sum(p.numel() for p in build("small_cnn", 3, weights="none").parameters())


def test_training_is_deterministic_where_that_is_asked_and_other_code_is_left_alone(tmp_path, no_pictures):
    config = dataclasses.replace(QUICK, deterministic=True, threads=1, epochs=1)
    train(textures(tmp_path), tmp_path, config, tmp_path / "run")
    assert not torch.are_deterministic_algorithms_enabled()


def test_rare_classes_weigh_more(tmp_path, no_pictures, monkeypatch):
    """6 basalts, 6 granites, 2 olivines for training: weights 1, 1, 3."""
    manifest = textures(tmp_path)
    rare = manifest[(manifest["label"] == "olivine") & (manifest["split"] == "train")].index[2:]
    seen = []
    real = functional.cross_entropy

    def spy(logits, label, weight, **how):
        seen.append(weight.tolist())
        return real(logits, label, weight=weight, **how)

    monkeypatch.setattr(functional, "cross_entropy", spy)
    train(manifest.drop(index=rare), tmp_path, dataclasses.replace(QUICK, epochs=1), tmp_path / "run")
    assert all(weight == [1.0, 1.0, 3.0] for weight in seen)


def test_training_stops_early_when_validation_no_longer_improves(tmp_path, no_pictures):
    config = dataclasses.replace(QUICK, epochs=50, learning_rate=1e-9, patience=2)
    metrics = train(textures(tmp_path), tmp_path, config, tmp_path / "run")
    assert metrics["epochs_run"] == metrics["best_epoch"] + 2
    assert metrics["stopped"] == "no better for 2 epochs"


def test_a_diverged_loss_stops_the_run(tmp_path, no_pictures):
    with pytest.raises(
        CurateError, match=r"epoch \d+, batch \d+: the loss is .* \(images [0-9a-f]{16}, .*Lower the lear"
    ):
        train(
            textures(tmp_path),
            tmp_path,
            dataclasses.replace(QUICK, learning_rate=1e30, epochs=20, patience=20),
            tmp_path / "run",
        )


def test_a_run_is_not_overwritten_unless_asked(tmp_path, no_pictures):
    manifest, run = textures(tmp_path), tmp_path / "run"
    one = dataclasses.replace(QUICK, epochs=1)
    train(manifest, tmp_path, one, run)
    with pytest.raises(CurateError, match=r"is finished\. Take another --name"):
        train(manifest, tmp_path, one, run)
    train(manifest, tmp_path, QUICK, run, overwrite=True)
    assert len(history_of(run)) == 4


def test_an_unfinished_run_of_other_settings_or_images_is_left_alone(tmp_path, no_pictures):
    manifest, run = textures(tmp_path), tmp_path / "run"
    with pytest.raises(Killed):
        train(manifest, tmp_path, QUICK, run, on_epoch=kill_after(1))
    with pytest.raises(CurateError, match=r"other settings \(batch_size 8 -> 4\)"):
        train(manifest, tmp_path, dataclasses.replace(QUICK, batch_size=4), run)
    with pytest.raises(CurateError, match="other images, labels or splits"):
        train(manifest[1:], tmp_path, QUICK, run)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(CurateError, match="is no run"):
        train(manifest, tmp_path, QUICK, tmp_path / "mine")


def test_an_unfinished_run_of_another_version_is_refused(tmp_path, no_pictures):
    manifest, run = textures(tmp_path), tmp_path / "run"
    with pytest.raises(Killed):
        train(manifest, tmp_path, QUICK, run, on_epoch=kill_after(1))
    about = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**about, "layout": 99}))
    with pytest.raises(CurateError, match=r"another version of DeepRock \(layout 99, this one has 1\).*--overwrite"):
        train(manifest, tmp_path, QUICK, run)


def test_a_state_with_code_in_it_is_refused_unrun(tmp_path, no_pictures, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest, run = textures(tmp_path), tmp_path / "run"
    with pytest.raises(Killed):
        train(manifest, tmp_path, QUICK, run, on_epoch=kill_after(1))
    torch.save({"model": Hostile()}, run / "last.pt")
    with pytest.raises(CurateError, match="the run cannot go on"):
        train(manifest, tmp_path, QUICK, run)
    assert not Path("owned").exists()


def test_a_damaged_state_says_what_to_do(tmp_path, no_pictures):
    manifest, run = textures(tmp_path), tmp_path / "run"
    with pytest.raises(Killed):
        train(manifest, tmp_path, QUICK, run, on_epoch=kill_after(1))
    (run / "last.pt").write_bytes(b"x")
    with pytest.raises(CurateError, match=r"last.pt is damaged.*--overwrite"):
        train(manifest, tmp_path, QUICK, run)


def test_images_that_are_too_small_for_the_architecture_are_refused(tmp_path):
    config = dataclasses.replace(QUICK, image_size=8)
    with pytest.raises(CurateError, match="small_cnn does not take images of 8 pixels"):
        train(textures(tmp_path), tmp_path, config, tmp_path / "run")


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"dropout": 1.0},
        {"learning_rate": 0.0},
        {"freeze": "all"},
        {"precision": "int8"},
        {"optimizer": "lion"},
        {"schedule": "never"},
        {"ema": 1.0},
        {"processes": 0},
        {"grayscale": 2.0},
    ],
)
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(CurateError, match=next(iter(change))):
        dataclasses.replace(QUICK, **change)


def test_a_class_whose_training_images_do_not_open_is_named(tmp_path):
    manifest = textures(tmp_path, train=2)
    for row in np.flatnonzero((manifest["label"] == "olivine") & (manifest["split"] == "train")):
        damage(tmp_path, manifest, row)
    with pytest.raises(CurateError, match="olivine"):
        train(manifest, tmp_path, QUICK, tmp_path / "run")


def test_bfloat16_trains_too(tmp_path, no_pictures):
    config = dataclasses.replace(QUICK, precision="bfloat16", epochs=1)
    metrics = train(textures(tmp_path), tmp_path, config, tmp_path / "run")
    assert metrics["epochs_run"] == 1
    assert set(COLOURS) == set(load_run(tmp_path / "run").classes)
