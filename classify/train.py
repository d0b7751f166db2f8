"""Train a classifier by the study's recipe: resumable after a kill, deterministic by seed, its best checkpoint kept.

Everything random is drawn from (seed, epoch, image), so that a resumed run ends with the weights of one that was never
stopped. What is frozen runs once for eight augmented views of every image, and the rest trains on what is kept of it.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.tensorboard import SummaryWriter

from classify import group
from classify.config import TrainConfig
from classify.data import Progress, batches, check_rows, content_keys, pick_device, split_counts
from classify.feeds import Data, Feed, feed_of, load_data
from classify.optimize import learning_rate, move, wearing
from classify.predictions import predictions_table
from classify.report import confusion_png, curves_png, run_page, write_table
from classify.run_folder import BETWEEN, EVENTS, Epoch, Progressed, open_run
from classify.scores import confusion_matrix, confusion_table, scores, summary
from classify.trunk import train_mode
from classify.views import as_input
from curate.errors import CurateError
from curate.files import replacing
from curate.manifest import class_weights
from curate.memory import freed_is_kept

EVAL_BATCH = 32
SMALL = 1_000_000  # weights of a head for which threads wait for each other longer than they compute

OnStep = Callable[[int, int, int], None]  # epoch (from 1), batches done, batches of the epoch


def train(
    manifest: pd.DataFrame,
    root: Path,
    config: TrainConfig,
    run_dir: Path,
    *,
    cache: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    on_step: OnStep | None = None,
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
        on_step: called after every batch.
        on_epoch: called after every epoch.

    Returns:
        What metrics.json holds.

    Raises:
        CurateError: the manifest cannot be trained on, a run of that name is finished or different, the weights do
            not fit. Diverged: the loss is no longer finite.
    """
    started = time.monotonic()
    config = config.on_this_machine()
    used, classes = check_rows(manifest)
    cache = cache or root / "cache"
    with _settings(config), torch.random.fork_rng(devices=[]), group.membership():
        first = group.rank() == 0
        keys = content_keys(used, root)
        resume = group.agreed(open_run(run_dir, config, used, keys, overwrite) if first else False)
        data = load_data(used, classes, root, config, cache, progress)
        run = Progressed.resumed(run_dir, config, len(classes)) if resume else Progressed.new(config, len(classes))
        feed = feed_of(run.model, config, data, cache, progress)
        if feed.light and sum(p.numel() for p in feed.module.parameters()) <= SMALL:
            torch.set_num_threads(1)
            run.due = time.monotonic() + BETWEEN
        steps = _Steps(run, feed, config, data, on_step)
        with _events(run_dir, len(run.history)) if first else nullcontext() as events:
            while not run.finished(config):
                run.add(steps.epoch())
                if first:
                    run.write(run_dir, config, classes)
                    _log(events, run.history[-1])
                if on_epoch and first:
                    on_epoch(run.history[-1])
        logits = _best_logits(run, feed, config, data)
        return _finish(run_dir, config, data, run, logits, used, time.monotonic() - started) if first else {}


class Diverged(CurateError):
    """The loss is no longer finite."""


class _Steps:
    """The epochs of a run."""

    def __init__(self, run: Progressed, feed: Feed, config: TrainConfig, data: Data, on_step: OnStep | None) -> None:
        self.run, self.feed, self.config, self.data, self.on_step = run, feed, config, data, on_step
        counts = pd.Series(np.bincount(data.labels[data.train], minlength=len(data.classes)))
        self.weight = torch.tensor(class_weights(counts).to_numpy(), dtype=torch.float32, device=pick_device())
        train_mode(run.model)
        module = group.joined(feed.module)
        self.module = torch.compile(module) if config.compile else module

    def epoch(self) -> Epoch:
        """Train through all batches, then look at the validation images."""
        started = time.monotonic()
        number = len(self.run.history)
        rate = learning_rate(self.config, number)
        for part in self.run.optimizer.param_groups:
            part["lr"] = rate
        loss, accuracy = self._train(number)
        with wearing(self.run.model, self.run.average):
            group.alike(self.run.model)
            logits = _logits(self.feed, self.config, self.data.val)
        train_mode(self.feed.module)
        label = torch.from_numpy(self.data.labels[self.data.val])
        val_loss = float(functional.cross_entropy(logits, label, weight=self.weight.cpu()))
        found = scores(confusion_matrix(label.numpy(), logits.argmax(1).numpy(), len(self.data.classes)))
        return Epoch(
            epoch=number + 1,
            learning_rate=rate,
            train_loss=loss,
            train_accuracy=accuracy,
            val_loss=val_loss,
            val_accuracy=float(found.accuracy),
            val_macro_f1=float(found.macro_f1),
            seconds=round(time.monotonic() - started, 3),
        )

    def _train(self, number: int) -> tuple[float, float]:
        """Loss and accuracy of the training images, each as it was when its batch came."""
        rng = np.random.default_rng((self.config.seed, number))
        _seed(int(rng.integers(2**62)) + group.rank())
        least = 2 * group.size()  # batch norm cannot take a single image
        parts = batches(rng.permutation(self.data.train), self.config.batch_size, least=least)
        sums = torch.zeros(3, dtype=torch.float64)
        mine = [group.share(part) for part in parts]
        fed = self.feed.batches(lambda part: self.feed.augmented(part, number), mine)
        for step, (part, array) in enumerate(fed, 1):
            sums += self._step(part, array, number, step)
            if self.on_step and group.rank() == 0:
                self.on_step(number + 1, step, len(parts))
        loss, weight, hits = group.total(sums).tolist()
        return loss / weight, hits / len(self.data.train)

    def _step(self, rows: np.ndarray, array: np.ndarray, number: int, step: int) -> Tensor:
        """One batch: the weighted sum of its losses, its weight, its hits."""
        label = torch.from_numpy(self.data.labels[rows]).to(self.weight.device)
        with _precision(self.config, self.feed):
            logits = self.module(_input(array, self.feed)).float()
        smoothing = self.config.label_smoothing
        loss = functional.cross_entropy(logits, label, weight=self.weight, label_smoothing=smoothing, reduction="sum")
        share = self.weight[label].sum()
        whole = group.total(share.clone())
        if not torch.isfinite(loss):
            raise Diverged(self._diverged(loss.item(), rows, array, number, step))
        self.run.optimizer.zero_grad()
        (loss * group.size() / whole).backward()  # gradients are averaged over the group
        self.run.optimizer.step()
        if self.run.average:
            move(self.run.average, self.run.model, self.config.ema)
        return torch.stack([loss.detach(), share, (logits.argmax(1) == label).sum()]).double().cpu()

    def _diverged(self, loss: float, rows: np.ndarray, array: np.ndarray, number: int, step: int) -> str:
        keys = ", ".join(self.data.pixels.keys[row][:16] for row in rows[:4])
        return (
            f"epoch {number + 1}, batch {step}: the loss is {loss} (images {keys}{', ...' if len(rows) > 4 else ''}), "
            f"training has diverged and is stopped. Lower the learning rate (--lr, now {self.config.learning_rate}), "
            "under another --name."
        )


def _best_logits(run: Progressed, feed: Feed, config: TrainConfig, data: Data) -> Tensor:
    """Of the validation images by the best epoch's model, in float32: what `classify evaluate` will find."""
    with wearing(run.model, run.kept):
        group.alike(run.model)
        return _logits(feed, dataclasses.replace(config, precision="float32"), data.val)


@torch.inference_mode()
def _logits(feed: Feed, config: TrainConfig, rows: np.ndarray) -> Tensor:
    """(len(rows), classes) on the CPU, by layers that are in evaluation mode from then on."""
    feed.module.eval()
    parts = batches(group.share(rows), EVAL_BATCH)
    with _precision(config, feed):
        found = [feed.module(_input(array, feed)).float().cpu() for _, array in feed.batches(feed.plain, parts)]
    return group.gathered(torch.cat(found), len(rows))


def _seed(number: int) -> None:
    """Of dropout and stochastic depth: `torch.manual_seed` without its note of who called, a millisecond an epoch."""
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(number)


def _input(array: np.ndarray, feed: Feed) -> Tensor:
    tensor = as_input(array)
    return tensor.float() if feed.light else tensor


def _precision(config: TrainConfig, feed: Feed) -> Any:
    if config.precision != "bfloat16" or feed.light:
        return nullcontext()
    return torch.autocast(pick_device().type, dtype=torch.bfloat16)


@contextmanager
def _settings(config: TrainConfig) -> Iterator[None]:
    """The threads and the determinism that were asked for, and those of before again; freed memory is kept."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(config.deterministic or strict)
    try:
        with freed_is_kept():
            yield
    finally:
        torch.use_deterministic_algorithms(strict)
        torch.set_num_threads(threads)


@contextmanager
def _events(run_dir: Path, done: int) -> Iterator[SummaryWriter]:
    """The log for TensorBoard; what a killed run logged beyond its last kept epoch is taken back."""
    with SummaryWriter(str(run_dir / EVENTS), purge_step=done + 1) as events:
        yield events


def _log(events: SummaryWriter | None, epoch: Epoch) -> None:
    assert events is not None
    for name, value in epoch._asdict().items():
        if name != "epoch":
            part, _, figure = name.partition("_")
            events.add_scalar(f"{figure}/{part}" if part in ("train", "val") else name, value, epoch.epoch)


def _finish(
    run_dir: Path,
    config: TrainConfig,
    data: Data,
    run: Progressed,
    logits: Tensor,
    used: pd.DataFrame,
    seconds: float,
) -> dict[str, Any]:
    """Write the best epoch's figures on val: tables, pictures, report and, last of all, metrics.json."""
    matrix = confusion_matrix(data.labels[data.val], logits.argmax(1).numpy(), len(data.classes))
    done = len(run.history)
    metrics = {
        "best_epoch": run.best + 1,
        "epochs_run": done,
        "stopped": "all epochs done" if done >= config.epochs else f"no better for {config.patience} epochs",
        "val": {**summary(matrix, data.classes), "loss": run.history[run.best].val_loss},
        "parameters": sum(p.numel() for p in run.model.parameters() if p.requires_grad),
        "counts": split_counts(used),
        "unreadable": data.unreadable,
        "seconds": round(seconds, 2),
    }
    rows = used.iloc[data.val]
    write_table(predictions_table(rows, logits.softmax(1).numpy(), data.classes), run_dir / "predictions-val.csv")
    curves_png(pd.DataFrame(run.history), run_dir / "curves.png")
    confusion_png(matrix, data.classes, run_dir / "confusion.png")
    write_table(confusion_table(matrix, data.classes), run_dir / "confusion.csv")
    run_page(run_dir.name, metrics, dataclasses.asdict(config), run_dir)
    with replacing(run_dir / "metrics.json") as temporary:
        temporary.write_text(json.dumps(metrics, indent=2))
    return metrics
