"""How to train: the study's recipe as defaults, and what may be chosen instead."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch

from classify.augment import Augmentation
from classify.data import pick_device
from classify.trunk import FREEZE, Freeze
from curate.errors import CurateError

OPTIMIZERS = ("sgd", "adagrad", "rmsprop", "adam", "adamw")
SCHEDULES = ("step", "cosine")
PRECISIONS = ("auto", "float32", "bfloat16")
FREE_TO_CHANGE = ("threads", "processes")  # in the middle of a run: they change the last digits only

Optimizer = Literal["sgd", "adagrad", "rmsprop", "adam", "adamw"]
Schedule = Literal["step", "cosine"]
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults are the study's recipe, and where the study gives a range, the value stated here.

    Attributes:
        arch: a torchvision classifier, "small_cnn", or "timm/<name>".
        freeze: "head", "last_block" or "none"; see `classify.models.build`.
        weights: "DEFAULT", "none", a path or a URL; see `classify.models.build`.
        image_size: pixels; images are stretched to squares.
        crop: train on the specimen's part of every image (see `classify.data.specimen`), not on the whole.
        optimizer: "sgd" (with `momentum`), "adagrad", "rmsprop", "adam" or "adamw", else as torch has them.
        learning_rate: of the first epochs; the study does not give its own.
        schedule: "step": multiplied by `lr_factor` every `lr_step` epochs. "cosine": falls to zero over all epochs
            (Loshchilov and Hutter, "SGDR", ICLR 2017, eq. 5, without restarts).
        dropout: before the last layer; the study tried 0.2, 0.5, 0.8.
        weight_decay: the study tried 1e-4, 1e-3, 1e-2.
        label_smoothing: share of the label that is spread over all classes (Szegedy et al., CVPR 2016, section 7).
        ema: decay a step of the weights' moving average, which then is what is validated and kept; 0 for none.
        batch_size: the study tried 4, 8, 16, 32, 128.
        patience: epochs without a better validation macro-F1 after which training stops; the study does not give it.
        views: augmented views of an image that are kept of what is frozen; see `classify.features.Views`.
        grayscale, colour_jitter, smallest_crop: see `classify.augment.Augmentation`. Where every image is grey
            (grayscale 1), the validation images are grey too, and the model sees no colour ever after.
        precision: "float32", "bfloat16" (weights stay float32), or "auto": bfloat16 where the processor computes it.
        compile: let torch.compile make one program of the model. On two cores it never paid (README).
        deterministic: refuse operations whose result depends on chance on a GPU; on a CPU none does.
        seed: of the new layers, the order, the augmentation and the dropout.
        threads: of the processor; None leaves it to torch. Another number may change the last digits.
        processes: that share each batch; see `classify.group`. Each has its own statistics of batch norm on a CPU.
    """

    arch: str = "densenet121"
    freeze: Freeze = "none"
    weights: str = "DEFAULT"
    image_size: int = 224
    crop: bool = False
    epochs: int = 50
    batch_size: int = 32
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.9
    schedule: Schedule = "step"
    lr_step: int = 10
    lr_factor: float = 0.5
    weight_decay: float = 1e-3
    dropout: float = 0.5
    label_smoothing: float = 0.0
    ema: float = 0.0
    patience: int = 15
    views: int = 8
    grayscale: float = 0.0
    colour_jitter: float = 0.0
    smallest_crop: float = 1.0
    precision: Precision = "auto"
    compile: bool = False
    deterministic: bool = False
    seed: int = 0
    threads: int | None = None
    processes: int = 1

    def __post_init__(self) -> None:
        for name in ("image_size", "epochs", "batch_size", "lr_step", "patience", "views", "processes"):
            if getattr(self, name) < 1:
                raise CurateError(f"{name}={getattr(self, name)}: must be at least 1.")
        for name in ("dropout", "momentum", "label_smoothing", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise CurateError(f"{name}={getattr(self, name)}: must be at least 0 and below 1.")
        if not (self.learning_rate > 0 and self.weight_decay >= 0 and self.seed >= 0):
            found = f"learning_rate={self.learning_rate}, weight_decay={self.weight_decay}, seed={self.seed}"
            raise CurateError(f"{found}: must be above 0, at least 0, at least 0.")
        allowed = {"freeze": FREEZE, "optimizer": OPTIMIZERS, "schedule": SCHEDULES, "precision": PRECISIONS}
        for name, known in allowed.items():
            if getattr(self, name) not in known:
                raise CurateError(f"{name}={getattr(self, name)!r} is unknown; known: {', '.join(known)}.")
        Augmentation(self.grayscale, self.colour_jitter, self.smallest_crop)  # checks them

    @property
    def augmentation(self) -> Augmentation:
        """What happens to the training images."""
        return Augmentation(self.grayscale, self.colour_jitter, self.smallest_crop)

    def on_this_machine(self) -> "TrainConfig":
        """With the precision that "auto" means here."""
        if self.precision != "auto":
            return self
        return dataclasses.replace(self, precision="bfloat16" if computes_bfloat16() else "float32")


def computes_bfloat16() -> bool:
    """Whether the device computes bfloat16 itself: some older ones take it, and are slower with it."""
    if pick_device().type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
