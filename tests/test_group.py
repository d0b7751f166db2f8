"""Two processes on this machine, joined by gloo: what they train is what one trains."""

import dataclasses
import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from classify import group
from classify.config import TrainConfig
from classify.group import launch
from classify.models import build, load_run
from classify.train import train
from curate.errors import CurateError
from tests.test_data import textures

torch.set_num_threads(1)
PLAIN = TrainConfig(
    arch="squeezenet1_1",
    weights="none",
    image_size=32,
    epochs=3,
    batch_size=8,
    dropout=0.0,
    learning_rate=0.02,
    views=2,
    precision="float32",
    threads=1,
)


FREEZE = ("head", "none")


def run_both(manifest: pd.DataFrame, root: Path, config: TrainConfig, name: str) -> None:
    for freeze in FREEZE:
        train(manifest, root, dataclasses.replace(config, freeze=freeze), root / f"{name}-{freeze}")


def test_alone_there_is_nothing_to_join():
    assert (group.rank(), group.size()) == (0, 1)
    assert group.share([3, 4, 5]) == [3, 4, 5]
    assert group.agreed("x") == "x"
    values = torch.ones(2)
    assert group.total(values) is values
    module = nn.Linear(2, 2)
    assert group.joined(module) is module
    with group.first(), group.membership():
        group.barrier()


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path):
    """The batch of eight is shared, with weights of the classes that differ; a last batch is small."""
    manifest = textures(tmp_path, train=7)
    rare = manifest[(manifest["label"] == "olivine") & (manifest["split"] == "train")].index[3:]
    manifest = manifest.drop(index=rare)
    torch.save(build("squeezenet1_1", 2, weights="none", seed=11).state_dict(), tmp_path / "w.pth")
    config = dataclasses.replace(PLAIN, weights=str(tmp_path / "w.pth"))
    launch(2, run_both, manifest, tmp_path, dataclasses.replace(config, processes=2), "two")
    run_both(manifest, tmp_path, config, "one")
    for freeze in FREEZE:
        runs = [tmp_path / f"{name}-{freeze}" for name in ("one", "two")]
        histories = [pd.read_csv(run / "history.csv").drop(columns="seconds") for run in runs]
        pd.testing.assert_frame_equal(*histories, rtol=2e-3)
        one, two = (load_run(run).model.state_dict() for run in runs)
        for name in one:
            torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4)


def second_dies(manifest: pd.DataFrame, root: Path, config: TrainConfig) -> None:
    if group.rank() == 1:
        kill_when_written(root)
    train(manifest, root, config, root / "killed")


def kill_when_written(root: Path) -> None:
    """A child of this process kills it."""
    me = os.getpid()
    if os.fork() == 0:
        until = time.monotonic() + 60
        while not (root / "killed" / "history.csv").exists() and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(me, signal.SIGKILL)
        os._exit(0)


@pytest.mark.slow
def test_a_killed_process_ends_the_run_with_a_clear_message_and_the_run_goes_on(tmp_path):
    manifest = textures(tmp_path)
    config = dataclasses.replace(PLAIN, epochs=200, patience=200)
    with pytest.raises(CurateError, match=r"process 2 of 2 \(pid \d+\) was killed by SIGKILL; .* goes on after"):
        launch(2, second_dies, manifest, tmp_path, config)
    done = len(pd.read_csv(tmp_path / "killed" / "history.csv"))
    assert 1 <= done < 200
    seen = []
    with pytest.raises(StopIteration):
        train(manifest, tmp_path, config, tmp_path / "killed", on_epoch=lambda epoch: stop_after(epoch, seen))
    assert seen == [done + 1]


def stop_after(epoch, seen):
    seen.append(epoch.epoch)
    raise StopIteration


def fails(number: int) -> None:
    if group.rank() == 1:
        raise CurateError(f"there are {number} of something")
    group.barrier()


@pytest.mark.slow
def test_what_a_process_says_of_a_failure_is_said(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(CurateError, match=r"^there are 7 of something$"):
        launch(2, fails, 7)
    assert signal.getsignal(signal.SIGINT) is before, "Ctrl-C does what it did"
