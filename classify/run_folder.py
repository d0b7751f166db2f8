"""The folder of a run: what is in it, whether it may go on, and all that a resumed run needs."""

import dataclasses
import json
import pickle
import platform
import shutil
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn

from classify.config import FREE_TO_CHANGE, TrainConfig
from classify.data import data_digest, pick_device, split_counts
from classify.models import MODEL_FILE, Trained, build, changing, check_side, load_run, save_model
from classify.optimize import State, copied, optimizer_of, wearing
from classify.report import write_table
from classify.trunk import train_mode
from classify.weights import put_in
from curate.errors import CurateError
from curate.files import replacing

LAYOUT = 1  # of the folder: a change that older or newer code cannot go on from must change it
VERSIONS = ("deeprock", "torch", "torchvision", "numpy", "opencv-python-headless", "pillow")
PICTURES = ("curves.png", "confusion.png", "confusion.csv")
FILES = ("config.json", "last.pt", MODEL_FILE, "history.csv", *PICTURES, "metrics.json", "report.html")
MADE_OF_IT = ("evaluation-*", "predictions-*.csv", "temperature.json")  # by later commands; the log of tests stays
EVENTS = "tensorboard"
BETWEEN = 1.0  # seconds between two writings, at least: what is lost of quick epochs is quickly made again, the same
SHARE = 0.1  # of the time that writing may take: a head of VGG has half a gigabyte


class Epoch(NamedTuple):
    """One line of history.csv; losses are cross-entropies weighted by class, epochs count from 1."""

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    val_macro_f1: float
    seconds: float


@dataclass
class Progressed:
    """How far a run is: what it needs to go on, apart from its settings and its data.

    Attributes:
        average: moving average of the weights that train, where there is one.
        kept: the weights that train, as they were after the best epoch.
        written: the best epoch when it was last written.
        due: when it is to be written again.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    history: list[Epoch]
    average: State
    kept: State = field(default_factory=dict)
    written: int = -1
    due: float = 0.0

    @classmethod
    def new(cls, config: TrainConfig, classes: int) -> "Progressed":
        """With the weights that the settings name."""
        head: dict[str, Any] = {"dropout": config.dropout, "seed": config.seed}
        model = build(config.arch, classes, weights=config.weights, freeze=config.freeze, **head)
        check_side(model, config.arch, config.image_size)
        train_mode(model)
        average = copied(model, changing(model)) if config.ema else {}
        return cls(model, optimizer_of(model.parameters(), config), [], average)

    @classmethod
    def resumed(cls, run_dir: Path, config: TrainConfig, classes: int) -> "Progressed":
        """As it was after the last epoch that was written; CurateError if the file is damaged."""
        try:
            saved = torch.load(run_dir / "last.pt", weights_only=True, map_location=pick_device())
            model = build(config.arch, classes, weights="none", dropout=config.dropout)
            model.load_state_dict(load_run(run_dir).model.state_dict())
            kept = copied(model, saved["model"])
            put_in(model, saved["model"])
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name in saved["trains"])
            optimizer = optimizer_of(model.parameters(), config)
            optimizer.load_state_dict(saved["optimizer"])
            history = [Epoch(**epoch) for epoch in saved["history"]]
            return cls(model, optimizer, history, saved["average"], kept)
        except (OSError, RuntimeError, ValueError, KeyError, EOFError, TypeError, pickle.UnpicklingError) as error:
            raise CurateError(
                f"{run_dir / 'last.pt'} is damaged, the run cannot go on ({type(error).__name__}). "
                "Start it again with --overwrite, or take another --name."
            ) from error

    @property
    def best(self) -> int:
        """Index of the epoch with the best validation macro-F1, the earliest of equals."""
        return max(range(len(self.history)), key=lambda i: self.history[i].val_macro_f1)

    @cached_property
    def names(self) -> list[str]:
        """Of what training changes."""
        return changing(self.model)

    def finished(self, config: TrainConfig) -> bool:
        """Whether all epochs are done, or the last `patience` of them brought nothing better."""
        done = len(self.history)
        return done >= config.epochs or (done > 0 and done - 1 - self.best >= config.patience)

    def add(self, epoch: Epoch) -> None:
        """Append the epoch; of the best one the weights are kept."""
        self.history.append(epoch)
        if self.best == len(self.history) - 1:
            self.kept = self._now()

    def write(self, run_dir: Path, config: TrainConfig, classes: tuple[str, ...]) -> None:
        """The best model, then all that a resumed run needs, each atomically; at the end, and when it is due."""
        began = time.monotonic()
        if began < self.due and not self.finished(config):
            return
        if self.written != self.best:
            with wearing(self.model, self.kept):
                gray = config.augmentation.all_gray
                trained = Trained(config.arch, self.model, classes, config.image_size, config.crop, gray)
                save_model(trained, run_dir / MODEL_FILE)
        state = {
            "model": copied(self.model, self.names),
            "average": self.average,
            "trains": [name for name, p in self.model.named_parameters() if p.requires_grad],
            "optimizer": self.optimizer.state_dict(),
            "history": [epoch._asdict() for epoch in self.history],
        }
        with replacing(run_dir / "last.pt") as temporary:
            torch.save(state, temporary)
        write_table(pd.DataFrame(self.history), run_dir / "history.csv")
        self.written = self.best
        self.due = time.monotonic() + max(BETWEEN, (time.monotonic() - began) / SHARE)

    def _now(self) -> State:
        """What is validated: the moving average where there is one."""
        return {name: t.clone() for name, t in self.average.items()} or copied(self.model, self.names)


def open_run(run_dir: Path, config: TrainConfig, used: pd.DataFrame, keys: list[str], overwrite: bool) -> bool:
    """Make the run folder, or find that an unfinished run of the same settings can go on (True).

    Raises:
        CurateError: a finished run, one of other settings or images, one of another version, or a folder that is none.
    """
    about = {
        "layout": LAYOUT,
        "config": dataclasses.asdict(config),
        "data": {"digest": data_digest(used, keys), "counts": split_counts(used)},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path = run_dir / "config.json"
    if path.exists() and overwrite:
        for path_of in (*map(run_dir.joinpath, FILES), *(p for pattern in MADE_OF_IT for p in run_dir.glob(pattern))):
            path_of.unlink(missing_ok=True)
        shutil.rmtree(run_dir / EVENTS, ignore_errors=True)
    if path.exists():
        return _may_resume(run_dir, about)
    if run_dir.exists() and any(run_dir.iterdir()) and not overwrite:
        raise CurateError(f"{run_dir} is there already and is no run. Take another --name.")
    run_dir.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(about, indent=2))
    return False


def _may_resume(run_dir: Path, about: dict[str, Any]) -> bool:
    if (run_dir / "metrics.json").exists():
        raise CurateError(f"run {run_dir} is finished. Take another --name, or --overwrite it.")
    try:
        before = json.loads((run_dir / "config.json").read_text())
        layout, old, old_digest = before.get("layout", 0), before["config"], before["data"]["digest"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CurateError(f"{run_dir / 'config.json'} is damaged. Take another --name, or --overwrite.") from error
    if layout != LAYOUT:
        raise CurateError(
            f"run {run_dir} was begun by another version of DeepRock (layout {layout}, this one has {LAYOUT}) and "
            "cannot go on. Take another --name, or --overwrite it."
        )
    new = about["config"]
    changed = [f"{k} {old.get(k)} -> {new[k]}" for k in new if k not in FREE_TO_CHANGE and old.get(k) != new[k]]
    if old_digest != about["data"]["digest"]:
        changed.append("other images, labels or splits")
    if changed:
        raise CurateError(
            f"run {run_dir} has other settings ({', '.join(changed)}). Take another --name, or --overwrite it."
        )
    return (run_dir / "last.pt").exists()
