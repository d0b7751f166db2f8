"""Transfer learning as PyTorch's tutorial writes it: ImageFolder, PIL transforms, DataLoader workers, float32.

The recipe (augmentation, class weights, SGD, step schedule, epochs) is the study's, as ours is; the loop is the
tutorial's ("Transfer Learning for Computer Vision", pytorch.org): a phase of training and one of validation an epoch,
the frozen layers run in every epoch, the best model saved whole. The network is as torchvision lays it out, and the
process as torch sets it up: `Loop` starts one.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from benchmarks.usage import ROOT
from classify.data import MEAN, STD
from classify.models import build

WORKERS = 2  # the tutorial has 4; torch warns of more than there are processors
NORMALISED = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
TRANSFORMS = {
    "train": transforms.Compose(
        [
            transforms.Resize((224, 224)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomVerticalFlip(),
            transforms.RandomRotation(45),
            *NORMALISED,
        ]
    ),
    "val": transforms.Compose([transforms.Resize((224, 224)), *NORMALISED]),
}


class Pass(NamedTuple):
    """An epoch: its seconds, those until the first step was done, and the macro-F1 on the validation images."""

    seconds: float
    first_step: float
    macro_f1: float


class Loop:
    """The loop in a process of its own, an epoch at a time."""

    def __init__(
        self, arch: str, classes: int, folder: Path, *, freeze: str, weights: str = "none", seed: int = 0
    ) -> None:
        order = {"arch": arch, "classes": classes, "freeze": freeze, "weights": weights, "seed": seed}
        words = [sys.executable, "-m", "benchmarks.tutorial", json.dumps({**order, "folder": str(folder)})]
        plain = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
        self._process = subprocess.Popen(
            words, cwd=ROOT, env=plain, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> "Loop":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def next(self) -> Pass:
        """The next epoch."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Pass(**json.loads(self._process.stdout.readline()))


def main() -> None:
    """An epoch for every line that comes."""
    order: dict[str, Any] = json.loads(sys.argv[1])
    folder, seed = Path(order.pop("folder")), order["seed"]
    model = build(order.pop("arch"), order.pop("classes"), **order).to(memory_format=torch.contiguous_format)
    passes = epochs(model, folder, folder.parent / "best.pt", seed=seed, batch_size=32, lr=0.01)
    for _ in sys.stdin:
        print(json.dumps(next(passes)._asdict()), flush=True)


def epochs(model: nn.Module, folder: Path, best: Path, *, seed: int, batch_size: int, lr: float) -> Iterator[Pass]:
    """Train what of a model has `requires_grad` on folder/train and folder/val, an epoch at a time."""
    torch.manual_seed(seed)
    images = {part: datasets.ImageFolder(str(folder / part), TRANSFORMS[part]) for part in ("train", "val")}
    loaders = {
        part: DataLoader(images[part], batch_size=batch_size, shuffle=part == "train", num_workers=WORKERS)
        for part in images
    }
    counts = np.bincount(images["train"].targets)
    criterion = nn.CrossEntropyLoss(weight=torch.tensor(counts.max() / counts, dtype=torch.float32))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=lr, momentum=0.9, weight_decay=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10, gamma=0.5)
    most = -1.0
    while True:
        start, first = time.perf_counter(), 0.0
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for part, loader in loaders.items():
            model.train(part == "train")
            for inputs, labels in loader:
                optimizer.zero_grad()
                with torch.set_grad_enabled(part == "train"):
                    outputs = model(inputs)
                    predicted = outputs.argmax(1)
                    loss = criterion(outputs, labels)
                    if part == "train":
                        loss.backward()
                        optimizer.step()
                        first = first or time.perf_counter() - start
                if part == "val":
                    found.append((labels.numpy(), predicted.numpy()))
            if part == "train":
                scheduler.step()
        score = f1_score(*map(np.concatenate, zip(*found, strict=True)), average="macro", zero_division=0)
        if score > most:
            most = score
            torch.save(model.state_dict(), best)
        yield Pass(time.perf_counter() - start, first, float(score))


if __name__ == "__main__":
    main()
