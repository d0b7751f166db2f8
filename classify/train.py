"""Train a classifier by the study's recipe: resumable after a kill, deterministic by seed, its best checkpoint kept.

Everything random is drawn from (seed, epoch, image), so that a resumed run ends with the weights of one that was never
stopped. With a frozen trunk the head trains on cached features of eight augmented views of every image.
"""

import dataclasses
import hashlib
import json
import pickle
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from classify.data import (
    Pixels,
    Progress,
    augment,
    batches,
    check_rows,
    content_keys,
    load_pixels,
    prefetched,
    sample_number,
    split_counts,
    to_input,
)
from classify.evaluate import confusion_matrix, confusion_table, scores, summary
from classify.features import Views
from classify.models import (
    FREEZE,
    MODEL_FILE,
    Freeze,
    Trained,
    backbone_of,
    build,
    changing,
    check_side,
    is_head_only,
    load_run,
    pick_device,
    save_model,
    split,
    train_mode,
)
from classify.report import confusion_png, curves_png, run_page, write_table
from curate.errors import CurateError
from curate.files import replacing
from curate.manifest import class_weights

VERSIONS = ("torch", "torchvision", "numpy", "opencv-python-headless", "pillow")
PICTURES = ("curves.png", "confusion.png", "confusion.csv")
FILES = ("config.json", "last.pt", MODEL_FILE, "history.csv", *PICTURES, "metrics.json", "report.html")


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults are the study's recipe, and where the study gives a range, the value stated here.

    Attributes:
        arch: a torchvision classifier or "small_cnn".
        freeze: "head", "last_block" or "none"; see `classify.models.build`.
        weights: "DEFAULT", "none" or a path; see `classify.models.build`.
        image_size: pixels; images are stretched to squares.
        learning_rate: of the first epochs; the study does not give its own.
        lr_step: epochs after which the learning rate is multiplied by `lr_factor`.
        dropout: before the last layer; the study tried 0.2, 0.5, 0.8.
        weight_decay: the study tried 1e-4, 1e-3, 1e-2.
        batch_size: the study tried 4, 8, 16, 32, 128.
        patience: epochs without a better validation macro-F1 after which training stops; the study does not give it.
        views: augmented views of an image that a head trains on when the trunk is frozen.
        precision: "float32", or "bfloat16" (faster where the processor has it; weights stay float32).
        seed: of the new layers, the order, the augmentation and the dropout.
        threads: of the processor; None leaves it to torch. Another number may change the last digits.
    """

    arch: str = "densenet121"
    freeze: Freeze = "none"
    weights: str = "DEFAULT"
    image_size: int = 224
    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 0.01
    momentum: float = 0.9
    lr_step: int = 10
    lr_factor: float = 0.5
    weight_decay: float = 1e-3
    dropout: float = 0.5
    patience: int = 15
    views: int = 8
    precision: str = "float32"
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("image_size", "epochs", "batch_size", "lr_step", "patience", "views"):
            if getattr(self, name) < 1:
                raise CurateError(f"{name}={getattr(self, name)}: must be at least 1.")
        if not (0 <= self.dropout < 1 and self.learning_rate > 0 and self.weight_decay >= 0 and self.seed >= 0):
            raise CurateError("dropout must be in [0, 1), learning_rate above 0, weight_decay and seed at least 0.")
        if self.freeze not in FREEZE or self.precision not in ("float32", "bfloat16"):
            allowed = f"freeze one of {', '.join(FREEZE)}, precision float32 or bfloat16"
            raise CurateError(f"freeze={self.freeze!r}, precision={self.precision!r}: {allowed}.")


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


class Data(NamedTuple):
    """What is trained on: rows (positions in the pixels) and their labels (indices into classes)."""

    pixels: Pixels
    classes: tuple[str, ...]
    labels: np.ndarray
    train: np.ndarray
    val: np.ndarray
    unreadable: list[str]


class Feed(NamedTuple):
    """The module that runs every epoch, and its input for rows: augmented for an epoch, or plain."""

    module: nn.Module
    augmented: Callable[[np.ndarray, int], np.ndarray]
    plain: Callable[[np.ndarray], np.ndarray]


def train(
    manifest: pd.DataFrame,
    root: Path,
    config: TrainConfig,
    run_dir: Path,
    *,
    cache: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> dict[str, Any]:
    """Train on split `train`, choose the epoch by macro-F1 on split `val`, and write the run folder.

    A folder with an unfinished run of the same settings and images is continued.

    Args:
        manifest: with `split`; rows whose `status` is not accepted are left out.
        root: the data root.
        config: see `TrainConfig`.
        run_dir: made if need be.
        cache: of decoded pixels and features; root/cache if not given.
        overwrite: throw away a run that is there.
        progress: called with (done, to do) while images are decoded and features computed.
        on_epoch: called after every epoch, when it is on disk.

    Returns:
        What metrics.json holds.

    Raises:
        CurateError: the manifest cannot be trained on, a run of that name is finished or different, the weights do
            not fit, the loss is no longer finite.
    """
    started = time.monotonic()
    if config.threads:
        torch.set_num_threads(config.threads)
    used, classes = check_rows(manifest)
    resume = _open_run(run_dir, config, used, content_keys(used, root), overwrite)
    cache = cache or root / "cache"
    data = _load_data(used, classes, root, config, cache, progress)
    with torch.random.fork_rng(devices=[]):
        state = _State.resumed(run_dir, config, data) if resume else _State.new(config, data)
        feed = _feed(state.model, config, data, cache, progress)
        while not state.finished(config):
            epoch = _run_epoch(state, feed, config, data)
            state.keep(epoch, run_dir, config, data)
            if on_epoch:
                on_epoch(epoch)
        return _finish(run_dir, config, data, state, used, cache, time.monotonic() - started)


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """Of an epoch, counted from 0: halved (`lr_factor`) every `lr_step` epochs."""
    return config.learning_rate * config.lr_factor ** (epoch // config.lr_step)


@dataclass
class _State:
    """What a run needs to go on, apart from its settings and its data."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    history: list[Epoch]

    @classmethod
    def new(cls, config: TrainConfig, data: Data) -> "_State":
        head: dict[str, Any] = {"dropout": config.dropout, "seed": config.seed}
        model = build(config.arch, len(data.classes), weights=config.weights, freeze=config.freeze, **head)
        check_side(model, config.arch, config.image_size)
        return cls(model, _optimizer(model, config), [])

    @classmethod
    def resumed(cls, run_dir: Path, config: TrainConfig, data: Data) -> "_State":
        """As it was after the last epoch that was kept; CurateError if the file is damaged."""
        try:
            saved = torch.load(run_dir / "last.pt", weights_only=True, map_location=pick_device())
            model = build(config.arch, len(data.classes), weights="none", dropout=config.dropout)
            model.load_state_dict(load_run(run_dir).model.state_dict())
            model.load_state_dict(saved["model"], strict=False)
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name in saved["trains"])
            optimizer = _optimizer(model, config)
            optimizer.load_state_dict(saved["optimizer"])
            return cls(model, optimizer, [Epoch(**epoch) for epoch in saved["history"]])
        except (OSError, RuntimeError, ValueError, KeyError, EOFError, TypeError, pickle.UnpicklingError) as error:
            raise CurateError(
                f"{run_dir / 'last.pt'} is damaged, the run cannot go on ({type(error).__name__}). "
                "Start it again with --overwrite, or take another --name."
            ) from error

    @property
    def best(self) -> int:
        """Index of the epoch with the best validation macro-F1, the earliest of equals."""
        return max(range(len(self.history)), key=lambda i: self.history[i].val_macro_f1)

    def finished(self, config: TrainConfig) -> bool:
        done = len(self.history)
        return done >= config.epochs or (done > 0 and done - 1 - self.best >= config.patience)

    def keep(self, epoch: Epoch, run_dir: Path, config: TrainConfig, data: Data) -> None:
        """Append the epoch; write the best model, then all that a resumed run needs, each in one atomic step."""
        self.history.append(epoch)
        if self.best == len(self.history) - 1:
            save_model(Trained(config.arch, self.model, data.classes, config.image_size), run_dir / MODEL_FILE)
        train_mode(self.model, config.arch)
        tensors = self.model.state_dict()
        state = {
            "model": {name: tensors[name] for name in changing(self.model)},
            "trains": [name for name, p in self.model.named_parameters() if p.requires_grad],
            "optimizer": self.optimizer.state_dict(),
            "history": [epoch._asdict() for epoch in self.history],
        }
        with replacing(run_dir / "last.pt") as temporary:
            torch.save(state, temporary)
        write_table(pd.DataFrame(self.history), run_dir / "history.csv")


def _open_run(run_dir: Path, config: TrainConfig, used: pd.DataFrame, keys: list[str], overwrite: bool) -> bool:
    """Make the run folder, or find that an unfinished run of the same settings can go on (True)."""
    rows = sorted(f"{key} {label} {part}" for key, label, part in zip(keys, used["label"], used["split"], strict=True))
    about = {
        "config": dataclasses.asdict(config),
        "data": {"digest": hashlib.sha256("\n".join(rows).encode()).hexdigest(), "counts": split_counts(used)},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path = run_dir / "config.json"
    if path.exists() and overwrite:
        for name in FILES:
            (run_dir / name).unlink(missing_ok=True)
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
        old, old_digest = before["config"], before["data"]["digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise CurateError(f"{run_dir / 'config.json'} is damaged. Take another --name, or --overwrite.") from error
    new = about["config"]
    changed = [f"{k} {old.get(k)} -> {new[k]}" for k in new if k != "threads" and old.get(k) != new[k]]
    if old_digest != about["data"]["digest"]:
        changed.append("other images, labels or splits")
    if changed:
        raise CurateError(
            f"run {run_dir} has other settings ({', '.join(changed)}). Take another --name, or --overwrite it."
        )
    return (run_dir / "last.pt").exists()


def _load_data(
    used: pd.DataFrame,
    classes: tuple[str, ...],
    root: Path,
    config: TrainConfig,
    cache: Path,
    progress: Progress | None,
) -> Data:
    pixels = load_pixels(used, root, config.image_size, cache=cache, progress=progress)
    readable = ~np.isin(np.arange(len(used)), list(pixels.causes))
    if pixels.causes:
        check_rows(used[readable])
    labels = np.array([classes.index(label) for label in used["label"]])
    rows = {part: np.flatnonzero((used["split"] == part).to_numpy() & readable) for part in ("train", "val")}
    unreadable = used["file_name"][~readable].tolist()
    if lost := sorted(set(classes) - {classes[i] for i in labels[rows["train"]]}):
        raise CurateError(f"no training image of {', '.join(lost)} opens. Is --data {root} right?")
    return Data(pixels, classes, labels, rows["train"], rows["val"], unreadable)


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad],
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


def _feed(model: nn.Module, config: TrainConfig, data: Data, cache: Path, progress: Progress | None) -> Feed:
    if is_head_only(model):
        return _view_feed(model, config, data, cache, progress)
    return _image_feed(model, config, data)


def _image_feed(model: nn.Module, config: TrainConfig, data: Data) -> Feed:
    numbers = {int(row): sample_number(data.pixels.keys[row]) for row in data.train}

    def augmented(rows: np.ndarray, epoch: int) -> np.ndarray:
        return augment(data.pixels.take(rows), [numbers[int(row)] for row in rows], seed=config.seed, epoch=epoch)

    return Feed(model, augmented, data.pixels.take)


def _view_feed(model: nn.Module, config: TrainConfig, data: Data, cache: Path, progress: Progress | None) -> Feed:
    """The head on cached features: every image goes through its views in turn, from a first one drawn by the seed."""
    pool, rest = split(model, config.arch)[1]
    views = Views(data.pixels, backbone_of(model, config.arch, config.image_size), pool, cache=cache)
    views.fill(data.val, [None], progress)
    views.fill(data.train, list(range(config.views)), progress)
    first = np.array([sample_number(f"{config.seed} {key}") % config.views for key in data.pixels.keys])

    def augmented(rows: np.ndarray, epoch: int) -> np.ndarray:
        return views.take(rows, (first[rows] + epoch) % config.views)

    return Feed(rest, augmented, views.take)


def _run_epoch(state: _State, feed: Feed, config: TrainConfig, data: Data) -> Epoch:
    started = time.monotonic()
    number = len(state.history)
    rate = learning_rate(config, number)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    counts = pd.Series(np.bincount(data.labels[data.train], minlength=len(data.classes)))
    weight = torch.tensor(class_weights(counts).to_numpy(), dtype=torch.float32, device=pick_device())
    rng = np.random.default_rng((config.seed, number))
    torch.manual_seed(int(rng.integers(2**62)))  # dropout and stochastic depth
    train_mode(state.model, config.arch)
    parts = batches(rng.permutation(data.train), config.batch_size)
    loss_sum = weight_sum = hits = 0.0
    for part, array in prefetched(lambda part: feed.augmented(part, number), parts):
        label = torch.from_numpy(data.labels[part]).to(weight.device)
        with _precision(config):
            logits = feed.module(_tensor(array)).float()
        loss = functional.cross_entropy(logits, label, weight=weight)
        if not torch.isfinite(loss):
            raise CurateError(
                f"epoch {number + 1}: the loss is {loss.item()}, training has diverged and is stopped. "
                f"Lower the learning rate (--lr, now {config.learning_rate}), under another --name."
            )
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        share = float(weight[label].sum())
        loss_sum, weight_sum = loss_sum + loss.item() * share, weight_sum + share
        hits += int((logits.argmax(1) == label).sum())
    logits = _logits(state.model, feed, config, data.val)
    label = torch.from_numpy(data.labels[data.val])
    val_loss = float(functional.cross_entropy(logits, label, weight=weight.cpu()))
    found = scores(confusion_matrix(label.numpy(), logits.argmax(1).numpy(), len(data.classes)))
    return Epoch(
        epoch=number + 1,
        learning_rate=rate,
        train_loss=loss_sum / weight_sum,
        train_accuracy=hits / len(data.train),
        val_loss=val_loss,
        val_accuracy=float(found.accuracy),
        val_macro_f1=float(found.macro_f1),
        seconds=round(time.monotonic() - started, 3),
    )


@torch.inference_mode()
def _logits(model: nn.Module, feed: Feed, config: TrainConfig, rows: np.ndarray) -> Tensor:
    """(len(rows), classes) on the CPU, the model in evaluation mode."""
    model.eval()
    with _precision(config):
        parts = [feed.module(_tensor(array)).float().cpu() for _, array in prefetched(feed.plain, batches(rows, 32))]
    return torch.cat(parts)


def _tensor(array: np.ndarray) -> Tensor:
    return to_input(array, pick_device()) if array.dtype == np.uint8 else torch.from_numpy(array).to(pick_device())


def _precision(config: TrainConfig) -> Any:
    if config.precision == "float32":
        return nullcontext()
    return torch.autocast(pick_device().type, dtype=torch.bfloat16)


def _finish(
    run_dir: Path, config: TrainConfig, data: Data, state: _State, used: pd.DataFrame, cache: Path, seconds: float
) -> dict[str, Any]:
    """Evaluate the best epoch's model on val; write pictures, tables, report and, last of all, metrics.json."""
    best = load_run(run_dir).model
    feed = _view_feed(best, config, data, cache, None) if is_head_only(state.model) else _image_feed(best, config, data)
    predicted = _logits(best, feed, config, data.val).argmax(1).numpy()
    matrix = confusion_matrix(data.labels[data.val], predicted, len(data.classes))
    done = len(state.history)
    metrics = {
        "best_epoch": state.best + 1,
        "epochs_run": done,
        "stopped": "all epochs done" if done >= config.epochs else f"no better for {config.patience} epochs",
        "val": {**summary(matrix, data.classes), "loss": state.history[state.best].val_loss},
        "counts": split_counts(used),
        "unreadable": data.unreadable,
        "seconds": round(seconds, 2),
    }
    curves_png(pd.DataFrame(state.history), run_dir / "curves.png")
    confusion_png(matrix, data.classes, run_dir / "confusion.png")
    write_table(confusion_table(matrix, data.classes), run_dir / "confusion.csv")
    run_page(run_dir.name, metrics, dataclasses.asdict(config), run_dir)
    with replacing(run_dir / "metrics.json") as temporary:
        temporary.write_text(json.dumps(metrics, indent=2))
    return metrics
