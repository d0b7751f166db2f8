"""Training beside a plain loop written as PyTorch's tutorial writes it, interleaved in one run.

    python -m benchmarks.train                     # an hour on two idle cores
    python -m benchmarks.train --only head         # or: last_block, unfrozen, accuracy, resume

Real photos, 511 of them, with the study's split (399 for training, 56 for validation). `head` and `last_block`: ours is
the whole of `classify.train.train`, 50 epochs from an empty cache to the report; of the loop (`benchmarks/tutorial.py`,
in a process of its own) some epochs are timed, in between, and 50 times their median counts. `unfrozen`: whole epochs
of both in turn. `accuracy`: heads on SqueezeNet with ImageNet weights on photos that an expert keeps, by both, the same
split and the same seeds: macro-F1 of the best epoch. `resume`: a run is killed and goes on.

The share of the convolution peak is what the multiplications of a training step (three times those of the forward
pass) take of the rate that this machine reaches with a 3 x 3 convolution of 256 channels.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as `classify` does, before torch is loaded

import argparse
import dataclasses
import gc
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.options import arguments, read_truth
from benchmarks.tutorial import Loop
from benchmarks.usage import run_measured
from classify.cli import GARBAGE
from classify.config import TrainConfig, computes_bfloat16
from classify.models import build
from classify.train import train
from curate.console import print_table
from curate.images import inspect
from curate.manifest import read_manifest, write_manifest
from curate.store import ImageError, store

EPOCHS = 50
PARTS = {"train": 57, "val": 8, "test": 8}  # of 73 images a class
CLASSES = 7
SEEDS = 5
ARCHS = ("resnet18", "densenet121")
SQUEEZENET = "squeezenet1_1_imagenet_tvnorm.pth"  # beside the weights of MobileNetV2
RECIPE = TrainConfig(weights="none", epochs=EPOCHS, patience=EPOCHS)


def main() -> None:
    parser = arguments(__doc__, "fewer epochs and images")
    parser.add_argument("--only", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--repeats", type=int, default=2, help="of what is timed")
    options = parser.parse_args()
    truth = read_truth(options)
    if truth is None:
        return
    gc.set_threshold(*GARBAGE)  # as `classify` does
    figures: dict[str, Any] = {"bfloat16": computes_bfloat16(), "threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as folder:
        photos = Photos(truth, options.photos, Path(folder))
        for stage in options.only:
            figures |= STAGES[stage](photos, options)
            print(json.dumps(figures), flush=True)


class Photos:
    """Data roots with manifests, and the same images in folders by part and class."""

    def __init__(self, truth: pd.DataFrame, source: Path, home: Path) -> None:
        self.truth, self.source, self.home = truth, source, home

    def study(self) -> Path:
        """511 photos under seven labels, dealt in turn: what they show does not matter for the time."""
        parts = [part for part, number in PARTS.items() for _ in range(number)]
        rows = [(f"class{i % CLASSES}", parts[i // CLASSES]) for i in range(CLASSES * len(parts))]
        return self._laid_out("study", self.truth["file_name"].tolist(), rows)

    def keepers(self, seed: int, *, train: int = 28, val: int = 12) -> Path:
        """Of each class so many photos that an expert keeps, drawn by the seed."""
        kept = self.truth[self.truth["verdict"] == "keep"]
        drawn = kept.groupby("label").sample(train + val, random_state=seed)
        part = np.where(drawn.groupby("label").cumcount() < train, "train", "val")
        return self._laid_out(
            f"keepers{seed}", drawn["file_name"].tolist(), list(zip(drawn["label"], part, strict=True))
        )

    def _laid_out(self, name: str, files: list[str], wanted: list[tuple[str, str]]) -> Path:
        root, rows, stock = self.home / name, [], iter(files)
        for label, part in wanted:
            for file_name in stock:
                data = (self.source / file_name).read_bytes()
                try:
                    picture = inspect(data)
                except ImageError:
                    continue
                break
            stored = store(root, data, picture)
            place = root / "folders" / part / label / f"{len(rows)}{Path(stored).suffix}"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / stored, place)
            rows.append((picture.sha256[:16], picture.sha256, stored, label, "accepted", part))
        columns = ["image_id", "sha256", "file_name", "label", "status", "split"]
        write_manifest(pd.DataFrame(rows, columns=columns).drop_duplicates("image_id"), root / "m.csv")
        return root


def head(photos: Photos, options: argparse.Namespace) -> dict[str, Any]:
    """Only the last layer trains."""
    return _frozen("head", photos.study(), options)


def last_block(photos: Photos, options: argparse.Namespace) -> dict[str, Any]:
    """The last convolutional block trains too."""
    return _frozen("last_block", photos.study(), options)


def _frozen(freeze: str, root: Path, options: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for arch in ARCHS:
        config = dataclasses.replace(RECIPE, arch=arch, freeze=freeze, epochs=4 if options.quick else EPOCHS)
        cold, warm, plain = [], [], []
        with Loop(arch, CLASSES, root / "folders", freeze=freeze) as theirs:
            for _ in range(options.repeats):
                plain.append(theirs.next())
                shutil.rmtree(root / "cache", ignore_errors=True)
                cold.append(_ours(root, config))
                warm.append(_ours(root, config))
            plain.append(theirs.next())
        epoch = float(np.median([one.seconds for one in plain]))
        seconds = [float(np.median([one["seconds"] for one in many])) for many in (cold, warm)]
        print_table(
            (f"{arch}, {freeze}", "seconds of 50 epochs", "until the first step"),
            [
                ("ours, nothing cached", f"{seconds[0]:.1f}", f"{cold[0]['first_step']:.1f}"),
                ("ours, cached", f"{seconds[1]:.2f}", f"{warm[0]['first_step']:.2f}"),
                ("the tutorial's loop", f"{config.epochs * epoch:.0f}", f"{plain[0].first_step:.1f}"),
            ],
        )
        figures |= {
            f"{freeze}_speedup_{arch}": round(config.epochs * epoch / seconds[0], 1),
            f"{freeze}_seconds_{arch}": round(seconds[0], 1),
            f"{freeze}_warm_seconds_{arch}": round(seconds[1], 2),
            f"{freeze}_first_step_s_{arch}": round(cold[0]["first_step"], 1),
        }
    if freeze == "head":
        figures |= {"head_speedup": figures[f"head_speedup_{ARCHS[0]}"], "peak_mb": _peak(root)}
    return figures


def _ours(root: Path, config: TrainConfig, cache: str = "cache") -> dict[str, float]:
    """Seconds of a whole training run, and until its first step was done."""
    run, start, first = root / "run", time.perf_counter(), []
    shutil.rmtree(run, ignore_errors=True)

    def on_step(*_: int) -> None:
        first or first.append(time.perf_counter() - start)

    train(read_manifest(root / "m.csv"), root, config, run, cache=root / cache, on_step=on_step)
    return {"seconds": time.perf_counter() - start, "first_step": first[0]}


def _peak(root: Path) -> int:
    """MB of a process that trains a head from an empty cache."""
    shutil.rmtree(root / "cache", ignore_errors=True)
    shutil.rmtree(root / "runs", ignore_errors=True)
    words = _words(root, "--arch", "resnet18", "--freeze", "head", "--weights", "none")
    return round(run_measured(words, root / "log").peak_mb)


def _words(root: Path, *more: str) -> list[str]:
    where = ["-m", str(root / "m.csv"), "--data", str(root), "--runs", str(root / "runs")]
    return [sys.executable, "-m", "classify.cli", "train", *where, *more]


def unfrozen(photos: Photos, options: argparse.Namespace) -> dict[str, Any]:
    """Everything trains: epochs of both in turn, ours in float32 and, where the processor computes it, in bfloat16."""
    root, figures = photos.study(), {"peak_gflops": {}}
    precisions = ["float32", "bfloat16"] if computes_bfloat16() else ["float32"]
    peaks = {name: _peak_gflops(getattr(torch, name)) for name in precisions}
    for arch in ARCHS:
        flops = _flops(build(arch, CLASSES, weights="none"))
        seconds: dict[str, list[float]] = {"plain": [], **{name: [] for name in precisions}}
        ours = {name: _Epochs(root, dataclasses.replace(RECIPE, arch=arch, precision=name)) for name in precisions}
        with Loop(arch, CLASSES, root / "folders", freeze="none") as theirs:
            for _ in range(options.repeats):
                seconds["plain"].append(theirs.next().seconds)
                for name, run in ours.items():
                    seconds[name].append(run.next())
        middle = {name: float(np.median(many)) for name, many in seconds.items()}
        trained = CLASSES * PARTS["train"]
        for name in precisions:
            figures |= {
                f"unfrozen_speedup_{arch}_{name}": round(middle["plain"] / middle[name], 2),
                f"images_per_s_{arch}_{name}": round(trained / middle[name], 1),
                f"share_of_peak_{arch}_{name}": round(3 * flops * trained / middle[name] / peaks[name] / 1e9, 2),
            }
        figures[f"unfrozen_speedup_{arch}"] = figures[f"unfrozen_speedup_{arch}_{precisions[-1]}"]
    return figures | {"peak_gflops": {name: round(peak) for name, peak in peaks.items()}}


class _Stop(Exception):
    pass


class _Epochs:
    """A run of ours, an epoch at a time: it is stopped after each, and goes on."""

    def __init__(self, root: Path, config: TrainConfig) -> None:
        self.root, self.config = root, config
        self.run = root / f"unfrozen-{config.arch}-{config.precision}"

    def next(self) -> float:
        """Seconds of the next epoch."""
        found: list[float] = []

        def stop(epoch: Any) -> None:
            found.append(epoch.seconds)
            raise _Stop

        table = read_manifest(self.root / "m.csv")
        try:
            train(table, self.root, self.config, self.run, cache=self.root / "cache", on_epoch=stop)
        except _Stop:
            return found[0]
        raise AssertionError("the run is at its end")


def _flops(model: torch.nn.Module) -> int:
    """Multiplications and additions of the forward pass of one image."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.eval()(torch.zeros(1, 3, 224, 224))
    return counter.get_total_flops()


def _peak_gflops(dtype: torch.dtype) -> float:
    """GFLOP/s of a 3 x 3 convolution, channels last, the best of five."""
    convolution = torch.nn.Conv2d(256, 256, 3, padding=1, bias=False).to(dtype).to(memory_format=torch.channels_last)
    x = torch.randn(32, 256, 28, 28, dtype=dtype).to(memory_format=torch.channels_last)
    rates = []
    with torch.inference_mode():
        for _ in range(6):
            start = time.perf_counter()
            convolution(x)
            rates.append(2 * 32 * 256 * 256 * 9 * 28 * 28 / (time.perf_counter() - start) / 1e9)
    return max(rates)


def accuracy(photos: Photos, options: argparse.Namespace) -> dict[str, Any]:
    """Macro-F1 of the best epoch by ours minus that by the loop, over the seeds."""
    rows = []
    for seed in range(2 if options.quick else SEEDS):
        root = photos.keepers(seed)
        weights = str(Path(options.weights).with_name(SQUEEZENET))
        number = 3 if options.quick else EPOCHS
        with Loop("squeezenet1_1", 4, root / "folders", freeze="head", weights=weights, seed=seed) as theirs:
            plain = max(theirs.next().macro_f1 for _ in range(number))
        config = dataclasses.replace(
            RECIPE, arch="squeezenet1_1", freeze="head", weights=weights, seed=seed, epochs=number
        )
        run = root / "run"
        found = train(read_manifest(root / "m.csv"), root, config, run, cache=root / "cache")
        history = pd.read_csv(run / "history.csv")
        rows.append((history["val_macro_f1"].max(), plain, found["seconds"]))
        print(f"seed {seed}: ours {rows[-1][0]:.3f}, the loop {plain:.3f}", flush=True)
    ours, plain = np.array(rows)[:, 0], np.array(rows)[:, 1]
    gap = ours - plain
    error = float(gap.std(ddof=1) / np.sqrt(len(gap))) if len(gap) > 1 else float("nan")
    return {
        "head_accuracy_difference": round(float(gap.mean()), 4),
        "head_accuracy_difference_standard_error": round(error, 4),
        "head_macro_f1": round(float(ours.mean()), 3),
        "head_macro_f1_of_the_loop": round(float(plain.mean()), 3),
    }


def resume(photos: Photos, options: argparse.Namespace) -> dict[str, Any]:
    """Whether a run that was killed with SIGKILL ends with the weights of one that was not, to the bit."""
    root = photos.keepers(0)
    more = ["--arch", "mobilenet_v2", "--weights", options.weights, "--freeze", "last_block", "--epochs", "6"]
    digests = {}
    for name in ("whole", "killed"):
        words = [*_words(root, *more), "--name", name]
        if name == "killed":
            process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while not (root / "runs" / name / "history.csv").exists() and process.poll() is None:
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            process.wait()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        digests[name] = (root / "runs" / name / "model.safetensors").read_bytes()
    return {"resumed_weights_are_identical": digests["whole"] == digests["killed"]}


STAGES: dict[str, Callable[[Photos, argparse.Namespace], dict[str, Any]]] = {
    "head": head,
    "last_block": last_block,
    "unfrozen": unfrozen,
    "accuracy": accuracy,
    "resume": resume,
}

if __name__ == "__main__":
    main()
